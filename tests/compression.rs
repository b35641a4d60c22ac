//! State is compressed or not as each run likes, and nothing is lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Numbers, exact_modes, in_time, on_request, running, sorted, tree, virtual_process};
use std::path::Path;
use std::sync::Arc;
use strandline::checkpoint::metadata::Manifest;
use strandline::prelude::*;
use strandline::storage::{MemoryDisk, OnDisk, SharedDisk};
use strandline::{Checkpointing, Compression, ErrorKind};

const SPLITS: u32 = 2;
const LEN: u64 = 400;
const KEYS: u64 = 150;

/// Keeps of each key a text that says little, and how often it came.
struct Talk {
    text: ValueState<(u64, String)>,
}

impl Operator for Talk {
    type Key = u64;
    type Out = (u64, u64);
}

impl Handler<(u32, u64)> for Talk {
    fn handle(&mut self, _: (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
        let (n, _) = self.text.get(ctx).unwrap_or_default();
        self.text.set(ctx, (n + 1, "blah ".repeat(200)));
        ctx.emit((*ctx.key(), n + 1));
        Ok(())
    }
}

/// One life: to two checkpoints, or to the end. Bytes of the last checkpoint.
fn live(
    disk: &SharedDisk,
    threshold: u64,
    checkpointing: Checkpointing,
    parallelism: u32,
    out: &Collect<(u64, u64)>,
    to: Option<u64>,
) -> Result<u64, strandline::Error> {
    virtual_process(in_time("a life", async {
        let storage = OnDisk::new(Arc::clone(disk), "checkpoints").memory_threshold(threshold);
        let env = Environment::builder().parallelism(parallelism).max_parallelism(16);
        let env = env.checkpointing(checkpointing).storage(storage).build()?;
        let (numbers, gate) = Numbers::gated(SPLITS, LEN);
        env.source("numbers", numbers)
            .key_by(|(_, number)| number % KEYS)
            .process("talk", |setup| Ok(Talk { text: setup.value_state("text")? }))
            .sink("out", out.clone());
        let job = env.start_local("compressed").await?;
        running(&job).await;
        let Some(to) = to else {
            gate.open_to(u64::MAX);
            assert_eq!(job.wait().await?, JobStatus::Finished);
            return Ok(0);
        };
        let mut bytes = 0;
        for position in [to - 7, to] {
            gate.open_to(position);
            gate.reached(SPLITS, position).await;
            job.checkpoint().await?;
            bytes = job.retained().await?.last().unwrap().bytes;
        }
        job.cancel().await?;
        Ok(bytes)
    }))
}

/// How many files of the newest manifest are compressed, and how many not.
fn files(disk: &SharedDisk) -> (usize, usize) {
    let all = virtual_process(tree(&**disk, Path::new("checkpoints")));
    let manifests = all.iter().filter(|(path, _)| path.ends_with("manifest"));
    let manifests = manifests.map(|(_, content)| Manifest::decode(content.as_ref().unwrap()).unwrap());
    let newest = manifests.max_by_key(|manifest| manifest.checkpoint).unwrap();
    let mut files: Vec<&str> = newest.segments().map(|segment| &*segment.file).collect();
    files.sort_unstable();
    files.dedup();
    let compressed = files.iter().filter(|file| file.ends_with(".lz4")).count();
    (compressed, files.len() - compressed)
}

fn expected() -> Vec<(u64, u64)> {
    common::expected_counts(SPLITS, LEN, KEYS)
}

#[test]
fn each_run_may_compress_or_not_in_every_mode_at_any_parallelism() {
    let modes = exact_modes().map(|(_, settings)| settings);
    for checkpointing in modes.into_iter().chain([on_request().incremental(true)]) {
        for threshold in [0, 4_000, 1 << 20] {
            let disk: SharedDisk = Arc::new(MemoryDisk::new());
            let out = Collect::new();
            let lives =
                [(Compression::Lz4, 2), (Compression::None, 3), (Compression::Lz4, 1), (Compression::Lz4, 4)];
            for (nth, (compression, parallelism)) in (1..).zip(lives) {
                let settings = checkpointing.clone().compression(compression);
                live(&disk, threshold, settings, parallelism, &out, Some(80 * nth)).unwrap();
                let (compressed, plain) = files(&disk);
                // An incremental one may need files of the run before.
                let is_full = !checkpointing.is_incremental();
                match compression {
                    Compression::None => assert!(plain > 0 && !(is_full && compressed > 0)),
                    Compression::Lz4 => assert!(compressed > 0 && !(is_full && plain > 0)),
                }
            }
            live(&disk, threshold, checkpointing.clone(), 2, &out, None).unwrap();
            assert_eq!(sorted(out.records()), expected());
        }
    }
}

#[test]
fn what_repeats_itself_takes_less_room() {
    let bytes = |compression| {
        let disk: SharedDisk = Arc::new(MemoryDisk::new());
        live(&disk, 0, on_request().compression(compression), 2, &Collect::new(), Some(150)).unwrap()
    };
    let (plain, compressed) = (bytes(Compression::None), bytes(Compression::Lz4));
    assert!(plain > 150_000 && compressed * 10 < plain, "{compressed} of {plain}");
}

/// The checksum is that of what is stored.
#[test]
fn a_damaged_byte_of_a_compressed_file_is_an_error_that_names_it() {
    let settings = || on_request().compression(Compression::Lz4);
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    live(&disk, 0, settings(), 1, &Collect::new(), Some(150)).unwrap();
    let all = virtual_process(tree(&*disk, Path::new("checkpoints")));
    let content = |path: &Path| all[path].clone().unwrap();
    let largest = all.keys().filter(|path| path.extension().is_some_and(|e| e == "lz4"));
    let largest = largest.max_by_key(|path| content(path).len()).unwrap().clone();
    let whole = content(&largest);
    for at in [16, 20, 24, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        virtual_process(async {
            let path = Path::new("checkpoints").join(&largest);
            disk.remove(&path).await.unwrap();
            disk.publish(&path, damaged).await.unwrap();
        });
        let settings = settings().tolerable_failures(1);
        let error = live(&disk, 0, settings, 1, &Collect::new(), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let text = error.to_string();
        for part in ["they are damaged: checksum", ".lz4", "operator", "checkpoint 2"] {
            assert!(text.contains(part), "`{part}` is missing in {text}");
        }
    }
}
