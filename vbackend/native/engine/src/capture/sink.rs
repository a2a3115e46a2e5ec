//! Where the packets of one capture are collected, and the bounded memory of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vbackend_proto::capture::block::PacketBlock;

use crate::command::lock;
use crate::sys::EventFd;

/// What became of one interface's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceCounts {
    /// Passed the port.
    pub seen: u64,
    /// Passed the filter too, and were recorded.
    pub captured: u64,
    /// Passed the filter and did not fit.
    pub lost: u64,
}

/// Interfaces of one capture at most. Their descriptions are kept however slow the reader is.
pub const MOST_INTERFACES: usize = 4096;

/// Where the packets of one capture are collected.
pub struct Sink {
    inner: Mutex<Inner>,
    ready: EventFd, // signalled exactly while there is something to read, or the capture has ended
    limit_bytes: usize,
}

struct Inner {
    blocks: Vec<u8>,
    read: usize, // bytes of `blocks` that the reader has
    interfaces: Vec<Interface>,
    left: Option<u64>, // packets until the end
    ended: bool,
}

#[derive(Default)]
struct Interface {
    seen: Arc<AtomicU64>,
    captured: u64,
    lost: u64,
    untold: u64, // of `lost`: no packet block has told them yet
}

impl Sink {
    /// A sink for packets of `interfaces` ports that holds up to `limit_bytes` of blocks, and ends by itself after
    /// `count` packets.
    ///
    /// # Errors
    /// No eventfd to be had.
    pub fn new(interfaces: usize, limit_bytes: usize, count: Option<u64>) -> io::Result<Sink> {
        let inner = Inner {
            blocks: Vec::new(),
            read: 0,
            interfaces: (0..interfaces).map(|_| Interface::default()).collect(),
            left: count,
            ended: false,
        };
        let sink = Sink { inner: Mutex::new(inner), ready: EventFd::new()?, limit_bytes };
        if count == Some(0) {
            sink.end();
        }
        Ok(sink)
    }

    /// How many interfaces it has.
    #[must_use]
    pub fn interfaces(&self) -> usize {
        lock(&self.inner).interfaces.len()
    }

    /// Another interface, whose description (a whole block) stands in front of its first packet. Returns its number;
    /// None: the capture has ended, or has [`MOST_INTERFACES`].
    pub fn add_interface(&self, description: &[u8]) -> Option<u32> {
        let mut inner = lock(&self.inner);
        let number = inner.interfaces.len();
        if inner.ended || number >= MOST_INTERFACES {
            return None;
        }
        inner.interfaces.push(Interface::default());
        inner.blocks.extend_from_slice(description);
        self.ready.signal();
        u32::try_from(number).ok()
    }

    /// Where packets that pass the port of an interface are counted. None: there is no such interface.
    pub(super) fn seen(&self, interface: u32) -> Option<Arc<AtomicU64>> {
        let inner = lock(&self.inner);
        inner.interfaces.get(interface as usize).map(|one| Arc::clone(&one.seen))
    }

    /// Record nothing more. What was recorded can still be read; a second call does nothing.
    pub fn end(&self) {
        let mut inner = lock(&self.inner);
        inner.ended = true;
        self.ready.signal();
    }

    /// Whether all was read and nothing more will come.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        let inner = lock(&self.inner);
        inner.ended && inner.read == inner.blocks.len()
    }

    /// Hand up to `most` recorded bytes to `take`. They continue where the last call stopped, inside of a block or not.
    pub fn read<T>(&self, most: usize, take: impl FnOnce(&[u8]) -> T) -> T {
        let mut inner = lock(&self.inner);
        let end = inner.blocks.len().min(inner.read.saturating_add(most));
        let taken = take(&inner.blocks[inner.read..end]);
        inner.read = end;
        if inner.read == inner.blocks.len() {
            inner.blocks.clear();
            inner.read = 0;
            if !inner.ended {
                self.ready.clear();
            }
        }
        taken
    }

    /// What became of each interface's packets.
    #[must_use]
    pub fn counts(&self) -> Vec<InterfaceCounts> {
        let inner = lock(&self.inner);
        let counts = |one: &Interface| {
            let seen = one.seen.load(Ordering::Relaxed);
            InterfaceCounts { seen, captured: one.captured, lost: one.lost }
        };
        inner.interfaces.iter().map(counts).collect()
    }

    /// Bytes it holds, read ones too.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        lock(&self.inner).blocks.len()
    }

    /// Take a packet in, or count it as lost.
    pub(super) fn record(&self, mut block: PacketBlock<'_>) {
        let mut inner = lock(&self.inner);
        if inner.ended {
            return;
        }
        let index = block.interface as usize;
        let waiting = inner.blocks.len() - inner.read;
        block.lost_before = inner.interfaces[index].untold;
        if waiting + block.encoded_len() > self.limit_bytes {
            inner.interfaces[index].lost += 1;
            inner.interfaces[index].untold += 1;
            return;
        }
        if inner.read > self.limit_bytes / 2 {
            let read = std::mem::take(&mut inner.read);
            inner.blocks.drain(..read);
        }
        block.emit(&mut inner.blocks);
        inner.interfaces[index].captured += 1;
        inner.interfaces[index].untold = 0;
        inner.left = inner.left.map(|left| left - 1);
        inner.ended = inner.left == Some(0);
        if waiting == 0 || inner.ended {
            self.ready.signal();
        }
    }
}

impl AsFd for Sink {
    /// Readable while there is something to read, or the capture has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}
