//! See `vbackend_proto::testing::impair`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vbackend_proto::testing::impair::run(data));
