//! A port: one attachment of a guest, of the host or of a program, and its accounting.
//!
//! rx is what its peer sent, tx is what goes to the peer. A port outlives its sessions: the [`Link`] is the session's
//! descriptor and comes and goes.

mod captured;
pub mod channel;
pub mod device;
pub mod dgram;
mod limit;
mod offload;
pub mod reader;
pub mod stream;
pub mod unit;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::{MAX_FRAME, PREFIX_LEN, Run, frames_of, keep_source};
use vbackend_proto::queue::{Limits, Queue};
use vbackend_proto::shaper::Rate;

use self::captured::{Losses, note_loss};
use crate::capture::{Direction, Taps};
use crate::command::{End, SharedSegment};
use crate::counters::{Counters, Lane};
use crate::shared::PortShared;
use crate::sys::{self, Interest, Messages};

/// Room for one frame of the largest size behind its prefix.
pub const SLOT: usize = PREFIX_LEN + MAX_FRAME;

/// Frames a device or datagram port receives in one turn, so that no port keeps the worker from the others.
pub const BUDGET: usize = 32;

/// A worker's buffers, lent to whichever port has its turn.
pub struct Scratch {
    /// Received frames lie here, behind their prefixes.
    pub wire: Box<[u8]>,
    /// Which ranges of `wire` are good frames.
    pub runs: Vec<Run>,
    /// For datagram system calls.
    pub messages: Messages,
    /// For gathered writes.
    pub parts: Vec<(usize, usize)>,
}

impl Scratch {
    /// Bytes of `wire`.
    pub const WIRE_BYTES: usize = (BUDGET + 1) * SLOT;

    /// New buffers.
    pub fn new() -> Scratch {
        Scratch {
            wire: vec![0; Scratch::WIRE_BYTES].into_boxed_slice(),
            runs: Vec::new(),
            messages: Messages::new(BUDGET),
            parts: Vec::new(),
        }
    }
}

/// How a port talks to its peer, while it has one.
pub enum Link {
    /// QEMU's `-netdev stream`: a length and a frame, again and again.
    Stream(stream::Stream),
    /// One datagram is one frame.
    Dgram(Box<dgram::Dgram>),
    /// A tap device of the host.
    Tap(device::Tap),
    /// A tun unit behind an Ethernet adapter.
    Unit(Box<unit::UnitLink>),
    /// Python.
    Channel(channel::EngineEnd),
}

impl Link {
    /// Receive what there is, within the budget. Good frames are `scratch.runs` of `scratch.wire`; the others are
    /// counted in `rx`. An end takes effect after what was received in front of it.
    fn receive(&mut self, scratch: &mut Scratch, rx: &mut Lane, now_ms: u64) -> Result<(), End> {
        match self {
            Link::Stream(link) => link.receive(scratch, rx),
            Link::Dgram(link) => link.receive(scratch, rx),
            Link::Tap(link) => link.receive(scratch, rx),
            Link::Unit(link) => link.receive(scratch, rx, now_ms),
            Link::Channel(link) => link.receive(scratch, rx),
        }
    }

    /// Send frames; what the peer does not take now goes to `queue`, what does not fit there is dropped.
    fn transmit(&mut self, wire: &[u8], runs: &[Run], out: &mut Outgoing<'_>) -> Result<(), End> {
        match self {
            Link::Stream(link) => link.transmit(wire, runs, out),
            Link::Dgram(link) => link.transmit(wire, runs, out),
            Link::Tap(link) => link.transmit(wire, runs, out),
            Link::Unit(link) => link.transmit(wire, runs, out),
            Link::Channel(link) => {
                link.transmit(wire, runs, out);
                Ok(())
            }
        }
    }

    /// Send from the queue, because the peer may have room again, while [`Outgoing::may_send`].
    fn flush(&mut self, out: &mut Outgoing<'_>) -> Result<(), End> {
        match self {
            Link::Stream(link) => link.flush(out),
            Link::Dgram(link) => link.flush(out),
            Link::Tap(link) => link.flush(out),
            Link::Unit(link) => link.flush(out),
            Link::Channel(link) => {
                link.flush(out);
                Ok(())
            }
        }
    }

    /// Whether the port's rate limit is the link's own business.
    fn limits_itself(&self) -> bool {
        matches!(self, Link::Unit(_))
    }

    /// Whether frames with work left to do (partial checksums, GSO) can be handed over as they are.
    fn takes_offloads(&self) -> bool {
        matches!(self, Link::Tap(tap) if tap.takes_offloads())
    }

    /// The descriptor to poll for reading, and for writing unless [`Link::write_fd`] names another.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Link::Stream(link) => Some(link.fd()),
            Link::Dgram(link) => Some(link.fd()),
            Link::Tap(link) => Some(link.fd()),
            Link::Unit(link) => link.fd(),
            Link::Channel(_) => None,
        }
    }

    /// Whether [`Link::write_fd`] is another descriptor than before.
    pub fn take_write_fd_is_new(&mut self) -> bool {
        match self {
            Link::Dgram(link) => link.take_room_is_new(),
            _ => false,
        }
    }

    /// A second descriptor that becomes writable when the peer has room, where the first one cannot tell.
    pub fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Link::Dgram(link) => link.write_fd(),
            _ => None,
        }
    }
}

/// Where outgoing frames are accounted: the queue behind the peer, the tx lane, the worker's buffers.
pub struct Outgoing<'a> {
    /// What the peer did not take yet.
    pub queue: &'a mut Queue,
    /// Its counters.
    pub tx: &'a mut Lane,
    /// For gathered writes.
    pub parts: &'a mut Vec<(usize, usize)>,
    /// For datagram system calls.
    pub messages: &'a mut Messages,
    /// The clock.
    pub now_ms: u64,
    /// The value of `tx.bytes_out` with which a rate limit ends a flush; `u64::MAX` without one.
    pub stop_at: u64,
    /// Which frames were lost, while the port is captured.
    pub losses: Option<&'a mut Losses>,
}

impl Outgoing<'_> {
    /// Whether the next queued frame may leave.
    pub fn may_send(&self) -> bool {
        self.tx.bytes_out < self.stop_at
    }

    /// Count all frames of `run` but the first `taken` as lost.
    pub fn lose(&mut self, reason: DropReason, wire: &[u8], run: Run, taken: usize) {
        self.tx.dropped(reason, run.frames - taken);
        if let Some(losses) = &mut self.losses {
            note_loss(losses, wire, run, taken, reason);
        }
    }

    /// Queue what fits of `run`, drop the rest.
    pub fn enqueue(&mut self, wire: &[u8], run: Run) {
        let taken = self.queue.offer(wire, run);
        self.lose(DropReason::QueueFull, wire, run, taken);
    }

    /// Offer frames one by one to `write` until it would block; queue the rest. For ports whose write is one frame.
    pub fn each_frame(
        &mut self,
        wire: &[u8],
        runs: &[Run],
        mut write: impl FnMut(&[u8], &Run) -> Result<Sent, End>,
    ) -> Result<(), End> {
        let mut blocked = !self.queue.is_empty();
        for run in runs {
            let mut at = run.start;
            for frame in frames_of(wire, *run) {
                let one = Run::one(at, frame.len(), run.vnet);
                at = one.end;
                if blocked {
                    self.enqueue(wire, one);
                    continue;
                }
                match write(frame, run)? {
                    Sent::Yes(bytes) => self.tx.sent(1, bytes),
                    Sent::No(reason) => self.lose(reason, wire, one, 0),
                    Sent::Later => {
                        blocked = true;
                        self.enqueue(wire, one);
                    }
                }
            }
        }
        Ok(())
    }

    /// Write queued frames one by one until it would block, or may not.
    pub fn each_queued(
        &mut self,
        mut write: impl FnMut(&[u8], &Run) -> Result<Sent, End>,
    ) -> Result<(), End> {
        while self.may_send()
            && let Some((frame, vnet)) = self.queue.front()
        {
            match write(frame, &Run::one(0, frame.len(), vnet))? {
                Sent::Yes(bytes) => self.tx.sent(1, bytes),
                Sent::No(reason) => self.tx.dropped(reason, 1),
                Sent::Later => break,
            }
            self.queue.pop();
        }
        Ok(())
    }
}

/// What became of a frame offered to the peer.
pub enum Sent {
    /// It went, with so many bytes.
    Yes(usize),
    /// It is lost.
    No(DropReason),
    /// The peer has no room.
    Later,
}

/// One port, on its worker.
pub struct Port {
    /// What other threads hold of it.
    pub shared: Arc<PortShared>,
    /// Where its frames go.
    pub segment: Option<SharedSegment>,
    /// Admin state.
    pub up: bool,
    /// The session's link.
    pub link: Option<Link>,
    /// The number of the newest session.
    pub session: u64,
    /// What epoll watches for.
    pub watched: Option<Interest>,
    /// What epoll watches the link's write descriptor for.
    pub watched_write: bool,
    /// Who captures its frames.
    pub taps: Taps,
    source: Option<[u8; 6]>, // frames with another source address are spoofed
    counters: Counters,
    queue: Queue,
    limit: limit::RateLimit,
    pending: Vec<Run>, // ranges of the wire buffer in the hands of the worker
    settled: Vec<u8>,  // frames whose offloads were completed, in wire form
    losses: Losses,    // of a transmit that is captured
}

impl Port {
    /// A port without a session.
    pub fn new(shared: Arc<PortShared>, source: Option<[u8; 6]>, limits: Limits) -> Port {
        Port {
            shared,
            segment: None,
            up: true,
            link: None,
            session: 0,
            watched: None,
            watched_write: false,
            taps: Taps::default(),
            source,
            counters: Counters::ZERO,
            queue: Queue::new(limits),
            limit: limit::RateLimit::default(),
            pending: Vec::new(),
            settled: Vec::new(),
            losses: Losses::new(),
        }
    }

    /// Receive a batch into `scratch`; what may not enter the segment is dropped and counted.
    pub fn receive(&mut self, scratch: &mut Scratch, now_ms: u64) -> Result<(), End> {
        scratch.runs.clear();
        let Some(link) = &mut self.link else { return Ok(()) };
        let result = link.receive(scratch, &mut self.counters.rx, now_ms);
        self.admit(&scratch.wire, &mut scratch.runs);
        result
    }

    /// Drop, and count, what may not enter the segment from here.
    pub fn admit(&mut self, wire: &[u8], runs: &mut Vec<Run>) {
        if let Some(mac) = self.source {
            if self.is_captured() {
                self.capture_spoofed(wire, runs, mac);
            }
            self.counters.rx.dropped(DropReason::Spoofed, keep_source(wire, runs, mac));
        }
        let refusal = match (self.up, &self.segment) {
            (false, _) => DropReason::PortDown,
            (true, None) => DropReason::NoSegment,
            (true, Some(_)) => return,
        };
        self.counters.rx.dropped(refusal, runs.iter().map(|run| run.frames).sum());
        if self.is_captured() {
            self.capture_received(wire, runs, Some(refusal));
        }
        runs.clear();
    }

    /// Count what became of frames this port received.
    pub fn forwarded(&mut self, wire: &[u8], run: Run, fate: Result<(), DropReason>) {
        if self.is_captured() {
            self.capture_received(wire, &[run], fate.err());
        }
        match fate {
            Ok(()) => self.counters.rx.sent(run.frames, run.frame_bytes()),
            Err(reason) => self.counters.rx.dropped(reason, run.frames),
        }
    }

    /// The tun unit that this port is the far side of.
    pub fn unit(&mut self) -> Option<&mut unit::UnitLink> {
        match &mut self.link {
            Some(Link::Unit(link)) => Some(link),
            _ => None,
        }
    }

    /// Whether the adapter of this port made frames for the segment (neighbour answers, released packets).
    pub fn has_generated(&self) -> bool {
        matches!(&self.link, Some(Link::Unit(link)) if link.has_generated())
    }

    /// Take those frames: behind their prefixes in `wire`, as received ones in `runs`.
    pub fn take_generated(&mut self, wire: &mut Vec<u8>, runs: &mut Vec<Run>) {
        if let Some(Link::Unit(link)) = &mut self.link {
            link.take_generated(wire, runs, &mut self.counters.rx);
        }
    }

    /// When `handle_timeout` wants to be called.
    pub fn deadline_ms(&self, now_ms: u64) -> Option<u64> {
        match &self.link {
            Some(Link::Unit(link)) => link.deadline_ms(now_ms),
            _ => self.limit.holds_until_ms(&self.queue),
        }
    }

    /// Let the adapter ask again for neighbours, or give up; send what the rate limit held.
    pub fn handle_timeout(&mut self, scratch: &mut Scratch, now_ms: u64) -> Result<(), End> {
        if let Some(Link::Unit(link)) = &mut self.link {
            link.handle_timeout(now_ms, &mut self.counters.rx);
        }
        if self.deadline_ms(now_ms).is_some_and(|deadline_ms| deadline_ms > now_ms) {
            return Ok(());
        }
        self.flush(scratch, now_ms)
    }

    /// Whether a program has sent something, which no descriptor announces.
    pub fn has_program_input(&self) -> bool {
        match &self.link {
            Some(Link::Channel(_)) => true,
            Some(Link::Unit(link)) => link.has_input(),
            _ => false,
        }
    }

    /// Whether the peer has said something that was not received yet.
    pub fn has_unread(&self) -> bool {
        match &self.link {
            Some(Link::Channel(link)) => link.has_unread(),
            link => link.as_ref().and_then(Link::fd).is_some_and(sys::is_readable),
        }
    }

    /// Take the link away: the session is over. What it held in either direction is `purge`'s to count.
    pub fn take_link(&mut self) -> Option<Link> {
        let mut link = self.link.take()?;
        if let Link::Channel(link) = &mut link {
            link.close(&mut self.counters.rx);
        }
        Some(link)
    }

    /// Take frames for the peer; returns whether they are the first of this turn. They are sent by `transmit`.
    pub fn stage(&mut self, run: Run) -> bool {
        self.counters.tx.frames_in += run.frames as u64;
        self.pending.push(run);
        self.pending.len() == 1
    }

    /// Swap the inbox against an empty queue, to stage what was in it.
    pub fn fetch(&mut self, spare: &mut Queue) {
        self.shared.fetch(spare);
        self.counters.fetched += spare.len() as u64;
    }

    /// Send what was staged, all ranges of `wire`.
    pub fn transmit(&mut self, wire: &[u8], scratch: &mut Scratch, now_ms: u64) -> Result<(), End> {
        let mut pending = std::mem::take(&mut self.pending);
        let captured = self.is_captured();
        self.losses.clear();
        let mut out = Outgoing {
            queue: &mut self.queue,
            tx: &mut self.counters.tx,
            parts: &mut scratch.parts,
            messages: &mut scratch.messages,
            now_ms,
            stop_at: u64::MAX,
            losses: captured.then_some(&mut self.losses),
        };
        let mut result = Ok(());
        let mut settled = None;
        match &mut self.link {
            _ if !self.up => pending.iter().for_each(|run| out.lose(DropReason::PortDown, wire, *run, 0)),
            None => pending.iter().for_each(|run| out.lose(DropReason::NoPeer, wire, *run, 0)),
            Some(link) => {
                if pending.iter().all(|run| run.vnet.is_plain()) || link.takes_offloads() {
                    result = self.limit.transmit(link, wire, &mut pending, &mut out);
                } else {
                    let mut runs = offload::settle(wire, &pending, &mut self.settled, out.tx);
                    result = self.limit.transmit(link, &self.settled, &mut runs, &mut out);
                    settled = Some(runs);
                }
            }
        }
        if captured {
            // Settled frames as they went out; those that could not be settled are only counted.
            let (wire, runs) = settled.as_ref().map_or((wire, &pending), |runs| (&self.settled, runs));
            captured::record(&self.taps, Direction::Outbound, wire, runs, &self.losses);
        }
        pending.clear();
        self.pending = pending;
        result
    }

    /// Send from the queue.
    pub fn flush(&mut self, scratch: &mut Scratch, now_ms: u64) -> Result<(), End> {
        let Some(link) = &mut self.link else { return Ok(()) };
        let mut out = Outgoing {
            queue: &mut self.queue,
            tx: &mut self.counters.tx,
            parts: &mut scratch.parts,
            messages: &mut scratch.messages,
            now_ms,
            stop_at: u64::MAX,
            losses: None, // they were captured when they came
        };
        self.limit.flush(link, &mut out)
    }

    /// Whether frames wait for room at the peer.
    pub fn waits_for_room(&self) -> bool {
        match &self.link {
            Some(Link::Unit(link)) => link.is_blocked(),
            _ => !self.queue.is_empty() && self.limit.holds_until_ms(&self.queue).is_none(),
        }
    }

    /// The engine's reader of a unit is gone, or goes: what it was to get is lost. The unit stays.
    pub fn take_reader(&mut self, reason: DropReason) -> Option<reader::Reader> {
        let reader = self.unit()?.take_reader()?;
        let tx = &mut self.counters.tx;
        tx.drops[reason as usize] += tx.frames_in - tx.frames_out - tx.total_dropped();
        Some(reader)
    }

    /// The session ended: what it held in either direction and did not pass on is lost.
    pub fn purge(&mut self, reason: DropReason) {
        self.queue.purge();
        self.counters.rx.queued = 0;
        for lane in [&mut self.counters.rx, &mut self.counters.tx] {
            lane.drops[reason as usize] += lane.frames_in - lane.frames_out - lane.total_dropped();
        }
    }

    /// Change the queue's limits.
    pub fn set_limits(&mut self, limits: Limits) {
        self.queue.set_limits(limits);
        self.shared.set_limits(limits);
        match &mut self.link {
            Some(Link::Channel(link)) => link.set_limits(limits),
            Some(Link::Unit(link)) => link.set_limits(limits),
            _ => {}
        }
    }

    /// Where captures of this port are: a unit's, as far as it is one's, with the unit.
    pub fn with_taps(&mut self, change: impl FnOnce(&mut Taps)) {
        match &mut self.link {
            Some(Link::Unit(link)) => link.with_taps(change),
            _ => change(&mut self.taps),
        }
    }

    /// Set, change or (None) end the rate limit of what goes to the peer.
    pub fn set_rate(&mut self, rate: Option<Rate>, now_ms: u64) {
        match &mut self.link {
            Some(Link::Unit(link)) => link.set_rate(rate),
            _ => self.limit.set(rate, now_ms),
        }
    }

    /// Make the counters visible to readers. Once a turn.
    pub fn publish(&mut self) {
        self.counters.tx.queued = match &self.link {
            Some(Link::Unit(link)) => link.queued(),
            _ => self.queue.len(),
        } as u64;
        self.shared.publish(&self.counters);
    }
}
