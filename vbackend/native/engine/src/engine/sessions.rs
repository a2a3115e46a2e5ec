//! Sessions and captures of ports: descriptors move in here.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use vbackend_proto::adapter;
use vbackend_proto::framing::check_len;
use vbackend_proto::segment::PortId;

use super::{Engine, EngineError, find_port};
use crate::capture::{Sink, Tap};
use crate::command::Command;
use crate::port::Link;
use crate::port::channel::{ChannelEnd, channel};
use crate::port::device::Tap as TapDevice;
use crate::port::dgram::{Dgram, Peering};
use crate::port::stream::Stream;
use crate::port::unit::{ReaderKind, UnitLink, reader_of};
use crate::sys::SocketAddress;
use crate::unit::SharedUnit;

impl Engine {
    /// Start a session on a connected stream socket; returns the session's number.
    ///
    /// # Errors
    /// Unknown port, a session runs, or the kernel refused the descriptor.
    pub fn attach_stream(&self, port: PortId, fd: OwnedFd) -> Result<u64, EngineError> {
        self.attach(port, Link::Stream(Stream::new(fd)?))
    }

    /// Start a session on a bound datagram socket. Addresses as in `SocketAddress::from_str`.
    ///
    /// # Errors
    /// As for `attach_stream`; an address that does not parse.
    pub fn attach_dgram(
        &self,
        port: PortId,
        fd: OwnedFd,
        send_to: Option<&str>,
        accept_from: Option<&str>,
        send: Option<OwnedFd>,
    ) -> Result<u64, EngineError> {
        let parse = |text: Option<&str>| {
            text.map(str::parse::<SocketAddress>).transpose().map_err(EngineError::Invalid)
        };
        let peering = Peering { send_to: parse(send_to)?, accept_from: parse(accept_from)?, send };
        self.attach(port, Link::Dgram(Box::new(Dgram::new(fd, peering)?)))
    }

    /// Start a session on an attached tap. With `vnet_hdr` frames have a virtio-net header of 12 bytes and the host takes
    /// offloads, those of UDP segments only with `uso`.
    ///
    /// # Errors
    /// As for `attach_stream`.
    pub fn attach_tap(
        &self,
        port: PortId,
        fd: OwnedFd,
        vnet_hdr: bool,
        uso: bool,
    ) -> Result<u64, EngineError> {
        self.attach(port, Link::Tap(TapDevice::new(fd, vnet_hdr, uso)?))
    }

    /// Make a port the far side of a tun unit; returns the session's number. It lasts until the port is detached.
    ///
    /// # Errors
    /// Unknown port, or a session runs.
    pub fn attach_unit(
        &self,
        port: PortId,
        unit: Arc<SharedUnit>,
        config: adapter::Config,
    ) -> Result<u64, EngineError> {
        let shared = Arc::clone(&find_port(&*self.open()?, port)?.shared);
        self.attach(port, Link::Unit(Box::new(UnitLink::new(unit, config, shared))))
    }

    /// Change addresses and mode of a unit's adapter; what it has learned stays.
    ///
    /// # Errors
    /// Unknown port, or no unit's.
    pub fn configure_unit(&self, port: PortId, config: adapter::Config) -> Result<(), EngineError> {
        self.ask(port, Command::ConfigureUnit(port, Box::new(config))).map(drop)
    }

    /// Let the engine be the reader and writer of a port's unit, on a descriptor; returns the session's number. To be
    /// called before the unit is opened.
    ///
    /// # Errors
    /// Unknown port, no unit's, it has a reader already, or the kernel refused the descriptor.
    pub fn attach_reader(&self, port: PortId, fd: OwnedFd, kind: ReaderKind) -> Result<u64, EngineError> {
        self.ask(port, Command::AttachReader(port, Box::new(reader_of(fd, kind)?)))
    }

    /// Tell each refused write of a unit's reader on a socket, as a line of text; None: do not.
    ///
    /// # Errors
    /// Unknown port, or no unit's.
    pub fn report_errors(&self, port: PortId, fd: Option<OwnedFd>) -> Result<(), EngineError> {
        self.ask(port, Command::ReportErrors(port, fd)).map(drop)
    }

    /// End the engine's reading of a port's unit in order, if it does.
    ///
    /// # Errors
    /// Unknown port, or no unit's.
    pub fn detach_reader(&self, port: PortId) -> Result<(), EngineError> {
        self.ask(port, Command::DetachReader(port)).map(drop)
    }

    /// Start a session whose peer is the program.
    ///
    /// # Errors
    /// As for `attach_stream`.
    pub fn attach_channel(&self, port: PortId) -> Result<ChannelEnd, EngineError> {
        let (shared, limits) = {
            let state = self.open()?;
            let entry = find_port(&state, port)?;
            (Arc::clone(&entry.shared), entry.config.limits)
        };
        let (engine_end, program_end) = channel(shared, limits)?;
        self.attach(port, Link::Channel(engine_end))?;
        Ok(program_end)
    }

    pub(super) fn attach(&self, port: PortId, link: Link) -> Result<u64, EngineError> {
        self.ask(port, Command::Attach(port, Box::new(link)))
    }

    /// End a port's session in order, if it has one.
    ///
    /// # Errors
    /// Unknown port.
    pub fn detach(&self, port: PortId) -> Result<(), EngineError> {
        self.ask(port, Command::Detach(port)).map(drop)
    }

    /// Forward a frame as if the port's peer had sent it.
    ///
    /// # Errors
    /// Unknown port; a frame that is too short or too long.
    pub fn inject(&self, port: PortId, frame: &[u8]) -> Result<(), EngineError> {
        check_len(frame.len()).map_err(|reason| {
            EngineError::Invalid(format!("a frame of {} bytes: {}", frame.len(), reason.text()))
        })?;
        self.ask(port, Command::Inject(port, frame.to_vec())).map(drop)
    }

    /// Begin to capture a port's frames.
    ///
    /// # Errors
    /// Unknown port.
    pub fn capture_start(&self, port: PortId, tap: Tap) -> Result<(), EngineError> {
        self.ask(port, Command::StartCapture(port, tap)).map(drop)
    }

    /// End a port's part in the capture into `sink`, if it has one.
    ///
    /// # Errors
    /// Unknown port.
    pub fn capture_stop(&self, port: PortId, sink: &Arc<Sink>) -> Result<(), EngineError> {
        self.ask(port, Command::StopCapture(port, Arc::clone(sink))).map(drop)
    }
}
