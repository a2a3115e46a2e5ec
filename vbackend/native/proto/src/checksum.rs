//! The Internet checksum (RFC 1071), pseudo-headers, and completing the checksums that a sender left to others.
//!
//! The sum is taken in the machine's byte order, many 32-bit words at a time (RFC 1071 §2 B and C), and put in network
//! order at the end. `proto/tests/checksum.rs` checks it against a byte-wise twin.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::drop_reason::DropReason;

/// One's complement sum in the making. Its pieces are added with [`Sum::add`]; only the last may have an odd length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64); // of 32-bit words as they lie in memory

/// Words side by side, in as many lanes of vector registers.
const LANES: usize = 16;
const BLOCK: usize = 4 * LANES;
/// Blocks whose halves a lane of 32 bits can hold: `MOST * 0xffff` is below 2^32.
const MOST: usize = 1 << 16;

impl Sum {
    /// Nothing yet.
    #[must_use]
    pub const fn new() -> Sum {
        Sum(0)
    }

    /// Add `bytes`. A 64-bit sum of 32-bit words cannot overflow below 16 GiB.
    #[inline]
    pub fn add(&mut self, bytes: &[u8]) {
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        self.0 += blocks.chunks(MOST).map(sum_of_blocks).sum::<u64>() + sum_of_words(rest);
    }

    /// Add a 16-bit number, as if it lay there in network order.
    #[inline]
    pub fn add_word(&mut self, word: u16) {
        self.0 += u64::from(word.to_be());
    }

    /// The sum, not complemented: what a partial checksum field holds.
    #[inline]
    #[must_use]
    pub fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::from_be(u16::try_from(sum).unwrap_or(u16::MAX))
    }

    /// The checksum: the complement of the sum.
    #[inline]
    #[must_use]
    pub fn checksum(self) -> u16 {
        !self.folded()
    }
}

/// The sum of up to [`MOST`] blocks, of 16-bit words.
///
/// Each lane keeps the sum of its words' high halves, and that of whole words modulo 2^32: what the low halves come to is the
/// difference, and a word costs three operations of any vector unit.
#[inline]
fn sum_of_blocks(blocks: &[[u8; BLOCK]]) -> u64 {
    let (mut whole, mut high) = ([0u32; LANES], [0u32; LANES]);
    for block in blocks {
        let (words, _) = block.as_chunks();
        for ((whole, high), word) in whole.iter_mut().zip(&mut high).zip(words) {
            let word = u32::from_ne_bytes(*word);
            *whole = whole.wrapping_add(word);
            *high += word >> 16;
        }
    }
    let lanes = whole.iter().zip(&high);
    lanes.map(|(whole, high)| u64::from(*high) + u64::from(whole.wrapping_sub(high << 16))).sum()
}

/// The sum of less than a block, of 32-bit words; missing bytes of the last one are zero.
#[inline]
fn sum_of_words(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks();
    let last = match *rest {
        [a, b, c] => [a, b, c, 0],
        [a, b] => [a, b, 0, 0],
        [a] => [a, 0, 0, 0],
        _ => [0; 4],
    };
    words.iter().chain([&last]).map(|word| u64::from(u32::from_ne_bytes(*word))).sum()
}

/// The sum over `bytes`.
#[inline]
#[must_use]
pub fn sum(bytes: &[u8]) -> Sum {
    let mut sum = Sum::new();
    sum.add(bytes);
    sum
}

/// The IPv4 pseudo-header of UDP and TCP (RFC 768, RFC 9293 §3.1). `len`: bytes from the transport header on.
#[must_use]
pub fn pseudo_header_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: u16) -> Sum {
    let mut sum = Sum::new();
    sum.add(&source.octets());
    sum.add(&destination.octets());
    sum.add_word(u16::from(protocol));
    sum.add_word(len);
    sum
}

/// The IPv6 pseudo-header (RFC 8200 §8.1). `len`: bytes from the upper-layer header on.
#[must_use]
pub fn pseudo_header_v6(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, len: u32) -> Sum {
    let mut sum = Sum::new();
    sum.add(&source.octets());
    sum.add(&destination.octets());
    sum.add(&len.to_be_bytes());
    sum.add_word(u16::from(next_header));
    sum
}

/// Finish a partial checksum in place (VIRTIO 1.2 §5.1.6.2, `VIRTIO_NET_HDR_F_NEEDS_CSUM`).
///
/// The field at `csum_start + csum_offset` holds the folded pseudo-header sum; it becomes the checksum over everything
/// from `csum_start` to the end of `bytes`. A result of 0 is stored as 0xffff: UDP's 0 means "none" (RFC 768), and to
/// every other protocol the two are the same number.
///
/// # Errors
/// [`DropReason::BadOffload`] when the field does not lie inside `bytes`; `bytes` are unchanged then.
pub fn complete(bytes: &mut [u8], csum_start: u16, csum_offset: u16) -> Result<(), DropReason> {
    let start = usize::from(csum_start);
    let field = start + usize::from(csum_offset);
    if field + 2 > bytes.len() {
        return Err(DropReason::BadOffload);
    }
    let checksum = match sum(&bytes[start..]).checksum() {
        0 => 0xffff,
        checksum => checksum,
    };
    bytes[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes).folded(), 0xddf2);
        assert_eq!(sum(&bytes).checksum(), !0xddf2);
    }

    #[test]
    fn odd_and_empty_pieces() {
        let long = vec![0xff; 2 * BLOCK * MOST + 1]; // every lane full, more than once
        for (bytes, expected) in [
            (&[] as &[u8], 0),
            (&[0xab], 0xab00),
            (&[0xab, 0xcd, 0xef], 0x9ace),
            (&[0xff; 8], 0xffff),
            (&[0xff; 65_535], 0xff00),
            (&long, 0xff00),
        ] {
            assert_eq!(sum(bytes).folded(), expected, "{} bytes", bytes.len());
        }
    }

    /// UDP 10.0.0.1:1000 to 10.0.0.2:2000 with the payload `hi`, its checksum worked out by hand.
    #[test]
    fn a_udp_datagram_is_completed() {
        let (source, destination) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let partial = pseudo_header_v4(source, destination, 17, 10).folded();
        assert_eq!(partial, 0x141e);
        let mut datagram = vec![0xee; 3]; // what lies in front does not count
        datagram.extend_from_slice(&[0x03, 0xe8, 0x07, 0xd0, 0x00, 0x0a]);
        datagram.extend_from_slice(&partial.to_be_bytes());
        datagram.extend_from_slice(b"hi");
        complete(&mut datagram, 3, 6).unwrap();
        assert_eq!(datagram[9..11], [0x77, 0xb6]);
    }

    #[test]
    fn a_checksum_of_zero_becomes_all_ones() {
        let mut bytes = [0xff, 0xff, 0, 0];
        complete(&mut bytes, 0, 2).unwrap();
        assert_eq!(bytes, [0xff; 4]);
    }

    #[test]
    fn a_field_outside_the_frame_is_refused() {
        // (bytes there, start, offset, good)
        for (len, start, offset, good) in [
            (20, 4, 14, true),
            (20, 4, 15, false),
            (20, 20, 0, false),
            (20, 65_535, 65_535, false),
            (0, 0, 0, false),
            (2, 0, 0, true),
        ] {
            let mut bytes = vec![1; len];
            let outcome = complete(&mut bytes, start, offset);
            assert_eq!(outcome.is_ok(), good, "{len} bytes, start {start}, offset {offset}");
            assert!(good || bytes.iter().all(|byte| *byte == 1));
        }
    }

    #[test]
    fn pseudo_headers_are_what_the_rfcs_lay_out() {
        let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
        let mut laid_out = Vec::new();
        laid_out.extend_from_slice(&v6.octets());
        laid_out.extend_from_slice(&v6.octets());
        laid_out.extend_from_slice(&[0, 1, 0, 32, 0, 0, 0, 58]);
        assert_eq!(pseudo_header_v6(v6, v6, 58, 0x1_0020).folded(), sum(&laid_out).folded());
    }
}
