//! vhost-user sessions: what Python decided about a front-end's memory and rings is carried out here.
//!
//! Descriptors are looked at and memory is mapped by the caller's thread; the port's worker only swaps.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use vbackend_proto::segment::PortId;

use super::{Engine, EngineError, find_port};
use crate::command::Command;
use crate::port::Link;
use crate::port::vhost::stats::{RingInfo, Stats};
use crate::port::vhost::{NOT_RUNNING, RingPlace, Vhost, VhostCommand, call, kick};
use crate::sys::{DirtyLog, Place, Region};

/// A region as a front-end describes it.
pub struct RegionFile {
    /// Where it lies.
    pub place: Place,
    /// Where it begins in the file.
    pub offset: u64,
    /// The file.
    pub fd: OwnedFd,
}

impl RegionFile {
    fn map(&self) -> Result<Region, EngineError> {
        Region::map(self.place, self.fd.as_fd(), self.offset).map_err(|error| {
            wrong(error, &format!("memory of {} bytes at {:#x}", self.place.size, self.place.guest))
        })
    }
}

/// An argument that is wrong by itself, or what the kernel says of it.
fn wrong(error: io::Error, what: &str) -> EngineError {
    match error.raw_os_error() {
        None => EngineError::Invalid(format!("{what}: {error}")),
        Some(_) => EngineError::Io(error),
    }
}

impl Engine {
    /// Start a session without memory and rings; returns its number. It lasts until the port is detached, or the
    /// memory's file is truncated.
    ///
    /// # Errors
    /// Unknown port, a session runs, or no descriptor to be had.
    pub fn attach_vhost(&self, port: PortId, busy_poll_us: u64) -> Result<u64, EngineError> {
        let stats = Arc::new(Stats::default());
        let session =
            self.attach(port, Link::Vhost(Box::new(Vhost::new(busy_poll_us, Arc::clone(&stats))?)))?;
        if let Some(entry) = self.open()?.ports.get_mut(&port) {
            entry.rings = Some(stats);
        }
        Ok(session)
    }

    /// The rings of a port's newest session, by number; none if it never had one.
    ///
    /// # Errors
    /// Unknown port.
    pub fn vhost_rings(&self, port: PortId) -> Result<Vec<RingInfo>, EngineError> {
        let state = self.open()?;
        Ok(find_port(&state, port)?.rings.as_ref().map_or_else(Vec::new, |stats| stats.read()))
    }

    /// The features that the front-end acknowledged.
    ///
    /// # Errors
    /// Unknown port, or no session.
    pub fn vhost_features(&self, port: PortId, features: u64) -> Result<(), EngineError> {
        self.vhost(port, VhostCommand::Features(features)).map(drop)
    }

    /// All of the guest's memory; what was before is unmapped.
    ///
    /// # Errors
    /// A region that is empty, wraps around, is not in its file or overlaps; the kernel refused. Nothing changed then.
    pub fn vhost_set_memory(&self, port: PortId, files: &[RegionFile]) -> Result<(), EngineError> {
        let regions = files.iter().map(RegionFile::map).collect::<Result<_, _>>()?;
        self.vhost(port, VhostCommand::SetMemory(regions)).map(drop)
    }

    /// One more region.
    ///
    /// # Errors
    /// As [`Engine::vhost_set_memory`].
    pub fn vhost_add_memory(&self, port: PortId, file: &RegionFile) -> Result<(), EngineError> {
        self.vhost(port, VhostCommand::AddMemory(file.map()?)).map(drop)
    }

    /// One region less.
    ///
    /// # Errors
    /// There is none at that place.
    pub fn vhost_remove_memory(&self, port: PortId, place: Place) -> Result<(), EngineError> {
        self.vhost(port, VhostCommand::RemoveMemory(place)).map(drop)
    }

    /// Start a ring; one that runs is stopped first.
    ///
    /// # Errors
    /// It makes no sense: not in memory, misaligned, a wrong size.
    pub fn vhost_start_ring(&self, port: PortId, ring: usize, place: RingPlace) -> Result<(), EngineError> {
        self.vhost(port, VhostCommand::Start(ring, place)).map(drop)
    }

    /// Stop a ring; the base to continue from, None when it was not running. Of one that was stopped for a lie this tells
    /// it once.
    ///
    /// # Errors
    /// No such ring.
    pub fn vhost_stop_ring(&self, port: PortId, ring: usize) -> Result<Option<u32>, EngineError> {
        let base = self.vhost(port, VhostCommand::Stop(ring))?;
        Ok((base != NOT_RUNNING).then_some(u32::try_from(base).unwrap_or(0)))
    }

    /// Let the frames of a ring move, or not. Kept while it is stopped and started.
    ///
    /// # Errors
    /// No such ring.
    pub fn vhost_enable_ring(&self, port: PortId, ring: usize, enabled: bool) -> Result<(), EngineError> {
        self.vhost(port, VhostCommand::Enable(ring, enabled)).map(drop)
    }

    /// Where the front-end kicks; None: the ring is polled.
    ///
    /// # Errors
    /// No such ring; neither an eventfd nor a pipe or socket.
    pub fn vhost_set_kick(&self, port: PortId, ring: usize, fd: Option<OwnedFd>) -> Result<(), EngineError> {
        let kick = kick(fd).map_err(|error| wrong(error, "kick descriptor"))?;
        self.vhost(port, VhostCommand::SetKick(ring, kick)).map(drop)
    }

    /// Where the front-end is called; None: it does not want to be.
    ///
    /// # Errors
    /// As [`Engine::vhost_set_kick`].
    pub fn vhost_set_call(&self, port: PortId, ring: usize, fd: Option<OwnedFd>) -> Result<(), EngineError> {
        let call = call(fd).map_err(|error| wrong(error, "call descriptor"))?;
        self.vhost(port, VhostCommand::SetCall(ring, call)).map(drop)
    }

    /// Where the front-end hears that a ring was stopped for a lie.
    ///
    /// # Errors
    /// As [`Engine::vhost_set_kick`].
    pub fn vhost_set_err(&self, port: PortId, ring: usize, fd: Option<OwnedFd>) -> Result<(), EngineError> {
        let err = call(fd).map_err(|error| wrong(error, "error descriptor"))?;
        self.vhost(port, VhostCommand::SetErr(ring, err)).map(drop)
    }

    /// Note writes to guest memory in a log of `size` bytes from `offset` on in a file, or (None) nowhere.
    ///
    /// # Errors
    /// The log is empty or not in its file; the kernel refused.
    pub fn vhost_set_log(
        &self,
        port: PortId,
        size: u64,
        offset: u64,
        fd: Option<&OwnedFd>,
    ) -> Result<(), EngineError> {
        let log = fd.map(|fd| DirtyLog::map(fd.as_fd(), offset, size)).transpose();
        let log = log.map_err(|error| wrong(error, "dirty log"))?;
        self.vhost(port, VhostCommand::SetLog(log)).map(drop)
    }

    /// Where the front-end hears that the log changed, at most twice a turn; None: it looks itself.
    ///
    /// # Errors
    /// As [`Engine::vhost_set_kick`].
    pub fn vhost_set_log_call(&self, port: PortId, fd: Option<OwnedFd>) -> Result<(), EngineError> {
        let call = call(fd).map_err(|error| wrong(error, "log descriptor"))?;
        self.vhost(port, VhostCommand::SetLogCall(call)).map(drop)
    }

    fn vhost(&self, port: PortId, command: VhostCommand) -> Result<u64, EngineError> {
        self.ask(port, Command::Vhost(port, Box::new(command)))
    }
}
