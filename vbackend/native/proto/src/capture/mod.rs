//! Capturing packets: which ones (classic BPF), what became of them, and how they lie in a pcapng file.

pub mod block;
pub mod bpf;
pub mod verdict;
