//! Guest memory: files that a front-end shares, mapped here, read and written while the guest changes them.
//!
//! ```text
//!   guard | region, MAP_SHARED | guard      guards are PROT_NONE: a wrong pointer faults, it never reaches a neighbour
//! ```
//!
//! A front-end can truncate its file under the mapping. The access then raises SIGBUS; the handler (fault.rs) puts
//! zeroes in the region's place and marks it, the access completes, and the port's owner finds the mark.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering, fence};

use vbackend_proto::vring::{Area, Direction, Memory};

use super::check;
use super::fault::Watched;
use super::prefetch;

/// Least unit of a mapping, and of the dirty log.
pub const PAGE: usize = 4096;

const CACHE_LINE: usize = 64;

/// A part of a shared file, mapped between two guards. Unmapped when dropped.
struct Mapping {
    reserved: NonNull<u8>,
    reserved_len: usize,
    start: NonNull<u8>, // the byte asked for; the mapping itself may begin before it
    len: usize,
    watched: Watched,
}

// SAFETY: a mapping is an address range; any thread may access or unmap it. What lies there changes at any moment
// anyway, which `GuestArea` allows for.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<Mapping> {
        let invalid = |text: &'static str| io::Error::new(io::ErrorKind::InvalidInput, text);
        let (size, block) = size_and_block(fd)?;
        let end = offset
            .checked_add(len)
            .filter(|_| len > 0)
            .ok_or_else(|| invalid("an empty or endless region"))?;
        if end > size {
            return Err(invalid("the region ends behind the end of its file"));
        }
        // Huge pages are mapped from a multiple of their size on.
        let unit = block.max(PAGE);
        let to_usize =
            |value: u64| usize::try_from(value).map_err(|_| invalid("a region beyond the address space"));
        let (offset, len) = (to_usize(offset)?, to_usize(len)?);
        let lead = offset % unit;
        let mapped = (lead + len).next_multiple_of(unit);
        let reserved_len =
            mapped.checked_add(3 * unit).ok_or_else(|| invalid("a region beyond the address space"))?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let reserved = map(std::ptr::null_mut(), reserved_len, libc::PROT_NONE, flags, -1, 0)?;
        let place = reserved.as_ptr().wrapping_add(unit);
        let place = place.wrapping_add(place.align_offset(unit));
        let file_offset =
            i64::try_from(offset - lead).map_err(|_| invalid("a region beyond the address space"));
        let both = libc::PROT_READ | libc::PROT_WRITE;
        let shared = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let start = file_offset
            .and_then(|file_offset| map(place, mapped, both, shared, fd.as_raw_fd(), file_offset))
            .and_then(|start| Ok((start, Watched::new(start, mapped)?)));
        match start {
            Ok((start, watched)) => {
                // SAFETY: `lead` is inside the mapping just made.
                let start = unsafe { start.add(lead) };
                Ok(Mapping { reserved, reserved_len, start, len, watched })
            }
            Err(error) => {
                unmap(reserved, reserved_len);
                Err(error)
            }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.watched.end();
        unmap(self.reserved, self.reserved_len);
    }
}

fn map(
    at: *mut u8,
    len: usize,
    protection: i32,
    flags: i32,
    fd: i32,
    offset: i64,
) -> io::Result<NonNull<u8>> {
    // SAFETY: without MAP_FIXED the kernel picks a free place; with it, callers name a part of their own reservation.
    let mapped = unsafe { libc::mmap(at.cast(), len, protection, flags, fd, offset) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(mapped.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

fn unmap(start: NonNull<u8>, len: usize) {
    // SAFETY: the range is a reservation of ours, and its owner gives it up: no area of it is used any more.
    let result = unsafe { libc::munmap(start.as_ptr().cast(), len) };
    debug_assert_eq!(result, 0);
}

/// Length of a file and the block it is mapped by (a huge page's size on hugetlbfs).
fn size_and_block(fd: BorrowedFd<'_>) -> io::Result<(u64, usize)> {
    // SAFETY: all zeroes is a valid `stat`.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `found` is a valid place for the kernel to write to.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut found) })?;
    if found.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "guest memory has to be a file"));
    }
    let block = usize::try_from(found.st_blksize).unwrap_or(PAGE);
    let block = if block.is_power_of_two() && block <= 1 << 30 { block } else { PAGE };
    Ok((u64::try_from(found.st_size).unwrap_or(0), block))
}

/// Where a region lies for the guest and for the front-end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Guest physical address.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// Address in the front-end.
    pub user: u64,
}

/// One region of a guest's memory.
#[derive(Clone)]
pub struct Region {
    place: Place,
    mapping: Arc<Mapping>,
}

impl Region {
    /// Map `place.size` bytes of a file from `offset` on.
    ///
    /// # Errors
    /// The region is empty, wraps around, or does not lie in the file; or the kernel refused.
    pub fn map(place: Place, fd: BorrowedFd<'_>, offset: u64) -> io::Result<Region> {
        let wraps =
            place.guest.checked_add(place.size).is_none() || place.user.checked_add(place.size).is_none();
        if wraps {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a region that wraps around"));
        }
        Ok(Region { place, mapping: Arc::new(Mapping::new(fd, offset, place.size)?) })
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }
}

/// All memory of a guest.
#[derive(Clone, Default)]
pub struct GuestMemory {
    regions: Vec<Region>,
}

impl GuestMemory {
    /// Memory of these regions.
    ///
    /// # Errors
    /// Two of them overlap, for the guest or for the front-end; holds the guest address of the second.
    pub fn new(regions: Vec<Region>) -> Result<GuestMemory, u64> {
        let apart = |a: u64, b: u64, a_len: u64, b_len: u64| a + a_len <= b || b + b_len <= a;
        for (index, region) in regions.iter().enumerate() {
            let this = region.place;
            let overlaps = regions[..index].iter().map(Region::place).any(|other| {
                !apart(this.guest, other.guest, this.size, other.size)
                    || !apart(this.user, other.user, this.size, other.size)
            });
            if overlaps {
                return Err(this.guest);
            }
        }
        Ok(GuestMemory { regions })
    }

    /// Its regions.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The memory at an address of the front-end; None: not all of it is in one region.
    #[must_use]
    pub fn user_area(&self, address: u64, len: usize) -> Option<GuestArea> {
        let region = self
            .regions
            .iter()
            .find(|region| address.checked_sub(region.place.user).is_some_and(|at| at < region.place.size))?;
        region.area(address - region.place.user, len).filter(|area| area.len == len)
    }

    /// Whether a file behind it was truncated: it reads as zeroes since.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.regions.iter().any(|region| region.mapping.watched.has_faulted())
    }

    /// The guest address of an area of this memory.
    fn guest_address(&self, area: &GuestArea) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let at = (area.start.as_ptr() as usize).checked_sub(region.mapping.start.as_ptr() as usize)?;
            (at < region.mapping.len).then(|| region.place.guest + at as u64)
        })
    }
}

impl Region {
    fn area(&self, at: u64, len: usize) -> Option<GuestArea> {
        let left = usize::try_from(self.place.size.checked_sub(at)?).ok()?;
        let at = usize::try_from(at).ok()?;
        // SAFETY: `at` is inside the region, which is mapped as a whole.
        let start = unsafe { self.mapping.start.add(at) };
        Some(GuestArea { start, len: len.min(left) })
    }
}

impl Memory for GuestMemory {
    type Area = GuestArea;

    #[inline]
    fn area(&self, address: u64, len: usize) -> Option<GuestArea> {
        let region = self.regions.iter().find(|region| {
            address.checked_sub(region.place.guest).is_some_and(|at| at < region.place.size)
        })?;
        region.area(address - region.place.guest, len)
    }

    #[inline]
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

/// A piece of guest memory. It does not keep the mapping: whoever holds areas drops them before their memory.
#[derive(Clone, Copy)]
pub struct GuestArea {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: an address range of a mapping that any thread may access; see `Mapping`.
unsafe impl Send for GuestArea {}

impl GuestArea {
    /// Where it is mapped.
    #[must_use]
    pub fn host_address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Copy `len` bytes from `from` on to `target` from `at` on: guest to guest, once.
    #[inline]
    pub fn copy_to(&self, from: usize, target: &GuestArea, at: usize, len: usize) {
        assert!(from <= self.len && len <= self.len - from && at <= target.len && len <= target.len - at);
        // SAFETY: both ranges were just checked to lie in their areas, which are mapped. The same guest memory may be
        // on both sides, so they may overlap.
        unsafe { std::ptr::copy(self.start.as_ptr().add(from), target.start.as_ptr().add(at), len) };
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU16 {
        assert!(at < self.len && 2 <= self.len - at);
        let word = self.start.as_ptr().wrapping_add(at).cast::<AtomicU16>();
        assert!(word.is_aligned());
        // SAFETY: the word lies inside the area, which is mapped, and is aligned. An atomic may change at any moment.
        unsafe { &*word }
    }
}

impl Area for GuestArea {
    #[inline]
    fn len(&self) -> usize {
        self.len
    }

    /// Two cache lines: a frame's header and addresses, or all of a short frame.
    #[inline]
    fn prefetch(&self, direction: Direction) {
        for line in [0, CACHE_LINE] {
            prefetch::line(self.start.as_ptr().wrapping_add(line), direction == Direction::ToGuest);
        }
    }

    #[inline]
    fn read(&self, at: usize, out: &mut [u8]) {
        assert!(at <= self.len && out.len() <= self.len - at);
        // SAFETY: the range was just checked to lie in the area, which is mapped; `out` is ours. The guest may write
        // meanwhile: any mixture of old and new bytes is a valid `[u8]`, and callers check what they got, not the source.
        unsafe { std::ptr::copy_nonoverlapping(self.start.as_ptr().add(at), out.as_mut_ptr(), out.len()) };
    }

    #[inline]
    fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at <= self.len && bytes.len() <= self.len - at);
        // SAFETY: as in `read`, the other way round. No Rust reference to guest memory exists.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(at), bytes.len()) };
    }

    #[inline]
    fn load(&self, at: usize) -> u16 {
        u16::from_le(self.word(at).load(Ordering::Acquire))
    }

    #[inline]
    fn store(&self, at: usize, value: u16) {
        self.word(at).store(value.to_le(), Ordering::Release);
    }

    #[inline]
    fn slice(&self, at: usize, len: usize) -> GuestArea {
        assert!(at <= self.len && len <= self.len - at);
        // SAFETY: `at` is inside the area.
        GuestArea { start: unsafe { self.start.add(at) }, len }
    }
}

/// The dirty log of a live migration: one bit for each page of guest memory (vhost-user, "Migration").
pub struct DirtyLog {
    mapping: Mapping,
    news: Cell<bool>, // a bit was set that was not
}

impl DirtyLog {
    /// Map a log.
    ///
    /// # Errors
    /// As [`Region::map`].
    pub fn map(fd: BorrowedFd<'_>, offset: u64, size: u64) -> io::Result<DirtyLog> {
        Ok(DirtyLog { mapping: Mapping::new(fd, offset, size)?, news: Cell::new(false) })
    }

    /// Mark the first `len` bytes of an area of `memory` as written. Pages that the log has no bit for are left out.
    pub fn mark(&self, memory: &GuestMemory, area: &GuestArea, len: usize) {
        let Some(first) = memory.guest_address(area).filter(|_| len > 0) else { return };
        let page = |address: u64| usize::try_from(address / PAGE as u64).unwrap_or(usize::MAX);
        for page in page(first)..=page(first + len as u64 - 1) {
            if page / 8 >= self.mapping.len {
                return;
            }
            let byte = self.mapping.start.as_ptr().wrapping_add(page / 8).cast::<AtomicU8>();
            // SAFETY: the byte lies inside the mapped log. The front-end takes bits out meanwhile, hence the atomic.
            let before = unsafe { &*byte }.fetch_or(1 << (page % 8), Ordering::Release);
            if before & 1 << (page % 8) == 0 {
                self.news.set(true);
            }
        }
    }

    /// Whether the log changed since the last time this was asked.
    pub fn take_news(&self) -> bool {
        self.news.take()
    }

    /// Whether the file behind it was truncated.
    pub fn is_lost(&self) -> bool {
        self.mapping.watched.has_faulted()
    }
}
