//! Fuzz target: a ring in guest memory that any bytes fill and change, and a device that works on it regardless.
//!
//! Promises checked: what is fetched lies in guest memory, adds up, and is no more than a ring holds; one fetch reads no
//! more than it should; the device writes nothing but what is its own; where it stands is always a good base.

use super::Input;
use super::ram::{Ram, RamArea};
use crate::vring::{Area, Areas, Batch, Chain, Config, Direction, Vring, areas_len};

/// The ring begins here; two regions touch in the middle of what lies behind it.
const START: u64 = 0x100;
const SEAM: u64 = START + 0x301;
const END: u64 = START + 0x400;
const SIZES: [u16; 8] = [1, 2, 4, 8, 3, 5, 7, 16];

/// The bytes are: what was negotiated, the size, then steps.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (features, size) = (input.byte(), input.byte());
    let ram = Ram::new(&[(START, (SEAM - START) as usize), (SEAM, (END - SEAM) as usize)]);
    let mut world = World::new(&ram, features, SIZES[usize::from(size) % SIZES.len()]);
    while !input.is_empty() {
        world.step(&mut input);
    }
}

struct World<'a> {
    ram: &'a Ram,
    packed: bool,
    config: Config,
    direction: Direction,
    vring: Vring<RamArea<'a>>,
    held: Vec<Chain>,
}

impl<'a> World<'a> {
    fn new(ram: &'a Ram, features: u8, size: u16) -> World<'a> {
        let packed = features & 1 != 0;
        let config = Config {
            size: if packed { size } else { size.next_power_of_two() },
            event_idx: features & 2 != 0,
            indirect: features & 4 != 0,
            in_order: false,
            most_bytes: 0x180,
        };
        let direction = if features & 8 == 0 { Direction::FromGuest } else { Direction::ToGuest };
        let areas = areas(ram, packed, config.size);
        let vring = Vring::new(packed, config, areas, 0x8000).expect("is a good ring");
        World { ram, packed, config, direction, vring, held: Vec::new() }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 8 {
            0 => {
                let address = START + u64::from(input.word() % 0x400);
                let len = input.byte() % 32;
                self.ram.put(address, input.bytes(len.into()));
            }
            1 | 2 => self.put_descriptor(input),
            3 => self.put_available(input),
            4 => self.fetch(input.byte().into()),
            5 => {
                let from = self.held.len().saturating_sub(input.byte().into());
                self.vring.rewind(&self.held.split_off(from));
            }
            6 => self.complete(input),
            _ => self.restart(input),
        }
    }

    /// A descriptor that is good now and then: in the ring, or in what lies behind it.
    fn put_descriptor(&self, input: &mut Input<'_>) {
        let (index, flags) = (input.byte() % 64, u16::from(input.byte()));
        let (address, len) = (START - 4 + 4 * u64::from(input.byte()), u32::from(input.byte()));
        let link = u16::from(input.byte() % 18);
        // The packed layout's AVAIL and USED stand for bits 6 and 7.
        let flags = flags & 0xbf | flags << 9 & 1 << 15;
        let words = if self.packed { [link, flags] } else { [flags & 7, link] };
        let at = START + 16 * u64::from(index);
        self.ram.put(at, &address.to_le_bytes());
        self.ram.put(at + 8, &(len << (flags & 4)).to_le_bytes()); // a multiple of 16 for an indirect one
        self.ram.put(at + 12, &words[0].to_le_bytes());
        self.ram.put(at + 14, &words[1].to_le_bytes());
    }

    /// Some chains more, or fewer, are available, and the driver wants calls for any of them.
    fn put_available(&self, input: &mut Input<'_>) {
        let (count, head) = (input.byte(), input.byte());
        let at = START + areas_len(self.packed, self.config.size)[0] as u64;
        if self.packed {
            self.ram.put(at, &[count, head, count >> 6]);
        } else {
            let index = self.ram.word(at + 2);
            let place = u64::from(index % self.config.size);
            self.ram.put(at + 4 + 2 * place, &[head % 17]);
            self.ram.put(at, &[count >> 7]);
            self.ram.put(at + 2, &index.wrapping_add(u16::from(count % 20)).wrapping_sub(2).to_le_bytes());
        }
    }

    fn fetch(&mut self, most: usize) {
        let mut batch = Batch::default();
        let (size, before) = (usize::from(self.config.size), self.others());
        self.ram.take_reads();
        let fetched = self.vring.fetch(&self.ram, self.direction, most, &mut batch);
        let reads: u64 = self.ram.take_reads().iter().map(|read| read.end - read.start).sum();
        // Descriptors, then heads or flags, and an index.
        let bound = 16 * (2 * size + most.min(size)) + 2 * most.min(size) + 2;
        assert!(reads <= bound as u64, "{reads} bytes were read, not {bound}");
        assert!(before == self.others(), "a fetch wrote");
        assert!(fetched.is_err() || fetched == Ok(batch.chains.len()));
        assert!(batch.chains.len() <= most);
        let mut first = 0;
        for chain in &batch.chains {
            assert_eq!(chain.first, first);
            first += u32::from(chain.count);
            let parts = batch.parts_of(chain);
            let len: usize = parts.iter().map(Area::len).sum();
            assert!(chain.len as usize == len && parts.iter().all(|part| !part.is_empty()));
            assert!(self.direction == Direction::ToGuest || chain.len <= self.config.most_bytes);
            assert!((1..=self.config.size).contains(&chain.slots));
            assert!(self.packed || chain.id < self.config.size);
        }
        assert_eq!(first as usize, batch.parts.len());
        self.held.append(&mut batch.chains);
        let places = |chain: &Chain| if self.packed { usize::from(chain.slots) } else { 1 };
        assert!(self.held.iter().map(places).sum::<usize>() <= size, "more is held than the ring has");
    }

    fn complete(&mut self, input: &mut Input<'_>) {
        let count = self.held.len().min(input.byte().into());
        let lens: Vec<u32> = self.held.iter().take(count).map(|chain| chain.len).collect();
        let before = self.others();
        self.vring.complete(&self.held[..count], &lens);
        self.held.drain(..count);
        self.vring.take_call(&self.ram);
        assert!(!self.vring.take_call(&self.ram), "nothing was completed since");
        match input.byte() % 3 {
            0 => self.vring.disable_kicks(),
            1 => drop(self.vring.enable_kicks(&self.ram)),
            _ => {}
        }
        assert!(before == self.others(), "what is not the device's was written");
    }

    /// Another device takes over: where this one says that it stands, or anywhere. It may have died, and left anything.
    fn restart(&mut self, input: &mut Input<'_>) {
        let anywhere = u32::from(input.word());
        let base = if anywhere & 0x2000 != 0 { self.vring.stop() } else { self.vring.base() };
        let (packed, config) = (self.packed, self.config);
        let areas = areas(self.ram, packed, config.size);
        let is_in_order = packed && areas.device.load(0) == 0x7fff; // no slot of these rings: the base alone counts
        let new = |base| Vring::new(packed, config, areas, base);
        let same = new(base).expect("is a good base");
        // 0 is what user-mode Linux says of new rings.
        assert!(!is_in_order || base == 0 || same.base() == base);
        self.vring = new(anywhere).unwrap_or(same);
        self.held.clear();
    }

    /// All bytes that the device does not write.
    fn others(&self) -> Vec<u8> {
        let lens = areas_len(self.packed, self.config.size);
        let device = START + (lens[0] + lens[1]) as u64;
        let mut bytes = vec![0; (SEAM - START) as usize];
        self.ram.whole(START, bytes.len()).read(0, &mut bytes);
        bytes.drain((device - START) as usize..(device - START) as usize + lens[2]);
        if self.packed {
            bytes.drain(..lens[0]);
        }
        bytes
    }
}

/// The parts of the ring, one behind the other.
fn areas(ram: &Ram, packed: bool, size: u16) -> Areas<RamArea<'_>> {
    let [descriptors, driver, device] = areas_len(packed, size);
    let at = START + descriptors as u64;
    Areas {
        descriptors: ram.whole(START, descriptors),
        driver: ram.whole(at, driver),
        device: ram.whole(at + driver as u64, device),
    }
}
