//! The switch and its table against a slow, naive twin on random traffic.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::fdb::Fdb;
use vbackend_proto::framing::{frames_of, scan};
use vbackend_proto::segment::{Fate, Member, Plan, PortId, Segment};

const AGEING_MS: u64 = 5_000;
const MAX_ENTRIES: usize = 6;

/// IEEE 802.1D learning and filtering, one frame at a time, written to be read.
#[derive(Default)]
struct NaiveSwitch {
    ports: Vec<(u64, bool)>,
    seen: BTreeMap<[u8; 6], (u64, u64)>, // address -> (port, when)
    swept_ms: u64,
}

impl NaiveSwitch {
    fn frame(&mut self, ingress: u64, frame: &[u8], now_ms: u64) -> Result<Vec<u64>, DropReason> {
        let (mut destination, mut source) = ([0; 6], [0; 6]);
        destination.copy_from_slice(&frame[..6]);
        source.copy_from_slice(&frame[6..12]);
        if source[0] & 1 == 0 {
            self.learn(source, ingress, now_ms);
        }
        if destination[..5] == [1, 0x80, 0xc2, 0, 0] && destination[5] < 16 {
            return Err(DropReason::LinkLocal);
        }
        let isolated = |port: u64| self.ports.contains(&(port, true));
        let known = self.seen.get(&destination).filter(|(_, when)| now_ms - when < AGEING_MS);
        match known {
            Some((port, _)) if destination[0] & 1 == 0 => match *port {
                port if port == ingress => Err(DropReason::Hairpin),
                port if isolated(port) && isolated(ingress) => Err(DropReason::Isolated),
                port => Ok(vec![port]),
            },
            _ => {
                let hears = |(port, alone): &&(u64, bool)| *port != ingress && !(*alone && isolated(ingress));
                let all: Vec<u64> = self.ports.iter().filter(hears).map(|(port, _)| *port).collect();
                if all.is_empty() { Err(DropReason::NoDestination) } else { Ok(all) }
            }
        }
    }

    fn learn(&mut self, mac: [u8; 6], port: u64, now_ms: u64) {
        if !self.seen.contains_key(&mac) && self.seen.len() >= MAX_ENTRIES && now_ms - self.swept_ms >= 1000 {
            self.swept_ms = now_ms;
            self.seen.retain(|_, (_, when)| now_ms - *when < AGEING_MS);
        }
        if self.seen.contains_key(&mac) || self.seen.len() < MAX_ENTRIES {
            self.seen.insert(mac, (port, now_ms));
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Frames { ingress: u64, addresses: Vec<([u8; 6], [u8; 6])> },
    Wait(u64),
    Leave(u64),
    Join { port: u64, isolated: bool },
}

fn mac() -> impl Strategy<Value = [u8; 6]> {
    prop_oneof![
        8 => (0u8..9).prop_map(|n| [0x52, 0x54, 0, 0, 0, n]),
        1 => Just([0xff; 6]),
        1 => (0u8..32).prop_map(|n| [1, 0x80, 0xc2, 0, 0, n]),
        1 => Just([0x33, 0x33, 0, 0, 0, 1]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u64..6, prop::collection::vec((mac(), mac()), 1..8))
            .prop_map(|(ingress, addresses)| Step::Frames { ingress, addresses }),
        2 => prop_oneof![0u64..2000, Just(AGEING_MS)].prop_map(Step::Wait),
        1 => (1u64..6).prop_map(Step::Leave),
        2 => (1u64..6, any::<bool>()).prop_map(|(port, isolated)| Step::Join { port, isolated }),
    ]
}

proptest! {
    #[test]
    fn decides_as_the_naive_switch(seed in any::<u64>(), steps in prop::collection::vec(step(), 1..60)) {
        let mut segment = Segment::switch(Fdb::new(MAX_ENTRIES, AGEING_MS, seed));
        let mut naive = NaiveSwitch::default();
        let (mut now_ms, mut plan) = (10_000, Plan::default());
        for step in steps {
            match step {
                Step::Wait(ms) => now_ms += ms,
                Step::Leave(port) => {
                    segment.leave(PortId(port));
                    naive.ports.retain(|(other, _)| *other != port);
                    naive.seen.retain(|_, (other, _)| *other != port);
                }
                Step::Join { port, isolated } => {
                    let joined = segment.join(Member { port: PortId(port), isolated }).is_ok();
                    prop_assert_eq!(joined, !naive.ports.iter().any(|(other, _)| *other == port));
                    if joined {
                        naive.ports.push((port, isolated));
                    }
                }
                Step::Frames { ingress, addresses } => {
                    let mut wire = Vec::new();
                    for (destination, source) in &addresses {
                        wire.extend_from_slice(&14u32.to_be_bytes());
                        wire.extend_from_slice(destination);
                        wire.extend_from_slice(source);
                        wire.extend_from_slice(&[8, 0]);
                    }
                    let mut runs = Vec::new();
                    scan(&wire, &mut runs);
                    segment.decide(PortId(ingress), &wire, &runs, now_ms, &mut plan);
                    let mut got = Vec::new();
                    for hop in &plan.hops {
                        let fate = match hop.fate {
                            Fate::To(port) => Ok(vec![port.0]),
                            Fate::Flood => Ok(plan.flood.iter().map(|port| port.0).collect()),
                            Fate::Drop(reason) => Err(reason),
                        };
                        got.extend(frames_of(&wire, hop.run).map(|frame| (frame.to_vec(), fate.clone())));
                    }
                    let joined = naive.ports.iter().any(|(port, _)| *port == ingress);
                    let mut expected = Vec::new();
                    for frame in runs.iter().flat_map(|run| frames_of(&wire, *run)) {
                        let fate = if joined { naive.frame(ingress, frame, now_ms) } else { Err(DropReason::NoSegment) };
                        expected.push((frame.to_vec(), fate));
                    }
                    prop_assert_eq!(got, expected);
                }
            }
            let fresh: Vec<_> = (naive.seen.iter())
                .filter(|(_, (_, when))| now_ms - when < AGEING_MS)
                .map(|(mac, (port, when))| (*mac, *port, *when))
                .collect();
            let entries: Vec<_> =
                segment.entries(now_ms).iter().map(|entry| (entry.mac, entry.port.0, entry.seen_ms)).collect();
            prop_assert_eq!(entries, fresh);
        }
    }
}
