//! See `vbackend_proto::testing::checksum`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vbackend_proto::testing::checksum::run(data));
