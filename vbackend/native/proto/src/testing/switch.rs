//! Fuzz target: a switch under any traffic, joins and leaves.
//!
//! Promises checked: every frame has exactly one fate, in order; nothing goes back to where it came from, to a port
//! that left, or from one isolated port to another; a group address is never looked up; the table is bounded.

use super::Input;
use crate::fdb::Fdb;
use crate::framing::{frames_of, scan};
use crate::segment::{Fate, Member, Plan, PortId, Segment};

const MAX_ENTRIES: usize = 8;
const AGEING_MS: u64 = 1_000;

/// The bytes are a seed, then steps.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut segment = Segment::switch(Fdb::new(MAX_ENTRIES, AGEING_MS, u64::from(input.word())));
    let mut plan = Plan::default();
    let mut now_ms = 0;
    while !input.is_empty() {
        let port = PortId(u64::from(input.byte() % 6));
        match input.byte() % 8 {
            0 => segment.leave(port),
            1 | 2 => {
                let member = Member { port, isolated: input.byte().is_multiple_of(2) };
                let there = segment.members().iter().any(|other| other.port == port);
                assert_eq!(segment.join(member).is_err(), there);
            }
            3 => now_ms += u64::from(input.word()),
            4 => segment.flush(port),
            _ => traffic(&mut segment, port, &mut input, now_ms, &mut plan),
        }
        let entries = segment.entries(now_ms);
        assert!(entries.len() <= MAX_ENTRIES);
        assert!(entries.iter().all(|entry| segment.members().iter().any(|member| member.port == entry.port)));
    }
}

fn traffic(segment: &mut Segment, ingress: PortId, input: &mut Input<'_>, now_ms: u64, plan: &mut Plan) {
    let mut wire = Vec::new();
    for _ in 0..=input.byte() % 6 {
        let len = 14 + usize::from(input.byte() % 4);
        wire.extend_from_slice(&(len as u32).to_be_bytes());
        wire.extend_from_slice(&mac(input.byte()));
        wire.extend_from_slice(&mac(input.byte()));
        wire.resize(wire.len() + len - 12, 0);
    }
    let mut runs = Vec::new();
    scan(&wire, &mut runs);
    segment.decide(ingress, &wire, &runs, now_ms, plan);
    let member = |port: PortId| segment.members().iter().find(|member| member.port == port);
    let isolated = |port: PortId| member(port).is_some_and(|member| member.isolated);
    let may_reach =
        |port: PortId| member(port).is_some() && port != ingress && !(isolated(port) && isolated(ingress));
    let mut end = 0;
    for hop in &plan.hops {
        assert!(hop.run.start == end && hop.run.frames > 0, "a frame has no fate, or two");
        assert_eq!(frames_of(&wire, hop.run).count(), hop.run.frames);
        end = hop.run.end;
        match hop.fate {
            Fate::To(port) => {
                assert!(may_reach(port));
                assert!(frames_of(&wire, hop.run).all(|frame| frame[0] & 1 == 0));
            }
            Fate::Flood => assert!(!plan.flood.is_empty() && plan.flood.iter().all(|port| may_reach(*port))),
            Fate::Drop(_) => {}
        }
    }
    assert_eq!(end, wire.len());
}

/// A few stations, groups and reserved addresses.
fn mac(choice: u8) -> [u8; 6] {
    match choice % 16 {
        0 => [0xff; 6],
        1 => [0x33, 0x33, 0, 0, 0, 1],
        2 => [0x01, 0x80, 0xc2, 0, 0, choice >> 4],
        n => [2, 0, 0, 0, 0, n],
    }
}
