//! IPv6 headers (RFC 8200 §3) and the two addresses derived from a MAC or an address (RFC 4291 §2.5.6, §2.7.1).

use std::net::Ipv6Addr;
use std::ops::Range;

use super::ethernet::Mac;
use super::{WireError, array, word};

/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 40;

/// Next header: hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Next header: ICMPv6.
pub const ICMPV6: u8 = 58;

/// `ff02::1`.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const VERSION: usize = 0;
const PAYLOAD_LEN: Range<usize> = 4..6;
const NEXT_HEADER: usize = 6;
const HOP_LIMIT: usize = 7;
const SOURCE: Range<usize> = 8..24;
const DESTINATION: Range<usize> = 24..40;

/// A view of one packet, link-layer padding cut off.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a>(&'a [u8]);

impl<'a> Packet<'a> {
    /// A view of the packet at the start of `bytes`; what follows its payload length is left out.
    ///
    /// # Errors
    /// [`WireError::Truncated`] when `bytes` are fewer than the header or the payload length says,
    /// [`WireError::Version`], [`WireError::Malformed`] for a jumbogram (RFC 2675), which Ethernet cannot carry.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Packet<'a>, WireError> {
        if bytes.len() < HEADER_LEN {
            return Err(WireError::Truncated);
        }
        if bytes[VERSION] >> 4 != 6 {
            return Err(WireError::Version);
        }
        let payload = usize::from(word(bytes, PAYLOAD_LEN.start));
        if payload == 0 && bytes[NEXT_HEADER] == HOP_BY_HOP {
            return Err(WireError::Malformed);
        }
        (bytes.get(..HEADER_LEN + payload)).map(Packet).ok_or(WireError::Truncated)
    }

    /// The packet, header and payload.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// What the payload starts with: a protocol or an extension header.
    #[inline]
    #[must_use]
    pub fn next_header(&self) -> u8 {
        self.0[NEXT_HEADER]
    }

    /// Hops it may still go.
    #[inline]
    #[must_use]
    pub fn hop_limit(&self) -> u8 {
        self.0[HOP_LIMIT]
    }

    /// Who sent it.
    #[inline]
    #[must_use]
    pub fn source(&self) -> Ipv6Addr {
        Ipv6Addr::from(array::<16>(self.0, SOURCE.start))
    }

    /// Who it is for.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> Ipv6Addr {
        destination(self.0)
    }

    /// What follows the fixed header.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.0[HEADER_LEN..]
    }
}

/// The destination of what has at least [`HEADER_LEN`] bytes.
#[inline]
pub(crate) fn destination(bytes: &[u8]) -> Ipv6Addr {
    Ipv6Addr::from(array::<16>(bytes, DESTINATION.start))
}

/// The fixed fields of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes that follow.
    pub payload_len: u16,
    /// What they start with.
    pub next_header: u8,
    /// Hops it may go.
    pub hop_limit: u8,
    /// Who sends it.
    pub source: Ipv6Addr,
    /// Who it is for.
    pub destination: Ipv6Addr,
}

impl Header {
    /// The header in wire form; traffic class and flow label are 0.
    #[must_use]
    pub fn emit(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[VERSION] = 6 << 4;
        header[PAYLOAD_LEN].copy_from_slice(&self.payload_len.to_be_bytes());
        header[NEXT_HEADER] = self.next_header;
        header[HOP_LIMIT] = self.hop_limit;
        header[SOURCE].copy_from_slice(&self.source.octets());
        header[DESTINATION].copy_from_slice(&self.destination.octets());
        header
    }
}

/// The link-local address that belongs to a MAC: `fe80::/64` and its modified EUI-64 (RFC 4291 appendix A).
#[must_use]
pub fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The group on which an address is asked for: `ff02::1:ff00:0/104` and its low 24 bits (RFC 4291 §2.7.1).
#[must_use]
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        payload_len: 8,
        next_header: 17,
        hop_limit: 64,
        source: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
        destination: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
    };

    #[test]
    fn lengths_and_version_decide() {
        use WireError::{Malformed, Truncated, Version};
        // (first byte, next header, payload length, bytes there, outcome: length of the view)
        for (first, next_header, payload_len, len, expected) in [
            (0x60, 17, 8, 48, Ok(48)),
            (0x6f, 17, 8, 60, Ok(48)),
            (0x60, 59, 0, 40, Ok(40)),
            (0x60, 17, 9, 48, Err(Truncated)),
            (0x60, 17, 65_535, 1500, Err(Truncated)),
            (0x60, HOP_BY_HOP, 0, 60, Err(Malformed)),
            (0x60, HOP_BY_HOP, 8, 60, Ok(48)),
            (0x45, 17, 8, 48, Err(Version)),
        ] {
            let header = Header { payload_len, next_header, ..HEADER };
            let mut bytes = header.emit().to_vec();
            bytes.resize(len, 0);
            bytes[0] = first;
            let view = Packet::new_checked(&bytes).map(|packet| packet.bytes().len());
            assert_eq!(view, expected, "{first:#x} {next_header} {payload_len} {len}");
        }
        assert_eq!(Packet::new_checked(&HEADER.emit()[..39]).err(), Some(Truncated));
    }

    #[test]
    fn derived_addresses() {
        let mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        assert_eq!(link_local(mac).to_string(), "fe80::5054:ff:fe12:3456");
        assert_eq!(solicited_node("fd00::12:3456".parse().unwrap()).to_string(), "ff02::1:ff12:3456");
    }
}
