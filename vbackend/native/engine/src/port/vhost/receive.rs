//! Frames from the guest: chains of the odd rings.
//!
//! Short frames are copied at once. Of long ones the head is copied; the rest stays in the guest's memory until the end
//! of the turn, so that a frame for another guest is copied once (`port/lazy.rs`). Chains go back in [`Vhost::release`].

use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::{PREFIX_LEN, Run, check_len, push_run, put_prefix};
use vbackend_proto::offload;
use vbackend_proto::vnet::{VNET_HEADER_LEN, VnetHeader};
use vbackend_proto::vring::Area;

use super::{Trouble, Vhost};
use crate::command::End;
use crate::counters::Lane;
use crate::port::lazy::{HEAD, LEAST};
use crate::port::{SLOT, Scratch};
use crate::sys::{self, GuestArea};

/// Frames of one turn, and about how many bytes: what fits into the processor's second cache.
const FRAMES: usize = 256;
const BYTES: usize = 512 * 1024;

impl Vhost {
    /// Receive what the guest sent, within the budget. `has_more` says whether something may be left.
    pub fn receive(&mut self, scratch: &mut Scratch, rx: &mut Lane) -> Result<(), End> {
        const { assert!(BYTES + SLOT <= Scratch::WIRE_BYTES) };
        self.take_kicks();
        self.more = false;
        let pairs = self.rings.len() / 2;
        let (mut at, mut frames) = (0, 0);
        for turn in 0..pairs {
            let pair = (self.next + turn) % pairs;
            (at, frames) = self.receive_from(pair, scratch, rx, at, frames);
            if frames >= FRAMES || at >= BYTES {
                self.next = pair + 1;
                break;
            }
        }
        self.poll_or_wait(frames > 0);
        self.check_memory()
    }

    /// Receive from one pair's ring behind `at`, where `frames` lie; both afterwards.
    fn receive_from(
        &mut self,
        pair: usize,
        scratch: &mut Scratch,
        rx: &mut Lane,
        mut at: usize,
        frames: usize,
    ) -> (usize, usize) {
        let header_len = self.features.header_len();
        let learns = self.rings.len() > 2;
        let ring = &mut self.rings[2 * pair + 1];
        if !ring.is_live() {
            return (at, frames);
        }
        let fetched = ring.fetch(&self.memory, FRAMES - frames);
        let mut done = 0;
        for (chain_len, parts) in ring.fetched() {
            if at >= BYTES {
                break;
            }
            done += 1;
            match take_chain(chain_len, parts, header_len, scratch, at) {
                Ok(next) => {
                    if learns {
                        let body = at + PREFIX_LEN;
                        // Frames that wait may be of that flow.
                        self.room |= self.steering.learn(&scratch.wire[body..next.min(body + HEAD)], pair);
                    }
                    at = next;
                }
                Err(reason) => rx.dropped(reason, 1),
            }
        }
        rx.frames_in += done as u64;
        ring.keep(done);
        match fetched {
            Err(error) => self.lies.push(Trouble { ring: 2 * pair + 1, text: error.text() }),
            Ok(0) => {}
            Ok(_) => self.more = true, // until a look finds nothing
        }
        (at, frames + done)
    }

    /// Give the guest its buffers back: nobody needs what is in them any more. Rings that lied behind them are stopped.
    pub fn release(&mut self) -> Result<(), End> {
        let log = self.log.as_ref().filter(|_| self.features.log_all());
        for (index, ring) in self.rings.iter_mut().enumerate().skip(1).step_by(2) {
            if ring.finish(&self.memory, log, false) {
                self.stats.publish(index, ring.info());
            }
        }
        while let Some(Trouble { ring, text }) = self.lies.pop() {
            self.fail(ring, text);
        }
        self.call_for_log();
        self.check_memory()
    }

    /// Look again soon, or wait for kicks. Waiting begins with one more look, since the guest may have sent meanwhile.
    fn poll_or_wait(&mut self, worked: bool) {
        if self.polling.limit_us > 0 {
            let now_us = sys::monotonic_us();
            if worked {
                self.polling.since_us = now_us;
            }
            if now_us.saturating_sub(self.polling.since_us) < self.polling.limit_us {
                (self.more, self.room) = (true, true);
            }
        }
        let (wait, log) = (!self.more, self.log.as_ref().filter(|_| self.features.log_all()));
        for ring in self.rings.iter_mut().skip(1).step_by(2).filter(|ring| ring.is_live()) {
            if wait {
                self.more |= ring.enable_kicks(&self.memory, log) || ring.kick.is_none();
            } else {
                ring.disable_kicks(&self.memory, log);
            }
        }
    }

    /// Whether all memory is still what the front-end gave.
    pub(super) fn check_memory(&self) -> Result<(), End> {
        let lost = self.memory.is_lost() || self.log.as_ref().is_some_and(|log| log.is_lost());
        if lost { Err(End::Memory) } else { Ok(()) }
    }
}

/// Take one chain into the worker's buffer at `at`; returns where the next one goes, or why it is no frame.
fn take_chain(
    chain_len: usize,
    parts: &[GuestArea],
    header_len: usize,
    scratch: &mut Scratch,
    at: usize,
) -> Result<usize, DropReason> {
    let len = chain_len.checked_sub(header_len).ok_or(DropReason::Runt)?;
    check_len(len)?;
    put_prefix(&mut scratch.wire, at, len);
    let copied = if len < LEAST { len } else { HEAD };
    let mut header = [0; VNET_HEADER_LEN];
    let body = at + PREFIX_LEN;
    copy_out(parts, &mut header[..header_len], &mut scratch.wire[body..body + copied]);
    let run = Run::one(at, len, VnetHeader::parse(&header));
    offload::check(&scratch.wire[body..run.end], &run.vnet)?;
    if copied < len {
        scratch.lazy.push(at, parts, header_len + copied);
    }
    push_run(&mut scratch.runs, run);
    Ok(run.end)
}

/// Copy the first bytes of `parts` to `header`, and those behind them to `frame`.
#[inline]
fn copy_out(parts: &[GuestArea], header: &mut [u8], frame: &mut [u8]) {
    let (mut head, mut at) = (0, 0);
    for part in parts {
        let mut from = 0;
        if head < header.len() {
            from = part.len().min(header.len() - head);
            part.read(0, &mut header[head..head + from]);
            head += from;
        }
        let here = (part.len() - from).min(frame.len() - at);
        if here > 0 {
            part.read(from, &mut frame[at..at + here]);
            at += here;
        } else if at == frame.len() && head == header.len() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::super::{RingPlace, VhostCommand};
    use super::*;
    use crate::counters::Counters;
    use crate::sys::{Place, Region};

    const GUEST: u64 = 0x10_0000;
    const USER: u64 = 0x7f00_0000_0000;

    /// Long frames stay in the guest's memory, with several pairs too: the flow is told by their heads.
    #[test]
    fn the_bodies_of_long_frames_are_not_copied() {
        let path = std::env::temp_dir().join(format!("vbackend-lazy-{}", std::process::id()));
        let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file.set_len(0x4000).unwrap();
        let place = Place { guest: GUEST, size: 0x4000, user: USER };
        let len = 12 + 1514u32;
        let descriptor = [&(GUEST + 0x2000).to_le_bytes()[..], &len.to_le_bytes(), &[0; 4]].concat();
        file.write_all_at(&descriptor, 0).unwrap();
        file.write_all_at(&1u16.to_le_bytes(), 0x402).unwrap(); // one chain is available
        for (pair, pairs) in [(0, 1), (1, 2)] {
            let mut vhost = Vhost::new(0, std::sync::Arc::default()).unwrap();
            let region = Region::map(place, file.as_fd(), 0).unwrap();
            vhost.execute(VhostCommand::Features(1 << 32)).unwrap();
            vhost.execute(VhostCommand::SetMemory(vec![region])).unwrap();
            for ring in 0..2 * pairs {
                vhost.execute(VhostCommand::SetCall(ring, None)).unwrap();
            }
            let (descriptors, driver, device) = (USER, USER + 0x400, USER + 0x800);
            let ring = RingPlace { size: 4, base: 0, descriptors, driver, device };
            vhost.execute(VhostCommand::Start(2 * pair + 1, ring)).unwrap();
            vhost.execute(VhostCommand::Enable(2 * pair + 1, true)).unwrap();
            let (mut scratch, mut counters) = (Scratch::new(), Counters::ZERO);
            vhost.receive(&mut scratch, &mut counters.rx).unwrap();
            assert_eq!((counters.rx.frames_in, scratch.runs.len()), (1, 1));
            assert!(scratch.lazy.is_missing_in(&scratch.runs), "{pairs} pairs");
        }
    }
}
