//! The servers behind the edge, and what they are told about a device.
//!
//! - A [`Pool`] picks a server for each request, keeps count of what is in flight and leaves
//!   out servers whose health checks fail. Connections are Pingora's; the pool only makes sure
//!   that one made under other TLS settings is never used again.
//! - [`ForwardSettings`] says the device's validated chain in the [`Dialect`] that the upstream
//!   understands, and names every header that a device must not bring along itself.
//! - [`BrokerForward`] says the same to an MQTT broker.
//! - [`parse_chain_header`] reads the one header of these that a device may send: certificates
//!   to complete its own chain. They are untrusted until the verifier has used them.

mod broker;
mod chain_header;
mod dialect;
mod encode;
mod health;
mod peer;
mod pool;
mod server;
mod settings;
mod strip;
mod watch;

pub use broker::{
    BrokerForward, Client, ClientIdPattern, ClientIds, Placeholder, ProxiedClient, Template,
    TemplateFault, proxy_header,
};
pub use chain_header::{ChainHeaderFault, parse_chain_header};
pub use dialect::{Dialect, ForwardSettings, IdentityHeaders};
pub use pool::{Picked, Pool};
pub use settings::{Balance, HealthSettings, PoolFault, PoolSettings, Timeouts, UpstreamTls};
pub use strip::{StrippedName, StrippedNameFault, same_folded};

#[cfg(test)]
mod mint;
