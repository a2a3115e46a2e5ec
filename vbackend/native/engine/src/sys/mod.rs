//! System calls: all of the engine's `unsafe` is in this folder, one call a function, each with its SAFETY note.
//!
//! Nothing here blocks: every descriptor is set non-blocking when it enters the engine (`set_nonblocking`).

mod event;
mod fault;
mod guest;
mod notify;
mod prefetch;
mod socket;
mod wait;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

pub use event::{Epoll, EventFd, Interest, Ready};
pub use guest::{DirtyLog, GuestArea, GuestMemory, Place, Region};
pub use notify::{Call, Kick};
pub use socket::{
    Messages, SocketAddress, local_address, receive, receive_batch, send, send_batch, send_gathered,
    set_least_send_buffer, shut_down, socket_pair, unix_poll_socket,
};
pub use wait::{POLL_IN, futex_wait, futex_wake, send_sigio};

/// Turn libc's -1 into the errno.
fn check(result: impl TryInto<usize>) -> io::Result<usize> {
    result.try_into().map_err(|_| io::Error::last_os_error())
}

/// Whether a call would only have waited.
pub fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Milliseconds of the monotonic clock; what the engine goes by.
pub fn monotonic_ms() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to write to; CLOCK_MONOTONIC always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Microseconds of the monotonic clock, for busy polling and delays.
pub fn monotonic_us() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to write to; CLOCK_MONOTONIC always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000
}

/// Nanoseconds since the epoch: the time of captured packets.
pub fn realtime_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to write to; CLOCK_REALTIME always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Make an open file description non-blocking.
pub fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: F_GETFL and F_SETFL take and return plain flags; the descriptor is open, `fd` owns it.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    let flags = i32::try_from(flags).unwrap_or(0) | libc::O_NONBLOCK;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) })?;
    Ok(())
}

/// Whether a read would give something (or an end) at once.
pub fn is_readable(fd: BorrowedFd<'_>) -> bool {
    polls(fd, libc::POLLIN)
}

/// Whether there is room in a socket's send buffer.
pub fn is_writable(fd: BorrowedFd<'_>) -> bool {
    polls(fd, libc::POLLOUT)
}

/// Whether the peer of a socket is gone, or sends no more.
pub fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    polls(fd, libc::POLLHUP | libc::POLLRDHUP)
}

fn polls(fd: BorrowedFd<'_>, events: i16) -> bool {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    // SAFETY: `entry` is one valid pollfd that lives through the call.
    let found = unsafe { libc::poll(&raw mut entry, 1, 0) };
    found == 1 && entry.revents & events != 0
}

/// Read into one buffer.
///
/// Devices are read and written a frame a call, so this and [`write()`] go around libc's cancellation points, which cost
/// a process with threads two atomic operations each.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `buffer` is live, exclusively borrowed memory of the given length.
    check(unsafe { libc::syscall(libc::SYS_read, fd.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) })
}

/// Write two buffers as one (a device's header and its frame).
pub fn write_two(fd: BorrowedFd<'_>, first: &[u8], second: &[u8]) -> io::Result<usize> {
    let parts = [
        libc::iovec { iov_base: first.as_ptr().cast_mut().cast(), iov_len: first.len() },
        libc::iovec { iov_base: second.as_ptr().cast_mut().cast(), iov_len: second.len() },
    ];
    // SAFETY: both iovecs point to live memory of the given lengths, which writev only reads.
    check(unsafe { libc::writev(fd.as_raw_fd(), parts.as_ptr(), 2) })
}

/// Write one buffer.
pub fn write(fd: BorrowedFd<'_>, buffer: &[u8]) -> io::Result<usize> {
    // SAFETY: `buffer` is live memory of the given length, which write only reads.
    check(unsafe { libc::syscall(libc::SYS_write, fd.as_raw_fd(), buffer.as_ptr(), buffer.len()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn two_part_writes_cross_a_socket() {
        let (a, mut b) = UnixStream::pair().unwrap();
        assert_eq!(write_two(a.as_fd(), b"head", b"body").unwrap(), 8);
        let mut all = [0; 8];
        b.read_exact(&mut all).unwrap();
        assert_eq!(&all, b"headbody");
        write(b.as_fd(), b"xyz").unwrap();
        let mut back = [0; 5];
        assert_eq!((read(a.as_fd(), &mut back).unwrap(), &back[..3]), (3, &b"xyz"[..]));
    }

    #[test]
    fn non_blocking_reads_say_so() {
        let (a, _b) = UnixStream::pair().unwrap();
        let a = OwnedFd::from(a);
        set_nonblocking(&a).unwrap();
        assert!(!is_readable(a.as_fd()));
        assert!(would_block(&read(a.as_fd(), &mut [0; 4]).unwrap_err()));
    }

    #[test]
    fn the_clock_runs() {
        assert!(monotonic_ms() > 0);
        let (before, after) = (realtime_ns(), realtime_ns());
        assert!(before > 1_700_000_000_000_000_000 && after - before < 1_000_000_000_000);
    }
}
