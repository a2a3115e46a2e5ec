//! The session's descriptor and what it speaks: one variant per kind of attachment, one call per arm.

use std::os::fd::BorrowedFd;

use vbackend_proto::framing::Run;
use vbackend_proto::offload::Offloads;

use super::{Outgoing, Scratch, channel, device, dgram, stream, unit, vhost};
use crate::command::End;
use crate::counters::Lane;

/// How a port talks to its peer, while it has one.
pub enum Link {
    /// QEMU's `-netdev stream`: a length and a frame, again and again.
    Stream(stream::Stream),
    /// One datagram is one frame.
    Dgram(Box<dgram::Dgram>),
    /// A tap device of the host.
    Tap(device::Tap),
    /// A tun unit behind an Ethernet adapter.
    Unit(Box<unit::UnitLink>),
    /// A guest's virtqueues.
    Vhost(Box<vhost::Vhost>),
    /// Python.
    Channel(channel::EngineEnd),
}

impl Link {
    /// Receive what there is, within the budget. Good frames are `scratch.runs` of `scratch.wire`; the others are
    /// counted in `rx`. An end takes effect after what was received in front of it.
    pub fn receive(&mut self, scratch: &mut Scratch, rx: &mut Lane, now_ms: u64) -> Result<(), End> {
        match self {
            Link::Stream(link) => link.receive(scratch, rx),
            Link::Dgram(link) => link.receive(scratch, rx),
            Link::Tap(link) => link.receive(scratch, rx),
            Link::Unit(link) => link.receive(scratch, rx, now_ms),
            Link::Vhost(link) => link.receive(scratch, rx),
            Link::Channel(link) => link.receive(scratch, rx),
        }
    }

    /// Send frames; what the peer does not take now goes to `queue`, what does not fit there is dropped.
    pub fn transmit(&mut self, wire: &[u8], runs: &[Run], out: &mut Outgoing<'_>) -> Result<(), End> {
        match self {
            Link::Stream(link) => link.transmit(wire, runs, out),
            Link::Dgram(link) => link.transmit(wire, runs, out),
            Link::Tap(link) => link.transmit(wire, runs, out),
            Link::Unit(link) => link.transmit(wire, runs, out),
            Link::Vhost(link) => link.transmit(wire, runs, out),
            Link::Channel(link) => {
                link.transmit(wire, runs, out);
                Ok(())
            }
        }
    }

    /// Send from the queue, because the peer may have room again, while [`Outgoing::may_send`].
    pub fn flush(&mut self, out: &mut Outgoing<'_>) -> Result<(), End> {
        match self {
            Link::Stream(link) => link.flush(out),
            Link::Dgram(link) => link.flush(out),
            Link::Tap(link) => link.flush(out),
            Link::Unit(link) => link.flush(out),
            Link::Vhost(link) => link.flush(out),
            Link::Channel(link) => {
                link.flush(out);
                Ok(())
            }
        }
    }

    /// Whether the port's rate limit is the link's own business.
    pub fn limits_itself(&self) -> bool {
        matches!(self, Link::Unit(_))
    }

    /// What the peer takes of frames with work left to do (partial checksums, GSO).
    pub fn offloads(&self) -> Offloads {
        match self {
            Link::Tap(link) => link.offloads(),
            Link::Vhost(link) => link.offloads(),
            _ => Offloads::NONE,
        }
    }

    /// The descriptor to poll for reading, and for writing unless [`Link::write_fd`] names another.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Link::Stream(link) => Some(link.fd()),
            Link::Dgram(link) => Some(link.fd()),
            Link::Tap(link) => Some(link.fd()),
            Link::Unit(link) => link.fd(),
            Link::Vhost(link) => Some(link.fd()),
            Link::Channel(_) => None,
        }
    }

    /// Whether [`Link::write_fd`] is another descriptor than before.
    pub fn take_write_fd_is_new(&mut self) -> bool {
        match self {
            Link::Dgram(link) => link.take_room_is_new(),
            _ => false,
        }
    }

    /// A second descriptor that becomes writable when the peer has room, where the first one cannot tell.
    pub fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Link::Dgram(link) => link.write_fd(),
            _ => None,
        }
    }
}
