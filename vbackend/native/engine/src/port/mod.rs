//! A port: one attachment of a guest, of the host or of a program, and its accounting.
//!
//! rx is what its peer sent, tx is what goes to the peer. A port outlives its sessions: the [`Link`] is the session's
//! descriptor and comes and goes.

mod captured;
pub mod channel;
pub mod device;
pub mod dgram;
pub mod impaired;
pub mod lazy;
mod limit;
mod link;
mod offload;
mod outgoing;
pub mod reader;
pub mod stream;
pub mod unit;
pub mod vhost;

use std::sync::Arc;

use vbackend_proto::capture::verdict::Verdict;
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::{MAX_FRAME, PREFIX_LEN, Run, keep_source};
use vbackend_proto::queue::{Limits, Queue};
use vbackend_proto::shaper::Rate;

pub use self::lazy::Lazy;
pub use self::link::Link;
pub use self::outgoing::{Outgoing, Sent};

use self::captured::Verdicts;
use crate::capture::{Direction, Taps};
use crate::command::{End, SharedSegment};
use crate::counters::Counters;
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
    /// Which of those frames are not all there.
    pub lazy: Lazy,
    /// For datagram system calls.
    pub messages: Messages,
    /// For gathered writes.
    pub parts: Vec<(usize, usize)>,
    /// For frames that leave otherwise than they came.
    pub settler: offload::Settler,
}

impl Scratch {
    /// Bytes of `wire`.
    pub const WIRE_BYTES: usize = (BUDGET + 1) * SLOT;

    /// New buffers.
    pub fn new() -> Scratch {
        Scratch {
            wire: vec![0; Scratch::WIRE_BYTES].into_boxed_slice(),
            runs: Vec::new(),
            lazy: Lazy::default(),
            messages: Messages::new(BUDGET),
            parts: Vec::new(),
            settler: offload::Settler::default(),
        }
    }
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
    /// The time of its earliest entry in the worker's coarse timers.
    pub timer_ms: Option<u64>,
    /// The same of the precise ones.
    pub timer_us: Option<u64>,
    source: Option<[u8; 6]>, // frames with another source address are spoofed
    counters: Counters,
    queue: Queue,
    limit: limit::RateLimit,
    impaired: Option<Box<impaired::Impaired>>,
    pending: Vec<Run>,  // ranges of the wire buffer in the hands of the worker
    verdicts: Verdicts, // of a transmit that is captured
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
            impaired: None,
            timer_ms: None,
            timer_us: None,
            pending: Vec::new(),
            verdicts: Verdicts::new(),
        }
    }

    /// Receive a batch into `scratch`; what may not enter the segment is dropped and counted.
    pub fn receive(&mut self, scratch: &mut Scratch, now_ms: u64) -> Result<(), End> {
        scratch.runs.clear();
        scratch.lazy.clear();
        scratch.settler.merged = 0;
        let Some(link) = &mut self.link else { return Ok(()) };
        let result = link.receive(scratch, &mut self.counters.rx, now_ms);
        if self.is_captured() {
            for run in &scratch.runs {
                scratch.lazy.fill(&mut scratch.wire, *run);
            }
        }
        self.admit(&scratch.wire, &mut scratch.runs);
        result
    }

    /// A frame that the peer did not send enters as if it had.
    pub fn note_injected(&mut self) {
        self.counters.rx.frames_in += 1;
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

    /// The rings of a guest that this port is attached to.
    pub fn vhost(&mut self) -> Option<&mut vhost::Vhost> {
        match &mut self.link {
            Some(Link::Vhost(link)) => Some(link),
            _ => None,
        }
    }

    /// Whether there is something to receive that no descriptor announces.
    pub fn has_more(&self) -> bool {
        matches!(&self.link, Some(Link::Vhost(link)) if link.has_more())
    }

    /// How many of the `received` frames of this turn left merged in others.
    pub fn note_merged(&mut self, merged: usize, received: usize) {
        if let Some(Link::Stream(link)) = &mut self.link {
            link.note_merged(merged, received);
        }
    }

    /// The turn is over: frames that were received lazily are needed no more.
    pub fn release(&mut self) -> Result<(), End> {
        match &mut self.link {
            Some(Link::Vhost(link)) => link.release(),
            _ => Ok(()),
        }
    }

    /// Before `run` is staged: fill in what is missing of the frames that `transmit` will look at. Those of a guest for
    /// another guest that takes them as they are stay where they are.
    pub fn fill(&self, lazy: &mut Lazy, wire: &mut [u8], run: Run) {
        if lazy.is_empty() {
            return;
        }
        let Some(Link::Vhost(link)) = &self.link else { return lazy.fill(wire, run) };
        let copies = self.up && !self.is_captured() && self.limit.is_none() && self.impaired.is_none();
        let takes = |run: &Run| link.offloads().covers(&run.vnet);
        if copies && takes(&run) && self.pending.iter().all(takes) {
            return;
        }
        self.pending.iter().for_each(|run| lazy.fill(wire, *run));
        lazy.fill(wire, run);
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
        if self.impaired.is_some() && self.up && self.link.is_some() {
            return self.impair(wire, scratch, now_ms);
        }
        self.send(wire, scratch, now_ms, false)
    }

    /// Send what is pending, `singly`: one frame for each on the wire.
    fn send(&mut self, wire: &[u8], scratch: &mut Scratch, now_ms: u64, singly: bool) -> Result<(), End> {
        let mut pending = std::mem::take(&mut self.pending);
        let captured = self.is_captured() && self.taps.want(Direction::Outbound, &Verdict::default());
        let mut out = Outgoing {
            queue: &mut self.queue,
            tx: &mut self.counters.tx,
            lazy: &scratch.lazy,
            parts: &mut scratch.parts,
            messages: &mut scratch.messages,
            now_ms,
            stop_at: u64::MAX,
            verdicts: captured.then_some(&mut self.verdicts),
        };
        let mut result = Ok(());
        let mut settled = None;
        match &mut self.link {
            _ if !self.up => pending.iter().for_each(|run| out.lose(DropReason::PortDown, wire, *run, 0)),
            None => pending.iter().for_each(|run| out.lose(DropReason::NoPeer, wire, *run, 0)),
            Some(link) => {
                let accepts = self.limit.narrow(link.offloads());
                let accepts = if singly { limit::single(accepts) } else { accepts };
                if !out.lazy.is_missing_in(&pending) {
                    settled = scratch.settler.prepare(wire, &pending, accepts, out.tx);
                }
                result = match &mut settled {
                    None => self.limit.transmit(link, wire, &mut pending, &mut out),
                    Some((wire, runs)) => self.limit.transmit(link, wire, runs, &mut out),
                };
            }
        }
        if captured {
            // Settled frames as they went out; those that could not be settled are only counted.
            let (wire, runs) = settled.as_ref().map_or((wire, &pending), |(wire, runs)| (*wire, &**runs));
            captured::record(&self.taps, Direction::Outbound, wire, runs, &mut self.verdicts);
        }
        self.verdicts.clear();
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
            lazy: &scratch.lazy,
            parts: &mut scratch.parts,
            messages: &mut scratch.messages,
            now_ms,
            stop_at: u64::MAX,
            verdicts: None, // they were captured when they came
        };
        self.limit.flush(link, &mut out)
    }

    /// Whether frames wait for room at the peer.
    pub fn waits_for_room(&self) -> bool {
        match &self.link {
            Some(Link::Unit(link)) => link.is_blocked(),
            Some(Link::Vhost(_)) => false, // a kick tells
            _ => !self.queue.is_empty() && self.limit.holds_until_ms(&self.queue).is_none(),
        }
    }

    /// The engine's reader of a unit is gone, or goes: what it was to get is lost. The unit stays.
    pub fn take_reader(&mut self, reason: DropReason) -> Option<reader::Reader> {
        let reader = self.unit()?.take_reader()?;
        self.purge_line();
        let tx = &mut self.counters.tx;
        tx.drops[reason as usize] += tx.frames_in - tx.frames_out - tx.total_dropped();
        Some(reader)
    }

    /// The session ended: what it held in either direction and did not pass on is lost.
    pub fn purge(&mut self, reason: DropReason) {
        self.queue.purge();
        self.purge_line();
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
        let queued = match &self.link {
            Some(Link::Unit(link)) => link.queued(),
            _ => self.queue.len(),
        };
        self.counters.tx.queued = (queued + self.on_their_way()) as u64;
        self.publish_impairment();
        self.shared.publish(&self.counters);
    }
}
