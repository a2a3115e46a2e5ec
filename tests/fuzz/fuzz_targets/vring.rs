//! See `vbackend_proto::testing::vring`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vbackend_proto::testing::vring::run(data));
