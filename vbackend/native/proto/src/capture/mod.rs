//! Capturing packets: which ones (classic BPF), and how they lie in a pcapng file.

pub mod block;
pub mod bpf;
