mod merge;
mod settle;

/// Bytes that differ from their neighbours.
fn data(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 + index / 256) as u8).collect()
}
