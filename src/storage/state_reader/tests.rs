use super::*;
use crate::storage::state_file::StateFileWriter;
use crate::storage::test_support::{SlowReads, memory};
use std::sync::Arc;
use std::time::Duration;

/// Two files with segments of these lengths, one after the other.
async fn written(disk: &SharedDisk, lengths: &[usize]) -> Vec<Segment> {
    disk.create_dir(Path::new("/job")).await.unwrap();
    let mut segments = Vec::new();
    for name in ["a", "b"] {
        let mut file = StateFileWriter::new(Arc::clone(disk), "/job".into(), name.into(), None);
        for (number, len) in lengths.iter().enumerate() {
            segments.push(file.write_segment(&vec![u8::try_from(number).unwrap(); *len]).await.unwrap());
        }
        file.finish().await.unwrap();
    }
    segments
}

async fn read(disk: &SharedDisk, at_once: u32, segments: &[&Segment]) -> Result<Vec<Vec<u8>>, Error> {
    let transfers = Transfers::new(at_once);
    let reader = StateReader { disk, folder: Path::new("/job"), transfers: &transfers };
    reader.read_all(&|_| None, segments).await
}

#[tokio::test(start_paused = true)]
async fn what_lies_side_by_side_is_read_in_one_go_and_no_more_at_once_than_allowed() {
    let kib = 1 << 10;
    for (lengths, reads) in [
        (vec![1, 2, 3, 0, 5], 2),
        (vec![400 * kib; 5], 6),
        (vec![2000 * kib; 3], 6),
        (vec![0, 2000 * kib], 4),
    ] {
        let slow = SlowReads::new(memory());
        let disk: SharedDisk = Arc::new(slow.clone());
        let segments = written(&disk, &lengths).await;
        let segments: Vec<&Segment> = segments.iter().collect();
        for at_once in [1, 2, 4, 100] {
            slow.reset();
            let bytes = read(&disk, at_once, &segments).await.unwrap();
            for (number, (bytes, len)) in bytes.iter().zip(lengths.iter().cycle()).enumerate() {
                assert_eq!(
                    (bytes.len(), bytes.iter().all(|b| usize::from(*b) == number % lengths.len())),
                    (*len, true)
                );
            }
            assert_eq!(bytes.len(), 2 * lengths.len());
            assert_eq!(slow.reads(), (reads, reads.min(at_once as usize)), "{lengths:?}, {at_once} at once");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_errors_it_is_the_first_in_order_however_long_each_takes() {
    let slow = SlowReads::new(memory());
    let disk: SharedDisk = Arc::new(slow.clone());
    let mut segments = written(&disk, &[2 << 20, 2 << 20]).await;
    segments[1].crc32c ^= 1;
    segments[3].file = "gone".into();
    for (delays, order) in
        [([9, 9, 9, 1], [0, 1, 2, 3]), ([1, 1, 1, 9], [0, 3, 2, 1]), ([9, 9, 1, 1], [2, 3, 0, 1])]
    {
        let segments: Vec<&Segment> = order.iter().map(|i| &segments[*i]).collect();
        slow.reset();
        slow.take(delays.map(Duration::from_secs));
        let error = read(&disk, 4, &segments).await.unwrap_err().to_string();
        let alone = read(&disk, 1, &segments).await.unwrap_err().to_string();
        assert_eq!(error, alone);
        let first = *order.iter().find(|i| [1, 3].contains(*i)).unwrap();
        assert_eq!(error.contains("they are damaged"), first == 1, "{error}");
        assert_eq!(error.contains("it is missing"), first == 3, "{error}");
    }
}

/// Read in one go, a segment fails with the error that it has when it is read by itself.
#[tokio::test]
async fn an_error_names_the_segment_and_not_those_that_are_read_with_it() {
    let disk = memory();
    let segments = written(&disk, &[10, 20, 30]).await;
    let whole = disk.read(Path::new("/job/a")).await.unwrap();
    for at in 16..whole.len() {
        for is_cut in [false, true] {
            let mut content = whole.clone();
            if is_cut {
                content.truncate(at);
            } else {
                content[at] ^= 1;
            }
            disk.remove(Path::new("/job/a")).await.unwrap();
            disk.publish(Path::new("/job/a"), content).await.unwrap();
            let together: Vec<&Segment> = segments[..3].iter().collect();
            let together = read(&disk, 4, &together).await.unwrap_err();
            let hit = match at {
                16..26 => 0,
                26..46 => 1,
                _ => 2,
            };
            let alone = read(&disk, 4, &[&segments[hit]]).await.unwrap_err();
            assert_eq!((together.kind(), together.to_string()), (alone.kind(), alone.to_string()));
            assert_eq!(alone.kind(), ErrorKind::Corrupt);
        }
    }
}
