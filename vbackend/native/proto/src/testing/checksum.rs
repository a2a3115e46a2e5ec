//! Fuzz target: the checksum against its definition, and completion against verification.

use super::Input;
use crate::checksum::{complete, sum};

/// The definition (RFC 1071 §1): 16-bit words added with end-around carry.
#[must_use]
pub fn naive_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (sum & 0xffff) as u16
}

/// The bytes are a checksum start, an offset, then a frame.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (start, offset) = (input.word(), input.word());
    let before = input.bytes(usize::MAX);
    assert_eq!(sum(before).folded(), naive_sum(before));
    let mut after = before.to_vec();
    let field = usize::from(start) + usize::from(offset);
    match complete(&mut after, start, offset) {
        Err(_) => {
            assert!(field + 2 > before.len() && after == before);
        }
        Ok(()) => {
            assert!(after[..field] == before[..field] && after[field + 2..] == before[field + 2..]);
            if offset.is_multiple_of(2) {
                let partial = &before[field..field + 2];
                let whole = [partial, &after[usize::from(start)..]].concat();
                assert_eq!(naive_sum(&whole), 0xffff, "does not verify");
            }
        }
    }
}
