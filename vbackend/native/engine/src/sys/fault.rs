//! SIGBUS: a file was truncated under its mapping.
//!
//! The handler replaces the whole watched range by zeroes of ours and sets a mark; the access that faulted is repeated
//! and succeeds. A SIGBUS elsewhere goes to the handler that was there before (Python's faulthandler, a crash).

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use super::check;
use crate::command::lock;

/// Ranges that can be watched at a time: 128 ports with 32 regions each.
const SLOTS: usize = 4096;

struct Slot {
    start: AtomicUsize, // 0: free
    len: AtomicUsize,
    faulted: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot { start: AtomicUsize::new(0), len: AtomicUsize::new(0), faulted: AtomicBool::new(false) }
}; SLOTS];

/// Slots from here on were never used.
static USED: AtomicUsize = AtomicUsize::new(0);

static CHANGING: Mutex<()> = Mutex::new(());

/// What handled SIGBUS before us.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// A mapped range in which SIGBUS is survived, until `end`.
pub struct Watched(usize);

impl Watched {
    /// Watch a range.
    ///
    /// # Errors
    /// `ENOMEM`: too many are watched; or the handler cannot be installed.
    pub fn new(start: NonNull<u8>, len: usize) -> io::Result<Watched> {
        let _changing = lock(&CHANGING);
        install()?;
        let free = TABLE.iter().position(|slot| slot.start.load(Ordering::Relaxed) == 0);
        let index = free.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        TABLE[index].faulted.store(false, Ordering::Relaxed);
        TABLE[index].len.store(len, Ordering::Release); // whoever sees it sees that the slot was freed
        TABLE[index].start.store(start.as_ptr() as usize, Ordering::Release);
        USED.fetch_max(index + 1, Ordering::Release);
        Ok(Watched(index))
    }

    /// Whether an access faulted: the range holds zeroes since.
    pub fn has_faulted(&self) -> bool {
        TABLE[self.0].faulted.load(Ordering::Acquire)
    }

    /// Stop watching, before the range is unmapped.
    pub fn end(&self) {
        let _changing = lock(&CHANGING);
        TABLE[self.0].start.store(0, Ordering::Release);
    }
}

fn install() -> io::Result<()> {
    if BEFORE.get().is_some() {
        return Ok(());
    }
    // SAFETY: all zeroes is a valid sigaction: no flags, an empty mask, the default handler.
    let (mut ours, mut before): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = caught;
    ours.sa_sigaction = handler as usize;
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
    // SAFETY: both are valid; the handler only does what is allowed in a signal handler (see there).
    check(unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut before) })?;
    BEFORE.get_or_init(|| before);
    // SAFETY: as above.
    check(unsafe { libc::sigaction(libc::SIGBUS, &raw const ours, std::ptr::null_mut()) })?;
    Ok(())
}

/// Async-signal-safe: atomics and mmap only, errno kept.
extern "C" fn caught(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo_t to an SA_SIGINFO handler; for SIGBUS it holds an address.
    let address = unsafe { (*info).si_addr() } as usize;
    for slot in &TABLE[..USED.load(Ordering::Acquire)] {
        let (start, len) = (slot.start.load(Ordering::Acquire), slot.len.load(Ordering::Acquire));
        // Of one range both: another thread may be giving the slot to the next.
        let is_one = slot.start.load(Ordering::Relaxed) == start;
        if start == 0 || !is_one || address < start || address - start >= len {
            continue;
        }
        slot.faulted.store(true, Ordering::Release);
        // SAFETY: errno is this thread's; the range is a live mapping of ours that MAP_FIXED replaces by zeroes.
        let replaced = unsafe {
            let errno = *libc::__errno_location();
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
            let both = libc::PROT_READ | libc::PROT_WRITE;
            let place = std::ptr::with_exposed_provenance_mut(start);
            let replaced = libc::mmap(place, len, both, flags, -1, 0);
            *libc::__errno_location() = errno;
            replaced
        };
        if replaced != libc::MAP_FAILED {
            return;
        }
    }
    pass_on(signal, info, context);
}

/// Let the handler before us have it; without one, die of it as a program without us would.
fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let before = BEFORE.get();
    let handler = before.map_or(libc::SIG_DFL, |before| before.sa_sigaction);
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // SAFETY: restoring the default action; the access is then repeated and ends the process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    if before.is_some_and(|before| before.sa_flags & libc::SA_SIGINFO != 0) {
        type Long = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
        // SAFETY: with SA_SIGINFO the stored handler is a function of this type.
        let handler: Long = unsafe { std::mem::transmute::<usize, Long>(handler) };
        handler(signal, info, context);
    } else {
        type Short = extern "C" fn(i32);
        // SAFETY: without SA_SIGINFO the stored handler is a function of this type.
        let handler: Short = unsafe { std::mem::transmute::<usize, Short>(handler) };
        handler(signal);
    }
}
