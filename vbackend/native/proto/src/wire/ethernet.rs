//! Ethernet II headers and MAC addresses (IEEE 802.3, 802.1Q §8.6.3; RFC 1112 §6.4 and RFC 2464 §7 for multicast).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::str::FromStr;

use super::{WireError, array, word};

/// Bytes of the header: destination, source, EtherType. No tag.
pub const HEADER_LEN: usize = 14;

/// RFC 894.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// RFC 826.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// IEEE 802.1Q customer tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// RFC 2464.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IEEE 802.1ad service tag.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;

const DESTINATION: Range<usize> = 0..6;
const SOURCE: Range<usize> = 6..12;
const TYPE: Range<usize> = 12..14;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Mac = Mac([0xff; 6]);
    /// All zero: nobody, the unknown target of an ARP request.
    pub const ZERO: Mac = Mac([0; 6]);

    /// Whether it is a group address; broadcast is one.
    #[inline]
    #[must_use]
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether it is the broadcast address.
    #[inline]
    #[must_use]
    pub fn is_broadcast(self) -> bool {
        self == Mac::BROADCAST
    }

    /// Whether it is one of 01-80-C2-00-00-00 to 0F, which no bridge forwards (IEEE 802.1Q §8.6.3).
    #[inline]
    #[must_use]
    pub fn is_link_local_group(self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0, 0, last] if last < 0x10)
    }

    /// Whether it can be a station's own address: neither a group nor all zero.
    #[inline]
    #[must_use]
    pub fn is_station(self) -> bool {
        !self.is_multicast() && self != Mac::ZERO
    }

    /// Where frames for an IPv4 group go: the low 23 bits behind 01-00-5E (RFC 1112 §6.4).
    #[inline]
    #[must_use]
    pub fn of_ipv4_group(group: Ipv4Addr) -> Mac {
        let [_, b, c, d] = group.octets();
        Mac([0x01, 0x00, 0x5e, b & 0x7f, c, d])
    }

    /// Where frames for an IPv6 group go: the low 32 bits behind 33-33 (RFC 2464 §7).
    #[inline]
    #[must_use]
    pub fn of_ipv6_group(group: Ipv6Addr) -> Mac {
        let [.., a, b, c, d] = group.octets();
        Mac([0x33, 0x33, a, b, c, d])
    }
}

impl From<[u8; 6]> for Mac {
    fn from(octets: [u8; 6]) -> Mac {
        Mac(octets)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// A text that is not six pairs of hexadecimal digits joined by `:` or `-`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadMac;

impl fmt::Display for BadMac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("not a MAC address: expected six pairs of hexadecimal digits, as in 52:54:00:12:34:56")
    }
}

impl std::error::Error for BadMac {}

impl FromStr for Mac {
    type Err = BadMac;

    /// Both customary forms, each with one separator throughout: `52:54:00:12:34:56`, `52-54-00-12-34-56`.
    fn from_str(text: &str) -> Result<Mac, BadMac> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0; 6];
        let mut parts = text.split(separator);
        for octet in &mut octets {
            let part = parts.next().ok_or(BadMac)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(BadMac);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| BadMac)?;
        }
        if parts.next().is_some() {
            return Err(BadMac);
        }
        Ok(Mac(octets))
    }
}

/// A view of a frame that has at least a header.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a>(&'a [u8]);

impl<'a> Frame<'a> {
    /// A view of `bytes`.
    ///
    /// # Errors
    /// [`WireError::Truncated`] when there is no whole header.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Frame<'a>, WireError> {
        if bytes.len() < HEADER_LEN {
            return Err(WireError::Truncated);
        }
        Ok(Frame(bytes))
    }

    /// Who it is for.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> Mac {
        Mac(array(self.0, DESTINATION.start))
    }

    /// Who sent it.
    #[inline]
    #[must_use]
    pub fn source(&self) -> Mac {
        Mac(array(self.0, SOURCE.start))
    }

    /// The EtherType; below 1536 it is an IEEE 802.3 length.
    #[inline]
    #[must_use]
    pub fn ether_type(&self) -> u16 {
        word(self.0, TYPE.start)
    }

    /// What follows the header, padding included.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.0[HEADER_LEN..]
    }
}

/// A header in wire form.
#[inline]
#[must_use]
pub fn emit(destination: Mac, source: Mac, ether_type: u16) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[DESTINATION].copy_from_slice(&destination.0);
    header[SOURCE].copy_from_slice(&source.0);
    header[TYPE].copy_from_slice(&ether_type.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(text: &str) -> Mac {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_read_and_print() {
        for (text, octets) in [
            ("52:54:00:12:34:56", [0x52, 0x54, 0, 0x12, 0x34, 0x56]),
            ("52-54-00-AB-cd-EF", [0x52, 0x54, 0, 0xab, 0xcd, 0xef]),
        ] {
            assert_eq!(mac(text), Mac(octets));
            assert_eq!(mac(text).to_string(), text.replace('-', ":").to_ascii_lowercase());
        }
        for bad in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "52:54:00:12:34:5",
            "52:54:00:12:34:+5",
            "52:54-00:12:34:56",
            "5254.0012.3456",
            "52:54:00:12:34:é",
        ] {
            assert_eq!(bad.parse::<Mac>(), Err(BadMac), "{bad}");
        }
    }

    #[test]
    fn kinds_of_addresses() {
        // (address, multicast, broadcast, link-local group, station)
        for (text, multicast, broadcast, group, station) in [
            ("52:54:00:12:34:56", false, false, false, true),
            ("00:00:00:00:00:00", false, false, false, false),
            ("ff:ff:ff:ff:ff:ff", true, true, false, false),
            ("01:80:c2:00:00:00", true, false, true, false),
            ("01:80:c2:00:00:0f", true, false, true, false),
            ("01:80:c2:00:00:10", true, false, false, false),
            ("00:80:c2:00:00:0e", false, false, false, true),
        ] {
            let address = mac(text);
            assert_eq!(
                (
                    address.is_multicast(),
                    address.is_broadcast(),
                    address.is_link_local_group(),
                    address.is_station()
                ),
                (multicast, broadcast, group, station),
                "{text}"
            );
        }
    }

    #[test]
    fn groups_map_as_the_rfcs_say() {
        for (group, expected) in [("224.0.0.251", "01:00:5e:00:00:fb"), ("239.255.1.2", "01:00:5e:7f:01:02")]
        {
            assert_eq!(Mac::of_ipv4_group(group.parse().unwrap()), mac(expected));
        }
        assert_eq!(Mac::of_ipv6_group("ff02::1:ff12:3456".parse().unwrap()), mac("33:33:ff:12:34:56"));
    }

    #[test]
    fn a_frame_needs_its_header() {
        let header = emit(Mac::BROADCAST, Mac([2, 0, 0, 0, 0, 1]), ETHERTYPE_ARP);
        assert!(Frame::new_checked(&header[..13]).is_err());
        let frame = Frame::new_checked(&header).unwrap();
        assert_eq!(
            (frame.destination(), frame.source(), frame.ether_type(), frame.payload()),
            (Mac::BROADCAST, Mac([2, 0, 0, 0, 0, 1]), ETHERTYPE_ARP, &[] as &[u8])
        );
    }
}
