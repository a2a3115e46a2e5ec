//! One virtqueue of a session: the ring, its descriptors for waking, and its batch.

use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::vnet::{VNET_HEADER_LEN, VnetHeader};
use vbackend_proto::vring::{
    Area, Areas, Batch, Chain, Config, Direction, RingError, Vring, areas_len, check_alignment,
};

use super::features::Features;
use super::stats::RingInfo;
use crate::port::Sent;
use crate::port::lazy::Missing;
use crate::sys::{Call, DirtyLog, GuestArea, GuestMemory, Kick};

/// Chains fetched at a time for frames to the guest.
const FETCH: usize = 64;

/// Where the parts of a ring lie, in the front-end's addresses, and how it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingPlace {
    /// Entries.
    pub size: u16,
    /// As `VHOST_USER_SET_VRING_BASE` has it.
    pub base: u32,
    /// Descriptor table, or packed ring.
    pub descriptors: u64,
    /// Available ring, or driver event area.
    pub driver: u64,
    /// Used ring, or device event area.
    pub device: u64,
}

/// A ring and what belongs to it. Frames move while it is `running` and enabled.
#[derive(Default)]
pub struct Ring {
    vring: Option<Vring<GuestArea>>,
    place: Option<RingPlace>,
    areas: Option<Areas<GuestArea>>,
    packed: bool,
    /// The front-end lets frames move.
    pub enabled: bool,
    /// Where it kicks; None: it wants to be polled.
    pub kick: Option<Kick>,
    /// Where it is called.
    pub call: Option<Call>,
    /// Where it hears that the ring was stopped.
    pub err: Option<Call>,
    /// Counted.
    pub kicks: u64,
    calls: u64,
    frames: u64,
    batch: Batch<GuestArea>, // fetched and not completed; between turns those that are not enough for a frame
    lens: Vec<u32>,          // of the first chains of `batch`: bytes written into them
    left: Option<u32>,       // where it stood when it was stopped for a lie, until somebody asks
    full: Option<usize>, // `batch` has all chains the ring can have, none used, with room for so many bytes
}

impl Ring {
    /// Start at `place`.
    ///
    /// # Errors
    /// The ring is not in memory, or makes no sense; the text says what.
    pub fn start(
        &mut self,
        place: RingPlace,
        features: Features,
        memory: &GuestMemory,
    ) -> Result<(), String> {
        (self.vring, self.left) = (None, None);
        let packed = features.packed();
        let areas = translate(place, packed, memory)?;
        let config = Config {
            size: place.size,
            event_idx: features.event_idx(),
            indirect: features.indirect(),
            in_order: features.in_order(),
            most_bytes: super::MOST_BYTES,
        };
        let vring = Vring::new(packed, config, areas, place.base).map_err(|error| error.text().to_owned())?;
        (self.vring, self.place, self.areas, self.packed) = (Some(vring), Some(place), Some(areas), packed);
        Ok(())
    }

    /// Begin to work after a start: call for what was completed before it, by somebody who may have died since.
    pub fn begin(&mut self, memory: &GuestMemory, log: Option<&DirtyLog>) {
        self.disable_kicks(memory, None);
        if let Some(log) = log {
            self.log_ring(memory, log);
        }
        self.call(memory);
    }

    /// Stop; where the next start is to continue. None: it was not running, nor stopped for a lie since this was asked.
    pub fn stop(&mut self, memory: &GuestMemory, log: Option<&DirtyLog>) -> Option<u32> {
        let base = self.vring.as_mut().map(Vring::stop);
        self.log_told(memory, log);
        (self.vring, self.areas) = (None, None);
        self.batch.clear();
        self.lens.clear();
        self.full = None;
        base.or_else(|| self.left.take())
    }

    /// Whether it was started.
    pub fn is_running(&self) -> bool {
        self.vring.is_some()
    }

    /// Whether frames move.
    pub fn is_live(&self) -> bool {
        self.enabled && self.vring.is_some()
    }

    /// Go on in `new` memory. False: the ring is not in it, and is stopped.
    pub fn move_to(&mut self, new: &GuestMemory, memory: &GuestMemory, log: Option<&DirtyLog>) -> bool {
        let (Some(vring), Some(place)) = (&mut self.vring, self.place) else { return true };
        match translate(place, self.packed, new) {
            Ok(areas) if vring.set_areas(areas).is_ok() => {
                self.areas = Some(areas);
                true
            }
            _ => {
                self.left = self.stop(memory, log);
                false
            }
        }
    }

    /// Fetch what the guest sent, at most `most` chains. They are `fetched` until `finish`.
    pub fn fetch(&mut self, memory: &GuestMemory, most: usize) -> Result<usize, RingError> {
        let Some(vring) = &mut self.vring else { return Ok(0) };
        vring.fetch(memory, Direction::FromGuest, most, &mut self.batch)
    }

    /// The chains fetched: bytes, and the parts they are in.
    pub fn fetched(&self) -> impl Iterator<Item = (usize, &[GuestArea])> {
        self.batch.chains.iter().map(|chain| (chain.len as usize, self.batch.parts_of(chain)))
    }

    /// The first `done` of the chains fetched were read; the others are to be found again.
    pub fn keep(&mut self, done: usize) {
        self.lens.resize(done, 0);
        self.frames += done as u64;
    }

    /// Call the front-end if it wants it.
    fn call(&mut self, memory: &GuestMemory) {
        if self.vring.as_mut().is_some_and(|vring| vring.take_call(memory))
            && let Some(call) = &self.call
        {
            call.signal();
            self.calls += 1;
        }
    }

    /// Want no kicks.
    pub fn disable_kicks(&mut self, memory: &GuestMemory, log: Option<&DirtyLog>) {
        if let Some(vring) = &mut self.vring {
            vring.disable_kicks();
            self.log_told(memory, log);
        }
    }

    /// Want a kick for the next chain; whether there is one already.
    pub fn enable_kicks(&mut self, memory: &GuestMemory, log: Option<&DirtyLog>) -> bool {
        let is_there = self.vring.as_mut().is_some_and(|vring| vring.enable_kicks(memory));
        self.log_told(memory, log);
        is_there
    }

    /// Write a frame behind its header into chains of the guest. `expected`: frames to come in this turn, this one
    /// counted. What is written is returned by `finish`.
    pub fn put(
        &mut self,
        memory: &GuestMemory,
        features: Features,
        body: Body<'_>,
        vnet: &VnetHeader,
        expected: usize,
    ) -> Result<Sent, RingError> {
        let header_len = features.header_len();
        let need = header_len + body.len;
        let first = self.lens.len();
        let taken = match self.gather(memory, features.mergeable(), need, expected)? {
            Gathered::Chains(taken) => taken,
            Gathered::TooFew => return Ok(Sent::Later),
            Gathered::TooSmall => return Ok(Sent::No(DropReason::Oversize)),
        };
        self.full = None;
        let mut header = vnet.emit();
        header[VNET_HEADER_LEN - 2..]
            .copy_from_slice(&u16::try_from(taken).unwrap_or(u16::MAX).to_le_bytes());
        let chains = &self.batch.chains[first..first + taken];
        match (chains, &body.missing) {
            ([chain], None) if chain.count == 1 => {
                let part = self.batch.parts_of(chain)[0];
                part.write(0, &header[..header_len]);
                part.write(header_len, body.bytes);
                self.lens.push(u32::try_from(need).unwrap_or(u32::MAX));
            }
            _ => scatter(&self.batch, chains, &header[..header_len], body, &mut self.lens),
        }
        self.frames += 1;
        Ok(Sent::Yes(body.len))
    }

    /// Find chains with room for `need` bytes behind those in use.
    fn gather(
        &mut self,
        memory: &GuestMemory,
        mergeable: bool,
        need: usize,
        expected: usize,
    ) -> Result<Gathered, RingError> {
        let Some(vring) = &mut self.vring else { return Ok(Gathered::TooFew) };
        if self.full.is_some_and(|room| room < need) {
            return Ok(Gathered::TooSmall);
        }
        let first = self.lens.len();
        let (mut taken, mut room) = (0, 0);
        while room < need {
            if first + taken == self.batch.chains.len() {
                let most = expected.clamp(1, FETCH);
                if vring.fetch(memory, Direction::ToGuest, most, &mut self.batch)? == 0 {
                    // More than all of its buffers hold will never fit: the guest has no slot left to give another.
                    let slots: usize = self.batch.chains.iter().map(|chain| usize::from(chain.slots)).sum();
                    if first > 0 || slots < usize::from(vring.size()) {
                        return Ok(Gathered::TooFew);
                    }
                    self.full = Some(room); // no frame but the first one of a turn counts thousands of tiny buffers
                    return Ok(Gathered::TooSmall);
                }
            }
            room += self.batch.chains[first + taken].len as usize;
            taken += 1;
            if room < need && !mergeable {
                return Ok(Gathered::TooSmall);
            }
        }
        Ok(Gathered::Chains(taken))
    }

    /// Return what `put` filled, or was kept, with one publication and at most one call; the rest is given back unless
    /// it is to be held. `log`: where writes are noted. False: there was nothing.
    pub fn finish(&mut self, memory: &GuestMemory, log: Option<&DirtyLog>, hold: bool) -> bool {
        let used = self.lens.len();
        if used > 0 {
            if let Some(vring) = &mut self.vring {
                vring.complete(&self.batch.chains[..used], &self.lens);
            }
            if let Some(log) = log {
                self.log_buffers(memory, log);
                self.log_ring(memory, log);
            }
            self.batch.drop_first(used);
            self.lens.clear();
            self.call(memory);
        }
        if !hold {
            self.give_back();
        }
        used > 0
    }

    /// Give back what is held: the next fetch finds it again. No chain is filled when this is called.
    pub fn give_back(&mut self) {
        if let Some(vring) = &mut self.vring {
            vring.rewind(&self.batch.chains);
        }
        self.batch.clear();
        self.full = None;
    }

    fn log_buffers(&self, memory: &GuestMemory, log: &DirtyLog) {
        for (chain, len) in self.batch.chains.iter().zip(&self.lens) {
            let mut left = *len as usize;
            for part in self.batch.parts_of(chain) {
                let here = left.min(part.len());
                log.mark(memory, part, here);
                left -= here;
            }
        }
    }

    /// Note that the ring was written: used entries, or packed descriptors, and the event areas.
    fn log_ring(&self, memory: &GuestMemory, log: &DirtyLog) {
        let Some(areas) = &self.areas else { return };
        log.mark(memory, &areas.device, areas.device.len());
        if self.packed {
            log.mark(memory, &areas.descriptors, areas.descriptors.len());
        }
    }

    /// Note what was written beside completions.
    #[inline]
    fn log_told(&mut self, memory: &GuestMemory, log: Option<&DirtyLog>) {
        if self.vring.as_mut().is_some_and(Vring::take_told)
            && let (Some(areas), Some(log)) = (&self.areas, log)
        {
            log.mark(memory, &areas.device, areas.device.len());
        }
    }

    /// Stop for a lie, and tell the front-end.
    pub fn fail(&mut self, memory: &GuestMemory, log: Option<&DirtyLog>) {
        self.left = self.stop(memory, log);
        if let Some(err) = &self.err {
            err.signal();
        }
    }

    /// What `show` tells of it.
    pub fn info(&self) -> RingInfo {
        RingInfo {
            running: self.is_running(),
            enabled: self.enabled,
            packed: self.packed,
            size: self.place.map_or(0, |place| place.size),
            kicks: self.kicks,
            calls: self.calls,
            frames: self.frames,
        }
    }
}

enum Gathered {
    /// So many chains, behind those in use.
    Chains(usize),
    /// The guest has not given enough yet.
    TooFew,
    /// The frame will not fit.
    TooSmall,
}

/// A frame for the guest: bytes of ours, and what is still in another guest's memory.
#[derive(Clone, Copy)]
pub struct Body<'a> {
    /// The beginning, or all of it.
    pub bytes: &'a [u8],
    /// The rest.
    pub missing: Option<Missing<'a>>,
    /// Bytes of both.
    pub len: usize,
}

/// Write header and frame one behind the other over the parts of chains, and note how much went into each chain.
fn scatter(batch: &Batch<GuestArea>, chains: &[Chain], header: &[u8], body: Body<'_>, lens: &mut Vec<u32>) {
    let (mut left, first) = (header.len() + body.len, lens.len());
    lens.extend(chains.iter().map(|chain| {
        let here = left.min(chain.len as usize);
        left -= here;
        u32::try_from(here).unwrap_or(u32::MAX)
    }));
    debug_assert!(left == 0 && first + chains.len() == lens.len());
    let mut target =
        Target { parts: chains.iter().flat_map(|chain| batch.parts_of(chain)), part: None, at: 0 };
    for bytes in [header, body.bytes] {
        target.fill(bytes.len(), |from, part, at, len| part.write(at, &bytes[from..from + len]));
    }
    let mut missing = body.len - body.bytes.len();
    for (source, skip) in body.missing.iter().flat_map(Missing::pieces) {
        let len = missing.min(source.len() - skip);
        target.fill(len, |from, part, at, len| source.copy_to(skip + from, part, at, len));
        missing -= len;
    }
}

/// Parts that are filled one behind the other.
struct Target<'a, I: Iterator<Item = &'a GuestArea>> {
    parts: I,
    part: Option<&'a GuestArea>,
    at: usize, // bytes of `part` that are full
}

impl<'a, I: Iterator<Item = &'a GuestArea>> Target<'a, I> {
    /// Fill the next `len` bytes: `copy` is given where each piece begins, and its part, place there and length.
    fn fill(&mut self, len: usize, copy: impl Fn(usize, &GuestArea, usize, usize)) {
        let mut from = 0;
        while from < len {
            let Some(part) = self.part.filter(|part| self.at < part.len()) else {
                (self.part, self.at) = (self.parts.next(), 0);
                if self.part.is_none() {
                    return; // `gather` found room for all of it
                }
                continue;
            };
            let here = (len - from).min(part.len() - self.at);
            copy(from, part, self.at, here);
            from += here;
            self.at += here;
        }
    }
}

fn translate(place: RingPlace, packed: bool, memory: &GuestMemory) -> Result<Areas<GuestArea>, String> {
    let lens = areas_len(packed, place.size);
    let find = |what: &str, address: u64, len: usize| {
        memory
            .user_area(address, len)
            .ok_or_else(|| format!("the {what} at {address:#x} ({len} bytes) is not in guest memory"))
    };
    let areas = Areas {
        descriptors: find("descriptor table", place.descriptors, lens[0])?,
        driver: find(if packed { "driver area" } else { "available ring" }, place.driver, lens[1])?,
        device: find(if packed { "device area" } else { "used ring" }, place.device, lens[2])?,
    };
    // Where it is mapped counts: a front-end can describe its memory so that its own addresses look better.
    let addresses = [areas.descriptors, areas.driver, areas.device].map(|area| area.host_address());
    check_alignment(packed, addresses).map_err(|error| error.text().to_owned())?;
    Ok(areas)
}
