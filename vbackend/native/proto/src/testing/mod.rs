//! What tests and fuzzers share: packet builders, and one function per fuzz target that takes any bytes.
//!
//! A target panics when a promise of the code under test is broken. `tests/fuzz` feeds them, and the tests here replay
//! the corpora that it keeps. Not part of any build that users run.

pub mod adapter;
pub mod checksum;
pub mod driver;
pub mod filter;
pub mod flow;
pub mod impair;
pub mod offload;
pub mod packets;
pub mod ram;
pub mod stream;
pub mod switch;
pub mod unit;
pub mod vring;

/// A target by its name; the folders of `tests/fuzz/corpora` have the same.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("adapter", adapter::run),
    ("checksum", checksum::run),
    ("filter", filter::run),
    ("impair", impair::run),
    ("offload", offload::run),
    ("stream", stream::run),
    ("switch", switch::run),
    ("unit", unit::run),
    ("vring", vring::run),
];

/// Fuzzer bytes, read as a program: what is missing at the end reads as zero.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// A reader of `data`.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Input<'a> {
        Input(data)
    }

    /// Whether all is read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// The next two bytes.
    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// The next `len` bytes, or what is left.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::path::{Path, PathBuf};

    fn corpora() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/fuzz/corpora")
    }

    #[test]
    fn inputs_found_earlier_stay_harmless() {
        for (name, run) in TARGETS {
            let folder = corpora().join(name);
            let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            let mut replayed = 0;
            for file in files {
                let path = file.unwrap().path();
                println!("{}", path.display()); // shown when the target panics
                run(&fs::read(&path).unwrap());
                replayed += 1;
            }
            assert!(replayed > 0, "{} holds no inputs", folder.display());
        }
    }

    #[test]
    fn every_corpus_has_its_target() {
        for folder in fs::read_dir(corpora()).unwrap() {
            let name = folder.unwrap().file_name().into_string().unwrap();
            assert!(TARGETS.iter().any(|(target, _)| *target == name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_input_is_harmless(data in proptest::collection::vec(any::<u8>(), 0..600)) {
            for (_, run) in TARGETS {
                run(&data);
            }
        }
    }

    #[test]
    fn input_ends_in_zeros() {
        let mut input = Input::new(&[1, 2, 3]);
        assert_eq!((input.word(), input.bytes(9)), (0x0102, &[3u8] as &[u8]));
        assert_eq!((input.is_empty(), input.word(), input.byte()), (true, 0, 0));
    }
}
