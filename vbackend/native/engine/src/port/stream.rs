//! `-netdev stream` and `-netdev socket`: a 4-byte big-endian length, then a frame (QEMU `net/stream.c`,
//! `net/net.c: net_fill_rstate`).
//!
//! The socket is always read, whatever the other ports do: a guest that is back-pressured wedges inside QEMU.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::{Run, frames_of, scan};

use super::{Outgoing, SLOT, Scratch};
use crate::command::End;
use crate::counters::Lane;
use crate::sys;

/// Bytes read at once. More does not help (a Unix socket holds about as much), less costs system calls.
const READ_BYTES: usize = 64 * 1024;

/// A connected stream socket and the beginning of a frame that has not arrived whole.
pub struct Stream {
    fd: OwnedFd,
    carry: Vec<u8>,
}

impl Stream {
    /// Take over a connected socket.
    ///
    /// # Errors
    /// It cannot be made non-blocking.
    pub fn new(fd: OwnedFd) -> io::Result<Stream> {
        sys::set_nonblocking(&fd)?;
        Ok(Stream { fd, carry: Vec::new() })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn receive(&mut self, scratch: &mut Scratch, rx: &mut Lane) -> Result<(), End> {
        const { assert!(SLOT + READ_BYTES <= Scratch::WIRE_BYTES) };
        let kept = self.carry.len();
        let wire = &mut scratch.wire[..kept + READ_BYTES];
        let len = match sys::receive(self.fd.as_fd(), &mut wire[kept..]) {
            Ok(0) => return Err(End::Eof(kept)),
            Ok(len) => kept + len,
            Err(error) if sys::would_block(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        wire[..kept].copy_from_slice(&self.carry);
        let found = scan(&wire[..len], &mut scratch.runs);
        rx.frames_in += found.frames as u64;
        rx.dropped(DropReason::Runt, found.runts);
        self.carry.clear();
        if let Some(length) = found.oversize {
            rx.frames_in += 1;
            rx.dropped(DropReason::Oversize, 1);
            return Err(End::Oversize(length));
        }
        self.carry.extend_from_slice(&wire[found.consumed..len]);
        Ok(())
    }

    pub fn transmit(&mut self, wire: &[u8], runs: &[Run], out: &mut Outgoing<'_>) -> Result<(), End> {
        let mut left = runs;
        while !left.is_empty() && out.queue.is_empty() {
            let ranges = left.iter().map(|run| (run.start, run.end));
            let written = match sys::send_gathered(self.fd.as_fd(), wire, ranges, out.parts) {
                Ok(written) => written,
                Err(error) if sys::would_block(&error) => 0,
                Err(error) if stopped_reading(&error) => {
                    left.iter().for_each(|run| out.lose(DropReason::PeerGone, wire, *run, 0));
                    return Ok(());
                }
                Err(error) => {
                    left.iter().for_each(|run| out.lose(DropReason::PeerGone, wire, *run, 0));
                    return Err(error.into());
                }
            };
            let offered: usize = out.parts.iter().map(|(start, end)| end - start).sum();
            left = account(wire, left, written, out);
            if written < offered {
                break;
            }
        }
        left.iter().for_each(|run| out.enqueue(wire, *run));
        Ok(())
    }

    pub fn flush(&mut self, out: &mut Outgoing<'_>) -> Result<(), End> {
        while !out.queue.is_empty() && out.may_send() {
            let may_send = out.queue.wire_bytes_for(out.stop_at - out.tx.bytes_out);
            let wire = &out.queue.wire()[..may_send];
            let written = match sys::send_gathered(
                self.fd.as_fd(),
                wire,
                std::iter::once((0, wire.len())),
                out.parts,
            ) {
                Ok(written) => written,
                Err(error) if sys::would_block(&error) => return Ok(()),
                Err(error) if stopped_reading(&error) => {
                    out.tx.dropped(DropReason::PeerGone, out.queue.purge());
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            let before = out.queue.frame_bytes();
            let frames = out.queue.consume(written);
            out.tx.sent(frames, before - out.queue.frame_bytes());
        }
        Ok(())
    }
}

/// Whether a failed send says no more than that the peer takes nothing. What it said before it went is still to be
/// read, and ends with the reason why the session ends.
fn stopped_reading(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// Count what `written` bytes completed of `runs`, and queue the rest of a frame that was cut. Returns the runs that
/// are left to do; when a frame was cut inside a run, what follows it in that run is queued here too.
fn account<'a>(wire: &[u8], runs: &'a [Run], written: usize, out: &mut Outgoing<'_>) -> &'a [Run] {
    let mut written = written;
    for (index, run) in runs.iter().enumerate() {
        let len = run.end - run.start;
        if written < len {
            if written == 0 {
                return &runs[index..];
            }
            cut(wire, *run, written, out);
            return &runs[index + 1..];
        }
        written -= len;
        out.tx.sent(run.frames, run.frame_bytes());
    }
    &[]
}

/// The peer took the first `written` bytes of `run`, not all.
fn cut(wire: &[u8], run: Run, written: usize, out: &mut Outgoing<'_>) {
    let stop = run.start + written;
    let mut left = run;
    for frame in frames_of(wire, run) {
        let one = Run::one(left.start, frame.len(), run.vnet);
        if one.end > stop {
            if one.start < stop {
                out.queue.offer_rest(wire, one, stop - one.start);
                left = Run { start: one.end, frames: left.frames - 1, ..left };
            }
            break;
        }
        out.tx.sent(1, frame.len());
        left = Run { start: one.end, frames: left.frames - 1, ..left };
    }
    if left.frames > 0 {
        out.enqueue(wire, left);
    }
}
