//! The link headers of the device face: what a reader finds in front of a packet, and what a writer puts there.
//!
//! ```text
//!   none      bare IP: the version nibble is the family
//!   null      family, 4 bytes, host order (DLT_NULL); read in either order
//!   loop      family, 4 bytes, network order (DLT_LOOP)
//!   sockaddr  sa_len, sa_family, ...: 16 bytes for IPv4, 28 for IPv6 (TUNSLMODE, if_tun.c tun_output, tunwrite)
//!   pi        flags, EtherType, 2 bytes each, network order (Linux struct tun_pi)
//!   ether     destination, source, EtherType (the unit's tap sibling)
//! ```
//!
//! `vbackend/tun/headers.py` has the same codecs for programs; tests compare the two.

use std::net::IpAddr;

use super::UnitError;
use crate::wire::ethernet::{self, Mac};
use crate::wire::{Family, array, word};

/// Bytes of the longest header.
pub const MAX_HEADER_LEN: usize = SOCKADDR_IN6_LEN;

/// Bytes of the shortest `struct sockaddr`, which is all that a writer must give (if_tun.c tunwrite).
pub const SOCKADDR_LEN: usize = 16;
const SOCKADDR_IN6_LEN: usize = 28;

const AF_INET: u32 = 2;
/// Of NetBSD and OpenBSD, FreeBSD, Darwin, Linux; all of them are understood.
const AF_INET6: [u32; 4] = [24, 28, 30, 10];

/// Which header packets have on the device face.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Bare IP.
    None,
    /// DLT_NULL.
    Null,
    /// DLT_LOOP.
    Loop,
    /// A socket address: the driver's `PREPADDR`.
    Sockaddr,
    /// Linux packet information.
    Pi,
    /// A whole Ethernet frame.
    Ether,
}

/// Whose numbers and socket addresses are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// NetBSD and OpenBSD: AF_INET6 is 24.
    Netbsd,
    /// FreeBSD and DragonFly: 28.
    Freebsd,
    /// macOS: 30.
    Darwin,
    /// 10, and socket addresses have no length byte.
    Linux,
}

/// The address family of a packet on the interface face, `AF_UNSPEC` and foreign ones included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFamily {
    /// Queued as it is, without a header.
    Unspecified,
    /// A family that the unit carries.
    Ip(Family),
    /// One that it does not, by its number.
    Other(u32),
}

impl System {
    /// `sa_family` and all other places that only this system's programs read.
    #[must_use]
    pub fn number(self, family: Family) -> u32 {
        match (family, self) {
            (Family::Ipv4, _) => AF_INET,
            (Family::Ipv6, System::Netbsd) => AF_INET6[0],
            (Family::Ipv6, System::Freebsd) => AF_INET6[1],
            (Family::Ipv6, System::Darwin) => AF_INET6[2],
            (Family::Ipv6, System::Linux) => AF_INET6[3],
        }
    }

    /// The number in DLT_NULL and DLT_LOOP headers: analysers do not know Linux's.
    #[must_use]
    pub fn capture_number(self, family: AddressFamily) -> u32 {
        match (family, self) {
            (AddressFamily::Unspecified, _) => 0,
            (AddressFamily::Ip(family), System::Linux) => System::Netbsd.number(family),
            (AddressFamily::Ip(family), _) => self.number(family),
            (AddressFamily::Other(number), _) => number,
        }
    }
}

/// A header on its way to the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    bytes: [u8; MAX_HEADER_LEN],
    len: usize,
}

impl Built {
    /// Nothing in front.
    pub const EMPTY: Built = Built { bytes: [0; MAX_HEADER_LEN], len: 0 };

    fn of(bytes: &[u8]) -> Built {
        let mut built = Built { len: bytes.len(), ..Built::EMPTY };
        built.bytes[..bytes.len()].copy_from_slice(bytes);
        built
    }

    /// The header.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The header of a packet of `family` for `destination` (the next hop; None: the unspecified address). `link`: the
/// stations between which it travels, destination first.
#[inline]
#[must_use]
pub fn build(
    header: Header,
    system: System,
    family: Family,
    destination: Option<IpAddr>,
    link: (Mac, Mac),
) -> Built {
    match header {
        Header::None => Built::EMPTY,
        Header::Null => Built::of(&system.capture_number(AddressFamily::Ip(family)).to_ne_bytes()),
        Header::Loop => Built::of(&system.capture_number(AddressFamily::Ip(family)).to_be_bytes()),
        Header::Sockaddr => sockaddr(system, family, destination),
        Header::Pi => {
            let [high, low] = family.ether_type().to_be_bytes();
            Built::of(&[0, 0, high, low])
        }
        Header::Ether => Built::of(&ethernet::emit(link.0, link.1, family.ether_type())),
    }
}

fn sockaddr(system: System, family: Family, destination: Option<IpAddr>) -> Built {
    const ADDRESS: usize = 4; // behind length, family and port
    const ADDRESS6: usize = 8; // behind the flow information too
    let len = if family == Family::Ipv4 { SOCKADDR_LEN } else { SOCKADDR_IN6_LEN };
    let mut built = Built { len, ..Built::EMPTY };
    let number = system.number(family) as u16; // all of them are below 256
    let head = match system {
        System::Linux => number.to_ne_bytes(),
        _ => [len as u8, number as u8],
    };
    built.bytes[..2].copy_from_slice(&head);
    match destination {
        Some(IpAddr::V4(address)) if family == Family::Ipv4 => {
            built.bytes[ADDRESS..ADDRESS + 4].copy_from_slice(&address.octets());
        }
        Some(IpAddr::V6(address)) if family == Family::Ipv6 => {
            built.bytes[ADDRESS6..ADDRESS6 + 16].copy_from_slice(&address.octets());
        }
        _ => {}
    }
    built
}

/// Where the packet begins behind its header, and the header's family. None: a family that the unit does not carry,
/// or, without a header, an empty packet.
///
/// # Errors
/// [`UnitError::Short`]: there is no whole header.
#[inline]
pub fn split(header: Header, system: System, data: &[u8]) -> Result<(usize, Option<Family>), UnitError> {
    match header {
        Header::None => Ok((0, Family::of(data))),
        Header::Null => {
            let raw = whole::<4>(data)?;
            let family = family_of(u32::from_le_bytes(raw)).or_else(|| family_of(u32::from_be_bytes(raw)));
            Ok((4, family))
        }
        Header::Loop => Ok((4, family_of(u32::from_be_bytes(whole(data)?)))),
        Header::Sockaddr => {
            let raw = whole::<SOCKADDR_LEN>(data)?;
            let (len, number) = match system {
                System::Linux => {
                    let number = u16::from_ne_bytes([raw[0], raw[1]]);
                    let long = family_of(number.into()) == Some(Family::Ipv6);
                    (if long { SOCKADDR_IN6_LEN } else { SOCKADDR_LEN }, number.into())
                }
                _ => (usize::from(raw[0]), u32::from(raw[1])),
            };
            Ok((len.max(SOCKADDR_LEN).min(data.len()), family_of(number)))
        }
        Header::Pi => {
            let raw = whole::<4>(data)?;
            Ok((4, Family::of_ether_type(word(&raw, 2))))
        }
        Header::Ether => {
            let raw = whole::<{ ethernet::HEADER_LEN }>(data)?;
            Ok((ethernet::HEADER_LEN, Family::of_ether_type(word(&raw, 12))))
        }
    }
}

#[inline]
fn whole<const N: usize>(data: &[u8]) -> Result<[u8; N], UnitError> {
    if data.len() < N { Err(UnitError::Short) } else { Ok(array(data, 0)) }
}

/// The family that a number of any of the four systems means.
#[inline]
#[must_use]
pub fn family_of(number: u32) -> Option<Family> {
    match number {
        AF_INET => Some(Family::Ipv4),
        _ if AF_INET6.contains(&number) => Some(Family::Ipv6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: (Mac, Mac) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
    const SYSTEMS: [System; 4] = [System::Netbsd, System::Freebsd, System::Darwin, System::Linux];

    fn built(header: Header, system: System, family: Family, destination: &str) -> Vec<u8> {
        build(header, system, family, Some(destination.parse().unwrap()), LINK).bytes().to_vec()
    }

    #[test]
    fn what_readers_find() {
        use Family::{Ipv4, Ipv6};
        let number = |number: u32| number.to_ne_bytes().to_vec();
        let mut netbsd = vec![28, 24, 0, 0, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8];
        netbsd.extend([0; 11]);
        netbsd.extend([2, 0, 0, 0, 0]);
        for (header, system, family, expected) in [
            (Header::None, System::Netbsd, Ipv4, vec![]),
            (Header::Null, System::Netbsd, Ipv4, number(2)),
            (Header::Null, System::Netbsd, Ipv6, number(24)),
            (Header::Null, System::Freebsd, Ipv6, number(28)),
            (Header::Null, System::Darwin, Ipv6, number(30)),
            (Header::Null, System::Linux, Ipv6, number(24)),
            (Header::Loop, System::Darwin, Ipv6, vec![0, 0, 0, 30]),
            (Header::Loop, System::Linux, Ipv4, vec![0, 0, 0, 2]),
            (Header::Sockaddr, System::Netbsd, Ipv4, vec![16, 2, 0, 0, 10, 7, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]),
            (Header::Sockaddr, System::Netbsd, Ipv6, netbsd),
            (Header::Pi, System::Netbsd, Ipv6, vec![0, 0, 0x86, 0xdd]),
            (Header::Ether, System::Netbsd, Ipv4, vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]),
        ] {
            let destination = if family == Ipv4 { "10.7.0.2" } else { "2001:db8::2" };
            assert_eq!(built(header, system, family, destination), expected, "{header:?} {system:?}");
        }
        let linux = built(Header::Sockaddr, System::Linux, Ipv6, "2001:db8::2");
        assert_eq!((linux.len(), &linux[..2]), (28, &10u16.to_ne_bytes()[..]));
    }

    #[test]
    fn what_is_built_is_understood_by_all() {
        for header in [Header::Null, Header::Loop, Header::Sockaddr, Header::Pi, Header::Ether] {
            for system in SYSTEMS {
                for family in [Family::Ipv4, Family::Ipv6] {
                    let mut data = build(header, system, family, None, LINK).bytes().to_vec();
                    let len = data.len();
                    data.extend([0xee; 30]);
                    assert_eq!(
                        split(header, system, &data),
                        Ok((len, Some(family))),
                        "{header:?} {system:?}"
                    );
                    let least = len.min(SOCKADDR_LEN);
                    for cut in 0..least {
                        assert_eq!(split(header, system, &data[..cut]), Err(UnitError::Short));
                    }
                }
            }
        }
    }

    #[test]
    fn what_writers_may_give() {
        let sa = |len: u8, family: u8| [&[len, family][..], &[0; 40]].concat();
        for (header, data, expected) in [
            (Header::None, vec![0x45], (0, Some(Family::Ipv4))),
            (Header::None, vec![0x60], (0, Some(Family::Ipv6))),
            (Header::None, vec![0x50], (0, None)),
            (Header::None, vec![], (0, None)),
            (Header::Null, vec![24, 0, 0, 0], (4, Some(Family::Ipv6))),
            (Header::Null, vec![0, 0, 0, 24], (4, Some(Family::Ipv6))),
            (Header::Null, vec![0, 0, 2, 0], (4, None)),
            (Header::Loop, vec![2, 0, 0, 0], (4, None)),
            (Header::Sockaddr, sa(16, 2), (16, Some(Family::Ipv4))),
            (Header::Sockaddr, sa(0, 2), (16, Some(Family::Ipv4))),
            (Header::Sockaddr, sa(28, 30), (28, Some(Family::Ipv6))),
            (Header::Sockaddr, sa(255, 24), (42, Some(Family::Ipv6))),
            (Header::Sockaddr, sa(16, 7), (16, None)),
            (Header::Pi, vec![0, 1, 8, 0], (4, Some(Family::Ipv4))),
            (Header::Pi, vec![0, 0, 8, 6], (4, None)),
            (Header::Ether, [&[0; 12][..], &[0x81, 0]].concat(), (14, None)),
        ] {
            assert_eq!(split(header, System::Netbsd, &data), Ok(expected), "{header:?} {data:?}");
        }
    }
}
