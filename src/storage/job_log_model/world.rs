//! Everything there is in the model, and what may happen next.

use super::owner::{Owner, Part};
use super::{Bounds, Broken, LogView};
use crate::checkpoint::Coordinator;
use crate::storage::log_view::{Claim, Completed, Entry};
use crate::types::{ChainId, CheckpointId, Generation, SubtaskId, SubtaskIndex};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const SOURCE: SubtaskId = SubtaskId { chain: ChainId(0), index: SubtaskIndex(0) };
pub(super) const SINK: SubtaskId = SubtaskId { chain: ChainId(1), index: SubtaskIndex(0) };

/// Generation, attempt and checkpoint of a barrier name the transaction that ends with it.
pub(super) type TransactionId = (u64, u32, u64);

/// What a transaction holds: the records from one position to another.
pub(super) type Range = (u8, u8);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    Prepared,
    Committed,
    Aborted,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Process {
    Out,
    /// Has read the log and wants the number after it.
    Read(LogView),
    /// Has written its claim.
    Claimed(LogView),
    Owner(Box<Owner>),
    Gone,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) processes: [Process; 2],
    pub(super) log: BTreeMap<u64, Entry>,
    /// The newest claim that counts.
    pub(super) owner: u64,
    /// All that was ever decided, by number.
    pub(super) decided: BTreeMap<u64, Completed>,
    /// The parts on the disk, by generation and checkpoint, and what is in the manifests.
    pub(super) parts: BTreeMap<(u64, u64), BTreeSet<SubtaskId>>,
    pub(super) manifests: BTreeMap<(u64, u64), Vec<(SubtaskId, Part)>>,
    pub(super) transactions: BTreeMap<TransactionId, (Range, Stage)>,
    /// What is left of what may happen so often.
    pub(super) left: Bounds,
    pub(super) is_fenced: bool,
    /// What must not be and happened.
    pub(super) wrong: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// Reads the log.
    Read(usize),
    /// Writes a claim.
    Claim(usize),
    /// Looks whether it counts.
    Look(usize),
    Die(usize),
    Request(usize),
    /// The sink gets a barrier.
    Barrier(usize),
    /// The ack of a subtask, of an attempt, for a checkpoint; whether it will come once more.
    Ack(usize, (u32, u64, SubtaskId), bool),
    Decline(usize, (u32, u64, SubtaskId)),
    /// The sink is told of a completion.
    Commit(usize),
    /// Tries to append a decision.
    Append(usize, Answer),
    /// Subtasks fail, or are stopped.
    Stop(usize),
    ReadBack(usize),
    Restore(usize),
}

/// What the disk answers to an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Answer {
    /// The truth.
    True,
    /// Nothing, and reading back fails too; it was written.
    LostAndWritten,
    /// The same; it was not written.
    LostAndNot,
    /// An error, and it is known that nothing was written.
    Refused,
}

impl World {
    pub(super) fn new(left: Bounds) -> Self {
        Self {
            processes: [Process::Out, Process::Out],
            log: BTreeMap::new(),
            owner: 0,
            decided: BTreeMap::new(),
            parts: BTreeMap::new(),
            manifests: BTreeMap::new(),
            transactions: BTreeMap::new(),
            left,
            is_fenced: false,
            wrong: None,
        }
    }

    pub(super) fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.processes.iter().filter_map(|process| match process {
            Process::Owner(owner) => Some(&**owner),
            _ => None,
        })
    }

    /// What may happen next.
    pub(super) fn steps(&self, broken: Broken, steps: &mut Vec<Step>) {
        // What is wrong stays wrong.
        if self.wrong.is_some() {
            return;
        }
        for (p, process) in self.processes.iter().enumerate() {
            match process {
                // The second process comes when the first has claimed: it takes over.
                Process::Out if self.left.claims > 0 && (p == 0 || !self.log.is_empty()) => {
                    steps.push(Step::Read(p));
                }
                Process::Out | Process::Gone => {}
                Process::Read(_) if self.left.claims == 0 => {}
                Process::Read(_) => steps.push(Step::Claim(p)),
                Process::Claimed(_) => steps.push(Step::Look(p)),
                Process::Owner(owner) => {
                    owner.steps(p, self.left, broken, steps);
                    if p == 0 && self.left.deaths > 0 {
                        steps.push(Step::Die(p));
                    }
                }
            }
        }
    }

    pub(super) fn step(&mut self, step: Step, broken: Broken) {
        let p = step.process();
        let process = std::mem::replace(&mut self.processes[p], Process::Gone);
        self.processes[p] = match (process, step) {
            (_, Step::Read(_)) => match LogView::fold(self.log.clone()) {
                Ok(view) => Process::Read(view),
                Err(_) => return self.wrong = Some("the log contradicts itself"),
            },
            (Process::Read(view), Step::Claim(_)) => {
                self.left.claims -= 1;
                let is_free = !self.log.contains_key(&view.next());
                let claim = Entry::Claim(Claim { process: 1, nonce: p as u64 });
                self.log.entry(view.next()).or_insert(claim);
                if is_free { Process::Claimed(view) } else { Process::Out }
            }
            (Process::Claimed(view), Step::Look(_)) => self.look(view, broken),
            (_, Step::Die(_)) => {
                self.left.deaths -= 1;
                Process::Gone
            }
            (Process::Owner(mut owner), step) => {
                if self.owner_step(&mut owner, step, broken) {
                    Process::Owner(owner)
                } else {
                    Process::Gone
                }
            }
            (process, _) => process,
        };
        self.forget();
    }

    /// Of processes that are gone nobody sees what no entry of the log names.
    fn forget(&mut self) {
        let lives: BTreeSet<u64> = self.owners().map(|owner| owner.generation.0).collect();
        let Self { log, parts, manifests, .. } = self;
        let is_seen = |of: &(u64, u64)| {
            lives.contains(&of.0)
                || log.values().any(|entry| matches!(entry, Entry::Completed(entry) if folder(entry) == *of))
        };
        parts.retain(|of, _| is_seen(of));
        manifests.retain(|of, _| is_seen(of));
    }

    /// A claim counts only if it is the last entry (rule 3 of the log). Once is enough where a listing is a snapshot.
    fn look(&mut self, mut view: LogView, broken: Broken) -> Process {
        let generation = view.next();
        if self.log.keys().next_back() != Some(&generation) && broken != Broken::Look {
            if LogView::fold(self.log.clone()).is_ok_and(|view| !view.has_claim(Generation(generation))) {
                self.log.remove(&generation);
            }
            return Process::Out;
        }
        view.forget_all_but(&self.log.keys().copied().collect::<Vec<_>>());
        if view.push(generation, self.log[&generation].clone()).is_err() {
            self.wrong = Some("the log contradicts itself");
        }
        self.owner = self.owner.max(generation);
        let retained: Vec<CheckpointId> = view.completed().map(|entry| entry.checkpoint).collect();
        let first = view.last_checkpoint().unwrap_or_default().next();
        let coordinator = Coordinator::new(None, first, retained, vec![SOURCE, SINK], vec![SOURCE]);
        Process::Owner(Box::new(Owner::new(Generation(generation), view, coordinator)))
    }

    /// Puts a decision into the log.
    pub(super) fn write(&mut self, sequence: u64, entry: Completed) {
        if entry.generation.0 < self.owner {
            self.wrong = Some("a fenced process completes a checkpoint");
        }
        if self.decided.values().any(|earlier| earlier.checkpoint >= entry.checkpoint) {
            self.wrong = Some("a checkpoint completes after a newer one, or twice");
        }
        if self.log.contains_key(&sequence) || self.decided.insert(sequence, entry.clone()).is_some() {
            self.wrong = Some("two truths for one position of the log");
        }
        self.log.insert(sequence, Entry::Completed(entry));
    }

    pub(super) fn commit(&mut self, transaction: TransactionId) {
        if !self.decided.values().any(|entry| entry.checkpoint.0 >= transaction.2) {
            self.wrong = Some("a transaction is committed that no completed checkpoint has");
        }
        match self.transactions.get_mut(&transaction) {
            Some((_, stage @ (Stage::Prepared | Stage::Committed))) => *stage = Stage::Committed,
            _ => self.wrong = Some("a transaction is committed that was aborted"),
        }
    }

    fn committed(&self) -> Vec<Range> {
        let committed = self.transactions.values().filter(|(_, stage)| *stage == Stage::Committed);
        let mut ranges: Vec<Range> = committed.map(|(range, _)| *range).collect();
        ranges.sort_unstable();
        ranges
    }

    /// Committed output is records 0 to n, each once.
    pub(super) fn is_exact(&self) -> bool {
        let mut end = 0;
        self.committed().iter().all(|(from, to)| std::mem::replace(&mut end, *to) == *from)
    }

    /// Whether the output is that of the newest completed checkpoint, unless there is something left to do for that.
    pub(super) fn is_settled(&self) -> bool {
        let at_rest = |owner: &Owner| owner.generation.0 == self.owner && owner.is_at_rest();
        let newest = self.decided.values().max_by_key(|entry| entry.checkpoint);
        let sink = newest.and_then(|entry| self.manifests.get(&folder(entry))).and_then(|parts| parts.last());
        let wanted = sink.map_or(0, |(_, part)| part.position);
        !self.owners().any(at_rest) || self.committed().last().map_or(0, |(_, to)| *to) == wanted
    }

    /// Whether every completed checkpoint that the log names has its manifest, and that all parts, on the disk.
    pub(super) fn is_complete(&self) -> bool {
        let mut completed = self.log.values().filter_map(|entry| match entry {
            Entry::Completed(entry) => Some(folder(entry)),
            _ => None,
        });
        completed.all(|of| {
            self.parts.get(&of).is_some_and(|parts| parts.iter().eq(&[SOURCE, SINK]))
                && self
                    .manifests
                    .get(&of)
                    .is_some_and(|parts| parts.iter().map(|(id, _)| id).eq(&[SOURCE, SINK]))
        })
    }
}

/// Generation and checkpoint name its folder.
pub(super) fn folder(entry: &Completed) -> (u64, u64) {
    (entry.generation.0, entry.checkpoint.0)
}

impl Step {
    fn process(self) -> usize {
        match self {
            Self::Read(p)
            | Self::Claim(p)
            | Self::Look(p)
            | Self::Die(p)
            | Self::Request(p)
            | Self::Barrier(p)
            | Self::Ack(p, ..)
            | Self::Decline(p, ..)
            | Self::Commit(p)
            | Self::Append(p, _)
            | Self::Stop(p)
            | Self::ReadBack(p)
            | Self::Restore(p) => p,
        }
    }
}
