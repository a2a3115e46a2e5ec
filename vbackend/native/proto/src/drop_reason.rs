//! Why a frame was lost. Every `return` that loses a frame names one of these, and a counter goes up.

macro_rules! drop_reasons {
    ($($variant:ident $name:literal $text:literal),* $(,)?) => {
        /// Why a frame was lost.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $text] $variant),*
        }

        impl DropReason {
            /// All reasons, in counter order.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant),*];
            /// How many there are.
            pub const COUNT: usize = DropReason::ALL.len();

            /// The name shown to users, e.g. `queue-full`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name),* }
            }

            /// One line that explains it.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(DropReason::$variant => $text),* }
            }
        }
    };
}

drop_reasons! {
    // From the peer.
    Runt "runt" "shorter than its header (Ethernet: 14 bytes); zero-length frames wedge QEMU's receiver",
    Oversize "oversize" "longer than the receiver can take",
    Sender "sender" "a datagram from somebody else than the port's peer",
    Spoofed "spoofed" "the source address is not the one the port is bound to",
    BadOffload "bad-offload" "a virtio-net header that does not fit its frame",
    // In the segment.
    NoSegment "no-segment" "the port is not joined to a switch or cable",
    NoDestination "no-destination" "nobody else is on the segment",
    Hairpin "hairpin" "the destination was learned on the port the frame came from",
    Isolated "isolated" "both ports are isolated",
    LinkLocal "link-local" "a switch does not forward 01-80-C2-00-00-0x (a cable does)",
    // Towards the peer.
    PortDown "port-down" "the port, or the device behind it, is down",
    NoPeer "no-peer" "nobody is connected to the port",
    QueueFull "queue-full" "the port's output queue is full",
    Offload "offload" "the receiver cannot take the frame's segmentation offload",
    Loss "loss" "the impairment of the port lost it",
    LineFull "line-full" "more was on its way through the impairment's delay than it holds",
    PeerGone "peer-gone" "still queued when the session ended",
    Refused "refused" "the host's device or socket refused the frame",
    // In a tun adapter.
    NotIp "not-ip" "neither IPv4, IPv6 nor ARP: a tun unit carries bare IP (VLAN-tagged frames too)",
    BadIp "bad-ip" "an IP header whose version or length does not fit the frame",
    NoNeighbour "no-neighbour" "the guest did not answer for that IP address",
    NotForUnit "not-for-unit" "addressed to another station",
    NotReady "not-ready" "nobody has the tun unit open, or it has no address (EHOSTDOWN)",
    Removed "removed" "still queued when the port was removed",
}

#[cfg(test)]
mod tests {
    use super::DropReason;

    #[test]
    fn names_are_unique_and_indexes_follow_the_table() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(!reason.text().is_empty());
            assert_eq!(DropReason::ALL.iter().filter(|other| other.name() == reason.name()).count(), 1);
        }
    }
}
