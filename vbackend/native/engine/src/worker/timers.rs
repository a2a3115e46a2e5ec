//! Which port wants to be called when: two timer wheels, of ports' slots.
//!
//! The coarse clock is read once a turn for nothing, and is good for rate limits and neighbour discovery. The precise one
//! costs a look, so it is for delays only. An entry whose port has since asked for an earlier time is found out of date
//! when it comes, and ignored: [`Port::timer_ms`] and [`Port::timer_us`] have the ones that count.

use vbackend_proto::impair::wheel::Wheel;

use super::Worker;
use crate::port::Port;
use crate::sys::{self, Ready};

/// Both wheels.
#[derive(Default)]
pub struct Timers {
    coarse: Wheel<Timer>,
    precise: Wheel<Timer>,
    due: Vec<Timer>,
}

/// A time, and a port's slot.
type Timer = (u64, usize);

impl Timers {
    /// Note what a port waits for, after its part of a turn.
    #[inline]
    pub fn note(&mut self, slot: usize, port: &mut Port, now_ms: u64) {
        if let Some(due) = port.deadline_ms(now_ms)
            && port.timer_ms.is_none_or(|noted| due < noted)
        {
            port.timer_ms = Some(due);
            self.coarse.insert(now_ms, due, (due, slot));
        }
        if let Some(due) = port.due_us()
            && port.timer_us.is_none_or(|noted| due < noted)
        {
            port.timer_us = Some(due);
            self.precise.insert(0, due, (due, slot));
        }
    }
}

impl Worker {
    /// Wait for descriptors, until the next timer; not at all while ports are busy.
    pub(super) fn wait(&mut self, ready: &mut Vec<Ready>) -> std::io::Result<()> {
        if !self.busy.is_empty() {
            return self.epoll.wait(Some(0), ready);
        }
        let coarse_ms = self.timers.coarse.next_due().map(|due| due.saturating_sub(self.now_ms));
        let Some(due_us) = self.timers.precise.next_due() else {
            return self.epoll.wait(coarse_ms, ready);
        };
        let precise_us = due_us.saturating_sub(sys::monotonic_us());
        self.epoll.wait_us(coarse_ms.map_or(precise_us, |ms| precise_us.min(ms.saturating_mul(1000))), ready)
    }

    /// Call the ports whose time has come.
    pub(super) fn handle_timeouts(&mut self) {
        // All that are due now; what they ask for next is for another turn, so that descriptors have theirs.
        let now_ms = self.now_ms;
        let mut due = std::mem::take(&mut self.timers.due);
        due.extend(std::iter::from_fn(|| self.timers.coarse.pop(now_ms)));
        for (at, slot) in due.drain(..) {
            let Some(mut port) = self.take_if(slot, |port| port.timer_ms == Some(at)) else { continue };
            port.timer_ms = None;
            let result = port.handle_timeout(&mut self.scratch, now_ms);
            self.finish(slot, port, result);
        }
        if !self.timers.precise.is_empty() {
            let now_us = sys::monotonic_us();
            due.extend(std::iter::from_fn(|| self.timers.precise.pop(now_us)));
            for (at, slot) in due.drain(..) {
                let Some(mut port) = self.take_if(slot, |port| port.timer_us == Some(at)) else { continue };
                port.timer_us = None;
                let result = port.handle_due(&mut self.scratch, now_us, now_ms);
                self.finish(slot, port, result);
            }
        }
        self.timers.due = due;
        self.forward_generated();
    }

    /// Whether one of the timers may be due.
    pub(super) fn has_timers(&self) -> bool {
        !self.timers.precise.is_empty() || self.timers.coarse.next_due().is_some_and(|due| due <= self.now_ms)
    }

    fn take_if(&mut self, slot: usize, wanted: impl Fn(&Port) -> bool) -> Option<Box<Port>> {
        self.table.local(slot).filter(|port| wanted(port))?;
        self.table.take(slot)
    }
}
