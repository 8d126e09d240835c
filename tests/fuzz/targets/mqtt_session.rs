//! Bytes of both sides of a session: where packets begin, and the token exchange.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    portcullis::listen::mqtt::fuzzing::session(data);
});
