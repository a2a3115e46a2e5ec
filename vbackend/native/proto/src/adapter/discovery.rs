//! Who has an address: answering guests' ARP requests and neighbour solicitations, and asking them.
//!
//! The rule it keeps: never a word that claims a guest's own address. So a probe (RFC 5227 §2.1.1) and duplicate address
//! detection (RFC 4862 §5.4) are answered only to defend the unit's own addresses.

use std::net::{IpAddr, Ipv6Addr};

use super::config::{Config, Mode};
use super::neighbours::Neighbours;
use super::push_frame;
use crate::drop_reason::DropReason;
use crate::wire::arp::{self, Party};
use crate::wire::ethernet::{self, ETHERTYPE_ARP, ETHERTYPE_IPV6, Mac};
use crate::wire::ndp::{ADVERTISEMENT, Neighbour, OVERRIDE, ROUTER, SOLICITATION, SOLICITED};
use crate::wire::{WireError, ipv6};

/// Whom a message tells about: this address is at the MAC it was sent from.
pub(super) type Told = Option<IpAddr>;

/// In whose name a question is answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// The address is the unit's.
    Own,
    /// On a point-to-point unit everything that is not the guest's is reached through the unit (RFC 1027, RFC 4861 §7.2.8).
    Proxy,
}

/// Whether to answer when `asker` asks for `target`; an unspecified asker does not want an answer but a silence.
fn claim(config: &Config, known: &Neighbours, target: IpAddr, asker: IpAddr, now_ms: u64) -> Option<Claim> {
    if config.is_local(target) {
        return Some(Claim::Own);
    }
    let proxy = config.mode == Mode::PointToPoint
        && !asker.is_unspecified()
        && asker != target
        && !config.peers.contains(&target)
        && config.guest_may_own(target)
        && known.lookup(target, now_ms).is_none();
    proxy.then_some(Claim::Proxy)
}

/// A guest's ARP message; the answer, if any, is appended to `out`.
pub(super) fn handle_arp(
    config: &Config,
    known: &Neighbours,
    frame: &ethernet::Frame<'_>,
    now_ms: u64,
    out: &mut Vec<u8>,
) -> Result<Told, DropReason> {
    let message = arp::Message::new_checked(frame.payload()).map_err(|error| match error {
        WireError::Truncated => DropReason::BadIp,
        _ => DropReason::NotIp,
    })?;
    let asker = Party { mac: message.sender_mac(), ip: message.sender_ip() };
    let target = message.target_ip();
    match message.operation() {
        arp::REQUEST => {
            if claim(config, known, target.into(), asker.ip.into(), now_ms).is_some() {
                let own = Party { mac: config.mac, ip: target };
                let header = ethernet::emit(frame.source(), config.mac, ETHERTYPE_ARP);
                push_frame(out, &header, &arp::emit(arp::REPLY, own, asker));
            }
        }
        arp::REPLY => {}
        _ => return Err(DropReason::NotIp),
    }
    Ok((asker.mac == frame.source()).then_some(IpAddr::V4(asker.ip)))
}

/// A guest's neighbour solicitation or advertisement; the answer, if any, is appended to `out`.
pub(super) fn handle_neighbour(
    config: &Config,
    known: &Neighbours,
    from: Mac,
    packet: &ipv6::Packet<'_>,
    now_ms: u64,
    out: &mut Vec<u8>,
) -> Result<Told, DropReason> {
    let message = Neighbour::parse(packet).map_err(|_| DropReason::BadIp)?;
    if message.kind == SOLICITATION
        && let Some(claim) = claim(config, known, message.target.into(), message.source.into(), now_ms)
    {
        advertise(config, &message, claim, from, out);
    }
    let address = match message.kind {
        SOLICITATION => message.source,
        _ => message.target,
    };
    let own_word = message.link_layer.is_none_or(|mac| mac == from);
    Ok(own_word.then_some(IpAddr::V6(address)))
}

/// Answer a solicitation (RFC 4861 §7.2.4).
///
/// The router flag is always set: the unit forwards, and a host that sees it cleared would drop its default route through it
/// (§7.2.5). An answer by proxy does not override what is known better.
fn advertise(config: &Config, asked: &Neighbour, claim: Claim, from: Mac, out: &mut Vec<u8>) {
    let detection = asked.source.is_unspecified();
    let (destination, mac, solicited) = match detection {
        true => (ipv6::ALL_NODES, Mac::of_ipv6_group(ipv6::ALL_NODES), 0),
        false => (asked.source, from, SOLICITED),
    };
    let (source, overriding) = match claim {
        Claim::Own => (asked.target, OVERRIDE),
        Claim::Proxy => (config.link_local(), 0),
    };
    let answer = Neighbour {
        kind: ADVERTISEMENT,
        flags: ROUTER | solicited | overriding,
        source,
        destination,
        target: asked.target,
        link_layer: Some(config.mac),
    };
    let header = ethernet::emit(mac, config.mac, ETHERTYPE_IPV6);
    push_frame(out, &header, &answer.emit());
}

/// Ask for `address`: everyone, or only the guest that had it last.
pub(super) fn ask(config: &Config, address: IpAddr, last: Option<Mac>, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => {
            let own = Party { mac: config.mac, ip: config.arp_source() };
            let target = Party { mac: Mac::ZERO, ip: address };
            let header = ethernet::emit(last.unwrap_or(Mac::BROADCAST), config.mac, ETHERTYPE_ARP);
            push_frame(out, &header, &arp::emit(arp::REQUEST, own, target));
        }
        IpAddr::V6(address) => solicit(config, address, last, out),
    }
}

/// Ask by multicast (RFC 4861 §7.2.2) or, for a guest known once, by unicast (§7.3.3).
fn solicit(config: &Config, target: Ipv6Addr, last: Option<Mac>, out: &mut Vec<u8>) {
    let (destination, mac) = match last {
        Some(mac) => (target, mac),
        None => {
            let group = ipv6::solicited_node(target);
            (group, Mac::of_ipv6_group(group))
        }
    };
    let question = Neighbour {
        kind: SOLICITATION,
        flags: 0,
        source: config.link_local(),
        destination,
        target,
        link_layer: Some(config.mac),
    };
    let header = ethernet::emit(mac, config.mac, ETHERTYPE_IPV6);
    push_frame(out, &header, &question.emit());
}
