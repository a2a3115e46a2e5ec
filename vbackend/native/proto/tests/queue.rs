//! The output queue against a list of frames.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::VecDeque;

use proptest::prelude::*;
use vbackend_proto::framing::{PREFIX_LEN, Run, frames_of, scan};
use vbackend_proto::queue::{Limits, Queue};

#[derive(Clone, Debug)]
enum Step {
    Offer(Vec<usize>),
    OfferFrame(usize),
    Consume(prop::sample::Index),
    Pop,
    Limits(usize, usize),
    Purge,
    PurgeWhole,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(14usize..200, 1..6).prop_map(Step::Offer),
        1 => (14usize..200).prop_map(Step::OfferFrame),
        4 => any::<prop::sample::Index>().prop_map(Step::Consume),
        2 => Just(Step::Pop),
        1 => (0usize..12, 0usize..1500).prop_map(|(frames, bytes)| Step::Limits(frames, bytes)),
        1 => Just(Step::Purge),
        1 => Just(Step::PurgeWhole),
    ]
}

proptest! {
    #[test]
    fn behaves_like_a_list(steps in prop::collection::vec(step(), 1..80)) {
        let mut limits = Limits { frames: 8, bytes: 1000 };
        let mut queue = Queue::new(limits);
        let mut list: VecDeque<Vec<u8>> = VecDeque::new(); // whole frames, prefixes included
        let mut written = 0; // of the front one
        let mut count = 0u8;
        for step in steps {
            let bytes = |list: &VecDeque<Vec<u8>>, written: usize| list.iter().map(Vec::len).sum::<usize>() - written;
            match step {
                Step::Offer(lengths) => {
                    let mut wire = Vec::new();
                    for len in lengths {
                        count = count.wrapping_add(1);
                        wire.extend_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
                        wire.resize(wire.len() + len, count);
                    }
                    let mut runs = Vec::new();
                    scan(&wire, &mut runs);
                    let mut taken = 0;
                    for frame in frames_of(&wire, runs[0]) {
                        let whole = [&u32::try_from(frame.len()).unwrap().to_be_bytes(), frame].concat();
                        if list.len() >= limits.frames || bytes(&list, written) + whole.len() > limits.bytes {
                            break;
                        }
                        list.push_back(whole);
                        taken += 1;
                    }
                    prop_assert_eq!(queue.offer(&wire, runs[0]), taken);
                }
                Step::OfferFrame(len) => {
                    let fits = list.len() < limits.frames && bytes(&list, written) + len + PREFIX_LEN <= limits.bytes;
                    prop_assert_eq!(queue.offer_frame(&vec![7; len], Run::one(0, len, Default::default()).vnet), fits);
                    if fits {
                        list.push_back([&u32::try_from(len).unwrap().to_be_bytes()[..], &vec![7; len]].concat());
                    }
                }
                Step::Consume(index) => {
                    let amount = index.index(queue.wire().len() + 1);
                    let (mut left, mut done) = (amount + written, 0);
                    while list.front().is_some_and(|front| front.len() <= left) {
                        left -= list.pop_front().map_or(0, |front| front.len());
                        done += 1;
                    }
                    written = left;
                    prop_assert_eq!(queue.consume(amount), done);
                }
                Step::Pop => {
                    queue.pop();
                    list.pop_front();
                    written = 0;
                }
                Step::Limits(frames, bytes) => {
                    limits = Limits { frames, bytes };
                    queue.set_limits(limits);
                }
                Step::Purge => {
                    prop_assert_eq!(queue.purge(), list.len());
                    list.clear();
                    written = 0;
                }
                Step::PurgeWhole => {
                    let kept = usize::from(written > 0);
                    prop_assert_eq!(queue.purge_whole(), list.len() - kept);
                    list.truncate(kept);
                }
            }
            let all: Vec<u8> = list.iter().flatten().copied().skip(written).collect();
            prop_assert_eq!(queue.wire(), &all[..]);
            prop_assert_eq!((queue.len(), queue.is_empty()), (list.len(), list.is_empty()));
            let payload: usize = list.iter().map(|frame| frame.len() - PREFIX_LEN).sum();
            prop_assert_eq!(queue.frame_bytes(), payload);
            for budget in 0..=payload + 1 {
                let (mut left, mut expected) = (budget, 0);
                for (index, whole) in list.iter().enumerate() {
                    if left > 0 {
                        expected += whole.len() - if index == 0 { written } else { 0 };
                        left = left.saturating_sub(whole.len() - PREFIX_LEN);
                    }
                }
                prop_assert_eq!(queue.wire_bytes_for(budget as u64), expected);
            }
            if written == 0 {
                let mut runs = Vec::new();
                queue.runs(&mut runs);
                let frames: Vec<&[u8]> = runs.iter().flat_map(|run| frames_of(queue.wire(), *run)).collect();
                prop_assert_eq!(frames, list.iter().map(|frame| &frame[PREFIX_LEN..]).collect::<Vec<_>>());
            }
        }
    }
}
