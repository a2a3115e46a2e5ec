//! Which queue pair of a guest gets a frame: the one on which the guest sends that flow (VIRTIO 1.2 §5.1.6.5.6, automatic
//! receive steering), found by a hash that is the same for both directions.

const SLOTS: usize = 256;

/// The pair that each flow, by its hash, was last sent on.
pub struct Steering([u8; SLOTS]);

impl Default for Steering {
    fn default() -> Steering {
        Steering([0; SLOTS])
    }
}

impl Steering {
    /// The guest sent a frame on `pair`; whether its flow was on another one before.
    pub fn learn(&mut self, frame: &[u8], pair: usize) -> bool {
        let pair = u8::try_from(pair).unwrap_or(0);
        std::mem::replace(&mut self.0[flow(frame)], pair) != pair
    }

    /// The pair for a frame to the guest; 0 for flows it has not sent on.
    pub fn pair(&self, frame: &[u8]) -> usize {
        usize::from(self.0[flow(frame)])
    }
}

/// The slot of a frame's flow: MAC addresses, and for untagged, unfragmented TCP and UDP the IP addresses and ports.
fn flow(frame: &[u8]) -> usize {
    const ETHERNET: usize = 14;
    let word =
        |at: usize| frame.get(at..at + 2).map_or(0, |word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let addresses = |from: usize, to: usize| (from..to).step_by(2).map(word).fold(0, |sum, word| sum ^ word);
    let mut mixed = addresses(0, 12);
    match (word(12), frame.get(ETHERNET), frame.get(ETHERNET + 6), frame.get(ETHERNET + 9)) {
        (0x0800, Some(0x45), _, Some(6 | 17)) if word(ETHERNET + 6) & 0x3fff == 0 => {
            mixed ^= addresses(ETHERNET + 12, ETHERNET + 24);
        }
        (0x86dd, _, Some(6 | 17), _) => mixed ^= addresses(ETHERNET + 8, ETHERNET + 44),
        _ => {}
    }
    // Fibonacci hashing: the upper bits of the product depend on all bits.
    (mixed.wrapping_mul(0x9e37_79b1) >> 24) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TCP frame over IPv4 between two hosts, one way or back.
    fn frame(port: u16, back: bool) -> Vec<u8> {
        let order = |a: &[u8], b: &[u8]| if back { [b, a].concat() } else { [a, b].concat() };
        let mut frame = order(&[2, 0, 0, 0, 0, 1], &[2, 0, 0, 0, 0, 2]);
        frame.extend_from_slice(&[8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
        frame.extend(order(&[10, 0, 0, 1], &[10, 0, 0, 2]));
        frame.extend(order(&port.to_be_bytes(), &80u16.to_be_bytes()));
        frame.resize(54, 0);
        frame
    }

    #[test]
    fn an_answer_comes_to_the_pair_that_asked() {
        let mut steering = Steering::default();
        for port in 1000..1016 {
            let pair = usize::from(port % 4);
            assert_eq!(steering.learn(&frame(port, false), pair), pair != 0);
            assert!(!steering.learn(&frame(port, false), pair));
            assert_eq!(steering.pair(&frame(port, true)), pair);
        }
    }

    #[test]
    fn flows_spread_and_short_frames_have_a_slot_too() {
        let slots: std::collections::BTreeSet<_> =
            (1000..1256).map(|port| flow(&frame(port, false))).collect();
        assert!(slots.len() > 100, "{}", slots.len());
        for len in 0..60 {
            assert!(flow(&frame(1000, false)[..len.min(54)]) < SLOTS);
        }
    }
}
