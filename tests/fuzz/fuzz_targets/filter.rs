//! See `vbackend_proto::testing::filter`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vbackend_proto::testing::filter::run(data));
