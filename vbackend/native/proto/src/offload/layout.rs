//! Where the headers of a frame lie, and the fields of them that offloads touch.

use std::ops::Range;

use crate::checksum::{Sum, sum};
use crate::wire::{Family, array, ethernet, ipv4, ipv6, word};

/// Bytes of a VLAN tag, EtherType included.
const TAG_LEN: usize = 4;
/// A customer's tag inside a provider's; more are nobody's offload.
const MAX_TAGS: usize = 2;

/// RFC 791 §3.1, from the IP header on.
pub const IPV4_TOTAL_LEN: Range<usize> = 2..4;
pub const IPV4_ID: Range<usize> = 4..6;
pub const IPV4_FRAGMENT: usize = 6;
pub const IPV4_CHECKSUM: Range<usize> = 10..12;
/// Of the word at [`IPV4_FRAGMENT`]: "don't fragment".
pub const IPV4_DF: u16 = 0x4000;
const IPV4_PROTOCOL: usize = 9;
const IPV4_ADDRESSES: Range<usize> = 12..20;
/// Of the same word: "more fragments", and the offset.
const IPV4_IS_FRAGMENT: u16 = 0x3fff;

/// RFC 8200 §3, from the IP header on.
pub const IPV6_PAYLOAD_LEN: Range<usize> = 4..6;
pub const IPV6_NEXT_HEADER: usize = 6;
const DESTINATION_OPTIONS: u8 = 60;
const IPV6_ADDRESSES: Range<usize> = 8..40;

/// RFC 9293 §3.1, from the TCP header on.
pub const TCP_SEQUENCE: Range<usize> = 4..8;
pub const TCP_DATA_OFFSET: usize = 12;
pub const TCP_FLAGS: usize = 13;
pub const TCP_CHECKSUM: Range<usize> = 16..18;
pub const TCP_MIN_LEN: usize = 20;
pub const FIN: u8 = 0x01;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const ECE: u8 = 0x40;
pub const CWR: u8 = 0x80;

/// RFC 768, from the UDP header on.
pub const UDP_LEN: Range<usize> = 4..6;
pub const UDP_CHECKSUM: Range<usize> = 6..8;
pub const UDP_HEADER_LEN: usize = 8;

/// What the offloads are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    const fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        }
    }

    fn of(protocol: u8) -> Option<Transport> {
        [Transport::Tcp, Transport::Udp].into_iter().find(|transport| transport.number() == protocol)
    }

    /// Where its checksum lies, from its header on.
    pub const fn checksum(self) -> Range<usize> {
        match self {
            Transport::Tcp => TCP_CHECKSUM,
            Transport::Udp => UDP_CHECKSUM,
        }
    }
}

/// Where the headers of a TCP or UDP frame begin. They are whole; the length fields of IP and UDP are not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub family: Family,
    pub transport: Transport,
    /// The IP header, behind Ethernet's and its tags.
    pub l3: usize,
    /// The TCP or UDP header, behind IP options or extension headers.
    pub l4: usize,
    /// The data.
    pub payload: usize,
}

impl Layout {
    /// Find the headers; None for what is no whole TCP or UDP header: other protocols, fragments, what is cut off.
    #[inline]
    pub fn parse(frame: &[u8]) -> Option<Layout> {
        let (family, l3) = network(frame)?;
        let (protocol, l4) = match family {
            Family::Ipv4 => ipv4_payload(frame, l3)?,
            Family::Ipv6 => ipv6_payload(frame, l3)?,
        };
        let transport = Transport::of(protocol)?;
        let header = match transport {
            Transport::Tcp => usize::from(frame.get(l4 + TCP_DATA_OFFSET)? >> 4) * 4,
            Transport::Udp => UDP_HEADER_LEN,
        };
        let payload = l4 + header;
        let is_whole = payload <= frame.len() && (transport == Transport::Udp || header >= TCP_MIN_LEN);
        is_whole.then_some(Layout { family, transport, l3, l4, payload })
    }

    /// Where both addresses lie.
    #[inline]
    pub fn addresses(&self) -> Range<usize> {
        let addresses = match self.family {
            Family::Ipv4 => IPV4_ADDRESSES,
            Family::Ipv6 => IPV6_ADDRESSES,
        };
        self.l3 + addresses.start..self.l3 + addresses.end
    }

    /// Where the transport's checksum lies.
    #[inline]
    pub fn checksum(&self) -> Range<usize> {
        let field = self.transport.checksum();
        self.l4 + field.start..self.l4 + field.end
    }

    /// The pseudo-header's sum, for `len` bytes from the transport header on (RFC 9293 §3.1, RFC 8200 §8.1).
    #[inline]
    pub fn pseudo_header(&self, frame: &[u8], len: usize) -> Sum {
        let mut pseudo = sum(&frame[self.addresses()]);
        pseudo.add_word(u16::from(self.transport.number()));
        pseudo.add_word(u16::try_from(len).unwrap_or(u16::MAX)); // of an IP packet: below 64 KiB
        pseudo
    }
}

/// The IP version and where its header begins, behind up to [`MAX_TAGS`] tags.
#[inline]
fn network(frame: &[u8]) -> Option<(Family, usize)> {
    let mut l3 = ethernet::HEADER_LEN;
    for _ in 0..=MAX_TAGS {
        let ether_type = word(frame.get(l3 - 2..l3)?, 0);
        if let Some(family) = Family::of_ether_type(ether_type) {
            return (Family::of(&frame[l3..]) == Some(family)).then_some((family, l3));
        }
        if ether_type != ethernet::ETHERTYPE_VLAN && ether_type != ethernet::ETHERTYPE_QINQ {
            return None;
        }
        l3 += TAG_LEN;
    }
    None
}

/// The protocol of an IPv4 packet that is no fragment, and where its payload begins.
#[inline]
fn ipv4_payload(frame: &[u8], l3: usize) -> Option<(u8, usize)> {
    let header = frame.get(l3..l3 + ipv4::MIN_HEADER_LEN)?;
    let len = usize::from(header[0] & 0x0f) * 4;
    let is_whole = len >= ipv4::MIN_HEADER_LEN && word(header, IPV4_FRAGMENT) & IPV4_IS_FRAGMENT == 0;
    is_whole.then_some((header[IPV4_PROTOCOL], l3 + len))
}

/// The upper-layer protocol of an IPv6 packet and where it begins, behind the extension headers that do not change what
/// the transport's checksum covers. A routing header does: its last address is the destination (RFC 8200 §8.1).
#[inline]
fn ipv6_payload(frame: &[u8], l3: usize) -> Option<(u8, usize)> {
    let (mut next, mut at) = (*frame.get(l3 + IPV6_NEXT_HEADER)?, l3 + ipv6::HEADER_LEN);
    while next == ipv6::HOP_BY_HOP || next == DESTINATION_OPTIONS {
        let [following, len] = array(frame.get(at..at + 2)?, 0);
        next = following;
        at += 8 * (usize::from(len) + 1);
    }
    Some((next, at))
}
