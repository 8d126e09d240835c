//! Where the registry is kept, and how far behind memory may fall.

use std::fmt;
use std::time::Duration;

/// How the registry is opened.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistrySettings {
    /// `sqlite:` and a path, or `postgres://` with what PostgreSQL's own URLs hold.
    pub url: String,
    /// Memory that has not been held against the store for so long is no longer
    /// [`fresh`](super::Registry::fresh).
    pub max_staleness: Duration,
    /// How often the store is asked for changes of other nodes.
    pub poll: Duration,
}

impl RegistrySettings {
    /// With the usual times: asked every second, fresh for ten minutes.
    pub fn new(url: impl Into<String>) -> RegistrySettings {
        RegistrySettings {
            url: url.into(),
            max_staleness: Duration::from_secs(600),
            poll: Duration::from_secs(1),
        }
    }
}

/// The URL of PostgreSQL may hold a password: of it, the scheme alone is told.
impl fmt::Debug for RegistrySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = match self.url.split_once(':') {
            Some(("sqlite", _)) => self.url.as_str(),
            Some(("postgres", _)) => "postgres:…",
            Some(("postgresql", _)) => "postgresql:…",
            _ => "…",
        };
        f.debug_struct("RegistrySettings")
            .field("url", &url)
            .field("max_staleness", &self.max_staleness)
            .field("poll", &self.poll)
            .finish()
    }
}
