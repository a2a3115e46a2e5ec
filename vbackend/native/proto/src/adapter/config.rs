//! What an adapter is told: the unit's own addresses and its mode, and the questions they answer by themselves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::ethernet::Mac;
use crate::wire::ipv6;

/// Addresses learned at most, when nothing else is asked for.
pub const MAX_NEIGHBOURS: usize = 1024;

/// What lies behind the unit (the interface flags of tun(4), `TUNSIFMODE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `IFF_POINTOPOINT`: one guest, which is the next hop for everything; the unit answers for every other address.
    PointToPoint,
    /// `IFF_BROADCAST`: any number of guests, each asked for by its address.
    Broadcast,
}

/// Addresses and mode of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The unit's own MAC: source of all frames to guests, and what they resolve its addresses to.
    pub mac: Mac,
    /// What lies behind it.
    pub mode: Mode,
    /// The host's or program's addresses: the near end.
    pub local: Vec<IpAddr>,
    /// The guest's addresses, as configured: the far end. Always learnable, never answered for.
    pub peers: Vec<IpAddr>,
    /// Subnet broadcast addresses, besides 255.255.255.255.
    pub broadcasts: Vec<Ipv4Addr>,
    /// Addresses learned at most; the peers' come on top.
    pub max_neighbours: usize,
}

impl Config {
    /// A unit without addresses.
    #[must_use]
    pub fn new(mac: Mac, mode: Mode) -> Config {
        Config {
            mac,
            mode,
            local: Vec::new(),
            peers: Vec::new(),
            broadcasts: Vec::new(),
            max_neighbours: MAX_NEIGHBOURS,
        }
    }

    /// The unit's implicit address in neighbour discovery.
    #[must_use]
    pub fn link_local(&self) -> Ipv6Addr {
        ipv6::link_local(self.mac)
    }

    /// Whether `address` is the unit's own.
    #[inline]
    pub(super) fn is_local(&self, address: IpAddr) -> bool {
        self.local.contains(&address) || address == IpAddr::V6(self.link_local())
    }

    /// Whether a guest can have `address`: one host's, and not the unit's own.
    #[inline]
    pub(super) fn guest_may_own(&self, address: IpAddr) -> bool {
        let unicast = match address {
            IpAddr::V4(address) => !address.is_broadcast() && !self.broadcasts.contains(&address),
            IpAddr::V6(_) => true,
        };
        unicast
            && !address.is_unspecified()
            && !address.is_multicast()
            && !address.is_loopback()
            && !self.is_local(address)
    }

    /// Where packets for a group go; `None` for the address of one host.
    #[inline]
    pub(super) fn group_mac(&self, destination: IpAddr) -> Option<Mac> {
        match destination {
            IpAddr::V4(group) if group.is_multicast() => Some(Mac::of_ipv4_group(group)),
            IpAddr::V4(all) if all.is_broadcast() || self.broadcasts.contains(&all) => Some(Mac::BROADCAST),
            IpAddr::V6(group) if group.is_multicast() => Some(Mac::of_ipv6_group(group)),
            _ => None,
        }
    }

    /// Who is asked for when nothing is known of `destination`: itself, or the far end of a point-to-point link.
    pub(super) fn next_hop(&self, destination: IpAddr) -> IpAddr {
        let link_local = matches!(destination, IpAddr::V6(address) if address.is_unicast_link_local());
        if self.mode == Mode::Broadcast || self.peers.contains(&destination) || link_local {
            return destination;
        }
        let same_family = |peer: &&IpAddr| peer.is_ipv4() == destination.is_ipv4();
        self.peers.iter().find(same_family).copied().unwrap_or(destination)
    }

    /// The address that ARP requests come from; unspecified when the unit has none (RFC 5227 §1.1: a probe).
    pub(super) fn arp_source(&self) -> Ipv4Addr {
        let first = self.local.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        first.unwrap_or(Ipv4Addr::UNSPECIFIED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(mode: Mode) -> Config {
        Config {
            local: vec!["10.7.0.1".parse().unwrap(), "fd07::1".parse().unwrap()],
            peers: vec!["10.7.0.2".parse().unwrap(), "fd07::2".parse().unwrap()],
            broadcasts: vec!["10.7.0.255".parse().unwrap()],
            ..Config::new(Mac([2, 0, 0, 0, 0, 1]), mode)
        }
    }

    #[test]
    fn what_a_guest_may_own() {
        for (address, expected) in [
            ("10.7.0.2", true),
            ("192.0.2.1", true),
            ("fe80::1", true),
            ("fd07::2", true),
            ("10.7.0.1", false),
            ("fd07::1", false),
            ("fe80::ff:fe00:1", false), // the unit's own link-local address
            ("10.7.0.255", false),
            ("255.255.255.255", false),
            ("0.0.0.0", false),
            ("::", false),
            ("127.0.0.1", false),
            ("::1", false),
            ("224.0.0.1", false),
            ("ff02::1", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(config(Mode::Broadcast).guest_may_own(address), expected, "{address}");
        }
    }

    #[test]
    fn next_hops() {
        // (destination, next hop on a point-to-point unit); on a broadcast unit it is always the destination
        for (destination, expected) in [
            ("10.7.0.2", "10.7.0.2"),
            ("192.0.2.1", "10.7.0.2"),
            ("fd07::2", "fd07::2"),
            ("2001:db8::1", "fd07::2"),
            ("fe80::5", "fe80::5"),
        ] {
            let (destination, expected): (IpAddr, IpAddr) =
                (destination.parse().unwrap(), expected.parse().unwrap());
            assert_eq!(config(Mode::PointToPoint).next_hop(destination), expected, "{destination}");
            assert_eq!(config(Mode::Broadcast).next_hop(destination), destination);
        }
        let bare = Config::new(Mac([2, 0, 0, 0, 0, 1]), Mode::PointToPoint);
        let destination = "192.0.2.1".parse().unwrap();
        assert_eq!(bare.next_hop(destination), destination);
        assert_eq!(bare.arp_source(), Ipv4Addr::UNSPECIFIED);
    }

    #[test]
    fn groups() {
        for (destination, expected) in [
            ("224.0.0.251", Some("01:00:5e:00:00:fb")),
            ("255.255.255.255", Some("ff:ff:ff:ff:ff:ff")),
            ("10.7.0.255", Some("ff:ff:ff:ff:ff:ff")),
            ("ff02::1:2", Some("33:33:00:01:00:02")),
            ("10.7.0.2", None),
            ("fd07::2", None),
        ] {
            let expected = expected.map(|mac| mac.parse().unwrap());
            assert_eq!(
                config(Mode::Broadcast).group_mac(destination.parse().unwrap()),
                expected,
                "{destination}"
            );
        }
    }
}
