//! A port's bad line: frames for its peer are lost, changed and delayed before the rate limit and the queue see them.
//!
//! ```text
//!   staged frames ── single frames, each with its fate ──► line ── clock ──► rate limit ──► queue ──► link
//! ```
//!
//! A link is a buffer, a rate and a distance. The distance comes first here: what the sender sent `delay` ago meets the
//! buffer and the rate in front of the peer. For a fixed delay this is the same as a distance behind them, frame by frame and
//! loss by loss, only that the buffer is seen later. With jitter, or a peer that is slow, it keeps what was promised: the
//! peer never gets more than the rate, and `queue=` is all that waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vbackend_proto::capture::verdict::{self, Verdict};
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::{PREFIX_LEN, Run, frames_of};
use vbackend_proto::impair::{Config, Counts, Impairment, Marks};
use vbackend_proto::offload::Offloads;
use vbackend_proto::vnet::VnetHeader;

use super::limit::single;
use super::{Port, Scratch, captured};
use crate::capture::Direction;
use crate::command::End;
use crate::sys;

/// Chunks of frames sent in one turn, so that no line keeps the worker from the other ports.
const MOST_BATCHES: usize = 16;

/// What an impairment did, for readers of other threads.
#[derive(Debug, Default)]
pub struct Tally([AtomicU64; 7]);

/// [`Counts`], and what is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImpairmentCounts {
    /// What happened so far.
    pub counts: Counts,
    /// Frames on their way; they are among the port's queued ones.
    pub held_frames: u64,
    /// The memory they take.
    pub held_bytes: u64,
}

impl Tally {
    fn publish(&self, impairment: &Impairment) {
        let Counts { lost, duplicated, corrupted, delayed, reordered } = impairment.counts;
        let held = [impairment.line.len() as u64, impairment.line.bytes() as u64];
        let values = [lost, duplicated, corrupted, delayed, reordered, held[0], held[1]];
        self.0.iter().zip(values).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
    }

    /// As the port's worker published it after its last turn.
    pub fn read(&self) -> ImpairmentCounts {
        let [lost, duplicated, corrupted, delayed, reordered, held_frames, held_bytes] =
            std::array::from_fn(|index| self.0[index].load(Ordering::Relaxed));
        let counts = Counts { lost, duplicated, corrupted, delayed, reordered };
        ImpairmentCounts { counts, held_frames, held_bytes }
    }
}

/// The impairment of a port that has one.
pub struct Impaired {
    impairment: Impairment,
    tally: Arc<Tally>,
    ending: bool, // it was taken away, and is kept until the last frame has left in its order
}

impl Port {
    /// Set, change or (None) end the impairment. What is on its way keeps its time, and what comes stays behind it.
    pub fn set_impairment(&mut self, new: Option<(Config, Arc<Tally>)>) {
        let ending = new.is_none();
        let (config, tally) = new.unwrap_or_else(|| (Config::NONE, Arc::default()));
        match &mut self.impaired {
            Some(impaired) => {
                impaired.impairment.set_config(config);
                impaired.impairment.counts = Counts::default();
                impaired.tally = tally;
                impaired.ending = ending;
            }
            None if ending => {}
            None => {
                let impairment = Impairment::new(config);
                self.impaired = Some(Box::new(Impaired { impairment, tally, ending }));
            }
        }
        self.end_impairment();
    }

    /// When the first frame on its way is due, on the precise clock.
    #[inline]
    pub fn due_us(&self) -> Option<u64> {
        self.impaired.as_ref()?.impairment.line.next_due_us()
    }

    /// Frames on their way.
    pub(super) fn on_their_way(&self) -> usize {
        self.impaired.as_ref().map_or(0, |impaired| impaired.impairment.line.len())
    }

    /// What is on its way never arrives; it is the caller's to count.
    pub(super) fn purge_line(&mut self) {
        if let Some(impaired) = &mut self.impaired {
            impaired.impairment.line.purge();
        }
        self.end_impairment();
    }

    /// Change the admin state. A line that is cut loses what is on its way, and what waits for it.
    pub fn set_up(&mut self, up: bool) {
        self.up = up;
        if !up {
            let lost = self.on_their_way() + self.queue.purge_whole();
            self.counters.tx.dropped(DropReason::PortDown, lost);
            self.purge_line();
        }
    }

    /// Let what was staged enter the line, and send what is due by now.
    pub(super) fn impair(&mut self, wire: &[u8], scratch: &mut Scratch, now_ms: u64) -> Result<(), End> {
        let Some(mut impaired) = self.impaired.take() else { return Ok(()) };
        let now_us = sys::monotonic_us();
        self.admit_to_line(&mut impaired.impairment, wire, scratch, now_us);
        self.impaired = Some(impaired);
        self.handle_due(scratch, now_us, now_ms)
    }

    fn admit_to_line(
        &mut self,
        impairment: &mut Impairment,
        wire: &[u8],
        scratch: &mut Scratch,
        now_us: u64,
    ) {
        let mut pending = std::mem::take(&mut self.pending);
        let accepts = match &self.link {
            Some(link) if !impairment.wants_checksums() => single(link.offloads()),
            _ => Offloads::NONE,
        };
        let tx = &mut self.counters.tx;
        let (wire, runs) = match scratch.settler.prepare(wire, &pending, accepts, tx) {
            None => (wire, &pending),
            Some((wire, runs)) => (wire, &*runs),
        };
        let seed = impairment.config().seed;
        for run in runs {
            let mut at = run.start;
            for frame in frames_of(wire, *run) {
                let admitted = impairment.admit(now_us, frame, run.vnet);
                tx.frames_in += (admitted.copies - 1) as u64;
                tx.dropped(DropReason::Loss, usize::from(admitted.lost));
                tx.dropped(DropReason::LineFull, admitted.full);
                let lost = Verdict {
                    dropped: Some(DropReason::Loss),
                    impaired: Some(verdict::Impaired { seed, lost: true, ..verdict::Impaired::default() }),
                };
                let full = (0..admitted.full).map(|_| Verdict::from(DropReason::LineFull));
                for verdict in admitted.lost.then_some(lost).into_iter().chain(full) {
                    let one = Run::one(at, frame.len(), run.vnet);
                    if self.taps.want(Direction::Outbound, &verdict) {
                        let verdicts = &mut [(one, verdict)];
                        captured::record(&self.taps, Direction::Outbound, wire, &[one], verdicts);
                    }
                }
                at += PREFIX_LEN + frame.len();
            }
        }
        pending.clear();
        self.pending = pending;
    }

    /// The clock says that frames are due.
    pub fn handle_due(&mut self, scratch: &mut Scratch, now_us: u64, now_ms: u64) -> Result<(), End> {
        let Some(mut impaired) = self.impaired.take() else { return Ok(()) };
        // What is missing of frames in the worker's buffer is not missing here.
        let lazy = std::mem::take(&mut scratch.lazy);
        let seed = impaired.impairment.config().seed;
        let captured = self.is_captured();
        let line = &mut impaired.impairment.line;
        let mut result = Ok(());
        for _ in 0..MOST_BATCHES {
            let verdicts = &mut self.verdicts;
            let told = |start, marks: Marks, delay_us| {
                if captured {
                    let Marks { duplicate, reordered, corrupted: corrupted_bit } = marks;
                    let verdict = verdict::Impaired {
                        seed,
                        lost: false,
                        delay_us,
                        reordered,
                        duplicate,
                        corrupted_bit,
                    };
                    verdicts.push((Run::one(start, 0, VnetHeader::PLAIN), verdict.into()));
                }
            };
            let Some(batch) = line.take_due(now_us, &mut self.pending, told) else { break };
            result = self.send(line.wire(&batch), scratch, now_ms, true);
            line.release(batch);
            if result.is_err() {
                break;
            }
        }
        scratch.lazy = lazy;
        self.impaired = Some(impaired);
        self.end_impairment();
        result
    }

    /// Publish what the impairment did.
    pub(super) fn publish_impairment(&self) {
        if let Some(impaired) = &self.impaired {
            impaired.tally.publish(&impaired.impairment);
        }
    }

    fn end_impairment(&mut self) {
        if self
            .impaired
            .as_ref()
            .is_some_and(|impaired| impaired.ending && impaired.impairment.line.is_empty())
        {
            self.impaired = None;
        }
    }
}
