//! A port whose other end is Python: two bounded queues and an eventfd.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::{Run, check_len, scan};
use vbackend_proto::queue::{Limits, Queue};
use vbackend_proto::vnet::VnetHeader;

use super::{Outgoing, Scratch};
use crate::command::{End, lock};
use crate::counters::Lane;
use crate::shared::PortShared;
use crate::sys::EventFd;

/// Both directions, shared by the two ends.
struct Pipe {
    port: Arc<PortShared>,
    to_program: Mutex<Queue>,
    to_engine: Mutex<ToEngine>,
    readable: EventFd, // signalled exactly while `to_program` holds a frame, or the engine's end is gone
}

struct ToEngine {
    queue: Queue,
    runts: usize,
    oversize: usize,
    full: usize,
    kicked: bool, // the worker knows that there is something
    closed: bool, // the program's end is gone
    gone: bool,   // the engine's end is gone
}

impl ToEngine {
    /// Count the frames that were not taken.
    fn count_refused(&mut self, rx: &mut Lane) {
        for (count, reason) in [
            (std::mem::take(&mut self.runts), DropReason::Runt),
            (std::mem::take(&mut self.oversize), DropReason::Oversize),
            (std::mem::take(&mut self.full), DropReason::QueueFull),
        ] {
            rx.frames_in += count as u64;
            rx.dropped(reason, count);
        }
    }

    fn kick(&mut self, port: &PortShared) {
        if !self.kicked {
            self.kicked = true;
            port.kick();
        }
    }
}

/// Make both ends of a channel for `port`.
///
/// # Errors
/// No eventfd to be had.
pub fn channel(port: Arc<PortShared>, limits: Limits) -> io::Result<(EngineEnd, ChannelEnd)> {
    let to_engine = ToEngine {
        queue: Queue::new(limits),
        runts: 0,
        oversize: 0,
        full: 0,
        kicked: false,
        closed: false,
        gone: false,
    };
    let pipe = Arc::new(Pipe {
        port,
        to_program: Mutex::new(Queue::new(limits)),
        to_engine: Mutex::new(to_engine),
        readable: EventFd::new()?,
    });
    Ok((EngineEnd { pipe: Arc::clone(&pipe) }, ChannelEnd { pipe }))
}

/// The end a worker holds.
pub struct EngineEnd {
    pipe: Arc<Pipe>,
}

impl EngineEnd {
    /// Fetch what the program sent, as much as the scratch buffer holds.
    pub fn receive(&mut self, scratch: &mut Scratch, rx: &mut Lane) -> Result<(), End> {
        let mut inner = lock(&self.pipe.to_engine);
        inner.kicked = false;
        inner.count_refused(rx);
        let queued = inner.queue.wire();
        let len = queued.len().min(scratch.wire.len());
        scratch.wire[..len].copy_from_slice(&queued[..len]);
        let found = scan(&scratch.wire[..len], &mut scratch.runs);
        rx.frames_in += inner.queue.consume(found.consumed) as u64;
        if inner.queue.is_empty() && inner.closed {
            return Err(End::Eof(0));
        }
        if !inner.queue.is_empty() {
            inner.kick(&self.pipe.port);
        }
        Ok(())
    }

    /// Whether the program sent something that was not received yet.
    pub fn has_unread(&self) -> bool {
        !lock(&self.pipe.to_engine).queue.is_empty()
    }

    /// Take nothing more from the program, and count what it sent and nobody received: the caller's drop.
    pub fn close(&mut self, rx: &mut Lane) {
        let mut inner = lock(&self.pipe.to_engine);
        inner.gone = true;
        inner.count_refused(rx);
        rx.frames_in += inner.queue.purge() as u64;
    }

    /// Change the limits of both directions.
    pub fn set_limits(&mut self, limits: Limits) {
        lock(&self.pipe.to_engine).queue.set_limits(limits);
        lock(&self.pipe.to_program).set_limits(limits);
    }

    /// Give frames to the program; what does not fit is dropped.
    pub fn transmit(&mut self, wire: &[u8], runs: &[Run], out: &mut Outgoing<'_>) {
        let mut queue = lock(&self.pipe.to_program);
        let was_empty = queue.is_empty();
        for run in runs {
            let before = queue.frame_bytes();
            let taken = queue.offer(wire, *run);
            out.tx.sent(taken, queue.frame_bytes() - before);
            out.lose(DropReason::QueueFull, wire, *run, taken);
        }
        if was_empty && !queue.is_empty() {
            self.pipe.readable.signal();
        }
    }

    /// Give the program what a rate limit held; what does not fit is dropped.
    pub fn flush(&mut self, out: &mut Outgoing<'_>) {
        let mut queue = lock(&self.pipe.to_program);
        let was_empty = queue.is_empty();
        while out.may_send()
            && let Some((frame, vnet)) = out.queue.front()
        {
            match queue.offer_frame(frame, vnet) {
                true => out.tx.sent(1, frame.len()),
                false => out.tx.dropped(DropReason::QueueFull, 1),
            }
            out.queue.pop();
        }
        if was_empty && !queue.is_empty() {
            self.pipe.readable.signal();
        }
    }
}

impl Drop for EngineEnd {
    fn drop(&mut self) {
        lock(&self.pipe.to_engine).gone = true;
        let _frames = lock(&self.pipe.to_program);
        self.pipe.readable.signal();
    }
}

/// The end a program holds. All calls may come from any thread.
pub struct ChannelEnd {
    pipe: Arc<Pipe>,
}

impl ChannelEnd {
    /// Give a frame to the port. False: it was too short, too long, or one too many; the port counts it.
    ///
    /// # Errors
    /// `ENXIO` when the port has gone or the channel is closed.
    pub fn send(&self, frame: &[u8]) -> io::Result<bool> {
        let mut inner = lock(&self.pipe.to_engine);
        if inner.gone || inner.closed {
            return Err(io::Error::from_raw_os_error(libc::ENXIO));
        }
        let taken = match check_len(frame.len()) {
            Ok(()) => inner.queue.offer_frame(frame, VnetHeader::PLAIN),
            Err(_) => false,
        };
        match (taken, check_len(frame.len())) {
            (true, _) => {}
            (false, Ok(())) => inner.full += 1,
            (false, Err(DropReason::Runt)) => inner.runts += 1,
            (false, Err(_)) => inner.oversize += 1,
        }
        inner.kick(&self.pipe.port);
        Ok(taken)
    }

    /// Up to `most` frames, handed to `take` one by one.
    ///
    /// # Errors
    /// `ENXIO` when nothing is left and the port has gone, or the channel is closed.
    pub fn receive(&self, most: usize, mut take: impl FnMut(&[u8])) -> io::Result<usize> {
        let ended = self.ended();
        let mut queue = lock(&self.pipe.to_program);
        let mut count = 0;
        while count < most {
            let Some((frame, _)) = queue.front() else { break };
            take(frame);
            queue.pop();
            count += 1;
        }
        if count == 0 && ended {
            return Err(io::Error::from_raw_os_error(libc::ENXIO));
        }
        self.settle_readiness(&queue);
        Ok(count)
    }

    /// Close this end: the port loses its peer.
    pub fn close(&self) {
        let mut inner = lock(&self.pipe.to_engine);
        inner.closed = true;
        inner.kick(&self.pipe.port);
        drop(inner);
        let mut queue = lock(&self.pipe.to_program);
        queue.purge();
        self.pipe.readable.signal();
    }

    fn ended(&self) -> bool {
        let inner = lock(&self.pipe.to_engine);
        inner.gone || inner.closed
    }

    fn settle_readiness(&self, queue: &MutexGuard<'_, Queue>) {
        if queue.is_empty() && !self.ended() {
            self.pipe.readable.clear();
        }
    }
}

impl AsFd for ChannelEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.readable.as_fd()
    }
}
