//! The adapter against a naive twin: who has which address, and what became of every packet that had to wait.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use vbackend_proto::adapter::{Adapter, Config, FRESH_MS, FromGuest, Mode, ToGuest};
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::{Run, frames_of};
use vbackend_proto::vnet::VnetHeader;
use vbackend_proto::wire::ethernet::{self, ETHERTYPE_ARP, ETHERTYPE_IPV6, Frame, Mac};
use vbackend_proto::wire::{arp, ipv4, ipv6, ndp};

const UNIT: Mac = Mac([2, 0, 0, 0, 0, 1]);
const ADDRESSES: u8 = 40; // enough to fill the 64 places

#[derive(Clone, Debug)]
enum Step {
    /// A guest tells where an address is.
    Hear { address: u8, guest: u8 },
    /// A packet for a guest.
    Send { address: u8 },
    /// Time passes.
    Wait { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..ADDRESSES, 0u8..3).prop_map(|(address, guest)| Step::Hear { address, guest }),
        6 => (0..ADDRESSES).prop_map(|address| Step::Send { address }),
        1 => prop_oneof![0u64..1500, 0u64..2 * FRESH_MS].prop_map(|ms| Step::Wait { ms }),
    ]
}

/// Even ones are IPv4, odd ones IPv6.
fn address(index: u8) -> IpAddr {
    match index % 2 {
        0 => Ipv4Addr::new(10, 7, 0, index + 2).into(),
        _ => Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, u16::from(index) + 2).into(),
    }
}

fn guest(index: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, index])
}

/// A packet that carries its number.
fn packet(destination: IpAddr, number: u32) -> Vec<u8> {
    match destination {
        IpAddr::V4(destination) => {
            let mut packet = vec![0x45, 0, 0, 24, 0, 0, 0, 0, 64, 253, 0, 0, 10, 7, 0, 1];
            packet.extend_from_slice(&destination.octets());
            packet.extend_from_slice(&number.to_be_bytes());
            packet
        }
        IpAddr::V6(destination) => {
            let source = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 1);
            let header =
                ipv6::Header { payload_len: 4, next_header: 253, hop_limit: 64, source, destination };
            [&header.emit()[..], &number.to_be_bytes()].concat()
        }
    }
}

/// The guest says that `address` is its own: an ARP announcement or an unsolicited advertisement.
fn announcement(address: IpAddr, mac: Mac) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => {
            let party = arp::Party { mac, ip };
            let header = ethernet::emit(Mac::BROADCAST, mac, ETHERTYPE_ARP);
            [&header[..], &arp::emit(arp::REQUEST, party, party)].concat()
        }
        IpAddr::V6(target) => {
            let message = ndp::Neighbour {
                kind: ndp::ADVERTISEMENT,
                flags: ndp::OVERRIDE,
                source: target,
                destination: ipv6::ALL_NODES,
                target,
                link_layer: Some(mac),
            };
            let header = ethernet::emit(Mac::of_ipv6_group(ipv6::ALL_NODES), mac, ETHERTYPE_IPV6);
            [&header[..], &message.emit()].concat()
        }
    }
}

fn frames(wire: &[u8]) -> Vec<&[u8]> {
    frames_of(wire, Run { start: 0, end: wire.len(), frames: 0, vnet: VnetHeader::PLAIN }).collect()
}

/// The destination and number of a frame that holds one of our packets; `None` for the adapter's questions.
fn carried(frame: &[u8]) -> Option<(Mac, u32)> {
    let view = Frame::new_checked(frame).ok()?;
    let payload = match view.ether_type() {
        ETHERTYPE_ARP => return None,
        ETHERTYPE_IPV6 => {
            let packet = ipv6::Packet::new_checked(view.payload()).ok()?;
            if ndp::is_neighbour(&packet) {
                return None;
            }
            packet.payload()
        }
        _ => ipv4::Packet::new_checked(view.payload()).ok()?.payload(),
    };
    Some((view.destination(), u32::from_be_bytes(payload.try_into().ok()?)))
}

/// What the adapter should do, in the plainest words.
#[derive(Default)]
struct Twin {
    owners: BTreeMap<u8, (u8, u64)>,
    waiting: BTreeMap<u8, (u64, VecDeque<u32>)>, // since when, numbers
}

impl Twin {
    fn owner(&self, address: u8, now_ms: u64) -> Option<u8> {
        let (guest, seen_ms) = self.owners.get(&address)?;
        (now_ms - seen_ms < FRESH_MS).then_some(*guest)
    }

    /// Returns the numbers released.
    fn hear(&mut self, address: u8, guest: u8, now_ms: u64) -> VecDeque<u32> {
        if self.owner(address, now_ms).is_some_and(|owner| owner != guest) {
            return VecDeque::new();
        }
        self.owners.insert(address, (guest, now_ms));
        self.waiting.remove(&address).map_or_else(VecDeque::new, |(_, numbers)| numbers)
    }

    fn send(&mut self, address: u8, number: u32, now_ms: u64) -> ToGuest {
        if let Some(owner) = self.owner(address, now_ms) {
            let ether_type = if address.is_multiple_of(2) { 0x0800 } else { 0x86dd };
            return ToGuest::Header(ethernet::emit(guest(owner), UNIT, ether_type));
        }
        let total = self.parked();
        let numbers = self.waiting.get_mut(&address).map(|(_, numbers)| numbers);
        match numbers {
            Some(numbers) if numbers.len() == 3 => {
                numbers.pop_front();
                numbers.push_back(number);
                ToGuest::Parked { displaced: 1 }
            }
            _ if total == 64 => ToGuest::Drop(DropReason::NoNeighbour),
            Some(numbers) => {
                numbers.push_back(number);
                ToGuest::Parked { displaced: 0 }
            }
            None => {
                self.waiting.insert(address, (now_ms, VecDeque::from([number])));
                ToGuest::Parked { displaced: 0 }
            }
        }
    }

    /// A clock that is looked at each second: what waited 3 seconds is lost.
    fn tick(&mut self, now_ms: u64) -> usize {
        let before = self.parked();
        self.waiting.retain(|_, (since_ms, _)| now_ms - *since_ms < 3000);
        before - self.parked()
    }

    fn parked(&self) -> usize {
        self.waiting.values().map(|(_, numbers)| numbers.len()).sum()
    }
}

proptest! {
    #[test]
    fn it_does_what_its_twin_does(mode in prop_oneof![Just(Mode::PointToPoint), Just(Mode::Broadcast)],
                                  steps in proptest::collection::vec(step(), 0..300)) {
        let mut adapter = Adapter::new(Config::new(UNIT, mode));
        let (mut twin, mut now_ms, mut out) = (Twin::default(), 0, Vec::new());
        for (number, step) in (0u32..).zip(steps) {
            out.clear();
            match step {
                Step::Hear { address: index, guest: mac } => {
                    let frame = announcement(address(index), guest(mac));
                    prop_assert_eq!(adapter.from_guest(&frame, now_ms, &mut out), FromGuest::Consumed);
                    let expected: Vec<(Mac, u32)> =
                        twin.hear(index, mac, now_ms).into_iter().map(|number| (guest(mac), number)).collect();
                    let released: Option<Vec<(Mac, u32)>> = frames(&out).into_iter().map(carried).collect();
                    prop_assert_eq!(released, Some(expected));
                }
                Step::Send { address: index } => {
                    let packet = packet(address(index), number);
                    let what = adapter.to_guest(&packet, now_ms, &mut out);
                    prop_assert_eq!(what, twin.send(index, number, now_ms));
                    prop_assert!(frames(&out).into_iter().all(|frame| carried(frame).is_none()));
                }
                Step::Wait { ms } => {
                    let until_ms = now_ms + ms;
                    while let Some(deadline_ms) = adapter.deadline_ms().filter(|deadline| *deadline <= until_ms) {
                        prop_assert!(deadline_ms >= now_ms, "a deadline in the past");
                        now_ms = deadline_ms;
                        let polled = adapter.poll(now_ms, &mut out);
                        prop_assert_eq!(polled.lost, twin.tick(now_ms));
                    }
                    now_ms = until_ms;
                }
            }
            prop_assert_eq!(adapter.parked(), twin.parked());
            prop_assert_eq!(adapter.deadline_ms().is_some(), twin.parked() > 0);
            for index in 0..ADDRESSES {
                let entries = adapter.neighbours(now_ms);
                let owner = entries.iter().find(|entry| entry.address == address(index));
                prop_assert_eq!(owner.map(|entry| entry.mac), twin.owner(index, now_ms).map(guest));
            }
        }
    }

    #[test]
    fn the_table_is_bounded(limit in 0usize..20, addresses in proptest::collection::vec((any::<[u8; 4]>(), 0u64..5000), 0..200)) {
        let peer = Ipv4Addr::new(192, 0, 2, 1);
        let config = Config { max_neighbours: limit, peers: vec![peer.into()], ..Config::new(UNIT, Mode::Broadcast) };
        let mut adapter = Adapter::new(config);
        let mut now_ms = 0;
        for (octets, ms) in addresses {
            now_ms += ms;
            adapter.from_guest(&announcement(Ipv4Addr::from(octets).into(), guest(0)), now_ms, &mut Vec::new());
            prop_assert!(adapter.remembered() <= limit + 1);
        }
        adapter.from_guest(&announcement(peer.into(), guest(1)), now_ms, &mut Vec::new());
        prop_assert!(adapter.neighbours(now_ms).iter().any(|entry| entry.address == IpAddr::from(peer)));
    }

    #[test]
    fn any_bytes_are_harmless(frame: Vec<u8>, packet: Vec<u8>, header in any::<[u8; 2]>(), version in prop_oneof![Just(0x45u8), Just(0x60)]) {
        let mut adapter = Adapter::new(Config::new(UNIT, Mode::PointToPoint));
        let mut out = Vec::new();
        adapter.from_guest(&frame, 0, &mut out);
        let ether_type = match header[0] % 4 {
            0 => 0x0800,
            1 => 0x86dd,
            2 => ETHERTYPE_ARP,
            _ => u16::from_be_bytes(header),
        };
        let addressed = [&ethernet::emit(UNIT, guest(0), ether_type)[..], &[version], &frame].concat();
        if let FromGuest::Packet { start, end, .. } = adapter.from_guest(&addressed, 0, &mut out) {
            prop_assert!(start <= end && end <= addressed.len());
        }
        adapter.to_guest(&packet, 0, &mut out);
        adapter.to_guest(&[&[version], &packet[..]].concat(), 0, &mut out);
    }
}
