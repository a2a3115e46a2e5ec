//! Tap devices of the host: one read or write is one frame, behind a virtio-net header when `IFF_VNET_HDR` is set
//! (Linux `drivers/net/tun.c`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::{MAX_FRAME, PREFIX_LEN, Run, check_len, push_run, put_prefix};
use vbackend_proto::offload::Offloads;
use vbackend_proto::vnet::{VNET_HEADER_LEN, VnetHeader};

use super::{BUDGET, Outgoing, Scratch, Sent};
use crate::command::End;
use crate::counters::Lane;
use crate::sys;

/// Frames up to this length are copied behind their virtio-net header and written in one piece: a copy costs less than
/// the kernel's handling of a second piece.
const COPIED: usize = 2048;

/// Once so many bytes are there a turn ends, since the host's GSO frames are 64 KiB long: what they are cut into has to
/// fit a peer's queue.
const TURN_BYTES: usize = 256 * 1024;

/// Bytes of the header that do not fit into the prefix's place.
const HEADROOM: usize = VNET_HEADER_LEN - PREFIX_LEN;

/// An attached tap.
pub struct Tap {
    fd: OwnedFd,
    vnet: bool,
    offloads: Offloads,
    staging: Box<[u8; VNET_HEADER_LEN + COPIED]>, // begins with a plain header
}

impl Tap {
    /// Take over an attached `/dev/net/tun` descriptor; with `vnet`, its header size is [`VNET_HEADER_LEN`], and the
    /// host takes any offload, `VIRTIO_NET_HDR_GSO_UDP_L4` only with `uso` (Linux 6.2).
    ///
    /// # Errors
    /// It cannot be made non-blocking.
    pub fn new(fd: OwnedFd, vnet: bool, uso: bool) -> io::Result<Tap> {
        sys::set_nonblocking(&fd)?;
        let mut staging = Box::new([0; VNET_HEADER_LEN + COPIED]);
        staging[..VNET_HEADER_LEN].copy_from_slice(&VnetHeader::PLAIN.emit());
        let offloads = match (vnet, uso) {
            (false, _) => Offloads::NONE,
            (true, false) => Offloads::ALL.without(Offloads::USO),
            (true, true) => Offloads::ALL,
        };
        Ok(Tap { fd, vnet, offloads, staging })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    pub fn receive(&mut self, scratch: &mut Scratch, rx: &mut Lane) -> Result<(), End> {
        let header = if self.vnet { VNET_HEADER_LEN } else { 0 };
        let mut at = HEADROOM;
        for _ in 0..BUDGET {
            if at >= TURN_BYTES {
                break;
            }
            // One read for both: the header lies over the prefix to come and the last bytes in front of it.
            let from = at + PREFIX_LEN - header;
            let mut before = [0; HEADROOM];
            before.copy_from_slice(&scratch.wire[at - HEADROOM..at]);
            let piece = &mut scratch.wire[from..from + header + MAX_FRAME];
            let len = match sys::read(self.fd.as_fd(), piece) {
                Ok(0) => return Err(End::Eof(0)), // a device never does: this is something else, at its end
                Ok(len) => len.saturating_sub(header),
                Err(error) if sys::would_block(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let vnet = piece.first_chunk().filter(|_| self.vnet).map_or(VnetHeader::PLAIN, VnetHeader::parse);
            scratch.wire[at - HEADROOM..at].copy_from_slice(&before);
            rx.frames_in += 1;
            match check_len(len) {
                Ok(()) => {
                    put_prefix(&mut scratch.wire, at, len);
                    let run = Run::one(at, len, vnet);
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

    fn write(&mut self, frame: &[u8], run: &Run) -> Result<Sent, End> {
        let result = if !self.vnet {
            sys::write(self.fd.as_fd(), frame)
        } else if frame.len() <= COPIED && run.vnet.is_plain() {
            let end = VNET_HEADER_LEN + frame.len();
            self.staging[VNET_HEADER_LEN..end].copy_from_slice(frame);
            sys::write(self.fd.as_fd(), &self.staging[..end])
        } else {
            // The host refuses a hint at more than there is (Linux drivers/net/tun.c, tun_get_user()).
            let most = u16::try_from(frame.len()).unwrap_or(u16::MAX);
            let vnet = VnetHeader { hdr_len: run.vnet.hdr_len.min(most), ..run.vnet };
            sys::write_two(self.fd.as_fd(), &vnet.emit(), frame)
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
