//! A descriptor that polls as a tun device does (if_tun.c tunpoll; P1): readable exactly while a read would find a packet,
//! writable always, and nothing at all once the unit is destroyed.
//!
//! An eventfd is always readable or writable, so this is a pair of Unix sockets, both ends ours: a byte that waits at the
//! polled end makes it readable, a full send buffer makes it not writable. A system call is made only for a change.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys;

/// What the descriptor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// `POLLIN | POLLOUT`
    Readable,
    /// `POLLOUT`
    Idle,
    /// Nothing.
    Gone,
}

/// The pair.
#[derive(Debug)]
pub struct PollFd {
    polled: OwnedFd,
    ours: OwnedFd,
    says: Readiness,
}

impl PollFd {
    /// A pair that says [`Readiness::Idle`].
    ///
    /// # Errors
    /// No descriptors to be had.
    pub fn new() -> io::Result<PollFd> {
        let (polled, ours) = sys::socket_pair()?;
        sys::set_least_send_buffer(polled.as_fd())?;
        Ok(PollFd { polled, ours, says: Readiness::Idle })
    }

    /// Make it say something else.
    pub fn say(&mut self, what: Readiness) {
        if what == self.says {
            return;
        }
        match self.says {
            Readiness::Readable => drain(self.polled.as_fd()),
            Readiness::Gone => drain(self.ours.as_fd()),
            Readiness::Idle => {}
        }
        match what {
            // The only failure is a queue that holds something already: then it polls readable.
            Readiness::Readable => drop(sys::send(self.ours.as_fd(), &[0])),
            Readiness::Gone => while sys::send(self.polled.as_fd(), &[0]).is_ok() {},
            Readiness::Idle => {}
        }
        self.says = what;
    }
}

impl AsFd for PollFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.polled.as_fd()
    }
}

impl Drop for PollFd {
    /// Whoever polls is woken before the descriptor goes (X1).
    fn drop(&mut self) {
        sys::shut_down(self.ours.as_fd());
    }
}

fn drain(fd: BorrowedFd<'_>) {
    while sys::receive(fd, &mut [0; 64]).is_ok_and(|len| len > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_polls_what_it_says() {
        let mut fd = PollFd::new().unwrap();
        let both = |fd: &PollFd| (sys::is_readable(fd.as_fd()), sys::is_writable(fd.as_fd()));
        assert_eq!(both(&fd), (false, true));
        let states = [Readiness::Readable, Readiness::Idle, Readiness::Gone];
        for from in states {
            for to in states {
                fd.say(from);
                fd.say(to);
                let expected = (to == Readiness::Readable, to != Readiness::Gone);
                assert_eq!(both(&fd), expected, "{from:?} to {to:?}");
            }
        }
    }
}
