//! Where a packed ring goes on, case by case. Any interleaving with any death is tried in `tests/vring.rs`.

use std::collections::VecDeque;

use super::super::packed::Position;
use super::*;
use crate::testing::driver::Calls;

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
const NEXT: u16 = 1;
const SIZE: u16 = 4;
/// What front-ends say of new rings.
const BEGIN: u32 = 0x8000;

/// A ring's memory, in slots and the device's position.
fn areas(ram: &Ram) -> Areas<RamArea<'_>> {
    let part = |index: usize| ram.whole(RING + 0x100 * index as u64, areas_len(true, SIZE)[index]);
    Areas { descriptors: part(0), driver: part(1), device: part(2) }
}

/// Where a ring of these flags starts, told `base`, when `position` was left.
fn started(flags: [u16; 4], position: u16, base: u32) -> u16 {
    let ram = &ram();
    let areas = areas(ram);
    for (slot, flags) in flags.into_iter().enumerate() {
        // The value that no driver writes anything else with.
        let address = if flags == 0 { 0 } else { DATA };
        areas.descriptors.write(16 * slot, &address.to_le_bytes());
        areas.descriptors.store(16 * slot + 14, flags);
    }
    areas.device.store(0, position);
    let vring = Vring::new(true, config(SIZE), areas, base).unwrap();
    assert_eq!(areas.device.load(0), vring.base() as u16, "it is kept from the start");
    vring.base() as u16
}

#[test]
fn a_position_counts_when_the_ring_looks_like_it() {
    const NEW: u16 = 0;
    const USED_1: u16 = AVAIL | USED;
    const WAITS_1: u16 = AVAIL;
    const USED_0: u16 = 2; // a device wrote into it
    const WAITS_0: u16 = USED;
    let left = |slot: u16, wrap: u16| slot | wrap << 15;
    let cases: &[(&str, [u16; 4], u16, u32, u16)] = &[
        // (what happened, flags, position, base, start)
        ("new memory", [NEW; 4], 0, BEGIN, left(0, 1)),
        ("new memory, user-mode Linux", [NEW; 4], 0, 0, left(0, 1)),
        ("new, some are offered", [WAITS_1, WAITS_1, NEW, NEW], 0, BEGIN, left(0, 1)),
        ("new, all are offered", [WAITS_1; 4], 0, BEGIN, left(0, 1)),
        ("new, user-mode Linux, all are offered", [WAITS_1; 4], 0, 0, left(0, 1)),
        ("new descriptors, an old position", [WAITS_1, NEW, NEW, NEW], left(3, 1), BEGIN, left(0, 1)),
        ("the same with all before it", [WAITS_1, WAITS_1, NEW, NEW], left(2, 1), BEGIN, left(0, 1)),
        ("the same in the other lap", [WAITS_1, WAITS_1, NEW, NEW], left(1, 0), BEGIN, left(0, 1)),
        ("the same, all are offered", [WAITS_1; 4], left(2, 0), BEGIN, left(0, 1)),
        ("a place that does not exist", [USED_1, NEW, NEW, NEW], left(4, 1), 0x8001, left(1, 1)),
        ("stopped in order", [USED_1, USED_1, NEW, NEW], 0x7fff, 0x8002_8002, left(2, 1)),
        ("death in the first lap", [USED_1, USED_1, NEW, NEW], left(2, 1), BEGIN, left(2, 1)),
        ("others wait", [USED_1, WAITS_1, NEW, NEW], left(1, 1), BEGIN, left(1, 1)),
        ("told 0, as DPDK does", [USED_1, WAITS_1, NEW, NEW], left(1, 1), 0, left(1, 1)),
        ("at the end of a lap", [USED_1; 4], left(0, 0), BEGIN, left(0, 0)),
        ("in the second lap", [USED_0, USED_0, USED_1, USED_1], left(2, 0), BEGIN, left(2, 0)),
        ("all wait, over the end", [WAITS_0, WAITS_1, WAITS_1, WAITS_1], left(1, 1), BEGIN, left(1, 1)),
        ("the last chain had two slots", [USED_1, USED_1, WAITS_1, NEW], left(3, 1), BEGIN, left(3, 1)),
        ("its first was offered again", [WAITS_0, WAITS_1, WAITS_1, WAITS_1], left(2, 1), BEGIN, left(2, 1)),
        ("somebody went on", [USED_1, USED_1, USED_1, NEW], left(2, 1), 0x8003_8003, left(3, 1)),
        ("for a lap and more", [USED_0, USED_0, USED_0, USED_1], left(2, 1), 0x0003_0003, left(3, 0)),
        ("for nearly a lap", [USED_0, USED_1, USED_1, USED_1], left(2, 1), 0x0001_0001, left(1, 0)),
    ];
    for (what, flags, position, base, start) in cases {
        let found = started(*flags, *position, *base);
        assert_eq!(found, *start, "{what}: {found:#x} instead of {start:#x}");
    }
}

/// Chains of three, one and two slots, over the end of the ring, returned by a device that dies after each of its stores.
#[test]
fn a_batch_comes_back_as_a_whole_or_not_at_all() {
    let size = 7;
    for stores in 0.. {
        let ram = &ram();
        let (mut driver, mut vring) = start(ram, true, config(size), 10);
        let mut batch = Batch::default();
        driver.post(&[writable(DATA, 10)], None).unwrap();
        driver.publish();
        vring.fetch(&ram, Direction::ToGuest, 9, &mut batch).unwrap();
        vring.complete(&batch.chains, &[10]);
        assert!(driver.take_used().is_some());
        batch.clear();
        let posted = [3, 1, 2].map(|slots| driver.post(&vec![writable(DATA, 10); slots], None).unwrap());
        driver.publish();
        assert_eq!(vring.fetch(&ram, Direction::ToGuest, 9, &mut batch), Ok(3));
        ram.die_after(stores);
        vring.complete(&batch.chains, &[30, 10, 20]);
        let left_out = ram.revive();
        let used =
            |driver: &mut Driver<'_>| -> Vec<_> { std::iter::from_fn(|| driver.take_used()).collect() };
        let seen = used(&mut driver);
        let expected =
            if left_out > 0 { vec![] } else { vec![(posted[0], 30), (posted[1], 10), (posted[2], 20)] };
        assert_eq!(seen, expected, "{stores} stores");

        // The next one dies as well.
        for again in 0..9 {
            ram.die_after(again);
            Vring::new(true, config(size), driver.areas(), BEGIN).unwrap();
            ram.revive();
        }
        let mut vring = Vring::new(true, config(size), driver.areas(), BEGIN).unwrap();
        let seen = used(&mut driver);
        let cut_short = stores > 0 && left_out > 0;
        let empty = if cut_short { posted.map(|id| (id, 0)).to_vec() } else { vec![] };
        assert_eq!((seen, vring.base()), (empty, driver.base()), "{stores} stores");
        let id = driver.post(&[writable(DATA, 1)], None);
        driver.publish();
        batch.clear();
        let again = if stores == 0 { 3 } else { 0 };
        assert_eq!(vring.fetch(&ram, Direction::ToGuest, 9, &mut batch), Ok(again + 1));
        assert_eq!(batch.chains.last().map(|chain| chain.id), id);
        if left_out == 0 {
            return;
        }
    }
}

/// A device dies after any store of returning any batch; QEMU returns what is there from any chain on; others may die as
/// they begin. Then each chain has come back once, in order, and the ring goes on.
#[test]
fn what_qemu_returned_is_passed_over() {
    let chains = [1, 2, 1, 2, 1]; // slots; all of the ring
    let size = chains.iter().sum();
    for begin in 0..2 * size {
        for count in 0..=3 {
            for stores in 0..=4 * count {
                for first in 0..=chains.len() {
                    for deaths in [0, 9] {
                        passes_over(&chains, size, begin, (count, stores), first, deaths);
                    }
                }
            }
        }
    }
}

/// A ring of `size` slots begins at `begin`. A device takes and returns `count` of the chains, but only `stores` of its
/// stores are made. `first`: the chain where QEMU begins; past the last one, it begins where nothing waits.
/// `deaths`: of further devices.
fn passes_over(
    chains: &[u16],
    size: u16,
    begin: u16,
    (count, stores): (usize, usize),
    first: usize,
    deaths: usize,
) {
    let case = format!("at {begin}, {stores} stores of {count} chains, QEMU from {first}, {deaths} deaths");
    let memory = ram();
    let ram = &memory;
    let (mut driver, mut vring) = start(ram, true, config(size), begin.into());
    let begin = Position::from_bits(driver.base() as u16);
    let post = |driver: &mut Driver<'_>, slots: u16| {
        let id = driver.post(&vec![readable(DATA, 10); slots.into()], None);
        driver.publish();
        id.unwrap()
    };
    let mut posted: VecDeque<u16> = chains.iter().map(|slots| post(&mut driver, *slots)).collect();
    let serve = |vring: &mut Vring<_>, most: usize| {
        let mut batch = Batch::default();
        vring.fetch(&ram, Direction::FromGuest, most, &mut batch).unwrap();
        vring.complete(&batch.chains, &vec![0; batch.chains.len()]);
    };
    ram.die_after(stores);
    serve(&mut vring, count);
    ram.revive();
    let at = match first < chains.len() {
        true => begin.after(chains[..first].iter().sum(), size),
        false => begin.before(1, size),
    };
    let base = driver.empty(u32::from(at.bits()) << 16);

    for stores in 0..deaths {
        ram.die_after(stores);
        serve(&mut Vring::new(true, config(size), driver.areas(), base).unwrap(), 1);
        ram.revive();
    }
    let base = Vring::new(true, config(size), driver.areas(), base).unwrap().stop(); // in order, for once
    let mut vring = Vring::new(true, config(size), driver.areas(), base).unwrap();
    for round in 0..2 * size {
        serve(&mut vring, 2);
        while let Some((id, _)) = driver.take_used() {
            assert_eq!(Some(id), posted.pop_front(), "{case}");
        }
        if posted.is_empty() {
            assert_eq!(vring.base(), driver.base(), "{case}");
            posted.push_back(post(&mut driver, 1));
        } else {
            assert!(round < 3, "{case}: {posted:?} never came back");
        }
    }
}

#[test]
fn what_is_passed_over_counts_for_calls() {
    let ram = &ram();
    let config = Config { event_idx: true, ..config(8) };
    for (after, called) in [(0, true), (2, true), (3, false)] {
        let (mut driver, _) = start(ram, true, config, 6);
        let told = Position::from_bits(driver.base() as u16).after(1, 8);
        for _ in 0..3 {
            driver.post(&[readable(DATA, 10)], None).unwrap();
        }
        driver.publish();
        driver.want(Calls::After(after));
        let base = driver.empty(u32::from(told.bits()) << 16);
        let mut vring = Vring::new(true, config, driver.areas(), base).unwrap();
        vring.take_call(&ram);
        let mut batch = Batch::default();
        assert_eq!(vring.fetch(&ram, Direction::FromGuest, 8, &mut batch), Ok(1));
        vring.complete(&batch.chains, &[0]);
        assert_eq!(vring.take_call(&ram), called, "after {after} more");
    }
}

/// A mark that a driver made up is bounded by the ring.
#[test]
fn marks_that_lie_are_survived() {
    for slots in [0u16, 1, 2, 4, 5, 0xffff] {
        let ram = &ram();
        let areas = areas(ram);
        for slot in 0..4 {
            let mark = 0xffff_ffff_ffff_0000 | u64::from(slots);
            areas.descriptors.write(16 * slot, &mark.to_le_bytes());
            areas.descriptors.store(16 * slot + 14, AVAIL | NEXT);
        }
        areas.device.store(0, BEGIN as u16);
        let vring = Vring::new(true, config(SIZE), areas, BEGIN).unwrap();
        assert!(vring.base() & 0x7fff < u32::from(SIZE));
    }
}
