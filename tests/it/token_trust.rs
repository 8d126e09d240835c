//! How a platform comes to trust a device's token, each way with its example configuration,
//! and the tokens that the platform makes itself.

mod modes;
mod relay;
