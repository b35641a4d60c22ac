//! A subtask turn by turn, around a chain that does what the test says.

use super::*;
use crate::channel::{AnyBatch, Element, Inlet, Origin, Output, RecordCodec, channel};
use crate::checkpoint::{BarrierKind, CheckpointingMode, Extent};
use crate::dataflow::ChainFactory;
use crate::metrics::SubtaskHandles;
use crate::pool::Pool;
use crate::runtime::restore::RestoredSubtask;
use crate::runtime::seed::ChainContext;
use crate::runtime::wiring::Ends;
use crate::storage::test_support;
use crate::types::{ChainId, EdgeId, Generation, MaxParallelism, Port, SubtaskIndex, Timestamp};
use actix::{Actor, Context, Handler};
use futures::task::noop_waker;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the chain does.
#[derive(Debug, Clone, Default)]
struct Script {
    /// It has commits to wait for.
    commits: Arc<AtomicBool>,
    /// What it emitted finds no room.
    is_full: Arc<AtomicBool>,
}

impl Chain for Script {
    fn on_batch(&mut self, _: Port, _: &mut AnyBatch) -> Result<Flow> {
        Ok(Flow::Ready)
    }

    fn read(&mut self, _: &mut TaskContext<'_>, _: usize) -> Result<Read> {
        Ok(Read::Waiting)
    }

    fn resume(&mut self, _: &mut TaskContext<'_>) -> Result<Flow> {
        Ok(if self.is_full.load(Ordering::Relaxed) { Flow::Full } else { Flow::Ready })
    }

    fn finish(&mut self) -> Result<Flow> {
        Ok(Flow::Ready)
    }

    fn tend(&mut self, _: &mut TaskContext<'_>) -> Result<bool> {
        Ok(!self.commits.load(Ordering::Relaxed))
    }

    fn control(&mut self, _: &mut Control<'_>) -> Result {
        Ok(())
    }
}

impl ChainFactory for Script {
    fn boxed(&self) -> Box<dyn ChainFactory> {
        Box::new(self.clone())
    }

    fn build(self: Box<Self>, _: &mut BuildContext) -> Result<Box<dyn Chain>, Error> {
        Ok(self)
    }
}

/// A coordinator that listens to nobody.
struct Deaf;

impl Actor for Deaf {
    type Context = Context<Self>;
}

impl Handler<CheckpointMessage> for Deaf {
    type Result = ();

    fn handle(&mut self, _: CheckpointMessage, _: &mut Self::Context) {}
}

/// A subtask whose input has ended and that takes checkpoints, with what leads to it.
async fn ended(script: &Script) -> (Output, Subtask) {
    let (mut output, input) = channel(4, Arc::default(), Arc::default());
    let origin = Origin { edge: EdgeId(0), from: SubtaskIndex(0) };
    let inlet = Inlet { port: Port(0), origin, codec: RecordCodec::of::<u32>(), input };
    let (clock, name) = (Clock::start(), OperatorId::from("sink"));
    let subtask = SubtaskContext {
        job: "job".into(),
        operator: name.clone(),
        subtask: SubtaskIndex(0),
        parallelism: 1,
        generation: Generation(1),
        attempt: Attempt(0),
        clock,
    };
    let mut subtask = Subtask::build(SubtaskSeed {
        id: SubtaskId { chain: ChainId(1), index: SubtaskIndex(0) },
        attempt: Attempt(0),
        clock,
        ends: Ends { inlets: vec![inlet], ..Ends::default() },
        factory: script.boxed(),
        restored: RestoredSubtask::default(),
        from: None,
        has_source: false,
        mode: CheckpointingMode::ExactlyOnce,
        context: ChainContext {
            subtask,
            max_parallelism: MaxParallelism::new(8).unwrap(),
            snapshot_memory: u64::MAX,
            name,
        },
        storage: Some(test_support::open(&test_support::memory()).await.unwrap()),
        coordinator: Deaf.start().recipient(),
        scope: Scope::new(Pool::Local),
        span: Span::none(),
        counters: SubtaskHandles::new(std::iter::empty()),
    })
    .unwrap();
    let _ = output.send(Element::End { drained: false });
    assert_eq!(turn(&mut subtask), Turn::Idle);
    (output, subtask)
}

fn turn(subtask: &mut Subtask) -> Turn {
    let waker = noop_waker();
    subtask.turn(&mut TaskContext::from_waker(&waker)).unwrap()
}

fn barrier(id: u64) -> Element {
    Element::Barrier(Barrier {
        checkpoint: CheckpointId(id),
        triggered: Timestamp(0),
        kind: BarrierKind::Aligned,
        extent: Extent::Full,
    })
}

async fn local(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_barrier_behind_the_final_checkpoint_does_not_keep_awake_what_waits_for_its_last_commits() {
    local(async {
        let script = Script::default();
        let (mut output, mut subtask) = ended(&script).await;
        let _ = output.send(barrier(1));
        assert_eq!(turn(&mut subtask), Turn::Busy);
        assert_eq!(turn(&mut subtask), Turn::Idle);
        script.commits.store(true, Ordering::Relaxed);
        subtask.command(SubtaskCommand::Complete { checkpoint: CheckpointId(1), last: true }).unwrap();
        let _ = output.send(barrier(2));
        assert_eq!(turn(&mut subtask), Turn::Idle);
        script.commits.store(false, Ordering::Relaxed);
        assert_eq!(turn(&mut subtask), Turn::Finished);
    })
    .await;
}

#[tokio::test]
async fn what_stalls_behind_the_final_checkpoint_is_not_waited_for() {
    local(async {
        let script = Script::default();
        let (mut output, mut subtask) = ended(&script).await;
        for id in [1, 2] {
            let _ = output.send(barrier(id));
            assert_eq!(turn(&mut subtask), Turn::Busy);
            // Nobody takes the second one's barrier after it.
            script.is_full.store(id == 2, Ordering::Relaxed);
            assert_eq!(turn(&mut subtask), Turn::Idle);
        }
        subtask.command(SubtaskCommand::Complete { checkpoint: CheckpointId(1), last: true }).unwrap();
        assert_eq!(turn(&mut subtask), Turn::Finished);
    })
    .await;
}
