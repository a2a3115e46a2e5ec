//! Both layouts against a mock driver, rule by rule. Any interleaving is tried in `tests/vring.rs`.

mod events;
mod layout;
mod lies;
mod resume;

use super::*;
use crate::testing::driver::{Buffer, Driver};
use crate::testing::ram::{Ram, RamArea};

const LAYOUTS: [bool; 2] = [false, true];
const RING: u64 = 0x1000;
const TABLES: u64 = 0x8000;
const DATA: u64 = 0x1_0000;
/// Another region follows here at once.
const SEAM: u64 = 0x1_8000;
const END: u64 = 0x2_0000;

fn ram() -> Ram {
    Ram::new(&[(RING, (SEAM - RING) as usize), (SEAM, (END - SEAM) as usize)])
}

fn config(size: u16) -> Config {
    Config { size, event_idx: false, indirect: true, in_order: false, most_bytes: 2000 }
}

fn start<'a>(ram: &'a Ram, packed: bool, config: Config, at: u32) -> (Driver<'a>, Vring<RamArea<'a>>) {
    let driver = Driver::new(ram, packed, config, RING, at);
    let vring = Vring::new(packed, config, driver.areas(), driver.base()).unwrap();
    (driver, vring)
}

fn readable(address: u64, len: u32) -> Buffer {
    Buffer { address, len, write: false }
}

fn writable(address: u64, len: u32) -> Buffer {
    Buffer { address, len, write: true }
}

fn parts(batch: &Batch<RamArea<'_>>, chain: usize) -> Vec<(u64, usize)> {
    batch.parts_of(&batch.chains[chain]).iter().map(|area| (area.address(), area.len())).collect()
}

#[test]
fn set_up_is_checked() {
    let ram = &Ram::new(&[(0, 0x10_0000)]);
    let areas = |lens: [usize; 3]| Areas {
        descriptors: ram.whole(0, lens[0]),
        driver: ram.whole(0x8_0000, lens[1]),
        device: ram.whole(0xa_0000, lens[2]),
    };
    let cases: &[(bool, u16, u32, Result<u32, RingError>)] = &[
        (false, 1, 0, Ok(0)),
        (false, 32768, 7, Ok(0)),
        (false, 0, 0, Err(RingError::Size)),
        (false, 3, 0, Err(RingError::Size)),
        (false, 32769, 0, Err(RingError::Size)),
        (true, 0, 0, Err(RingError::Size)),
        (true, 1, 0x8000, Ok(0x8000_8000)),
        (true, 3, 0x8002_8001, Ok(0x8002_8002)),
        (true, 3, 0x0002_8001, Ok(0x0002_0002)),
        (true, 3, 0, Ok(0x8000_8000)),
        (true, 3, 1, Ok(0x0001_0001)),
        (true, 3, 0x8003_8001, Err(RingError::Base)),
        (true, 3, 3, Err(RingError::Base)),
        (true, 32768, 0xffff_ffff, Ok(0xffff_ffff)),
        (true, 32769, 0, Err(RingError::Size)),
    ];
    for (packed, size, base, expected) in cases {
        let new = Vring::new(*packed, config(*size), areas(areas_len(*packed, (*size).min(32768))), *base);
        assert_eq!(new.map(|vring| vring.base()), *expected, "packed {packed}, size {size}, base {base:#x}");
    }
    for packed in LAYOUTS {
        let lens = areas_len(packed, 4);
        let mut vring = Vring::new(packed, config(4), areas(lens), 0).unwrap();
        for short in 0..3 {
            let mut lens = lens;
            lens[short] -= 1;
            assert_eq!(Vring::new(packed, config(4), areas(lens), 0).err(), Some(RingError::Short));
            assert_eq!(vring.set_areas(areas(lens)), Err(RingError::Short));
        }
        assert_eq!((vring.set_areas(areas(lens)), vring.size()), (Ok(()), 4));
        assert_eq!(check_alignment(packed, [16, 4, 4]), Ok(()));
        for wrong in [[8, 4, 4], [16, 1, 4], [16, 4, 2]] {
            assert_eq!(check_alignment(packed, wrong), Err(RingError::Misaligned));
        }
        assert_eq!(check_alignment(packed, [16, 2, 4]).is_ok(), !packed);
    }
}

/// User-mode Linux says 0 where a new ring has wrap counters of 1.
#[test]
fn a_packed_ring_at_0_is_new_unless_something_was_used() {
    let ram = &Ram::new(&[(0, 0x1_0000)]);
    let descriptors = ram.whole(0, 16 * 4);
    let areas = Areas { descriptors, driver: ram.whole(0x8000, 4), device: ram.whole(0x9000, 4) };
    let base = || Vring::new(true, config(4), areas, 0).unwrap().base();
    assert_eq!(base(), 0x8000_8000);
    descriptors.store(14, 1 << 7); // available
    assert_eq!(base(), 0x8000_8000);
    descriptors.store(2 * 16 + 14, 1 << 7 | 1 << 15); // used
    assert_eq!(base(), 0);
}

#[test]
fn a_split_ring_goes_on_at_its_used_index() {
    let ram = &ram();
    let driver = Driver::new(ram, false, config(4), RING, 65535);
    for base in [0, 65535, 3] {
        let vring = Vring::new(false, config(4), driver.areas(), base).unwrap();
        assert_eq!(vring.base(), 65535);
    }
}

#[test]
fn chains_come_with_their_parts_and_go_back_with_their_lengths() {
    for packed in LAYOUTS {
        let ram = &ram();
        let (mut driver, mut vring) = start(ram, packed, config(8), 6);
        let mut batch = Batch::default();
        assert_eq!(vring.fetch(&ram, Direction::ToGuest, 9, &mut batch), Ok(0));
        let posted = [
            driver.post(&[writable(DATA, 10), writable(DATA + 100, 20)], None),
            driver.post(&[writable(DATA + 200, 0), writable(SEAM - 5, 30), writable(DATA, 1)], Some(TABLES)),
            driver.post(&[writable(DATA + 300, 0)], None),
        ]
        .map(Option::unwrap);
        assert_eq!(vring.fetch(&ram, Direction::ToGuest, 9, &mut batch), Ok(0), "not published yet");
        assert!(driver.publish());
        assert_eq!(vring.fetch(&ram, Direction::ToGuest, 2, &mut batch), Ok(2));
        assert_eq!(vring.fetch(&ram, Direction::ToGuest, 2, &mut batch), Ok(1));
        let of = |chain: Chain| (chain.id, chain.len, chain.slots);
        assert_eq!(of(batch.chains[0]), (posted[0], 30, 2));
        assert_eq!(of(batch.chains[1]), (posted[1], 31, 1));
        assert_eq!(of(batch.chains[2]), (posted[2], 0, 1));
        assert_eq!(parts(&batch, 0), [(DATA, 10), (DATA + 100, 20)]);
        assert_eq!(parts(&batch, 1), [(SEAM - 5, 5), (SEAM, 25), (DATA, 1)]);
        assert_eq!(parts(&batch, 2), []);
        assert_eq!(driver.take_used(), None);
        vring.complete(&batch.chains[..2], &[30, 0]);
        let used: Vec<_> = std::iter::from_fn(|| driver.take_used()).collect();
        assert_eq!(used, [(posted[0], 30), (posted[1], 0)]);
        let base = driver.base();
        assert_eq!(vring.base(), base, "what is held does not count");
        vring.rewind(&batch.chains[2..]);
        assert_eq!(vring.base(), base);
        batch.clear();
        assert_eq!(vring.fetch(&ram, Direction::ToGuest, 9, &mut batch), Ok(1));
        vring.complete(&batch.chains, &[0]);
        assert_eq!((driver.take_used(), driver.take_used()), (Some((posted[2], 0)), None));
        assert_eq!(vring.base(), driver.base());
    }
}

#[test]
fn a_batch_without_its_first_chains_is_still_one() {
    let ram = &ram();
    let (mut driver, mut vring) = start(ram, true, config(8), 0);
    for (at, buffers) in [(DATA, 2), (DATA + 100, 1), (DATA + 200, 3)] {
        driver.post(&vec![readable(at, 10); buffers], None).unwrap();
    }
    driver.publish();
    for (dropped, left) in
        [(0, vec![DATA, DATA + 100, DATA + 200]), (1, vec![DATA + 100, DATA + 200]), (3, vec![])]
    {
        let mut batch = Batch::default();
        vring.fetch(&ram, Direction::FromGuest, 8, &mut batch).unwrap();
        vring.rewind(&batch.chains);
        batch.drop_first(dropped);
        let heads: Vec<u64> = (0..batch.chains.len()).map(|chain| parts(&batch, chain)[0].0).collect();
        let count: usize = batch.chains.iter().map(|chain| usize::from(chain.count)).sum();
        assert_eq!((heads, batch.parts.len()), (left, count));
    }
}

#[test]
fn every_size_is_filled_and_emptied_over_its_end() {
    let sizes: [&[u16]; 2] = [&[1, 2, 256, 32768], &[1, 2, 3, 7, 1000, 32767, 32768]];
    for (packed, sizes) in LAYOUTS.into_iter().zip(sizes) {
        for size in sizes {
            let ram = &Ram::new(&[(RING, Driver::footprint(packed, *size)), (END * 64, 16)]);
            let (mut driver, mut vring) = start(ram, packed, config(*size), 65536 - u32::from(*size) / 2);
            let mut batch = Batch::default();
            for _ in 0..3 {
                let posted: Vec<u16> =
                    (0..*size).filter_map(|_| driver.post(&[readable(END * 64, 16)], None)).collect();
                assert_eq!((posted.len(), driver.post(&[readable(0, 0)], None)), (usize::from(*size), None));
                driver.publish();
                batch.clear();
                let fetched = vring.fetch(&ram, Direction::FromGuest, usize::MAX, &mut batch);
                assert_eq!(fetched, Ok(usize::from(*size)));
                assert!(batch.chains.iter().map(|chain| chain.id).eq(posted.iter().copied()));
                assert!(!vring.enable_kicks(&ram));
                vring.complete(&batch.chains, &vec![0; usize::from(*size)]);
                assert!(posted.iter().all(|id| driver.take_used() == Some((*id, 0))));
            }
        }
    }
}

#[test]
fn a_ring_goes_on_where_its_memory_moves_to() {
    for packed in LAYOUTS {
        let ram = &ram();
        let (mut driver, mut vring) = start(ram, packed, config(4), 0);
        let id = driver.post(&[readable(DATA, 4)], None);
        driver.publish();
        let (lens, from) = (areas_len(packed, 4), driver.addresses());
        let moved = |index: usize| {
            let to = ram.whole(TABLES + 0x1000 * index as u64, lens[index]);
            let mut bytes = vec![0; lens[index]];
            ram.whole(from[index], lens[index]).read(0, &mut bytes);
            ram.put(from[index], &vec![0xff; lens[index]]);
            to.write(0, &bytes);
            to
        };
        let areas = Areas { descriptors: moved(0), driver: moved(1), device: moved(2) };
        vring.set_areas(areas).unwrap();
        let mut batch = Batch::default();
        assert_eq!(vring.fetch(&ram, Direction::FromGuest, 4, &mut batch), Ok(1));
        assert_eq!((Some(batch.chains[0].id), parts(&batch, 0)), (id, vec![(DATA, 4)]));
    }
}

#[test]
fn nothing_is_read_twice() {
    for packed in LAYOUTS {
        let ram = &ram();
        let (mut driver, mut vring) = start(ram, packed, config(16), 12);
        for table in [None, Some(TABLES), None, Some(TABLES + 0x100)] {
            driver.post(&[readable(DATA, 4), readable(SEAM - 1, 2), readable(DATA, 9)], table).unwrap();
        }
        driver.publish();
        ram.take_reads();
        assert_eq!(vring.fetch(&ram, Direction::FromGuest, 4, &mut Batch::default()), Ok(4));
        let mut reads = ram.take_reads();
        if packed {
            // Flags are looked at first, and those that come along with the descriptor are not used.
            reads.retain(|read| read.end - read.start != 2);
        }
        reads.sort_by_key(|read| read.start);
        assert!(reads.windows(2).all(|two| two[0].end <= two[1].start), "{reads:x?}");
    }
}
