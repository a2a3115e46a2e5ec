//! See `vbackend_proto::testing::unit`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vbackend_proto::testing::unit::run(data));
