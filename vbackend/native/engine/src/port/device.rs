//! Tap devices of the host: one read or write is one frame, behind a virtio-net header when `IFF_VNET_HDR` is set
//! (Linux `drivers/net/tun.c`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::{MAX_FRAME, PREFIX_LEN, Run, check_len, push_run, put_prefix};
use vbackend_proto::vnet::{VNET_HEADER_LEN, VnetHeader};

use super::{BUDGET, Outgoing, Scratch, Sent};
use crate::command::End;
use crate::counters::Lane;
use crate::sys;

/// An attached tap.
pub struct Tap {
    fd: OwnedFd,
    vnet: bool,
}

impl Tap {
    /// Take over an attached `/dev/net/tun` descriptor; with `vnet`, its header size is [`VNET_HEADER_LEN`].
    ///
    /// # Errors
    /// It cannot be made non-blocking.
    pub fn new(fd: OwnedFd, vnet: bool) -> io::Result<Tap> {
        sys::set_nonblocking(&fd)?;
        Ok(Tap { fd, vnet })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn takes_offloads(&self) -> bool {
        self.vnet
    }

    pub fn receive(&mut self, scratch: &mut Scratch, rx: &mut Lane) -> Result<(), End> {
        let mut at = 0;
        for _ in 0..BUDGET {
            let mut raw = [0; VNET_HEADER_LEN];
            let header = if self.vnet { &mut raw[..] } else { &mut [] };
            let skipped = header.len();
            let body = &mut scratch.wire[at + PREFIX_LEN..at + PREFIX_LEN + MAX_FRAME];
            let len = match sys::read_two(self.fd.as_fd(), header, body) {
                Ok(len) => len.saturating_sub(skipped),
                Err(error) if sys::would_block(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            rx.frames_in += 1;
            match check_len(len) {
                Ok(()) => {
                    put_prefix(&mut scratch.wire, at, len);
                    let run = Run::one(at, len, VnetHeader::parse(&raw));
                    push_run(&mut scratch.runs, run);
                    at = run.end;
                }
                Err(reason) => rx.dropped(reason, 1),
            }
        }
        Ok(())
    }

    pub fn transmit(&mut self, wire: &[u8], runs: &[Run], out: &mut Outgoing<'_>) -> Result<(), End> {
        out.each_frame(wire, runs, |frame, run| self.write(frame, run))
    }

    pub fn flush(&mut self, out: &mut Outgoing<'_>) -> Result<(), End> {
        out.each_queued(|frame, run| self.write(frame, run))
    }

    fn write(&self, frame: &[u8], run: &Run) -> Result<Sent, End> {
        let result = if self.vnet {
            sys::write_two(self.fd.as_fd(), &run.vnet.emit(), frame)
        } else {
            sys::write(self.fd.as_fd(), frame)
        };
        sent(result, frame.len())
    }
}

/// What the result of a device write means for a frame of `len` bytes.
pub fn sent(result: io::Result<usize>, len: usize) -> Result<Sent, End> {
    match result {
        Ok(_) => Ok(Sent::Yes(len)),
        Err(error) if sys::would_block(&error) => Ok(Sent::Later),
        Err(error) => match error.raw_os_error() {
            Some(libc::EIO) => Ok(Sent::No(DropReason::PortDown)),
            Some(libc::EINVAL) => Ok(Sent::No(DropReason::BadOffload)),
            Some(libc::ENOBUFS | libc::ENOMEM | libc::EFAULT | libc::EMSGSIZE) => {
                Ok(Sent::No(DropReason::Refused))
            }
            errno => Err(End::Error(errno.unwrap_or(libc::EIO))),
        },
    }
}
