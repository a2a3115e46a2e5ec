//! Sockets: gathered writes for streams, batches of datagrams with their senders.

use std::io;
use std::mem;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::str::FromStr;

use super::check;

/// Ranges of one buffer that one system call writes; `IOV_MAX` of Linux (`include/uapi/linux/uio.h`).
const MAX_PARTS: usize = 1024;

/// Read from a stream socket.
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `buffer` is live, exclusively borrowed memory of the given length.
    check(unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) })
}

/// Write ranges of `wire`, one behind the other, to a stream socket; returns how many bytes went.
///
/// At most [`MAX_PARTS`] ranges are written; a result shorter than all of them is not an error.
pub fn send_gathered(
    fd: BorrowedFd<'_>,
    wire: &[u8],
    ranges: impl Iterator<Item = (usize, usize)>,
    parts: &mut Vec<(usize, usize)>,
) -> io::Result<usize> {
    parts.clear();
    parts.extend(ranges.take(MAX_PARTS));
    if let [(start, end)] = parts[..] {
        return send(fd, &wire[start..end]);
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let mut vectors: [mem::MaybeUninit<libc::iovec>; MAX_PARTS] = [mem::MaybeUninit::uninit(); MAX_PARTS];
    for (vector, (start, end)) in vectors.iter_mut().zip(parts.iter()) {
        let bytes = &wire[*start..*end];
        vector.write(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
    }
    let mut message = empty_header();
    message.msg_iov = vectors.as_mut_ptr().cast();
    message.msg_iovlen = parts.len();
    // SAFETY: the first `parts.len()` iovecs are initialised and point into `wire`, which sendmsg only reads.
    check(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) })
}

/// Write to a socket.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `bytes` is live memory of the given length, which send only reads.
    check(unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// Two connected Unix stream sockets.
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let mut pair = [-1; 2];
    // SAFETY: `pair` has room for the two descriptors that the kernel writes.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so both are open and nobody else owns them.
    Ok(unsafe { (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])) })
}

/// Make a socket's send buffer as small as the kernel allows.
pub fn set_least_send_buffer(fd: BorrowedFd<'_>) -> io::Result<()> {
    let (size, len) = (1i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: `size` is an i32 of the given length that setsockopt only reads.
    check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, (&raw const size).cast(), len)
    })
    .map(drop)
}

/// End both directions of a connected socket, whoever else holds it.
pub fn shut_down(fd: BorrowedFd<'_>) {
    // SAFETY: shutdown takes no pointers. A socket without peer is shut down already.
    let _gone = unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RDWR) };
}

fn empty_header() -> libc::msghdr {
    // SAFETY: msghdr is plain data for which all zeroes (null pointers, zero lengths) is a valid value.
    unsafe { mem::zeroed() }
}

/// A socket address in the kernel's form.
#[derive(Clone, Copy)]
pub struct SocketAddress {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl SocketAddress {
    fn empty() -> SocketAddress {
        // SAFETY: sockaddr_storage is plain data for which all zeroes (AF_UNSPEC) is a valid value.
        let storage = unsafe { mem::zeroed() };
        SocketAddress { storage, len: 0 }
    }

    fn raw(&self) -> &[u8] {
        let len = (self.len as usize).min(size_of::<libc::sockaddr_storage>());
        // SAFETY: the storage is initialised memory of at least `len` bytes, borrowed from `self`.
        unsafe { std::slice::from_raw_parts((&raw const self.storage).cast::<u8>(), len) }
    }

    fn from_raw(raw: &[u8]) -> SocketAddress {
        let mut address = SocketAddress::empty();
        let len = raw.len().min(size_of::<libc::sockaddr_storage>());
        // SAFETY: `len` bytes fit into the storage, and the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(raw.as_ptr(), (&raw mut address.storage).cast::<u8>(), len) };
        address.len = len as libc::socklen_t;
        address
    }

    /// The same peer? Unix names are compared without the optional NUL at their end; of Internet addresses the
    /// IPv6 flow label does not count.
    pub fn same_peer(&self, other: &SocketAddress) -> bool {
        if i32::from(self.storage.ss_family) == libc::AF_INET6 {
            let (a, b) = (self.raw(), other.raw());
            return a.len() >= 24 && b.len() >= 24 && a[..4] == b[..4] && a[8..24] == b[8..24];
        }
        self.name() == other.name()
    }

    /// The bytes that tell this address from others.
    fn name(&self) -> &[u8] {
        const FAMILY_LEN: usize = 2;
        let raw = self.raw();
        match raw.get(FAMILY_LEN) {
            Some(first) if self.is_unix() && *first != 0 => {
                let end = raw[FAMILY_LEN..].iter().position(|byte| *byte == 0);
                &raw[..end.map_or(raw.len(), |at| FAMILY_LEN + at)]
            }
            _ => raw,
        }
    }

    /// Whether it is a Unix socket's name.
    pub fn is_unix(&self) -> bool {
        i32::from(self.storage.ss_family) == libc::AF_UNIX
    }
}

impl From<SocketAddrV4> for SocketAddress {
    fn from(address: SocketAddrV4) -> SocketAddress {
        let mut raw = [0; 16];
        raw[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        raw[2..4].copy_from_slice(&address.port().to_be_bytes());
        raw[4..8].copy_from_slice(&address.ip().octets());
        SocketAddress::from_raw(&raw)
    }
}

impl From<SocketAddrV6> for SocketAddress {
    fn from(address: SocketAddrV6) -> SocketAddress {
        let mut raw = [0; 28];
        raw[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        raw[2..4].copy_from_slice(&address.port().to_be_bytes());
        raw[8..24].copy_from_slice(&address.ip().octets());
        raw[24..28].copy_from_slice(&address.scope_id().to_ne_bytes());
        SocketAddress::from_raw(&raw)
    }
}

impl FromStr for SocketAddress {
    type Err = String;

    /// `unix:PATH`, `unix:@NAME` (abstract) or `IP:PORT`.
    fn from_str(text: &str) -> Result<SocketAddress, String> {
        const PATH_MAX: usize = 107; // sun_path holds 108 bytes, one for the NUL
        let Some(path) = text.strip_prefix("unix:") else {
            return match SocketAddr::from_str(text) {
                Ok(SocketAddr::V4(address)) => Ok(address.into()),
                Ok(SocketAddr::V6(address)) => Ok(address.into()),
                Err(_) => Err(format!("{text:?} is neither unix:PATH nor IP:PORT")),
            };
        };
        if path.is_empty() || path.len() > PATH_MAX {
            return Err(format!(
                "Unix socket path {path:?} has {} bytes; 1 to {PATH_MAX} are possible",
                path.len()
            ));
        }
        let mut raw = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
        match path.strip_prefix('@') {
            Some(name) => {
                raw.push(0);
                raw.extend_from_slice(name.as_bytes());
            }
            None => {
                raw.extend_from_slice(path.as_bytes());
                raw.push(0);
            }
        }
        Ok(SocketAddress::from_raw(&raw))
    }
}

/// The address a socket is bound to.
pub fn local_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddress> {
    let mut address = SocketAddress::empty();
    address.len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let storage = (&raw mut address.storage).cast();
    // SAFETY: `storage` has the size that `len` says, and both live through the call.
    check(unsafe { libc::getsockname(fd.as_raw_fd(), storage, &raw mut address.len) })?;
    Ok(address)
}

/// A Unix datagram socket connected to `peer` that is never sent on: it polls writable when the peer's queue has
/// room, which an unconnected socket cannot tell (`net/unix/af_unix.c: unix_dgram_poll`).
pub fn unix_poll_socket(peer: &SocketAddress) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    check(fd)?;
    // SAFETY: the call succeeded, so `fd` is open and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the address is initialised memory of `len` bytes.
    check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const peer.storage).cast(), peer.len) })?;
    Ok(fd)
}

/// Room for a batch of datagrams in flight between user and kernel.
pub struct Messages {
    headers: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
    senders: Vec<SocketAddress>,
}

// SAFETY: the raw pointers inside are set anew before each system call and never followed otherwise.
unsafe impl Send for Messages {}

impl Messages {
    /// Room for `most` datagrams a call.
    pub fn new(most: usize) -> Messages {
        // SAFETY: mmsghdr and iovec are plain data for which all zeroes is a valid value.
        let (header, vector) = unsafe { (mem::zeroed(), mem::zeroed()) };
        Messages {
            headers: vec![header; most],
            vectors: vec![vector; most],
            senders: vec![SocketAddress::empty(); most],
        }
    }

    /// How many datagrams fit.
    pub fn capacity(&self) -> usize {
        self.headers.len()
    }

    /// Bytes of the `index`th datagram received, and whether it was longer than its buffer.
    pub fn received(&self, index: usize) -> (usize, bool) {
        let header = &self.headers[index];
        (header.msg_len as usize, header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0)
    }

    /// Who sent the `index`th datagram received.
    pub fn sender(&self, index: usize) -> SocketAddress {
        SocketAddress { len: self.headers[index].msg_hdr.msg_namelen, ..self.senders[index] }
    }
}

/// Receive up to `messages.capacity()` datagrams into `buffer`, the n-th at `n * stride + offset` and at most
/// `stride - offset` bytes long.
pub fn receive_batch(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    stride: usize,
    offset: usize,
    messages: &mut Messages,
) -> io::Result<usize> {
    let count = messages.capacity().min(buffer.len() / stride);
    for (index, slot) in buffer.chunks_exact_mut(stride).take(count).enumerate() {
        let body = &mut slot[offset..];
        messages.vectors[index] = libc::iovec { iov_base: body.as_mut_ptr().cast(), iov_len: body.len() };
        let header = &mut messages.headers[index].msg_hdr;
        *header = empty_header();
        header.msg_iov = &raw mut messages.vectors[index];
        header.msg_iovlen = 1;
        header.msg_name = (&raw mut messages.senders[index].storage).cast();
        header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    }
    let headers = messages.headers.as_mut_ptr();
    // SAFETY: the first `count` headers point to distinct parts of `buffer` and to their own iovec and address,
    // all of which live and stay put through the call.
    let found = unsafe {
        libc::recvmmsg(fd.as_raw_fd(), headers, count as u32, libc::MSG_DONTWAIT, std::ptr::null_mut())
    };
    check(found)
}

/// Send datagrams, to `to` or on a connected socket; returns how many the kernel took, an error only for the first.
pub fn send_batch<'a>(
    fd: BorrowedFd<'_>,
    datagrams: impl Iterator<Item = &'a [u8]>,
    to: Option<&SocketAddress>,
    messages: &mut Messages,
) -> io::Result<usize> {
    let mut count = 0;
    for (index, datagram) in datagrams.take(messages.capacity()).enumerate() {
        messages.vectors[index] =
            libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
        let header = &mut messages.headers[index].msg_hdr;
        *header = empty_header();
        header.msg_iov = &raw mut messages.vectors[index];
        header.msg_iovlen = 1;
        if let Some(to) = to {
            header.msg_name = (&raw const to.storage).cast_mut().cast();
            header.msg_namelen = to.len;
        }
        count = index + 1;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let headers = messages.headers.as_mut_ptr();
    // SAFETY: the first `count` headers point to live datagrams, to their own iovec and to `to`, all only read.
    check(unsafe { libc::sendmmsg(fd.as_raw_fd(), headers, count as u32, flags) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    #[test]
    fn gathered_ranges_arrive_in_order() {
        let (a, b) = UnixStream::pair().unwrap();
        let (wire, mut parts) = (b"0123456789", Vec::new());
        for (ranges, expected) in [
            (vec![(2, 5)], "234"),
            (vec![(0, 1), (4, 6), (9, 10)], "0459"),
            (vec![(0, 1); MAX_PARTS + 9], &"0".repeat(MAX_PARTS)),
        ] {
            let sent = send_gathered(a.as_fd(), wire, ranges.into_iter(), &mut parts).unwrap();
            let mut got = vec![0; 4096];
            let len = receive(b.as_fd(), &mut got).unwrap();
            assert_eq!((sent, &got[..len]), (expected.len(), expected.as_bytes()));
        }
    }

    #[test]
    fn addresses_parse_or_say_why() {
        for good in ["unix:/tmp/x", "unix:@name", "127.0.0.1:7", "[::1]:7"] {
            let address = SocketAddress::from_str(good).unwrap();
            assert!(address.same_peer(&SocketAddress::from_str(good).unwrap()), "{good}");
            assert_eq!(address.is_unix(), good.starts_with("unix"));
        }
        for bad in ["", "unix:", "127.0.0.1", &format!("unix:{}", "x".repeat(108))] {
            assert!(SocketAddress::from_str(bad).is_err(), "{bad}");
        }
        let (a, b) =
            (SocketAddress::from_str("[::1]:7").unwrap(), SocketAddress::from_str("[::2]:7").unwrap());
        assert!(!a.same_peer(&b));
    }

    #[test]
    fn batches_of_datagrams_keep_their_senders() {
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let to = local_address(b.as_fd()).unwrap();
        let mut messages = Messages::new(4);
        let datagrams: [&[u8]; 3] = [b"one", b"", b"longer than eight"];
        assert_eq!(send_batch(a.as_fd(), datagrams.into_iter(), Some(&to), &mut messages).unwrap(), 3);
        let mut buffer = [0; 40];
        assert_eq!(receive_batch(b.as_fd(), &mut buffer, 10, 2, &mut messages).unwrap(), 3);
        assert_eq!(
            (0..3).map(|n| messages.received(n)).collect::<Vec<_>>(),
            [(3, false), (0, false), (8, true)]
        );
        assert_eq!(&buffer[2..5], b"one");
        assert!(messages.sender(0).same_peer(&local_address(a.as_fd()).unwrap()));
        assert!(!messages.sender(0).same_peer(&to));
    }

    #[test]
    fn the_poll_socket_knows_when_the_peer_is_missing() {
        let folder = std::env::temp_dir().join(format!("vbackend-sys-{}", std::process::id()));
        let path = SocketAddress::from_str(&format!("unix:{}", folder.display())).unwrap();
        assert!(unix_poll_socket(&path).is_err());
        let _peer = UnixDatagram::bind(&folder).unwrap();
        assert!(unix_poll_socket(&path).is_ok());
        std::fs::remove_file(&folder).unwrap();
    }
}
