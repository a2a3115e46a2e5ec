//! See `vbackend_proto::testing::adapter`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vbackend_proto::testing::adapter::run(data));
