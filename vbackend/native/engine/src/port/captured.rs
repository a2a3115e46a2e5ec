//! A port's frames in a capture: those its peer sent once their fate is known, those for the peer once they were offered
//! to it. Frames that were never frames (runts, cut off, of a wrong sender) and frames that another worker could not
//! deliver are only counted.

use vbackend_proto::capture::verdict::Verdict;
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::{PREFIX_LEN, Run, frames_of};
use vbackend_proto::offload::settle;

use super::{Link, Port};
use crate::capture::{Direction, Taps};
use crate::sys;

/// What became of the frames of a transmit, as far as there is something to say. The verdicts on one frame add up.
pub type Verdicts = Vec<(Run, Verdict)>;

/// Note what became of all frames of `run` but the first `taken`.
pub fn note(verdicts: &mut Verdicts, wire: &[u8], run: Run, taken: usize, verdict: Verdict) {
    let skipped: usize = frames_of(wire, run).take(taken).map(|frame| PREFIX_LEN + frame.len()).sum();
    let rest = Run { start: run.start + skipped, frames: run.frames - taken, ..run };
    match verdicts.last_mut() {
        _ if rest.frames == 0 => {}
        Some((last, why)) if last.end == rest.start && *why == verdict => last.end = rest.end,
        _ => verdicts.push((rest, verdict)),
    }
}

/// Record the frames of `runs`, each with what `verdicts` say of it, as they look on a wire: with complete checksums and in
/// segments. A frame that cannot be settled is recorded as it is.
pub fn record(taps: &Taps, direction: Direction, wire: &[u8], runs: &[Run], verdicts: &mut [(Run, Verdict)]) {
    verdicts.sort_by_key(|(range, _)| range.start);
    let now_ns = sys::realtime_ns();
    let (mut first, mut seen) = (0, 0);
    for run in runs {
        let mut at = run.start;
        if at < seen {
            first = 0;
        }
        for frame in frames_of(wire, *run) {
            let verdict = verdict_at(at, verdicts, &mut first);
            for_each_plain(frame, run, |frame| taps.record(direction, &[], frame, verdict, now_ns));
            at += PREFIX_LEN + frame.len();
        }
        seen = at;
    }
}

/// What `verdicts`, in the order of their starts, say of the frame at `at`. Those in front of `first` say nothing of it
/// or of what lies behind; more of them may be in front afterwards.
fn verdict_at(at: usize, verdicts: &[(Run, Verdict)], first: &mut usize) -> Verdict {
    *first += verdicts[*first..].iter().take_while(|(range, _)| range.end <= at).count();
    let begun = verdicts[*first..].iter().take_while(|(range, _)| range.start <= at);
    let own = begun.filter(|(range, _)| at < range.end).map(|(_, verdict)| *verdict);
    own.reduce(Verdict::and).unwrap_or_default()
}

/// Show a frame of `run` as the plain frames that it stands for.
fn for_each_plain(frame: &[u8], run: &Run, mut show: impl FnMut(&[u8])) {
    let (mut wire, mut segments) = (Vec::new(), Vec::new());
    if run.vnet.is_plain() || settle(frame, &run.vnet, &mut wire, &mut segments).is_err() {
        return show(frame);
    }
    segments.iter().flat_map(|run| frames_of(&wire, *run)).for_each(show);
}

impl Port {
    /// Whether frames of this port are captured here. A tun unit carries packets, which it captures itself.
    #[inline]
    pub(super) fn is_captured(&self) -> bool {
        !self.taps.is_empty() && !matches!(self.link, Some(Link::Unit(_)))
    }

    /// Record received frames of one fate.
    pub(super) fn capture_received(&self, wire: &[u8], runs: &[Run], refusal: Option<DropReason>) {
        let verdict = refusal.map(Verdict::from).unwrap_or_default();
        if !self.taps.want(Direction::Inbound, &verdict) {
            return;
        }
        let now_ns = sys::realtime_ns();
        for run in runs {
            for frame in frames_of(wire, *run) {
                for_each_plain(frame, run, |frame| {
                    self.taps.record(Direction::Inbound, &[], frame, verdict, now_ns);
                });
            }
        }
    }

    /// Record received frames whose source address is not `mac`.
    pub(super) fn capture_spoofed(&self, wire: &[u8], runs: &[Run], mac: [u8; 6]) {
        let now_ns = sys::realtime_ns();
        for run in runs {
            for frame in frames_of(wire, *run).filter(|frame| frame[6..12] != mac) {
                for_each_plain(frame, run, |frame| {
                    self.taps.record(Direction::Inbound, &[], frame, DropReason::Spoofed.into(), now_ns);
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::capture::{Lane, LinkType, Sink, Tap};
    use vbackend_proto::capture::verdict::Impaired;
    use vbackend_proto::framing::put_prefix;
    use vbackend_proto::testing::flow::Flow;
    use vbackend_proto::vnet::VnetHeader;

    #[test]
    fn a_gso_frame_is_shown_as_its_segments() {
        let (frame, vnet) = Flow::tcp().gso(&[7; 3000], 1448);
        // (its header, what is shown)
        for (vnet, expected) in [
            (vnet, Flow::tcp().segments(&[7; 3000], 1448)),
            (VnetHeader::PLAIN, vec![frame.clone()]),
            (VnetHeader { gso_size: 0, ..vnet }, vec![frame.clone()]),
        ] {
            let mut shown = Vec::new();
            for_each_plain(&frame, &Run::one(0, frame.len(), vnet), |frame| shown.push(frame.to_vec()));
            assert!(shown == expected, "{vnet:?}");
        }
    }

    /// Three frames of 14 bytes, numbered in their first byte.
    fn three() -> (Vec<u8>, Run) {
        let mut wire = vec![0; 3 * 18];
        for frame in 0..3u8 {
            put_prefix(&mut wire, usize::from(frame) * 18, 14);
            wire[usize::from(frame) * 18 + 4] = frame;
        }
        (wire, Run { start: 0, end: 54, frames: 3, vnet: VnetHeader::PLAIN })
    }

    #[test]
    fn verdicts_are_ranges_behind_what_was_taken() {
        let (wire, whole) = three();
        // (taken, where the loss begins)
        for (taken, start) in [(0, Some(0)), (1, Some(18)), (2, Some(36)), (3, None)] {
            let mut verdicts = Verdicts::new();
            note(&mut verdicts, &wire, whole, taken, DropReason::QueueFull.into());
            assert_eq!(verdicts.first().map(|(run, _)| run.start), start, "{taken}");
        }
        let mut verdicts = Verdicts::new();
        for (at, reason) in [(0, DropReason::NoPeer), (18, DropReason::NoPeer), (36, DropReason::Oversize)] {
            note(&mut verdicts, &wire, Run::one(at, 14, VnetHeader::PLAIN), 0, reason.into());
        }
        let ranges: Vec<_> = verdicts.iter().map(|(run, why)| (run.start, run.end, why.dropped)).collect();
        assert_eq!(ranges, [(0, 36, Some(DropReason::NoPeer)), (36, 54, Some(DropReason::Oversize))]);
    }

    #[test]
    fn verdicts_are_found_as_by_looking_at_all() {
        let mut dice = 1u32;
        let mut roll = |below: usize| {
            dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (dice >> 8) as usize % below
        };
        for _ in 0..300 {
            let mut verdicts: Vec<(Run, Verdict)> = (0..roll(12))
                .map(|delay_us| {
                    let (start, len) = (roll(20), 1 + roll(6));
                    let range = Run { start, end: start + len, frames: len, vnet: VnetHeader::PLAIN };
                    (range, Impaired { delay_us: 1 + delay_us as u64, ..Impaired::default() }.into())
                })
                .collect();
            verdicts.sort_by_key(|(range, _)| range.start);
            let mut first = 0;
            for at in 0..28 {
                let on = verdicts.iter().filter(|(range, _)| range.start <= at && at < range.end);
                let naive = on.map(|(_, verdict)| *verdict).reduce(Verdict::and).unwrap_or_default();
                assert_eq!(verdict_at(at, &verdicts, &mut first), naive, "at {at} of {verdicts:?}");
            }
        }
    }

    #[test]
    fn each_frame_is_recorded_with_all_that_became_of_it() {
        let (wire, whole) = three();
        let one = |frame: usize| Run::one(frame * 18, 14, VnetHeader::PLAIN);
        let impaired = Impaired { seed: 7, ..Impaired::default() };
        let mut verdicts = Verdicts::new();
        let bit = Impaired { corrupted_bit: Some(9), ..impaired };
        note(&mut verdicts, &wire, one(2), 0, bit.into());
        note(&mut verdicts, &wire, whole, 1, Impaired { delay_us: 2000, ..impaired }.into());
        note(&mut verdicts, &wire, one(0), 0, DropReason::Refused.into());
        let sink = Arc::new(Sink::new(1, 10_000, None).unwrap());
        let mut taps = Taps::default();
        taps.add(Tap::new(Arc::clone(&sink), 0, Lane::Tx, LinkType::Ethernet, 100, None).unwrap());
        for order in [vec![0, 1, 2], vec![2, 0, 1], vec![1, 1]] {
            let runs: Vec<_> = order.iter().map(|frame| one(*frame)).collect();
            record(&taps, Direction::Outbound, &wire, &runs, &mut verdicts);
            let bytes = sink.read(usize::MAX, <[u8]>::to_vec);
            let (mut found, mut rest) = (Vec::new(), &bytes[..]);
            while !rest.is_empty() {
                let (block, behind) = rest.split_at(usize::from(rest[4]));
                let comment = &block[48..48 + usize::from(block[46])];
                found.push((usize::from(block[28]), String::from_utf8_lossy(comment).into_owned()));
                rest = behind;
            }
            let said = ["dropped: refused", "delayed 2 ms", "corrupted bit 9, delayed 2 ms"];
            let expected: Vec<_> = order.iter().map(|frame| (*frame, said[*frame].to_owned())).collect();
            assert_eq!(found, expected);
        }
    }
}
