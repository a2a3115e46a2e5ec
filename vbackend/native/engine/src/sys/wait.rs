//! Waiting for another thread, and waking a program: futex and queued signals.

use std::io;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use super::check;

/// Sleep while `word` is `expected`, until [`futex_wake`] or for `timeout` at most; also a change that came first ends it.
///
/// # Errors
/// `EINTR`: a signal handler ran in this thread. (A time-out is no error.)
pub fn futex_wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> io::Result<()> {
    let limit = timeout.map(|timeout| libc::timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: `word` and `limit` (or null) are live through the call; FUTEX_WAIT only reads them.
    let result = check(unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, expected, limit) });
    match result.as_ref().map_err(io::Error::raw_os_error) {
        Ok(_) | Err(Some(libc::EAGAIN | libc::ETIMEDOUT)) => Ok(()),
        Err(_) => result.map(drop),
    }
}

/// Wake all who sleep on `word`.
pub fn futex_wake(word: &AtomicU32) {
    let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: FUTEX_WAKE uses the address only as a key. It cannot fail for a valid one.
    let _woken = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, i32::MAX) };
}

/// Send SIGIO to a process, or to a process group (negative), as an asynchronous descriptor does: with `code` (`POLL_IN`,
/// `POLL_HUP`) in `si_code`. The kernel lets only a process's main thread say so, to its own process
/// (kernel/signal.c, do_rt_sigqueueinfo); all others send a plain SIGIO.
pub fn send_sigio(owner: i32, code: i32) {
    // SAFETY: getpid takes no pointers and cannot fail.
    if owner == unsafe { libc::getpid() } {
        // SAFETY: siginfo_t is plain data for which all zeroes is a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        (info.si_signo, info.si_code) = (libc::SIGIO, code);
        // SAFETY: `info` is a whole siginfo_t that the kernel only reads.
        let sent = unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, owner, libc::SIGIO, &raw const info) };
        if sent == 0 {
            return;
        }
    }
    if owner != 0 && owner != -1 {
        // SAFETY: kill takes no pointers. An owner that is gone by now needs no signal.
        let _gone = unsafe { libc::kill(owner, libc::SIGIO) };
    }
}

/// `si_code` of SIGIO: there is something to read (`asm-generic/siginfo.h`).
pub const POLL_IN: i32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn a_change_that_came_first_and_a_time_out_end_the_wait() {
        let word = AtomicU32::new(1);
        futex_wait(&word, 0, None).unwrap();
        futex_wait(&word, 1, Some(Duration::from_millis(1))).unwrap();
    }

    #[test]
    fn a_sleeper_is_woken() {
        let word = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while word.load(Ordering::Acquire) == 0 {
                    futex_wait(&word, 0, None).unwrap();
                }
            });
            word.store(1, Ordering::Release);
            futex_wake(&word);
        });
    }
}
