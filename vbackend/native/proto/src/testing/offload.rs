//! Fuzz target: GSO frames of hostile senders cut up, and batches merged and cut up again.
//!
//! Promises checked: a frame is settled whole or not at all; its segments carry its data and verify; a merged batch cut
//! up again is the batch, flow by flow; no frame crosses one that may belong to its flow.

use std::collections::BTreeMap;

use super::Input;
use super::checksum::naive_sum;
use super::flow::Flow;
use crate::framing::{MAX_FRAME, MIN_FRAME, Run, frames_of, push_frame, push_run};
use crate::offload::{Layout, Merger, Offloads, Transport, check, settle};
use crate::vnet::{GSO_UDP, VNET_HEADER_LEN, VnetHeader};
use crate::wire::Family;

/// The bytes are a choice, then a header and a frame, or a batch.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 4 {
        0 => hostile(&mut input),
        1 => raw_batch(&mut input),
        _ => batch_of_flows(&mut input),
    }
}

/// Any header on any frame.
fn hostile(input: &mut Input<'_>) {
    let mut raw = [0; VNET_HEADER_LEN];
    raw.iter_mut().for_each(|byte| *byte = input.byte());
    let vnet = VnetHeader::parse(&raw);
    let mut frame = match input.byte() % 3 {
        0 => Flow::tcp().gso(&[7; 900], 100).0,
        1 => Flow::udp().over_v6().gso(&[7; 900], 100).0,
        _ => Vec::new(),
    };
    let (at, patch) = (usize::from(input.byte()), input.bytes(usize::MAX));
    frame.resize(frame.len().max(at + patch.len()).clamp(MIN_FRAME, MAX_FRAME), 0);
    let patch = &patch[..patch.len().min(frame.len() - at.min(frame.len()))];
    frame[at..at + patch.len()].copy_from_slice(patch);

    let (mut wire, mut runs) = (vec![0xee; 5], Vec::new());
    match settle(&frame, &vnet, &mut wire, &mut runs) {
        Err(_) => assert!(wire == [0xee; 5] && runs.is_empty(), "a refused frame leaves something"),
        Ok(count) => {
            assert_eq!(check(&frame, &vnet), Ok(()));
            let segments: Vec<&[u8]> = runs.iter().flat_map(|run| frames_of(&wire, *run)).collect();
            assert!(segments.len() == count && runs.iter().all(|run| run.vnet.is_plain()));
            let Some(layout) = Layout::parse(&frame).filter(|_| vnet.is_gso()) else { return };
            if vnet.gso_type == GSO_UDP {
                let at = layout.l4 + if layout.family == Family::Ipv6 { 8 } else { 0 };
                let datagram: Vec<u8> =
                    segments.iter().flat_map(|fragment| &fragment[at..]).copied().collect();
                assert!(datagram[8..] == frame[layout.payload..], "the data is another");
                assert!(transport_verifies(&[&frame[..layout.l4], &datagram].concat(), &layout));
            } else {
                let data: Vec<u8> =
                    segments.iter().flat_map(|segment| &segment[layout.payload..]).copied().collect();
                assert!(data == frame[layout.payload..], "the data is another");
                segments.iter().for_each(|segment| assert!(verifies(segment, &layout)));
            }
        }
    }
}

/// Frames of any bytes.
fn raw_batch(input: &mut Input<'_>) {
    let mut frames = Vec::new();
    while !input.is_empty() && frames.len() < 50 {
        let len = usize::from(input.byte());
        let mut frame = input.bytes(len).to_vec();
        frame.resize(frame.len().max(MIN_FRAME), 0);
        frames.push(frame);
    }
    check_merge(&frames, Offloads::ALL);
}

/// A few flows that interleave, with all that may happen to their frames.
fn batch_of_flows(input: &mut Input<'_>) {
    let accepts =
        if input.byte().is_multiple_of(4) { Offloads::CSUM | Offloads::TSO4 } else { Offloads::ALL };
    let mut flows: Vec<Flow> = (0..20)
        .map(|index: u16| {
            let flow = if index % 4 == 3 { Flow::udp() } else { Flow::tcp() };
            Flow { v6: index % 3 == 2, ports: [index, 80], ..flow }
        })
        .collect();
    let mut frames = Vec::new();
    while !input.is_empty() && frames.len() < 200 {
        let choice = input.byte();
        let flow = &mut flows[usize::from(choice % 20)];
        let len = [0, 1, 100, 100, 100, 100, 100, 99, 101, 1400][usize::from(input.byte() % 10)];
        let data = vec![input.byte(); len];
        let what = input.byte();
        let before = flow.clone();
        match what % 32 {
            0 => flow.flags ^= input.byte(),
            1 => flow.sequence ^= u32::from(input.byte()),
            2 => flow.id ^= u16::from(input.byte()),
            3 => flow.window ^= u16::from(input.byte()),
            4 => flow.tos ^= input.byte(),
            5 => flow.ttl ^= input.byte(),
            6 => flow.acknowledged ^= u32::from(input.byte()),
            7 => flow.options.resize(usize::from(input.byte() % 11) * 4, 1),
            8 => flow.tags = vec![[0x81, 0, 0, 5]; usize::from(input.byte() % 4)],
            9 => flow.fragment ^= u16::from(input.byte()) << 8,
            10 => flow.flags |= 8,
            _ => {}
        }
        let mut frame = flow.next(&data);
        match what % 32 {
            0 | 10 => flow.flags = before.flags,
            9 => flow.fragment = before.fragment,
            11 => frame.truncate(usize::from(input.byte()).max(MIN_FRAME)),
            12 => frame.resize(frame.len() + usize::from(input.byte() % 20), 0),
            13 => {
                let at = usize::from(input.word()) % frame.len();
                frame[at] ^= input.byte();
            }
            14 => flow.id = before.id,
            _ => {}
        }
        frames.push(frame);
    }
    check_merge(&frames, accepts);
}

/// Merge `frames`, all plain, and check the promises; returns the merged batch, None when nothing was merged.
pub fn check_merge(frames: &[Vec<u8>], accepts: Offloads) -> Option<Vec<(Vec<u8>, VnetHeader)>> {
    let (mut wire, mut runs) = (Vec::new(), Vec::new());
    for frame in frames {
        let at = push_frame(&mut wire, frame);
        push_run(&mut runs, Run::one(at, frame.len(), VnetHeader::PLAIN));
    }
    let (mut out, mut out_runs) = (Vec::new(), Vec::new());
    if !Merger::new().merge(&wire, &runs, accepts, &mut out, &mut out_runs) {
        assert!(out.is_empty() && out_runs.is_empty());
        return None;
    }
    assert_eq!(out_runs.iter().map(|run| run.end - run.start).sum::<usize>(), out.len());
    let mut merged = Vec::new();
    let (mut plain, mut plain_runs) = (Vec::new(), Vec::new());
    for run in &out_runs {
        for frame in frames_of(&out, *run) {
            assert!(accepts.covers(&run.vnet));
            let count = settle(frame, &run.vnet, &mut plain, &mut plain_runs);
            assert!(count.is_ok_and(|count| run.vnet.is_plain() == (count == 1)));
            merged.push((frame.to_vec(), run.vnet));
        }
    }
    assert!(merged.len() < frames.len());
    let again: Vec<Vec<u8>> =
        plain_runs.iter().flat_map(|run| frames_of(&plain, *run)).map(<[u8]>::to_vec).collect();
    assert!(by_flow(&again) == by_flow(frames), "another batch");
    let barriers = |frames: &[Vec<u8>]| -> Vec<usize> {
        (0..frames.len()).filter(|index| Layout::parse(&frames[*index]).is_none()).collect()
    };
    assert_eq!(barriers(&again), barriers(frames), "a frame crossed what may be of its flow");
    Some(merged)
}

/// The frames of each flow in their order. Identifications that may not matter count as equal.
fn by_flow(frames: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for frame in frames {
        let (mut frame, mut key) = (frame.clone(), Vec::new());
        if let Some(layout) = Layout::parse(&frame) {
            key =
                [&frame[..layout.l3], &frame[layout.addresses()], &frame[layout.l4..layout.l4 + 4]].concat();
            key.push(u8::from(layout.transport == Transport::Udp));
            let is_atomic = layout.family == Family::Ipv4 && frame[layout.l3 + 6] & 0x40 != 0;
            if is_atomic && naive_sum(&frame[layout.l3..layout.l4]) == 0xffff {
                frame[layout.l3 + 4..layout.l3 + 6].fill(0);
                frame[layout.l3 + 10..layout.l3 + 12].fill(0);
            }
        }
        flows.entry(key).or_default().push(frame);
    }
    flows
}

/// Whether a plain frame's checksums are right.
fn verifies(frame: &[u8], layout: &Layout) -> bool {
    let ip = layout.family == Family::Ipv6 || naive_sum(&frame[layout.l3..layout.l4]) == 0xffff;
    ip && transport_verifies(frame, layout)
}

fn transport_verifies(frame: &[u8], layout: &Layout) -> bool {
    let len = ((frame.len() - layout.l4) as u16).to_be_bytes();
    let protocol = if layout.transport == Transport::Udp { 17 } else { 6 };
    let pseudo = [&frame[layout.addresses()], &[0, protocol], &len].concat();
    naive_sum(&[&pseudo, &frame[layout.l4..]].concat()) == 0xffff
}
