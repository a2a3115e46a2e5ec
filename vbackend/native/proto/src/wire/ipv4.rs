//! IPv4 headers (RFC 791 §3.1): lengths and addresses. The header checksum is the receiver's business.

use std::net::Ipv4Addr;
use std::ops::Range;

use super::{WireError, array, word};

/// Bytes of a header without options.
pub const MIN_HEADER_LEN: usize = 20;

const VERSION_IHL: usize = 0;
const TOTAL_LEN: Range<usize> = 2..4;
const PROTOCOL: usize = 9;
const SOURCE: Range<usize> = 12..16;
const DESTINATION: Range<usize> = 16..20;

/// A view of one packet, link-layer padding cut off.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a>(&'a [u8]);

impl<'a> Packet<'a> {
    /// A view of the packet at the start of `bytes`; what follows its total length is left out.
    ///
    /// # Errors
    /// [`WireError::Truncated`] when `bytes` are fewer than the header or the total length says,
    /// [`WireError::Version`], [`WireError::Malformed`] for a header length below 20 or above the total length.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Packet<'a>, WireError> {
        if bytes.len() < MIN_HEADER_LEN {
            return Err(WireError::Truncated);
        }
        if bytes[VERSION_IHL] >> 4 != 4 {
            return Err(WireError::Version);
        }
        let header = header_len(bytes);
        let total = usize::from(word(bytes, TOTAL_LEN.start));
        if header < MIN_HEADER_LEN || total < header {
            return Err(WireError::Malformed);
        }
        bytes.get(..total).map(Packet).ok_or(WireError::Truncated)
    }

    /// The packet, `total_len` bytes.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// The protocol of the payload.
    #[inline]
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.0[PROTOCOL]
    }

    /// Who sent it.
    #[inline]
    #[must_use]
    pub fn source(&self) -> Ipv4Addr {
        Ipv4Addr::from(array::<4>(self.0, SOURCE.start))
    }

    /// Who it is for.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> Ipv4Addr {
        destination(self.0)
    }

    /// What follows the header and its options.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.0[header_len(self.0)..]
    }
}

/// The destination of what has at least [`MIN_HEADER_LEN`] bytes.
#[inline]
pub(crate) fn destination(bytes: &[u8]) -> Ipv4Addr {
    Ipv4Addr::from(array::<4>(bytes, DESTINATION.start))
}

#[inline]
fn header_len(bytes: &[u8]) -> usize {
    usize::from(bytes[VERSION_IHL] & 0x0f) * 4
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `len` bytes with this version-and-header-length byte and this total length.
    fn bytes(version_ihl: u8, total: u16, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        bytes[0] = version_ihl;
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        bytes[9] = 17;
        bytes[12..20].copy_from_slice(&[10, 7, 0, 2, 10, 7, 0, 1]);
        bytes
    }

    #[test]
    fn lengths_and_version_decide() {
        use WireError::{Malformed, Truncated, Version};
        // (version and header length, total length, bytes there, outcome: length of the view)
        for (version_ihl, total, len, expected) in [
            (0x45, 20, 20, Ok(20)),
            (0x45, 28, 28, Ok(28)),
            (0x45, 28, 46, Ok(28)),
            (0x4f, 60, 60, Ok(60)),
            (0x45, 29, 28, Err(Truncated)),
            (0x45, 65_535, 1500, Err(Truncated)),
            (0x45, 19, 46, Err(Malformed)),
            (0x45, 0, 46, Err(Malformed)),
            (0x44, 28, 46, Err(Malformed)),
            (0x46, 20, 46, Err(Malformed)),
            (0x65, 28, 46, Err(Version)),
            (0x05, 28, 46, Err(Version)),
        ] {
            let bytes = bytes(version_ihl, total, len);
            let view = Packet::new_checked(&bytes).map(|packet| packet.bytes().len());
            assert_eq!(view, expected, "{version_ihl:#x} {total} {len}");
        }
        assert_eq!(Packet::new_checked(&bytes(0x45, 20, 20)[..19]).err(), Some(Truncated));
    }

    #[test]
    fn getters() {
        let bytes = bytes(0x46, 26, 40);
        let packet = Packet::new_checked(&bytes).unwrap();
        assert_eq!(packet.source(), Ipv4Addr::new(10, 7, 0, 2));
        assert_eq!(packet.destination(), Ipv4Addr::new(10, 7, 0, 1));
        assert_eq!((packet.protocol(), packet.payload().len()), (17, 2));
    }
}
