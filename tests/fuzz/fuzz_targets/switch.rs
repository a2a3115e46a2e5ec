//! See `vbackend_proto::testing::switch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vbackend_proto::testing::switch::run(data));
