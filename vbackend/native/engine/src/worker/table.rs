//! The ports that a worker knows, by the slots of their numbers.

use std::sync::Arc;

use vbackend_proto::segment::PortId;

use crate::port::Port;
use crate::shared::PortShared;

/// The slot of a port number: ports lie in tables at this index. The rest of the number is a generation.
#[must_use]
pub fn slot_of(port: PortId) -> usize {
    (port.0 & 0xffff_ffff) as usize
}

/// A port as a worker sees it.
pub enum Entry {
    /// One of its own.
    Local(Box<Port>),
    /// One of another worker.
    Remote(Arc<PortShared>),
}

/// All ports, by slot.
#[derive(Default)]
pub struct Table(Vec<Option<Entry>>);

impl Table {
    /// Put something into a slot, or empty it.
    pub fn set(&mut self, slot: usize, entry: Option<Entry>) {
        if self.0.len() <= slot {
            self.0.resize_with(slot + 1, || None);
        }
        self.0[slot] = entry;
    }

    /// The port of this worker in a slot.
    pub fn local(&mut self, slot: usize) -> Option<&mut Port> {
        match self.0.get_mut(slot) {
            Some(Some(Entry::Local(port))) => Some(port),
            _ => None,
        }
    }

    /// What is in a slot.
    pub fn get(&mut self, slot: usize) -> Option<&mut Entry> {
        self.0.get_mut(slot)?.as_mut()
    }

    /// How many slots there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Take a port out for its turn, so that the others can be written to meanwhile.
    pub fn take(&mut self, slot: usize) -> Option<Box<Port>> {
        match self.0.get_mut(slot)?.take() {
            Some(Entry::Local(port)) => Some(port),
            other => {
                self.0[slot] = other;
                None
            }
        }
    }

    /// Put it back.
    pub fn put(&mut self, slot: usize, port: Box<Port>) {
        self.0[slot] = Some(Entry::Local(port));
    }
}
