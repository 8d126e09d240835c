//! The signals that an operator sends.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::server::Server;

/// The signals of this process, caught from the moment that this value exists.
pub struct Signals {
    runtime: tokio::runtime::Runtime,
    hup: Signal,
    term: Signal,
    int: Signal,
}

impl Signals {
    /// Made before the edge starts: a SIGHUP that nobody catches would end the process.
    pub fn catch() -> io::Result<Signals> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let (hup, term, int) = (
            signal(SignalKind::hangup())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        drop(inside);
        Ok(Signals { runtime, hup, term, int })
    }

    /// Reloads at each SIGHUP; returns at SIGTERM or SIGINT.
    pub fn obey(&mut self, server: &Server) {
        let Signals { runtime, hup, term, int } = self;
        loop {
            let reload = runtime.block_on(async {
                tokio::select! {
                    _ = hup.recv() => true,
                    _ = term.recv() => false,
                    _ = int.recv() => false,
                }
            });
            if !reload {
                return;
            }
            // What is wrong stands in the log; the running configuration stays in force.
            let _ = server.reload();
        }
    }
}
