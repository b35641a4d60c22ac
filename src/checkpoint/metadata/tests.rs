use super::*;
use proptest::prelude::*;

fn schema(kind: &str) -> StateSchema {
    StateSchema { kind: kind.into(), key: "u64".into(), value: "u64".into() }
}

fn segment(offset: u64) -> Segment {
    Segment { file: "chk-4-g1/state-a0-1.0".into(), offset, len: 10, crc32c: 0xdead_beef }
}

fn manifest(max_parallelism: MaxParallelism) -> Manifest {
    Manifest {
        job: "j".into(),
        checkpoint: CheckpointId(4),
        generation: Generation(1),
        attempt: Attempt(0),
        triggered: Timestamp(1_700_000_000_000),
        max_parallelism,
        hash_version: 1,
        finished: false,
        operators: vec![OperatorState {
            operator: "op".into(),
            watermark: Some(Timestamp(-5)),
            subtasks: vec![SubtaskState {
                subtask: SubtaskIndex(0),
                finished: false,
                keyed: vec![KeyedState {
                    name: "sum".into(),
                    schema: schema("value"),
                    groups: vec![GroupSegment { group: KeyGroup(3), entries: 2, at: segment(16) }],
                }],
                lists: vec![
                    ListState {
                        name: "splits".into(),
                        schema: schema("source-splits"),
                        distribution: Distribution::Split,
                        elements: 1,
                        at: Some(segment(26)),
                    },
                    ListState {
                        name: "none".into(),
                        schema: schema("split-list"),
                        distribution: Distribution::Split,
                        elements: 0,
                        at: None,
                    },
                ],
                increments: Vec::new(),
            }],
        }],
        in_flight: Vec::new(),
        inline: Vec::new(),
    }
}

/// The same, with records in flight.
fn in_flight() -> Manifest {
    let channel = |from, to, offset| ChannelState {
        from: SubtaskIndex(from),
        to: SubtaskIndex(to),
        records: 3,
        at: segment(offset),
    };
    let edge = EdgeState {
        edge: "the stream after `op`".into(),
        schema: schema("records by key"),
        parallelism: 2,
        channels: vec![channel(0, 0, 36), channel(0, 1, 46)],
    };
    Manifest { in_flight: vec![edge], ..sample() }
}

fn sample() -> Manifest {
    manifest(MaxParallelism::new(128).unwrap())
}

#[test]
fn a_manifest_comes_back_as_it_was() {
    let bytes = sample().encode().unwrap();
    assert_eq!(Manifest::decode(&bytes), Ok(sample()));
    let both = Manifest { in_flight: in_flight().in_flight, ..incremental() };
    let small = Manifest { inline: incremental().inline, ..sample() };
    for manifest in [in_flight(), incremental(), both, small] {
        let bytes = manifest.encode().unwrap();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest));
    }
}

#[test]
fn increments_of_a_subtask_that_is_not_there_are_refused() {
    let increments = incremental().operators[0].subtasks[0].increments.clone();
    for place in [(1_u32, 0_u32), (0, 1)] {
        let all = vec![(place.0, place.1, &increments)];
        let in_flight: Vec<EdgeState> = Vec::new();
        let bytes = envelope::encode(Manifest::FORMAT, &(sample(), in_flight, all, Vec::<InlineFile>::new()))
            .unwrap();
        let error = Manifest::decode(&bytes).unwrap_err();
        assert!(error.to_string().contains("there is no subtask"), "{error}");
    }
}

/// So that a program that knows no other version can go on from what an aligned checkpoint wrote.
#[test]
fn a_new_version_is_written_only_where_it_is_needed() {
    assert_eq!(incremental().encode().unwrap()[12..16], 3_u32.to_le_bytes());
    assert_eq!(sample().encode().unwrap()[12..16], 1_u32.to_le_bytes());
    assert_eq!(in_flight().encode().unwrap()[12..16], 2_u32.to_le_bytes());
}

#[test]
fn a_part_of_a_file_that_is_kept_inline_is_checked() {
    let manifest = incremental();
    let content = manifest.inline_file("chk-4-g1/state-a0-1.0").unwrap();
    assert_eq!(manifest.inline_file("chk-2-g1/state-a0-1.0"), None);
    let part = |offset, len, of: &[u8]| Segment { len, crc32c: crc32c::crc32c(of), ..segment(offset) };
    assert_eq!(part(16, 3, &[16, 17, 18]).within(content), Some(&[16, 17, 18][..]));
    assert_eq!(part(16, 3, &[16, 17, 19]).within(content), None);
    assert_eq!(part(198, 3, &[198, 199]).within(content), None);
    assert_eq!(part(u64::MAX, 3, &[]).within(content), None);
}

#[test]
fn its_segments_are_those_of_all_states() {
    let offsets: Vec<u64> = sample().segments().map(|segment| segment.offset).collect();
    assert_eq!(offsets, [16, 26]);
    let offsets: Vec<u64> = in_flight().segments().map(|segment| segment.offset).collect();
    assert_eq!(offsets, [16, 26, 36, 46]);
    let offsets: Vec<u64> = incremental().segments().map(|segment| segment.offset).collect();
    assert_eq!(offsets, [16, 100, 100, 26]);
}

/// The same, with a state in increments.
fn incremental() -> Manifest {
    let file = |checkpoint: u64| IncrementFile {
        checkpoint: CheckpointId(checkpoint),
        bytes: 90,
        index: Segment { file: format!("chk-{checkpoint}-g1/state-a0-1.0"), ..segment(100) },
    };
    let run = |first, last, base| GroupRun {
        first: KeyGroup(first),
        last: KeyGroup(last),
        base: CheckpointId(base),
    };
    let state = KeyedIncrements {
        name: "counts".into(),
        schema: schema("value"),
        entries: 7,
        files: vec![file(2), file(4)],
        groups: vec![run(0, 3, 2), run(4, 5, 4), run(9, 9, 2)],
    };
    let mut manifest = sample();
    manifest.operators[0].subtasks[0].increments = vec![state];
    manifest.inline = vec![InlineFile { file: segment(0).file, content: (0..200).collect() }];
    manifest
}

/// The manifest of [`in_flight`], kept for ever: every later version must read it.
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/format-v2/manifest");

#[test]
#[ignore = "writes the fixture: only while version 2 is not yet released"]
fn generate_in_flight() {
    std::fs::write(FIXTURE, in_flight().encode().unwrap()).unwrap();
}

#[test]
fn a_manifest_of_version_2_with_records_in_flight_is_read_and_written_to_the_byte() {
    let bytes = std::fs::read(FIXTURE).unwrap();
    assert_eq!(Manifest::decode(&bytes), Ok(in_flight()));
    assert_eq!(in_flight().encode().unwrap(), bytes);
}

/// The manifest of [`incremental`], kept for ever: every later version must read it.
const FIXTURE_3: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/format-v3/manifest");

#[test]
#[ignore = "writes the fixture: only while version 3 is not yet released"]
#[allow(clippy::disallowed_methods)]
fn generate_incremental() {
    std::fs::create_dir_all(std::path::Path::new(FIXTURE_3).parent().unwrap()).unwrap();
    std::fs::write(FIXTURE_3, incremental().encode().unwrap()).unwrap();
}

#[test]
#[allow(clippy::disallowed_methods)]
fn a_manifest_of_version_3_is_read_and_written_to_the_byte() {
    let bytes = std::fs::read(FIXTURE_3).unwrap();
    assert_eq!(Manifest::decode(&bytes), Ok(incremental()));
    assert_eq!(incremental().encode().unwrap(), bytes);
}

/// As [`incremental`], of compressed files.
fn compressed() -> Manifest {
    let mut manifest = incremental();
    for operator in &mut manifest.operators {
        for subtask in &mut operator.subtasks {
            let keyed =
                subtask.keyed.iter_mut().flat_map(|state| &mut state.groups).map(|group| &mut group.at);
            let files = subtask.increments.iter_mut().flat_map(|state| &mut state.files);
            let lists = subtask.lists.iter_mut().filter_map(|list| list.at.as_mut());
            keyed
                .chain(files.map(|file| &mut file.index))
                .chain(lists)
                .for_each(|at| at.file.push_str(".lz4"));
        }
    }
    manifest.inline.iter_mut().for_each(|inline| inline.file.push_str(".lz4"));
    manifest
}

/// The manifest of [`compressed`], kept for ever: every later version must read it.
const FIXTURE_4: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/format-v4/manifest");

#[test]
#[ignore = "writes the fixture: only while version 4 is not yet released"]
#[allow(clippy::disallowed_methods)]
fn generate_compressed() {
    std::fs::create_dir_all(std::path::Path::new(FIXTURE_4).parent().unwrap()).unwrap();
    std::fs::write(FIXTURE_4, compressed().encode().unwrap()).unwrap();
}

#[test]
#[allow(clippy::disallowed_methods)]
fn a_manifest_of_version_4_is_read_and_written_to_the_byte() {
    let bytes = std::fs::read(FIXTURE_4).unwrap();
    assert_eq!(Manifest::decode(&bytes), Ok(compressed()));
    assert_eq!(compressed().encode().unwrap(), bytes);
    assert_eq!(
        envelope::unseal(Manifest::FORMAT, &bytes).unwrap().0,
        4,
        "programs that cannot read such files refuse it"
    );
}

/// Variants may be added at the end, and only there: numbers are what is stored.
#[test]
fn the_stored_form_of_a_distribution_does_not_change() {
    for (distribution, byte) in [(Distribution::Split, 0), (Distribution::Broadcast, 1)] {
        assert_eq!(postcard::to_allocvec(&distribution).unwrap(), [byte]);
        assert_eq!(postcard::from_bytes::<Distribution>(&[byte]).unwrap(), distribution);
    }
}

#[test]
fn no_truncation_is_taken_for_a_manifest() {
    let bytes = incremental().encode().unwrap();
    for len in 0..bytes.len() {
        let error = Manifest::decode(&bytes[..len]).unwrap_err();
        assert!(matches!(error, FormatError::Truncated { .. }), "{len}: {error}");
    }
}

#[test]
fn no_flipped_bit_is_taken_for_a_manifest() {
    let bytes = incremental().encode().unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Manifest::decode(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn a_number_of_key_groups_out_of_bounds_is_refused() {
    let none: MaxParallelism = postcard::from_bytes(&[0]).unwrap();
    let error = Manifest::decode(&manifest(none).encode().unwrap()).unwrap_err();
    assert!(error.to_string().contains("max_parallelism is 0"), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        prop_assert!(Manifest::decode(&bytes).is_err());
        let _ = Manifest::decode(&envelope::seal(Manifest::FORMAT, &bytes));
    }
}

fn with_a_union() -> Manifest {
    let mut manifest = sample();
    manifest.operators[0].subtasks[0].lists[0].distribution = Distribution::Union;
    manifest
}

#[test]
fn what_has_no_union_is_still_version_1_and_what_has_one_is_version_2() {
    let version = |manifest: &Manifest| {
        let bytes = manifest.encode().unwrap();
        assert_eq!(Manifest::decode(&bytes).as_ref(), Ok(manifest));
        envelope::unseal(Manifest::FORMAT, &bytes).unwrap().0
    };
    assert_eq!((version(&sample()), version(&with_a_union())), (1, 2));
}

/// `tests/fixtures/format-v2/manifest-union` is kept for ever: every later version must read it.
#[test]
fn a_manifest_of_version_2_is_read_and_written_to_the_byte() {
    let fixture = include_bytes!("../../../tests/fixtures/format-v2/manifest-union");
    assert_eq!(Manifest::decode(fixture), Ok(with_a_union()));
    assert_eq!(with_a_union().encode().unwrap(), fixture);
}

#[test]
#[ignore = "writes the fixture: only while version 2 is not yet released"]
#[allow(clippy::disallowed_methods)]
fn generate() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-v2");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("manifest-union"), with_a_union().encode().unwrap()).unwrap();
}
