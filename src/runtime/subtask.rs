//! The actor of one subtask: control in its mailbox, records through its gate.

use super::messages::{ExitCause, SubtaskCommand, SubtaskNews, SubtaskReport};
use super::seed::SubtaskSeed;
use super::tracing_scope::below;
use super::turn::{Subtask, Turn};
use crate::error::{BoxError, Error, ErrorKind};
use crate::operator::take_blamed;
use crate::pool::panic_message;
use crate::types::{Attempt, OperatorId, SubtaskId};
use actix::{Actor, ActorContext, ActorFuture, AsyncContext, Context, Handler, Recipient};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context as TaskContext, Poll};
use tracing::Span;

/// One subtask. Spawns exactly one future, its loop, which borrows it whenever it is polled.
pub(crate) struct SubtaskActor {
    id: SubtaskId,
    attempt: Attempt,
    name: OperatorId,
    /// Entered whenever code of the user's runs.
    span: Span,
    work: Work,
    supervisor: Recipient<SubtaskReport>,
    /// Whether the supervisor knows that this subtask has ended.
    reported: bool,
}

enum Work {
    Seed(Box<SubtaskSeed>),
    Running(Box<Subtask>),
    Over,
}

impl SubtaskActor {
    pub(super) fn new(seed: SubtaskSeed, supervisor: Recipient<SubtaskReport>) -> Self {
        let (parent, name) = (&seed.span, &seed.context.name);
        let span = below(parent, || {
            let (subtask, attempt) = (seed.id.index.0, seed.attempt.0);
            // At the highest level, so that no filter that lets an event of the user's pass takes its context away.
            tracing::error_span!(parent: parent, "subtask", operator = %name, subtask, attempt)
        });
        Self {
            id: seed.id,
            attempt: seed.attempt,
            name: name.clone(),
            span,
            work: Work::Seed(Box::new(seed)),
            supervisor,
            reported: false,
        }
    }

    /// Runs code of the user's, and turns an error or a panic in it into an error that names its operator.
    fn guarded<T>(&mut self, f: impl FnOnce(&mut Work) -> Result<T, BoxError>) -> Result<T, Error> {
        let (id, name) = (self.id, self.name.clone());
        let Self { span, work, .. } = self;
        match span.in_scope(|| catch_unwind(AssertUnwindSafe(|| f(work)))) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(cause)) => Err(Error::from_cause(ErrorKind::Failed, "an operator failed", cause)
                .operator(&name)
                .subtask(id.index)),
            Err(panic) => {
                let operator = take_blamed().unwrap_or(name);
                let message = format!("an operator panicked: {}", panic_message(&*panic));
                Err(Error::new(ErrorKind::Failed, message).operator(&operator).subtask(id.index))
            }
        }
    }

    fn turn(&mut self, task: &mut TaskContext<'_>) -> Result<Turn, Error> {
        if matches!(self.work, Work::Seed(_)) {
            self.guarded(|work| {
                if let Work::Seed(seed) = std::mem::replace(work, Work::Over) {
                    *work = Work::Running(Box::new(Subtask::build(*seed)?));
                }
                Ok(())
            })?;
            self.report(SubtaskNews::Started);
        }
        self.guarded(|work| match work {
            Work::Running(subtask) => subtask.turn(task),
            Work::Seed(_) | Work::Over => Ok(Turn::Stopped),
        })
    }

    /// Lets go of everything, then says why it ended: what the user's operators hold is gone when the supervisor hears of it.
    fn end(&mut self, cause: ExitCause) {
        if std::mem::replace(&mut self.reported, true) {
            return;
        }
        let closed = self.guarded(|work| match work {
            Work::Running(subtask) => subtask.close(),
            Work::Seed(_) | Work::Over => Ok(()),
        });
        // Also if closing panicked.
        let dropped = self.guarded(|work| {
            *work = Work::Over;
            Ok(())
        });
        for error in [closed.err(), dropped.err()].into_iter().flatten() {
            tracing::warn!(parent: &self.span, %error, "a subtask did not close cleanly");
        }
        self.report(SubtaskNews::Ended(cause));
    }

    fn report(&self, news: SubtaskNews) {
        self.supervisor.do_send(SubtaskReport { attempt: self.attempt, subtask: self.id, news });
    }
}

impl Actor for SubtaskActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(SubtaskLoop);
    }
}

impl Handler<SubtaskCommand> for SubtaskActor {
    type Result = ();

    fn handle(&mut self, command: SubtaskCommand, ctx: &mut Self::Context) {
        let result = self.guarded(|work| match work {
            Work::Running(subtask) => subtask.command(command),
            // Not built yet: the first turn comes before any trigger, so this can only be a stop.
            Work::Seed(_) => {
                *work = Work::Over;
                Ok(())
            }
            Work::Over => Ok(()),
        });
        if let Err(error) = result {
            self.end(ExitCause::Failed(error));
            ctx.stop();
        }
    }
}

/// The loop: one turn per poll.
struct SubtaskLoop;

impl ActorFuture<SubtaskActor> for SubtaskLoop {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut SubtaskActor,
        ctx: &mut Context<SubtaskActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        let cause = match actor.turn(task) {
            Ok(Turn::Idle) => return Poll::Pending,
            Ok(Turn::Busy) => {
                // Not `wake_by_ref`: a task that is always at the head of its thread's queue keeps out those that another thread has
                // woken. tokio looks at them only every 31st time while its own queue is not empty.
                let _ = pin!(tokio::task::yield_now()).poll(task);
                return Poll::Pending;
            }
            Ok(Turn::Finished) => ExitCause::Finished,
            Ok(Turn::Stopped) => ExitCause::Stopped,
            Err(error) => ExitCause::Failed(error),
        };
        actor.end(cause);
        ctx.stop();
        Poll::Ready(())
    }
}

impl Drop for SubtaskActor {
    /// The backstop: whatever way a subtask goes, its supervisor hears of it. Runs during unwinding at times, so nothing here
    /// may panic.
    fn drop(&mut self) {
        if !self.reported {
            self.reported = true;
            let error = Error::new(ErrorKind::Failed, "a subtask vanished")
                .operator(&self.name)
                .subtask(self.id.index);
            self.report(SubtaskNews::Ended(ExitCause::Failed(error)));
        }
    }
}
