//! Asks for memory ahead of its use. The one place of this crate that is `unsafe`, for want of a safe name for this instruction; what it
//! brought is measured in docs/performance.md.

/// Brings the cache lines of both ends of `at` near. Changes nothing else.
#[inline]
#[allow(unsafe_code)]
pub(super) fn prefetch<T>(at: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction reads nothing that the program sees and faults at no address; every x86-64 has it.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = std::ptr::from_ref(at).cast::<i8>();
        _mm_prefetch::<_MM_HINT_T0>(first);
        _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(size_of::<T>().saturating_sub(1)));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
