//! Virtqueues seen from the device (VIRTIO 1.2 §2.7 split, §2.8 packed): take what the driver offers, give it back.
//!
//! ```text
//!  fetch ──► Batch: chains, and their parts of guest memory ──► the caller copies ──► complete ──► take_call
//!    ▲                                      └─► rewind: there was no use for them
//!  enable_kicks: nothing is left, wake me
//! ```
//!
//! Chains are returned in the order they were fetched, whether or not VIRTIO_F_IN_ORDER was negotiated. So all that is
//! before the used position is done and all that is behind it is not, and whoever takes a ring over after a crash goes
//! on there: a split ring's is in shared memory, a packed one's is kept there too (`resume.rs`).
//!
//! The driver is not trusted, and changes memory while it is read. A descriptor is copied once, then checked, then used;
//! a lie is a [`RingError`], after which the ring should be stopped. One `fetch` copies at most twice the ring's
//! size of descriptors and `most` more, whatever they say.

mod chain;
mod error;
mod packed;
mod resume;
mod split;
#[cfg(test)]
mod tests;

pub use chain::{Batch, Chain};
pub use error::RingError;
pub use packed::Packed;
pub use split::Split;

/// The most slots of a ring (VIRTIO 1.2 §2.7, §2.8).
pub const MAX_SIZE: u16 = 32768;

/// A piece of guest memory that is mapped and stays so while this exists.
///
/// The guest may change it at any moment, so each call reads or writes once. Offsets that lie outside panic.
pub trait Area: Copy {
    /// Its bytes.
    fn len(&self) -> usize;
    /// Whether it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// A hint: its beginning is about to be read, or written. Another processor has just used it, so it is worth asking
    /// for many of them before the first one is needed.
    fn prefetch(&self, _direction: Direction) {}
    /// Copy `at..at + out.len()` out.
    fn read(&self, at: usize, out: &mut [u8]);
    /// Copy `bytes` in.
    fn write(&self, at: usize, bytes: &[u8]);
    /// Read a little endian number that another thread stores (acquire). `at` is even.
    fn load(&self, at: usize) -> u16;
    /// Write a little endian number that publishes what was written before (release). `at` is even.
    fn store(&self, at: usize, value: u16);
    /// The part `at..at + len`.
    #[must_use]
    fn slice(&self, at: usize, len: usize) -> Self;
}

/// Guest physical memory.
pub trait Memory {
    /// A piece of it.
    type Area: Area;
    /// The memory at `address`: `len` bytes, or as many as lie in one piece (at least 1). None: not guest memory.
    fn area(&self, address: u64, len: usize) -> Option<Self::Area>;
    /// Nothing that follows is done before what precedes is seen by the guest: a full memory barrier.
    fn fence(&self);
}

/// Which way the bytes of a ring's buffers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Buffers that the device reads: the guest transmits.
    FromGuest,
    /// Buffers that the device writes: the guest receives.
    ToGuest,
}

/// What was negotiated for a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Slots (`SET_VRING_NUM`).
    pub size: u16,
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// VIRTIO_F_INDIRECT_DESC.
    pub indirect: bool,
    /// VIRTIO_F_IN_ORDER. It changes nothing: chains always come back in order, each with a used element of its own,
    /// since a single one for several loses the lengths.
    pub in_order: bool,
    /// A longer chain from the guest is an error. One to the guest may be longer.
    pub most_bytes: u32,
}

/// The three parts of a ring in guest memory (VIRTIO 1.2 §2.7: descriptor table, available ring, used ring; §2.8:
/// descriptor ring, driver and device event suppression). [`areas_len`] says how long each is.
#[derive(Clone, Copy, Debug)]
pub struct Areas<A> {
    /// Descriptor area.
    pub descriptors: A,
    /// Driver area, which the device only reads.
    pub driver: A,
    /// Device area, which the device only writes.
    pub device: A,
}

/// The bytes of each of [`Areas`], event fields included, in order.
#[must_use]
pub fn areas_len(packed: bool, size: u16) -> [usize; 3] {
    let size = usize::from(size);
    match packed {
        false => [16 * size, 6 + 2 * size, 6 + 8 * size],
        true => [16 * size, 4, 4],
    }
}

/// Check the addresses of [`Areas`], in order: guest physical ones, or where they are mapped.
///
/// # Errors
/// [`RingError::Misaligned`] (VIRTIO 1.2 §2.7, §2.8.10.1).
pub fn check_alignment(packed: bool, addresses: [u64; 3]) -> Result<(), RingError> {
    let alignments: [u64; 3] = if packed { [16, 4, 4] } else { [16, 2, 4] };
    let aligned = addresses.iter().zip(alignments).all(|(address, to)| address.is_multiple_of(to));
    if aligned { Ok(()) } else { Err(RingError::Misaligned) }
}

impl<A: Area> Areas<A> {
    fn check(&self, packed: bool, size: u16) -> Result<(), RingError> {
        let lens = [self.descriptors.len(), self.driver.len(), self.device.len()];
        let enough = lens.iter().zip(areas_len(packed, size)).all(|(len, needed)| *len >= needed);
        if enough { Ok(()) } else { Err(RingError::Short) }
    }
}

/// A running ring.
#[derive(Debug)]
pub enum Vring<A> {
    /// VIRTIO 1.2 §2.7.
    Split(Split<A>),
    /// VIRTIO 1.2 §2.8, VIRTIO_F_RING_PACKED.
    Packed(Packed<A>),
}

/// Do the same to either layout.
macro_rules! either {
    ($vring:expr, $ring:ident => $what:expr) => {
        match $vring {
            Vring::Split($ring) => $what,
            Vring::Packed($ring) => $what,
        }
    };
}

impl<A: Area> Vring<A> {
    /// Start a ring where `base` says (`SET_VRING_BASE`, see [`Vring::base`]).
    ///
    /// A split ring starts at its used index, whatever `base` is. Both are the same when a front-end tells the truth, and
    /// DPDK's virtio-user in server mode does not: it sends 0 for rings that have advanced. A packed ring starts where
    /// its device died, if one did: then `base` only tells up to where the front-end served it meanwhile.
    ///
    /// # Errors
    /// [`RingError::Size`], [`RingError::Short`], [`RingError::Base`].
    pub fn new(packed: bool, config: Config, areas: Areas<A>, base: u32) -> Result<Vring<A>, RingError> {
        let size = config.size;
        if !(1..=MAX_SIZE).contains(&size) || !(packed || size.is_power_of_two()) {
            return Err(RingError::Size);
        }
        areas.check(packed, size)?;
        match packed {
            false => Ok(Vring::Split(Split::new(config, areas))),
            true => Packed::new(config, areas, base).map(Vring::Packed),
        }
    }

    /// Go on at other places: the memory table changed under the running ring.
    ///
    /// # Errors
    /// [`RingError::Short`]; the ring still has the old areas then.
    pub fn set_areas(&mut self, areas: Areas<A>) -> Result<(), RingError> {
        areas.check(matches!(self, Vring::Packed(_)), self.size())?;
        either!(self, ring => ring.set_areas(areas));
        Ok(())
    }

    /// Append up to `most` available chains to `batch`; returns how many.
    ///
    /// Fewer do not mean that there are no more: long chains end a fetch early, so that its work is bounded.
    ///
    /// # Errors
    /// The ring lied. Chains before the lie are in the batch and good.
    #[inline]
    pub fn fetch<M: Memory<Area = A>>(
        &mut self,
        memory: &M,
        direction: Direction,
        most: usize,
        batch: &mut Batch<A>,
    ) -> Result<usize, RingError> {
        either!(self, ring => ring.fetch(memory, direction, most, batch))
    }

    /// Give the last fetched `chains` back unused; the next fetch finds them again.
    #[inline]
    pub fn rewind(&mut self, chains: &[Chain]) {
        either!(self, ring => ring.rewind(chains));
    }

    /// Return the chains that were fetched first, `lens[i]` bytes written into the i-th, with one publication for all.
    ///
    /// # Panics
    /// When there are not as many lengths as chains.
    #[inline]
    pub fn complete(&mut self, chains: &[Chain], lens: &[u32]) {
        assert_eq!(chains.len(), lens.len(), "one length for each chain");
        if !chains.is_empty() {
            either!(self, ring => ring.complete(chains, lens));
        }
    }

    /// Whether the driver wants a call for what was completed since this was asked last.
    ///
    /// Asked for the first time, it wants one unless it has calls off: who served the ring before may have died
    /// between completing and calling.
    #[inline]
    pub fn take_call<M: Memory<Area = A>>(&mut self, memory: &M) -> bool {
        either!(self, ring => ring.take_call(memory))
    }

    /// Ask the driver for kicks. True: chains became available meanwhile, so look again before sleeping.
    #[inline]
    pub fn enable_kicks<M: Memory<Area = A>>(&mut self, memory: &M) -> bool {
        either!(self, ring => ring.enable_kicks(memory))
    }

    /// Tell the driver that kicks are not needed. A hint: some may come.
    #[inline]
    pub fn disable_kicks(&mut self) {
        either!(self, ring => ring.disable_kicks());
    }

    /// Whether the device area was written since this was asked last, by anything but completions: by wishes for kicks, or
    /// by a stop.
    #[inline]
    pub fn take_told(&mut self) -> bool {
        either!(self, ring => ring.take_told())
    }

    /// Where to go on, for `GET_VRING_BASE`: the first chain that was not completed.
    ///
    /// A split ring has its index. A packed one has slot and wrap counter (bit 15) twice: in the low half the next
    /// available, in the high half the next used descriptor.
    #[must_use]
    pub fn base(&self) -> u32 {
        either!(self, ring => ring.base())
    }

    /// Leave the ring in order, so that the base is believed at the next start; returns [`Vring::base`].
    pub fn stop(&mut self) -> u32 {
        if let Vring::Packed(ring) = self {
            ring.stop();
        }
        self.base()
    }

    /// Slots.
    #[must_use]
    pub fn size(&self) -> u16 {
        either!(self, ring => ring.size())
    }
}
