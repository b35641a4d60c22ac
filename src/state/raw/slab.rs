//! Blocks of elements that others put together as lists.

use super::memory::Memory;
use super::{LINE, prefetch_line};

/// How many elements there is room for in a block.
pub(in crate::state) const BLOCK: usize = 64;

/// How many lines of the cache are asked for in one go: the processor waits where there are too many.
const MOST_LINES: usize = 32;

/// How many blocks may be free, beside one for each of so many that are not.
const SPARE: usize = 64;

/// The number of an element: its block's, and its own in there.
pub(in crate::state) type ElementId = u32;

/// Blocks by number. In each one, elements lie one beside the other from its beginning on. An element has one number, by which it is found at
/// once; whether one is there is known for any number.
///
/// Invariants: of block `b` the first `filled[b]` elements are there, and no others; they are at most [`BLOCK`], and lie from number `b *
/// BLOCK` on in `memory`, which has room for all that are there. A block belongs to somebody if there is an element in it.
#[derive(Debug)]
pub(in crate::state) struct Slab<T> {
    memory: Memory<T>,
    filled: Vec<u8>,
    /// Blocks that belong to nobody; and some that were such, and are not any more.
    free: Vec<u32>,
    /// How many belong to nobody.
    idle: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { memory: Memory::default(), filled: Vec::new(), free: Vec::new(), idle: 0 }
    }
}

/// The number of the element of a block at a place, of which only the last bits count.
#[inline]
#[allow(clippy::cast_possible_truncation)] // six bits
pub(in crate::state) fn element_id(block: u32, place: usize) -> ElementId {
    block.wrapping_mul(BLOCK as u32) | (place % BLOCK) as u32
}

/// The number of a block's first element.
#[allow(clippy::cast_possible_truncation)] // 64
const fn first_of(block: u32) -> ElementId {
    block * BLOCK as u32
}

impl<T> Slab<T> {
    /// Whether there is such an element.
    #[inline]
    fn has(&self, id: ElementId) -> bool {
        let id = id as usize;
        self.filled.get(id / BLOCK).is_some_and(|filled| id % BLOCK < usize::from(*filled))
    }

    #[inline]
    #[allow(unsafe_code)]
    pub(in crate::state) fn get(&self, id: ElementId) -> Option<&T> {
        // SAFETY: it is there, so by the invariant there is room for it; and it is borrowed as `self` is.
        self.has(id).then(|| unsafe { &*self.memory.at(id as usize) })
    }

    #[inline]
    #[allow(unsafe_code)]
    pub(in crate::state) fn get_mut(&mut self, id: ElementId) -> Option<&mut T> {
        // SAFETY: as above, and it is borrowed only here.
        self.has(id).then(|| unsafe { &mut *self.memory.at(id as usize) })
    }

    /// The elements of a block.
    #[inline]
    #[allow(unsafe_code)]
    pub(in crate::state) fn block(&self, block: u32) -> &[T] {
        let filled = self.filled.get(block as usize).map_or(0, |filled| usize::from(*filled));
        if filled == 0 {
            return &[];
        }
        // SAFETY: so many are there, one beside the other: pieces of memory have a power of two of elements, and a first small one has no
        // less than are there. They are borrowed as `self` is.
        unsafe { std::slice::from_raw_parts(self.memory.at(first_of(block) as usize), filled) }
    }

    /// Brings all of a block near, if it is not large.
    #[inline]
    pub(in crate::state) fn prefetch_block(&self, block: u32) {
        let lines = (BLOCK * size_of::<T>()).div_ceil(LINE).min(MOST_LINES);
        let first = self.memory.address(first_of(block) as usize).cast::<u8>();
        for line in 0..lines {
            prefetch_line(first.wrapping_add(line * LINE));
        }
    }

    /// Where an element is, or would be.
    #[inline]
    pub(in crate::state) fn address(&self, id: ElementId) -> *const T {
        self.memory.address(id as usize)
    }

    /// Puts an element into a block that belongs to nobody; gives the block.
    pub(in crate::state) fn begin(&mut self, element: T) -> u32 {
        let block = match self.take_free(u32::MAX) {
            Some(block) => block,
            None => {
                let new = u32::try_from(self.filled.len()).ok().filter(|new| *new <= u32::MAX / 64);
                let Some(new) = new else {
                    // Four thousand million elements: as when there is no memory left.
                    std::alloc::handle_alloc_error(std::alloc::Layout::new::<T>())
                };
                self.filled.push(0);
                new
            }
        };
        // There is room in an empty block.
        let _ = self.push(block, element);
        block
    }

    /// Puts the next elements, as many as there is room for, into a block that belongs to nobody; gives the block, and how many they are. `None`
    /// if there are no more.
    #[allow(unsafe_code)]
    pub(in crate::state) fn begin_with(
        &mut self,
        elements: &mut impl Iterator<Item = T>,
    ) -> Option<(u32, usize)> {
        let block = self.begin(elements.next()?);
        let first = first_of(block) as usize;
        self.memory.reserve(first + BLOCK);
        let mut len = 1;
        for element in elements.take(BLOCK - 1) {
            // SAFETY: there is room, and nothing in it that would have to be dropped.
            unsafe { self.memory.at(first + len).write(element) };
            len += 1;
        }
        // Those are there now. Had `elements` panicked, they would never have been.
        *self.filled.get_mut(block as usize)? = u8::try_from(len).ok()?;
        Some((block, len))
    }

    /// A block below `end` that belongs to nobody, to be filled at once.
    fn take_free(&mut self, end: u32) -> Option<u32> {
        while self.idle > 0 {
            let block = self.free.pop()?;
            if block < end && self.filled.get(block as usize) == Some(&0) {
                self.idle -= 1;
                return Some(block);
            }
        }
        self.free.clear();
        None
    }

    /// Puts an element at the end of a block; gives it back if there is no room.
    #[allow(unsafe_code)]
    pub(in crate::state) fn push(&mut self, block: u32, element: T) -> Result<(), T> {
        let Some(filled) = self.filled.get_mut(block as usize).filter(|filled| usize::from(**filled) < BLOCK)
        else {
            return Err(element);
        };
        let at = first_of(block) as usize + usize::from(*filled);
        self.memory.reserve(at + 1);
        // SAFETY: there is room, and nothing in it that would have to be dropped.
        unsafe { self.memory.at(at).write(element) };
        *filled += 1;
        Ok(())
    }

    /// Takes the element at the end of a block.
    #[allow(unsafe_code)]
    pub(in crate::state) fn pop(&mut self, block: u32) -> Option<T> {
        let filled = self.filled.get_mut(block as usize)?;
        *filled = filled.checked_sub(1)?;
        let at = first_of(block) as usize + usize::from(*filled);
        // SAFETY: it was there, and from here on does not count as being there.
        Some(unsafe { self.memory.at(at).read() })
    }

    /// Takes all elements of a block, in order, to the end of `into`.
    #[allow(unsafe_code)]
    pub(in crate::state) fn take_all(&mut self, block: u32, into: &mut Vec<T>) {
        let Some(filled) = self.filled.get_mut(block as usize) else { return };
        let len = usize::from(std::mem::take(filled));
        if len == 0 {
            return;
        }
        into.reserve(len);
        // SAFETY: so many were there, one beside the other as in `block`, and from here on do not count as being there; behind those in `into`
        // there is room for them, which is not in our memory.
        unsafe {
            let source = self.memory.at(first_of(block) as usize);
            std::ptr::copy_nonoverlapping(source, into.as_mut_ptr().add(into.len()), len);
            into.set_len(into.len() + len);
        }
    }

    /// A block that has become empty belongs to nobody any more. If there are too many of those, the last of all blocks moves to one of them:
    /// gives its number and its new one.
    pub(in crate::state) fn give_back(&mut self, block: u32) -> Option<(u32, u32)> {
        self.free.push(block);
        self.idle += 1;
        if self.idle <= SPARE + self.filled.len() / 8 {
            return None;
        }
        while self.filled.last() == Some(&0) {
            self.filled.pop();
            self.idle -= 1;
        }
        let last = u32::try_from(self.filled.len()).ok().and_then(|len| len.checked_sub(1));
        let moved = last.and_then(|from| {
            let to = self.take_free(from)?;
            self.relocate(from, to);
            self.filled.pop();
            Some((from, to))
        });
        self.memory.release(self.filled.len() * BLOCK);
        moved
    }

    /// Moves all elements of a block to an empty one.
    #[allow(unsafe_code)]
    fn relocate(&mut self, from: u32, to: u32) {
        let (Some(&filled), Some(0)) = (self.filled.get(from as usize), self.filled.get(to as usize)) else {
            return;
        };
        if filled > 0 {
            // SAFETY: so many are at the one place; at the other there is room, since `to` is less than `from`, and none is there; they
            // are different blocks. From here on they count as being there instead.
            unsafe {
                let (source, target) =
                    (self.memory.at(first_of(from) as usize), self.memory.at(first_of(to) as usize));
                std::ptr::copy_nonoverlapping(source, target, usize::from(filled));
            }
        }
        self.filled.swap(from as usize, to as usize);
    }

    /// Bytes of the blocks.
    pub(in crate::state) fn bytes(&self) -> usize {
        (self.filled.len() * BLOCK).min(self.memory.room()) * size_of::<T>() + self.filled.capacity()
    }
}

impl<T> Drop for Slab<T> {
    fn drop(&mut self) {
        if std::mem::needs_drop::<T>() {
            for block in 0..u32::try_from(self.filled.len()).unwrap_or(u32::MAX) {
                while self.pop(block).is_some() {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn an_element_is_found_by_its_number_and_nothing_where_none_is() {
        let mut slab = Slab::default();
        assert!(slab.get(0).is_none() && slab.block(0).is_empty());
        let (one, two) = (slab.begin("a".to_owned()), slab.begin("b".to_owned()));
        assert_eq!(slab.push(one, "c".to_owned()), Ok(()));
        assert_eq!(slab.block(one), ["a", "c"]);
        assert_eq!(
            slab.get(element_id(two, 64)),
            Some(&"b".to_owned()),
            "places count from a list's beginning"
        );
        assert_eq!((slab.get(element_id(one, 2)), slab.get(u32::MAX)), (None, None));
        slab.get_mut(element_id(one, 1)).unwrap().push('!');
        for n in 2..BLOCK {
            assert_eq!(slab.push(one, n.to_string()), Ok(()));
        }
        assert_eq!(slab.push(one, "full".to_owned()), Err("full".to_owned()));
        assert_eq!(slab.push(9, "none".to_owned()), Err("none".to_owned()));
        assert_eq!(slab.block(one)[..3], ["a", "c!", "2"]);
        assert_eq!(slab.pop(two), Some("b".to_owned()));
        assert_eq!((slab.pop(two), slab.get(element_id(two, 0))), (None, None));
        assert_eq!(slab.give_back(two), None);
        assert_eq!(slab.begin("d".to_owned()), two, "it is used again");
    }

    #[test]
    fn elements_leave_and_come_a_block_at_a_time() {
        let counted = Rc::new(());
        let mut slab = Slab::default();
        let mut all = (0..150).map(|n| (n, Rc::clone(&counted)));
        let blocks: Vec<(u32, usize)> = std::iter::from_fn(|| slab.begin_with(&mut all)).collect();
        assert_eq!(blocks, [(0, 64), (1, 64), (2, 22)]);
        assert!((0..150).all(|n| slab.get(n).is_some_and(|(is, _)| *is == n)) && slab.get(150).is_none());
        let mut taken = vec![(1_000, Rc::clone(&counted))];
        slab.take_all(1, &mut taken);
        slab.take_all(7, &mut taken);
        assert!(slab.block(1).is_empty() && slab.get(64).is_none());
        assert_eq!(slab.give_back(1), None);
        assert!(taken.iter().map(|(n, _)| *n).eq([1_000].into_iter().chain(64..128)));
        // Into the block that is free now, and a new one.
        let mut taken = taken.into_iter();
        assert_eq!(slab.begin_with(&mut taken), Some((1, 64)));
        assert_eq!(slab.begin_with(&mut taken), Some((3, 1)));
        assert_eq!(slab.begin_with(&mut taken), None);
        assert_eq!(slab.get(64).map(|(n, _)| *n), Some(1_000));
        assert_eq!(Rc::strong_count(&counted), 1 + 151);
        // Those that come from what panics amid a block are not there, but for the first.
        let mut panics = (0..10).map(|n| {
            assert!(n < 5, "boom");
            (n, Rc::clone(&counted))
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| slab.begin_with(&mut panics)));
        assert!(result.is_err());
        assert_eq!(slab.block(4).len(), 1);
        drop(slab);
    }

    #[test]
    fn elements_without_size_leave_and_come_too() {
        let mut slab = Slab::default();
        let mut all = std::iter::repeat_n((), 100);
        assert_eq!(slab.begin_with(&mut all), Some((0, 64)));
        assert_eq!(slab.begin_with(&mut all), Some((1, 36)));
        let mut taken = Vec::new();
        slab.take_all(1, &mut taken);
        assert_eq!((taken.len(), slab.block(0).len(), slab.block(1).len()), (36, 64, 0));
    }

    #[test]
    fn each_element_is_dropped_once_however_they_move() {
        let counted = Rc::new(());
        let mut slab = Slab::default();
        let mut owned: Vec<u32> = (0..2_000).map(|_| slab.begin(Rc::clone(&counted))).collect();
        for block in &owned {
            for _ in 1..BLOCK / 2 {
                slab.push(*block, Rc::clone(&counted)).unwrap();
            }
        }
        assert_eq!(Rc::strong_count(&counted), 1 + owned.len() * BLOCK / 2);
        // In an order that leaves holes everywhere.
        for n in 0..1_900_usize {
            let block = owned.swap_remove(n * 7919 % owned.len());
            while slab.pop(block).is_some() {}
            if let Some((from, to)) = slab.give_back(block) {
                let moved = owned.iter_mut().find(|owned| **owned == from).unwrap();
                *moved = to;
            }
            assert!(
                slab.filled.len() <= (owned.len() + SPARE) * 8 / 7 + 8,
                "{} blocks for {}",
                slab.filled.len(),
                owned.len()
            );
        }
        assert!(owned.iter().all(|block| slab.block(*block).len() == BLOCK / 2));
        assert_eq!(Rc::strong_count(&counted), 1 + owned.len() * BLOCK / 2);
        // Numbers that were free and are gone are not given out.
        let mut fresh: Vec<u32> = (0..500).map(|_| slab.begin(Rc::clone(&counted))).collect();
        fresh.extend(&owned);
        fresh.sort_unstable();
        fresh.dedup();
        assert_eq!(fresh.len(), 600);
        drop(slab);
        assert_eq!(Rc::strong_count(&counted), 1);
    }

    #[test]
    fn elements_may_have_no_size_or_a_large_one() {
        let mut slab = Slab::default();
        let block = slab.begin(());
        assert_eq!((slab.push(block, ()), slab.block(block).len(), slab.pop(block)), (Ok(()), 2, Some(())));
        let mut slab = Slab::default();
        let blocks: Vec<u32> = (0..100_u64).map(|n| slab.begin([n; 3000])).collect();
        for (n, block) in (0..).zip(&blocks) {
            slab.push(*block, [n + 1000; 3000]).unwrap();
        }
        assert!((0..).zip(&blocks).all(|(n, block)| slab.block(*block) == [[n; 3000], [n + 1000; 3000]]));
    }
}
