//! How frames lie in memory, and how a byte stream is cut into them.
//!
//! Everywhere in the engine a frame lies behind its 4-byte big-endian length, as on QEMU's stream sockets
//! (`net/net.c: net_fill_rstate`). Frames that lie one behind the other form a [`Run`], which a stream port can
//! write as it is: the prefixes that came in are the prefixes that go out.
//!
//! ```text
//!   wire: | len | frame | len | frame | len | frame |
//!         ^ Run.start                               ^ Run.end     frames = 3
//! ```

use crate::drop_reason::DropReason;
use crate::vnet::VnetHeader;

/// Bytes of the length in front of each frame.
pub const PREFIX_LEN: usize = 4;

/// The shortest frame: an Ethernet header. Anything shorter wedges or confuses a QEMU receiver.
pub const MIN_FRAME: usize = 14;

/// The longest frame: QEMU's `NET_BUFSIZE` (`include/net/net.h`: 4096 + 65536).
pub const MAX_FRAME: usize = 69_632;

/// Consecutive frames with equal offload state, prefixes included, as a range of some buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First byte of the first prefix.
    pub start: usize,
    /// One past the last frame's last byte.
    pub end: usize,
    /// How many frames; at least 1.
    pub frames: usize,
    /// What is left to do to each of them.
    pub vnet: VnetHeader,
}

impl Run {
    /// A run of one frame whose prefix starts at `start` and whose body has `len` bytes.
    #[must_use]
    pub fn one(start: usize, len: usize, vnet: VnetHeader) -> Run {
        Run { start, end: start + PREFIX_LEN + len, frames: 1, vnet }
    }

    /// Bytes of all frames, prefixes not counted.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        self.end - self.start - self.frames * PREFIX_LEN
    }
}

/// Append `run` to `runs`, as a part of the last one when it continues it.
pub fn push_run(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut() {
        Some(last) if last.end == run.start && last.vnet == run.vnet => {
            last.end = run.end;
            last.frames += run.frames;
        }
        _ => runs.push(run),
    }
}

/// The length prefix at `at`. The caller knows that 4 bytes are there.
#[inline]
#[must_use]
pub fn prefix_at(wire: &[u8], at: usize) -> usize {
    let mut raw = [0; PREFIX_LEN];
    raw.copy_from_slice(&wire[at..at + PREFIX_LEN]);
    u32::from_be_bytes(raw) as usize
}

/// Write the prefix of a frame of `len` bytes at `at`.
pub fn put_prefix(wire: &mut [u8], at: usize, len: usize) {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    wire[at..at + PREFIX_LEN].copy_from_slice(&len.to_be_bytes());
}

/// Append a frame behind its prefix; returns where the prefix is.
pub fn push_frame(wire: &mut Vec<u8>, frame: &[u8]) -> usize {
    let at = wire.len();
    wire.resize(at + PREFIX_LEN, 0);
    put_prefix(wire, at, frame.len());
    wire.extend_from_slice(frame);
    at
}

/// The frames of a run, as slices without their prefixes.
pub fn frames_of(wire: &[u8], run: Run) -> impl Iterator<Item = &[u8]> {
    let mut at = run.start;
    std::iter::from_fn(move || {
        (at < run.end).then(|| {
            let body = at + PREFIX_LEN;
            at = body + prefix_at(wire, at);
            &wire[body..at]
        })
    })
}

/// Result of cutting a piece of a byte stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Bytes that are whole frames (good or dropped); what follows is the beginning of one.
    pub consumed: usize,
    /// Whole frames found, good or not.
    pub frames: usize,
    /// Whole frames that were too short, and are in no run.
    pub runts: usize,
    /// A frame announced longer than [`MAX_FRAME`]: the stream cannot be trusted any more. Holds the length.
    pub oversize: Option<u32>,
}

/// Cut `wire` into runs of whole frames. Frames shorter than [`MIN_FRAME`] are left out of `runs` and counted.
///
/// A length above [`MAX_FRAME`] ends the scan at that frame; the ones in front of it are good.
pub fn scan(wire: &[u8], runs: &mut Vec<Run>) -> Scan {
    let mut found = Scan { consumed: 0, frames: 0, runts: 0, oversize: None };
    let mut run = Run { start: 0, end: 0, frames: 0, vnet: VnetHeader::PLAIN };
    let mut at = 0;
    while wire.len() - at >= PREFIX_LEN {
        let len = prefix_at(wire, at);
        if len > MAX_FRAME {
            found.oversize = Some(u32::try_from(len).unwrap_or(u32::MAX));
            break;
        }
        let next = at + PREFIX_LEN + len;
        if next > wire.len() {
            break;
        }
        found.frames += 1;
        if len >= MIN_FRAME {
            run.frames += 1;
            run.end = next;
        } else {
            found.runts += 1;
            if run.frames > 0 {
                runs.push(run);
            }
            run = Run { start: next, end: next, frames: 0, vnet: VnetHeader::PLAIN };
        }
        at = next;
    }
    if run.frames > 0 {
        runs.push(run);
    }
    found.consumed = at;
    found
}

/// Keep only frames with the source address `mac` (anti-spoofing); returns how many were left out.
pub fn keep_source(wire: &[u8], runs: &mut Vec<Run>, mac: [u8; 6]) -> usize {
    let mut kept = Vec::with_capacity(runs.len());
    let mut spoofed = 0;
    for run in runs.drain(..) {
        let mut at = run.start;
        for frame in frames_of(wire, run) {
            if frame[6..12] == mac {
                push_run(&mut kept, Run::one(at, frame.len(), run.vnet));
            } else {
                spoofed += 1;
            }
            at += PREFIX_LEN + frame.len();
        }
    }
    *runs = kept;
    spoofed
}

/// Split `runs` in front of the first frame that has `bytes` or more frame bytes before it; returns the index of that
/// frame's run, `runs.len()` when there is none.
pub fn split_runs(wire: &[u8], runs: &mut Vec<Run>, bytes: u64) -> usize {
    let mut left = bytes;
    for (index, run) in runs.iter_mut().enumerate() {
        if left >= run.frame_bytes() as u64 && left > 0 {
            left -= run.frame_bytes() as u64;
            continue;
        }
        let mut first = Run { end: run.start, frames: 0, ..*run };
        for frame in frames_of(wire, *run) {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(frame.len() as u64);
            first = Run { end: first.end + PREFIX_LEN + frame.len(), frames: first.frames + 1, ..first };
        }
        let rest = Run { start: first.end, frames: run.frames - first.frames, ..*run };
        if first.frames == 0 {
            return index;
        }
        *run = first;
        if rest.frames > 0 {
            runs.insert(index + 1, rest);
        }
        return index + 1;
    }
    runs.len()
}

/// Whether a frame of `len` bytes may travel, and if not, why.
pub fn check_len(len: usize) -> Result<(), DropReason> {
    match len {
        0..MIN_FRAME => Err(DropReason::Runt),
        MIN_FRAME..=MAX_FRAME => Ok(()),
        _ => Err(DropReason::Oversize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire_of(lengths: &[usize]) -> Vec<u8> {
        let mut wire = Vec::new();
        for (index, len) in lengths.iter().enumerate() {
            wire.extend_from_slice(&u32::try_from(*len).unwrap().to_be_bytes());
            wire.resize(wire.len() + len, u8::try_from(index).unwrap());
        }
        wire
    }

    fn scanned(wire: &[u8]) -> (Vec<Run>, Scan) {
        let mut runs = Vec::new();
        let scan = scan(wire, &mut runs);
        (runs, scan)
    }

    #[test]
    fn lengths_decide() {
        // (lengths, frames in runs, runts, runs)
        let table: &[(&[usize], usize, usize, usize)] = &[
            (&[], 0, 0, 0),
            (&[14], 1, 0, 1),
            (&[14, 60, 1514], 3, 0, 1),
            (&[0], 0, 1, 0),
            (&[13, 14, 0, 0, 60], 2, 3, 2),
            (&[60, 1], 1, 1, 1),
            (&[MAX_FRAME, 14], 2, 0, 1),
        ];
        for (lengths, good, runts, count) in table {
            let wire = wire_of(lengths);
            let (runs, scan) = scanned(&wire);
            assert_eq!(runs.iter().map(|run| run.frames).sum::<usize>(), *good, "{lengths:?}");
            assert_eq!((scan.runts, scan.frames), (*runts, good + runts), "{lengths:?}");
            assert_eq!(runs.len(), *count, "{lengths:?}");
            assert_eq!((scan.consumed, scan.oversize), (wire.len(), None), "{lengths:?}");
        }
    }

    #[test]
    fn a_cut_frame_stays_for_later() {
        let wire = wire_of(&[20, 30]);
        for cut in 0..wire.len() {
            let (runs, scan) = scanned(&wire[..cut]);
            let whole = usize::from(cut >= 24);
            assert_eq!(runs.len(), whole, "cut at {cut}");
            assert_eq!(scan.consumed, whole * 24, "cut at {cut}");
        }
    }

    #[test]
    fn oversize_is_seen_at_the_length_and_spares_the_frames_before_it() {
        let mut wire = wire_of(&[20]);
        wire.extend_from_slice(b"GET / HTTP/1.1");
        let (runs, scan) = scanned(&wire);
        assert_eq!((runs.len(), scan.oversize), (1, Some(u32::from_be_bytes(*b"GET "))));
        assert_eq!(scan.consumed, 24);
    }

    #[test]
    fn keep_source_splits_runs_around_what_it_drops() {
        let (good, bad) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut wire = Vec::new();
        for mac in [good, bad, good, good] {
            wire.extend_from_slice(&20u32.to_be_bytes());
            wire.extend_from_slice(&[0xff; 6]);
            wire.extend_from_slice(&mac);
            wire.extend_from_slice(&[0; 8]);
        }
        let (mut runs, _) = scanned(&wire);
        assert_eq!(keep_source(&wire, &mut runs, good), 1);
        assert_eq!(runs.iter().map(|run| (run.start, run.frames)).collect::<Vec<_>>(), [(0, 1), (48, 2)]);
        assert!(runs.iter().flat_map(|run| frames_of(&wire, *run)).all(|frame| frame[6..12] == good));
    }

    #[test]
    fn split_runs_lets_a_frame_through_while_bytes_are_left() {
        // Two runs of frames of 20, 30, 40 and of 50 bytes.
        let wire = wire_of(&[20, 30, 40, 50]);
        let end = 3 * PREFIX_LEN + 90;
        let whole = [(0, end, 3), (end, wire.len(), 1)];
        // (bytes, frames that pass, runs afterwards)
        for (bytes, passed, count) in [
            (0, 0, 2),
            (1, 1, 3),
            (20, 1, 3),
            (21, 2, 3),
            (50, 2, 3),
            (51, 3, 2),
            (90, 3, 2),
            (91, 4, 2),
            (u64::MAX, 4, 2),
        ] {
            let run = |(start, end, frames)| Run { start, end, frames, vnet: VnetHeader::PLAIN };
            let mut runs: Vec<Run> = whole.into_iter().map(run).collect();
            let at = split_runs(&wire, &mut runs, bytes);
            let frames = |runs: &[Run]| runs.iter().map(|run| run.frames).sum::<usize>();
            assert_eq!((frames(&runs[..at]), frames(&runs), runs.len()), (passed, 4, count), "{bytes} bytes");
            let lengths: Vec<_> =
                runs.iter().flat_map(|run| frames_of(&wire, *run).map(<[u8]>::len)).collect();
            assert_eq!(lengths, [20, 30, 40, 50], "{bytes} bytes");
        }
    }

    #[test]
    fn check_len_table() {
        for (len, expected) in [
            (0, Err(DropReason::Runt)),
            (13, Err(DropReason::Runt)),
            (14, Ok(())),
            (MAX_FRAME, Ok(())),
            (MAX_FRAME + 1, Err(DropReason::Oversize)),
        ] {
            assert_eq!(check_len(len), expected, "{len}");
        }
    }
}
