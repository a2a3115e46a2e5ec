//! Fuzz target: an adapter between a few guests, a writer and a clock, driven by any bytes, checked after each step.
//!
//! Promises checked: a packet for the reader is whole and inside its frame; what the adapter sends is well-formed and never
//! claims a guest's address; a fresh address is not taken over; the tables are bounded; every parked packet is released
//! or lost exactly once; there is a deadline exactly while something is parked.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Input, packets};
use crate::adapter::{
    Adapter, Config, FRESH_MS, FromGuest, MAX_PACKETS, MAX_PACKETS_PER_ADDRESS, Mode, RETRY_MS, TRIES,
    ToGuest,
};
use crate::framing::check_len;
use crate::wire::ethernet::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame, HEADER_LEN, Mac};
use crate::wire::ndp::{self, Neighbour};
use crate::wire::{Family, arp, ipv4, ipv6};

const UNIT: Mac = Mac([2, 0, 0, 0, 0, 1]);
const LIMIT: usize = 4;

/// The bytes are a mode, then steps.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mode = match input.byte() % 2 {
        0 => Mode::PointToPoint,
        _ => Mode::Broadcast,
    };
    let mut world = World::new(mode);
    while !input.is_empty() {
        world.step(&mut input);
    }
    world.finish();
}

/// The adapter, and what is known of it without asking it.
struct World {
    adapter: Adapter,
    now_ms: u64,
    fresh: HashMap<IpAddr, (Mac, u64)>, // before the step
    waiting: HashSet<u64>,              // numbers of packets that may be parked
    parked: usize,
    next_number: u64,
}

impl World {
    fn new(mode: Mode) -> World {
        let config = Config {
            local: vec![v4(1).into(), v6(1).into()],
            peers: vec![v4(2).into(), v6(2).into()],
            broadcasts: vec![v4(255)],
            max_neighbours: LIMIT,
            ..Config::new(UNIT, mode)
        };
        World {
            adapter: Adapter::new(config),
            now_ms: 0,
            fresh: HashMap::new(),
            waiting: HashSet::new(),
            parked: 0,
            next_number: 0,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let mut out = Vec::new();
        match input.byte() % 7 {
            0 => {
                let len = usize::from(input.word() % 200);
                self.guest_sends(input.bytes(len), &mut out);
            }
            1 => {
                let (source, destination) = (address(input.byte()), address(input.byte()));
                let (mac, padding) = (guest(input.byte()), input.byte());
                let mut packet = packets::ip(source, destination, b"");
                packet.extend_from_slice(&vec![padding; usize::from(padding % 32)]);
                let ether_type = packets::ether_type(destination);
                let frame = packets::frame(station(input.byte()), mac, ether_type, &packet);
                self.guest_sends(&frame, &mut out);
            }
            2 => {
                let (operation, sender, target) = (input.byte() % 4, v4(input.byte()), v4(input.byte()));
                let mac = guest(input.byte());
                let mut frame = packets::arp(station(input.byte()), mac, operation.into(), sender, target);
                flip(&mut frame, input.byte());
                self.guest_sends(&frame, &mut out);
            }
            3 => {
                let message = message(input);
                let mut frame = packets::neighbour(UNIT, guest(input.byte()), &message);
                flip(&mut frame, input.byte());
                self.guest_sends(&frame, &mut out);
            }
            4 => {
                let number = self.next_number.to_be_bytes();
                let packet = packets::ip(v4(1).into(), address(input.byte()), &number);
                self.writer_sends(&packet, &mut out);
            }
            5 => {
                let len = usize::from(input.byte());
                self.writer_sends(input.bytes(len), &mut out);
            }
            _ => {
                self.now_ms += u64::from(input.word());
                self.forget_aged();
                self.poll(&mut out);
            }
        }
        self.check(&out);
    }

    fn guest_sends(&mut self, frame: &[u8], out: &mut Vec<u8>) {
        let what = self.adapter.from_guest(frame, self.now_ms, out);
        if let FromGuest::Packet { family, start, end } = what {
            assert!(HEADER_LEN == start && end <= frame.len(), "outside the frame");
            let packet = &frame[start..end];
            assert_eq!(Family::of(packet), Some(family));
            let whole = match family {
                Family::Ipv4 => ipv4::Packet::new_checked(packet).map(|packet| packet.bytes().len()),
                Family::Ipv6 => ipv6::Packet::new_checked(packet).map(|packet| packet.bytes().len()),
            };
            assert_eq!(whole, Ok(packet.len()), "bad lengths reach the reader");
        }
    }

    fn writer_sends(&mut self, packet: &[u8], out: &mut Vec<u8>) {
        match self.adapter.to_guest(packet, self.now_ms, out) {
            ToGuest::Header(header) => {
                let frame = Frame::new_checked(&header).expect("is a header");
                assert_eq!(Some(frame.ether_type()), Family::of(packet).map(Family::ether_type));
                assert_eq!(frame.source(), UNIT);
                assert!(frame.destination() != UNIT && frame.destination() != Mac::ZERO);
            }
            ToGuest::Parked { displaced } => {
                self.parked += 1;
                self.parked -= displaced;
                if let Some(number) = number_of(packet) {
                    self.waiting.insert(number);
                }
            }
            ToGuest::Drop(_) => {}
        }
        self.next_number += 1;
    }

    fn poll(&mut self, out: &mut Vec<u8>) {
        let polled = self.adapter.poll(self.now_ms, out);
        self.parked -= polled.lost;
        assert_eq!(polled.deadline_ms, self.adapter.deadline_ms());
        assert!(polled.deadline_ms.is_none_or(|deadline_ms| deadline_ms > self.now_ms));
    }

    /// What must hold after a step that sent `out`.
    fn check(&mut self, out: &[u8]) {
        let mut released = 0;
        for frame in packets::frames(out) {
            released += self.check_sent(&frame);
        }
        assert!(released <= MAX_PACKETS_PER_ADDRESS);
        self.parked -= released;
        assert_eq!(self.adapter.parked(), self.parked, "a parked packet is lost or doubled");
        assert!(self.parked <= MAX_PACKETS);
        assert_eq!(self.adapter.deadline_ms().is_some(), self.parked > 0);
        assert!(self.adapter.remembered() <= LIMIT + self.adapter.config().peers.len());
        let entries = self.adapter.neighbours(self.now_ms);
        for (address, (mac, _)) in &self.fresh {
            let kept = entries.iter().any(|entry| entry.address == *address && entry.mac == *mac);
            assert!(kept, "{address} was taken from {mac}");
        }
        self.fresh = (entries.iter()).map(|entry| (entry.address, (entry.mac, entry.seen_ms))).collect();
    }

    /// Check one frame to the guests; returns 1 when it was parked before.
    fn check_sent(&mut self, frame: &[u8]) -> usize {
        check_len(frame.len()).expect("has a good length");
        let sent = Frame::new_checked(frame).expect("has a header");
        assert_eq!(sent.source(), UNIT);
        match sent.ether_type() {
            ETHERTYPE_ARP => {
                let message = arp::Message::new_checked(sent.payload()).expect("is ARP");
                assert_eq!(message.sender_mac(), UNIT);
                self.check_claim(message.sender_ip().into());
                0
            }
            ETHERTYPE_IPV6 if self.check_neighbour(sent.payload()) => 0,
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => {
                if let Some(number) = number_of(sent.payload()) {
                    assert!(self.waiting.remove(&number), "{number} was released twice");
                }
                1
            }
            other => panic!("sent a frame of type {other:#06x}"),
        }
    }

    /// Whether this is the adapter's own neighbour message, which must be a good one.
    fn check_neighbour(&self, payload: &[u8]) -> bool {
        let Ok(packet) = ipv6::Packet::new_checked(payload) else {
            return false; // a writer's packet, which is none of the adapter's business
        };
        let ours = ndp::is_neighbour(&packet)
            && Neighbour::parse(&packet).is_ok_and(|message| message.link_layer == Some(UNIT));
        if ours && packet.payload()[0] == ndp::ADVERTISEMENT {
            let message = Neighbour::parse(&packet).expect("was parsed above");
            self.check_claim(message.target.into());
        }
        ours
    }

    fn check_claim(&self, address: IpAddr) {
        let config = self.adapter.config();
        assert!(
            !config.peers.contains(&address) && !self.fresh.contains_key(&address),
            "claims the guest's {address}"
        );
    }

    fn forget_aged(&mut self) {
        let now_ms = self.now_ms;
        self.fresh.retain(|_, (_, seen_ms)| now_ms.saturating_sub(*seen_ms) < FRESH_MS);
    }

    /// Whatever was parked is gone after all tries, or at once when the unit goes down.
    fn finish(mut self) {
        if self.now_ms.is_multiple_of(2) {
            assert_eq!(self.adapter.reset(), self.parked);
            assert!(self.adapter.neighbours(self.now_ms).is_empty());
        } else {
            for _ in 0..TRIES {
                self.now_ms += RETRY_MS;
                self.poll(&mut Vec::new());
            }
            assert_eq!(self.parked, 0);
        }
        assert_eq!((self.adapter.parked(), self.adapter.deadline_ms()), (0, None));
    }
}

/// The number in the payload of a packet that [`World::step`] made.
fn number_of(packet: &[u8]) -> Option<u64> {
    let payload = match Family::of(packet)? {
        Family::Ipv4 => ipv4::Packet::new_checked(packet).ok()?.payload(),
        Family::Ipv6 => ipv6::Packet::new_checked(packet).ok()?.payload(),
    };
    let protocol = match Family::of(packet)? {
        Family::Ipv4 => packet[9],
        Family::Ipv6 => packet[6],
    };
    let number: [u8; 8] = payload.try_into().ok()?;
    (protocol == 253).then_some(u64::from_be_bytes(number))
}

fn message(input: &mut Input<'_>) -> Neighbour {
    let shape = input.byte();
    let target = v6(input.byte());
    let source = match shape & 2 {
        0 => v6(input.byte()),
        _ => Ipv6Addr::UNSPECIFIED,
    };
    Neighbour {
        kind: if shape & 1 == 0 { ndp::SOLICITATION } else { ndp::ADVERTISEMENT },
        flags: if shape & 1 == 0 { 0 } else { input.byte() },
        source,
        destination: match shape & 4 {
            0 => ipv6::solicited_node(target),
            _ => v6(1),
        },
        target,
        link_layer: (shape & 8 == 0 && shape & 2 == 0).then(|| guest(input.byte())),
    }
}

fn flip(frame: &mut [u8], at: u8) {
    if let Some(byte) = frame.get_mut(usize::from(at)) {
        *byte ^= 1; // most values lie behind the frame: no flip
    }
}

fn v4(last: u8) -> Ipv4Addr {
    match last {
        254 => Ipv4Addr::UNSPECIFIED,
        253 => Ipv4Addr::new(224, 0, 0, 251),
        last => Ipv4Addr::new(10, 7, 0, last % 16 + if last == 255 { 240 } else { 0 }),
    }
}

fn v6(last: u8) -> Ipv6Addr {
    match last {
        255 => ipv6::link_local(UNIT),
        254 => Ipv6Addr::UNSPECIFIED,
        253 => ipv6::ALL_NODES,
        last => Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, u16::from(last % 16)),
    }
}

fn address(byte: u8) -> IpAddr {
    match byte % 2 {
        0 => v4(byte / 2 + (byte & 0x80)).into(),
        _ => v6(byte / 2 + (byte & 0x80)).into(),
    }
}

fn guest(byte: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, 10 + byte % 4])
}

fn station(byte: u8) -> Mac {
    match byte % 4 {
        0 | 1 => UNIT,
        2 => Mac::BROADCAST,
        _ => guest(byte),
    }
}
