//! Wire formats: a checked view per header, then getters that cannot fail.
//!
//! `X::new_checked` looks at every length and version once; after it no getter can be out of bounds. Only what a tun
//! adapter and checksum completion need is here: this is not a network stack.

pub mod arp;
pub mod ethernet;
pub mod ipv4;
pub mod ipv6;
pub mod ndp;

use std::fmt;
use std::net::IpAddr;

/// Why bytes are not the header they were taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// Fewer bytes than the header, or than the header says.
    Truncated,
    /// A version, hardware type or protocol that is not this one.
    Version,
    /// A field that the protocol's own rules forbid.
    Malformed,
    /// The checksum does not fit.
    Checksum,
}

impl fmt::Display for WireError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            WireError::Truncated => "shorter than its header says",
            WireError::Version => "another version or address type",
            WireError::Malformed => "a field its protocol forbids",
            WireError::Checksum => "wrong checksum",
        })
    }
}

impl std::error::Error for WireError {}

/// The two kinds of bare IP that a tun unit carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// RFC 791.
    Ipv4,
    /// RFC 8200.
    Ipv6,
}

impl Family {
    /// What the version nibble of a bare packet says.
    #[inline]
    #[must_use]
    pub fn of(packet: &[u8]) -> Option<Family> {
        match packet.first()? >> 4 {
            4 => Some(Family::Ipv4),
            6 => Some(Family::Ipv6),
            _ => None,
        }
    }

    /// The family whose frames have this EtherType.
    #[inline]
    #[must_use]
    pub fn of_ether_type(ether_type: u16) -> Option<Family> {
        match ether_type {
            ethernet::ETHERTYPE_IPV4 => Some(Family::Ipv4),
            ethernet::ETHERTYPE_IPV6 => Some(Family::Ipv6),
            _ => None,
        }
    }

    /// The EtherType of its frames.
    #[inline]
    #[must_use]
    pub fn ether_type(self) -> u16 {
        match self {
            Family::Ipv4 => ethernet::ETHERTYPE_IPV4,
            Family::Ipv6 => ethernet::ETHERTYPE_IPV6,
        }
    }
}

/// The destination of a packet whose version nibble says what it is; None: too short to have one, or another version.
#[inline]
#[must_use]
pub fn destination_of(packet: &[u8]) -> Option<IpAddr> {
    match Family::of(packet)? {
        Family::Ipv4 if packet.len() >= ipv4::MIN_HEADER_LEN => Some(ipv4::destination(packet).into()),
        Family::Ipv6 if packet.len() >= ipv6::HEADER_LEN => Some(ipv6::destination(packet).into()),
        _ => None,
    }
}

/// `N` bytes at `at`. The caller has checked that they are there.
#[inline]
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// The big-endian number at `at`. The caller has checked that it is there.
#[inline]
pub(crate) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}
