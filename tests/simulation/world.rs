//! What the processes of a run share: chance, faults, and everything that happened.

use super::disk::Drive;
use std::collections::BTreeMap;
use std::fmt;
use std::future::pending;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use strandline::Result;
use strandline::types::Random;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A number below `end`.
pub fn below(random: &mut Random, end: u64) -> u64 {
    random.next_u64() % end.max(1)
}

/// Once in so many times; never for 0.
pub fn once_in(random: &mut Random, times: u64) -> bool {
    times > 0 && below(random, times) == 0
}

/// How much chance there is in a run.
#[derive(Debug, Clone, Copy)]
pub struct Trouble {
    /// How many faults may strike, deaths of processes included.
    pub faults: u32,
    /// None strikes before so many checkpoints are complete.
    pub after: u32,
    /// A call of user code fails once in so many times.
    pub code: u64,
    /// A call of the other system that takes transactions fails once in so many times.
    pub broker: u64,
    /// An operation of the disk fails once in so many times.
    pub disk: u64,
    /// Writing an entry of the job log fails once in so many times.
    pub log: u64,
    /// The longest usual delay of a call, in ms.
    pub delay: u64,
    /// A call stalls for seconds once in so many times.
    pub stall: u64,
}

/// Something that happened.
struct Event<'a> {
    process: u32,
    what: &'a dyn fmt::Display,
}

pub struct World {
    inner: Mutex<Inner>,
    pub drive: Drive,
}

struct Inner {
    random: Random,
    trouble: Trouble,
    hash: DefaultHasher,
    lines: Option<Vec<String>>,
    /// How long machines ran that are gone.
    before: Duration,
    /// When this one began.
    since: Option<Instant>,
    events: u64,
    faults: BTreeMap<&'static str, u32>,
    violations: Vec<String>,
    /// The newest completed checkpoint that somebody was told of.
    completed: u64,
    /// The newest that the process it belongs to was told of.
    announced: u64,
    completions: u32,
    /// How many operations of the disk fail still because one has: an answer that nobody gets is one that cannot be read back either.
    outage: u64,
    /// Which process wrote to the job log last, and how many entries came.
    owner: u32,
    log_entries: u64,
    /// What became of each region in each process.
    regions: BTreeMap<(u32, Region), Begun>,
}

/// A failover region, by the uid of its sink.
pub type Region = &'static str;

/// How a failover region began.
#[derive(Debug, Clone, Copy, Default)]
pub struct Begun {
    /// How often its source was asked for its splits.
    pub times: usize,
    /// When its sink recovered last.
    pub recovered: Option<Duration>,
}

impl World {
    /// With `lines` all events are kept as text, too.
    pub fn new(random: Random, trouble: Trouble, lines: bool) -> Arc<Self> {
        let inner = Inner {
            random,
            trouble,
            hash: DefaultHasher::new(),
            lines: lines.then(Vec::new),
            before: Duration::ZERO,
            since: None,
            events: 0,
            faults: BTreeMap::new(),
            violations: Vec::new(),
            completed: 0,
            announced: 0,
            completions: 0,
            outage: 0,
            owner: 0,
            log_entries: 0,
            regions: BTreeMap::new(),
        };
        Arc::new(Self { inner: Mutex::new(inner), drive: Drive::new() })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another machine begins, with a clock of its own.
    pub fn machine_begins(&self) {
        self.inner().since = Some(Instant::now());
    }

    pub fn machine_is_gone(&self, down: Duration) {
        let mut inner = self.inner();
        let now = inner.now();
        inner.since = None;
        inner.before = now + down;
    }

    pub fn now(&self) -> Duration {
        self.inner().now()
    }

    /// From now on nothing fails.
    pub fn calm(&self) {
        let mut inner = self.inner();
        inner.trouble.faults = 0;
        inner.outage = 0;
    }

    pub fn chance<T>(&self, choose: impl FnOnce(&mut Random) -> T) -> T {
        choose(&mut self.inner().random)
    }

    pub fn happens(&self, process: u32, what: impl fmt::Display) {
        self.inner().happens(&Event { process, what: &what });
    }

    /// What must not be.
    pub fn violated(&self, what: impl Into<String>) {
        let mut inner = self.inner();
        let what = what.into();
        inner.happens(&Event { process: 0, what: &format_args!("VIOLATED: {what}") });
        inner.violations.push(what);
    }

    pub fn violations(&self) -> Vec<String> {
        self.inner().violations.clone()
    }

    pub fn faults(&self) -> BTreeMap<&'static str, u32> {
        self.inner().faults.clone()
    }

    pub fn completions(&self) -> u32 {
        self.inner().completions
    }

    pub fn events(&self) -> u64 {
        self.inner().events
    }

    pub fn hash(&self) -> u64 {
        self.inner().hash.finish()
    }

    pub fn lines(&self) -> Vec<String> {
        self.inner().lines.clone().unwrap_or_default()
    }

    pub fn log_entries(&self) -> u64 {
        self.inner().log_entries
    }

    /// A process was told that a checkpoint is complete. One that was taken over may be told late.
    pub fn checkpoint_completed(&self, process: u32, checkpoint: u64) {
        let newest = {
            let mut inner = self.inner();
            inner.completions += 1;
            let newest = inner.announced;
            inner.announced = newest.max(checkpoint);
            inner.completed = inner.completed.max(checkpoint);
            (process == inner.owner).then_some(newest)
        };
        if newest >= Some(checkpoint) {
            self.violated(format!("process {process} completed {checkpoint}, after checkpoint {newest:?}"));
        }
        self.told(process, checkpoint, true);
    }

    /// Somebody is told by a process that a checkpoint was completed, or given up: the job log must say so, too.
    pub fn told(&self, process: u32, checkpoint: u64, completed: bool) {
        let logged = self.drive.logged();
        // Those that are no longer kept are not there any more.
        let is_right =
            if completed { logged.last() >= Some(&checkpoint) } else { !logged.contains(&checkpoint) };
        // What was taken over may say so late, of a number that its heir used again.
        if !is_right && process == self.inner().owner {
            let what = if completed { "complete" } else { "given up" };
            self.violated(format!(
                "process {process} says checkpoint {checkpoint} is {what}; in the log: {logged:?}"
            ));
        }
    }

    /// A region restores a checkpoint: that must be the one the job log ends with.
    pub fn restores(&self, process: u32, region: Region, checkpoint: Option<u64>) {
        let logged = self.drive.logged().last().copied();
        let owner = {
            let mut inner = self.inner();
            let now = inner.now();
            inner.regions.entry((process, region)).or_default().recovered = Some(now);
            inner.owner
        };
        if process == owner && checkpoint != logged {
            self.violated(format!("process {process} restores checkpoint {checkpoint:?}, not {logged:?}"));
        }
    }

    /// The sources of a region are asked for their splits.
    pub fn begins(&self, process: u32, region: Region) {
        self.inner().regions.entry((process, region)).or_default().times += 1;
    }

    pub fn begun(&self, process: u32, region: Region) -> Begun {
        self.inner().regions.get(&(process, region)).copied().unwrap_or_default()
    }

    /// A process, or a new attempt of it, begins from this checkpoint.
    pub fn begins_from(&self, process: u32, checkpoint: Option<u64>) {
        let (completed, owner) = {
            let mut inner = self.inner();
            let completed = inner.completed;
            inner.completed = completed.max(checkpoint.unwrap_or(0));
            (completed, inner.owner)
        };
        if process == owner && checkpoint.unwrap_or(0) < completed {
            self.violated(format!(
                "process {process} begins from {checkpoint:?}, but checkpoint {completed} had completed"
            ));
        }
    }

    /// A process has written an entry of the job log: the last one, or one where others were removed. The first last one is its claim.
    pub fn wrote_to_log(&self, process: u32, is_last: bool) {
        let owner = {
            let mut inner = self.inner();
            inner.log_entries += 1;
            if is_last {
                inner.owner = inner.owner.max(process);
            }
            inner.owner
        };
        // A claim that is not the last entry is void.
        if process < owner || (process == owner && !is_last) {
            self.violated(format!(
                "process {process} wrote to the job log, which process {owner} had claimed"
            ));
        }
    }
}

impl Inner {
    fn now(&self) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn happens(&mut self, Event { process, what }: &Event<'_>) {
        self.events += 1;
        let now = self.now();
        let text = format!("{process} {what}");
        (now, &text).hash(&mut self.hash);
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>12.6} {text}", now.as_secs_f64()));
        }
    }

    /// Whether a fault strikes here, where one does once in so many times.
    fn strikes(&mut self, kind: &'static str, times: u64) -> bool {
        let strikes = once_in(&mut self.random, times) && self.may_strike();
        if strikes {
            self.struck(kind);
        }
        strikes
    }

    fn may_strike(&self) -> bool {
        self.trouble.faults > 0 && self.completions >= self.trouble.after
    }

    fn struck(&mut self, kind: &'static str) {
        self.trouble.faults = self.trouble.faults.saturating_sub(1);
        *self.faults.entry(kind).or_default() += 1;
    }
}

/// A process: what it does to the outside goes through here, and nothing does once it is dead.
pub struct Process {
    pub id: u32,
    world: Arc<World>,
    dead: AtomicBool,
    /// At which of its steps it dies.
    dies_at: u64,
    steps: AtomicU64,
    death: Notify,
}

/// How a call of the outside ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Well,
    /// An error, and nothing happened.
    Refused,
    /// An error, but it happened.
    AnswerLost,
    Panics,
}

/// What is called, which decides how often it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Disk,
    Broker,
}

impl Process {
    pub fn new(world: &Arc<World>, id: u32, dies_at: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            id,
            world: Arc::clone(world),
            dead: AtomicBool::new(false),
            dies_at: dies_at.unwrap_or(u64::MAX),
            steps: AtomicU64::new(0),
            death: Notify::new(),
        })
    }

    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Kills it: from now on nothing that it does has an effect.
    pub fn kill(&self) {
        if !self.dead.swap(true, Ordering::SeqCst) {
            self.world.happens(self.id, "dies");
            self.world.inner().struck("process death");
            self.death.notify_one();
        }
    }

    /// Waits until it is dead. For one who waits.
    pub async fn death(&self) {
        self.death.notified().await;
    }

    /// One more step; whether it is the last one.
    fn steps(&self) -> bool {
        let steps = self.steps.fetch_add(1, Ordering::SeqCst) + 1;
        steps >= self.dies_at && self.world.inner().may_strike()
    }

    /// User code is called, which does not wait.
    pub fn code(&self, what: impl fmt::Display) -> Result {
        if self.is_dead() {
            return Ok(());
        }
        self.world.happens(self.id, &what);
        if self.steps() {
            self.kill();
        }
        let fails = {
            let mut inner = self.world.inner();
            let times = inner.trouble.code;
            inner.strikes("failure of user code", times).then(|| once_in(&mut inner.random, 2))
        };
        match fails {
            None => Ok(()),
            Some(panics) => {
                self.world.happens(self.id, format_args!("fails (panic: {panics})"));
                assert!(!panics, "injected panic at {what}");
                Err(format!("injected error at {what}").into())
            }
        }
    }

    /// Calls the outside: after a while it does what `call` does, or fails.
    pub async fn call<T>(
        &self,
        place: Place,
        what: &str,
        call: impl Future<Output = T> + Send,
    ) -> std::result::Result<T, Fate> {
        self.wait().await;
        self.live().await;
        let dies = self.steps();
        let fate = self.fate(place);
        self.world.happens(self.id, format_args!("{what} {fate:?}"));
        if dies && self.world.chance(|random| once_in(random, 2)) {
            self.kill();
            self.live().await;
        }
        if fate == Fate::Refused {
            return Err(fate);
        }
        assert!(fate != Fate::Panics, "injected panic at {what}");
        let result = call.await;
        if dies {
            self.kill();
        }
        self.live().await;
        if fate == Fate::AnswerLost { Err(fate) } else { Ok(result) }
    }

    fn fate(&self, place: Place) -> Fate {
        let mut inner = self.world.inner();
        let times = inner.trouble.broker;
        // Faults of the disk are chosen by what is asked of it.
        if place == Place::Broker && inner.strikes("failure of the other system", times) {
            [Fate::Refused, Fate::AnswerLost, Fate::Panics][below(&mut inner.random, 3) as usize]
        } else {
            Fate::Well
        }
    }

    /// Takes a moment, or longer.
    pub async fn wait(&self) {
        enum Wait {
            Not,
            Yield,
            Millis(u64),
        }
        let wait = {
            let mut inner = self.world.inner();
            let Trouble { delay, stall, .. } = inner.trouble;
            if inner.strikes("stall", stall) {
                Wait::Millis(1_000 + below(&mut inner.random, 20_000))
            } else {
                match below(&mut inner.random, 4) {
                    0 | 1 => Wait::Not,
                    2 => Wait::Yield,
                    _ if delay == 0 => Wait::Yield,
                    _ => Wait::Millis(1 + below(&mut inner.random, delay)),
                }
            }
        };
        match wait {
            Wait::Not => {}
            Wait::Yield => tokio::task::yield_now().await,
            Wait::Millis(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
        }
    }

    /// What a dead process waits for never comes.
    pub async fn live(&self) {
        if self.is_dead() {
            pending::<()>().await;
        }
    }

    /// Whether a fault of the disk strikes now.
    pub fn disk_fails(&self, is_entry: bool) -> bool {
        let mut inner = self.world.inner();
        if inner.outage > 0 {
            inner.outage -= 1;
            return true;
        }
        let Trouble { disk, log, .. } = inner.trouble;
        let strikes = inner.strikes("fault of the disk", if is_entry { log } else { disk });
        // What cannot be read back either is of unknown outcome.
        if strikes && once_in(&mut inner.random, if is_entry { 2 } else { 3 }) {
            inner.outage = 1 + below(&mut inner.random, 3);
        }
        strikes
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({})", self.id)
    }
}
