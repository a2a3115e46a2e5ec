//! A worker: one thread, one epoll, the ports that live on it.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::Run;
use vbackend_proto::queue::{Limits, Queue};
use vbackend_proto::segment::{Fate, Plan, PortId};

use crate::command::{Command, CommandError, End, Event, Events, Request, lock};
use crate::port::{Port, Scratch};
use crate::shared::{PortShared, Waker};
use crate::sys::{self, Epoll, Interest, Ready};

/// Rounds of receiving when a session is drained before it is closed. A Unix socket holds about 4 reads.
const DRAIN_ROUNDS: usize = 64;

const WAKE: u64 = u64::MAX;
const WRITE_FD: u64 = 1 << 63; // marks the token of a port's second descriptor

/// The slot of a port number: ports lie in tables at this index. The rest of the number is a generation.
#[must_use]
pub fn slot_of(port: PortId) -> usize {
    (port.0 & 0xffff_ffff) as usize
}

enum Entry {
    Local(Box<Port>),
    Remote(Arc<PortShared>),
}

/// All ports, by slot.
#[derive(Default)]
struct Table(Vec<Option<Entry>>);

impl Table {
    fn set(&mut self, slot: usize, entry: Option<Entry>) {
        if self.0.len() <= slot {
            self.0.resize_with(slot + 1, || None);
        }
        self.0[slot] = entry;
    }

    fn local(&mut self, slot: usize) -> Option<&mut Port> {
        match self.0.get_mut(slot) {
            Some(Some(Entry::Local(port))) => Some(port),
            _ => None,
        }
    }

    /// Take a port out for its turn, so that the others can be written to meanwhile.
    fn take(&mut self, slot: usize) -> Option<Box<Port>> {
        match self.0.get_mut(slot)?.take() {
            Some(Entry::Local(port)) => Some(port),
            other => {
                self.0[slot] = other;
                None
            }
        }
    }

    fn put(&mut self, slot: usize, port: Box<Port>) {
        self.0[slot] = Some(Entry::Local(port));
    }
}

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
    spare: Queue,           // swapped against inboxes
    deadline_ms: Option<u64>,
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
            spare: Queue::new(Limits { frames: 0, bytes: 0 }),
            deadline_ms: None,
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
            let timeout = self.deadline_ms.map(|deadline| deadline.saturating_sub(self.now_ms));
            if let Err(error) = self.epoll.wait(timeout, &mut ready) {
                self.events
                    .push(Event::WorkerDied { worker: self.index, text: format!("epoll_wait: {error}") });
                return;
            }
            self.now_ms = sys::monotonic_ms();
            let mut woken = false;
            for event in &ready {
                match event.token {
                    WAKE => woken = true,
                    _ => self.handle_ready(*event),
                }
            }
            if woken {
                self.handle_mail(); // after the descriptors: a command may reuse a slot that an event names
            }
            if self.deadline_ms.is_some_and(|deadline| deadline <= self.now_ms) {
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
        let wire = std::mem::take(&mut self.scratch.wire);
        let runs = std::mem::take(&mut self.scratch.runs);
        self.forward(&mut port, &wire, &runs);
        self.transmit(&wire);
        self.scratch.wire = wire;
        self.scratch.runs = runs;
        self.finish(slot, port, result);
        self.forward_generated();
    }

    /// Decide where a port's frames go and stage them there. All of `runs` is accounted.
    fn forward(&mut self, port: &mut Port, wire: &[u8], runs: &[Run]) {
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
    fn stage(&mut self, target: PortId, wire: &[u8], run: Run) -> Option<()> {
        let slot = slot_of(target);
        match self.table.0.get_mut(slot)?.as_mut()? {
            Entry::Local(port) => {
                if port.shared.id != target {
                    return None;
                }
                if port.stage(run) {
                    self.touched.push(slot);
                }
            }
            Entry::Remote(shared) => {
                if shared.id != target {
                    return None;
                }
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
        if let Some(deadline) = port.deadline_ms(self.now_ms) {
            self.deadline_ms = Some(self.deadline_ms.map_or(deadline, |other| other.min(deadline)));
        }
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
            self.forward(&mut port, &wire, &runs);
            self.finish(slot, port, Ok(()));
            self.transmit(&wire);
        }
    }

    fn handle_timeouts(&mut self) {
        self.deadline_ms = None;
        for slot in 0..self.table.0.len() {
            if self.table.local(slot).is_some_and(|port| port.deadline_ms(self.now_ms).is_some()) {
                let Some(mut port) = self.table.take(slot) else {
                    continue;
                };
                let result = port.handle_timeout(&mut self.scratch, self.now_ms);
                self.finish(slot, port, result);
            }
        }
        self.forward_generated();
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

    fn execute(&mut self, command: Command) -> Result<u64, CommandError> {
        match command {
            Command::AddLocal(mut port) => {
                let slot = slot_of(port.shared.id);
                port.publish();
                self.table.set(slot, Some(Entry::Local(port)));
            }
            Command::AddRemote(shared) => {
                let slot = slot_of(shared.id);
                self.table.set(slot, Some(Entry::Remote(shared)));
            }
            Command::Remove(id) => {
                self.fetch_inbox(slot_of(id));
                self.detach(id);
                self.table.set(slot_of(id), None);
            }
            Command::SetSegment(id, segment) => self.port(id)?.segment = segment,
            Command::SetUp(id, up) => {
                let port = self.port(id)?;
                port.up = up;
                if let (false, Some(segment)) = (up, &port.segment) {
                    lock(segment).flush(id);
                }
            }
            Command::SetLimits(id, limits) => self.port(id)?.set_limits(limits),
            Command::SetRate(id, rate) => {
                let now_ms = self.now_ms;
                self.port(id)?.set_rate(rate, now_ms);
                self.flush(slot_of(id)); // what waits, waits for the new rate
                self.forward_generated();
            }
            Command::StartCapture(id, tap) => self.port(id)?.with_taps(|taps| taps.add(tap)),
            Command::StopCapture(id, sink) => self.port(id)?.with_taps(|taps| taps.remove(&sink)),
            Command::Attach(id, link) => {
                let port = self.port(id)?;
                if port.link.is_some() {
                    return Err(CommandError::Busy);
                }
                port.link = Some(*link);
                return self.begin(id);
            }
            Command::Detach(id) => {
                self.port(id)?;
                self.detach(id);
            }
            Command::ConfigureUnit(id, config) => {
                self.port(id)?.unit().ok_or(CommandError::NoUnit)?.set_config(*config);
            }
            Command::AttachReader(id, reader) => {
                let unit = self.port(id)?.unit().ok_or(CommandError::NoUnit)?;
                if unit.has_reader() {
                    return Err(CommandError::Busy);
                }
                unit.set_reader(*reader);
                return self.begin(id);
            }
            Command::ReportErrors(id, errors) => {
                self.port(id)?.unit().ok_or(CommandError::NoUnit)?.set_errors(errors);
            }
            Command::DetachReader(id) => {
                self.port(id)?.unit().ok_or(CommandError::NoUnit)?;
                self.drain(slot_of(id));
                if let Some(mut port) = self.table.take(slot_of(id)) {
                    self.end_reader(&mut port, DropReason::PeerGone);
                    self.finish(slot_of(id), port, Ok(()));
                }
            }
            Command::Stop => {
                for slot in 0..self.table.0.len() {
                    if let Some(id) = self.table.local(slot).map(|port| port.shared.id) {
                        self.detach(id);
                    }
                }
                self.running = false;
            }
        }
        Ok(0)
    }

    fn port(&mut self, id: PortId) -> Result<&mut Port, CommandError> {
        self.table.local(slot_of(id)).filter(|port| port.shared.id == id).ok_or(CommandError::UnknownPort)
    }

    /// Begin a session on a link, or with a unit's reader, that was just put in place; its number.
    fn begin(&mut self, id: PortId) -> Result<u64, CommandError> {
        let slot = slot_of(id);
        let Some(mut port) = self.table.take(slot) else {
            return Err(CommandError::UnknownPort);
        };
        port.session += 1;
        let session = port.session;
        let interest = Interest { read: true, write: false };
        let token = port.shared.id.0;
        let added = port
            .link
            .as_ref()
            .and_then(|link| link.fd())
            .map_or(Ok(()), |fd| self.epoll.add(fd, token, interest));
        match &added {
            Ok(()) => port.watched = Some(interest),
            Err(_) if port.take_reader(DropReason::PeerGone).is_some() => {}
            Err(_) => port.link = None,
        }
        self.finish(slot, port, Ok(()));
        added.map(|()| session).map_err(CommandError::Io)
    }

    /// End a session in order: give the peer what it takes at once, and read until it has nothing more to say, since
    /// a QEMU whose send is blocked when we close never sends again.
    fn detach(&mut self, id: PortId) {
        let slot = slot_of(id);
        self.drain(slot);
        if let Some(mut port) = self.table.take(slot) {
            self.end_session(&mut port);
            port.purge(DropReason::Removed);
            self.finish(slot, port, Ok(()));
        }
    }

    fn drain(&mut self, slot: usize) {
        self.flush(slot);
        self.receive(slot);
        for _ in 0..DRAIN_ROUNDS {
            if !self.table.local(slot).is_some_and(|port| port.has_unread()) {
                break;
            }
            self.receive(slot);
        }
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
