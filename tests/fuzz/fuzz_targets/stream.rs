//! See `vbackend_proto::testing::stream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vbackend_proto::testing::stream::run(data));
