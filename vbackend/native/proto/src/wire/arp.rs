//! ARP for IPv4 over Ethernet (RFC 826), with the probe and announcement forms of RFC 5227 §1.1.

use std::net::Ipv4Addr;
use std::ops::Range;

use super::ethernet::{ETHERTYPE_IPV4, Mac};
use super::{WireError, array, word};

/// Bytes of a message; Ethernet padding may follow.
pub const LEN: usize = 28;

/// `ares_op$REQUEST`.
pub const REQUEST: u16 = 1;
/// `ares_op$REPLY`.
pub const REPLY: u16 = 2;

const HARDWARE: Range<usize> = 0..2;
const PROTOCOL: Range<usize> = 2..4;
const LENGTHS: Range<usize> = 4..6;
const OPERATION: Range<usize> = 6..8;
const SENDER_MAC: Range<usize> = 8..14;
const SENDER_IP: Range<usize> = 14..18;
const TARGET_MAC: Range<usize> = 18..24;
const TARGET_IP: Range<usize> = 24..28;

const HARDWARE_ETHERNET: u16 = 1;
const ADDRESS_LENGTHS: [u8; 2] = [6, 4];

/// A view of a message about IPv4 over Ethernet.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a>(&'a [u8]);

impl<'a> Message<'a> {
    /// A view of a frame's payload.
    ///
    /// # Errors
    /// [`WireError::Truncated`], or [`WireError::Version`] when it is about other address types.
    pub fn new_checked(bytes: &'a [u8]) -> Result<Message<'a>, WireError> {
        if bytes.len() < LEN {
            return Err(WireError::Truncated);
        }
        if word(bytes, HARDWARE.start) != HARDWARE_ETHERNET
            || word(bytes, PROTOCOL.start) != ETHERTYPE_IPV4
            || bytes[LENGTHS] != ADDRESS_LENGTHS
        {
            return Err(WireError::Version);
        }
        Ok(Message(bytes))
    }

    /// [`REQUEST`], [`REPLY`], or something else.
    #[must_use]
    pub fn operation(&self) -> u16 {
        word(self.0, OPERATION.start)
    }

    /// Whose it is, as the sender says.
    #[must_use]
    pub fn sender_mac(&self) -> Mac {
        Mac(array(self.0, SENDER_MAC.start))
    }

    /// The sender's address; unspecified in a probe.
    #[must_use]
    pub fn sender_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(array::<4>(self.0, SENDER_IP.start))
    }

    /// Meaningless in a request.
    #[must_use]
    pub fn target_mac(&self) -> Mac {
        Mac(array(self.0, TARGET_MAC.start))
    }

    /// The address asked for.
    #[must_use]
    pub fn target_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(array::<4>(self.0, TARGET_IP.start))
    }
}

/// One side of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its IPv4 address.
    pub ip: Ipv4Addr,
}

/// A message in wire form.
#[must_use]
pub fn emit(operation: u16, sender: Party, target: Party) -> [u8; LEN] {
    let mut message = [0; LEN];
    message[HARDWARE].copy_from_slice(&HARDWARE_ETHERNET.to_be_bytes());
    message[PROTOCOL].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
    message[LENGTHS].copy_from_slice(&ADDRESS_LENGTHS);
    message[OPERATION].copy_from_slice(&operation.to_be_bytes());
    message[SENDER_MAC].copy_from_slice(&sender.mac.0);
    message[SENDER_IP].copy_from_slice(&sender.ip.octets());
    message[TARGET_MAC].copy_from_slice(&target.mac.0);
    message[TARGET_IP].copy_from_slice(&target.ip.octets());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request as a Linux guest sends it: who has 10.7.0.1, tell 10.7.0.2.
    const CAPTURED: [u8; LEN] =
        [0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 10, 7, 0, 2, 0, 0, 0, 0, 0, 0, 10, 7, 0, 1];

    #[test]
    fn a_captured_request_reads_and_is_what_emit_makes() {
        let message = Message::new_checked(&CAPTURED).unwrap();
        let sender = Party { mac: message.sender_mac(), ip: message.sender_ip() };
        let target = Party { mac: message.target_mac(), ip: message.target_ip() };
        assert_eq!(sender.mac, Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        assert_eq!(sender.ip, Ipv4Addr::new(10, 7, 0, 2));
        assert_eq!((target.mac, target.ip), (Mac::ZERO, Ipv4Addr::new(10, 7, 0, 1)));
        assert_eq!(emit(message.operation(), sender, target), CAPTURED);
    }

    #[test]
    fn other_address_types_and_cut_messages_are_refused() {
        for (at, value) in [(1, 6), (3, 6), (4, 8), (5, 16)] {
            let mut other = CAPTURED;
            other[at] = value;
            assert_eq!(Message::new_checked(&other).err(), Some(WireError::Version), "byte {at}");
        }
        assert_eq!(Message::new_checked(&CAPTURED[..27]).err(), Some(WireError::Truncated));
    }
}
