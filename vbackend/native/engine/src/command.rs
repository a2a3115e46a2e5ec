//! The vocabulary between the control thread and the workers: commands in, events out.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vbackend_proto::adapter;
use vbackend_proto::impair::Config;
use vbackend_proto::queue::Limits;
use vbackend_proto::segment::{PortId, Segment};
use vbackend_proto::shaper::Rate;

use crate::capture::{Sink, Tap};
use crate::port::impaired::Tally;
use crate::port::reader::Reader;
use crate::port::vhost::VhostCommand;
use crate::port::{Link, Port};
use crate::shared::PortShared;
use crate::sys::EventFd;

/// A segment as workers share it; locked once a batch, never while a system call runs.
pub type SharedSegment = Arc<Mutex<Segment>>;

/// Lock, also when another thread panicked: what we guard is valid after every statement.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a worker is asked to do.
pub enum Command {
    /// A port of this worker begins.
    AddLocal(Box<Port>),
    /// A port of another worker begins.
    AddRemote(Arc<PortShared>),
    /// Forget a port; one of this worker is drained and closed.
    Remove(PortId),
    /// A port joins (Some) or leaves (None) a segment. The segment's own member list is the engine's business.
    SetSegment(PortId, Option<SharedSegment>),
    /// Admin state.
    SetUp(PortId, bool),
    /// Queue limits.
    SetLimits(PortId, Limits),
    /// The rate limit of what goes to a port's peer.
    SetRate(PortId, Option<Rate>),
    /// The impairment of what goes to a port's peer, and where is told what it does.
    SetImpairment(PortId, Option<(Config, Arc<Tally>)>),
    /// Capture a port's frames.
    StartCapture(PortId, Tap),
    /// End the port's part in the capture into that sink.
    StopCapture(PortId, Arc<Sink>),
    /// Start a session.
    Attach(PortId, Box<Link>),
    /// End a session in order.
    Detach(PortId),
    /// Change addresses and mode of a unit's adapter.
    ConfigureUnit(PortId, Box<adapter::Config>),
    /// Let the engine be the reader of a unit.
    AttachReader(PortId, Box<Reader>),
    /// Take it away in order.
    DetachReader(PortId),
    /// Tell a unit's refused writes there (Some) or nowhere (None).
    ReportErrors(PortId, Option<OwnedFd>),
    /// Forward a frame as if a port's peer had sent it. At least a header's length.
    Inject(PortId, Vec<u8>),
    /// Change a vhost-user session.
    Vhost(PortId, Box<VhostCommand>),
    /// Detach all ports and end the thread.
    Stop,
}

/// A command with the place where its answer goes: the session number for `Attach`, what [`VhostCommand`] says, else 0.
pub struct Request {
    /// What to do.
    pub command: Command,
    /// Where the answer goes.
    pub answer: SyncSender<Result<u64, CommandError>>,
}

/// Why a worker refused a command.
#[derive(Debug)]
pub enum CommandError {
    /// No such port here.
    UnknownPort,
    /// The port has a session already.
    Busy,
    /// The port is no tun unit's.
    NoUnit,
    /// The port has no vhost-user session.
    NoVhost,
    /// A vhost-user command makes no sense.
    Refused(String),
    /// The kernel refused.
    Io(io::Error),
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer closed; holds the bytes of a cut-off frame it left behind.
    Eof(usize),
    /// The peer announced a frame of this length.
    Oversize(u32),
    /// A system call failed with this errno.
    Error(i32),
    /// The file behind a guest's memory was truncated.
    Memory,
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Error(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// What a worker reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session ended by itself (never after `Detach` or `Remove`).
    SessionEnded {
        /// Whose.
        port: PortId,
        /// Which.
        session: u64,
        /// Why.
        end: End,
    },
    /// A virtqueue was stopped because its guest lied; the session goes on.
    RingStopped {
        /// Of which port.
        port: PortId,
        /// Of which session.
        session: u64,
        /// Its number.
        ring: usize,
        /// Why.
        text: &'static str,
    },
    /// A worker panicked; its ports are dead.
    WorkerDied {
        /// Its index.
        worker: usize,
        /// The panic's text.
        text: String,
    },
    /// The list was full; so many events were not kept.
    Lost(u64),
}

/// Events on their way to the control thread. Bounded: what does not fit is counted.
pub struct Events {
    inner: Mutex<(VecDeque<Event>, u64)>,
    ready: EventFd,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    const MOST: usize = 4096;

    /// An empty list.
    ///
    /// # Errors
    /// No eventfd to be had.
    pub fn new() -> io::Result<Events> {
        Ok(Events { inner: Mutex::new((VecDeque::new(), 0)), ready: EventFd::new()? })
    }

    /// Add one.
    pub fn push(&self, event: Event) {
        let mut inner = lock(&self.inner);
        if inner.0.len() < Events::MOST {
            inner.0.push_back(event);
        } else {
            inner.1 += 1;
        }
        self.ready.signal();
    }

    /// Take all.
    pub fn drain(&self) -> Vec<Event> {
        let mut inner = lock(&self.inner);
        self.ready.clear();
        let lost = std::mem::take(&mut inner.1);
        let mut events: Vec<Event> = inner.0.drain(..).collect();
        if lost > 0 {
            events.push(Event::Lost(lost));
        }
        events
    }
}

impl AsFd for Events {
    /// Readable while there is something to drain.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_bounded_and_the_lost_are_counted() {
        let events = Events::new().unwrap();
        assert!(events.drain().is_empty());
        for session in 0..Events::MOST as u64 + 3 {
            events.push(Event::SessionEnded { port: PortId(1), session, end: End::Eof(0) });
        }
        let drained = events.drain();
        assert_eq!(drained.len(), Events::MOST + 1);
        assert_eq!(drained.last(), Some(&Event::Lost(3)));
        assert!(events.drain().is_empty());
    }

    #[test]
    fn an_io_error_keeps_its_errno() {
        assert_eq!(End::from(io::Error::from_raw_os_error(libc::EPIPE)), End::Error(libc::EPIPE));
    }
}
