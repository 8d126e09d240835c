//! The one source of wall-clock time for every decision about validity.
//!
//! Certificates, CRLs and tokens live by Unix seconds. Deadlines of sockets do not come
//! through here: those are tokio's monotonic time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970-01-01T00:00:00Z.
pub type UnixSeconds = i64;

/// Tells the time; cheap to clone, every clone tells the same time.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Clock {
        Clock(Source::System)
    }

    /// A clock that stands still until it is told otherwise.
    pub fn manual(start: UnixSeconds) -> Clock {
        Clock(Source::Manual(Arc::new(AtomicI64::new(start))))
    }

    /// The present. A machine whose clock stands before 1970 reads 0, at which no
    /// certificate is valid.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn now(&self) -> UnixSeconds {
        match &self.0 {
            Source::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX)),
            Source::Manual(now) => now.load(Ordering::Acquire),
        }
    }

    /// Moves a manual clock by `seconds`; the machine's clock is left alone.
    pub fn advance(&self, seconds: i64) {
        if let Source::Manual(now) = &self.0 {
            now.fetch_add(seconds, Ordering::AcqRel);
        }
    }
}
