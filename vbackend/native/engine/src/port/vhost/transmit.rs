//! Frames to the guest: chains of the even rings.

use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::{PREFIX_LEN, Run, prefix_at};
use vbackend_proto::vnet::VnetHeader;

use super::Vhost;
use super::ring::{Body, Ring};
use crate::command::End;
use crate::port::lazy::HEAD;
use crate::port::{Lazy, Outgoing, Sent};

impl Vhost {
    /// Write frames into the guest's buffers; those that find none wait in the queue.
    pub fn transmit(&mut self, wire: &[u8], runs: &[Run], out: &mut Outgoing<'_>) -> Result<(), End> {
        self.expected = runs.iter().map(|run| run.frames).sum();
        let lazy = out.lazy;
        let mut blocked = !out.queue.is_empty();
        for run in runs {
            let mut at = run.start;
            while at < run.end {
                let one = Run::one(at, prefix_at(wire, at), run.vnet);
                let body = body_of(wire, one, lazy);
                at = one.end;
                if blocked {
                    enqueue(wire, one, body, out);
                    continue;
                }
                match self.put(body, &run.vnet) {
                    Sent::Yes(bytes) => out.tx.sent(1, bytes),
                    Sent::No(reason) => out.lose(reason, wire, one, 0),
                    Sent::Later => {
                        blocked = true;
                        enqueue(wire, one, body, out);
                    }
                }
            }
        }
        self.finish(blocked)
    }

    /// Write queued frames.
    pub fn flush(&mut self, out: &mut Outgoing<'_>) -> Result<(), End> {
        self.expected = out.queue.len();
        out.each_queued(|frame, run| {
            if !self.offloads.covers(&run.vnet) {
                return Ok(Sent::No(DropReason::Offload)); // it waited for a driver that took more
            }
            Ok(self.put(Body { bytes: frame, missing: None, len: frame.len() }, &run.vnet))
        })?;
        // What the rate limit holds waits for no buffers.
        self.finish(!out.queue.is_empty() && out.may_send())
    }

    fn put(&mut self, body: Body<'_>, vnet: &VnetHeader) -> Sent {
        let Some(pair) = self.pair_for(body.bytes) else { return Sent::No(DropReason::NoPeer) };
        let sent = self.rings[2 * pair].put(&self.memory, self.features, body, vnet, self.expected);
        self.expected = self.expected.saturating_sub(1);
        if matches!(sent, Ok(Sent::Later)) {
            self.blocked = pair;
        }
        sent.unwrap_or_else(|error| {
            // What was put before it is given to the guest all the same.
            let log = self.log.as_ref().filter(|_| self.features.log_all());
            self.rings[2 * pair].finish(&self.memory, log, false);
            self.fail(2 * pair, error.text());
            Sent::No(DropReason::NoPeer)
        })
    }

    /// Which pair gets a frame: the one on which the guest sends that flow, of those that are live.
    fn pair_for(&self, frame: &[u8]) -> Option<usize> {
        let live = |pair: usize| self.rings.get(2 * pair).is_some_and(Ring::is_live);
        let pairs = self.rings.len().div_ceil(2);
        if pairs == 1 {
            return Some(0).filter(|pair| live(*pair));
        }
        let wanted = self.steering.pair(frame);
        if live(wanted) {
            return Some(wanted);
        }
        (0..pairs).find(|pair| live(*pair))
    }

    /// Give the guest what was written. `waiting`: frames are left, so the next buffers of the pair that the first one is for
    /// are waited for, and those that were too few are held: a kick then tells of others. Other pairs may have buffers.
    fn finish(&mut self, waiting: bool) -> Result<(), End> {
        let log = self.log.as_ref().filter(|_| self.features.log_all());
        for (index, ring) in self.rings.iter_mut().enumerate().step_by(2) {
            if !ring.is_live() {
                continue;
            }
            let waiting = waiting && index == 2 * self.blocked;
            if ring.finish(&self.memory, log, waiting) {
                self.stats.publish(index, ring.info());
            }
            // Refilled buffers are announced only while frames wait for them.
            if waiting {
                let look_again = ring.enable_kicks(&self.memory, log) || ring.kick.is_none();
                self.more |= look_again;
                self.room |= look_again;
            } else {
                ring.disable_kicks(&self.memory, log);
            }
        }
        self.call_for_log();
        self.check_memory()
    }
}

/// A frame of the worker's buffer, with what is missing of it there.
fn body_of<'a>(wire: &'a [u8], one: Run, lazy: &'a Lazy) -> Body<'a> {
    let bytes = &wire[one.start + PREFIX_LEN..one.end];
    let missing = lazy.missing(one.start);
    Body { bytes: if missing.is_some() { &bytes[..HEAD] } else { bytes }, missing, len: bytes.len() }
}

/// Queue a frame, with a copy of what is missing of it.
fn enqueue(wire: &[u8], one: Run, body: Body<'_>, out: &mut Outgoing<'_>) {
    let Some(missing) = body.missing else {
        out.enqueue(wire, one);
        return;
    };
    let mut frame = body.bytes.to_vec();
    missing.append_to(&mut frame, body.len - body.bytes.len());
    if !out.queue.offer_frame(&frame, one.vnet) {
        out.lose(DropReason::QueueFull, wire, one, 0);
    }
}
