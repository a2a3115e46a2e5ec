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

/// Bytes read at once. Less costs system calls; more overflows the Unix socket of a peer that reads beside us.
const READ_BYTES: usize = 64 * 1024;

/// The same when what was read last left merged: a turn takes no longer then, and no socket is behind it.
const BULK_BYTES: usize = 256 * 1024;

/// A connected stream socket and the beginning of a frame that has not arrived whole.
pub struct Stream {
    fd: OwnedFd,
    carry: Vec<u8>,
    read_bytes: usize,
}

impl Stream {
    /// Take over a connected socket.
    ///
    /// # Errors
    /// It cannot be made non-blocking.
    pub fn new(fd: OwnedFd) -> io::Result<Stream> {
        sys::set_nonblocking(&fd)?;
        Ok(Stream { fd, carry: Vec::new(), read_bytes: READ_BYTES })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// How many of the frames received last left merged in others.
    pub fn note_merged(&mut self, merged: usize, received: usize) {
        self.read_bytes = if merged > received / 2 { BULK_BYTES } else { READ_BYTES };
    }

    pub fn receive(&mut self, scratch: &mut Scratch, rx: &mut Lane) -> Result<(), End> {
        const { assert!(SLOT + BULK_BYTES <= Scratch::WIRE_BYTES) };
        let kept = self.carry.len();
        let wire = &mut scratch.wire[..kept + self.read_bytes];
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Counters;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use vbackend_proto::framing::push_frame;

    #[test]
    fn what_leaves_merged_is_read_in_larger_pieces() {
        let (mut guest, ours) = UnixStream::pair().unwrap();
        let mut stream = Stream::new(ours.into()).unwrap();
        let (mut scratch, mut rx, mut wire) = (Scratch::new(), Counters::ZERO.rx, Vec::new());
        for _ in 0..80 {
            push_frame(&mut wire, &[7; 1500]);
        }
        let mut sent = 0;
        // (merged, of how many, frames read next)
        for (merged, received, frames) in [(0, 0, 43), (42, 43, 80 + 37), (58, 117, 43), (22, 43, 80 + 37)] {
            guest.write_all(&wire).unwrap();
            sent += 80;
            stream.note_merged(merged, received);
            scratch.runs.clear();
            stream.receive(&mut scratch, &mut rx).unwrap();
            assert_eq!(scratch.runs.iter().map(|run| run.frames).sum::<usize>(), frames);
        }
        assert_eq!((rx.frames_in, rx.total_dropped()), (sent, 0));
    }
}
