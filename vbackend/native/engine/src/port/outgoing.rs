//! Frames on their way to a peer, and what becomes of each.

use vbackend_proto::capture::verdict::Verdict;
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::{Run, frames_of};
use vbackend_proto::queue::Queue;

use super::Lazy;
use super::captured::{self, Verdicts};
use crate::command::End;
use crate::counters::Lane;
use crate::sys::Messages;

/// Where outgoing frames are accounted: the queue behind the peer, the tx lane, the worker's buffers.
pub struct Outgoing<'a> {
    /// What the peer did not take yet.
    pub queue: &'a mut Queue,
    /// Its counters.
    pub tx: &'a mut Lane,
    /// Frames of the buffer that are not all there; only for ports that said they take them.
    pub lazy: &'a Lazy,
    /// For gathered writes.
    pub parts: &'a mut Vec<(usize, usize)>,
    /// For datagram system calls.
    pub messages: &'a mut Messages,
    /// The clock.
    pub now_ms: u64,
    /// The value of `tx.bytes_out` with which a rate limit ends a flush; `u64::MAX` without one.
    pub stop_at: u64,
    /// What became of the frames, while the port is captured.
    pub verdicts: Option<&'a mut Verdicts>,
}

impl Outgoing<'_> {
    /// Whether the next queued frame may leave.
    pub fn may_send(&self) -> bool {
        self.tx.bytes_out < self.stop_at
    }

    /// Count all frames of `run` but the first `taken` as lost.
    pub fn lose(&mut self, reason: DropReason, wire: &[u8], run: Run, taken: usize) {
        self.tx.dropped(reason, run.frames - taken);
        self.note(wire, run, taken, reason.into());
    }

    /// Let a capture know what became of all frames of `run` but the first `taken`.
    pub fn note(&mut self, wire: &[u8], run: Run, taken: usize, verdict: Verdict) {
        if let Some(verdicts) = &mut self.verdicts {
            captured::note(verdicts, wire, run, taken, verdict);
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
