//! Asking the processor for a cache line before it is needed.

/// Fetch the line at `at`, to be written if `write`. Any address will do: a prefetch never faults.
#[inline]
#[cfg(target_arch = "x86_64")]
pub fn line(at: *const u8, write: bool) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    if write {
        // SAFETY: PREFETCHW reads and writes nothing that can be seen; processors without it take it for a NOP.
        unsafe {
            std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
        }
    } else {
        // SAFETY: SSE is part of x86-64, and a prefetch reads nothing that can be seen.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
}

/// Other processors find out by themselves.
#[inline]
#[cfg(not(target_arch = "x86_64"))]
pub fn line(_at: *const u8, _write: bool) {}
