//! What a port's peer cannot do itself is done for it; what it can take in one piece is put together.

use vbackend_proto::framing::{Run, frames_of, push_frame, push_run};
use vbackend_proto::offload::{Merger, Offloads, check, settle};
use vbackend_proto::vnet::VnetHeader;

use crate::counters::Lane;

/// Bytes that stay allocated between turns: a full scratch buffer, cut into segments of a usual size.
const KEPT: usize = 3 << 20;

/// A worker's buffers for frames that leave otherwise than they came.
#[derive(Default)]
pub struct Settler {
    merger: Merger,
    wire: Vec<u8>,
    runs: Vec<Run>,
    /// Frames of this turn that left in others.
    pub merged: usize,
}

impl Settler {
    /// The frames that a peer which takes `accepts` gets for `pending`, and where they are; None: the very same.
    ///
    /// Every frame is accounted as often as it comes in and goes out: one that is cut enters once for each segment more,
    /// one that is merged into another has left with that. What cannot be settled is dropped, and so is a frame whose header
    /// does not fit it: no peer gets to see what a hostile one says.
    pub fn prepare(
        &mut self,
        wire: &[u8],
        pending: &[Run],
        accepts: Offloads,
        tx: &mut Lane,
    ) -> Option<(&[u8], &mut Vec<Run>)> {
        let is_fit = |run: &Run| frames_of(wire, *run).all(|frame| check(frame, &run.vnet).is_ok());
        let goes = |run: &Run| run.vnet.is_plain() || accepts.covers(&run.vnet) && is_fit(run);
        if !pending.iter().all(goes) {
            self.settle(wire, pending, accepts, tx);
        } else if accepts == Offloads::NONE
            || !self.merger.merge(wire, pending, accepts, &mut self.wire, &mut self.runs)
        {
            return None;
        } else {
            let merged = count(pending) - count(&self.runs);
            self.merged += merged;
            tx.frames_out += merged as u64;
        }
        Some((&self.wire, &mut self.runs))
    }

    fn settle(&mut self, wire: &[u8], pending: &[Run], accepts: Offloads, tx: &mut Lane) {
        self.wire.clear();
        self.wire.shrink_to(KEPT);
        self.runs.clear();
        for run in pending {
            for frame in frames_of(wire, *run) {
                let settled = match accepts.covers(&run.vnet) {
                    true => check(frame, &run.vnet).map(|()| self.pass(frame, run.vnet)),
                    false => settle(frame, &run.vnet, &mut self.wire, &mut self.runs),
                };
                match settled {
                    Ok(frames) => tx.frames_in += (frames - 1) as u64,
                    Err(reason) => tx.dropped(reason, 1),
                }
            }
        }
    }

    fn pass(&mut self, frame: &[u8], vnet: VnetHeader) -> usize {
        let at = push_frame(&mut self.wire, frame);
        push_run(&mut self.runs, Run::one(at, frame.len(), vnet));
        1
    }
}

fn count(runs: &[Run]) -> usize {
    runs.iter().map(|run| run.frames).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Counters;
    use vbackend_proto::drop_reason::DropReason;
    use vbackend_proto::testing::flow::Flow;
    use vbackend_proto::vnet::{GSO_NONE, GSO_UDP};

    /// The frames a peer gets, with their headers.
    fn prepared(
        frames: &[(Vec<u8>, VnetHeader)],
        accepts: Offloads,
        tx: &mut Lane,
    ) -> Option<Vec<(Vec<u8>, VnetHeader)>> {
        let (mut wire, mut runs, mut settler) = (Vec::new(), Vec::new(), Settler::default());
        for (frame, vnet) in frames {
            let at = push_frame(&mut wire, frame);
            push_run(&mut runs, Run::one(at, frame.len(), *vnet));
        }
        tx.frames_in += frames.len() as u64;
        let (wire, runs) = settler.prepare(&wire, &runs, accepts, tx)?;
        let frames =
            |run: &Run| frames_of(wire, *run).map(|frame| (frame.to_vec(), run.vnet)).collect::<Vec<_>>();
        Some(runs.iter().flat_map(frames).collect())
    }

    fn plain(frames: Vec<Vec<u8>>) -> Vec<(Vec<u8>, VnetHeader)> {
        frames.into_iter().map(|frame| (frame, VnetHeader::PLAIN)).collect()
    }

    #[test]
    fn a_peer_gets_what_it_takes() {
        let data = [5; 3000];
        let flow = Flow::tcp();
        let (gso, segments) = (flow.gso(&data, 1448), plain(flow.segments(&data, 1448)));
        let (short, vnet) = flow.gso(&data[..100], 1448);
        let partial = (short, VnetHeader { gso_type: GSO_NONE, gso_size: 0, ..vnet });
        let complete = plain(vec![flow.frame(&data[..100])]);
        let tso = Offloads::CSUM | Offloads::TSO4;
        let unknown = (gso.0.clone(), VnetHeader { gso_type: 9, ..gso.1 });
        let outside = (gso.0.clone(), VnetHeader { csum_start: 9000, ..gso.1 });
        // (frames, what the peer takes, what it gets, frames that entered and left so far)
        for (name, frames, accepts, expected, counts) in [
            ("plain, to anybody", segments.clone(), Offloads::NONE, None, (3, 0)),
            ("GSO, cut", vec![gso.clone()], Offloads::NONE, Some(segments.clone()), (3, 0)),
            (
                "GSO, cut for checksums only",
                vec![gso.clone()],
                Offloads::CSUM,
                Some(segments.clone()),
                (3, 0),
            ),
            ("GSO, covered", vec![gso.clone()], tso, None, (1, 0)),
            ("plain, merged", segments, tso, Some(vec![gso.clone()]), (3, 2)),
            ("a checksum", vec![partial.clone()], Offloads::NONE, Some(complete.clone()), (1, 0)),
            ("a checksum, covered", vec![partial], Offloads::CSUM, None, (1, 0)),
            (
                "two of three",
                vec![gso.clone(), outside.clone(), gso.clone()],
                tso,
                Some(vec![gso.clone(), gso]),
                (3, 0),
            ),
            (
                "one of two",
                [complete.clone(), vec![outside]].concat(),
                Offloads::NONE,
                Some(complete),
                (2, 0),
            ),
            ("another type", vec![unknown], tso, Some(Vec::new()), (1, 0)),
        ] {
            let mut tx = Counters::ZERO.tx;
            let got = prepared(&frames, accepts, &mut tx);
            assert!(got == expected, "{name}");
            assert_eq!((tx.frames_in, tx.frames_out), counts, "{name}");
            let waits = got.map_or(frames.len(), |got| got.len()) as u64;
            assert_eq!(tx.frames_in, tx.frames_out + tx.total_dropped() + waits, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_settled_is_dropped_with_its_reason() {
        let extensions = Some((60, vec![0; 8]));
        let (frame, vnet) = Flow { extensions, ..Flow::udp().over_v6() }.gso(&[5; 3000], 1448);
        for (vnet, reason) in [
            (VnetHeader { gso_type: GSO_UDP, ..vnet }, DropReason::Offload),
            (VnetHeader { gso_type: 9, ..vnet }, DropReason::BadOffload),
        ] {
            let mut tx = Counters::ZERO.tx;
            assert_eq!(prepared(&[(frame.clone(), vnet)], Offloads::NONE, &mut tx), Some(Vec::new()));
            assert_eq!((tx.drops[reason as usize], tx.total_dropped()), (1, 1));
        }
    }
}
