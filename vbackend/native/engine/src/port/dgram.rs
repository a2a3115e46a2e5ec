//! `-netdev dgram`, and `-netdev socket` with `udp=` or `mcast=`: one datagram is one frame (QEMU `net/dgram.c`).
//!
//! QEMU takes datagrams from anybody; a port here takes them from its peer only. The socket is read eagerly: a QEMU
//! whose path-addressed datagram meets a full queue spins.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::{MAX_FRAME, MIN_FRAME, PREFIX_LEN, Run, frames_of, put_prefix};
use vbackend_proto::vnet::VnetHeader;

use super::{BUDGET, Outgoing, SLOT, Scratch};
use crate::command::End;
use crate::counters::Lane;
use crate::sys::{self, SocketAddress};

/// Where datagrams go and whose are accepted.
#[derive(Default)]
pub struct Peering {
    /// The address to send to; None: the sending socket is connected.
    pub send_to: Option<SocketAddress>,
    /// The only sender accepted; None: any, except our own `send` socket.
    pub accept_from: Option<SocketAddress>,
    /// A second socket to send on (multicast).
    pub send: Option<OwnedFd>,
}

/// A bound datagram socket.
pub struct Dgram {
    fd: OwnedFd,
    peering: Peering,
    own: Option<SocketAddress>, // the address of `peering.send`: our own echo
    room: Option<OwnedFd>, // polls writable when a Unix peer's queue has room; only when that was what lacked
    room_is_new: bool,
}

impl Dgram {
    /// Take over a socket.
    ///
    /// # Errors
    /// A socket cannot be made non-blocking, or has no address.
    pub fn new(fd: OwnedFd, peering: Peering) -> io::Result<Dgram> {
        sys::set_nonblocking(&fd)?;
        let own = match &peering.send {
            Some(send) => {
                sys::set_nonblocking(send)?;
                Some(sys::local_address(send.as_fd())?)
            }
            None => None,
        };
        Ok(Dgram { fd, peering, own, room: None, room_is_new: false })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        self.room.as_ref().or(self.peering.send.as_ref()).map(AsFd::as_fd)
    }

    /// Whether [`Dgram::write_fd`] is another descriptor than at the last call, so that it must be watched anew.
    pub fn take_room_is_new(&mut self) -> bool {
        std::mem::take(&mut self.room_is_new)
    }

    pub fn receive(&mut self, scratch: &mut Scratch, rx: &mut Lane) -> Result<(), End> {
        let (wire, messages) = (&mut scratch.wire[..BUDGET * SLOT], &mut scratch.messages);
        let count = match sys::receive_batch(self.fd.as_fd(), wire, SLOT, PREFIX_LEN, messages) {
            Ok(count) => count,
            Err(error) if sys::would_block(&error) => return Ok(()),
            Err(error) if self.is_passing(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for index in 0..count {
            let sender = messages.sender(index);
            if self.own.is_some_and(|own| own.same_peer(&sender)) {
                continue; // our own multicast echo is nobody's frame
            }
            rx.frames_in += 1;
            let (len, truncated) = messages.received(index);
            let verdict = match () {
                () if !self.accepts(&sender) => Err(DropReason::Sender),
                () if truncated || len > MAX_FRAME => Err(DropReason::Oversize),
                () if len < MIN_FRAME => Err(DropReason::Runt),
                () => Ok(Run::one(index * SLOT, len, VnetHeader::PLAIN)),
            };
            match verdict {
                Ok(run) => {
                    put_prefix(wire, run.start, len);
                    scratch.runs.push(run);
                }
                Err(reason) => rx.dropped(reason, 1),
            }
        }
        Ok(())
    }

    fn accepts(&self, sender: &SocketAddress) -> bool {
        self.peering.accept_from.is_none_or(|peer| peer.same_peer(sender))
    }

    /// Whether an error says that the peer is not there now, but may come (back): not with a connected pair.
    fn is_passing(&self, error: &io::Error) -> bool {
        let absent = [
            libc::ECONNREFUSED,
            libc::ENOENT,
            libc::ECONNRESET,
            libc::EPERM,
            libc::ENETUNREACH,
            libc::EHOSTUNREACH,
        ];
        let addressed = self.peering.send_to.is_some() || self.peering.send.is_some();
        addressed && error.raw_os_error().is_some_and(|errno| absent.contains(&errno))
    }

    pub fn transmit(&mut self, wire: &[u8], runs: &[Run], out: &mut Outgoing<'_>) -> Result<(), End> {
        for (index, run) in runs.iter().enumerate() {
            let mut left = *run;
            while left.frames > 0 && out.queue.is_empty() {
                match self.send_run(wire, left, out)? {
                    Some(rest) => left = rest,
                    None => break,
                }
            }
            if left.frames > 0 {
                out.enqueue(wire, left);
                runs[index + 1..].iter().for_each(|run| out.enqueue(wire, *run));
                return Ok(());
            }
        }
        Ok(())
    }

    pub fn flush(&mut self, out: &mut Outgoing<'_>) -> Result<(), End> {
        while out.may_send()
            && let Some((frame, _)) = out.queue.front()
        {
            let to = self.peering.send_to.as_ref();
            let fd = self.peering.send.as_ref().unwrap_or(&self.fd).as_fd();
            match sys::send_batch(fd, std::iter::once(frame), to, out.messages) {
                Ok(_) => out.tx.sent(1, frame.len()),
                Err(error) => match self.refusal(&error)? {
                    Some(reason) => out.tx.dropped(reason, 1),
                    None => return Ok(()),
                },
            }
            out.queue.pop();
        }
        Ok(())
    }

    /// Send the first frames of `run`, as many as one system call takes; at least one is sent or dropped, or the peer
    /// has no room (None). Returns what is left.
    fn send_run(&mut self, wire: &[u8], run: Run, out: &mut Outgoing<'_>) -> Result<Option<Run>, End> {
        let to = self.peering.send_to.as_ref();
        let fd = self.peering.send.as_ref().unwrap_or(&self.fd).as_fd();
        let done = match sys::send_batch(fd, frames_of(wire, run), to, out.messages) {
            Ok(count) => {
                let bytes = frames_of(wire, run).take(count).map(<[u8]>::len).sum();
                out.tx.sent(count, bytes);
                count
            }
            Err(error) => match self.refusal(&error)? {
                Some(reason) => {
                    let first = frames_of(wire, run).next().map_or(0, <[u8]>::len);
                    out.lose(reason, wire, Run::one(run.start, first, run.vnet), 0);
                    1
                }
                None => return Ok(None),
            },
        };
        let bytes: usize = frames_of(wire, run).take(done).map(|frame| PREFIX_LEN + frame.len()).sum();
        Ok(Some(Run { start: run.start + bytes, frames: run.frames - done, ..run }))
    }

    /// What a failed send means: a lost frame (its reason), a peer without room (None), or the end.
    fn refusal(&mut self, error: &io::Error) -> Result<Option<DropReason>, End> {
        match error.raw_os_error() {
            _ if sys::would_block(error) => Ok(self.wait_for_room()),
            Some(libc::EMSGSIZE) => Ok(Some(DropReason::Oversize)),
            Some(libc::ENOBUFS | libc::ENOMEM) => Ok(Some(DropReason::Refused)),
            _ if self.is_passing(error) => Ok(Some(DropReason::NoPeer)),
            errno => Err(End::Error(errno.unwrap_or(libc::EIO))),
        }
    }

    /// What is full: our send buffer, or a Unix peer's queue? The sending socket itself polls writable when its buffer
    /// has room. An unconnected Unix socket knows nothing of its peer's queue, so wait for that on a connected one,
    /// made anew each time because the peer may be another by now; when that is impossible the peer is gone.
    fn wait_for_room(&mut self) -> Option<DropReason> {
        let to = self.peering.send_to.as_ref().filter(|to| to.is_unix())?;
        let own = self.peering.send.as_ref().unwrap_or(&self.fd).as_fd();
        self.room_is_new |= self.room.take().is_some();
        if sys::is_writable(own) {
            match sys::unix_poll_socket(to) {
                Ok(socket) => self.room = Some(socket),
                Err(_) => return Some(DropReason::NoPeer),
            }
            self.room_is_new = true;
        }
        None
    }
}
