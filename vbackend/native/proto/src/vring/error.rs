//! The lies of a ring, by name.

macro_rules! ring_errors {
    ($($variant:ident $text:literal),* $(,)?) => {
        /// What is wrong with a ring. After one of these it should be stopped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum RingError {
            $(#[doc = $text] $variant),*
        }

        impl RingError {
            /// All of them.
            pub const ALL: &'static [RingError] = &[$(RingError::$variant),*];

            /// One line that explains it.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(RingError::$variant => $text),* }
            }
        }
    };
}

ring_errors! {
    // When it is set up.
    Size "a ring has 1 to 32768 slots, a split one a power of two",
    Short "a part of the ring is shorter than its size needs, or not in one piece",
    Misaligned "a part of the ring is misaligned",
    Base "the base lies outside the ring",
    // When chains are looked for.
    Jump "more chains are available than the ring has slots",
    Head "the head of a chain lies outside the descriptor table",
    // Along a chain.
    Next "a descriptor's successor lies outside its table",
    Loop "a chain has more descriptors than the ring, or loops",
    NoIndirect "an indirect descriptor, though VIRTIO_F_INDIRECT_DESC was not negotiated",
    TableLen "an indirect table is empty, not of whole descriptors, or makes the chain longer than the ring",
    TableInTable "an indirect descriptor in an indirect table",
    TableInChain "an indirect descriptor that is not the last of its chain",
    // About a buffer.
    WrongWay "a buffer to be written where the device reads, or the other way round",
    TooLong "a chain has more bytes than any frame",
    Address "a buffer or an indirect table outside guest memory",
}

#[cfg(test)]
mod tests {
    use super::RingError;

    #[test]
    fn texts_are_unique() {
        for error in RingError::ALL {
            let same = RingError::ALL.iter().filter(|other| other.text() == error.text());
            assert_eq!((same.count(), error.text().is_empty()), (1, false), "{error:?}");
        }
    }
}
