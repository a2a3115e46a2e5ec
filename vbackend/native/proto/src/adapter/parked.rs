//! Packets that wait for a guest to tell its MAC, and the questions that are put meanwhile.
//!
//! The rule it keeps: every packet that is parked comes out once, released or lost. Memory: [`MAX_PACKETS`] packets of at
//! most 65,535 bytes and a little, whatever the traffic. Nothing parked, no timer.

use std::collections::VecDeque;
use std::net::IpAddr;

use crate::wire::Family;

/// Packets for one address; a further one takes the place of the oldest (RFC 4861 §7.2.2).
pub const MAX_PACKETS_PER_ADDRESS: usize = 3;
/// Packets in all.
pub const MAX_PACKETS: usize = 64;
/// Questions per address (RFC 4861 `MAX_MULTICAST_SOLICIT`).
pub const TRIES: u8 = 3;
/// Between two of them, and after the last (RFC 4861 `RETRANS_TIMER`; RFC 1122 §2.3.2.1: not more than one a second).
pub const RETRY_MS: u64 = 1000;

/// A copy of a packet.
pub(super) struct Packet {
    pub family: Family,
    pub bytes: Vec<u8>,
}

struct Waiting {
    address: IpAddr,
    packets: VecDeque<Packet>, // never empty
    tries: u8,
    due_ms: u64,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parking {
    /// It waits, and the address is to be asked for.
    Ask,
    /// It waits for an answer that is under way.
    Waits,
    /// The same, and the oldest packet for the address is lost.
    Displaced,
    /// No place.
    Full,
}

/// What the clock asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask for the address once more.
    Ask(IpAddr),
    /// Nobody answered: so many packets are lost.
    Lost(usize),
}

/// All packets that wait.
pub(super) struct Parked {
    waiting: Vec<Waiting>,
    len: usize,
}

impl Parked {
    pub fn new() -> Parked {
        Parked { waiting: Vec::new(), len: 0 }
    }

    /// Packets.
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keep a copy of a packet until `address` answers.
    pub fn park(&mut self, address: IpAddr, family: Family, packet: &[u8], now_ms: u64) -> Parking {
        let known = self.waiting.iter_mut().find(|waiting| waiting.address == address);
        let parking = match &known {
            Some(waiting) if waiting.packets.len() >= MAX_PACKETS_PER_ADDRESS => Parking::Displaced,
            _ if self.len >= MAX_PACKETS => return Parking::Full,
            Some(_) => Parking::Waits,
            None => Parking::Ask,
        };
        let packet = Packet { family, bytes: packet.to_vec() };
        match known {
            Some(waiting) => {
                if parking == Parking::Displaced {
                    waiting.packets.pop_front();
                    self.len -= 1;
                }
                waiting.packets.push_back(packet);
            }
            None => self.waiting.push(Waiting {
                address,
                packets: VecDeque::from([packet]),
                tries: 1,
                due_ms: now_ms + RETRY_MS,
            }),
        }
        self.len += 1;
        parking
    }

    /// Take out what waits for `address`, oldest first.
    pub fn release(&mut self, address: IpAddr) -> VecDeque<Packet> {
        match self.waiting.iter().position(|waiting| waiting.address == address) {
            Some(index) => self.take(index),
            None => VecDeque::new(),
        }
    }

    /// The next thing that is due; `None` when nothing is, or no more is.
    pub fn step(&mut self, now_ms: u64) -> Option<Step> {
        let index = self.waiting.iter().position(|waiting| waiting.due_ms <= now_ms)?;
        let waiting = &mut self.waiting[index];
        if waiting.tries >= TRIES {
            return Some(Step::Lost(self.take(index).len()));
        }
        waiting.tries += 1;
        waiting.due_ms = now_ms + RETRY_MS;
        Some(Step::Ask(waiting.address))
    }

    /// When [`Parked::step`] has something to do; `None` when nothing is parked.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.waiting.iter().map(|waiting| waiting.due_ms).min()
    }

    /// Forget all; returns how many packets that were.
    pub fn purge(&mut self) -> usize {
        self.waiting.clear();
        std::mem::take(&mut self.len)
    }

    fn take(&mut self, index: usize) -> VecDeque<Packet> {
        let packets = self.waiting.swap_remove(index).packets;
        self.len -= packets.len();
        packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn ip(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 7, 0, last).into()
    }

    fn park(parked: &mut Parked, last: u8, packet: u8, now_ms: u64) -> Parking {
        parked.park(ip(last), Family::Ipv4, &[packet], now_ms)
    }

    fn released(parked: &mut Parked, last: u8) -> Vec<u8> {
        (parked.release(ip(last)).iter()).map(|packet| packet.bytes[0]).collect()
    }

    #[test]
    fn the_newest_three_wait_in_order() {
        let mut parked = Parked::new();
        for (packet, expected) in [
            (0, Parking::Ask),
            (1, Parking::Waits),
            (2, Parking::Waits),
            (3, Parking::Displaced),
            (4, Parking::Displaced),
        ] {
            assert_eq!(park(&mut parked, 1, packet, 0), expected);
        }
        assert_eq!(parked.len(), MAX_PACKETS_PER_ADDRESS);
        assert_eq!(released(&mut parked, 1), [2, 3, 4]);
        assert_eq!(released(&mut parked, 1), []);
        assert!(parked.is_empty());
    }

    #[test]
    fn the_whole_is_bounded() {
        let mut parked = Parked::new();
        for last in 0..=255 {
            let expected = if parked.len() < MAX_PACKETS { Parking::Ask } else { Parking::Full };
            assert_eq!(park(&mut parked, last, 0, 0), expected);
        }
        assert_eq!(park(&mut parked, 0, 0, 0), Parking::Full);
        assert_eq!((parked.purge(), parked.len()), (MAX_PACKETS, 0));
        assert_eq!(parked.deadline_ms(), None);
    }

    #[test]
    fn three_questions_a_second_apart_then_loss() {
        let mut parked = Parked::new();
        assert_eq!((parked.deadline_ms(), parked.step(u64::MAX)), (None, None));
        park(&mut parked, 1, 0, 500);
        park(&mut parked, 1, 1, 900);
        // (time, what is due, the next deadline)
        for (now_ms, expected, deadline) in [
            (1499, None, Some(1500)),
            (1500, Some(Step::Ask(ip(1))), Some(2500)),
            (2600, Some(Step::Ask(ip(1))), Some(3600)),
            (3600, Some(Step::Lost(2)), None),
        ] {
            assert_eq!(parked.step(now_ms), expected, "at {now_ms}");
            assert_eq!(parked.step(now_ms), None, "once at {now_ms}");
            assert_eq!(parked.deadline_ms(), deadline, "after {now_ms}");
        }
    }
}
