//! See `vbackend_proto::testing::offload`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vbackend_proto::testing::offload::run(data));
