//! Packets and frames for tests: small, with right lengths, checksums only where the code under test looks at them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::framing::{Run, frames_of};
use crate::vnet::VnetHeader;
use crate::wire::ethernet::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Mac};
use crate::wire::ndp::Neighbour;
use crate::wire::{arp, ipv6};

/// A frame.
#[must_use]
pub fn frame(destination: Mac, source: Mac, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&ethernet::emit(destination, source, ether_type), payload].concat()
}

/// An IPv4 packet with protocol 253 (RFC 3692: for tests).
#[must_use]
pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let total = u16::try_from(20 + payload.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 253, 0, 0];
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    packet.extend_from_slice(payload);
    packet
}

/// An IPv6 packet with next header 253 (RFC 3692: for tests).
#[must_use]
pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let header = ipv6::Header {
        payload_len: u16::try_from(payload.len()).unwrap_or(u16::MAX),
        next_header: 253,
        hop_limit: 64,
        source,
        destination,
    };
    [&header.emit(), payload].concat()
}

/// A packet between two addresses; of `destination`'s version, with the unspecified source when the other has another.
#[must_use]
pub fn ip(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4(source, destination, payload),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6(source, destination, payload),
        (_, IpAddr::V4(destination)) => ipv4(Ipv4Addr::UNSPECIFIED, destination, payload),
        (_, IpAddr::V6(destination)) => ipv6(Ipv6Addr::UNSPECIFIED, destination, payload),
    }
}

/// The EtherType that goes with an address.
#[must_use]
pub fn ether_type(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => ETHERTYPE_IPV4,
        IpAddr::V6(_) => ETHERTYPE_IPV6,
    }
}

/// An ARP frame sent by `source`, who also says to be the sender.
#[must_use]
pub fn arp(destination: Mac, source: Mac, operation: u16, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let sender = arp::Party { mac: source, ip: sender };
    let target = arp::Party { mac: Mac::ZERO, ip: target };
    frame(destination, source, ETHERTYPE_ARP, &arp::emit(operation, sender, target))
}

/// A frame with a neighbour solicitation or advertisement, to the Ethernet group of its destination if that is one.
#[must_use]
pub fn neighbour(unicast: Mac, source: Mac, message: &Neighbour) -> Vec<u8> {
    let destination = match message.destination.is_multicast() {
        true => Mac::of_ipv6_group(message.destination),
        false => unicast,
    };
    frame(destination, source, ETHERTYPE_IPV6, &message.emit())
}

/// The frames in a vector in wire format.
#[must_use]
pub fn frames(wire: &[u8]) -> Vec<Vec<u8>> {
    let whole = Run { start: 0, end: wire.len(), frames: 0, vnet: VnetHeader::PLAIN };
    frames_of(wire, whole).map(<[u8]>::to_vec).collect()
}
