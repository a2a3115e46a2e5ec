//! A tun unit as threads share it: the pure half behind a lock, and everyone who waits for it.
//!
//! Who touches it: the worker of the port it is the far side of, programs that read and write its device face, and the
//! state machine in Python. Whoever changes something that others wait for says so before the lock is let go
//! (if_tun.c: the wakeup, fownsignal and selwakeup at the end of tun_output): sleeping readers, pollers, the owner of an
//! asynchronous descriptor, the worker.

mod poll;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use vbackend_proto::capture::verdict::Verdict;
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::queue::Limits;
use vbackend_proto::shaper::{Rate, Shaper};
use vbackend_proto::unit::{AddressFamily, Unit, UnitCounters, UnitError, UnitState, flags};
use vbackend_proto::wire::Family;
use vbackend_proto::wire::ethernet::Mac;

use crate::capture::{Direction, Taps};
use crate::command::lock;
use crate::shared::PortShared;
use crate::sys;
pub use crate::sys::send_sigio;
use poll::{PollFd, Readiness};

/// The errno of a refusal.
#[must_use]
pub fn errno(error: UnitError) -> i32 {
    match error {
        UnitError::Closed => libc::EBADF,
        UnitError::Gone => libc::ENXIO,
        UnitError::NotReady => libc::EHOSTDOWN,
        UnitError::Empty => libc::EWOULDBLOCK,
        UnitError::Short | UnitError::TooLong | UnitError::NoPacket => libc::EIO,
        UnitError::Family => libc::EAFNOSUPPORT,
        UnitError::Full => libc::ENOBUFS,
    }
}

/// What a look at the unit shows besides its state.
#[derive(Clone, Copy, Debug)]
pub struct UnitView {
    /// By the driver's names.
    pub counters: UnitCounters,
    /// Packets in `if_snd`.
    pub queued: usize,
    /// Packets that wait for the guest.
    pub input: usize,
    /// Whether a reader sleeps (`RWAIT`).
    pub reader_waits: bool,
}

/// The unit and who waits for it.
pub struct SharedUnit {
    inner: Mutex<Inner>,
    epoch: AtomicU32, // goes up when sleeping readers have to look again
    sleepers: AtomicU32,
}

/// The unit in the hands of one thread.
pub struct Inner {
    /// The pure half.
    pub unit: Unit,
    /// Who captures its packets (T2, W6).
    pub taps: Taps,
    poll: Option<PollFd>,
    port: Option<Arc<PortShared>>, // whose worker takes the input
    kicked: bool,
}

impl SharedUnit {
    /// A unit whose interface does not exist yet.
    #[must_use]
    pub fn new(limit: usize, input_limit: usize) -> SharedUnit {
        SharedUnit {
            inner: Mutex::new(Inner {
                unit: Unit::new(limit, input_limit),
                taps: Taps::default(),
                poll: None,
                port: None,
                kicked: false,
            }),
            epoch: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
        }
    }

    /// The unit, for one batch.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    // The state machine's commands.

    /// Take over what was decided. A closed device face loses its descriptor.
    pub fn set_state(&self, state: UnitState) {
        let mut inner = self.lock();
        if inner.unit.state().ticket != state.ticket {
            inner.poll = None;
        }
        inner.unit.set_state(state);
        inner.settle_poll();
    }

    /// `IF_PURGE`; returns how many packets that were.
    pub fn purge(&self) -> usize {
        let mut inner = self.lock();
        let purged = inner.unit.purge();
        inner.settle_poll();
        purged
    }

    /// A new interface of this number. What its worker was told of is gone, so the next write tells it again.
    pub fn reset_interface(&self) {
        let mut inner = self.lock();
        inner.unit.reset_interface();
        inner.kicked = false;
    }

    /// Change the limit of `if_snd`.
    pub fn set_limit(&self, frames: usize) {
        let mut inner = self.lock();
        let limits = Limits { frames, ..inner.unit.snd().limits() };
        inner.unit.set_limits(limits);
    }

    /// Change the rate at which packets leave `if_snd`; None: no limit.
    pub fn set_rate(&self, rate: Option<Rate>) {
        let now_ms = sys::monotonic_ms();
        let mut inner = self.lock();
        inner.unit.set_shaper(rate.map(|rate| Shaper::new(rate, now_ms)));
        self.notify(&mut inner, now_ms);
    }

    /// Let sleeping readers look again.
    pub fn wake(&self) {
        self.epoch.fetch_add(1, Ordering::Release);
        sys::futex_wake(&self.epoch);
    }

    /// What a look shows.
    #[must_use]
    pub fn view(&self) -> UnitView {
        let inner = self.lock();
        UnitView {
            counters: inner.unit.counters(),
            queued: inner.unit.snd().len(),
            input: inner.unit.input_len(),
            reader_waits: self.sleepers.load(Ordering::Relaxed) > 0,
        }
    }

    // The interface face.

    /// A packet from the network stack (if_tun.c tun_output).
    ///
    /// # Errors
    /// As [`Unit::prepare_output`] and [`Unit::enqueue`].
    pub fn output(
        &self,
        packet: &[u8],
        family: AddressFamily,
        destination: Option<IpAddr>,
    ) -> Result<(), UnitError> {
        let now_ms = sys::monotonic_ms();
        let mut inner = self.lock();
        let header = inner.unit.prepare_output(family, destination, (Mac::ZERO, Mac::ZERO));
        if header == Err(UnitError::NotReady) {
            return Err(UnitError::NotReady);
        }
        let result = header.and_then(|header| inner.unit.enqueue(&header, packet));
        inner.capture(Direction::Outbound, family, packet, result.err().map(UnitError::reason));
        if result.is_ok() {
            self.notify(&mut inner, now_ms);
        }
        result
    }

    /// Tell everyone that a packet may be read (T6; Q1: when it may leave).
    pub fn notify(&self, inner: &mut Inner, now_ms: u64) {
        if !inner.unit.is_readable(now_ms) {
            return;
        }
        if self.sleepers.load(Ordering::Acquire) > 0 {
            self.wake();
        }
        let state = inner.unit.state();
        if state.flags & flags::ASYNC != 0 && state.owner != 0 {
            send_sigio(state.owner, sys::POLL_IN);
        }
        inner.settle_poll();
    }

    /// Whether the rate holds packets back now.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.lock().unit.ready_ms(sys::monotonic_ms()).is_some()
    }

    /// if_tun.c tunstart: packets that the rate held back may leave by now. Returns when to call again, if at all.
    pub fn start(&self) -> Option<u64> {
        let now_ms = sys::monotonic_ms();
        let mut inner = self.lock();
        let ready_ms = inner.unit.ready_ms(now_ms);
        if ready_ms.is_none() {
            self.notify(&mut inner, now_ms);
        }
        ready_ms.map(|ready_ms| ready_ms.saturating_sub(now_ms))
    }

    /// Hand the oldest packet for the guest to `take`; None when there is none.
    pub fn take_input<T>(&self, take: impl FnOnce(Family, &[u8]) -> T) -> Option<T> {
        self.lock().unit.take_input(take)
    }

    // The device face.

    /// Hand the next packet to `take` and forget it; None when there is none (if_tun.c tunread).
    ///
    /// # Errors
    /// As [`Unit::check_read`].
    pub fn read<T>(&self, ticket: u64, take: impl FnOnce(&[u8]) -> T) -> io::Result<Option<T>> {
        let mut taken = None;
        let mut take = Some(take);
        self.read_batch(ticket, 1, |packet| taken = take.take().map(|take| take(packet)))?;
        Ok(taken)
    }

    /// Whether a read would find a packet now.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.lock().unit.is_readable(sys::monotonic_ms())
    }

    /// Hand up to `most` packets to `take`, one by one; returns how many there were.
    ///
    /// # Errors
    /// As [`Unit::check_read`].
    pub fn read_batch(&self, ticket: u64, most: usize, mut take: impl FnMut(&[u8])) -> io::Result<usize> {
        let now_ms = sys::monotonic_ms();
        let mut inner = self.lock();
        inner.unit.check_read(ticket).map_err(refusal)?;
        let mut count = 0;
        while count < most {
            let Some(packet) = inner.unit.front(now_ms) else { break };
            take(packet);
            inner.unit.pop();
            count += 1;
        }
        inner.settle_poll();
        Ok(count)
    }

    /// Where to wait from: what [`SharedUnit::sleep`] takes, read before the read that found nothing.
    #[must_use]
    pub fn waiting_from(&self) -> (u32, u32) {
        (self.epoch.load(Ordering::Acquire), self.lock().unit.state().index)
    }

    /// Sleep until something changes. R4: the interface must still be the one of `from`.
    ///
    /// # Errors
    /// `EINTR`: a signal; `ENXIO`: the interface is another one.
    pub fn sleep(&self, from: (u32, u32)) -> io::Result<()> {
        self.sleepers.fetch_add(1, Ordering::AcqRel);
        let slept = self.sleep_once(from.0);
        self.sleepers.fetch_sub(1, Ordering::AcqRel);
        slept?;
        let inner = self.lock();
        if inner.unit.state().index != from.1 && inner.unit.state().ticket != 0 {
            return Err(refusal(UnitError::Gone));
        }
        Ok(())
    }

    fn sleep_once(&self, epoch: u32) -> io::Result<()> {
        let now_ms = sys::monotonic_ms();
        let ready_ms = {
            let mut inner = self.lock();
            if inner.unit.is_readable(now_ms) {
                return Ok(()); // it was queued before we were counted among the sleepers
            }
            inner.unit.ready_ms(now_ms)
        };
        let timeout = ready_ms.map(|ready_ms| Duration::from_millis(ready_ms.saturating_sub(now_ms).max(1)));
        sys::futex_wait(&self.epoch, epoch, timeout)
    }

    /// One packet from a program; returns how many bytes were taken (if_tun.c tunwrite).
    ///
    /// # Errors
    /// `EBADF` for a closed instance; as [`Unit::accept`] and [`Unit::queue_input`].
    pub fn write(&self, ticket: u64, data: &[u8]) -> io::Result<usize> {
        let mut inner = self.lock();
        if inner.unit.state().ticket != ticket {
            return Err(refusal(UnitError::Closed));
        }
        let (start, family) = inner.unit.accept(data).map_err(refusal)?;
        let packet = &data[start..];
        let result = inner.unit.queue_input(family, packet);
        let verdict = result.err().map(UnitError::reason);
        inner.capture(Direction::Inbound, AddressFamily::Ip(family), packet, verdict);
        result.map_err(refusal)?;
        if !inner.kicked
            && let Some(port) = inner.port.clone()
        {
            inner.kicked = true;
            drop(inner);
            port.kick();
        }
        Ok(data.len())
    }

    /// The descriptor of the open instance `ticket`, made at the first call.
    ///
    /// # Errors
    /// `EBADF` for a closed instance; no descriptor to be had.
    pub fn poll_fd(&self, ticket: u64) -> io::Result<RawFd> {
        let mut inner = self.lock();
        if inner.unit.state().ticket != ticket {
            return Err(refusal(UnitError::Closed));
        }
        if inner.poll.is_none() {
            inner.poll = Some(PollFd::new()?);
            inner.settle_poll();
        }
        Ok(inner.poll.as_ref().map_or(-1, |poll| poll.as_fd().as_raw_fd()))
    }

    // The worker's side.

    /// From now on what is written is for this port's worker; None: for [`SharedUnit::take_input`].
    pub fn set_port(&self, port: Option<Arc<PortShared>>) {
        let mut inner = self.lock();
        inner.kicked = false;
        inner.port = port;
    }

    /// The worker fetches the input now.
    pub fn fetching(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.lock();
        inner.kicked = false;
        inner
    }

    /// The worker has not fetched all of it.
    pub fn kick_again(&self, inner: &mut Inner) {
        if let Some(port) = &inner.port {
            inner.kicked = true;
            port.kick();
        }
    }

    /// The engine's reader is gone; returns how many packets were queued for it.
    pub fn hang_up(&self) -> usize {
        let mut inner = self.lock();
        inner.poll = None;
        inner.unit.hang_up()
    }
}

impl Inner {
    /// Hand a packet with its family, and what became of it, to those who capture.
    #[inline]
    pub fn capture(
        &mut self,
        direction: Direction,
        family: AddressFamily,
        packet: &[u8],
        verdict: Option<DropReason>,
    ) {
        if !self.taps.is_empty() {
            let number = self.unit.state().system.capture_number(family);
            let verdict = verdict.map(Verdict::from).unwrap_or_default();
            self.taps.record_packet(direction, number, packet, verdict, sys::realtime_ns());
        }
    }

    /// Let the descriptor say what is so.
    pub fn settle_poll(&mut self) {
        let Some(poll) = &mut self.poll else { return };
        poll.say(match () {
            () if !self.unit.has(flags::INITED) => Readiness::Gone,
            () if self.unit.is_readable(sys::monotonic_ms()) => Readiness::Readable,
            () => Readiness::Idle,
        });
    }
}

/// The errno as an error.
pub fn refusal(error: UnitError) -> io::Error {
    io::Error::from_raw_os_error(errno(error))
}

#[cfg(test)]
mod tests;
