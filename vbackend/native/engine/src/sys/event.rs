//! epoll and eventfd.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{check, would_block};

/// What to be told of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Something can be read (or the peer is gone).
    pub read: bool,
    /// Something can be written.
    pub write: bool,
}

impl Interest {
    fn mask(self) -> u32 {
        let bit = |wanted: bool, flag: i32| if wanted { flag.cast_unsigned() } else { 0 };
        bit(self.read, libc::EPOLLIN) | bit(self.write, libc::EPOLLOUT)
    }
}

/// One descriptor that is ready.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The token it was added with.
    pub token: u64,
    /// Readable, closed or in error.
    pub readable: bool,
    /// Writable, closed or in error.
    pub writable: bool,
}

/// An epoll instance.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    /// Open one that reports at most 64 descriptors a wait.
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: epoll_create1 takes no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        check(fd)?;
        // SAFETY: the call succeeded, so `fd` is open and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Epoll { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; 64] })
    }

    fn control(&self, operation: i32, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest.mask(), u64: token };
        // SAFETY: both descriptors are open while borrowed; `event` outlives the call.
        let result =
            unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event) };
        check(result).map(drop)
    }

    /// Watch a descriptor.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    /// Watch a descriptor for reading, and tell each time it becomes so instead of while it is.
    pub fn add_edge(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let mut event =
            libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET).cast_unsigned(), u64: token };
        // SAFETY: both descriptors are open while borrowed; `event` outlives the call.
        let result = unsafe {
            libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event)
        };
        check(result).map(drop)
    }

    /// Change what is watched for.
    pub fn modify(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    /// Stop watching. Needed before a close, since another process may hold the same open file.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, Interest { read: false, write: false })
    }

    /// Wait until something is ready or `timeout_ms` passed (None: for ever); a signal counts as nothing ready.
    pub fn wait(&mut self, timeout_ms: Option<u64>, ready: &mut Vec<Ready>) -> io::Result<()> {
        let timeout = timeout_ms.map_or(-1, |ms| i32::try_from(ms).unwrap_or(i32::MAX));
        let most = i32::try_from(self.events.len()).unwrap_or(i32::MAX);
        // SAFETY: `events` holds `most` entries for the kernel to write.
        let found = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), most, timeout) };
        self.report(check(found), ready)
    }

    /// [`Epoll::wait`] to the microsecond, with a kernel (from 5.11 on) that can; else to the millisecond, rounded up.
    pub fn wait_us(&mut self, timeout_us: u64, ready: &mut Vec<Ready>) -> io::Result<()> {
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(timeout_us / 1_000_000).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::try_from(timeout_us % 1_000_000 * 1000).unwrap_or(0),
        };
        let no_mask = std::ptr::null::<libc::sigset_t>();
        // SAFETY: `events` holds as many entries as said for the kernel to write; `timeout` outlives the call.
        let found = check(unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len(),
                &raw const timeout,
                no_mask,
                0usize,
            )
        });
        match found {
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                self.wait(Some(timeout_us.div_ceil(1000)), ready)
            }
            found => self.report(found, ready),
        }
    }

    fn report(&self, found: io::Result<usize>, ready: &mut Vec<Ready>) -> io::Result<()> {
        ready.clear();
        let found = match found {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        let both = (libc::EPOLLHUP | libc::EPOLLERR).cast_unsigned();
        ready.extend(self.events[..found].iter().map(|event| Ready {
            token: event.u64,
            readable: event.events & (libc::EPOLLIN.cast_unsigned() | both) != 0,
            writable: event.events & (libc::EPOLLOUT.cast_unsigned() | both) != 0,
        }));
        Ok(())
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A counter that polls readable while it is not zero.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new one, at zero.
    pub fn new() -> io::Result<EventFd> {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        check(fd)?;
        // SAFETY: the call succeeded, so `fd` is open and nobody else owns it.
        Ok(EventFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Make it readable.
    pub fn signal(&self) {
        // The only failure is a counter at its maximum, which is readable already.
        let _full = super::write(self.0.as_fd(), &1u64.to_ne_bytes());
    }

    /// Make it unreadable.
    pub fn clear(&self) {
        let cleared = super::read(self.0.as_fd(), &mut [0; 8]);
        debug_assert!(cleared.is_ok() || cleared.is_err_and(|error| would_block(&error)));
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_not_before_its_time() {
        let mut epoll = Epoll::new().unwrap();
        for us in [0, 1, 300, 2_500] {
            let (begin, mut ready) = (std::time::Instant::now(), Vec::new());
            epoll.wait_us(us, &mut ready).unwrap();
            assert!(begin.elapsed().as_micros() >= u128::from(us) && ready.is_empty());
        }
    }

    #[test]
    fn an_eventfd_is_ready_while_signalled() {
        let (mut epoll, event) = (Epoll::new().unwrap(), EventFd::new().unwrap());
        let mut ready = Vec::new();
        epoll.add(event.as_fd(), 7, Interest { read: true, write: false }).unwrap();
        for (signals, expected) in [(0, 0), (1, 1), (3, 1)] {
            (0..signals).for_each(|_| event.signal());
            epoll.wait(Some(0), &mut ready).unwrap();
            assert_eq!(ready.len(), expected);
            assert!(ready.iter().all(|entry| entry.token == 7 && entry.readable && !entry.writable));
            event.clear();
        }
        epoll.modify(event.as_fd(), 8, Interest { read: true, write: true }).unwrap();
        epoll.wait(Some(0), &mut ready).unwrap();
        assert!(ready[0].token == 8 && ready[0].writable && !ready[0].readable);
        epoll.remove(event.as_fd()).unwrap();
        epoll.wait(Some(0), &mut ready).unwrap();
        assert!(ready.is_empty());
    }
}
