//! A vector whose elements stay where they are while it grows.

use super::memory::Memory;

/// Elements by number. Growing moves none of them once there are some, and takes the same time at any length.
///
/// Invariant: the first `len` are there, and no others; `len` is at most the memory's room.
#[derive(Debug)]
pub(in crate::state) struct StableVec<T> {
    memory: Memory<T>,
    len: usize,
}

impl<T> Default for StableVec<T> {
    fn default() -> Self {
        Self { memory: Memory::default(), len: 0 }
    }
}

impl<T> StableVec<T> {
    /// Number of elements.
    #[inline]
    pub(in crate::state) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    #[allow(unsafe_code)]
    pub(in crate::state) fn get(&self, at: usize) -> Option<&T> {
        // SAFETY: it is there, and borrowed as `self` is.
        (at < self.len).then(|| unsafe { &*self.memory.at(at) })
    }

    #[inline]
    #[allow(unsafe_code)]
    pub(in crate::state) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        // SAFETY: it is there, and borrowed as `self` is: only here.
        (at < self.len).then(|| unsafe { &mut *self.memory.at(at) })
    }

    #[allow(unsafe_code)]
    pub(in crate::state) fn push(&mut self, element: T) {
        self.memory.reserve(self.len + 1);
        // SAFETY: there is room, and nothing in it that would have to be dropped.
        unsafe { self.memory.at(self.len).write(element) };
        self.len += 1;
    }

    /// Takes the last one.
    #[allow(unsafe_code)]
    pub(in crate::state) fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: it was there, and from here on does not count as being there.
        let last = unsafe { self.memory.at(self.len).read() };
        self.memory.release(self.len);
        Some(last)
    }
}

impl<T> Drop for StableVec<T> {
    fn drop(&mut self) {
        if std::mem::needs_drop::<T>() {
            while self.pop().is_some() {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn it_is_a_vector() {
        let mut vec = StableVec::default();
        for n in 0..200_000 {
            vec.push([n, n + 1, n + 2]);
        }
        *vec.get_mut(77).unwrap() = [0; 3];
        assert_eq!(
            (vec.get(77), vec.get(199_999), vec.get(200_000)),
            (Some(&[0; 3]), Some(&[199_999, 200_000, 200_001]), None)
        );
        assert!((0..vec.len()).all(|at| at == 77 || vec.get(at).unwrap()[0] == at));
        assert_eq!(vec.pop(), Some([199_999, 200_000, 200_001]));
        assert_eq!(vec.len(), 199_999);
        while vec.pop().is_some() {}
        assert_eq!((vec.len(), vec.get(0)), (0, None));
    }

    #[test]
    fn each_element_is_dropped_once() {
        let counted = Rc::new(());
        let mut vec = StableVec::default();
        for _ in 0..1000 {
            vec.push(Rc::clone(&counted));
        }
        drop(vec.pop());
        assert_eq!(Rc::strong_count(&counted), 1000);
        drop(vec);
        assert_eq!(Rc::strong_count(&counted), 1);
    }
}
