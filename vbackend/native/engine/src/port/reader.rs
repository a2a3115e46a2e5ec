//! The reader and writer of a unit that is the engine's own: a tun device of the host, or a program behind a
//! `SOCK_SEQPACKET` Unix socket. One system call's packet is one packet of the unit.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::{PREFIX_LEN, Run, frames_of};
use vbackend_proto::unit::{Unit, UnitError};
use vbackend_proto::vnet::VnetHeader;

use super::device::sent;
use super::{BUDGET, Outgoing, SLOT, Scratch, Sent};
use crate::command::End;
use crate::sys;
use crate::unit::errno;

/// Who has the device face.
pub enum Reader {
    /// An attached tun (Linux `drivers/net/tun.c`).
    Device(OwnedFd),
    /// A program.
    Socket {
        /// Its connection.
        fd: OwnedFd,
        /// Messages it has sent.
        number: u64,
    },
}

/// How much of what waits was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// All that may go.
    All,
    /// There is no room for more.
    Some,
}

/// What one look at a socket brought.
pub struct Received {
    /// How many messages lie in the scratch buffer.
    pub messages: usize,
    /// Whether there will be no more.
    pub ended: bool,
}

impl AsFd for Reader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Reader::Device(fd) | Reader::Socket { fd, .. } => fd.as_fd(),
        }
    }
}

impl Reader {
    /// Receive messages, the n-th at `n * SLOT + headroom` of the scratch buffer.
    pub fn receive(&self, scratch: &mut Scratch, headroom: usize) -> Result<Received, End> {
        let (wire, messages) = (&mut scratch.wire[..BUDGET * SLOT], &mut scratch.messages);
        let found = match sys::receive_batch(self.as_fd(), wire, SLOT, headroom, messages) {
            Ok(found) => found,
            Err(error) if sys::would_block(&error) => 0,
            // It closed with packets unread, which it may.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Ok(Received { messages: 0, ended: true });
            }
            Err(error) => return Err(error.into()),
        };
        // The end reads as an empty message, again and again; so does an empty message, which is a write to refuse.
        let trailing = (0..found).rev().take_while(|index| messages.received(*index).0 == 0).count();
        let ended = trailing > 0 && sys::is_hung_up(self.as_fd());
        Ok(Received { messages: if ended { found - trailing } else { found }, ended })
    }

    /// Count a message, and tell its sender when it was refused: its number (the first is 1), errno and what it means.
    /// A sender that does not listen hears nothing.
    pub fn report(&mut self, error: Option<UnitError>, to: Option<&OwnedFd>) {
        let Reader::Socket { number, .. } = self else { return };
        *number += 1;
        if let (Some(error), Some(fd)) = (error, to) {
            let line = format!("{number} {} {}\n", errno(error), text(error));
            let _unread = sys::send(fd.as_fd(), line.as_bytes());
        }
    }

    /// Give the reader what may leave `if_snd`, until it has no room.
    pub fn flush(&mut self, unit: &mut Unit, out: &mut Outgoing<'_>) -> Result<Taken, End> {
        match self {
            Reader::Device(fd) => flush_device(fd.as_fd(), unit, out),
            Reader::Socket { fd, .. } => flush_socket(fd.as_fd(), unit, out),
        }
    }
}

fn flush_device(fd: BorrowedFd<'_>, unit: &mut Unit, out: &mut Outgoing<'_>) -> Result<Taken, End> {
    while let Some(packet) = unit.front(out.now_ms) {
        match sent(sys::write(fd, packet), packet.len())? {
            Sent::Yes(bytes) => out.tx.sent(1, bytes),
            Sent::No(reason) => out.tx.dropped(reason, 1),
            Sent::Later => return Ok(Taken::Some),
        }
        unit.pop();
    }
    Ok(Taken::All)
}

fn flush_socket(fd: BorrowedFd<'_>, unit: &mut Unit, out: &mut Outgoing<'_>) -> Result<Taken, End> {
    while unit.is_readable(out.now_ms) {
        let most = if unit.is_shaped() { 1 } else { BUDGET };
        let queue = unit.snd();
        let wire = queue.wire();
        let all = Run { start: 0, end: wire.len(), frames: queue.len(), vnet: VnetHeader::PLAIN };
        match sys::send_batch(fd, frames_of(wire, all).take(most), None, out.messages) {
            Ok(count) => {
                let bytes: usize = frames_of(wire, all).take(count).map(<[u8]>::len).sum();
                out.tx.sent(count, bytes);
                unit.pop_sent(bytes + count * PREFIX_LEN, bytes);
            }
            Err(error) if sys::would_block(&error) => return Ok(Taken::Some),
            Err(error) => match error.raw_os_error() {
                Some(libc::EMSGSIZE) => lose_first(unit, DropReason::Oversize, out),
                Some(libc::ENOBUFS | libc::ENOMEM) => lose_first(unit, DropReason::Refused, out),
                // It is gone; what it said before is still to be read, and ends with the end.
                Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN) => {
                    out.tx.dropped(DropReason::PeerGone, unit.purge());
                }
                _ => return Err(error.into()),
            },
        }
    }
    Ok(Taken::All)
}

fn lose_first(unit: &mut Unit, reason: DropReason, out: &mut Outgoing<'_>) {
    unit.pop();
    out.tx.dropped(reason, 1);
}

/// An errno's name with the rule behind it.
fn text(error: UnitError) -> &'static str {
    match error {
        UnitError::Closed => "EBADF: the unit was closed",
        UnitError::Gone => "ENXIO: the interface was destroyed",
        UnitError::NotReady => "EHOSTDOWN: the unit has no address",
        UnitError::Empty => "EWOULDBLOCK: no packet",
        UnitError::Short => "EIO: shorter than its link header",
        UnitError::TooLong => "EIO: longer than the unit's largest MTU",
        UnitError::NoPacket => "EIO: no packet behind the link header",
        UnitError::Family => "EAFNOSUPPORT: neither IPv4 nor IPv6",
        UnitError::Full => "ENOBUFS: the input queue is full",
    }
}
