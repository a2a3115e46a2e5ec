//! The per-packet half of a tun unit: `if_snd`, the input queue, the link header, the READY check and the counters
//! (NetBSD `sys/net/if_tun.c` 1.79: tun_output, tunread, tunwrite, tunpoll).
//!
//! What state a unit is in is decided elsewhere (`vbackend/tun/unit.py`); [`Unit::set_state`] is how it is told.
//!
//! ```text
//!   interface face                                                        device face
//!   output ── READY? ── header ── if_snd (limit, token bucket) ──────────► dequeue        tun_output, tunread
//!   take_input ◄──────── input queue (limit per family) ◄── header off ── accept          tunwrite
//! ```
//!
//! Pure. Handing packets to a capture is the caller's part: before `enqueue` on the way out, before `queue_input` on
//! the way in, which cannot be told from outside as long as the unit is not let go in between.

pub mod header;

use std::net::IpAddr;

use crate::drop_reason::DropReason;
use crate::queue::{Limits, Queue};
use crate::shaper::Shaper;
use crate::wire::Family;
use crate::wire::ethernet::Mac;

pub use header::{AddressFamily, Built, Header, System};

/// `TUN_` flags of if_tun.h that decide what becomes of a packet.
pub mod flags {
    /// The device face is open.
    pub const OPEN: u32 = 0x0001;
    /// The interface exists.
    pub const INITED: u32 = 0x0002;
    /// A non-zero local address is set.
    pub const IASET: u32 = 0x0008;
    /// A signal goes to the owner when a packet is queued.
    pub const ASYNC: u32 = 0x0080;
    /// Reads do not wait.
    pub const NBIO: u32 = 0x0100;
    /// What it takes for packets to pass.
    pub const READY: u32 = OPEN | INITED | IASET;
}

/// Packets an input queue holds unless told otherwise (`IFQ_MAXLEN` of `ipintrq`).
pub const INPUT_LIMIT: usize = 256;

/// Bytes a queue of packets may hold in all, whatever their number.
const QUEUE_BYTES: usize = 64 << 20;

/// What the driver answers instead of success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitError {
    /// The open instance was closed (EBADF).
    Closed,
    /// The interface was destroyed (ENXIO).
    Gone,
    /// Not open, or no address (EHOSTDOWN).
    NotReady,
    /// No packet, and the reader does not wait (EWOULDBLOCK).
    Empty,
    /// Fewer bytes than the link header (EIO).
    Short,
    /// More bytes than `TUNMTU` behind it (EIO).
    TooLong,
    /// No bytes behind it (EIO).
    NoPacket,
    /// Neither IPv4 nor IPv6 (EAFNOSUPPORT).
    Family,
    /// The queue is full (ENOBUFS).
    Full,
}

impl UnitError {
    /// Why a port counts the packet as lost.
    #[must_use]
    pub fn reason(self) -> DropReason {
        match self {
            UnitError::Closed | UnitError::Gone | UnitError::NotReady | UnitError::Empty => {
                DropReason::NotReady
            }
            UnitError::Short | UnitError::NoPacket => DropReason::Runt,
            UnitError::TooLong => DropReason::Oversize,
            UnitError::Family => DropReason::NotIp,
            UnitError::Full => DropReason::QueueFull,
        }
    }
}

/// What the state machine has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitState {
    /// [`flags`].
    pub flags: u32,
    /// `if_index`: another one for each interface that had this unit's number.
    pub index: u32,
    /// Which open instance the device face belongs to; 0: it is closed.
    pub ticket: u64,
    /// The longest packet a writer may give.
    pub tunmtu: usize,
    /// The device face's link header.
    pub header: Header,
    /// Whose numbers it has.
    pub system: System,
    /// Who gets SIGIO: a process, a process group (negative), nobody (0).
    pub owner: i32,
}

/// The interface's counters, by the driver's names, and what the queues lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitCounters {
    /// `if_ipackets`: writes that were accepted.
    pub ipackets: u64,
    /// `if_ibytes`: their bytes without link header.
    pub ibytes: u64,
    /// `if_opackets`: packets queued for the reader.
    pub opackets: u64,
    /// `if_obytes`: their bytes with link header.
    pub obytes: u64,
    /// `if_ierrors`: reads and writes whose copy failed.
    pub ierrors: u64,
    /// `if_oerrors`: output that was refused, but for full queues.
    pub oerrors: u64,
    /// `if_collisions`: packets lost to a full queue of either direction.
    pub collisions: u64,
    /// `ifq_drops` of `if_snd`.
    pub drops: u64,
    /// `ifq_drops` of the input queues.
    pub input_drops: u64,
    /// Packets that a close or destroy took out of `if_snd`.
    pub purged: u64,
}

/// One unit.
#[derive(Debug)]
pub struct Unit {
    state: UnitState,
    snd: Queue,
    input: Queue, // each packet behind one byte, its family
    waiting: [usize; 2],
    input_limit: usize,
    shaper: Option<Shaper>,
    counters: UnitCounters,
}

impl Unit {
    /// A unit whose interface does not exist yet, with `limit` packets in `if_snd` at most.
    #[must_use]
    pub fn new(limit: usize, input_limit: usize) -> Unit {
        let limits = |frames| Limits { frames, bytes: QUEUE_BYTES };
        Unit {
            state: UnitState {
                flags: 0,
                index: 0,
                ticket: 0,
                tunmtu: 1500,
                header: Header::None,
                system: System::Netbsd,
                owner: 0,
            },
            snd: Queue::new(limits(limit)),
            input: Queue::new(limits(input_limit.saturating_mul(2))),
            waiting: [0; 2],
            input_limit,
            shaper: None,
            counters: UnitCounters::default(),
        }
    }

    /// What is in force.
    #[inline]
    #[must_use]
    pub fn state(&self) -> &UnitState {
        &self.state
    }

    /// Take over what was decided.
    pub fn set_state(&mut self, state: UnitState) {
        self.state = state;
    }

    /// Whether all of `wanted` is set.
    #[inline]
    #[must_use]
    pub fn has(&self, wanted: u32) -> bool {
        self.state.flags & wanted == wanted
    }

    /// The counters of this interface.
    #[must_use]
    pub fn counters(&self) -> UnitCounters {
        self.counters
    }

    /// A new interface: all counters at zero, nothing waits for the guest.
    pub fn reset_interface(&mut self) {
        self.counters = UnitCounters::default();
        self.input.purge();
        self.waiting = [0; 2];
    }

    /// Change `ifq_maxlen` of `if_snd`, and its limit of bytes; what is queued stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.snd.set_limits(limits);
    }

    /// Limit what leaves `if_snd`; None: do not.
    pub fn set_shaper(&mut self, shaper: Option<Shaper>) {
        self.shaper = shaper;
    }

    /// The queue towards the reader.
    #[inline]
    #[must_use]
    pub fn snd(&self) -> &Queue {
        &self.snd
    }

    // Output: from the guest to the reader.

    /// What stands in front of a packet on the device face, when it may be queued (if_tun.c tun_output; T1, T3).
    ///
    /// # Errors
    /// [`UnitError::NotReady`], [`UnitError::Family`]; both count in `oerrors`.
    #[inline]
    pub fn prepare_output(
        &mut self,
        family: AddressFamily,
        destination: Option<IpAddr>,
        link: (Mac, Mac),
    ) -> Result<Built, UnitError> {
        if !self.has(flags::READY) {
            return Err(self.refuse(UnitError::NotReady));
        }
        match family {
            AddressFamily::Unspecified => Ok(Built::EMPTY),
            AddressFamily::Ip(family) => {
                Ok(header::build(self.state.header, self.state.system, family, destination, link))
            }
            AddressFamily::Other(_) => Err(self.refuse(UnitError::Family)),
        }
    }

    /// Count output that did not even come so far.
    pub fn refuse(&mut self, error: UnitError) -> UnitError {
        self.counters.oerrors += 1;
        error
    }

    /// Queue a packet behind its header (T4, T5).
    ///
    /// # Errors
    /// [`UnitError::Full`].
    #[inline]
    pub fn enqueue(&mut self, header: &Built, packet: &[u8]) -> Result<(), UnitError> {
        if !self.snd.offer_parts(header.bytes(), packet) {
            self.counters.collisions += 1;
            self.counters.drops += 1;
            return Err(UnitError::Full);
        }
        self.count_output(header.bytes().len() + packet.len());
        Ok(())
    }

    /// Count a packet of `len` bytes, header included, that goes to the reader at once instead of through `if_snd`.
    #[inline]
    pub fn count_output(&mut self, len: usize) {
        self.counters.opackets += 1;
        self.counters.obytes += len as u64;
    }

    /// Whether a packet may go to the reader at once: none waits in front of it, and the rate allows it.
    #[inline]
    #[must_use]
    pub fn passes(&mut self, now_ms: u64) -> bool {
        self.snd.is_empty() && self.shaper.as_mut().is_none_or(|shaper| shaper.may_send(now_ms))
    }

    /// Count a packet that passed against the rate.
    #[inline]
    pub fn spend(&mut self, bytes: usize) {
        if let Some(shaper) = &mut self.shaper {
            shaper.spend(bytes);
        }
    }

    // The reader.

    /// Whether a read would find a packet: `POLLIN` (if_tun.c tunpoll; P1, K1, Q1).
    #[inline]
    #[must_use]
    pub fn is_readable(&mut self, now_ms: u64) -> bool {
        !self.snd.is_empty() && self.shaper.as_mut().is_none_or(|shaper| shaper.may_send(now_ms))
    }

    /// When packets that the rate holds back may go on; None: nothing is held back.
    #[must_use]
    pub fn ready_ms(&mut self, now_ms: u64) -> Option<u64> {
        if self.snd.is_empty() || self.is_readable(now_ms) {
            return None;
        }
        self.shaper.as_ref().map(Shaper::ready_ms)
    }

    /// Whether the open instance `ticket` may read (R1).
    ///
    /// # Errors
    /// [`UnitError::Closed`], [`UnitError::Gone`], [`UnitError::NotReady`].
    #[inline]
    pub fn check_read(&self, ticket: u64) -> Result<(), UnitError> {
        if self.state.ticket != ticket {
            return Err(UnitError::Closed);
        }
        if !self.has(flags::INITED) {
            return Err(UnitError::Gone);
        }
        if self.has(flags::READY) { Ok(()) } else { Err(UnitError::NotReady) }
    }

    /// The next packet with its header, when it may leave; [`Unit::pop`] takes it out.
    #[inline]
    pub fn front(&mut self, now_ms: u64) -> Option<&[u8]> {
        if !self.is_readable(now_ms) {
            return None;
        }
        self.snd.front().map(|(packet, _)| packet)
    }

    /// The first packet was read, or is lost.
    #[inline]
    pub fn pop(&mut self) {
        if let Some((packet, _)) = self.snd.front() {
            let len = packet.len();
            self.spend(len);
        }
        self.snd.pop();
    }

    /// Whether a rate is set.
    #[inline]
    #[must_use]
    pub fn is_shaped(&self) -> bool {
        self.shaper.is_some()
    }

    /// Take out the first packets, of `bytes` in all and of `wire` with their length prefixes: they went in one call.
    pub fn pop_sent(&mut self, wire: usize, bytes: usize) {
        self.spend(bytes);
        self.snd.consume(wire);
    }

    /// Bytes of the first packet with its header; 0 when there is none (`FIONREAD`, whatever the rate says).
    #[must_use]
    pub fn first_len(&self) -> usize {
        self.snd.front().map_or(0, |(packet, _)| packet.len())
    }

    /// Count a copy that failed between unit and program (R5, W5).
    pub fn count_input_error(&mut self) {
        self.counters.ierrors += 1;
    }

    /// `IF_PURGE`: everything queued for the reader is lost (D1, X1, Q2).
    pub fn purge(&mut self) -> usize {
        let purged = self.snd.purge();
        self.counters.purged += purged as u64;
        purged
    }

    /// The reader is gone before the state machine has heard of it: no packet is queued for nobody.
    pub fn hang_up(&mut self) -> usize {
        self.state.flags &= !flags::OPEN;
        self.state.ticket = 0;
        self.purge()
    }

    // Input: from the writer to the guest.

    /// What a writer gave: where its packet begins, and its family (if_tun.c tunwrite up to the copy; W1 to W5).
    ///
    /// # Errors
    /// [`UnitError::Gone`], [`UnitError::Short`], [`UnitError::TooLong`], [`UnitError::Family`],
    /// [`UnitError::NoPacket`], which counts in `ierrors`.
    #[inline]
    pub fn accept(&mut self, data: &[u8]) -> Result<(usize, Family), UnitError> {
        if !self.has(flags::INITED) {
            return Err(UnitError::Gone);
        }
        let (start, family) = header::split(self.state.header, self.state.system, data)?;
        let len = data.len() - start;
        if len > self.state.tunmtu {
            return Err(UnitError::TooLong);
        }
        if len == 0 && (family.is_some() || self.state.header == Header::None) {
            self.counters.ierrors += 1;
            return Err(UnitError::NoPacket);
        }
        family.map(|family| (start, family)).ok_or(UnitError::Family)
    }

    /// Count an accepted packet of `len` bytes that goes to the guest at once.
    #[inline]
    pub fn count_input(&mut self, len: usize) {
        self.counters.ipackets += 1;
        self.counters.ibytes += len as u64;
    }

    /// Queue an accepted packet for the guest (W6).
    ///
    /// # Errors
    /// [`UnitError::Full`]: as many of its family wait as may.
    pub fn queue_input(&mut self, family: Family, packet: &[u8]) -> Result<(), UnitError> {
        let lane = lane_of(family);
        if self.waiting[lane] >= self.input_limit || !self.input.offer_parts(&[lane as u8], packet) {
            self.counters.collisions += 1;
            self.counters.input_drops += 1;
            return Err(UnitError::Full);
        }
        self.waiting[lane] += 1;
        self.count_input(packet.len());
        Ok(())
    }

    /// Whether packets wait for the guest.
    #[inline]
    #[must_use]
    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Packets that wait for the guest.
    #[must_use]
    pub fn input_len(&self) -> usize {
        self.input.len()
    }

    /// Hand the oldest packet for the guest to `take` and remove it; None when there is none.
    pub fn take_input<T>(&mut self, take: impl FnOnce(Family, &[u8]) -> T) -> Option<T> {
        let (entry, _) = self.input.front()?;
        let (lane, packet) = entry.split_first()?;
        let lane = usize::from(*lane);
        let taken = take(if lane == 0 { Family::Ipv4 } else { Family::Ipv6 }, packet);
        self.waiting[lane] -= 1;
        self.input.pop();
        Some(taken)
    }
}

fn lane_of(family: Family) -> usize {
    match family {
        Family::Ipv4 => 0,
        Family::Ipv6 => 1,
    }
}

#[cfg(test)]
mod tests;
