//! Where a frame goes: switches learn, cables do not.
//!
//! A segment sees the frames of one ingress port in a batch and answers with hops: consecutive frames with the same
//! fate, in order. It moves nothing itself.

use crate::drop_reason::DropReason;
use crate::fdb::{Fdb, FdbEntry};
use crate::framing::{PREFIX_LEN, Run, prefix_at};

/// A port's number; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u64);

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes out on this port.
    To(PortId),
    /// It goes out on every port of [`Plan::flood`].
    Flood,
    /// It ends here.
    Drop(DropReason),
}

/// Consecutive frames with the same fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The frames.
    pub run: Run,
    /// What happens to them.
    pub fate: Fate,
}

/// A segment's answer for one batch. Reused from batch to batch, so that deciding allocates nothing.
#[derive(Debug, Default)]
pub struct Plan {
    /// In the order of the frames.
    pub hops: Vec<Hop>,
    /// The ports a flooded frame goes to; filled only when a hop floods.
    pub flood: Vec<PortId>,
}

/// A port on a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub port: PortId,
    /// Isolated ports do not reach each other (only switches look at it).
    pub isolated: bool,
}

/// Why a port could not join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinError {
    /// A cable has two ends.
    CableFull,
    /// It is a member already.
    Twice,
}

/// A switch or a cable, and the ports on it.
pub struct Segment {
    members: Vec<Member>,
    fdb: Option<Fdb>, // None: a cable
}

impl Segment {
    /// Two ports; every frame that goes in comes out, link-local group addresses included.
    #[must_use]
    pub fn cable() -> Segment {
        Segment { members: Vec::with_capacity(2), fdb: None }
    }

    /// A learning switch (IEEE 802.1D-2004 §7.7 to §7.9, without spanning tree).
    #[must_use]
    pub fn switch(fdb: Fdb) -> Segment {
        Segment { members: Vec::new(), fdb: Some(fdb) }
    }

    /// Whether it is a cable.
    #[must_use]
    pub fn is_cable(&self) -> bool {
        self.fdb.is_none()
    }

    /// The ports on it, in the order they joined.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Add a port.
    ///
    /// # Errors
    /// A cable has two ends; a port joins once.
    pub fn join(&mut self, member: Member) -> Result<(), JoinError> {
        if self.members.iter().any(|other| other.port == member.port) {
            return Err(JoinError::Twice);
        }
        if self.is_cable() && self.members.len() == 2 {
            return Err(JoinError::CableFull);
        }
        self.members.push(member);
        Ok(())
    }

    /// Remove a port and what was learned on it.
    pub fn leave(&mut self, port: PortId) {
        self.members.retain(|member| member.port != port);
        self.flush(port);
    }

    /// Forget what was learned on a port, because its peer is gone.
    pub fn flush(&mut self, port: PortId) {
        if let Some(fdb) = &mut self.fdb {
            fdb.flush_port(port);
        }
    }

    /// Learned addresses, sorted; none on a cable.
    #[must_use]
    pub fn entries(&self, now_ms: u64) -> Vec<FdbEntry> {
        self.fdb.as_ref().map_or_else(Vec::new, |fdb| fdb.entries(now_ms))
    }

    /// Decide the fate of frames that came in on `ingress`. `runs` are ranges of `wire`; every frame has at least
    /// an Ethernet header. The answer is in `plan`, whose old content is cleared.
    pub fn decide(&mut self, ingress: PortId, wire: &[u8], runs: &[Run], now_ms: u64, plan: &mut Plan) {
        plan.hops.clear();
        plan.flood.clear();
        let Some(isolated) = self.members.iter().find(|m| m.port == ingress).map(|m| m.isolated) else {
            plan.hops
                .extend(runs.iter().map(|run| Hop { run: *run, fate: Fate::Drop(DropReason::NoSegment) }));
            return;
        };
        match &mut self.fdb {
            None => {
                let other = self.members.iter().find(|member| member.port != ingress);
                let fate =
                    other.map_or(Fate::Drop(DropReason::NoDestination), |member| Fate::To(member.port));
                plan.hops.extend(runs.iter().map(|run| Hop { run: *run, fate }));
            }
            Some(fdb) => {
                let reachable = |m: &&Member| m.port != ingress && !(isolated && m.isolated);
                let hears = self.members.iter().any(|member| reachable(&member));
                let mut switch = Switching { fdb, members: &self.members, ingress, isolated, hears, now_ms };
                for run in runs {
                    switch.split(wire, *run, &mut plan.hops);
                }
                if plan.hops.iter().any(|hop| hop.fate == Fate::Flood) {
                    plan.flood.extend(self.members.iter().filter(reachable).map(|member| member.port));
                }
            }
        }
    }
}

/// One batch on its way through a switch.
struct Switching<'a> {
    fdb: &'a mut Fdb,
    members: &'a [Member],
    ingress: PortId,
    isolated: bool,
    hears: bool, // somebody hears a flooded frame
    now_ms: u64,
}

impl Switching<'_> {
    /// Cut `run` where the fate changes. Frames with the addresses of the frame before them share its fate, so a
    /// flow costs one table lookup per batch.
    fn split(&mut self, wire: &[u8], run: Run, hops: &mut Vec<Hop>) {
        const ADDRESSES: usize = 12;
        let mut hop = Hop { run: Run { end: run.start, frames: 0, ..run }, fate: Fate::Flood };
        let mut known: &[u8] = &[];
        let mut at = run.start;
        while at < run.end {
            let body = at + PREFIX_LEN;
            let next = body + prefix_at(wire, at);
            let addresses = &wire[body..body + ADDRESSES];
            if addresses != known {
                known = addresses;
                let fate = self.fate(addresses);
                if fate != hop.fate && hop.run.frames > 0 {
                    hops.push(hop);
                    hop.run = Run { start: at, end: at, frames: 0, ..run };
                }
                hop.fate = fate;
            }
            hop.run.frames += 1;
            hop.run.end = next;
            at = next;
        }
        if hop.run.frames > 0 {
            hops.push(hop);
        }
    }

    /// Learn the source, look the destination up.
    fn fate(&mut self, addresses: &[u8]) -> Fate {
        let mac = |at: usize| {
            let mut mac = [0; 6];
            mac.copy_from_slice(&addresses[at..at + 6]);
            mac
        };
        let (destination, source) = (mac(0), mac(6));
        if !is_group(source) {
            self.fdb.learn(source, self.ingress, self.now_ms);
        }
        if is_link_local_group(destination) {
            return Fate::Drop(DropReason::LinkLocal);
        }
        let flood = if self.hears { Fate::Flood } else { Fate::Drop(DropReason::NoDestination) };
        if is_group(destination) {
            return flood;
        }
        match self.fdb.lookup(destination, self.now_ms) {
            None => flood,
            Some(port) if port == self.ingress => Fate::Drop(DropReason::Hairpin),
            Some(port) if self.isolated && self.members.iter().any(|m| m.port == port && m.isolated) => {
                Fate::Drop(DropReason::Isolated)
            }
            Some(port) => Fate::To(port),
        }
    }
}

fn is_group(mac: [u8; 6]) -> bool {
    mac[0] & 1 == 1
}

/// 01-80-C2-00-00-00 to -0F: never forwarded by a bridge (IEEE 802.1D-2004 table 7-10).
fn is_link_local_group(mac: [u8; 6]) -> bool {
    mac[..5] == [0x01, 0x80, 0xc2, 0x00, 0x00] && mac[5] < 0x10
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::scan;

    const A: PortId = PortId(1);
    const B: PortId = PortId(2);
    const C: PortId = PortId(3);
    const BROADCAST: [u8; 6] = [0xff; 6];

    fn host(n: u8) -> [u8; 6] {
        [0x52, 0x54, 0, 0, 0, n]
    }

    fn wire_of(frames: &[([u8; 6], [u8; 6])]) -> (Vec<u8>, Vec<Run>) {
        let mut wire = Vec::new();
        for (destination, source) in frames {
            wire.extend_from_slice(&18u32.to_be_bytes());
            wire.extend_from_slice(destination);
            wire.extend_from_slice(source);
            wire.extend_from_slice(&[0x88, 0xb5, 1, 2, 3, 4]);
        }
        let mut runs = Vec::new();
        scan(&wire, &mut runs);
        (wire, runs)
    }

    fn switch(members: &[(PortId, bool)]) -> Segment {
        let mut segment = Segment::switch(Fdb::new(16, 1000, 7));
        for (port, isolated) in members {
            segment.join(Member { port: *port, isolated: *isolated }).unwrap();
        }
        segment
    }

    fn fates(
        segment: &mut Segment,
        ingress: PortId,
        frames: &[([u8; 6], [u8; 6])],
        now_ms: u64,
    ) -> Vec<(Fate, usize)> {
        let (wire, runs) = wire_of(frames);
        let mut plan = Plan::default();
        segment.decide(ingress, &wire, &runs, now_ms, &mut plan);
        plan.hops.iter().map(|hop| (hop.fate, hop.run.frames)).collect()
    }

    #[test]
    fn a_switch_floods_the_unknown_and_then_knows_it() {
        let mut segment = switch(&[(A, false), (B, false), (C, false)]);
        assert_eq!(fates(&mut segment, A, &[(host(2), host(1))], 0), [(Fate::Flood, 1)]);
        assert_eq!(fates(&mut segment, B, &[(host(1), host(2))], 1), [(Fate::To(A), 1)]);
        assert_eq!(fates(&mut segment, A, &[(host(2), host(1)); 5], 2), [(Fate::To(B), 5)]);
        // Aged: B was last heard at 1.
        assert_eq!(fates(&mut segment, A, &[(host(2), host(1))], 1001), [(Fate::Flood, 1)]);
    }

    #[test]
    fn hops_follow_the_frames_order() {
        let mut segment = switch(&[(A, false), (B, false), (C, false)]);
        fates(&mut segment, B, &[(BROADCAST, host(2))], 0);
        fates(&mut segment, C, &[(BROADCAST, host(3))], 0);
        let (to_b, to_c, all) = ((host(2), host(1)), (host(3), host(1)), (BROADCAST, host(1)));
        assert_eq!(
            fates(&mut segment, A, &[to_b, to_b, all, to_c, to_b], 0),
            [(Fate::To(B), 2), (Fate::Flood, 1), (Fate::To(C), 1), (Fate::To(B), 1)]
        );
    }

    #[test]
    fn drops_have_their_reasons() {
        let stp = [0x01, 0x80, 0xc2, 0, 0, 0];
        let mut segment = switch(&[(A, true), (B, true), (C, false)]);
        fates(&mut segment, B, &[(BROADCAST, host(2))], 0);
        fates(&mut segment, A, &[(BROADCAST, host(9))], 0);
        for (destination, expected) in [
            (stp, Fate::Drop(DropReason::LinkLocal)),
            (host(9), Fate::Drop(DropReason::Hairpin)),
            (host(2), Fate::Drop(DropReason::Isolated)),
            ([0x01, 0x80, 0xc2, 0, 0, 0x10], Fate::Flood),
        ] {
            assert_eq!(
                fates(&mut segment, A, &[(destination, host(1))], 0),
                [(expected, 1)],
                "{destination:?}"
            );
        }
        let mut alone = switch(&[(A, false)]);
        assert_eq!(
            fates(&mut alone, A, &[(BROADCAST, host(1))], 0),
            [(Fate::Drop(DropReason::NoDestination), 1)]
        );
        assert_eq!(
            fates(&mut alone, B, &[(BROADCAST, host(1))], 0),
            [(Fate::Drop(DropReason::NoSegment), 1)]
        );
    }

    #[test]
    fn flooding_spares_the_ingress_and_isolated_neighbours() {
        let mut segment = switch(&[(A, true), (B, true), (C, false)]);
        let (wire, runs) = wire_of(&[(BROADCAST, host(1))]);
        let mut plan = Plan::default();
        segment.decide(A, &wire, &runs, 0, &mut plan);
        assert_eq!(plan.flood, [C]);
        segment.decide(C, &wire, &runs, 0, &mut plan);
        assert_eq!(plan.flood, [A, B]);
    }

    #[test]
    fn a_cable_passes_everything() {
        let mut segment = Segment::cable();
        segment.join(Member { port: A, isolated: true }).unwrap();
        let stp = [0x01, 0x80, 0xc2, 0, 0, 0];
        assert_eq!(
            fates(&mut segment, A, &[(stp, host(1))], 0),
            [(Fate::Drop(DropReason::NoDestination), 1)]
        );
        segment.join(Member { port: B, isolated: true }).unwrap();
        assert_eq!(fates(&mut segment, A, &[(stp, host(1)), (host(1), host(1))], 0), [(Fate::To(B), 2)]);
        assert_eq!(segment.join(Member { port: C, isolated: false }), Err(JoinError::CableFull));
        assert_eq!(segment.join(Member { port: B, isolated: false }), Err(JoinError::Twice));
    }

    #[test]
    fn leaving_forgets_what_was_learned_there() {
        let mut segment = switch(&[(A, false), (B, false)]);
        fates(&mut segment, B, &[(BROADCAST, host(2))], 0);
        assert_eq!(segment.entries(0).len(), 1);
        segment.leave(B);
        assert!(segment.entries(0).is_empty());
        assert_eq!(segment.members().len(), 1);
    }
}
