//! The descriptors with which a front-end and we wake each other: eventfds, pipes, or sockets (user-mode Linux has
//! socket pairs for calls: os_pipe of arch/um/drivers/virtio_uml.c).
//!
//! The peer holds the same open file, so it can make it blocking, fill it, or close its end at any moment.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{check, is_writable, send, set_nonblocking, write};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    EventFd,
    Pipe,
    Socket,
}

/// What a descriptor is.
fn kind_of(fd: &OwnedFd) -> io::Result<Kind> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    let link = link.to_string_lossy();
    if link == "anon_inode:[eventfd]" {
        Ok(Kind::EventFd)
    } else if link.starts_with("pipe:") {
        Ok(Kind::Pipe)
    } else if link.starts_with("socket:") {
        Ok(Kind::Socket)
    } else {
        let text = format!("{link} is neither an eventfd nor a pipe or socket");
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }
}

/// A descriptor that becomes readable when the front-end kicks. It is watched for edges and never read: an eventfd
/// announces every write, and a pipe or socket that fills up is its writer's own affair.
pub struct Kick(OwnedFd);

impl Kick {
    /// Take over a kick descriptor.
    ///
    /// # Errors
    /// It is neither an eventfd nor a pipe or socket.
    pub fn new(fd: OwnedFd) -> io::Result<Kick> {
        kind_of(&fd)?;
        Ok(Kick(fd))
    }
}

impl AsFd for Kick {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A descriptor with which the front-end is woken.
pub struct Call {
    fd: OwnedFd,
    kind: Kind,
}

impl Call {
    /// Take over a call descriptor.
    ///
    /// # Errors
    /// It is neither an eventfd nor a pipe or socket, or it cannot be made non-blocking.
    pub fn new(fd: OwnedFd) -> io::Result<Call> {
        let kind = kind_of(&fd)?;
        let fd = match kind {
            Kind::EventFd => {
                set_nonblocking(&fd)?;
                fd
            }
            Kind::Pipe => reopen(&fd)?,
            Kind::Socket => fd,
        };
        Ok(Call { fd, kind })
    }

    /// Wake the front-end. One that is full says so already, one that is closed has nobody to wake.
    pub fn signal(&self) {
        let (fd, one) = (self.fd.as_fd(), 1u64.to_ne_bytes());
        let _full_or_closed = match self.kind {
            Kind::Socket => send(fd, &one),
            // The peer can make an eventfd blocking again, so its room is looked at first.
            Kind::EventFd | Kind::Pipe if is_writable(fd) => write(fd, &one),
            Kind::EventFd | Kind::Pipe => Ok(0),
        };
    }
}

/// Another, non-blocking description of the same pipe, that the peer has no hold of.
fn reopen(fd: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}\0", fd.as_raw_fd());
    let flags = libc::O_WRONLY | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: `path` is a string that ends with a zero byte.
    let fd = unsafe { libc::open(path.as_ptr().cast(), flags) };
    check(fd)?;
    // SAFETY: the call succeeded, so `fd` is open and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{EventFd, is_readable, socket_pair};

    fn pipe() -> (OwnedFd, OwnedFd) {
        let mut fds = [0; 2];
        // SAFETY: `fds` has room for two descriptors.
        check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }).unwrap();
        // SAFETY: both were just opened.
        fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).into()
    }

    #[test]
    fn eventfds_pipes_and_sockets_are_woken_and_other_things_refused() {
        let event = EventFd::new().unwrap();
        Call::new(event.as_fd().try_clone_to_owned().unwrap()).unwrap().signal();
        assert!(is_readable(event.as_fd()));

        let (reader, writer) = pipe();
        Call::new(writer).unwrap().signal();
        assert!(is_readable(reader.as_fd()));

        let (socket, other) = socket_pair().unwrap();
        Call::new(socket).unwrap().signal();
        assert!(is_readable(other.as_fd()));

        let file = std::fs::File::open("/dev/null").unwrap().into();
        let text = Call::new(file).err().unwrap().to_string();
        assert!(text.contains("neither an eventfd nor a pipe"), "{text}");
    }

    #[test]
    fn a_full_blocking_pipe_and_a_full_blocking_eventfd_do_not_hold_us() {
        let (ends, sockets) = (pipe(), socket_pair().unwrap());
        // SAFETY: F_SETFL takes plain flags.
        check(unsafe { libc::fcntl(sockets.0.as_raw_fd(), libc::F_SETFL, 0) }).unwrap();
        for (writer, reader) in [sockets, (ends.1, ends.0)] {
            let call = Call::new(writer).unwrap();
            (0..100_000).for_each(|_| call.signal());
            drop(reader);
            call.signal();
        }

        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        // SAFETY: it was just opened.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        write(event.as_fd(), &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let call = Call::new(event.try_clone().unwrap()).unwrap();
        // SAFETY: F_SETFL takes plain flags; blocking again, as a peer can do.
        check(unsafe { libc::fcntl(event.as_raw_fd(), libc::F_SETFL, 0) }).unwrap();
        call.signal();
    }
}
