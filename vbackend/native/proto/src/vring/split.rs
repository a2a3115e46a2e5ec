//! The split layout (VIRTIO 1.2 §2.7): a descriptor table, the driver's ring of heads, the device's ring of used elements.

use super::chain::{INDIRECT, NEXT, Walk};
use super::{Area, Areas, Batch, Chain, Config, Direction, Memory, RingError};

// Both rings begin with flags and index, and have an event index behind their elements (§2.7.6, §2.7.8).
const FLAGS: usize = 0;
const INDEX: usize = 2;
const RING: usize = 4;
const HEAD_LEN: usize = 2;
const USED_LEN: usize = 8;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT`: the driver wants no calls.
const NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`: the device wants no kicks.
const NO_NOTIFY: u16 = 1;

/// Elements of a ring that are copied at once.
const PIECE: usize = 32;

/// A split virtqueue. Indexes count chains, modulo 65536; an element's place is its index modulo the size.
#[derive(Debug)]
pub struct Split<A> {
    areas: Areas<A>,
    config: Config,
    next_avail: u16,     // the next chain to fetch
    seen: u16,           // the driver's index when it was last looked at
    next_used: u16,      // the next chain to complete; also in shared memory
    called: Option<u16>, // `next_used` when a call was last considered
    kicks: Option<bool>, // what the flags say to the driver
    told: bool,          // they, or the event index, were written
}

impl<A: Area> Split<A> {
    pub(super) fn new(config: Config, areas: Areas<A>) -> Split<A> {
        let used = areas.device.load(INDEX);
        Split {
            areas,
            config,
            next_avail: used,
            seen: used,
            next_used: used,
            called: None,
            kicks: None,
            told: false,
        }
    }

    pub(super) fn set_areas(&mut self, areas: Areas<A>) {
        self.areas = areas;
    }

    #[inline]
    pub(super) fn fetch<M: Memory<Area = A>>(
        &mut self,
        memory: &M,
        direction: Direction,
        most: usize,
        batch: &mut Batch<A>,
    ) -> Result<usize, RingError> {
        let wanted = self.available(most)?.min(most);
        let mut walk = Walk::new(memory, direction, &self.config, most, batch);
        let mut heads = [0; HEAD_LEN * PIECE];
        let mut taken = 0;
        while taken < wanted {
            let (place, until_end) = self.place(self.next_avail);
            let heads = &mut heads[..HEAD_LEN * PIECE.min(until_end).min(wanted - taken)];
            self.areas.driver.read(RING + HEAD_LEN * place, heads);
            for head in heads.as_chunks::<HEAD_LEN>().0 {
                if !walk.goes_on() {
                    return Ok(taken);
                }
                walk.chain(|walk| self.collect(walk, u16::from_le_bytes(*head)))?;
                self.next_avail = self.next_avail.wrapping_add(1);
                taken += 1;
            }
        }
        Ok(taken)
    }

    /// How many chains can be fetched. The driver's index is left alone while enough are known of.
    #[inline]
    fn available(&mut self, most: usize) -> Result<usize, RingError> {
        let known = usize::from(self.seen.wrapping_sub(self.next_avail));
        if known >= most {
            return Ok(known);
        }
        self.seen = self.areas.driver.load(INDEX);
        let held = self.next_avail.wrapping_sub(self.next_used);
        match self.seen.wrapping_sub(self.next_used) {
            offered if offered > self.config.size || offered < held => {
                self.seen = self.next_avail;
                Err(RingError::Jump)
            }
            offered => Ok(usize::from(offered - held)),
        }
    }

    /// Walk one chain. Only its last descriptor may be an indirect one (§2.7.5.3.2).
    #[inline]
    fn collect<M: Memory<Area = A>>(
        &self,
        walk: &mut Walk<'_, M>,
        head: u16,
    ) -> Result<(u16, u16), RingError> {
        if head >= self.config.size {
            return Err(RingError::Head);
        }
        let (mut index, mut slots) = (head, 1); // `buffer` counts them, and ends a loop
        loop {
            let descriptor = walk.split(self.areas.descriptors, index);
            if descriptor.flags & INDIRECT != 0 {
                walk.linked_table(&descriptor)?;
                return Ok((head, slots));
            }
            walk.buffer(&descriptor)?;
            if descriptor.flags & NEXT == 0 {
                return Ok((head, slots));
            }
            slots += 1;
            index = descriptor.link;
            if index >= self.config.size {
                return Err(RingError::Next);
            }
        }
    }

    #[inline]
    pub(super) fn rewind(&mut self, chains: &[Chain]) {
        debug_assert!(chains.len() <= usize::from(self.next_avail.wrapping_sub(self.next_used)));
        self.next_avail = self.next_avail.wrapping_sub(chains.len() as u16);
    }

    #[inline]
    pub(super) fn complete(&mut self, chains: &[Chain], lens: &[u32]) {
        debug_assert!(chains.len() <= usize::from(self.next_avail.wrapping_sub(self.next_used)));
        let mut elements = [0; USED_LEN * PIECE];
        let mut done = 0;
        while done < chains.len() {
            let (place, until_end) = self.place(self.next_used);
            let count = PIECE.min(until_end).min(chains.len() - done);
            let elements = &mut elements[..USED_LEN * count];
            let these = done..done + count;
            for (raw, (chain, len)) in elements
                .as_chunks_mut::<USED_LEN>()
                .0
                .iter_mut()
                .zip(chains[these.clone()].iter().zip(&lens[these]))
            {
                let element = u64::from(chain.id) | u64::from(*len) << 32; // struct virtq_used_elem
                *raw = element.to_le_bytes();
            }
            self.areas.device.write(RING + USED_LEN * place, elements);
            self.next_used = self.next_used.wrapping_add(count as u16);
            done += count;
        }
        self.areas.device.store(INDEX, self.next_used);
    }

    #[inline]
    pub(super) fn take_call<M: Memory<Area = A>>(&mut self, memory: &M) -> bool {
        let before = self.called.replace(self.next_used);
        if before == Some(self.next_used) {
            return false;
        }
        memory.fence(); // the driver may be going to sleep: it stores its wish, then looks at the used index
        if !self.config.event_idx {
            return self.areas.driver.load(FLAGS) & NO_INTERRUPT == 0;
        }
        let event = self.areas.driver.load(RING + HEAD_LEN * usize::from(self.config.size));
        before.is_none_or(|before| needs_event(event, before, self.next_used))
    }

    #[inline]
    pub(super) fn enable_kicks<M: Memory<Area = A>>(&mut self, memory: &M) -> bool {
        if self.config.event_idx {
            let event = RING + USED_LEN * usize::from(self.config.size);
            self.areas.device.store(event, self.next_avail);
            self.told = true;
        } else {
            self.set_flags(true);
        }
        memory.fence(); // the driver stores its index, then looks whether to kick
        self.areas.driver.load(INDEX) != self.next_avail
    }

    /// With an event index nothing is to be done: the driver passes it once and is silent.
    #[inline]
    pub(super) fn disable_kicks(&mut self) {
        if !self.config.event_idx {
            self.set_flags(false);
        }
    }

    fn set_flags(&mut self, kicks: bool) {
        if self.kicks.replace(kicks) != Some(kicks) {
            self.areas.device.store(FLAGS, if kicks { 0 } else { NO_NOTIFY });
            self.told = true;
        }
    }

    #[inline]
    pub(super) fn take_told(&mut self) -> bool {
        std::mem::take(&mut self.told)
    }

    pub(super) fn base(&self) -> u32 {
        u32::from(self.next_used)
    }

    pub(super) fn size(&self) -> u16 {
        self.config.size
    }

    /// Where in a ring the element of `index` is, and how many there are from it to the end.
    #[inline]
    fn place(&self, index: u16) -> (usize, usize) {
        let place = usize::from(index & (self.config.size - 1));
        (place, usize::from(self.config.size) - place)
    }
}

/// Whether going from index `old` to `new` passed `event` (§2.7.7; `vring_need_event` of linux/virtio_ring.h).
#[inline]
fn needs_event(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
