//! What a driver may not do, and what becomes of it.

use super::*;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;

/// A descriptor in the field order of both layouts: split has flags and next, packed has id and flags.
struct Raw {
    address: u64,
    len: u32,
    flags: u16,
    link: u16,
}

fn raw(address: u64, len: u32, flags: u16, link: u16) -> Raw {
    Raw { address, len, flags, link }
}

fn put(ram: &Ram, packed: bool, at: u64, descriptors: &[Raw]) {
    for (at, descriptor) in (at..).step_by(16).zip(descriptors) {
        let words = if packed {
            [descriptor.link, descriptor.flags | AVAIL]
        } else {
            [descriptor.flags, descriptor.link]
        };
        ram.put(at, &descriptor.address.to_le_bytes());
        ram.put(at + 8, &descriptor.len.to_le_bytes());
        ram.put(at + 12, &words[0].to_le_bytes());
        ram.put(at + 14, &words[1].to_le_bytes());
    }
}

/// Fetch from a ring of four slots after one good chain; the lie is to leave no trace.
fn fetch(
    packed: bool,
    direction: Direction,
    config: Config,
    ring: &[Raw],
    table: &[Raw],
) -> Result<usize, RingError> {
    let ram = &ram();
    let (driver, mut vring) = start(ram, packed, config, 0);
    let good = if direction == Direction::ToGuest { WRITE } else { 0 };
    let [descriptors, available, _] = driver.addresses();
    put(ram, packed, descriptors, &[raw(DATA, 7, good, 0)]);
    put(ram, packed, descriptors + 16, ring);
    put(ram, packed, TABLES, table);
    if !packed {
        ram.put(available, &[0, 0, 2, 0, 0, 0, 1, 0]); // flags, index, heads
    }
    let mut batch = Batch::default();
    let result = vring.fetch(&ram, direction, 2, &mut batch);
    let good = if result.is_err() { 1 } else { batch.chains.len() };
    assert_eq!((batch.chains.len(), batch.chains[0].len), (good, 7));
    let last = batch.chains[batch.chains.len() - 1];
    assert_eq!(
        batch.parts.len(),
        last.first as usize + usize::from(last.count),
        "parts of a bad chain are left"
    );
    if result.is_err() {
        assert_eq!(vring.fetch(&ram, direction, 1, &mut batch), result.map(|_| 0), "a lie stays a lie");
    }
    result
}

#[test]
fn every_lie_has_its_name() {
    use Direction::{FromGuest, ToGuest};
    use RingError::{Address, Loop, Next, TableInChain, TableInTable, TableLen, TooLong, WrongWay};
    type Case = (&'static str, Direction, Vec<Raw>, Vec<Raw>, [Result<usize, RingError>; 2]);
    let both = |error| [Err(error), Err(error)];
    let fine = [Ok(2), Ok(2)];
    let table = |entries: u32| raw(TABLES, 16 * entries, INDIRECT, 0);
    let end = |len: u32| raw(DATA, len, 0, 0);
    let more = |next: u16| raw(DATA, 1, NEXT, next);
    #[rustfmt::skip]
    let cases: Vec<Case> = vec![
        ("good", FromGuest, vec![end(9)], vec![], fine),
        ("to be written, where the device reads", FromGuest, vec![raw(DATA, 1, WRITE, 0)], vec![], both(WrongWay)),
        ("to be read, where the device writes", ToGuest, vec![end(1)], vec![], both(WrongWay)),
        ("the whole size of the ring", FromGuest, vec![more(2), more(3), end(1)], vec![], fine),
        ("longer than the ring", FromGuest, vec![more(2), more(3), more(1)], vec![], both(Loop)),
        ("a loop of one", FromGuest, vec![more(1), more(1), more(1)], vec![], both(Loop)),
        ("a loop of nothing", FromGuest, vec![raw(DATA, 0, NEXT, 1), more(1), more(1)], vec![], both(Loop)),
        ("next outside", FromGuest, vec![more(4), more(4), end(1)], vec![], [Err(Next), Ok(2)]),
        ("most bytes", FromGuest, vec![end(2000)], vec![], fine),
        ("too many bytes", FromGuest, vec![end(2001)], vec![], both(TooLong)),
        ("too many in two", FromGuest, vec![raw(DATA, 1000, NEXT, 2), end(1001)], vec![], both(TooLong)),
        ("more than 2^32 bytes", ToGuest,
            vec![raw(DATA, 5, WRITE | NEXT, 2), raw(DATA, u32::MAX, WRITE, 0)], vec![], both(TooLong)),
        ("more than the guest sends", ToGuest, vec![raw(DATA, 5000, WRITE, 0)], vec![], fine),
        ("no memory", FromGuest, vec![raw(0, 1, 0, 0)], vec![], both(Address)),
        ("no memory, but empty", FromGuest, vec![raw(0, 0, 0, 0)], vec![], fine),
        ("behind the last region", FromGuest, vec![raw(END - 1, 2, 0, 0)], vec![], both(Address)),
        ("the end of all addresses", FromGuest, vec![raw(u64::MAX, 2, 0, 0)], vec![], both(Address)),
        ("most of the address space", ToGuest, vec![raw(DATA, u32::MAX, WRITE, 0)], vec![], both(Address)),
        ("a table", FromGuest, vec![table(2)], vec![more(1), end(1)], fine),
        ("a table to be written", FromGuest, vec![raw(TABLES, 16, INDIRECT | WRITE, 0)], vec![end(1)], fine),
        ("a table over two regions", FromGuest, vec![raw(SEAM - 8, 16, INDIRECT, 0)], vec![], fine),
        ("a table that is empty", FromGuest, vec![table(0)], vec![], both(TableLen)),
        ("a table of one and a half", FromGuest, vec![raw(TABLES, 24, INDIRECT, 0)], vec![], both(TableLen)),
        ("a table longer than the ring", FromGuest, vec![table(5)], vec![], both(TableLen)),
        ("a table of 4 GiB", FromGuest, vec![raw(TABLES, u32::MAX - 15, INDIRECT, 0)], vec![], both(TableLen)),
        ("a table outside memory", FromGuest, vec![raw(8, 16, INDIRECT, 0)], vec![], both(Address)),
        ("a table half outside", FromGuest, vec![raw(END - 16, 32, INDIRECT, 0)], vec![], both(Address)),
        ("a table that goes on", FromGuest,
            vec![raw(TABLES, 16, INDIRECT | NEXT, 2), end(1)], vec![end(1)], both(TableInChain)),
        ("a table behind a buffer", FromGuest, vec![more(2), table(1)], vec![end(1)], [Ok(2), Err(TableInChain)]),
        ("a table longer than what is left", FromGuest,
            vec![more(2), table(4)], vec![end(1)], [Err(TableLen), Err(TableInChain)]),
        ("a table in a table", FromGuest, vec![table(1)], vec![table(1)], [Err(TableInTable), Ok(2)]),
        ("a loop in a table", FromGuest, vec![table(2)], vec![more(1), more(0)], [Err(Loop), Ok(2)]),
        ("next outside a table", FromGuest, vec![table(2)], vec![more(2), end(1)], [Err(Next), Ok(2)]),
        ("a lie in a table", FromGuest, vec![table(2)], vec![more(1), raw(0, 1, 0, 0)], both(Address)),
    ];
    for (name, direction, ring, entries, expected) in cases {
        for (packed, expected) in LAYOUTS.into_iter().zip(expected) {
            let result = fetch(packed, direction, config(4), &ring, &entries);
            assert_eq!(result, expected, "{name}, packed {packed}");
        }
    }
}

#[test]
fn tables_need_their_feature() {
    let plain = Config { indirect: false, ..config(4) };
    for packed in LAYOUTS {
        let ring = [raw(TABLES, 16, INDIRECT, 0)];
        let result = fetch(packed, Direction::FromGuest, plain, &ring, &[raw(DATA, 1, 0, 0)]);
        assert_eq!(result, Err(RingError::NoIndirect));
    }
}

#[test]
fn an_index_may_not_jump() {
    // (index of the driver, while one chain of four is held and index 0 is used; what a fetch says)
    let cases =
        [(1, Ok(0)), (2, Ok(1)), (4, Ok(3)), (5, Err(())), (0, Err(())), (65535, Err(())), (0x8000, Err(()))];
    for (index, expected) in cases {
        let ram = &ram();
        let (mut driver, mut vring) = start(ram, false, config(4), 0);
        for _ in 0..4 {
            driver.post(&[readable(DATA, 1)], None).unwrap();
        }
        ram.put(driver.addresses()[1] + 2, &1u16.to_le_bytes());
        let mut batch = Batch::default();
        assert_eq!(vring.fetch(&ram, Direction::FromGuest, 1, &mut batch), Ok(1));
        ram.put(driver.addresses()[1] + 2, &(index as u16).to_le_bytes());
        for _ in 0..2 {
            let result = vring.fetch(&ram, Direction::FromGuest, 9, &mut batch);
            assert_eq!(result.is_err(), expected.is_err(), "{index}");
            if let Ok(taken) = result {
                assert_eq!(Ok(taken), expected, "{index}");
                vring.rewind(&batch.chains[1..]);
                batch.chains.truncate(1);
            }
        }
    }
}

#[test]
fn heads_lie_in_the_table() {
    let ram = &ram();
    let (driver, mut vring) = start(ram, false, config(4), 0);
    ram.put(driver.addresses()[1], &[0, 0, 1, 0, 4, 0]);
    let result = vring.fetch(&ram, Direction::FromGuest, 1, &mut Batch::default());
    assert_eq!(result, Err(RingError::Head));
}

#[test]
fn a_packed_ring_that_is_held_offers_nothing() {
    let ram = &ram();
    let (mut driver, mut vring) = start(ram, true, config(2), 0);
    driver.post(&[readable(DATA, 1)], None).unwrap();
    driver.post(&[readable(DATA, 1)], None).unwrap();
    driver.publish();
    let mut batch = Batch::default();
    assert_eq!(vring.fetch(&ram, Direction::FromGuest, 9, &mut batch), Ok(2));
    ram.put(RING + 14, &(1u16 << 15).to_le_bytes()); // available in the next lap
    assert_eq!(vring.fetch(&ram, Direction::FromGuest, 9, &mut batch), Err(RingError::Jump));
    vring.complete(&batch.chains[..1], &[0]);
    ram.put(RING + 14, &(1u16 << 15 | NEXT).to_le_bytes());
    let result = vring.fetch(&ram, Direction::FromGuest, 9, &mut batch);
    assert_eq!(result, Err(RingError::Loop), "a chain into a slot that is held");
}

#[test]
fn long_chains_end_a_fetch_early() {
    for packed in LAYOUTS {
        let ram = &ram();
        let (mut driver, mut vring) = start(ram, packed, config(8), 0);
        for _ in 0..8 {
            driver.post(&[readable(DATA, 1); 8], Some(TABLES)).unwrap();
        }
        driver.publish();
        let mut batch = Batch::default();
        let mut fetches = 0;
        while batch.chains.len() < 8 {
            assert!(vring.fetch(&ram, Direction::FromGuest, 8, &mut batch).unwrap() <= 2);
            assert_eq!(vring.enable_kicks(&ram), batch.chains.len() < 8, "the rest is not forgotten");
            fetches += 1;
        }
        assert_eq!(fetches, 4);
    }
}
