//! Completing what a port's peer cannot do itself.

use vbackend_proto::checksum;
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::{PREFIX_LEN, Run, frames_of, push_run, put_prefix};
use vbackend_proto::vnet::VnetHeader;

use crate::counters::Lane;

/// Copy the frames of `runs` to `settled` with their checksums complete. A frame that would have to be cut into
/// segments, or whose header does not fit it, is dropped.
pub fn settle(wire: &[u8], runs: &[Run], settled: &mut Vec<u8>, tx: &mut Lane) -> Vec<Run> {
    settled.clear();
    let mut plain = Vec::with_capacity(runs.len());
    for run in runs {
        for frame in frames_of(wire, *run) {
            let at = settled.len();
            settled.resize(at + PREFIX_LEN, 0);
            put_prefix(settled, at, frame.len());
            settled.extend_from_slice(frame);
            let body = &mut settled[at + PREFIX_LEN..];
            let (start, offset) = (run.vnet.csum_start, run.vnet.csum_offset);
            let lost = if run.vnet.is_gso() {
                Some(DropReason::Offload)
            } else if run.vnet.needs_csum() && checksum::complete(body, start, offset).is_err() {
                Some(DropReason::BadOffload)
            } else {
                None
            };
            match lost {
                None => push_run(&mut plain, Run::one(at, frame.len(), VnetHeader::PLAIN)),
                Some(reason) => {
                    settled.truncate(at);
                    tx.dropped(reason, 1);
                }
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Counters;
    use vbackend_proto::vnet::NEEDS_CSUM;

    const FRAME_LEN: usize = 60;
    const CSUM_START: u16 = 34;
    const CSUM_OFFSET: u16 = 6;

    /// One frame after the other, each with its header.
    fn wire_of(headers: &[VnetHeader]) -> (Vec<u8>, Vec<Run>) {
        let (mut wire, mut runs) = (Vec::new(), Vec::new());
        for (index, header) in headers.iter().enumerate() {
            let at = wire.len();
            wire.resize(at + PREFIX_LEN, 0);
            put_prefix(&mut wire, at, FRAME_LEN);
            wire.resize(at + PREFIX_LEN + FRAME_LEN, index as u8 + 1);
            runs.push(Run::one(at, FRAME_LEN, *header));
        }
        (wire, runs)
    }

    #[test]
    fn checksums_are_completed_and_what_cannot_be_settled_is_dropped() {
        let partial = VnetHeader {
            flags: NEEDS_CSUM,
            csum_start: CSUM_START,
            csum_offset: CSUM_OFFSET,
            ..VnetHeader::PLAIN
        };
        let outside = VnetHeader { csum_start: 59, ..partial };
        let gso = VnetHeader { gso_type: 1, gso_size: 20, ..partial };
        let (wire, runs) = wire_of(&[VnetHeader::PLAIN, partial, outside, gso, VnetHeader::PLAIN]);
        let (mut settled, mut tx) = (Vec::new(), Counters::ZERO.tx);
        let plain = settle(&wire, &runs, &mut settled, &mut tx);

        let frames: Vec<&[u8]> = plain.iter().flat_map(|run| frames_of(&settled, *run)).collect();
        assert!(plain.iter().all(|run| run.vnet.is_plain()));
        assert_eq!(frames.iter().map(|frame| frame[0]).collect::<Vec<_>>(), [1, 2, 5]);
        assert_eq!((frames[0], frames[2]), (&[1; FRAME_LEN][..], &[5; FRAME_LEN][..]));
        let mut complete = [2; FRAME_LEN];
        checksum::complete(&mut complete, CSUM_START, CSUM_OFFSET).unwrap();
        assert_eq!(frames[1], complete);
        assert_ne!(frames[1], [2; FRAME_LEN]);
        assert_eq!(
            (tx.drops[DropReason::Offload as usize], tx.drops[DropReason::BadOffload as usize]),
            (1, 1)
        );
    }
}
