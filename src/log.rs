//! Where the edge's events go.

use std::io::{self, IsTerminal};

use tracing::subscriber::SetGlobalDefaultError;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;

use crate::config::{LogFormat, LogSettings};

/// Starts the log on standard error. Only the edge's own events: the libraries' lines may
/// hold bytes from the wire.
pub fn start(settings: LogSettings) -> Result<(), SetGlobalDefaultError> {
    let own = Targets::new().with_target("portcullis", settings.level);
    let registry = tracing_subscriber::registry().with(own);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match settings.format {
        LogFormat::Json => {
            let layer = layer.json().flatten_event(true).with_current_span(false);
            tracing::subscriber::set_global_default(registry.with(layer))?;
        }
        LogFormat::Text => tracing::subscriber::set_global_default(registry.with(layer))?,
    }
    Ok(())
}
