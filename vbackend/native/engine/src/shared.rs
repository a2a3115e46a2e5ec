//! What other threads hold of a port and of a worker: the waker, the inbox, the published counters.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::Run;
use vbackend_proto::queue::{Limits, Queue};
use vbackend_proto::segment::PortId;

use crate::command::{Request, lock};
use crate::counters::{Counters, Published};
use crate::sys::EventFd;

/// Wakes a worker and says what for.
pub struct Waker {
    mail: Mutex<Mail>,
    ready: EventFd,
}

/// What a worker finds when it is woken.
#[derive(Default)]
pub struct Mail {
    /// The worker is dead: nobody will read this.
    dead: bool,
    /// Commands, in order.
    pub requests: Vec<Request>,
    /// Ports with something in their inbox or channel.
    pub kicked: Vec<PortId>,
}

impl Waker {
    /// A waker with no mail.
    pub fn new() -> io::Result<Waker> {
        Ok(Waker { mail: Mutex::new(Mail::default()), ready: EventFd::new()? })
    }

    /// Send a command. A dead worker's answer is that the request is dropped.
    pub fn request(&self, request: Request) {
        let mut mail = lock(&self.mail);
        if !mail.dead {
            mail.requests.push(request);
            self.ready.signal();
        }
    }

    /// Say that a port has something to fetch.
    pub fn kick(&self, port: PortId) {
        let mut mail = lock(&self.mail);
        mail.kicked.push(port);
        if mail.kicked.len() == 1 {
            self.ready.signal();
        }
    }

    /// Take the mail.
    pub fn collect(&self) -> Mail {
        self.ready.clear();
        std::mem::take(&mut lock(&self.mail))
    }

    /// The worker is gone: nobody waits for it any more.
    pub fn close(&self) {
        *lock(&self.mail) = Mail { dead: true, ..Mail::default() };
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

/// The part of a port that every thread may touch.
pub struct PortShared {
    /// Its number.
    pub id: PortId,
    /// The worker it lives on.
    pub worker: usize,
    waker: Arc<Waker>,
    inbox: Mutex<Inbox>,
    published: Published,
}

/// Frames from other workers, not yet fetched by the port's own.
struct Inbox {
    queue: Queue,
    accepted: u64, // all frames that were ever in `queue`
    dropped: u64,
}

impl PortShared {
    /// A port without mail and with zero counters.
    pub fn new(id: PortId, worker: usize, waker: Arc<Waker>, limits: Limits) -> PortShared {
        let inbox = Mutex::new(Inbox { queue: Queue::new(limits), accepted: 0, dropped: 0 });
        PortShared { id, worker, waker, inbox, published: Published::new() }
    }

    /// Copy frames from another worker in; what does not fit is dropped and counted here.
    pub fn deliver(&self, wire: &[u8], run: Run) {
        let mut inbox = lock(&self.inbox);
        let was_empty = inbox.queue.is_empty();
        let taken = inbox.queue.offer(wire, run);
        inbox.accepted += taken as u64;
        inbox.dropped += (run.frames - taken) as u64;
        if was_empty && taken > 0 {
            self.waker.kick(self.id);
        }
    }

    /// Swap the inbox against an empty queue. Called by the port's own worker.
    pub fn fetch(&self, spare: &mut Queue) {
        let mut inbox = lock(&self.inbox);
        spare.set_limits(inbox.queue.limits());
        std::mem::swap(&mut inbox.queue, spare);
    }

    /// Change the inbox' limits.
    pub fn set_limits(&self, limits: Limits) {
        lock(&self.inbox).queue.set_limits(limits);
    }

    /// Make the counters of the port's worker visible.
    pub fn publish(&self, counters: &Counters) {
        self.published.publish(counters);
    }

    /// The counters of one moment. What came into the inbox entered; it waits until the port's worker has published
    /// what became of it. The inbox is looked at last, so it has seen all that is published as fetched.
    pub fn counters(&self) -> Counters {
        let mut counters = self.published.read();
        let inbox = lock(&self.inbox);
        let (waiting, dropped) = (inbox.accepted.saturating_sub(counters.fetched), inbox.dropped);
        drop(inbox);
        counters.tx.frames_in += waiting + dropped;
        counters.tx.queued += waiting;
        counters.tx.drops[DropReason::QueueFull as usize] += dropped;
        counters
    }

    /// Wake the port's worker for this port.
    pub fn kick(&self) {
        self.waker.kick(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vbackend_proto::vnet::VnetHeader;

    #[test]
    fn an_inbox_keeps_the_identity_and_no_count_goes_back() {
        let waker = Arc::new(Waker::new().unwrap());
        let port = PortShared::new(PortId(3), 0, Arc::clone(&waker), Limits { frames: 2, bytes: 1000 });
        let mut wire = Vec::new();
        for _ in 0..3 {
            wire.extend_from_slice(&14u32.to_be_bytes());
            wire.extend_from_slice(&[0; 14]);
        }
        port.deliver(&wire, Run { start: 0, end: wire.len(), frames: 3, vnet: VnetHeader::PLAIN });
        let tx = port.counters().tx;
        assert_eq!((tx.frames_in, tx.queued, tx.total_dropped()), (3, 2, 1));
        assert_eq!(waker.collect().kicked, [PortId(3)]);
        let mut spare = Queue::new(Limits { frames: 0, bytes: 0 });
        port.fetch(&mut spare);
        assert_eq!(spare.len(), 2);
        let tx = port.counters().tx;
        assert_eq!((tx.frames_in, tx.queued, tx.total_dropped()), (3, 2, 1), "in the worker's hands");
        let mut counters = Counters { fetched: 2, ..Counters::ZERO };
        counters.tx.frames_in = 2;
        counters.tx.sent(2, 28);
        port.publish(&counters);
        let tx = port.counters().tx;
        assert_eq!((tx.frames_in, tx.queued, tx.frames_out, tx.total_dropped()), (3, 0, 2, 1));
    }
}
