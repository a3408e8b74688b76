//! Copying to where another thread reads, for a copy that must not take long.
//!
//! What is copied to was read before on another processor, whose caches have it. A store first has to get it from there, which
//! takes longer than all the rest. Stores that go past the caches do not wait for that.

/// Copies memory.
///
/// # Safety
/// As for [`copy_nonoverlapping`](std::ptr::copy_nonoverlapping): `from` is readable and `to` writable for `length` bytes, and
/// they do not overlap. Besides, `to` is at a multiple of 16.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: as the caller promises.
    unsafe { std::ptr::copy_nonoverlapping(from, to, length) };
}

/// Copies memory.
///
/// # Safety
/// As for [`copy_nonoverlapping`](std::ptr::copy_nonoverlapping): `from` is readable and `to` writable for `length` bytes, and
/// they do not overlap. Besides, `to` is at a multiple of 16.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
    use std::arch::x86_64::{__m128i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm_sfence, _mm_stream_si128};

    const LINE: usize = 64;
    const PIECE: usize = size_of::<__m128i>();
    /// How far ahead of the copy to ask for what comes.
    const AHEAD: usize = 1024;

    debug_assert!(to.addr().is_multiple_of(PIECE));
    let lines = length / LINE * LINE;

    // SAFETY: every piece is within the first `lines` bytes of both, and `to` is at a multiple of its size; what is asked for
    // ahead may be anywhere, since nothing comes of it where nothing is. The instructions are in every processor of the
    // architecture. The fence ends what the stores past the caches may do out of order, so that whoever sees what is stored
    // after this function also sees them. What is left is less than a line.
    unsafe {
        for line in (0..lines).step_by(LINE) {
            _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(line + AHEAD).cast());
            let pieces: [__m128i; LINE / PIECE] =
                std::array::from_fn(|piece| _mm_loadu_si128(from.add(line + piece * PIECE).cast()));

            for (piece, value) in pieces.into_iter().enumerate() {
                _mm_stream_si128(to.add(line + piece * PIECE).cast(), value);
            }
        }

        _mm_sfence();
        std::ptr::copy_nonoverlapping(from.add(lines), to.add(lines), length - lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(64))]
    struct Place([u8; 1024]);

    #[test]
    fn every_length_from_every_place_is_copied_and_nothing_else() {
        let from: Vec<u8> = (0..1024 + 16).map(|number| (number % 251) as u8).collect();

        for length in 0..=1024 {
            for at in [0, 1, 8, 15] {
                let mut to = Place([255; 1024]);
                // SAFETY: both have room for as much, and the place is at a multiple of 64.
                unsafe { copy(from[at..].as_ptr(), to.0.as_mut_ptr(), length) };
                assert_eq!(to.0[..length], from[at..at + length]);
                assert!(to.0[length..].iter().all(|&byte| byte == 255), "{length} from {at}");
            }
        }
    }
}
