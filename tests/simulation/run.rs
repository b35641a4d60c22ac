//! One run: processes, one after the other, until the job is finished; and what must be so then.

use super::broker::{Broker, ToBroker, Written};
use super::common::{
    Spins, bounded_virtual_process, in_flight_in, quiet_panics, sorted, tree, visible_lines,
};
use super::disk::SimDisk;
use super::graph::{APART, FILES, MAIN, Shape, describe, key_of};
use super::plan::{Plan, restart};
use super::watch::watched;
use super::world::{Process, World, below, once_in};
use futures::executor::block_on;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strandline::checkpoint::metadata::Manifest;
use strandline::prelude::*;
use strandline::restart::FailureRecord;
use strandline::storage::{Fault, OnDisk, SharedDisk};
use strandline::types::{Random, Timestamp};
use strandline::{CheckpointingMode, JobHandle};
use tokio::sync::broadcast::error::RecvError;

pub const JOB: &str = "simulated";

/// Far more than anything takes. The clock jumps there at once when nothing can happen any more; a job of which a part still runs takes a while.
const HANG: Duration = Duration::from_secs(100_000);

/// More than faults can make necessary.
const MACHINES: u32 = 60;

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Report {
    pub seed: u64,
    pub plan: Plan,
    /// Of all events, with their times.
    pub hash: u64,
    pub events: u64,
    pub lines: Vec<String>,
    pub time: Duration,
    pub processes: u32,
    /// How many records were in flight in the checkpoints that processes found.
    pub in_flight: u64,
    pub completions: u32,
    pub faults: BTreeMap<&'static str, u32>,
    pub violations: Vec<String>,
}

impl Report {
    /// Whether there was enough of both to say something.
    pub fn counts(&self) -> bool {
        self.completions >= 3 && self.faults.values().sum::<u32>() >= 1
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, plan, processes, completions, faults, violations, time, events, .. } = self;
        writeln!(
            f,
            "seed {seed}: {processes} processes, {completions} checkpoints, {events} events in {time:?}"
        )?;
        writeln!(f, "  {plan:?}\n  faults {faults:?}")?;
        violations.iter().try_for_each(|violation| writeln!(f, "  violated: {violation}"))
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Finished,
    Cancelled,
    Failed,
    Died,
}

struct Run {
    seed: u64,
    plan: Plan,
    world: Arc<World>,
    broker: Arc<Broker>,
    /// Where the other region writes.
    apart: Arc<Broker>,
    processes: Cell<u32>,
    in_flight: Cell<u64>,
    /// Those that others have taken over.
    taken_over: Cell<BTreeSet<u32>>,
}

/// Runs what follows from a seed; with `lines` the report has all events as text.
pub fn run(seed: u64, lines: bool) -> Report {
    quiet_panics();
    watched(seed, || run_unwatched(seed, lines))
}

fn run_unwatched(seed: u64, lines: bool) -> Report {
    let mut random = Random::from_seed(seed);
    let plan = Plan::draw(&mut random);
    let world = World::new(Random::from_seed(random.next_u64()), plan.trouble, lines);
    let run = Run {
        seed,
        plan,
        broker: Arc::default(),
        apart: Arc::default(),
        processes: Cell::new(0),
        in_flight: Cell::new(0),
        taken_over: Cell::default(),
        world,
    };
    run.to_the_end();
    let Run { plan, world, processes, in_flight, .. } = run;
    Report {
        seed,
        plan,
        hash: world.hash(),
        events: world.events(),
        lines: world.lines(),
        time: world.now(),
        processes: processes.get(),
        in_flight: in_flight.get(),
        completions: world.completions(),
        faults: world.faults(),
        violations: world.violations(),
    }
}

impl Run {
    fn to_the_end(&self) {
        for machine in 0..MACHINES {
            let end = self.process_of_its_own(async {
                self.world.machine_begins();
                self.in_flight.set(self.in_flight.get() + in_flight_in(&*self.world.drive.memory).await);
                let end = self.machine(machine).await;
                // While its clock can still be read.
                self.world.machine_is_gone(Duration::from_millis(self.chance(10_000)));
                end
            });
            let Some(end) = end else { return };
            if end == End::Finished {
                return self.check();
            }
            if !self.world.violations().is_empty() {
                return;
            }
            self.world.drive.faulty.set_space(None);
            if end == End::Died && self.world.chance(|random| once_in(random, 2)) {
                let way = match self.chance(4) {
                    0 => Fault::PowerLoss,
                    1 => Fault::ContentsLost,
                    2 => Fault::NamesLost,
                    _ => Fault::SomeLost(self.world.chance(Random::next_u64)),
                };
                self.world.happens(0, format_args!("the machine loses power: {way:?}"));
                if let Err(error) = block_on(self.world.drive.faulty.lose_power(way)) {
                    self.world.violated(format!("power cannot be lost: {error}"));
                }
            }
            self.world.drive.faulty.restart();
        }
        self.world.violated("does not come to an end");
    }

    /// `None` if it would never end.
    fn process_of_its_own<T>(&self, process: impl Future<Output = T>) -> Option<T> {
        let ended = bounded_virtual_process(process);
        ended.map_err(|Spins| self.world.violated("something keeps itself awake for ever")).ok()
    }

    fn chance(&self, end: u64) -> u64 {
        self.world.chance(|random| below(random, end))
    }

    /// One machine, with one process or two.
    async fn machine(&self, machine: u32) -> End {
        let first = self.process();
        if !(self.plan.take_overs && machine < 4 && self.chance(2) == 0) {
            return self.live(&first, machine, false).await;
        }
        let second = self.process();
        let (mut one, mut other) = (std::pin::pin!(self.live(&first, machine, false)), None);
        let moment = Duration::from_millis(self.chance(500));
        tokio::select! {
            biased;
            end = &mut one => return end,
            () = tokio::time::sleep(moment) => {}
        }
        self.world.happens(second.id, format_args!("takes over from {}", first.id));
        let mut taken_over = self.taken_over.take();
        taken_over.insert(first.id);
        self.taken_over.set(taken_over);
        let mut two = std::pin::pin!(self.live(&second, machine, true));
        loop {
            tokio::select! {
                biased;
                // What it still does is nobody's truth, unless the other came too late.
                end = &mut one, if other.is_none() => other = Some(end),
                end = &mut two => return if other == Some(End::Finished) { End::Finished } else { end },
            }
        }
    }

    fn process(&self) -> Arc<Process> {
        let id = self.processes.get() + 1;
        self.processes.set(id);
        let dies = self.world.chance(|random| once_in(random, self.plan.deaths));
        // Early as often as late.
        let range = 16 << self.chance(9);
        Process::new(&self.world, id, dies.then(|| 1 + self.chance(range)))
    }

    fn environment(&self, process: &Arc<Process>, machine: u32, takes_over: bool) -> Environment {
        let Plan { parallelism, checkpointing, memory_threshold, write_buffer, channel_depth, .. } =
            &self.plan;
        let disk: SharedDisk = Arc::new(SimDisk(Arc::clone(process)));
        let storage = OnDisk::new(Arc::clone(&disk), "checkpoints");
        let mut builder = Environment::builder()
            .parallelism(parallelism[machine as usize % parallelism.len()])
            .max_parallelism(16)
            .seed(self.seed ^ (u64::from(process.id) << 32))
            .wall_time(Timestamp(i64::try_from(self.world.now().as_millis()).unwrap()))
            .channel_depth(*channel_depth)
            .checkpointing(checkpointing.clone())
            .storage(storage.memory_threshold(*memory_threshold).write_buffer_size(*write_buffer))
            .restart(self.world.chance(restart));
        if takes_over {
            builder = builder.take_over();
        }
        let env = builder.build().unwrap();
        let (retries, buffer) = (self.plan.retries, self.plan.sink_buffer);
        let [sink, apart] = [(&self.broker, MAIN), (&self.apart, APART)].map(|(broker, region)| {
            let (broker, process) = (Arc::clone(broker), Arc::clone(process));
            ToBroker { broker, process, region, retries, buffer }
        });
        describe(&env, self.plan.shape, sink, apart, disk);
        env
    }

    /// The life of a process.
    async fn live(&self, process: &Arc<Process>, machine: u32, takes_over: bool) -> End {
        let env = self.environment(process, machine, takes_over);
        self.world.happens(process.id, format_args!("starts, taking over: {takes_over}"));
        let mut job = None;
        let started = &mut job;
        let end = async move {
            let job = env.start_local(JOB).await?;
            *started = Some(job.clone());
            self.world.begins_from(process.id, job.resumed_from().map(|from| from.0));
            tokio::task::spawn_local(listen(job.clone(), Arc::clone(process)));
            tokio::task::spawn_local(ask(job.clone(), Arc::clone(process)));
            if machine < 4 && self.chance(4) == 0 {
                let cancel = Duration::from_millis(self.chance(1_000));
                tokio::select! {
                    biased;
                    end = job.wait() => return end,
                    () = tokio::time::sleep(cancel) => {}
                }
                self.world.happens(process.id, "is cancelled");
                return job.cancel().await;
            }
            job.wait().await
        };
        let end = tokio::select! {
            biased;
            () = process.death() => return End::Died,
            end = tokio::time::timeout(HANG, end) => end,
        };
        let is_taken_over = || {
            let taken_over = self.taken_over.take();
            let is_taken_over = taken_over.contains(&process.id);
            self.taken_over.set(taken_over);
            is_taken_over
        };
        let end = match end {
            Err(_) => {
                self.world.violated(format!("process {} hangs", process.id));
                return End::Failed;
            }
            Ok(Ok(JobStatus::Finished)) => End::Finished,
            Ok(Ok(JobStatus::Cancelled)) => End::Cancelled,
            Ok(Ok(status)) => {
                self.world.violated(format!("process {} ends as {status}", process.id));
                End::Failed
            }
            Ok(Err(error)) => {
                let may_be = match error.kind() {
                    ErrorKind::Failed | ErrorKind::Storage => true,
                    ErrorKind::Fenced | ErrorKind::Busy => is_taken_over(),
                    // See docs/storage-faults.md: the next start goes on.
                    ErrorKind::Configuration => error.to_string().contains("the storage repeated a request"),
                    _ => false,
                };
                if !may_be {
                    self.world.violated(format!("process {}: {:?}: {error}", process.id, error.kind()));
                }
                self.world.happens(process.id, format_args!("fails: {error}"));
                End::Failed
            }
        };
        self.world.happens(process.id, format_args!("ends: {end:?}"));
        if let Some(job) = job {
            self.check_restarts(process.id, &job.failures(), end);
        }
        end
    }

    /// A region begins again after each failure of its own and of the job as a whole, and for no other reason.
    fn check_restarts(&self, process: u32, failures: &[FailureRecord], end: End) {
        for region in [MAIN, APART] {
            let concerns = |failure: &&FailureRecord| failure.region.iter().any(|uid| uid.as_str() == region);
            let failures: Vec<&FailureRecord> = failures.iter().filter(concerns).collect();
            let begun = self.world.begun(process, region);
            if begun.times > failures.len() + 1 {
                let (began, failed) = (begun.times, failures.len());
                self.world.violated(format!(
                    "process {process}: the region of `{region}` began {began} times and failed {failed} times"
                ));
            }
            let last = begun.recovered.map_or(0, |last| last.as_millis());
            let missed = failures.iter().find(|failure| u128::from(failure.at.0.cast_unsigned()) > last);
            if let (Some(failure), End::Finished) = (missed, end) {
                self.world.violated(format!(
                    "process {process}: the region of `{region}` did not begin again after {failure:?}"
                ));
            }
        }
    }

    /// What must be so when the job is finished.
    fn check(&self) {
        let taken_over = self.taken_over.take();
        let Shape { splits, apart, .. } = self.plan.shape;
        for (broker, splits) in [(&self.broker, 0..splits), (&self.apart, splits..splits + apart)] {
            let unfinished = broker.unfinished(|process| !taken_over.contains(&process));
            if !unfinished.is_empty() {
                self.world.violated(format!("transactions are left: {unfinished:?}"));
            }
            self.check_output(&broker.committed(), splits);
        }
        if self.plan.shape.files {
            self.check_files(&self.broker.committed());
        }
        // Tidies what the last one could not, and finds nothing to do.
        self.process_of_its_own(async {
            self.world.machine_begins();
            self.world.calm();
            let process = self.process();
            let end = self.live(&process, 0, false).await;
            if end != End::Finished {
                self.world.violated(format!("the finished job, started again: {end:?}"));
            }
            self.check_clean(!taken_over.is_empty()).await;
            self.world.machine_is_gone(Duration::ZERO);
        });
    }

    fn is_exact(&self) -> bool {
        self.plan.checkpointing.get_mode() == CheckpointingMode::ExactlyOnce
    }

    /// Of the region that reads these splits.
    fn check_output(&self, written: &[Written], splits: Range<u64>) {
        let shape = &self.plan.shape;
        let expected: BTreeMap<u64, u64> = splits
            .flat_map(|split| (0..shape.len).map(move |number| (split, number)))
            .map(|(split, number)| (split * shape.len + number, key_of(shape, split, number)))
            .collect();
        let is_exact = self.is_exact();
        let mut ids: Vec<(u64, u64)> = written.iter().map(|(key, _, id, ..)| (*id, *key)).collect();
        ids.sort_unstable();
        if !is_exact {
            ids.dedup();
        }
        if !ids.iter().copied().eq(expected.iter().map(|(id, key)| (*id, *key))) {
            let wrong: Vec<_> = expected
                .keys()
                .filter(|id| ids.iter().filter(|(found, _)| found == *id).count() != 1)
                .collect();
            self.world.violated(format!(
                "{} records are committed for {}; not once: {wrong:?}",
                ids.len(),
                expected.len()
            ));
        }
        if !is_exact {
            return;
        }
        let counts = |of: &dyn Fn(&Written) -> (u64, u64)| {
            let mut counts = BTreeMap::<u64, Vec<u64>>::new();
            for record in written {
                let (key, n) = of(record);
                counts.entry(key).or_default().push(n);
            }
            counts.values_mut().for_each(|counts| counts.sort_unstable());
            counts
        };
        let firsts = counts(&|(key, n, ..)| (*key, *n));
        let seconds = counts(&|(_, _, _, key, m)| (*key, *m));
        for (name, counts) in [("first", firsts), ("second", seconds)] {
            for (key, counts) in counts {
                if !counts.iter().copied().eq(1..=counts.len() as u64) {
                    self.world.violated(format!("counts of key {key} by `{name}`: {counts:?}"));
                }
            }
        }
    }

    /// What the first operator gave is in files, too.
    fn check_files(&self, written: &[Written]) {
        let mut files = block_on(visible_lines(&*self.world.drive.memory, Path::new(FILES)));
        let mut lines: Vec<_> = written.iter().map(|(key, n, id, ..)| format!("{key} {n} {id}")).collect();
        if !self.is_exact() {
            // How often a record came differs, and with it how many-th it was.
            for line in files.iter_mut().chain(&mut lines) {
                *line = line.rsplit(' ').next().unwrap_or_default().to_owned();
            }
            let once = |lines: Vec<String>| lines.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
            (files, lines) = (once(files), once(lines));
        }
        if sorted(files) != sorted(lines) {
            self.world.violated("files and the other system do not have the same");
        }
    }

    /// Nothing lies on the disk but the log and what the last checkpoint needs.
    async fn check_clean(&self, has_heirs: bool) {
        let root = Path::new("checkpoints").join(JOB);
        let all = tree(&*self.world.drive.memory, &root).await;
        let names: BTreeSet<String> = all.keys().map(|path| path.to_string_lossy().into_owned()).collect();
        let folders: BTreeSet<_> =
            names.iter().filter(|name| name.starts_with("chk-") && !name.contains('/')).cloned().collect();
        let mut manifests: Vec<(String, Manifest)> = Vec::new();
        for (path, content) in &all {
            if let (true, Some(content)) = (path.ends_with("manifest"), content) {
                match Manifest::decode(content) {
                    Ok(manifest) => {
                        manifests.push((path.parent().unwrap().to_string_lossy().into_owned(), manifest));
                    }
                    Err(error) => self.world.violated(format!("{}: {error}", path.display())),
                }
            }
        }
        let Some((folder, newest)) = manifests.into_iter().max_by_key(|(_, manifest)| manifest.checkpoint)
        else {
            return self.world.violated("the last checkpoint is gone");
        };
        let mut needed = newest.folders();
        needed.insert(folder);
        let files = tree(&*self.world.drive.memory, Path::new(FILES)).await;
        let files = files.keys().map(|path| path.to_string_lossy().into_owned());
        let hidden: Vec<_> = names
            .iter()
            .filter(|name| name.contains("/.tmp") || name.starts_with(".tmp"))
            .cloned()
            .chain(files.filter(|name| name.starts_with('.')))
            .collect();
        // One that was taken over goes on for a while with what nobody will ever commit.
        if folders != needed || !(hidden.is_empty() || has_heirs) {
            self.world.violated(format!("on the disk {folders:?} and {hidden:?}, needed {needed:?}"));
        }
        for operator in &newest.operators {
            let subtasks: BTreeSet<_> = operator.subtasks.iter().map(|state| state.subtask).collect();
            if subtasks.len() != operator.subtasks.len() {
                self.world.violated(format!("`{}` has a part twice", operator.operator));
            }
        }
    }
}

/// Writes down what a job says.
async fn listen(job: JobHandle, process: Arc<Process>) {
    let mut events = job.events();
    drop(job);
    let world = Arc::clone(process.world());
    loop {
        match events.recv().await {
            _ if process.is_dead() => return,
            Ok(JobEvent::CheckpointCompleted(checkpoint)) => {
                let id = checkpoint.checkpoint.0;
                world.happens(process.id, format_args!("checkpoint {id} is complete"));
                world.checkpoint_completed(process.id, id);
            }
            Ok(JobEvent::Running { attempt, from }) => {
                world.happens(process.id, format_args!("attempt {attempt} runs from {from:?}"));
                world.begins_from(process.id, from.map(|from| from.0));
            }
            Ok(event) => world.happens(process.id, format_args!("{event:?}")),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Asks for a checkpoint now and then.
async fn ask(job: JobHandle, process: Arc<Process>) {
    let world = Arc::clone(process.world());
    for _ in 0..world.chance(|random| below(random, 4)) {
        let pause = world.chance(|random| 1 + below(random, 200));
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let answer = job.checkpoint().await;
        if process.is_dead() {
            return;
        }
        match answer {
            Ok(id) => world.happens(process.id, format_args!("was given checkpoint {id}")),
            Err(error) => world.happens(process.id, format_args!("was given no checkpoint: {error}")),
        }
    }
}
