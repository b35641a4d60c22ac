//! Memory for very many equal things that stay where they are: in pieces of some megabytes, of which the system is asked to make huge pages.
//!
//! A table of ten million keys in pages of 4 KiB costs the processor a walk through the page tables at nearly every access, and one page
//! fault for every hundred new entries; docs/performance.md has what huge pages bring.

use super::slab::BLOCK;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// From this size on, what was small gets a whole piece.
const SMALL: usize = HUGE / 2;

/// Room for things of type `T`, numbered from 0. It does not know which of them are there.
///
/// Invariants: `pieces[n]` points to room for [`PIECE`](Self::PIECE) of them, aligned for `T`, that is this one's alone and was allocated with
/// [`layout`](Self::layout); but if `pieces` has one element, that has room for `room`. For each piece but a first small one `room` is
/// larger by `PIECE`.
#[derive(Debug)]
pub(super) struct Memory<T> {
    pieces: Vec<NonNull<T>>,
    room: usize,
}

// SAFETY: it owns its pieces as a `Vec<T>` owns its one, and gives them out only through methods that borrow it accordingly.
#[allow(unsafe_code)]
unsafe impl<T: Send> Send for Memory<T> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<T: Sync> Sync for Memory<T> {}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), room: 0 }
    }
}

impl<T> Memory<T> {
    /// How many there are in a piece: a power of two, of 4 to 8 MiB; at least [`BLOCK`], of which none is in two pieces.
    const PIECE: usize = {
        let size = if size_of::<T>() == 0 { 1 } else { size_of::<T>() };
        let many = (2 * HUGE).div_ceil(size).next_power_of_two();
        if many < BLOCK { BLOCK } else { many }
    };

    const SHIFT: u32 = Self::PIECE.trailing_zeros();

    /// How many there is room for.
    #[inline]
    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// Where number `at` lies, or would lie. Points into a piece only if it is less than [`room`](Self::room).
    #[inline]
    pub(super) fn address(&self, at: usize) -> *const T {
        let piece =
            self.pieces.get(at >> Self::SHIFT).map_or(std::ptr::null(), |piece| piece.as_ptr().cast_const());
        piece.wrapping_add(at & (Self::PIECE - 1))
    }

    /// Where number `at` lies.
    ///
    /// # Safety
    ///
    /// `at` is less than [`room`](Self::room). Nothing is said of whether anything is there.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) unsafe fn at(&self, at: usize) -> *mut T {
        // SAFETY: `at < room`, so by the invariant its piece is there and has room for it.
        unsafe { self.pieces.get_unchecked(at >> Self::SHIFT).as_ptr().add(at & (Self::PIECE - 1)) }
    }

    /// Makes room for at least `room`; what is there keeps its number, and its address unless all is small.
    pub(super) fn reserve(&mut self, room: usize) {
        if self.room < Self::PIECE && self.room < room {
            self.grow_small(room);
        }
        while self.room < room {
            self.pieces.push(allocate(Self::PIECE));
            self.room += Self::PIECE;
        }
    }

    /// Gives back the pieces that are not needed for `room`, and keeps one to spare.
    pub(super) fn release(&mut self, room: usize) {
        while self.room >= room.saturating_add(2 * Self::PIECE) {
            if let Some(piece) = self.pieces.pop() {
                free(piece, Self::PIECE);
            }
            self.room -= Self::PIECE;
        }
    }

    /// Makes the first piece larger.
    #[cold]
    #[allow(unsafe_code)]
    fn grow_small(&mut self, room: usize) {
        let wanted = room.max(2 * self.room).max(4);
        let wanted =
            if wanted.saturating_mul(size_of::<T>()) > SMALL { Self::PIECE } else { wanted.min(Self::PIECE) };
        let new = allocate(wanted);
        if let Some(old) = self.pieces.pop() {
            // SAFETY: both are valid for so many, the new one being larger, and are not the same.
            unsafe { std::ptr::copy_nonoverlapping(old.as_ptr(), new.as_ptr(), self.room) };
            free(old, self.room);
        }
        self.pieces.push(new);
        self.room = wanted;
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        let room = self.room.min(Self::PIECE);
        for piece in self.pieces.drain(..) {
            free(piece, room);
        }
    }
}

/// Pieces of whole huge pages begin where one does.
fn layout<T>(room: usize) -> Layout {
    // More than there are addresses: as when there is no memory left.
    let Ok(plain) = Layout::array::<T>(room) else { handle_alloc_error(Layout::new::<T>()) };
    let align = if plain.size() >= HUGE { HUGE } else { 1 };
    plain.align_to(align).unwrap_or(plain)
}

#[allow(unsafe_code)]
fn allocate<T>(room: usize) -> NonNull<T> {
    let layout = layout::<T>(room);
    if layout.size() == 0 {
        return NonNull::dangling();
    }
    // SAFETY: the size is not 0.
    let memory = unsafe { alloc(layout) };
    let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
    #[cfg(all(target_os = "linux", not(miri)))]
    if layout.size() >= HUGE {
        // SAFETY: the range is within what was allocated just now, and the advice changes nothing that a program sees. Where it cannot be
        // followed, pages are small.
        let _ = unsafe {
            rustix::mm::madvise(
                memory.as_ptr().cast(),
                layout.size() / HUGE * HUGE,
                rustix::mm::Advice::LinuxHugepage,
            )
        };
    }
    memory.cast()
}

#[allow(unsafe_code)]
fn free<T>(piece: NonNull<T>, room: usize) {
    let layout = layout::<T>(room);
    if layout.size() > 0 {
        // SAFETY: it was allocated with this very layout, and its owner has just given it up.
        unsafe { dealloc(piece.as_ptr().cast(), layout) };
    }
}
