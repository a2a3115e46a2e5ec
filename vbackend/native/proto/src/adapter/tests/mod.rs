//! The adapter as a guest and a reader see it, case by case.

mod receiving;
mod sending;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;
use crate::testing::packets::{self, frame};
use crate::wire::arp;
use crate::wire::ethernet::{ETHERTYPE_QINQ, ETHERTYPE_VLAN};
use crate::wire::ndp::{ADVERTISEMENT, Neighbour as Message, OVERRIDE, ROUTER, SOLICITATION, SOLICITED};

const UNIT: Mac = Mac([2, 0, 0, 0, 0, 1]);
const GUEST: Mac = Mac([0x52, 0x54, 0, 0, 0, 0xa]);
const OTHER: Mac = Mac([0x52, 0x54, 0, 0, 0, 0xb]);

const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

const LOCAL6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 1);
const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 2);
const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
const GUEST_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0xff, 0xfe00, 0xa);

fn adapter(mode: Mode) -> Adapter {
    Adapter::new(Config {
        local: vec![LOCAL.into(), LOCAL6.into()],
        peers: vec![PEER.into(), PEER6.into()],
        ..Config::new(UNIT, mode)
    })
}

/// The outcome and the frames sent.
fn from_guest(adapter: &mut Adapter, frame: &[u8], now_ms: u64) -> (FromGuest, Vec<Vec<u8>>) {
    let mut out = Vec::new();
    let what = adapter.from_guest(frame, now_ms, &mut out);
    (what, packets::frames(&out))
}

fn to_guest(adapter: &mut Adapter, packet: &[u8], now_ms: u64) -> (ToGuest, Vec<Vec<u8>>) {
    let mut out = Vec::new();
    let what = adapter.to_guest(packet, now_ms, &mut out);
    (what, packets::frames(&out))
}

/// Let `mac` send a packet from `address`.
fn hear(adapter: &mut Adapter, address: IpAddr, mac: Mac, now_ms: u64) -> Vec<Vec<u8>> {
    let destination = match address {
        IpAddr::V4(_) => LOCAL.into(),
        IpAddr::V6(_) => LOCAL6.into(),
    };
    let packet = packets::ip(address, destination, b"hello");
    let (what, sent) = from_guest(adapter, &frame(UNIT, mac, packets::ether_type(address), &packet), now_ms);
    assert!(matches!(what, FromGuest::Packet { .. }), "{what:?}");
    sent
}

fn header(destination: Mac, ether_type: u16) -> ToGuest {
    ToGuest::Header(ethernet::emit(destination, UNIT, ether_type))
}

fn owner(adapter: &Adapter, address: IpAddr, now_ms: u64) -> Option<Mac> {
    let entries = adapter.neighbours(now_ms);
    let entry = entries.iter().find(|entry| entry.address == address)?;
    Some(entry.mac)
}

fn solicitation(source: Ipv6Addr, target: Ipv6Addr) -> Message {
    Message {
        kind: SOLICITATION,
        flags: 0,
        source,
        destination: ipv6::solicited_node(target),
        target,
        link_layer: (!source.is_unspecified()).then_some(GUEST),
    }
}

fn parse(frame: &[u8]) -> (Mac, Message) {
    let view = Frame::new_checked(frame).unwrap();
    assert_eq!((view.source(), view.ether_type()), (UNIT, ETHERTYPE_IPV6));
    let packet = ipv6::Packet::new_checked(view.payload()).unwrap();
    (view.destination(), Message::parse(&packet).unwrap())
}
