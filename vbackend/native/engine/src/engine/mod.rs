//! The engine as its owner sees it: ports, segments, sessions, counters. Python calls nothing else.

mod impairments;
mod sessions;
pub mod vhost;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use vbackend_proto::fdb::{Fdb, FdbEntry};
use vbackend_proto::queue::Limits;
use vbackend_proto::segment::{JoinError, Member, PortId, Segment};
use vbackend_proto::shaper::Rate;

use crate::command::{Command, CommandError, Event, Events, Request, SharedSegment, lock};
use crate::counters::Counters;
use crate::port::Port;
use crate::port::impaired::Tally;
use crate::port::vhost::stats::Stats;
use crate::shared::{PortShared, Waker};
use crate::sys;
use crate::worker::Worker;
use crate::worker::table::slot_of;

/// Why a call failed.
#[derive(Debug)]
pub enum EngineError {
    /// No port or segment of that number.
    Unknown(String),
    /// The call makes no sense as things are, or an argument is wrong.
    Invalid(String),
    /// The kernel refused.
    Io(io::Error),
    /// The engine is closed, or the worker died.
    Dead(&'static str),
}

impl From<io::Error> for EngineError {
    fn from(error: io::Error) -> EngineError {
        EngineError::Io(error)
    }
}

/// What a port begins with.
#[derive(Clone, Copy, Debug)]
pub struct PortConfig {
    /// Of its output queue.
    pub limits: Limits,
    /// The only source address its peer may use.
    pub source: Option<[u8; 6]>,
    /// Isolated ports of a switch do not reach each other.
    pub isolated: bool,
    /// The worker it shall live on; None: the one with the fewest ports.
    pub worker: Option<usize>,
}

struct WorkerHandle {
    waker: Arc<Waker>,
    thread: JoinHandle<()>,
    ports: usize,
}

struct PortEntry {
    shared: Arc<PortShared>,
    config: PortConfig,
    segment: Option<u64>,
    rings: Option<Arc<Stats>>, // of the newest vhost-user session
    impairment: Option<Arc<Tally>>,
}

/// Ports by slot; a slot's generation makes its next port's number another one.
#[derive(Default)]
struct State {
    ports: BTreeMap<PortId, PortEntry>,
    generations: Vec<u64>,
    segments: BTreeMap<u64, SharedSegment>,
    segments_made: u64,
    workers: Vec<WorkerHandle>,
    closed: bool,
}

/// Worker threads and what they move frames between.
pub struct Engine {
    state: Mutex<State>,
    events: Arc<Events>,
    workers: usize,
    seed: u64,
}

impl Engine {
    /// Start `workers` threads. `seed` protects the switches' tables from chosen addresses.
    ///
    /// # Errors
    /// No worker, too many, or no thread or descriptor to be had.
    pub fn new(workers: usize, seed: u64) -> Result<Engine, EngineError> {
        const MOST_WORKERS: usize = 64;
        if !(1..=MOST_WORKERS).contains(&workers) {
            return Err(EngineError::Invalid(format!("{workers} workers; 1 to {MOST_WORKERS} are possible")));
        }
        let events = Arc::new(Events::new()?);
        let engine =
            Engine { state: Mutex::new(State::default()), events: Arc::clone(&events), workers, seed };
        for index in 0..workers {
            let waker = Arc::new(Waker::new()?);
            let worker = Worker::new(index, Arc::clone(&waker), Arc::clone(&events))?;
            let thread =
                std::thread::Builder::new().name(format!("vbackend-{index}")).spawn(move || worker.run())?;
            lock(&engine.state).workers.push(WorkerHandle { waker, thread, ports: 0 });
        }
        Ok(engine)
    }

    /// How many workers there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Readable while [`Engine::drain_events`] has something.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// What workers reported since the last call.
    #[must_use]
    pub fn drain_events(&self) -> Vec<Event> {
        self.events.drain()
    }

    /// Add a learning switch; returns its number. With no entries, or no age, it floods everything.
    ///
    /// # Errors
    /// The engine is closed, or the table would be too large.
    pub fn add_switch(&self, ageing_ms: u64, max_entries: usize) -> Result<u64, EngineError> {
        const MOST_ENTRIES: usize = 1 << 20;
        if max_entries > MOST_ENTRIES {
            return Err(EngineError::Invalid(format!(
                "a table of {max_entries} addresses; at most {MOST_ENTRIES} are possible"
            )));
        }
        self.add_segment(Segment::switch(Fdb::new(max_entries, ageing_ms, self.seed)))
    }

    /// Add a cable; returns its number.
    ///
    /// # Errors
    /// The engine is closed.
    pub fn add_cable(&self) -> Result<u64, EngineError> {
        self.add_segment(Segment::cable())
    }

    fn add_segment(&self, segment: Segment) -> Result<u64, EngineError> {
        let mut state = self.open()?;
        state.segments_made += 1;
        let number = state.segments_made;
        state.segments.insert(number, Arc::new(Mutex::new(segment)));
        Ok(number)
    }

    /// Remove a segment without ports.
    ///
    /// # Errors
    /// Unknown, or ports are joined.
    pub fn remove_segment(&self, segment: u64) -> Result<(), EngineError> {
        let mut state = self.open()?;
        let members = lock(find_segment(&state, segment)?).members().len();
        if members > 0 {
            return Err(EngineError::Invalid(format!("segment {segment} still has {members} ports")));
        }
        state.segments.remove(&segment);
        Ok(())
    }

    /// Learned addresses, sorted, with their ages in ms.
    ///
    /// # Errors
    /// Unknown segment.
    pub fn fdb(&self, segment: u64) -> Result<Vec<(FdbEntry, u64)>, EngineError> {
        let now_ms = sys::monotonic_ms();
        let state = self.open()?;
        let entries = lock(find_segment(&state, segment)?).entries(now_ms);
        Ok(entries.into_iter().map(|entry| (entry, now_ms.saturating_sub(entry.seen_ms))).collect())
    }

    /// Add a port without a session; returns its number.
    ///
    /// # Errors
    /// No such worker, or the engine is closed.
    pub fn add_port(&self, config: PortConfig) -> Result<PortId, EngineError> {
        let mut state = self.open()?;
        let emptiest = (0..self.workers).min_by_key(|index| state.workers[*index].ports).unwrap_or(0);
        let worker = config.worker.unwrap_or(emptiest);
        if worker >= self.workers {
            return Err(EngineError::Invalid(format!("no worker {worker}; there are {}", self.workers)));
        }
        let id = state.next_id();
        let waker = Arc::clone(&state.workers[worker].waker);
        let shared = Arc::new(PortShared::new(id, worker, waker, config.limits));
        for index in (0..self.workers).filter(|index| *index != worker) {
            call(&state.workers[index].waker, Command::AddRemote(Arc::clone(&shared)))?;
        }
        let port = Box::new(Port::new(Arc::clone(&shared), config.source, config.limits));
        call(&state.workers[worker].waker, Command::AddLocal(port))?;
        state.workers[worker].ports += 1;
        state.ports.insert(id, PortEntry { shared, config, segment: None, rings: None, impairment: None });
        Ok(id)
    }

    /// End a port's session in order, take it off its segment, forget it.
    ///
    /// # Errors
    /// Unknown port.
    pub fn remove_port(&self, port: PortId) -> Result<(), EngineError> {
        let mut state = self.open()?;
        let entry = find_port(&state, port)?;
        let home = entry.shared.worker;
        // The session first, while what it drains still has a way to go.
        call(&state.workers[home].waker, Command::Detach(port))?;
        leave(&mut state, port)?;
        for index in std::iter::once(home).chain((0..self.workers).filter(|index| *index != home)) {
            call(&state.workers[index].waker, Command::Remove(port))?;
        }
        state.workers[home].ports -= 1;
        state.ports.remove(&port);
        Ok(())
    }

    /// Put a port on a segment.
    ///
    /// # Errors
    /// Unknown port or segment, joined already, or a cable with two ends.
    pub fn join(&self, port: PortId, segment: u64) -> Result<(), EngineError> {
        let mut state = self.open()?;
        let shared_segment = Arc::clone(find_segment(&state, segment)?);
        let entry = find_port(&state, port)?;
        if let Some(other) = entry.segment {
            return Err(EngineError::Invalid(format!("port {} is on segment {other} already", port.0)));
        }
        let member = Member { port, isolated: entry.config.isolated };
        lock(&shared_segment).join(member).map_err(|error| match error {
            JoinError::CableFull => EngineError::Invalid("a cable joins two ports, this one has both".into()),
            JoinError::Twice => EngineError::Invalid(format!("port {} is on that segment already", port.0)),
        })?;
        call(state.waker_of(port)?, Command::SetSegment(port, Some(shared_segment)))?;
        if let Some(entry) = state.ports.get_mut(&port) {
            entry.segment = Some(segment);
        }
        Ok(())
    }

    /// Take a port off its segment, if it is on one.
    ///
    /// # Errors
    /// Unknown port.
    pub fn leave(&self, port: PortId) -> Result<(), EngineError> {
        let mut state = self.open()?;
        leave(&mut state, port)
    }

    /// Forget the addresses learned at a port.
    ///
    /// # Errors
    /// Unknown port.
    pub fn unlearn(&self, port: PortId) -> Result<(), EngineError> {
        let state = self.open()?;
        if let Some(segment) = find_port(&state, port)?.segment {
            lock(find_segment(&state, segment)?).flush(port);
        }
        Ok(())
    }

    /// Change a port's admin state.
    ///
    /// # Errors
    /// Unknown port.
    pub fn set_up(&self, port: PortId, up: bool) -> Result<(), EngineError> {
        self.ask(port, Command::SetUp(port, up)).map(drop)
    }

    /// Change a port's queue limits; None leaves one as it is.
    ///
    /// # Errors
    /// Unknown port.
    pub fn set_limits(
        &self,
        port: PortId,
        frames: Option<usize>,
        bytes: Option<usize>,
    ) -> Result<(), EngineError> {
        let mut state = self.open()?;
        let mut limits = find_port(&state, port)?.config.limits;
        limits = Limits { frames: frames.unwrap_or(limits.frames), bytes: bytes.unwrap_or(limits.bytes) };
        call(state.waker_of(port)?, Command::SetLimits(port, limits))?;
        if let Some(entry) = state.ports.get_mut(&port) {
            entry.config.limits = limits;
        }
        Ok(())
    }

    /// Limit the rate of what goes to a port's peer, or (None) end the limit. Frames wait in the port's queue.
    ///
    /// # Errors
    /// Unknown port.
    pub fn set_rate(&self, port: PortId, rate: Option<Rate>) -> Result<(), EngineError> {
        self.ask(port, Command::SetRate(port, rate)).map(drop)
    }

    /// A port's counters at this moment.
    ///
    /// # Errors
    /// Unknown port.
    pub fn counters(&self, port: PortId) -> Result<Counters, EngineError> {
        let state = self.open()?;
        Ok(find_port(&state, port)?.shared.counters())
    }

    /// End all sessions in order and stop the threads. A second call does nothing.
    pub fn close(&self) {
        let mut state = lock(&self.state);
        let state = std::mem::replace(&mut *state, State { closed: true, ..State::default() });
        for worker in state.workers {
            // A dead worker answers neither; its panic was reported as an event.
            let _dead = call(&worker.waker, Command::Stop);
            let _dead = worker.thread.join();
        }
    }

    fn ask(&self, port: PortId, command: Command) -> Result<u64, EngineError> {
        let state = self.open()?;
        call(state.waker_of(port)?, command)
    }

    fn open(&self) -> Result<std::sync::MutexGuard<'_, State>, EngineError> {
        let state = lock(&self.state);
        if state.closed { Err(EngineError::Dead("the engine is closed")) } else { Ok(state) }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

impl State {
    /// A number for the next port: the lowest free slot, with a generation of its own.
    fn next_id(&mut self) -> PortId {
        let used: Vec<usize> = self.ports.keys().map(|id| slot_of(*id)).collect();
        let slot =
            (0..self.generations.len()).find(|slot| !used.contains(slot)).unwrap_or(self.generations.len());
        if slot == self.generations.len() {
            self.generations.push(0);
        }
        self.generations[slot] += 1;
        PortId(self.generations[slot] << 32 | slot as u64)
    }

    fn waker_of(&self, port: PortId) -> Result<&Arc<Waker>, EngineError> {
        Ok(&self.workers[find_port(self, port)?.shared.worker].waker)
    }
}

fn find_port(state: &State, port: PortId) -> Result<&PortEntry, EngineError> {
    state.ports.get(&port).ok_or_else(|| EngineError::Unknown(format!("no port {}", port.0)))
}

fn find_segment(state: &State, segment: u64) -> Result<&SharedSegment, EngineError> {
    state.segments.get(&segment).ok_or_else(|| EngineError::Unknown(format!("no segment {segment}")))
}

fn leave(state: &mut State, port: PortId) -> Result<(), EngineError> {
    let Some(segment) = find_port(state, port)?.segment else {
        return Ok(());
    };
    call(state.waker_of(port)?, Command::SetSegment(port, None))?;
    lock(find_segment(state, segment)?).leave(port);
    if let Some(entry) = state.ports.get_mut(&port) {
        entry.segment = None;
    }
    Ok(())
}

/// Ask a worker and wait for its answer, at most a turn away.
fn call(waker: &Waker, command: Command) -> Result<u64, EngineError> {
    let (answer, result) = sync_channel(1);
    waker.request(Request { command, answer });
    match result.recv() {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(CommandError::UnknownPort)) => Err(EngineError::Unknown("the port is gone".into())),
        Ok(Err(CommandError::Busy)) => {
            Err(EngineError::Invalid("the port has a session; detach it first".into()))
        }
        Ok(Err(CommandError::NoUnit)) => Err(EngineError::Invalid("the port is no tun unit's".into())),
        Ok(Err(CommandError::NoVhost)) => {
            Err(EngineError::Invalid("the port has no vhost-user session".into()))
        }
        Ok(Err(CommandError::Refused(text))) => Err(EngineError::Invalid(text)),
        Ok(Err(CommandError::Io(error))) => Err(EngineError::Io(error)),
        Err(_) => Err(EngineError::Dead("the worker of that port died")),
    }
}
