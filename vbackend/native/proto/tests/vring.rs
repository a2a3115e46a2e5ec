//! Both ring layouts between a mock driver and a naive twin: a list of what was posted, and where it stands.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::VecDeque;

use proptest::prelude::*;
use vbackend_proto::testing::driver::{Buffer, Calls, Driver};
use vbackend_proto::testing::ram::{Ram, RamArea};
use vbackend_proto::vring::{Batch, Chain, Config, Direction, Vring, areas_len};

/// Two regions that touch within a buffer, and room for tables.
const DATA: u64 = 0x10_0000;
const SEAM: u64 = DATA + 4 * 4 * SLOT + 5;
const END: u64 = 0x20_0000;
const RING: u64 = 0x1000_0000;
const SLOT: u64 = 64;

#[derive(Clone, Debug)]
enum Step {
    /// The driver posts a chain of so many buffers of these lengths, perhaps in a table, and perhaps publishes.
    Post { lens: Vec<u32>, indirect: bool, publish: bool },
    /// The device fetches.
    Fetch { most: usize },
    /// It gives back some of what it holds last.
    Rewind { count: usize },
    /// It completes some of what it holds first, and asks whether to call.
    Complete { count: usize },
    /// The driver looks for used chains, then says when it wants the next call.
    Reap { most: usize, calls: Calls },
    /// The device asks for kicks, or wants none.
    Kicks { on: bool },
    /// The device stops in order, and another one comes.
    Restart,
    /// The device dies after so many stores of completing some. The driver takes what came back and posts more. Another
    /// one comes, and is told where it all began.
    Die { count: usize, stores: usize, posts: Vec<u32> },
}

fn step() -> impl Strategy<Value = Step> {
    let lens = proptest::collection::vec(prop_oneof![1 => Just(0u32), 9 => 1..40u32], 1..5);
    let calls = prop_oneof![Just(Calls::On), Just(Calls::Off), (0..5u16).prop_map(Calls::After)];
    prop_oneof![
        8 => (lens, any::<bool>(), any::<bool>())
            .prop_map(|(lens, indirect, publish)| Step::Post { lens, indirect, publish }),
        4 => (0..9usize).prop_map(|most| Step::Fetch { most }),
        2 => (0..4usize).prop_map(|count| Step::Rewind { count }),
        4 => (0..9usize).prop_map(|count| Step::Complete { count }),
        3 => (0..20usize, calls).prop_map(|(most, calls)| Step::Reap { most, calls }),
        2 => any::<bool>().prop_map(|on| Step::Kicks { on }),
        1 => Just(Step::Restart),
        2 => (0..5usize, prop_oneof![0..9usize, Just(100)], proptest::collection::vec(1..5u32, 0..9))
            .prop_map(|(count, stores, posts)| Step::Die { count, stores, posts }),
    ]
}

/// A ring's layout and size. Small ones go round often.
fn layout() -> impl Strategy<Value = (bool, u16)> {
    prop_oneof![
        4 => (0..4u32).prop_map(|bits| (false, 1 << bits)),
        1 => (4..16u32).prop_map(|bits| (false, 1 << bits)),
        4 => (1..9u16).prop_map(|size| (true, size)),
        1 => (9..=32768u16).prop_map(|size| (true, size)),
    ]
}

/// A posted chain, as the twin knows it.
#[derive(Clone, Debug)]
struct Posted {
    id: u16,
    bytes: Vec<u64>,  // the address of each
    descriptors: u32, // of the ring or the table
    slots: u32,       // places it takes, as they are numbered here
}

/// What the twin counts. Places in the ring are numbered for ever: chains in a split ring, slots in a packed one.
struct World<'a> {
    ram: &'a Ram,
    packed: bool,
    config: Config,
    direction: Direction,
    driver: Driver<'a>,
    vring: Vring<RamArea<'a>>,
    posted: VecDeque<Posted>,    // not visible yet
    available: VecDeque<Posted>, // visible, not fetched
    held: VecDeque<(Posted, Chain)>,
    done: VecDeque<(u16, u32)>, // completed, not seen by the driver
    at: Places,
    asked_at: Option<u64>, // where `used` was when a call was last considered
    calls: Calls,
    call_at: u64, // where a call is wanted
    kicks: Kicks,
    begin: u32, // the base of the first device
    slot: u64,  // of data memory, to be used next
}

/// When a kick is wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kicks {
    /// The ring says what it was left with.
    Unknown,
    Never,
    Always,
    /// When this place becomes available.
    At(u64),
}

/// The numbers of the next place to be …
#[derive(Clone, Copy, Default)]
struct Places {
    published: u64,
    fetched: u64,
    used: u64,
    reaped: u64,
}

impl<'a> World<'a> {
    fn new(ram: &'a Ram, packed: bool, config: Config, direction: Direction, start: u32) -> World<'a> {
        let driver = Driver::new(ram, packed, config, RING, start);
        let vring = Vring::new(packed, config, driver.areas(), driver.base()).unwrap();
        driver.want(Calls::On);
        let begin = driver.base();
        World {
            ram,
            packed,
            config,
            direction,
            driver,
            vring,
            posted: VecDeque::new(),
            available: VecDeque::new(),
            held: VecDeque::new(),
            done: VecDeque::new(),
            at: Places::default(),
            asked_at: None,
            calls: Calls::On,
            call_at: 0,
            kicks: Kicks::Unknown,
            begin,
            slot: 0,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Post { lens, indirect, publish } => {
                self.post(lens, *indirect);
                if *publish {
                    self.publish();
                }
            }
            Step::Fetch { most } => self.fetch(*most),
            Step::Rewind { count } => self.rewind(*count),
            Step::Complete { count } => self.complete(*count),
            Step::Reap { most, calls } => self.reap(*most, *calls),
            Step::Kicks { on: true } => {
                assert_eq!(self.vring.enable_kicks(&self.ram), !self.available.is_empty());
                self.kicks = match self.config.event_idx && (!self.packed || self.held.is_empty()) {
                    true => Kicks::At(self.at.fetched),
                    false => Kicks::Always,
                };
            }
            Step::Kicks { on: false } => {
                self.vring.disable_kicks();
                if !self.config.event_idx || self.packed {
                    self.kicks = Kicks::Never;
                }
            }
            Step::Restart => self.restart(),
            Step::Die { count, stores, posts } => self.die(*count, *stores, posts),
        }
        self.check();
    }

    fn post(&mut self, lens: &[u32], indirect: bool) {
        let write = self.direction == Direction::ToGuest;
        let base = DATA + 4 * SLOT * (self.slot % 0x1000);
        let table = indirect.then_some(END - 0x8_0000 + base - DATA);
        let buffers: Vec<Buffer> = (base..)
            .step_by(SLOT as usize)
            .zip(lens)
            .map(|(address, len)| Buffer { address, len: *len, write })
            .collect();
        if buffers.len() > self.config.size.into() {
            return; // not even a table may be longer than the ring
        }
        let Some(id) = self.driver.post(&buffers, table) else {
            return;
        };
        self.slot += 1;
        let bytes = buffers.iter().flat_map(|buffer| buffer.address..buffer.address + u64::from(buffer.len));
        let descriptors = if indirect { 1 } else { lens.len() as u32 };
        let slots = if self.packed { descriptors } else { 1 };
        self.posted.push_back(Posted { id, bytes: bytes.collect(), descriptors, slots });
    }

    fn publish(&mut self) {
        let before = self.at.published;
        self.at.published += self.posted.iter().map(|chain| u64::from(chain.slots)).sum::<u64>();
        self.available.append(&mut self.posted);
        let kicked = self.driver.publish();
        let passed = before..self.at.published;
        match self.kicks {
            Kicks::Unknown => {}
            Kicks::Never => assert!(!kicked),
            Kicks::Always => assert_eq!(kicked, !passed.is_empty()),
            Kicks::At(at) => {
                // What is not asked for anew comes true again when the numbers have gone round.
                let modulus = self.modulus();
                let wanted = passed.clone().any(|place| place >= at && (place - at).is_multiple_of(modulus));
                assert_eq!(kicked, wanted, "{at} in {passed:?}");
            }
        }
    }

    fn fetch(&mut self, most: usize) {
        let mut batch = Batch::default();
        let taken = self.vring.fetch(&self.ram, self.direction, most, &mut batch).unwrap();
        assert_eq!((taken, batch.chains.len()), (most.min(self.available.len()).min(taken), taken));
        let reads: usize = self.available.iter().take(taken).map(|chain| chain.bytes.len().max(1)).sum();
        assert!(taken == most.min(self.available.len()) || reads > 0, "stops early for nothing");
        for chain in &batch.chains {
            let posted = self.available.pop_front().unwrap();
            let bytes = batch.parts_of(chain).iter().flat_map(|area| {
                let len = vbackend_proto::vring::Area::len(area) as u64;
                assert!(len > 0);
                area.address()..area.address() + len
            });
            assert!(bytes.eq(posted.bytes.iter().copied()), "other bytes than were posted");
            assert_eq!((chain.id, chain.len as usize), (posted.id, posted.bytes.len()));
            assert_eq!(u32::from(chain.slots), posted.descriptors);
            self.at.fetched += u64::from(posted.slots);
            self.held.push_back((posted, *chain));
        }
    }

    fn rewind(&mut self, count: usize) {
        let back = self.held.split_off(self.held.len().saturating_sub(count));
        let chains: Vec<Chain> = back.iter().map(|(_, chain)| *chain).collect();
        self.vring.rewind(&chains);
        for (posted, _) in back.into_iter().rev() {
            self.at.fetched -= u64::from(posted.slots);
            self.available.push_front(posted);
        }
    }

    fn complete(&mut self, count: usize) {
        let chains: Vec<Chain> = self.held.iter().take(count).map(|(_, chain)| *chain).collect();
        let lens: Vec<u32> = chains.iter().map(|chain| chain.len / 2).collect();
        self.vring.complete(&chains, &lens);
        for ((posted, _), len) in self.held.drain(..chains.len()).zip(lens) {
            self.at.used += u64::from(posted.slots);
            self.done.push_back((posted.id, len));
        }
        self.move_event();
        let expected = match self.asked_at {
            Some(at) if at == self.at.used => false,
            _ if self.calls == Calls::Off && (self.packed || !self.config.event_idx) => false,
            None => true,
            Some(at) => !self.config.event_idx || (at..self.at.used).contains(&self.call_at),
        };
        assert_eq!(self.vring.take_call(&self.ram), expected);
        assert!(!self.vring.take_call(&self.ram));
        self.asked_at = Some(self.at.used);
    }

    fn reap(&mut self, most: usize, calls: Calls) {
        let calls = match calls {
            Calls::After(count) => Calls::After(count.min(self.config.size - 1)), // what can be used before it looks
            calls => calls,
        };
        for _ in 0..most {
            let used = self.driver.take_used();
            assert_eq!(used, self.done.pop_front());
        }
        self.at.reaped = self.driver_place();
        self.driver.want(calls);
        self.calls = calls;
        self.call_at = self.at.reaped
            + match calls {
                Calls::On => 0,
                Calls::After(count) => u64::from(count),
                Calls::Off => 65535,
            };
    }

    /// The number of the place where the driver looks next: what is completed less what it has not seen.
    fn driver_place(&self) -> u64 {
        let base = self.driver.base();
        let modulus = self.modulus();
        let vring = self.vring.base();
        let place = |base: u32| match self.packed {
            false => u64::from(base),
            true if base & 0x8000 != 0 => u64::from(base & 0x7fff),
            true => u64::from(base & 0x7fff) + u64::from(self.config.size),
        };
        self.at.used - (place(vring) + modulus - place(base)) % modulus
    }

    /// After so many places their numbers in the ring are the same.
    fn modulus(&self) -> u64 {
        if self.packed { 2 * u64::from(self.config.size) } else { 65536 }
    }

    /// A packed ring has one place for where it stands and where it wants a kick.
    fn move_event(&mut self) {
        if let (true, Kicks::At(_)) = (self.packed, self.kicks) {
            self.kicks = Kicks::At(self.at.used);
        }
    }

    /// Another device finds all that was not completed; what the first one knew is lost.
    fn restart(&mut self) {
        let base = self.vring.base();
        assert_eq!(self.vring.stop(), base);
        self.replace(base);
        if self.packed {
            self.kicks = Kicks::Always;
        }
    }

    /// A new device comes.
    fn replace(&mut self, base: u32) {
        self.vring = Vring::new(self.packed, self.config, self.driver.areas(), base).unwrap();
        for (posted, _) in self.held.drain(..).rev() {
            self.available.push_front(posted);
        }
        (self.at.fetched, self.asked_at) = (self.at.used, None);
    }

    /// The device dies while it completes: the driver gets all of that, or nothing. What was cut short comes back
    /// empty, if only a store of it was made; a chain never comes back twice, which `reap` sees.
    fn die(&mut self, count: usize, stores: usize, posts: &[u32]) {
        self.publish(); // drivers have at most one chain half written
        let chains: Vec<Chain> = self.held.iter().take(count).map(|(_, chain)| *chain).collect();
        let mut lens: Vec<u32> = chains.iter().map(|chain| chain.len / 2).collect();
        self.ram.die_after(stores);
        self.vring.complete(&chains, &lens);
        let is_whole = self.ram.revive() == 0;
        let comes_back = is_whole || (self.packed && stores > 0);
        if comes_back && !is_whole {
            lens.fill(0);
        }
        let back: Vec<_> = self.held.drain(..if comes_back { chains.len() } else { 0 }).collect();
        let done: Vec<_> = back.iter().zip(lens).map(|((posted, _), len)| (posted.id, len)).collect();
        if is_whole {
            self.done.extend(&done);
        }
        let slots: u64 = back.iter().map(|(posted, _)| u64::from(posted.slots)).sum();
        self.at.used += slots;
        self.kicks = Kicks::Unknown;
        while let Some(used) = self.driver.take_used() {
            assert_eq!(Some(used), self.done.pop_front());
        }
        assert_eq!(self.done.len(), 0);
        for count in posts {
            self.post(&vec![7; *count as usize], false);
            self.publish();
        }
        self.replace(self.begin);
        if !is_whole {
            self.done.extend(done);
        }
        assert_eq!(self.at.used - self.driver_place(), if is_whole { 0 } else { slots });
        self.at.reaped = self.driver_place();
        self.driver.want(Calls::On);
        (self.calls, self.call_at) = (Calls::On, self.at.reaped);
    }

    fn check(&self) {
        assert_eq!(self.vring.size(), self.config.size);
        if self.done.is_empty() {
            assert_eq!(self.vring.base(), self.driver.base());
        }
    }

    /// All that was posted comes back, whatever happened before.
    fn finish(&mut self) {
        self.publish();
        while !self.available.is_empty() {
            self.fetch(usize::MAX);
        }
        self.complete(usize::MAX);
        self.reap(self.done.len() + 1, Calls::On);
        assert_eq!((self.done.len(), self.at.published), (0, self.at.used));
    }
}

proptest! {
    #[test]
    fn any_interleaving_is_what_the_twin_says(
        (packed, size) in layout(),
        event_idx in any::<bool>(),
        to_guest in any::<bool>(),
        start in prop_oneof![0..70000u32, 65500..65536u32],
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let ring = Driver::footprint(packed, size);
        let ram = Ram::new(&[(DATA, (SEAM - DATA) as usize), (SEAM, (END - SEAM) as usize), (RING, ring)]);
        let config = Config { size, event_idx, indirect: true, in_order: false, most_bytes: 200 };
        let direction = if to_guest { Direction::ToGuest } else { Direction::FromGuest };
        let mut world = World::new(&ram, packed, config, direction, start);
        for step in &steps {
            world.step(step);
        }
        world.finish();
    }
}

#[test]
fn a_long_run_passes_every_wrap() {
    for (packed, size) in [(false, 1), (false, 8), (true, 1), (true, 3), (true, 8)] {
        let ram = Ram::new(&[(DATA, (END - DATA) as usize), (RING, Driver::footprint(packed, size))]);
        let config = Config { size, event_idx: true, indirect: true, in_order: false, most_bytes: 200 };
        let mut world = World::new(&ram, packed, config, Direction::FromGuest, 0);
        let round = [
            Step::Post { lens: vec![3], indirect: false, publish: false },
            Step::Post { lens: vec![5, 1], indirect: false, publish: true },
            Step::Fetch { most: 2 },
            Step::Kicks { on: true },
            Step::Complete { count: 2 },
            Step::Reap { most: 2, calls: Calls::After(1) },
        ];
        while world.at.published < 140_000 {
            round.iter().for_each(|step| world.step(step));
        }
        world.finish();
        assert_eq!(areas_len(packed, size)[0], 16 * usize::from(size));
        ram.take_reads();
    }
}
