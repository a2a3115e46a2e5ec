//! Cutting a byte stream: the same frames come out however it was split.
#![allow(missing_docs, clippy::unwrap_used)]

use proptest::prelude::*;
use vbackend_proto::framing::{MAX_FRAME, MIN_FRAME, PREFIX_LEN, Run, frames_of, scan};

fn wire_of(lengths: &[usize]) -> Vec<u8> {
    let mut wire = Vec::new();
    for (index, len) in lengths.iter().enumerate() {
        wire.extend_from_slice(&u32::try_from(*len).unwrap().to_be_bytes());
        wire.extend((0..*len).map(|at| (index * 31 + at) as u8));
    }
    wire
}

/// What a stream port does: keep the cut-off frame, append what arrives, scan.
fn reassemble(wire: &[u8], cuts: &[usize]) -> (Vec<Vec<u8>>, usize) {
    let (mut frames, mut runts, mut buffer, mut from) = (Vec::new(), 0, Vec::new(), 0);
    for to in cuts.iter().copied().chain([wire.len()]) {
        buffer.extend_from_slice(&wire[from..to]);
        from = to;
        let mut runs: Vec<Run> = Vec::new();
        let found = scan(&buffer, &mut runs);
        runts += found.runts;
        frames.extend(runs.iter().flat_map(|run| frames_of(&buffer, *run)).map(<[u8]>::to_vec));
        assert_eq!(runs.iter().map(|run| run.frames).sum::<usize>() + found.runts, found.frames);
        buffer.drain(..found.consumed);
    }
    (frames, runts)
}

#[test]
fn every_single_split_gives_the_same_frames() {
    let wire = wire_of(&[14, 0, 60, 13, 1514, 14]);
    let whole = reassemble(&wire, &[]);
    assert_eq!((whole.0.len(), whole.1), (4, 2));
    for cut in 0..=wire.len() {
        assert_eq!(reassemble(&wire, &[cut]), whole, "cut at {cut}");
    }
    let every_byte: Vec<usize> = (1..wire.len()).collect();
    assert_eq!(reassemble(&wire, &every_byte), whole);
}

proptest! {
    #[test]
    fn splits_do_not_matter(
        lengths in prop::collection::vec(prop_oneof![0usize..20, 60usize..1600, Just(MAX_FRAME)], 0..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let wire = wire_of(&lengths);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
        cuts.sort_unstable();
        let (frames, runts) = reassemble(&wire, &cuts);
        let good: Vec<usize> = lengths.iter().copied().filter(|len| *len >= MIN_FRAME).collect();
        prop_assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), good);
        prop_assert_eq!(runts, lengths.iter().filter(|len| **len < MIN_FRAME).count());
    }

    #[test]
    fn garbage_never_gives_a_bad_run(wire in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut runs = Vec::new();
        let found = scan(&wire, &mut runs);
        prop_assert!(found.consumed <= wire.len());
        for run in runs {
            prop_assert!(run.end <= found.consumed && run.frames > 0);
            let frames: Vec<&[u8]> = frames_of(&wire, run).collect();
            prop_assert_eq!(frames.len(), run.frames);
            let bytes: usize = frames.iter().map(|frame| frame.len() + PREFIX_LEN).sum();
            prop_assert_eq!(bytes, run.end - run.start);
            prop_assert!(frames.iter().all(|frame| (MIN_FRAME..=MAX_FRAME).contains(&frame.len())));
        }
    }
}
