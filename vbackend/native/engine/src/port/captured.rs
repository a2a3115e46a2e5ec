//! A port's frames in a capture: those its peer sent once their fate is known, those for the peer once they were offered
//! to it. Frames that were never frames (runts, cut off, of a wrong sender) and frames that another worker could not
//! deliver are only counted.

use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::{PREFIX_LEN, Run, frames_of};
use vbackend_proto::offload::settle;

use super::{Link, Port};
use crate::capture::{Direction, Taps};
use crate::sys;

/// Which frames a transmit lost and why, in the order it lost them.
pub type Losses = Vec<(Run, DropReason)>;

/// Note that all frames of `run` but the first `taken` were lost.
pub fn note_loss(losses: &mut Losses, wire: &[u8], run: Run, taken: usize, reason: DropReason) {
    let skipped: usize = frames_of(wire, run).take(taken).map(|frame| PREFIX_LEN + frame.len()).sum();
    let rest = Run { start: run.start + skipped, frames: run.frames - taken, ..run };
    match losses.last_mut() {
        _ if rest.frames == 0 => {}
        Some((last, why)) if last.end == rest.start && *why == reason => last.end = rest.end,
        _ => losses.push((rest, reason)),
    }
}

/// Record the frames of `runs`, each with the verdict that `losses` has on it, as they look on a wire: with complete
/// checksums and in segments. A frame that cannot be settled is recorded as it is.
pub fn record(taps: &Taps, direction: Direction, wire: &[u8], runs: &[Run], losses: &[(Run, DropReason)]) {
    let now_ns = sys::realtime_ns();
    for run in runs {
        let mut at = run.start;
        for frame in frames_of(wire, *run) {
            let lost = losses.iter().find(|(lost, _)| lost.start <= at && at < lost.end);
            let verdict = lost.map(|(_, reason)| *reason);
            for_each_plain(frame, run, |frame| taps.record(direction, &[], frame, verdict, now_ns));
            at += PREFIX_LEN + frame.len();
        }
    }
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
    pub(super) fn capture_received(&self, wire: &[u8], runs: &[Run], verdict: Option<DropReason>) {
        for run in runs {
            let losses = verdict.map(|reason| (*run, reason));
            record(&self.taps, Direction::Inbound, wire, &[*run], losses.as_slice());
        }
    }

    /// Record received frames whose source address is not `mac`.
    pub(super) fn capture_spoofed(&self, wire: &[u8], runs: &[Run], mac: [u8; 6]) {
        let now_ns = sys::realtime_ns();
        for run in runs {
            for frame in frames_of(wire, *run).filter(|frame| frame[6..12] != mac) {
                for_each_plain(frame, run, |frame| {
                    self.taps.record(Direction::Inbound, &[], frame, Some(DropReason::Spoofed), now_ns);
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn losses_are_ranges_behind_what_was_taken() {
        let mut wire = vec![0; 3 * 18];
        (0..3).for_each(|frame| put_prefix(&mut wire, frame * 18, 14));
        let whole = Run { start: 0, end: 54, frames: 3, vnet: VnetHeader::PLAIN };
        // (taken, where the loss begins)
        for (taken, start) in [(0, Some(0)), (1, Some(18)), (2, Some(36)), (3, None)] {
            let mut losses = Losses::new();
            note_loss(&mut losses, &wire, whole, taken, DropReason::QueueFull);
            assert_eq!(losses.first().map(|(run, _)| run.start), start, "{taken}");
        }
        let mut losses = Losses::new();
        for (at, reason) in [(0, DropReason::NoPeer), (18, DropReason::NoPeer), (36, DropReason::Oversize)] {
            note_loss(&mut losses, &wire, Run::one(at, 14, VnetHeader::PLAIN), 0, reason);
        }
        let ranges: Vec<_> = losses.iter().map(|(run, reason)| (run.start, run.end, *reason)).collect();
        assert_eq!(ranges, [(0, 36, DropReason::NoPeer), (36, 54, DropReason::Oversize)]);
    }
}
