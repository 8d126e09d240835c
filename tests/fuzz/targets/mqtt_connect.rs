//! A client's first packet, and the one that is written for the broker from it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    portcullis::listen::mqtt::fuzzing::connect(data);
});
