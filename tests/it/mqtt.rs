//! MQTT over mTLS, with devices and brokers of other people and with ones that misbehave.

mod attacks;
mod broken_brokers;
mod clients;
mod dialects;
mod identity;
mod live;
mod observed;
mod opening;
mod own_topics;
mod pair;
mod sessions;
mod subscriptions;
mod through;
mod tokens;
mod told;
mod websocket;
