//! What stands in memory, word by word as VIRTIO 1.2 has it, so that driver and device are not wrong together.

use super::*;
use crate::testing::driver::Calls;

fn words(ram: &Ram, address: u64, count: u64) -> Vec<u16> {
    (0..count).map(|index| ram.word(address + 2 * index)).collect()
}

fn events(size: u16) -> Config {
    Config { event_idx: true, ..config(size) }
}

/// Fetch all there is and complete it, with these lengths.
fn serve<'a>(ram: &'a Ram, vring: &mut Vring<RamArea<'a>>, lens: &[u32]) {
    let mut batch = Batch::default();
    assert_eq!(vring.fetch(&ram, Direction::FromGuest, 9, &mut batch), Ok(lens.len()));
    vring.complete(&batch.chains, lens);
}

#[test]
fn split() {
    let ram = &ram();
    let (mut driver, mut vring) = start(ram, false, events(4), 65535);
    let [descriptors, available, used] = driver.addresses();
    let head = driver.post(&[readable(DATA, 10), readable(DATA + 0x100, 20)], None);
    driver.publish();
    // Descriptor 1 is the head: address, length, flags NEXT, next 0; and descriptor 0.
    assert_eq!(head, Some(1));
    assert_eq!(words(ram, descriptors + 16, 8), [0, 1, 0, 0, 10, 0, 1, 0]);
    assert_eq!(words(ram, descriptors, 8), [0x100, 1, 0, 0, 20, 0, 0, 0xffff]);
    // Flags, index, four heads, and the index that is to be called for.
    driver.want(Calls::After(2));
    assert_eq!(words(ram, available, 7), [0, 0, 0, 0, 0, 1, 1]);
    serve(ram, &mut vring, &[7]);
    assert!(!vring.enable_kicks(&ram));
    // Flags, index, four pairs of id and length, and the index that is to be kicked for.
    assert_eq!(words(ram, used, 2), [0, 0]);
    assert_eq!(words(ram, used + 4 + 3 * 8, 4), [1, 0, 7, 0]);
    assert_eq!(words(ram, used + 4 + 4 * 8, 1), [0]);
}

#[test]
fn split_flags() {
    let ram = &ram();
    let (driver, mut vring) = start(ram, false, config(4), 0);
    let [_, available, used] = driver.addresses();
    vring.disable_kicks();
    driver.want(Calls::Off);
    assert_eq!((ram.word(available), ram.word(used)), (1, 1));
    vring.enable_kicks(&ram);
    driver.want(Calls::On);
    assert_eq!((ram.word(available), ram.word(used)), (0, 0));
}

#[test]
fn packed() {
    let ram = &ram();
    let (mut driver, mut vring) = start(ram, true, events(4), 3);
    let [ring, driver_event, device_event] = driver.addresses();
    let id = driver.post(&[readable(DATA, 10), readable(DATA + 0x100, 20)], None);
    driver.publish();
    // Slot 3 with wrap counter 1: AVAIL, NEXT. Slot 0 with wrap counter 0: USED, and the id.
    assert_eq!(id, Some(0));
    assert_eq!(words(ram, ring + 3 * 16, 8), [0, 1, 0, 0, 10, 0, 0xdead, 0x0081]);
    assert_eq!(words(ram, ring, 8), [0x100, 1, 0, 0, 20, 0, 0, 0x8000]);
    // Used, in the first slot of the chain: length, id, and AVAIL, USED and WRITE.
    serve(ram, &mut vring, &[7]);
    assert_eq!(words(ram, ring + 3 * 16 + 8, 4), [7, 0, 0, 0x8082]);
    assert_eq!(words(ram, ring + 14, 1), [0x8000], "the others are left alone");
    assert_eq!(vring.base(), 0x0001_0001);
    // With wrap counter 0, used without a length: no flags at all.
    driver.post(&[readable(DATA, 10)], None);
    driver.publish();
    assert_eq!(words(ram, ring + 16 + 8, 4), [10, 0, 1, 0x8000]);
    serve(ram, &mut vring, &[0]);
    assert_eq!(words(ram, ring + 16 + 8, 4), [0, 0, 1, 0]);
    // Events: slot and wrap counter, then the flags.
    assert!(!vring.enable_kicks(&ram));
    assert_eq!(words(ram, device_event, 2), [2, 2]);
    vring.disable_kicks();
    assert_eq!(words(ram, device_event, 2), [2, 1]);
    driver.want(Calls::On);
    assert_eq!(words(ram, driver_event, 2), [0x8003, 2], "it has seen nothing yet");
    while driver.take_used().is_some() {}
    driver.want(Calls::After(3));
    assert_eq!(words(ram, driver_event, 2), [0x8001, 2]);
    driver.want(Calls::Off);
    assert_eq!(ram.word(driver_event + 2), 1);
}

#[test]
fn tables() {
    for (packed, expected) in [
        (false, [[0, 1, 0, 0, 3, 0, 3, 1], [16, 1, 0, 0, 4, 0, 2, 2]]),
        (true, [[0, 1, 0, 0, 3, 0, 0, 2], [16, 1, 0, 0, 4, 0, 0, 2]]),
    ] {
        let ram = &ram();
        let (mut driver, _) = start(ram, packed, config(4), 0);
        driver.post(&[writable(DATA, 3), writable(DATA + 16, 4)], Some(TABLES));
        driver.publish();
        assert_eq!(words(ram, TABLES, 8), expected[0]);
        assert_eq!(words(ram, TABLES + 16, 8), expected[1]);
        let flags = if packed { [0, 0x84] } else { [4, 0xffff] };
        assert_eq!(words(ram, RING + 8, 4), [32, 0, flags[0], flags[1]]);
    }
}
