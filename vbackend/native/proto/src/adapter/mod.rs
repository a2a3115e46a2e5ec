//! The adapter between a guest's Ethernet and a tun unit's bare IP.
//!
//! Towards the unit it strips the Ethernet header, checks the IP lengths, and answers ARP and IPv6 neighbour discovery, so
//! that a stock guest works with no special set-up. Towards the guest it puts a header in front, asking for the guest's MAC
//! first when it does not know it. Router discovery, MLD and everything else of IPv6 are packets like any other.
//!
//! Pure: `now_ms` is an argument, frames to send come out through a byte vector in the engine's wire format (4-byte
//! big-endian length, frame). On the fast path nothing is allocated. A call appends at most one answer and
//! [`MAX_PACKETS_PER_ADDRESS`] released packets; [`Adapter::poll`] at most one question per parked packet.
//!
//! ```text
//!   guest frame ─► from_guest ─► packet to the reader │ consumed │ drop
//!                     │ learns IP → MAC, answers, releases what was parked
//!                     ▼
//!                 neighbours ◄─ to_guest ◄─ packet from the writer
//!                                  └─► header to put in front │ parked, question sent │ drop
//! ```

mod config;
mod discovery;
mod neighbours;
mod parked;

use std::net::IpAddr;

use crate::drop_reason::DropReason;
use crate::framing::{MAX_FRAME, PREFIX_LEN, put_prefix};
use crate::wire::ethernet::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame, HEADER_LEN, Mac};
use crate::wire::{Family, destination_of, ethernet, ipv4, ipv6, ndp};

pub use config::{Config, MAX_NEIGHBOURS, Mode};
pub use neighbours::{ASK_AGAIN_MS, FRESH_MS, Neighbour};
pub use parked::{MAX_PACKETS, MAX_PACKETS_PER_ADDRESS, RETRY_MS, TRIES};

use discovery::Told;
use neighbours::Neighbours;
use parked::{Parked, Parking, Step};

/// What a guest's frame turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromGuest {
    /// `frame[start..end]` is a packet for the reader: whole, with lengths that fit, padding cut off.
    Packet {
        /// Its version.
        family: Family,
        /// Its first byte.
        start: usize,
        /// One past its last byte.
        end: usize,
    },
    /// ARP or neighbour discovery, dealt with.
    Consumed,
    /// Not for the reader.
    Drop(DropReason),
}

/// What is to be done with a packet for a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToGuest {
    /// Put this in front of it and send it.
    Header([u8; HEADER_LEN]),
    /// Its guest is being asked for; a copy is kept, and released by [`Adapter::from_guest`] or lost in [`Adapter::poll`].
    Parked {
        /// Older packets for the same guest that were lost for it ([`DropReason::NoNeighbour`]): 0 or 1.
        displaced: usize,
    },
    /// It cannot be sent.
    Drop(DropReason),
}

/// What a look at the clock brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled {
    /// Parked packets that were lost because nobody answered ([`DropReason::NoNeighbour`]).
    pub lost: usize,
    /// When to look again; `None` when nothing is parked.
    pub deadline_ms: Option<u64>,
}

/// One unit's adapter.
pub struct Adapter {
    config: Config,
    neighbours: Neighbours,
    parked: Parked,
}

impl Adapter {
    /// An adapter that knows no guest yet.
    #[must_use]
    pub fn new(config: Config) -> Adapter {
        Adapter { config, neighbours: Neighbours::new(), parked: Parked::new() }
    }

    /// The addresses and mode in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Change addresses and mode; what was learned and parked stays.
    pub fn set_config(&mut self, config: Config) {
        self.config = config;
    }

    /// A frame from the segment.
    ///
    /// Answers, and packets parked for a guest that is known now, are appended to `out`. The checksums of ARP and neighbour
    /// discovery must be complete, as every guest sends them.
    #[inline]
    pub fn from_guest(&mut self, frame: &[u8], now_ms: u64, out: &mut Vec<u8>) -> FromGuest {
        match self.try_from_guest(frame, now_ms, out) {
            Ok(what) => what,
            Err(reason) => FromGuest::Drop(reason),
        }
    }

    fn try_from_guest(
        &mut self,
        frame: &[u8],
        now_ms: u64,
        out: &mut Vec<u8>,
    ) -> Result<FromGuest, DropReason> {
        let frame = Frame::new_checked(frame).map_err(|_| DropReason::Runt)?;
        let (destination, source) = (frame.destination(), frame.source());
        if destination != self.config.mac && !destination.is_multicast() {
            return Err(DropReason::NotForUnit);
        }
        if !source.is_station() || source == self.config.mac {
            return Err(DropReason::Spoofed);
        }
        match frame.ether_type() {
            ETHERTYPE_IPV4 => {
                let packet = ipv4::Packet::new_checked(frame.payload()).map_err(|_| DropReason::BadIp)?;
                self.learn(Some(packet.source().into()), source, now_ms, out);
                Ok(packet_of(Family::Ipv4, packet.bytes()))
            }
            ETHERTYPE_IPV6 => {
                let packet = ipv6::Packet::new_checked(frame.payload()).map_err(|_| DropReason::BadIp)?;
                if ndp::is_neighbour(&packet) {
                    let (config, known) = (&self.config, &self.neighbours);
                    let told = discovery::handle_neighbour(config, known, source, &packet, now_ms, out)?;
                    self.learn(told, source, now_ms, out);
                    return Ok(FromGuest::Consumed);
                }
                self.learn(Some(packet.source().into()), source, now_ms, out);
                Ok(packet_of(Family::Ipv6, packet.bytes()))
            }
            ETHERTYPE_ARP => {
                let told = discovery::handle_arp(&self.config, &self.neighbours, &frame, now_ms, out)?;
                self.learn(told, source, now_ms, out);
                Ok(FromGuest::Consumed)
            }
            _ => Err(DropReason::NotIp),
        }
    }

    /// Note where an address is, and send what waited for it.
    #[inline]
    fn learn(&mut self, told: Told, mac: Mac, now_ms: u64, out: &mut Vec<u8>) {
        let Some(address) = told.filter(|address| self.config.guest_may_own(*address)) else {
            return;
        };
        let peers = &self.config.peers;
        let limit = match peers.contains(&address) {
            true => self.config.max_neighbours + peers.len(),
            false => self.config.max_neighbours,
        };
        if self.neighbours.learn(address, mac, now_ms, limit) && !self.parked.is_empty() {
            for packet in self.parked.release(address) {
                let header = self.header(mac, packet.family);
                push_frame(out, &header, &packet.bytes);
            }
        }
    }

    /// A bare packet for the guest, from the device face.
    ///
    /// Its version and destination are looked at, nothing else: what a tun writer sends is the guest's business. A question
    /// for the guest's MAC, if one is due, is appended to `out`.
    #[inline]
    pub fn to_guest(&mut self, packet: &[u8], now_ms: u64, out: &mut Vec<u8>) -> ToGuest {
        let (Some(family), Some(destination)) = (Family::of(packet), destination_of(packet)) else {
            return ToGuest::Drop(DropReason::BadIp);
        };
        if packet.len() + HEADER_LEN > MAX_FRAME {
            return ToGuest::Drop(DropReason::Oversize);
        }
        if let Some(mac) = self.config.group_mac(destination) {
            return ToGuest::Header(self.header(mac, family));
        }
        if let Some(mac) = self.route(destination, now_ms, out) {
            return ToGuest::Header(self.header(mac, family));
        }
        if destination.is_unspecified() {
            return ToGuest::Drop(DropReason::BadIp);
        }
        let hop = self.config.next_hop(destination);
        if hop != destination
            && let Some(mac) = self.route(hop, now_ms, out)
        {
            return ToGuest::Header(self.header(mac, family));
        }
        self.park(hop, family, packet, now_ms, out)
    }

    fn park(
        &mut self,
        hop: IpAddr,
        family: Family,
        packet: &[u8],
        now_ms: u64,
        out: &mut Vec<u8>,
    ) -> ToGuest {
        match self.parked.park(hop, family, packet, now_ms) {
            Parking::Ask => {
                discovery::ask(&self.config, hop, None, out);
                ToGuest::Parked { displaced: 0 }
            }
            Parking::Waits => ToGuest::Parked { displaced: 0 },
            Parking::Displaced => ToGuest::Parked { displaced: 1 },
            Parking::Full => ToGuest::Drop(DropReason::NoNeighbour),
        }
    }

    /// The MAC of `address`, if known; a guest not heard for a while is asked meanwhile, so that a one-way flow to it does
    /// not stop when its entry would age.
    #[inline]
    fn route(&mut self, address: IpAddr, now_ms: u64, out: &mut Vec<u8>) -> Option<Mac> {
        let route = self.neighbours.route(address, now_ms)?;
        if route.ask {
            discovery::ask(&self.config, address, Some(route.mac), out);
        }
        Some(route.mac)
    }

    #[inline]
    fn header(&self, destination: Mac, family: Family) -> [u8; HEADER_LEN] {
        ethernet::emit(destination, self.config.mac, family.ether_type())
    }

    /// Do what is due at `now_ms`: questions are appended to `out`, packets whose guest stayed silent are lost.
    pub fn poll(&mut self, now_ms: u64, out: &mut Vec<u8>) -> Polled {
        let mut lost = 0;
        while let Some(step) = self.parked.step(now_ms) {
            match step {
                Step::Ask(address) => discovery::ask(&self.config, address, None, out),
                Step::Lost(packets) => lost += packets,
            }
        }
        Polled { lost, deadline_ms: self.deadline_ms() }
    }

    /// When [`Adapter::poll`] has something to do; `None` when nothing is parked.
    #[must_use]
    pub fn deadline_ms(&self) -> Option<u64> {
        self.parked.deadline_ms()
    }

    /// Packets that wait for their guest's MAC.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// What is known of guests, sorted by address.
    #[must_use]
    pub fn neighbours(&self, now_ms: u64) -> Vec<Neighbour> {
        self.neighbours.entries(now_ms)
    }

    /// Addresses in memory, aged ones included: at most `max_neighbours` and the peers.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.neighbours.len()
    }

    /// Forget all guests and what waits for them; returns how many packets are lost by that. For a unit that goes down.
    pub fn reset(&mut self) -> usize {
        self.neighbours.clear();
        self.parked.purge()
    }
}

fn packet_of(family: Family, packet: &[u8]) -> FromGuest {
    FromGuest::Packet { family, start: HEADER_LEN, end: HEADER_LEN + packet.len() }
}

/// Append a frame in wire format.
fn push_frame(out: &mut Vec<u8>, header: &[u8; HEADER_LEN], payload: &[u8]) {
    let at = out.len();
    out.resize(at + PREFIX_LEN, 0);
    put_prefix(out, at, header.len() + payload.len());
    out.extend_from_slice(header);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests;
