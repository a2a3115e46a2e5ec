//! A port's rate limit: what goes to its peer waits in the port's queue while its token bucket is empty.
//!
//! ```text
//!   staged frames ── split at the tokens ──► link            the ones that may leave
//!                          └──► queue ── deadline ──► link   the others, when tokens are back
//! ```
//!
//! The clock wakes a port whose bucket is empty, room at the peer wakes one that has tokens: never both, so nothing spins.

use vbackend_proto::framing::{Run, split_runs};
use vbackend_proto::offload::Offloads;
use vbackend_proto::queue::Queue;
use vbackend_proto::shaper::{Rate, Shaper};

use super::{Link, Outgoing};
use crate::command::End;

/// What a peer takes of single frames, one for each on the wire.
pub fn single(accepts: Offloads) -> Offloads {
    if accepts == Offloads::NONE { accepts } else { Offloads::CSUM }
}

/// A limit, or none.
#[derive(Default)]
pub struct RateLimit(Option<Shaper>);

impl RateLimit {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Set, change or (None) end the limit. A new one begins with a full bucket.
    pub fn set(&mut self, rate: Option<Rate>, now_ms: u64) {
        match (&mut self.0, rate) {
            (Some(shaper), Some(rate)) => shaper.set_rate(rate, now_ms),
            (shaper, rate) => *shaper = rate.map(|rate| Shaper::new(rate, now_ms)),
        }
    }

    /// What a peer may get of what it takes: under a limit no GSO frames, each of which would be a burst of its own.
    pub fn narrow(&self, accepts: Offloads) -> Offloads {
        if self.0.is_none() { accepts } else { single(accepts) }
    }

    /// [`Link::transmit`] within the limit: frames beyond it go to the queue, what does not fit there is dropped.
    pub fn transmit(
        &mut self,
        link: &mut Link,
        wire: &[u8],
        runs: &mut Vec<Run>,
        out: &mut Outgoing<'_>,
    ) -> Result<(), End> {
        if self.0.is_none() || link.limits_itself() {
            return link.transmit(wire, runs, out);
        }
        self.flush(link, out)?;
        let may_leave = match &mut self.0 {
            Some(shaper) if out.queue.is_empty() => split_runs(wire, runs, shaper.allowance(out.now_ms)),
            _ => 0,
        };
        if may_leave > 0 {
            self.charged(out, |out| link.transmit(wire, &runs[..may_leave], out))?;
        }
        runs[may_leave..].iter().for_each(|run| out.enqueue(wire, *run));
        Ok(())
    }

    /// [`Link::flush`] within the limit.
    pub fn flush(&mut self, link: &mut Link, out: &mut Outgoing<'_>) -> Result<(), End> {
        let Some(shaper) = self.0.as_mut().filter(|_| !link.limits_itself()) else {
            return link.flush(out);
        };
        if out.queue.is_empty() {
            return Ok(());
        }
        // A frame that was cut off by a full peer never waits here: it was let out before it was paid for, so the
        // bucket still has the token that let it.
        out.stop_at = out.tx.bytes_out.saturating_add(shaper.allowance(out.now_ms));
        let result = self.charged(out, |out| link.flush(out));
        out.stop_at = u64::MAX;
        result
    }

    /// When the limit lets go of what is queued; None when it does not hold it.
    pub fn holds_until_ms(&self, queue: &Queue) -> Option<u64> {
        let shaper = self.0.as_ref().filter(|shaper| shaper.is_empty() && !queue.is_empty())?;
        Some(shaper.ready_ms())
    }

    /// Charge what leaves during `send`: Ethernet frames without any prefix.
    fn charged<R>(&mut self, out: &mut Outgoing<'_>, send: impl FnOnce(&mut Outgoing<'_>) -> R) -> R {
        let before = out.tx.bytes_out;
        let result = send(out);
        if let Some(shaper) = &mut self.0 {
            shaper.spend(usize::try_from(out.tx.bytes_out - before).unwrap_or(usize::MAX));
        }
        result
    }
}
