use proptest::prelude::*;

use super::data;
use crate::framing::{Run, push_frame, push_run};
use crate::offload::{Merger, Offloads};
use crate::testing::flow::Flow;
use crate::testing::offload::{check_merge, run};
use crate::vnet::{NEEDS_CSUM, VnetHeader};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;
const DF: u16 = 0x4000;

#[test]
fn merging_what_was_cut_gives_the_gso_frame_back() {
    let tags = vec![[0x81, 0, 0, 7]];
    for (name, flow, len, size) in [
        ("TCP", Flow::tcp(), 4344, 1448),
        ("TCP, a shorter last one", Flow::tcp(), 4000, 1448),
        ("TCP, the longest", Flow::tcp(), 64_000, 1448),
        ("TCP, odd sizes", Flow::tcp(), 4001, 333),
        ("PSH", Flow { flags: ACK | PSH, ..Flow::tcp() }, 3000, 1448),
        ("ECE", Flow { flags: ACK | ECE, ..Flow::tcp() }, 3000, 1448),
        ("numbers that wrap", Flow { sequence: u32::MAX - 9, id: 0xffff, ..Flow::tcp() }, 3000, 1448),
        ("fragments allowed", Flow { fragment: 0, ..Flow::tcp() }, 3000, 1448),
        ("a VLAN", Flow { tags, ..Flow::tcp() }, 3000, 1448),
        ("IPv6", Flow::tcp().over_v6(), 3000, 1428),
        ("UDP", Flow::udp(), 3000, 1472),
        ("UDP over IPv6", Flow::udp().over_v6(), 3000, 1452),
    ] {
        let data = data(len);
        let merged = check_merge(&flow.segments(&data, size), Offloads::ALL);
        assert!(merged == Some(vec![flow.gso(&data, size)]), "{name}");
    }
}

/// Three frames of a flow, the second or third of which is odd in one way. Expected: the frames of each output frame.
#[test]
fn one_odd_field_ends_the_merge() {
    type Change = fn(&mut Flow);
    let table: &[(&str, Change, &[usize])] = &[
        ("nothing", |_| {}, &[3]),
        ("a pure ACK's flags", |flow| flow.flags = ACK, &[3]),
        ("FIN", |flow| flow.flags |= FIN, &[1, 1, 1]),
        ("URG", |flow| flow.flags |= URG, &[1, 1, 1]),
        ("CWR", |flow| flow.flags |= CWR, &[1, 1, 1]),
        ("no ACK", |flow| flow.flags = 0, &[1, 1, 1]),
        ("ECE", |flow| flow.flags |= ECE, &[1, 1, 1]),
        ("PSH", |flow| flow.flags |= PSH, &[2, 1]),
        ("a gap", |flow| flow.sequence += 1, &[1, 2]),
        ("an overlap", |flow| flow.sequence -= 1, &[1, 2]),
        ("a new ACK", |flow| flow.acknowledged += 1, &[1, 2]),
        ("window", |flow| flow.window += 1, &[1, 2]),
        ("options", |flow| flow.options[7] += 1, &[1, 2]),
        ("more options", |flow| flow.options.extend([1; 4]), &[1, 2]),
        ("TOS", |flow| flow.tos = 8, &[1, 2]),
        ("congestion", |flow| flow.tos = 3, &[1, 2]),
        ("TTL", |flow| flow.ttl -= 1, &[1, 2]),
        ("identification", |flow| flow.id += 7, &[1, 2]),
        ("no DF", |flow| flow.fragment = 0, &[1, 2]),
        ("tag", |flow| flow.tags = vec![[0x81, 0, 0, 7]], &[1, 2]),
        ("port", |flow| flow.ports[1] += 1, &[1, 2]),
    ];
    for (name, change, expected) in table {
        let mut flow = Flow::tcp();
        let mut frames = vec![flow.next(&[1; 100])];
        let flags = flow.flags;
        change(&mut flow);
        frames.push(flow.next(&[2; 100]));
        flow.flags = flags;
        frames.push(flow.next(&[3; 100]));
        assert_eq!(sizes(&frames, 100), *expected, "{name}");
    }
}

/// How many of the frames, with `size` bytes each, are in each frame of the output.
fn sizes(frames: &[Vec<u8>], size: usize) -> Vec<usize> {
    match check_merge(frames, Offloads::ALL) {
        None => vec![1; frames.len()],
        Some(merged) => merged
            .iter()
            .map(|(frame, vnet)| match vnet.is_gso() {
                true => (frame.len() - usize::from(vnet.hdr_len)).div_ceil(size),
                false => 1,
            })
            .collect(),
    }
}

#[test]
fn lengths_decide() {
    for (lengths, expected) in [
        (&[100, 100, 50, 100, 100][..], &[3, 2][..]),
        (&[50, 100, 100], &[1, 2]),
        (&[100, 0, 100, 100], &[1, 1, 2]),
        (&[100, 101, 101], &[1, 2]),
        (&[0, 0], &[1, 1]),
    ] {
        let mut flow = Flow::tcp();
        let frames: Vec<_> = lengths.iter().map(|len| flow.next(&data(*len))).collect();
        assert_eq!(sizes(&frames, 100).len(), expected.len(), "{lengths:?}");
    }
    let mut flow = Flow::tcp();
    let many: Vec<_> = (0..100).map(|_| flow.next(&[5; 1448])).collect();
    assert_eq!(sizes(&many, 1448), [45, 45, 10]);
    let mut flow = Flow::udp();
    let datagrams: Vec<_> = (0..100).map(|_| flow.next(&[5; 100])).collect();
    assert_eq!(sizes(&datagrams, 100), [64, 36]);
}

#[test]
fn identifications_count_up_or_stand_still() {
    // (steps, DF, frames of each output frame)
    for (steps, fragment, expected) in [
        ([1, 1, 1], DF, &[4][..]),
        ([0, 0, 0], DF, &[4]),
        ([1, 0, 0], DF, &[2, 2]),
        ([0, 1, 1], DF, &[2, 2]),
        ([2, 2, 2], DF, &[1, 1, 1, 1]),
        ([1, 1, 1], 0, &[4]),
        ([0, 0, 0], 0, &[1, 1, 1, 1]),
    ] {
        let mut flow = Flow { fragment, ..Flow::tcp() };
        let mut frames = vec![flow.next(&[0; 100])];
        for step in steps {
            flow.id = flow.id + step - 1;
            frames.push(flow.next(&[0; 100]));
        }
        assert_eq!(sizes(&frames, 100), expected, "{steps:?} {fragment:#x}");
    }
}

#[test]
fn a_wrong_checksum_and_padding_arrive_as_they_were() {
    type Damage = fn(&mut Vec<u8>);
    let mut flow = Flow::tcp();
    let frames: Vec<_> = (0..4).map(|_| flow.next(&[9; 100])).collect();
    let table: &[(&str, Damage)] = &[
        ("data", |frame| frame[120] ^= 1),
        ("TCP checksum", |frame| frame[50] ^= 1),
        ("IP checksum", |frame| frame[24] ^= 1),
        ("padding", |frame| frame.push(0)),
        ("cut off", |frame| frame.truncate(150)),
    ];
    for (name, damage) in table {
        for (index, expected) in [&[1, 3][..], &[1, 1, 2], &[2, 1, 1], &[3, 1]].into_iter().enumerate() {
            let mut frames = frames.clone();
            damage(&mut frames[index]);
            assert_eq!(sizes(&frames, 100), expected, "{name} of frame {index}");
        }
    }
    let mut none = Flow::udp();
    let mut datagrams: Vec<_> = (0..3).map(|_| none.next(&[9; 100])).collect();
    datagrams[1][40..42].fill(0);
    assert_eq!(sizes(&datagrams, 100), [1, 1, 1]);
}

#[test]
fn flows_interleave_and_keep_their_order() {
    let mut flows: Vec<Flow> = (0..20).map(|port| Flow { ports: [port, 80], ..Flow::tcp() }).collect();
    for (count, expected) in [(1, 1), (2, 2), (8, 8), (16, 16), (17, 17 * 3)] {
        let frames: Vec<_> = (0..3)
            .flat_map(|_| flows[..count].iter_mut().map(|flow| flow.next(&[1; 100])).collect::<Vec<_>>())
            .collect();
        assert_eq!(sizes(&frames, 100).len(), expected, "{count} flows");
    }
    let (mut a, mut b) = (flows[0].clone(), flows[1].clone());
    let mut next_a = || a.next(&[1; 100]);
    let fragment = Flow { fragment: 0x2001, ..Flow::udp() }.frame(&[1; 100]);
    let arp = vec![0; 60];
    let datagram = Flow::udp().frame(&[3; 100]);
    for (name, between, expected) in [
        ("another flow", b.next(&[1; 100]), &[2, 1][..]),
        ("one datagram", datagram, &[2, 1]),
        ("ARP", arp, &[1, 1, 1]),
        ("a fragment", fragment, &[1, 1, 1]),
    ] {
        assert_eq!(sizes(&[next_a(), between, next_a()], 100), expected, "{name}");
    }
}

#[test]
fn only_what_the_receiver_takes() {
    let v4 = Offloads::CSUM | Offloads::TSO4;
    for (flow, accepts, merged) in [
        (Flow::tcp(), v4, true),
        (Flow::tcp(), Offloads::TSO4, false),
        (Flow::tcp(), Offloads::CSUM | Offloads::TSO6, false),
        (Flow::tcp().over_v6(), v4, false),
        (Flow::tcp().over_v6(), Offloads::CSUM | Offloads::TSO6, true),
        (Flow::udp(), v4, false),
        (Flow::udp(), Offloads::CSUM | Offloads::USO, true),
        (Flow::tcp(), Offloads::NONE, false),
    ] {
        assert_eq!(check_merge(&flow.segments(&[1; 300], 100), accepts).is_some(), merged, "{accepts:?}");
    }
}

#[test]
fn frames_with_offloads_pass_and_part_what_is_around_them() {
    let mut flow = Flow::tcp();
    let (mut wire, mut runs) = (Vec::new(), Vec::new());
    let partial = VnetHeader { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 16, ..VnetHeader::PLAIN };
    for vnet in [VnetHeader::PLAIN, VnetHeader::PLAIN, partial, VnetHeader::PLAIN, VnetHeader::PLAIN] {
        let frame = flow.next(&[1; 100]);
        let at = push_frame(&mut wire, &frame);
        push_run(&mut runs, Run::one(at, frame.len(), vnet));
    }
    let (mut out, mut out_runs) = (Vec::new(), Vec::new());
    assert!(Merger::new().merge(&wire, &runs, Offloads::ALL, &mut out, &mut out_runs));
    let vnets: Vec<_> =
        out_runs.iter().map(|run| (run.frames, run.vnet.is_gso(), run.vnet.needs_csum())).collect();
    assert_eq!(vnets, [(1, true, true), (1, false, true), (1, true, true)]);
    assert_eq!(out[out_runs[1].start..out_runs[1].end], wire[runs[1].start..runs[1].end]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_batch_cut_up_again_is_the_batch(program in proptest::collection::vec(any::<u8>(), 0..900)) {
        run(&program);
    }
}
