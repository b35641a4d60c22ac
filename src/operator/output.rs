//! What an operator has emitted and the chain has not yet taken.

use super::Push;
use super::stage::blaming;
use crate::channel::Flow;
use crate::error::Result;
use crate::types::OperatorId;
use std::collections::VecDeque;
use std::fmt;
use std::task::Context as TaskContext;

/// How many records an iterator gives before the subtask looks up: some 10 to 100 microseconds.
pub(super) const STRETCH: usize = 1024;

/// A buffer of single records behind a queue of what stalls: rests of the buffer, and iterators that are pulled as there is room.
pub struct Output<T> {
    stalled: VecDeque<Stalled<T>>,
    items: Vec<T>,
    /// Whether the last drain stopped for others to have their turn, not for want of room.
    paused: bool,
    /// Records that were emitted: those of an iterator count when they are pulled.
    count: u64,
    /// From which length of the buffer on the chain should take it: any, while something stalls.
    enough: usize,
}

/// How far an [`Output`] had come before a call of a handler.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    stalled: usize,
    items: usize,
    count: u64,
    enough: usize,
}

/// From which length of the buffer on the chain should take it.
const ENOUGH: usize = 256;

enum Stalled<T> {
    Rest(std::vec::IntoIter<T>),
    Iter(Box<dyn Iterator<Item = T>>),
}

impl<T> Iterator for Stalled<T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        match self {
            Self::Rest(rest) => rest.next(),
            Self::Iter(iter) => iter.next(),
        }
    }
}

impl<T> Default for Output<T> {
    fn default() -> Self {
        Self { stalled: VecDeque::new(), items: Vec::new(), paused: false, count: 0, enough: ENOUGH }
    }
}

impl<T: 'static> Output<T> {
    #[inline]
    pub(super) fn push(&mut self, record: T) {
        self.items.push(record);
    }

    pub(super) fn push_iter(&mut self, iter: impl Iterator<Item = T> + 'static) {
        if !self.items.is_empty() {
            self.count += self.items.len() as u64;
            self.stalled.push_back(Stalled::Rest(std::mem::take(&mut self.items).into_iter()));
        }
        self.stalled.push_back(Stalled::Iter(Box::new(iter)));
        self.enough = 0;
    }

    /// Whether the chain should take what is here before the next record: the buffer is long, or something stalls.
    #[inline]
    pub(super) fn wants_drain(&self) -> bool {
        self.items.len() >= self.enough
    }

    /// Where it stands, to go back to.
    pub(super) fn mark(&self) -> Mark {
        let Self { stalled, items, count, enough, .. } = self;
        Mark { stalled: stalled.len(), items: items.len(), count: *count, enough: *enough }
    }

    /// Drops what was emitted since the mark. Nothing may have been drained since then.
    pub(super) fn rewind(&mut self, mark: Mark) {
        if self.stalled.len() > mark.stalled && mark.items > 0 {
            // The first iterator since then has put what was here before it into the queue.
            if let Some(Stalled::Rest(rest)) = self.stalled.get_mut(mark.stalled) {
                self.items = rest.take(mark.items).collect();
            }
        }
        self.stalled.truncate(mark.stalled);
        self.items.truncate(mark.items);
        (self.count, self.enough) = (mark.count, mark.enough);
    }

    /// How many records were emitted since this was last asked.
    pub(super) fn take_count(&mut self) -> u64 {
        std::mem::take(&mut self.count)
    }

    /// Passes everything on that the operator `owner` emitted, in the order in which it was emitted, until there is no room, or an
    /// iterator has given many.
    #[inline]
    pub(super) fn drain(&mut self, owner: &OperatorId, down: &mut impl Push<T>) -> Result<Flow> {
        if !self.stalled.is_empty() && self.drain_stalled(owner, down)? == Flow::Full {
            return Ok(Flow::Full);
        }
        self.count += self.items.len() as u64;
        let mut items = self.items.drain(..);
        let flow = down.push_all(&mut items)?;
        if flow == Flow::Full {
            // The rest moves once, behind a cursor, so that a long rest costs nothing more per stall.
            let rest: Vec<T> = items.collect();
            if !rest.is_empty() {
                self.stalled.push_back(Stalled::Rest(rest.into_iter()));
                self.enough = 0;
            }
        }
        Ok(flow)
    }

    /// Goes on after `Full`; see [`Push::resume`].
    pub(super) fn resume(
        &mut self,
        owner: &OperatorId,
        down: &mut impl Push<T>,
        task: &mut TaskContext<'_>,
    ) -> Result<Flow> {
        while down.resume(task)? == Flow::Ready {
            if self.drain(owner, down)? == Flow::Ready {
                return Ok(Flow::Ready);
            }
            if self.paused {
                task.waker().wake_by_ref();
                break;
            }
        }
        Ok(Flow::Full)
    }

    #[cold]
    fn drain_stalled(&mut self, owner: &OperatorId, down: &mut impl Push<T>) -> Result<Flow> {
        self.paused = false;
        let mut left = STRETCH;
        while let Some(front) = self.stalled.front_mut() {
            let new = u64::from(matches!(front, Stalled::Iter(_)));
            let count = &mut self.count;
            let mut stretch = std::iter::from_fn(|| {
                left = left.checked_sub(1)?;
                let record = blaming(owner, || front.next())?;
                *count += new;
                Some(record)
            });
            if down.push_all(&mut stretch)? == Flow::Full {
                return Ok(Flow::Full);
            }
            if left == 0 {
                self.paused = true;
                return Ok(Flow::Full);
            }
            self.stalled.pop_front();
        }
        self.enough = ENOUGH;
        Ok(Flow::Ready)
    }
}

impl<T> fmt::Debug for Output<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("stalled", &self.stalled.len())
            .field("items", &self.items.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::Control;

    /// Takes `room` records between two resumes.
    #[derive(Default)]
    struct Narrow {
        room: usize,
        taken: Vec<u32>,
    }

    impl Push<u32> for Narrow {
        fn push(&mut self, record: u32) -> Result<Flow> {
            assert!(self.room > 0, "pushed after Full");
            self.taken.push(record);
            self.room -= 1;
            Ok(if self.room == 0 { Flow::Full } else { Flow::Ready })
        }
        fn resume(&mut self, _: &mut TaskContext<'_>) -> Result<Flow> {
            Ok(Flow::Ready)
        }
        fn finish(&mut self) -> Result<Flow> {
            Ok(Flow::Ready)
        }
        fn tend(&mut self, _: &mut TaskContext<'_>) -> Result<bool> {
            Ok(true)
        }
        fn control(&mut self, _: &mut Control<'_>) -> Result {
            Ok(())
        }
    }

    #[test]
    fn everything_comes_in_the_order_of_emission_however_narrow_the_way() {
        for room in 1..12 {
            let mut output = Output::default();
            output.push(0);
            output.push(1);
            output.push_iter(2..5);
            output.push(5);
            output.push_iter(6..8);
            output.push(8);
            let mut down = Narrow { room, ..Narrow::default() };
            let mut rounds = 0;
            while output.drain(&"op".into(), &mut down).unwrap() == Flow::Full {
                down.room = room;
                rounds += 1;
                assert!(rounds < 20);
            }
            assert_eq!(down.taken, (0..9).collect::<Vec<_>>(), "room {room}");
        }
    }

    #[test]
    fn going_back_leaves_what_was_there_before_whatever_was_emitted_since() {
        let emissions: [fn(&mut Output<u32>); 5] = [
            |_| {},
            |out| out.push(90),
            |out| out.push_iter(90..95),
            |out| {
                out.push(90);
                out.push_iter(91..95);
                out.push(95);
                out.push_iter(96..98);
            },
            |out| {
                out.push_iter(90..91);
                out.push(91);
            },
        ];
        for before in emissions {
            for undone in emissions {
                let drained = |undo: bool| {
                    let mut output = Output::default();
                    output.push(0);
                    before(&mut output);
                    if undo {
                        let mark = output.mark();
                        undone(&mut output);
                        output.rewind(mark);
                    }
                    let wanted = output.wants_drain();
                    output.push(1);
                    let mut down = Narrow { room: 100, ..Narrow::default() };
                    assert_eq!(output.drain(&"op".into(), &mut down).unwrap(), Flow::Ready);
                    (down.taken, output.take_count(), wanted)
                };
                assert_eq!(drained(true), drained(false));
            }
        }
    }

    #[test]
    fn an_iterator_is_pulled_only_as_far_as_there_is_room() {
        let mut output = Output::default();
        output.push_iter(0..u32::MAX);
        let mut down = Narrow { room: 3, ..Narrow::default() };
        assert_eq!(output.drain(&"op".into(), &mut down).unwrap(), Flow::Full);
        assert_eq!(down.taken, [0, 1, 2]);
    }
}
