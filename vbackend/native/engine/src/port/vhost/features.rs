//! The features that the engine looks at, of those a front-end acknowledged (VIRTIO 1.2 §5.1.3, §6).

/// `VIRTIO_NET_F_MRG_RXBUF`.
const MRG_RXBUF: u64 = 1 << 15;
/// `VHOST_F_LOG_ALL`.
const LOG_ALL: u64 = 1 << 26;
/// `VIRTIO_F_INDIRECT_DESC`.
const INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`.
const EVENT_IDX: u64 = 1 << 29;
/// `VIRTIO_F_VERSION_1`.
const VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_RING_PACKED`.
const RING_PACKED: u64 = 1 << 34;
/// `VIRTIO_F_IN_ORDER`.
const IN_ORDER: u64 = 1 << 35;

/// Acknowledged features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    /// A frame to the guest may span several chains.
    pub fn mergeable(self) -> bool {
        self.has(MRG_RXBUF)
    }

    /// What is written is logged.
    pub fn log_all(self) -> bool {
        self.has(LOG_ALL)
    }

    /// Chains may be tables elsewhere.
    pub fn indirect(self) -> bool {
        self.has(INDIRECT_DESC)
    }

    /// Notifications are asked for by index.
    pub fn event_idx(self) -> bool {
        self.has(EVENT_IDX)
    }

    /// The packed layout.
    pub fn packed(self) -> bool {
        self.has(RING_PACKED)
    }

    /// Chains come back in order.
    pub fn in_order(self) -> bool {
        self.has(IN_ORDER)
    }

    /// Bytes of the header in front of each frame: legacy devices have no `num_buffers` without `MRG_RXBUF`
    /// (VIRTIO 1.2 §5.1.6.1).
    pub fn header_len(self) -> usize {
        if self.has(VERSION_1) || self.mergeable() { 12 } else { 10 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_short_for_legacy_drivers_only() {
        for (bits, len) in [(0, 10), (MRG_RXBUF, 12), (VERSION_1, 12), (VERSION_1 | MRG_RXBUF, 12)] {
            assert_eq!(Features(bits).header_len(), len, "{bits:#x}");
        }
    }
}
