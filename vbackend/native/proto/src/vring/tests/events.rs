//! When the driver is called and when it kicks.

use super::*;
use crate::testing::driver::Calls;

/// Post, publish, fetch and complete `count` chains; returns whether the driver kicked.
fn transfer<'a>(ram: &'a Ram, driver: &mut Driver<'a>, vring: &mut Vring<RamArea<'a>>, count: usize) -> bool {
    let mut batch = Batch::default();
    for _ in 0..count {
        driver.post(&[readable(DATA, 16)], None).unwrap();
    }
    let kicked = driver.publish();
    assert_eq!(vring.fetch(&ram, Direction::FromGuest, count, &mut batch), Ok(count));
    vring.complete(&batch.chains, &vec![0; count]);
    kicked
}

/// What stays of a driver's used ring when it does not look for a while.
fn reap(driver: &mut Driver<'_>) -> usize {
    std::iter::from_fn(|| driver.take_used()).count()
}

#[test]
fn the_first_answer_is_a_call_and_without_news_there_is_none() {
    for (packed, event_idx) in [(false, false), (false, true), (true, false), (true, true)] {
        let ram = &ram();
        let (mut driver, mut vring) = start(ram, packed, Config { event_idx, ..config(8) }, 5);
        driver.want(Calls::After(3));
        assert_eq!((vring.take_call(&ram), vring.take_call(&ram)), (true, false));
        driver.want(Calls::On);
        transfer(ram, &mut driver, &mut vring, 1);
        assert_eq!((vring.take_call(&ram), vring.take_call(&ram)), (true, false));
    }
}

#[test]
fn flags_turn_calls_off() {
    for (packed, event_idx) in [(false, false), (true, false), (true, true)] {
        let ram = &ram();
        let (mut driver, mut vring) = start(ram, packed, Config { event_idx, ..config(8) }, 0);
        driver.want(Calls::Off);
        assert!(!vring.take_call(&ram));
        transfer(ram, &mut driver, &mut vring, 3);
        assert!(!vring.take_call(&ram));
        driver.want(Calls::On);
        assert!(!vring.take_call(&ram), "the driver looked after it turned them on");
        reap(&mut driver);
        driver.want(Calls::On);
        transfer(ram, &mut driver, &mut vring, 1);
        assert!(vring.take_call(&ram));
    }
}

#[test]
fn a_call_comes_when_the_event_is_passed() {
    // (slots to go, completed in this step, called)
    let steps =
        [(0, 1, true), (2, 2, false), (0, 3, true), (3, 4, true), (1, 1, false), (0, 1, true), (4, 5, true)];
    for packed in LAYOUTS {
        for from in [0, 3, 65530, 65535] {
            let ram = &ram();
            let (mut driver, mut vring) = start(ram, packed, Config { event_idx: true, ..config(8) }, from);
            vring.take_call(&ram);
            for (index, (after, count, called)) in steps.into_iter().enumerate() {
                driver.want(Calls::After(after));
                transfer(ram, &mut driver, &mut vring, count);
                assert_eq!(vring.take_call(&ram), called, "packed {packed}, from {from}, step {index}");
                assert_eq!(reap(&mut driver), count);
            }
        }
    }
}

#[test]
fn no_call_is_lost_when_it_is_asked_for_late() {
    for (packed, rounds) in [(false, 10), (true, 1), (true, 2), (true, 3), (true, 4), (true, 10)] {
        let ram = &ram();
        let (mut driver, mut vring) = start(ram, packed, Config { event_idx: true, ..config(8) }, 3);
        vring.take_call(&ram);
        driver.want(Calls::On);
        for _ in 0..rounds {
            transfer(ram, &mut driver, &mut vring, 7);
            reap(&mut driver);
        }
        assert!(vring.take_call(&ram), "{rounds} rounds");
    }
}

#[test]
fn an_event_that_does_not_exist_is_a_call() {
    let ram = &ram();
    let (mut driver, mut vring) = start(ram, true, Config { event_idx: true, ..config(3) }, 0);
    vring.take_call(&ram);
    for position in [3u16, 0x7fff, 0xffff] {
        ram.put(driver.addresses()[1], &position.to_le_bytes());
        ram.put(driver.addresses()[1] + 2, &2u16.to_le_bytes());
        transfer(ram, &mut driver, &mut vring, 1);
        assert!(vring.take_call(&ram), "{position:#x}");
        reap(&mut driver);
    }
}

#[test]
fn kicks_come_when_they_are_asked_for() {
    for (packed, event_idx) in [(false, false), (false, true), (true, false), (true, true)] {
        let ram = &ram();
        let (mut driver, mut vring) = start(ram, packed, Config { event_idx, ..config(8) }, 6);
        vring.disable_kicks();
        if !event_idx || packed {
            assert!(!transfer(ram, &mut driver, &mut vring, 1));
            reap(&mut driver);
        }
        for _ in 0..3 {
            assert!(!vring.enable_kicks(&ram), "nothing came meanwhile");
            assert!(transfer(ram, &mut driver, &mut vring, 3));
            reap(&mut driver);
            if event_idx && !packed {
                // A packed ring's position moves with what is used: the next one may kick once more.
                assert!(!transfer(ram, &mut driver, &mut vring, 2), "one kick, until it is asked for again");
                reap(&mut driver);
            }
        }
        vring.disable_kicks();
        driver.post(&[readable(DATA, 1)], None).unwrap();
        assert!(!driver.publish());
        assert!(vring.enable_kicks(&ram), "something came meanwhile");
    }
}
