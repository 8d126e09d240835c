//! Requests that go on to the platform, and what comes back.

mod bodies;
mod curl;
mod grpc;
mod live;
pub mod nginx;
mod pools;
mod tls;
