//! vhost-user: a guest's virtqueues in shared memory. The control socket is Python's; here are the rings.
//!
//! ```text
//!   kicks ──► epoll of the session ──► receive.rs   chains of odd rings, copied to the worker's buffer
//!   frames for the guest           ──► transmit.rs  chains of even rings, one publication and at most one call a turn
//! ```
//!
//! Rings are numbered as the protocol has it: 2k is received from by the guest, 2k+1 sent on. A lie stops its ring, with
//! a reason, until the front-end starts it anew; work is bounded per turn, so no guest keeps the worker from the others.

mod features;
mod receive;
mod ring;
pub mod stats;
mod steering;
mod transmit;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use vbackend_proto::framing::MAX_FRAME;
use vbackend_proto::offload::Offloads;
use vbackend_proto::vnet::VNET_HEADER_LEN;

use self::features::Features;
use self::ring::Ring;
pub use self::ring::RingPlace;
use self::stats::Stats;
use self::steering::Steering;
use crate::sys::{Call, DirtyLog, Epoll, GuestMemory, Kick, Place, Ready, Region};

/// 16 pairs.
pub const MOST_RINGS: usize = 32;

/// The longest chain of a guest: a frame behind its header.
#[allow(clippy::cast_possible_truncation, reason = "70 KiB")]
const MOST_BYTES: u32 = (MAX_FRAME + VNET_HEADER_LEN) as u32;

/// What the control thread asks of a session.
pub enum VhostCommand {
    /// These features were acknowledged.
    Features(u64),
    /// This is all of the guest's memory.
    SetMemory(Vec<Region>),
    /// The guest has more memory.
    AddMemory(Region),
    /// Or less.
    RemoveMemory(Place),
    /// A ring begins.
    Start(usize, RingPlace),
    /// A ring ends; the answer is its base, or [`NOT_RUNNING`].
    Stop(usize),
    /// Frames of a ring move, or not.
    Enable(usize, bool),
    /// Where the front-end kicks.
    SetKick(usize, Option<Kick>),
    /// Where it is called.
    SetCall(usize, Option<Call>),
    /// Where it hears of a failure.
    SetErr(usize, Option<Call>),
    /// Where writes are noted.
    SetLog(Option<DirtyLog>),
    /// Where the front-end hears that some were.
    SetLogCall(Option<Call>),
}

/// The answer to a `Stop` of a ring that was not running.
pub const NOT_RUNNING: u64 = u64::MAX;

/// A ring that was stopped, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Which.
    pub ring: usize,
    /// Why.
    pub text: &'static str,
}

/// A session with a front-end.
pub struct Vhost {
    epoll: Epoll, // kicks of all rings, by edges: it is readable while there is one we have not seen
    ready: Vec<Ready>,
    memory: GuestMemory,
    features: Features,
    offloads: Offloads,
    rings: Vec<Ring>,
    log: Option<DirtyLog>,
    log_call: Option<Call>,
    steering: Steering,
    next: usize,    // the pair whose turn to send it is
    blocked: usize, // the pair whose buffers frames wait for, while some do
    expected: usize,
    polling: Polling,
    more: bool,         // there is work that no kick announces
    room: bool,         // the guest may have given buffers that frames wait for
    lies: Vec<Trouble>, // of rings that are stopped once what they gave before is done with
    troubles: Vec<Trouble>,
    stats: Arc<Stats>,
}

/// Looking again for a while before waiting for kicks.
struct Polling {
    limit_us: u64,
    since_us: u64,
}

impl Vhost {
    /// A session that has neither memory nor rings yet.
    ///
    /// # Errors
    /// No epoll to be had.
    pub fn new(busy_poll_us: u64, stats: Arc<Stats>) -> io::Result<Vhost> {
        Ok(Vhost {
            epoll: Epoll::new()?,
            ready: Vec::new(),
            memory: GuestMemory::default(),
            features: Features::default(),
            offloads: Offloads::NONE,
            rings: Vec::new(),
            log: None,
            log_call: None,
            steering: Steering::default(),
            next: 0,
            blocked: 0,
            expected: 0,
            polling: Polling { limit_us: busy_poll_us, since_us: 0 },
            more: false,
            room: false,
            lies: Vec::new(),
            troubles: Vec::new(),
            stats,
        })
    }

    /// Readable while a kick was not looked at.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// What the guest takes.
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Whether `receive` is to be called again without a kick.
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// Whether the guest may have given buffers since the last time this was asked.
    pub fn take_room(&mut self) -> bool {
        std::mem::take(&mut self.room)
    }

    /// Rings that were stopped since the last time this was asked.
    pub fn take_troubles(&mut self) -> Vec<Trouble> {
        std::mem::take(&mut self.troubles)
    }

    /// Carry out a command; the answer is a number, or what is wrong.
    ///
    /// # Errors
    /// What makes no sense is refused with a text, and changes nothing.
    pub fn execute(&mut self, command: VhostCommand) -> Result<u64, String> {
        self.more = true; // whatever it was, look at the rings
        self.room = true;
        self.rings.iter_mut().for_each(Ring::give_back); // what is held lies in memory as it was
        match command {
            VhostCommand::Features(bits) => {
                self.features = Features(bits);
                self.offloads = Offloads::from_virtio_guest_features(bits);
            }
            VhostCommand::SetMemory(regions) => self.set_memory(regions)?,
            VhostCommand::AddMemory(region) => {
                let mut regions = self.memory.regions().to_vec();
                regions.push(region);
                self.set_memory(regions)?;
            }
            VhostCommand::RemoveMemory(place) => {
                let mut regions = self.memory.regions().to_vec();
                let before = regions.len();
                regions.retain(|region| region.place() != place);
                if regions.len() == before {
                    return Err(format!("there is no region of {} bytes at {:#x}", place.size, place.guest));
                }
                self.set_memory(regions)?;
            }
            VhostCommand::Start(index, place) => {
                let (features, memory) = (self.features, self.memory.clone());
                self.ring(index)?.start(place, features, &memory)?;
                let log = self.log.as_ref().filter(|_| features.log_all());
                self.rings[index].begin(&self.memory, log);
            }
            VhostCommand::Stop(index) => {
                self.ring(index)?;
                let log = self.log.as_ref().filter(|_| self.features.log_all());
                let base = self.rings[index].stop(&self.memory, log);
                self.publish(index);
                return Ok(base.map_or(NOT_RUNNING, u64::from));
            }
            VhostCommand::Enable(index, enabled) => self.ring(index)?.enabled = enabled,
            VhostCommand::SetKick(index, kick) => self.set_kick(index, kick)?,
            VhostCommand::SetCall(index, call) => {
                let ring = self.ring(index)?;
                ring.call = call;
                // What was completed without a call, or on the old one, is announced on the new one.
                if let (Some(call), true) = (&ring.call, ring.is_running()) {
                    call.signal();
                }
            }
            VhostCommand::SetErr(index, err) => self.ring(index)?.err = err,
            VhostCommand::SetLog(log) => self.log = log,
            VhostCommand::SetLogCall(call) => self.log_call = call,
        }
        (0..self.rings.len()).for_each(|index| self.publish(index));
        Ok(0)
    }

    fn ring(&mut self, index: usize) -> Result<&mut Ring, String> {
        if index >= MOST_RINGS {
            return Err(format!("ring {index}: the last one is {}", MOST_RINGS - 1));
        }
        if self.rings.len() <= index {
            self.rings.resize_with(index + 1, Ring::default);
        }
        Ok(&mut self.rings[index])
    }

    /// Swap the memory under running rings. They go on where they were, or are stopped when they are not in it.
    fn set_memory(&mut self, regions: Vec<Region>) -> Result<(), String> {
        let memory = GuestMemory::new(regions)
            .map_err(|at| format!("the region at {at:#x} overlaps with another one"))?;
        let log = self.log.as_ref().filter(|_| self.features.log_all());
        for (index, ring) in self.rings.iter_mut().enumerate() {
            if !ring.move_to(&memory, &self.memory, log) {
                self.troubles.push(Trouble { ring: index, text: "its memory was taken away" });
            }
        }
        self.memory = memory; // no area of the old one is left: `execute` emptied the batches
        Ok(())
    }

    fn set_kick(&mut self, index: usize, kick: Option<Kick>) -> Result<(), String> {
        let old = self.ring(index)?.kick.take();
        if let Some(old) = &old {
            let _unwatched = self.epoll.remove(old.as_fd());
        }
        if let Some(new) = &kick {
            let added = self.epoll.add_edge(new.as_fd(), index as u64);
            added.map_err(|error| format!("the kick descriptor of ring {index}: {error}"))?;
        }
        self.rings[index].kick = kick;
        Ok(())
    }

    /// See which rings were kicked since the last look.
    fn take_kicks(&mut self) {
        // The only failure is a descriptor that is none, and this one is ours.
        if self.epoll.wait(Some(0), &mut self.ready).is_err() {
            return;
        }
        for ready in &self.ready {
            let Ok(index) = usize::try_from(ready.token) else { continue };
            if let Some(ring) = self.rings.get_mut(index) {
                ring.kicks += 1;
                self.room |= index.is_multiple_of(2);
            }
        }
    }

    /// A ring lied: stop it.
    fn fail(&mut self, ring: usize, text: &'static str) {
        let log = self.log.as_ref().filter(|_| self.features.log_all());
        self.rings[ring].fail(&self.memory, log);
        self.troubles.push(Trouble { ring, text });
        self.publish(ring);
    }

    /// Tell the front-end that pages were noted since the last time.
    fn call_for_log(&self) {
        if let (Some(log), Some(call)) = (&self.log, &self.log_call)
            && log.take_news()
        {
            call.signal();
        }
    }

    fn publish(&self, index: usize) {
        self.stats.publish(index, self.rings[index].info());
    }
}

/// Take over a descriptor for kicks.
///
/// # Errors
/// It is neither an eventfd nor a pipe or socket.
pub fn kick(fd: Option<OwnedFd>) -> io::Result<Option<Kick>> {
    fd.map(Kick::new).transpose()
}

/// Take over a descriptor for calls or errors.
///
/// # Errors
/// As [`kick`].
pub fn call(fd: Option<OwnedFd>) -> io::Result<Option<Call>> {
    fd.map(Call::new).transpose()
}
