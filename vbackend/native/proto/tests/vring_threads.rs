//! Driver and device on two threads, each asleep whenever it may be: nothing is seen too early, no wake-up is lost.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::atomic::{AtomicU16, Ordering, fence};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use vbackend_proto::vring::{Area, Areas, Batch, Config, Direction, Memory, Vring, areas_len};

const SIZE: u16 = 16;
const CHAINS: u32 = 100_000;
const DEADLINE: Duration = Duration::from_secs(60);

/// Where in memory: descriptors, driver area, device area, and a buffer of one word for each slot.
const AT: [usize; 3] = [0, 0x200, 0x300];
const DATA: usize = 0x400;
const END: usize = DATA + 2 * SIZE as usize;

/// Memory of words, which is all that rings need.
#[derive(Clone, Copy)]
struct Words<'a>(&'a [AtomicU16]);

impl Area for Words<'_> {
    fn len(&self) -> usize {
        2 * self.0.len()
    }

    fn read(&self, at: usize, out: &mut [u8]) {
        let words = &self.slice(at, out.len()).0;
        for (bytes, word) in out.chunks_exact_mut(2).zip(words.iter()) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        let words = &self.slice(at, bytes.len()).0;
        for (bytes, word) in bytes.chunks_exact(2).zip(words.iter()) {
            word.store(u16::from_le_bytes([bytes[0], bytes[1]]), Ordering::Relaxed);
        }
    }

    fn load(&self, at: usize) -> u16 {
        self.0[at / 2].load(Ordering::Acquire)
    }

    fn store(&self, at: usize, value: u16) {
        self.0[at / 2].store(value, Ordering::Release);
    }

    fn slice(&self, at: usize, len: usize) -> Self {
        assert!(at.is_multiple_of(2) && len.is_multiple_of(2));
        Words(&self.0[at / 2..(at + len) / 2])
    }
}

impl<'a> Memory for Words<'a> {
    type Area = Words<'a>;

    fn area(&self, address: u64, len: usize) -> Option<Words<'a>> {
        Some(self.slice(address as usize, len))
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

/// A driver whose chains have one buffer, in the slot they are in the ring.
struct Driver<'a> {
    memory: Words<'a>,
    packed: bool,
    event_idx: bool,
    next: u32,
    used: u32,
}

impl Driver<'_> {
    fn slot(at: u32) -> usize {
        (at % u32::from(SIZE)) as usize
    }

    fn wrap(at: u32) -> bool {
        (at / u32::from(SIZE)).is_multiple_of(2)
    }

    fn position(at: u32) -> u16 {
        Self::slot(at) as u16 | u16::from(Self::wrap(at)) << 15
    }

    /// Offer the next word; returns whether the device wants a kick.
    fn offer(&mut self) -> bool {
        let (slot, memory) = (Self::slot(self.next), self.memory);
        let data = DATA + 2 * slot;
        memory.write(data, &(self.next as u16).to_le_bytes());
        memory.write(AT[0] + 16 * slot, &(data as u64).to_le_bytes());
        memory.write(AT[0] + 16 * slot + 8, &[2, 0, 0, 0]);
        let event = if self.packed {
            memory.write(AT[0] + 16 * slot + 12, &(slot as u16).to_le_bytes());
            let flags = if Self::wrap(self.next) { 1 << 7 } else { 1 << 15 };
            memory.store(AT[0] + 16 * slot + 14, flags);
            memory.fence();
            match memory.load(AT[2] + 2) {
                2 => memory.load(AT[2]) == Self::position(self.next),
                flags => flags == 0,
            }
        } else {
            memory.write(AT[1] + 4 + 2 * slot, &(slot as u16).to_le_bytes());
            memory.store(AT[1] + 2, (self.next + 1) as u16);
            memory.fence();
            match self.event_idx {
                true => memory.load(AT[2] + 4 + 8 * usize::from(SIZE)) == self.next as u16,
                false => memory.load(AT[2]) == 0,
            }
        };
        self.next += 1;
        event
    }

    fn is_used(&self) -> bool {
        if !self.packed {
            return self.memory.load(AT[2] + 2) != self.used as u16;
        }
        let expected = if Self::wrap(self.used) { 1 << 7 | 1 << 15 } else { 0 };
        self.memory.load(AT[0] + 16 * Self::slot(self.used) + 14) & (1 << 7 | 1 << 15) == expected
    }

    fn reap(&mut self) {
        while self.used < self.next && self.is_used() {
            self.used += 1;
        }
    }

    /// Whether to sleep until a call comes.
    fn enable_calls(&self) -> bool {
        match (self.packed, self.event_idx) {
            (false, true) => self.memory.store(AT[1] + 4 + 2 * usize::from(SIZE), self.used as u16),
            (false, false) => self.memory.store(AT[1], 0),
            (true, event_idx) => {
                self.memory.store(AT[1], Self::position(self.used));
                self.memory.store(AT[1] + 2, if event_idx { 2 } else { 0 });
            }
        }
        self.memory.fence();
        !self.is_used()
    }

    fn disable_calls(&self) {
        match (self.packed, self.event_idx) {
            (false, true) => {}
            (false, false) => self.memory.store(AT[1], 1),
            (true, _) => self.memory.store(AT[1] + 2, 1),
        }
    }

    fn run(mut self, kick: &Sender<()>, call: &Receiver<()>) {
        while self.used < CHAINS {
            self.disable_calls();
            while self.next < CHAINS && self.next - self.used < u32::from(SIZE) {
                if self.offer() {
                    kick.send(()).unwrap();
                }
            }
            self.reap();
            let full = self.next == CHAINS || self.next - self.used == u32::from(SIZE);
            if full && self.used < CHAINS && self.enable_calls() {
                call.recv_timeout(DEADLINE).expect("no call is lost");
            }
        }
    }
}

fn serve<'a>(mut vring: Vring<Words<'a>>, memory: &Words<'a>, call: &Sender<()>, kick: &Receiver<()>) {
    let (mut batch, mut seen) = (Batch::default(), 0);
    while seen < CHAINS {
        vring.disable_kicks();
        while vring.fetch(memory, Direction::FromGuest, 5, &mut batch).unwrap() > 0 {
            for chain in &batch.chains {
                assert_eq!(batch.parts_of(chain)[0].load(0), seen as u16, "seen before it was written");
                seen += 1;
            }
            vring.complete(&batch.chains, &vec![0; batch.chains.len()]);
            batch.clear();
            if vring.take_call(memory) {
                call.send(()).unwrap();
            }
        }
        if seen < CHAINS && !vring.enable_kicks(memory) {
            kick.recv_timeout(DEADLINE).expect("no kick is lost");
        }
    }
}

#[test]
fn two_threads_wake_each_other() {
    for (packed, event_idx) in [(false, false), (false, true), (true, false), (true, true)] {
        let words: Vec<AtomicU16> = (0..END / 2).map(|_| AtomicU16::new(0)).collect();
        let memory = Words(&words);
        let lens = areas_len(packed, SIZE);
        let [descriptors, driver, device] = [0, 1, 2].map(|part| memory.slice(AT[part], lens[part]));
        let config = Config { size: SIZE, event_idx, indirect: false, in_order: true, most_bytes: 2 };
        let vring = Vring::new(packed, config, Areas { descriptors, driver, device }, 0x8000).unwrap();
        let driver = Driver { memory, packed, event_idx, next: 0, used: 0 };
        let ((kick, kicked), (call, called)) = (channel(), channel());
        thread::scope(|scope| {
            scope.spawn(move || driver.run(&kick, &called));
            scope.spawn(move || serve(vring, &memory, &call, &kicked));
        });
    }
}
