//! IPv6 neighbour discovery (RFC 4861): neighbour solicitations and advertisements, validated as §7.1 asks.
//!
//! Router messages and redirects are not looked at: they are ordinary packets between the guest and the reader.

use std::net::Ipv6Addr;
use std::ops::Range;

use super::ethernet::Mac;
use super::ipv6::{self, HEADER_LEN, ICMPV6};
use super::{WireError, array};
use crate::checksum;

/// ICMPv6 type of a neighbour solicitation.
pub const SOLICITATION: u8 = 135;
/// ICMPv6 type of a neighbour advertisement.
pub const ADVERTISEMENT: u8 = 136;

/// Advertisement flag: the sender is a router.
pub const ROUTER: u8 = 0x80;
/// Advertisement flag: sent in answer to a unicast solicitation's sender.
pub const SOLICITED: u8 = 0x40;
/// Advertisement flag: replaces a cached link-layer address.
pub const OVERRIDE: u8 = 0x20;

const TYPE: usize = 0;
const CODE: usize = 1;
const CHECKSUM: Range<usize> = 2..4;
const FLAGS: usize = 4;
const TARGET: Range<usize> = 8..24;
const OPTIONS: usize = 24;

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
const LINK_LAYER_LEN: usize = 8;

const HOP_LIMIT: u8 = 255; // proof that no router has forwarded it

/// A neighbour solicitation or advertisement with its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// [`SOLICITATION`] or [`ADVERTISEMENT`].
    pub kind: u8,
    /// [`ROUTER`], [`SOLICITED`], [`OVERRIDE`]; 0 in a solicitation.
    pub flags: u8,
    /// Unspecified in a solicitation of duplicate address detection (RFC 4862 §5.4.2).
    pub source: Ipv6Addr,
    /// Who it is for.
    pub destination: Ipv6Addr,
    /// The address it is about.
    pub target: Ipv6Addr,
    /// The source (solicitation) or target (advertisement) link-layer address option.
    pub link_layer: Option<Mac>,
}

/// Whether `packet` is a neighbour solicitation or advertisement, good or bad.
#[inline]
#[must_use]
pub fn is_neighbour(packet: &ipv6::Packet<'_>) -> bool {
    packet.next_header() == ICMPV6
        && matches!(packet.payload().first(), Some(&(SOLICITATION | ADVERTISEMENT)))
}

impl Neighbour {
    /// What [`is_neighbour`] found.
    ///
    /// # Errors
    /// Any [`WireError`]: a node must not look at such a message (RFC 4861 §7.1.1, §7.1.2).
    pub fn parse(packet: &ipv6::Packet<'_>) -> Result<Neighbour, WireError> {
        let message = packet.payload();
        if message.len() < OPTIONS {
            return Err(WireError::Truncated);
        }
        let kind = message[TYPE];
        let own_option = match kind {
            SOLICITATION => SOURCE_LINK_LAYER,
            ADVERTISEMENT => TARGET_LINK_LAYER,
            _ => return Err(WireError::Version),
        };
        if checksum_of(packet.source(), packet.destination(), message) != 0 {
            return Err(WireError::Checksum);
        }
        let neighbour = Neighbour {
            kind,
            flags: if kind == ADVERTISEMENT { message[FLAGS] } else { 0 },
            source: packet.source(),
            destination: packet.destination(),
            target: Ipv6Addr::from(array::<16>(message, TARGET.start)),
            link_layer: link_layer(&message[OPTIONS..], own_option)?,
        };
        let good = packet.hop_limit() == HOP_LIMIT && message[CODE] == 0 && neighbour.keeps_the_rules();
        good.then_some(neighbour).ok_or(WireError::Malformed)
    }

    fn keeps_the_rules(&self) -> bool {
        let detection = self.source.is_unspecified();
        let source_rules = match self.kind {
            SOLICITATION => {
                !detection
                    || (self.link_layer.is_none() && self.destination == ipv6::solicited_node(self.target))
            }
            _ => !(self.destination.is_multicast() && self.flags & SOLICITED != 0),
        };
        source_rules && !self.target.is_multicast() && !self.source.is_multicast() // RFC 4291 §2.7
    }

    /// The whole IPv6 packet, checksum included.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let message_len = OPTIONS + self.link_layer.map_or(0, |_| LINK_LAYER_LEN);
        let header = ipv6::Header {
            payload_len: message_len as u16,
            next_header: ICMPV6,
            hop_limit: HOP_LIMIT,
            source: self.source,
            destination: self.destination,
        };
        let mut packet = vec![0; HEADER_LEN + message_len];
        packet[..HEADER_LEN].copy_from_slice(&header.emit());
        let message = &mut packet[HEADER_LEN..];
        message[TYPE] = self.kind;
        message[FLAGS] = self.flags;
        message[TARGET].copy_from_slice(&self.target.octets());
        if let Some(mac) = self.link_layer {
            message[OPTIONS] = match self.kind {
                SOLICITATION => SOURCE_LINK_LAYER,
                _ => TARGET_LINK_LAYER,
            };
            message[OPTIONS + 1] = (LINK_LAYER_LEN / 8) as u8;
            message[OPTIONS + 2..].copy_from_slice(&mac.0);
        }
        let checksum = checksum_of(self.source, self.destination, message);
        message[CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        packet
    }
}

/// The ICMPv6 checksum over `message`; 0 when the field in it is right (RFC 4443 §2.3).
fn checksum_of(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut sum = checksum::pseudo_header_v6(source, destination, ICMPV6, len);
    sum.add(message);
    sum.checksum()
}

/// The first link-layer address option of type `wanted`; every option is checked (RFC 4861 §4.6).
fn link_layer(mut options: &[u8], wanted: u8) -> Result<Option<Mac>, WireError> {
    let mut found = None;
    while !options.is_empty() {
        let len = match options.get(1) {
            Some(0) => return Err(WireError::Malformed),
            Some(units) => usize::from(*units) * 8,
            None => return Err(WireError::Truncated),
        };
        if len > options.len() {
            return Err(WireError::Truncated);
        }
        if options[0] == wanted && found.is_none() {
            found = Some(Mac(array(options, 2)));
        }
        options = &options[len..];
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    fn solicitation() -> Neighbour {
        let target: Ipv6Addr = "fe80::1".parse().unwrap();
        Neighbour {
            kind: SOLICITATION,
            flags: 0,
            source: ipv6::link_local(MAC),
            destination: ipv6::solicited_node(target),
            target,
            link_layer: Some(MAC),
        }
    }

    fn advertisement() -> Neighbour {
        Neighbour {
            kind: ADVERTISEMENT,
            flags: ROUTER | SOLICITED | OVERRIDE,
            destination: "fe80::2".parse().unwrap(),
            ..solicitation()
        }
    }

    fn parse(bytes: &[u8]) -> Result<Neighbour, WireError> {
        let packet = ipv6::Packet::new_checked(bytes)?;
        assert!(is_neighbour(&packet));
        Neighbour::parse(&packet)
    }

    /// `bytes` with another payload, its length and checksum made right.
    fn with_message(bytes: &[u8], message: &[u8]) -> Vec<u8> {
        let mut bytes = [&bytes[..HEADER_LEN], message].concat();
        bytes[4..6].copy_from_slice(&u16::try_from(message.len()).unwrap().to_be_bytes());
        bytes[HEADER_LEN + 2..HEADER_LEN + 4].fill(0);
        let packet = ipv6::Packet::new_checked(&bytes).unwrap();
        let checksum = checksum_of(packet.source(), packet.destination(), packet.payload());
        bytes[HEADER_LEN + 2..HEADER_LEN + 4].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    #[test]
    fn emit_then_parse_is_the_identity() {
        for neighbour in [solicitation(), advertisement()] {
            assert_eq!(parse(&neighbour.emit()), Ok(neighbour));
        }
    }

    /// fe80::5054:ff:fe12:3456 asks for fe80::1; the checksum was worked out with scapy.
    #[test]
    fn the_checksum_is_the_one_others_compute() {
        assert_eq!(solicitation().emit()[HEADER_LEN + 2..HEADER_LEN + 4], [0x72, 0x22]);
    }

    #[test]
    fn options_are_walked() {
        let bytes = solicitation().emit();
        let fixed = &bytes[HEADER_LEN..HEADER_LEN + OPTIONS];
        let own = &bytes[HEADER_LEN + OPTIONS..];
        let nonce: [u8; 8] = [14, 1, 1, 2, 3, 4, 5, 6];
        for (options, expected) in [
            (vec![], Ok(None)),
            (own.to_vec(), Ok(Some(MAC))),
            ([&nonce, own].concat(), Ok(Some(MAC))),
            (nonce.to_vec(), Ok(None)),
            (vec![1], Err(WireError::Truncated)),
            (vec![14, 2, 0, 0, 0, 0, 0, 0], Err(WireError::Truncated)),
            (vec![14, 0, 0, 0, 0, 0, 0, 0], Err(WireError::Malformed)),
        ] {
            let bytes = with_message(&bytes, &[fixed, &options].concat());
            assert_eq!(parse(&bytes).map(|neighbour| neighbour.link_layer), expected, "{options:?}");
        }
    }

    #[test]
    fn what_the_rfc_forbids_is_refused() {
        let unspecified = Ipv6Addr::UNSPECIFIED;
        let forbidden = [
            Neighbour { source: unspecified, ..solicitation() },
            Neighbour {
                source: unspecified,
                link_layer: None,
                destination: "fe80::1".parse().unwrap(),
                ..solicitation()
            },
            Neighbour { source: ipv6::ALL_NODES, ..solicitation() },
            Neighbour { target: ipv6::ALL_NODES, ..solicitation() },
            Neighbour { target: ipv6::ALL_NODES, ..advertisement() },
            Neighbour { destination: ipv6::ALL_NODES, ..advertisement() },
        ];
        for neighbour in forbidden {
            assert_eq!(parse(&neighbour.emit()), Err(WireError::Malformed), "{neighbour:?}");
        }
        let good = solicitation().emit();
        let mut code = good.clone();
        code[HEADER_LEN + CODE] = 1;
        let code = with_message(&code, &code[HEADER_LEN..]);
        assert_eq!(parse(&code), Err(WireError::Malformed));
        let mut hop_limit = good.clone();
        hop_limit[7] = 254;
        assert_eq!(parse(&hop_limit), Err(WireError::Malformed));
        let mut checksum = good.clone();
        checksum[HEADER_LEN + 2] ^= 1;
        assert_eq!(parse(&checksum), Err(WireError::Checksum));
        let short = with_message(&good, &good[HEADER_LEN..HEADER_LEN + 23]);
        assert_eq!(parse(&short), Err(WireError::Truncated));
    }

    #[test]
    fn detection_of_a_duplicate_is_accepted() {
        let detection = Neighbour { source: Ipv6Addr::UNSPECIFIED, link_layer: None, ..solicitation() };
        let bytes = detection.emit();
        assert_eq!((bytes.len(), parse(&bytes)), (HEADER_LEN + OPTIONS, Ok(detection)));
    }
}
