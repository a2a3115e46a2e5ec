//! The fast checksum against a byte-wise twin.

use proptest::prelude::*;
use vbackend_proto::checksum::{self, Sum};

/// RFC 1071 §4.1 as it is written: 16-bit words, an odd byte on the left, carries added at the end.
fn naive_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for (index, byte) in bytes.iter().enumerate() {
        sum += u32::from(*byte) << if index % 2 == 0 { 8 } else { 0 };
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded after each byte")
}

proptest! {
    #[test]
    fn the_sum_is_the_naive_one(bytes in proptest::collection::vec(any::<u8>(), 0..2000), start in 0usize..9) {
        let bytes = &bytes[start.min(bytes.len())..];
        prop_assert_eq!(checksum::sum(bytes).folded(), naive_sum(bytes));
    }

    #[test]
    fn long_runs_of_ones_do_not_overflow(len in 0usize..70_000, byte in prop_oneof![Just(0xffu8), any::<u8>()]) {
        let bytes = vec![byte; len];
        prop_assert_eq!(checksum::sum(&bytes).folded(), naive_sum(&bytes));
    }

    #[test]
    fn even_pieces_add_up_to_the_whole(bytes in proptest::collection::vec(any::<u8>(), 0..500), cut in 0usize..250, word: u16) {
        let cut = (2 * cut).min(bytes.len() & !1);
        let mut sum = Sum::new();
        sum.add(&bytes[..cut]);
        sum.add_word(word);
        sum.add(&bytes[cut..]);
        let whole = [&word.to_be_bytes(), &bytes[..]].concat();
        prop_assert_eq!(sum.folded(), naive_sum(&whole));
    }

    /// A receiver sums everything, the checksum field included, and must get all ones.
    #[test]
    fn a_completed_checksum_verifies(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), start: u8, offset: u8) {
        let (start, offset) = (u16::from(start), u16::from(offset) & !1);
        let before = bytes.clone();
        let field = usize::from(start + offset);
        let partial = before.get(field..field + 2).map(naive_sum);
        let outcome = checksum::complete(&mut bytes, start, offset);
        prop_assert_eq!(outcome.is_ok(), partial.is_some());
        match partial {
            None => prop_assert_eq!(before, bytes),
            Some(partial) => {
                let covered = &bytes[usize::from(start)..];
                let with_pseudo_header = [&partial.to_be_bytes(), covered].concat();
                prop_assert_eq!(naive_sum(&with_pseudo_header), 0xffff);
                prop_assert_ne!(&bytes[field..field + 2], [0, 0]);
                prop_assert_eq!(&before[..field], &bytes[..field]);
                prop_assert_eq!(&before[field + 2..], &bytes[field + 2..]);
            }
        }
    }
}
