//! One binary of integration tests; `world` is the harness, `attacks.md` beside it says which
//! known attack is which test.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unsafe_code,
    reason = "a test that cannot go on fails; OpenSSL's session setter is unsafe"
)]

mod admin;
mod attacks;
mod bearers;
mod cli;
mod completion;
mod dockerfile;
mod http;
mod http2;
mod jwt;
mod key_types;
mod mqtt;
mod oauth;
mod openssl_link;
mod operators;
mod pki;
#[path = "../postgres/mod.rs"]
mod postgres;
mod proxying;
mod readme;
mod registry;
mod resumption;
mod rotation;
mod tls;
mod token_trust;
mod tokens;
mod tools;
mod trust;
mod vectors;
mod verifiers;
mod world;
