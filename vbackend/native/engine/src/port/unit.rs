//! The port side of a tun unit: guests speak Ethernet, the unit bare IP, and its reader is the engine or a program.
//!
//! ```text
//!   segment ── frame ──► adapter ── packet ──► unit ──► reader    tx: ARP and neighbour discovery end in the adapter
//!   segment ◄─ frame ─── adapter ◄─ packet ─── unit ◄── writer    rx: a packet whose guest is unknown waits in the adapter
//!                  └─ answers, questions, released packets: `generated`, received like any other frame
//! ```
//!
//! The unit is there as long as the port; readers come and go. While nobody has it open, what guests send is lost
//! (EHOSTDOWN), but they are answered.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use vbackend_proto::adapter::{Adapter, Config, FromGuest, ToGuest};
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::{MAX_FRAME, PREFIX_LEN, Run, frames_of, push_run, put_prefix, scan};
use vbackend_proto::queue::Limits;
use vbackend_proto::shaper::Rate;
use vbackend_proto::unit::{AddressFamily, UnitError};
use vbackend_proto::vnet::VnetHeader;
use vbackend_proto::wire::ethernet::{Frame, HEADER_LEN, Mac};
use vbackend_proto::wire::{Family, destination_of};

use super::device::sent;
use super::reader::{Reader, Taken};
use super::{BUDGET, Outgoing, SLOT, Scratch, Sent};
use crate::capture::{Direction, Taps};
use crate::command::End;
use crate::counters::Lane;
use crate::shared::PortShared;
use crate::sys;
use crate::unit::{Inner, SharedUnit};

/// In front of what is read lie, at the end, the length prefix and the Ethernet header of the frame it becomes.
const HEADROOM: usize = PREFIX_LEN + HEADER_LEN;

/// A unit, its adapter, and its reader when that is the engine.
pub struct UnitLink {
    adapter: Adapter,
    unit: Arc<SharedUnit>,
    reader: Option<Reader>,
    errors: Option<OwnedFd>, // where a program hears of its writes that were refused
    blocked: bool,           // the reader had no room at the last try
    waiting: bool,           // packets may be left in `if_snd`; false saves a look
    held: bool,              // the rate held packets back at the last look
    generated: Vec<u8>,      // frames for the segment, in wire form
    released: usize,         // how many of them had been parked, and are counted already
}

impl UnitLink {
    /// Join a unit to `port`.
    pub fn new(unit: Arc<SharedUnit>, config: Config, port: Arc<PortShared>) -> UnitLink {
        unit.set_port(Some(port));
        UnitLink {
            adapter: Adapter::new(config),
            unit,
            reader: None,
            errors: None,
            blocked: false,
            waiting: false,
            held: false,
            generated: Vec::new(),
            released: 0,
        }
    }

    /// The reader's descriptor.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.reader.as_ref().map(AsFd::as_fd)
    }

    /// Change the adapter's addresses and mode.
    pub fn set_config(&mut self, config: Config) {
        self.adapter.set_config(config);
    }

    /// Change who captures the unit's packets.
    pub fn with_taps(&self, change: impl FnOnce(&mut Taps)) {
        change(&mut self.unit.lock().taps);
    }

    /// Change the limits of `if_snd`.
    pub fn set_limits(&mut self, limits: Limits) {
        self.unit.lock().unit.set_limits(limits);
    }

    /// Change the rate at which packets leave `if_snd`; None: no limit.
    pub fn set_rate(&mut self, rate: Option<Rate>) {
        self.unit.set_rate(rate);
    }

    /// Let `reader` be the far side. Before the unit is open, so that nothing is queued for anybody else.
    pub fn set_reader(&mut self, reader: Reader) {
        self.reader = Some(reader);
        self.blocked = false;
    }

    /// Where refused writes are told, one message each; None: nowhere.
    pub fn set_errors(&mut self, errors: Option<OwnedFd>) {
        self.errors = errors;
    }

    /// Take the reader away; what was queued for it is lost, and the unit is not open any more.
    pub fn take_reader(&mut self) -> Option<Reader> {
        let reader = self.reader.take()?;
        self.unit.hang_up();
        self.blocked = false;
        self.held = false;
        Some(reader)
    }

    /// Whether the unit's reader is the engine.
    pub fn has_reader(&self) -> bool {
        self.reader.is_some()
    }

    /// Packets that wait for the engine's reader. A program takes a packet when it is queued, whenever it reads it.
    pub fn queued(&self) -> usize {
        if self.waiting && self.reader.is_some() { self.unit.lock().unit.snd().len() } else { 0 }
    }

    /// Whether packets wait for room at the reader.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether a program wrote something that was not received yet.
    pub fn has_input(&self) -> bool {
        self.unit.lock().unit.has_input()
    }

    // From the writer to the segment.

    pub fn receive(&mut self, scratch: &mut Scratch, rx: &mut Lane, now_ms: u64) -> Result<(), End> {
        let result = match self.reader {
            Some(Reader::Device(_)) => self.receive_device(scratch, rx, now_ms),
            Some(Reader::Socket { .. }) => self.receive_socket(scratch, rx, now_ms),
            None => Ok(()),
        };
        self.receive_input(scratch, rx, now_ms);
        self.count_parked(rx);
        result
    }

    fn receive_device(&mut self, scratch: &mut Scratch, rx: &mut Lane, now_ms: u64) -> Result<(), End> {
        let UnitLink { adapter, unit, reader: Some(reader), generated, .. } = self else { return Ok(()) };
        let mut inner = unit.lock();
        let mut at = 0;
        for _ in 0..BUDGET {
            let body = at + HEADROOM;
            let space = &mut scratch.wire[body..body + MAX_FRAME - HEADER_LEN];
            let len = match sys::read(reader.as_fd(), space) {
                Ok(0) => return Err(End::Eof(0)), // a device never does: this is something else, at its end
                Ok(len) => len,
                Err(error) if sys::would_block(&error) => break,
                Err(error) => return Err(error.into()),
            };
            rx.frames_in += 1;
            let mut to_guest = ToSegment { adapter, generated, scratch, rx, now_ms };
            if let Some(end) = to_guest.packet(&mut inner, body, len).unwrap_or(None) {
                at = end;
            }
        }
        Ok(())
    }

    fn receive_socket(&mut self, scratch: &mut Scratch, rx: &mut Lane, now_ms: u64) -> Result<(), End> {
        let UnitLink { adapter, unit, reader: Some(reader), errors, generated, .. } = self else {
            return Ok(());
        };
        let received = reader.receive(scratch, HEADROOM)?;
        let mut inner = unit.lock();
        for index in 0..received.messages {
            rx.frames_in += 1;
            let (len, truncated) = scratch.messages.received(index);
            let result = if truncated {
                rx.dropped(DropReason::Oversize, 1);
                Err(UnitError::TooLong)
            } else {
                let mut to_guest = ToSegment { adapter, generated, scratch, rx, now_ms };
                to_guest.packet(&mut inner, index * SLOT + HEADROOM, len)
            };
            reader.report(result.err(), errors.as_ref());
        }
        if received.ended { Err(End::Eof(0)) } else { Ok(()) }
    }

    /// Fetch what programs wrote, behind what was received, as much as the scratch buffer holds.
    fn receive_input(&mut self, scratch: &mut Scratch, rx: &mut Lane, now_ms: u64) {
        let UnitLink { adapter, unit, generated, .. } = self;
        let mut inner = unit.fetching();
        let mut at = scratch.runs.last().map_or(0, |run| run.end);
        while at + SLOT <= scratch.wire.len() {
            let body = at + HEADROOM;
            let copy = |family, packet: &[u8]| {
                scratch.wire[body..body + packet.len()].copy_from_slice(packet);
                (family, packet.len())
            };
            let Some((family, len)) = inner.unit.take_input(copy) else { return };
            rx.frames_in += 1;
            let mut to_guest = ToSegment { adapter, generated, scratch, rx, now_ms };
            if let Ok(Some(end)) = to_guest.accepted(body, len, family) {
                at = end;
            }
        }
        if inner.unit.has_input() {
            unit.kick_again(&mut inner);
        }
    }

    // From the segment to the reader.

    pub fn transmit(&mut self, wire: &[u8], runs: &[Run], out: &mut Outgoing<'_>) -> Result<(), End> {
        let UnitLink { adapter, unit, reader, blocked, waiting, held, generated, released, .. } = self;
        *waiting = true;
        let mut inner = unit.lock();
        for frame in runs.iter().flat_map(|run| frames_of(wire, *run)) {
            let parked = adapter.parked();
            let verdict = adapter.from_guest(frame, out.now_ms, generated);
            *released += parked - adapter.parked();
            let (family, packet) = match verdict {
                FromGuest::Packet { family, start, end } => (family, &frame[start..end]),
                FromGuest::Consumed => {
                    out.tx.sent(1, frame.len());
                    continue;
                }
                FromGuest::Drop(reason) => {
                    if reason == DropReason::NotIp {
                        inner.unit.refuse(UnitError::Family);
                    }
                    out.tx.dropped(reason, 1);
                    continue;
                }
            };
            let mut output = Output { inner: &mut inner, reader, blocked, now_ms: out.now_ms };
            let outcome = output.packet(packet, family, stations(frame));
            let verdict = match &outcome {
                Ok(Some(Sent::No(reason))) => Some(*reason),
                Err(_) => Some(DropReason::PeerGone),
                Ok(_) => None,
            };
            if verdict != Some(DropReason::NotReady) {
                inner.capture(Direction::Outbound, AddressFamily::Ip(family), packet, verdict);
            }
            match outcome? {
                Some(Sent::Yes(bytes)) => out.tx.sent(1, bytes),
                Some(Sent::No(reason)) => out.tx.dropped(reason, 1),
                Some(Sent::Later) | None => {}
            }
            // A limit below a batch is for readers that have no room, not for those that had no chance.
            if inner.unit.snd().len() >= BUDGET.min(inner.unit.snd().limits().frames)
                && !*blocked
                && let Some(reader @ Reader::Socket { .. }) = reader
            {
                *blocked = reader.flush(&mut inner.unit, out)? == Taken::Some;
            }
        }
        match reader {
            Some(reader @ Reader::Socket { .. }) => {
                *blocked = reader.flush(&mut inner.unit, out)? == Taken::Some;
            }
            Some(Reader::Device(_)) => {}
            None => unit.notify(&mut inner, out.now_ms),
        }
        *waiting = !inner.unit.snd().is_empty();
        *held = inner.unit.ready_ms(out.now_ms).is_some();
        Ok(())
    }

    /// The reader has room again, or the rate allows more.
    pub fn flush(&mut self, out: &mut Outgoing<'_>) -> Result<(), End> {
        let mut inner = self.unit.lock();
        match &mut self.reader {
            Some(reader) => self.blocked = reader.flush(&mut inner.unit, out)? == Taken::Some,
            None => self.unit.notify(&mut inner, out.now_ms),
        }
        self.waiting = !inner.unit.snd().is_empty();
        self.held = inner.unit.ready_ms(out.now_ms).is_some();
        Ok(())
    }

    // The adapter's own frames, and its clock.

    /// Whether the adapter made frames for the segment.
    pub fn has_generated(&self) -> bool {
        !self.generated.is_empty()
    }

    /// Move them to `wire` and their runs to `runs`, as received ones.
    pub fn take_generated(&mut self, wire: &mut Vec<u8>, runs: &mut Vec<Run>, rx: &mut Lane) {
        std::mem::swap(wire, &mut self.generated);
        self.generated.clear();
        let found = scan(wire, runs);
        debug_assert!(found.consumed == wire.len() && found.runts == 0, "the adapter makes whole frames");
        rx.frames_in += (found.frames - std::mem::take(&mut self.released)) as u64;
        self.count_parked(rx);
    }

    /// When the adapter wants to ask again or to give up, or the rate allows the next packet.
    pub fn deadline_ms(&self, now_ms: u64) -> Option<u64> {
        let ready_ms = || self.unit.lock().unit.ready_ms(now_ms).unwrap_or(now_ms); // it has passed: flush
        [self.adapter.deadline_ms(), self.held.then(ready_ms)].into_iter().flatten().min()
    }

    /// Let the adapter do so; packets go with the next `flush`.
    pub fn handle_timeout(&mut self, now_ms: u64, rx: &mut Lane) {
        let polled = self.adapter.poll(now_ms, &mut self.generated);
        rx.dropped(DropReason::NoNeighbour, polled.lost);
        self.count_parked(rx);
    }

    fn count_parked(&self, rx: &mut Lane) {
        rx.queued = (self.adapter.parked() + self.released) as u64;
    }
}

impl Drop for UnitLink {
    fn drop(&mut self) {
        self.unit.set_port(None);
    }
}

/// The way of one written packet to the segment.
struct ToSegment<'a> {
    adapter: &'a mut Adapter,
    generated: &'a mut Vec<u8>,
    scratch: &'a mut Scratch,
    rx: &'a mut Lane,
    now_ms: u64,
}

impl ToSegment<'_> {
    /// `len` bytes at `at` as the device face has them. Returns where their frame ends in the scratch buffer, None when
    /// none was made of them now.
    fn packet(&mut self, inner: &mut Inner, at: usize, len: usize) -> Result<Option<usize>, UnitError> {
        let (start, family) = match inner.unit.accept(&self.scratch.wire[at..at + len]) {
            Ok(found) => found,
            Err(error) => {
                self.rx.dropped(error.reason(), 1);
                return Err(error);
            }
        };
        inner.unit.count_input(len - start);
        let verdict = self.accepted(at + start, len - start, family);
        let packet = &self.scratch.wire[at + start..at + len];
        inner.capture(Direction::Inbound, AddressFamily::Ip(family), packet, verdict.err());
        Ok(verdict.unwrap_or(None))
    }

    /// A packet of the scratch buffer that the unit has accepted; where its frame ends, or why there never will be one.
    fn accepted(&mut self, at: usize, len: usize, family: Family) -> Result<Option<usize>, DropReason> {
        let wire = &mut self.scratch.wire;
        let packet = &wire[at..at + len];
        let verdict = match Family::of(packet) == Some(family) {
            true => self.adapter.to_guest(packet, self.now_ms, self.generated),
            false => ToGuest::Drop(DropReason::BadIp),
        };
        match verdict {
            ToGuest::Header(header) => {
                let start = at - HEADROOM;
                put_prefix(wire, start, HEADER_LEN + len);
                wire[at - HEADER_LEN..at].copy_from_slice(&header);
                let run = Run::one(start, HEADER_LEN + len, VnetHeader::PLAIN);
                push_run(&mut self.scratch.runs, run);
                Ok(Some(run.end))
            }
            ToGuest::Parked { displaced } => {
                self.rx.dropped(DropReason::NoNeighbour, displaced);
                Ok(None)
            }
            ToGuest::Drop(reason) => {
                self.rx.dropped(reason, 1);
                Err(reason)
            }
        }
    }
}

/// The way of one packet from a guest to the reader.
struct Output<'a> {
    inner: &'a mut Inner,
    reader: &'a mut Option<Reader>,
    blocked: &'a mut bool,
    now_ms: u64,
}

impl Output<'_> {
    /// None: it waits in `if_snd` for the engine's reader, and is accounted when that took it.
    #[inline]
    fn packet(&mut self, packet: &[u8], family: Family, link: (Mac, Mac)) -> Result<Option<Sent>, End> {
        let destination: Option<IpAddr> = destination_of(packet);
        let unit = &mut self.inner.unit;
        let header = match unit.prepare_output(AddressFamily::Ip(family), destination, link) {
            Ok(header) => header,
            Err(error) => return Ok(Some(Sent::No(error.reason()))),
        };
        if let Some(Reader::Device(fd)) = self.reader
            && !*self.blocked
            && unit.passes(self.now_ms)
        {
            let written = match header.bytes() {
                [] => sys::write(fd.as_fd(), packet),
                bytes => sys::write_two(fd.as_fd(), bytes, packet),
            };
            match sent(written, packet.len())? {
                Sent::Later => *self.blocked = true,
                done => {
                    unit.count_output(header.bytes().len() + packet.len());
                    unit.spend(packet.len());
                    return Ok(Some(done));
                }
            }
        }
        Ok(match (unit.enqueue(&header, packet), &self.reader) {
            (Err(error), _) => Some(Sent::No(error.reason())),
            (Ok(()), None) => Some(Sent::Yes(packet.len())),
            (Ok(()), Some(_)) => None,
        })
    }
}

/// Destination and source of a frame that has a header.
fn stations(frame: &[u8]) -> (Mac, Mac) {
    Frame::new_checked(frame).map_or((Mac::ZERO, Mac::ZERO), |frame| (frame.destination(), frame.source()))
}

/// A descriptor taken over for a unit.
pub fn reader_of(fd: OwnedFd, kind: ReaderKind) -> std::io::Result<Reader> {
    sys::set_nonblocking(&fd)?;
    Ok(match kind {
        ReaderKind::Device => Reader::Device(fd),
        ReaderKind::Socket => Reader::Socket { fd, number: 0 },
    })
}

/// What a reader's descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReaderKind {
    /// An attached `/dev/net/tun`.
    Device,
    /// A connected `SOCK_SEQPACKET` Unix socket.
    Socket,
}
