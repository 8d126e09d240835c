//! One binary of integration tests; `world` is the harness, `attacks.md` beside it says which
//! known attack is which test.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unsafe_code,
    reason = "a test that cannot go on fails; OpenSSL's session setter is unsafe"
)]

mod attacks;
mod completion;
mod dockerfile;
mod http;
mod http2;
mod key_types;
mod openssl_link;
mod operators;
mod pki;
mod proxying;
mod readme;
mod registry;
mod resumption;
mod tls;
mod tokens;
mod trust;
mod vectors;
mod world;
