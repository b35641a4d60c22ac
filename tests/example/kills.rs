//! A job that is killed at random moments, from its first start to its end.

#![allow(dead_code)] // each test uses a part

use super::Run;
use super::random::{Random, seed, setting};

/// How often a job was killed.
#[derive(Debug)]
pub struct Kills {
    /// After a new checkpoint.
    pub kills: u64,
    /// During the start, or soon after it.
    pub early: u64,
    pub stories: u64,
    /// How often a killed run had restarted something by itself.
    pub restarts: usize,
}

impl Kills {
    /// Jobs are killed until there were as many kills after a new checkpoint as `STRANDLINE_KILLS` says (20), and led to their end. `begin` begins
    /// the next one: it gives what starts a run of it, at full speed or not, and what looks at what the job leaves.
    pub fn run<S: FnMut(&mut Random, bool) -> Run, C: FnOnce()>(mut begin: impl FnMut() -> (S, C)) -> Self {
        let (wanted, seed) = (setting("STRANDLINE_KILLS").unwrap_or(20), seed());
        println!("STRANDLINE_SEED={seed} STRANDLINE_KILLS={wanted}");
        let (mut all, mut random) = (Self { kills: 0, early: 0, stories: 0, restarts: 0 }, Random(seed));
        while all.kills < wanted {
            let (start, check) = begin();
            all.story(wanted, &mut random, start);
            check();
        }
        println!("{all:?}");
        all
    }

    fn story(&mut self, wanted: u64, random: &mut Random, mut start: impl FnMut(&mut Random, bool) -> Run) {
        self.stories += 1;
        loop {
            let is_last = self.kills >= wanted;
            let mut run = start(random, is_last);
            if is_last {
                run.wait().well();
                return;
            }
            let ended = if random.below(5) == 0 {
                // During the start and what is recovered then.
                random.pause(60);
                let ended = run.kill();
                self.early += u64::from(ended.killed());
                ended
            } else if run.says("checkpoint ") {
                let longest = [10, 150][random.index(2)];
                random.pause(longest);
                let ended = run.kill();
                self.kills += u64::from(ended.killed());
                ended
            } else {
                run.wait().well()
            };
            self.restarts += ended.lines.iter().filter(|line| line.starts_with("restarting")).count();
            if !ended.killed() {
                return;
            }
        }
    }
}
