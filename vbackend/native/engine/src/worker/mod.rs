//! A worker: one thread, one epoll, the ports that live on it.

mod execute;
pub mod table;
mod timers;

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::Run;
use vbackend_proto::queue::{Limits, Queue};
use vbackend_proto::segment::{Fate, Plan, PortId};

use self::table::{Entry, Table, slot_of};
use self::timers::Timers;
use crate::command::{End, Event, Events, Request, lock};
use crate::port::vhost::Trouble;
use crate::port::{Port, Scratch};
use crate::shared::Waker;
use crate::sys::{self, Epoll, Interest, Ready};

/// Rounds of receiving when a session is drained before it is closed. A Unix socket holds about 4 reads.
const DRAIN_ROUNDS: usize = 64;

const WAKE: u64 = u64::MAX;
const WRITE_FD: u64 = 1 << 63; // marks the token of a port's second descriptor

/// One worker's state.
pub struct Worker {
    index: usize,
    epoll: Epoll,
    waker: Arc<Waker>,
    events: Arc<Events>,
    table: Table,
    scratch: Scratch,
    plan: Plan,
    touched: Vec<usize>,    // slots of ports with staged frames
    generating: Vec<usize>, // slots of ports whose adapter made frames, or has a timer
    busy: Vec<usize>,       // slots of ports to receive from again at once
    spare: Queue,           // swapped against inboxes
    timers: Timers,
    now_ms: u64,
    running: bool,
}

impl Worker {
    /// A worker without ports.
    ///
    /// # Errors
    /// No epoll to be had.
    pub fn new(index: usize, waker: Arc<Waker>, events: Arc<Events>) -> std::io::Result<Worker> {
        let epoll = Epoll::new()?;
        epoll.add(waker.as_fd(), WAKE, Interest { read: true, write: false })?;
        Ok(Worker {
            index,
            epoll,
            waker,
            events,
            table: Table::default(),
            scratch: Scratch::new(),
            plan: Plan::default(),
            touched: Vec::new(),
            generating: Vec::new(),
            busy: Vec::new(),
            spare: Queue::new(Limits { frames: 0, bytes: 0 }),
            timers: Timers::default(),
            now_ms: sys::monotonic_ms(),
            running: true,
        })
    }

    /// The thread's body. A panic is reported as an event; it never crosses into another thread.
    pub fn run(mut self) {
        let (events, waker, index) = (Arc::clone(&self.events), Arc::clone(&self.waker), self.index);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.turns())) {
            let text = (panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "panic without a text".to_owned());
            events.push(Event::WorkerDied { worker: index, text });
        }
        waker.close();
    }

    fn turns(&mut self) {
        let mut ready = Vec::new();
        while self.running {
            if let Err(error) = self.wait(&mut ready) {
                self.events
                    .push(Event::WorkerDied { worker: self.index, text: format!("epoll_wait: {error}") });
                return;
            }
            self.now_ms = sys::monotonic_ms();
            let mut woken = false;
            for _ in 0..self.busy.len() {
                let slot = self.busy.remove(0); // it comes back at the end if it is busy still
                if self.table.local(slot).is_some_and(|port| port.has_more()) {
                    self.receive(slot);
                }
            }
            for event in &ready {
                match event.token {
                    WAKE => woken = true,
                    _ => self.handle_ready(*event),
                }
            }
            if woken {
                self.handle_mail(); // after the descriptors: a command may reuse a slot that an event names
            }
            if self.has_timers() {
                self.handle_timeouts();
            }
        }
    }

    fn handle_ready(&mut self, event: Ready) {
        let slot = slot_of(PortId(event.token & !WRITE_FD));
        let second = event.token & WRITE_FD != 0;
        if event.writable {
            self.flush(slot);
            self.forward_generated();
        }
        if event.readable && !second {
            self.receive(slot);
        }
    }

    /// One turn of a port: receive, decide, transmit.
    fn receive(&mut self, slot: usize) {
        let Some(mut port) = self.table.take(slot) else {
            return;
        };
        let result = port.receive(&mut self.scratch, self.now_ms);
        let mut wire = std::mem::take(&mut self.scratch.wire);
        let runs = std::mem::take(&mut self.scratch.runs);
        self.forward(&mut port, &mut wire, &runs);
        self.transmit(&wire);
        port.note_merged(self.scratch.settler.merged, runs.iter().map(|run| run.frames).sum());
        self.scratch.wire = wire;
        self.scratch.runs = runs;
        self.scratch.lazy.clear();
        let result = result.and(port.release());
        let has_room = port.vhost().is_some_and(|vhost| vhost.take_room());
        self.finish(slot, port, result);
        if has_room {
            self.flush(slot);
        }
        self.forward_generated();
    }

    /// Decide where a port's frames go and stage them there. All of `runs` is accounted.
    fn forward(&mut self, port: &mut Port, wire: &mut [u8], runs: &[Run]) {
        if runs.is_empty() {
            return;
        }
        let Some(segment) = &port.segment else {
            runs.iter().for_each(|run| port.forwarded(wire, *run, Err(DropReason::NoSegment)));
            return;
        };
        lock(segment).decide(port.shared.id, wire, runs, self.now_ms, &mut self.plan);
        let plan = std::mem::take(&mut self.plan);
        for hop in &plan.hops {
            let reached = match hop.fate {
                Fate::Drop(reason) => Err(reason),
                Fate::To(target) => self.stage(target, wire, hop.run).ok_or(DropReason::NoDestination),
                Fate::Flood => {
                    self.scratch.lazy.fill(wire, hop.run);
                    let staged =
                        plan.flood.iter().filter_map(|target| self.stage(*target, wire, hop.run)).count();
                    if staged > 0 { Ok(()) } else { Err(DropReason::NoDestination) }
                }
            };
            port.forwarded(wire, hop.run, reached);
        }
        self.plan = plan;
    }

    /// Stage frames on a port of this worker, or deliver them to another worker's. None: the port is gone.
    fn stage(&mut self, target: PortId, wire: &mut [u8], run: Run) -> Option<()> {
        let slot = slot_of(target);
        match self.table.get(slot)? {
            Entry::Local(port) => {
                if port.shared.id != target {
                    return None;
                }
                port.fill(&mut self.scratch.lazy, wire, run);
                if port.stage(run) {
                    self.touched.push(slot);
                }
            }
            Entry::Remote(shared) => {
                if shared.id != target {
                    return None;
                }
                self.scratch.lazy.fill(wire, run);
                shared.deliver(wire, run);
            }
        }
        Some(())
    }

    /// Transmit what was staged.
    fn transmit(&mut self, wire: &[u8]) {
        while let Some(slot) = self.touched.pop() {
            let Some(mut port) = self.table.take(slot) else {
                continue;
            };
            let result = port.transmit(wire, &mut self.scratch, self.now_ms);
            self.finish(slot, port, result);
        }
    }

    fn flush(&mut self, slot: usize) {
        let Some(mut port) = self.table.take(slot) else {
            return;
        };
        let result = port.flush(&mut self.scratch, self.now_ms);
        self.finish(slot, port, result);
    }

    /// Put a port back after its part of the turn.
    fn finish(&mut self, slot: usize, mut port: Box<Port>, result: Result<(), End>) {
        if result.is_err() && !self.end_reader(&mut port, DropReason::PeerGone) {
            self.end_session(&mut port);
            port.purge(DropReason::PeerGone);
        }
        if port.has_generated() {
            self.generating.push(slot);
        }
        if port.has_more() && !self.busy.contains(&slot) {
            self.busy.push(slot);
        }
        if let Some(vhost) = port.vhost() {
            for Trouble { ring, text } in vhost.take_troubles() {
                let (port, session) = (port.shared.id, port.session);
                self.events.push(Event::RingStopped { port, session, ring, text });
            }
        }
        self.timers.note(slot, &mut port, self.now_ms);
        self.watch(&mut port);
        port.publish();
        if let Err(end) = result {
            // After the counters, so that who hears of the end finds all of the session in them.
            self.events.push(Event::SessionEnded { port: port.shared.id, session: port.session, end });
        }
        self.table.put(slot, port);
    }

    /// Forward what adapters made in answer to the frames of this turn: neighbour answers, released packets.
    fn forward_generated(&mut self) {
        while let Some(slot) = self.generating.pop() {
            let Some(mut port) = self.table.take(slot) else {
                continue;
            };
            let (mut wire, mut runs) = (Vec::new(), Vec::new());
            port.take_generated(&mut wire, &mut runs);
            port.admit(&wire, &mut runs);
            self.forward(&mut port, &mut wire, &runs);
            self.finish(slot, port, Ok(()));
            self.transmit(&wire);
        }
    }

    fn handle_mail(&mut self) {
        let mail = self.waker.collect();
        for port in mail.kicked {
            let slot = slot_of(port);
            if self.table.local(slot).is_some_and(|port| port.has_program_input()) {
                self.receive(slot);
            }
            self.fetch_inbox(slot);
        }
        for Request { command, answer } in mail.requests {
            let result = self.execute(command);
            // The asker may have given up; then nobody needs the answer.
            let _unheard = answer.send(result);
        }
    }

    /// Transmit what other workers left in a port's inbox.
    fn fetch_inbox(&mut self, slot: usize) {
        let Some(port) = self.table.local(slot) else {
            return;
        };
        let mut queue = std::mem::replace(&mut self.spare, Queue::new(Limits { frames: 0, bytes: 0 }));
        port.fetch(&mut queue);
        if !queue.is_empty() {
            let mut runs = std::mem::take(&mut self.scratch.runs);
            runs.clear();
            queue.runs(&mut runs);
            for run in &runs {
                if port.stage(*run) {
                    self.touched.push(slot);
                }
            }
            self.scratch.runs = runs;
            self.transmit(queue.wire());
            self.forward_generated();
            queue.purge();
        }
        self.spare = queue;
    }

    /// Take the reader of a port's unit away, if it has one; the unit stays where it is.
    fn end_reader(&self, port: &mut Port, reason: DropReason) -> bool {
        let Some(reader) = port.take_reader(reason) else { return false };
        let _unwatched = self.epoll.remove(reader.as_fd());
        port.watched = None;
        true
    }

    /// Close a port's link, if it has one, and forget what was learned there.
    fn end_session(&self, port: &mut Port) {
        let Some(link) = port.take_link() else { return };
        // A descriptor that cannot be removed was closed by the kernel already.
        let _unwatched = link.fd().map(|fd| self.epoll.remove(fd));
        if port.watched_write {
            let _unwatched = link.write_fd().map(|fd| self.epoll.remove(fd));
        }
        port.watched = None;
        port.watched_write = false;
        if let Some(segment) = &port.segment {
            lock(segment).flush(port.shared.id);
        }
    }

    /// Watch for room exactly while frames wait for it.
    fn watch(&self, port: &mut Port) {
        let wants = port.waits_for_room();
        let token = port.shared.id.0;
        let Some(link) = &mut port.link else { return };
        if link.take_write_fd_is_new() {
            port.watched_write = false;
        }
        let second = link.write_fd();
        if let Some(second) = second
            && wants != port.watched_write
        {
            let interest = Interest { read: false, write: true };
            let changed = match wants {
                true => self.epoll.add(second, token | WRITE_FD, interest),
                false => self.epoll.remove(second),
            };
            port.watched_write = wants && changed.is_ok();
        }
        let interest = Interest { read: true, write: wants && second.is_none() };
        if port.watched.is_some_and(|watched| watched != interest)
            && link.fd().is_some_and(|fd| self.epoll.modify(fd, token, interest).is_ok())
        {
            port.watched = Some(interest);
        }
    }
}
