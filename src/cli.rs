//! The command line.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::clock::Clock;
use crate::demo;
use crate::log;
use crate::server::{Prepared, StartError};
use crate::signals::Signals;

/// 0: all is well. 1: it could not start or run. 2: wrong usage (clap's own).
const FAILED: u8 = 1;
/// 3: the configuration has faults.
const FAULTS: u8 = 3;

/// An edge for fleets of devices: terminates mTLS, validates each device against its tenant's
/// trust store, answers token requests and proxies the rest.
///
/// Exit codes: 0 all is well, 1 it could not start or run, 2 wrong usage, 3 the configuration
/// has faults.
#[derive(Parser)]
#[command(version, name = "portcullis")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve devices. SIGHUP reloads the configuration, SIGTERM drains.
    Run {
        #[arg(short, long, default_value = "/etc/portcullis/portcullis.yaml")]
        config: PathBuf,
    },
    /// Say every fault of a configuration, with file, line and column.
    Check {
        #[arg(short, long, default_value = "/etc/portcullis/portcullis.yaml")]
        config: PathBuf,
    },
    /// Start an edge with throw-away certificates and take a device on its whole tour.
    Demo {
        /// End after the tour rather than stay up.
        #[arg(long)]
        once: bool,
    },
    /// Ask a running edge whether it is alive (for health checks of containers).
    Health {
        /// The admin address.
        #[arg(long, default_value = "127.0.0.1:9090")]
        admin: SocketAddr,
        /// Ask whether it should get traffic, too.
        #[arg(long)]
        ready: bool,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run { config } => run(&config),
        Command::Check { config } => check(&config),
        Command::Demo { once } => demo::run(once).map(|()| ExitCode::SUCCESS),
        Command::Health { admin, ready } => health(admin, ready),
    };
    result.unwrap_or_else(|error| {
        say(&mut io::stderr(), &format!("{error:#}"));
        match error.downcast_ref::<StartError>() {
            Some(StartError::Config(_)) => ExitCode::from(FAULTS),
            _ => ExitCode::from(FAILED),
        }
    })
}

fn run(config: &Path) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::catch()?;
    let prepared = Prepared::new(config)?;
    log::start(prepared.compiled().settings.log)?;
    let server = prepared.start(Clock::system())?;
    tracing::info!(
        target: "portcullis::server",
        version = env!("CARGO_PKG_VERSION"),
        https = ?server.https_addresses(),
        admin = %server.admin_address(),
        "serving"
    );
    signals.obey(&server);
    server.drain();
    Ok(ExitCode::SUCCESS)
}

fn check(config: &Path) -> anyhow::Result<ExitCode> {
    let prepared = Prepared::new(config)?;
    let compiled = prepared.compiled();
    if !compiled.unavailable.is_empty() {
        for (tenant, faults) in &compiled.unavailable {
            say(&mut io::stderr(), &format!("tenant {tenant} would not be served:\n{faults}"));
        }
        return Ok(ExitCode::from(FAULTS));
    }
    let tenants = compiled.directory.entries().count();
    say(&mut io::stdout(), &format!("{}: no faults, {tenants} tenants", config.display()));
    Ok(ExitCode::SUCCESS)
}

fn health(admin: SocketAddr, ready: bool) -> anyhow::Result<ExitCode> {
    const TIMEOUT: Duration = Duration::from_secs(3);
    let path = if ready { "/readyz" } else { "/healthz" };
    let tcp = TcpStream::connect_timeout(&admin, TIMEOUT);
    let mut tcp = tcp.with_context(|| {
        format!("no answer at {admin} (`--admin ADDRESS` names another admin address)")
    })?;
    tcp.set_read_timeout(Some(TIMEOUT))?;
    tcp.set_write_timeout(Some(TIMEOUT))?;
    write!(tcp, "GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    tcp.take(64 * 1024).read_to_string(&mut answer)?;
    let (header, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    say(&mut io::stdout(), body.trim_end());
    Ok(if header.starts_with("HTTP/1.1 200 ") { ExitCode::SUCCESS } else { FAILED.into() })
}

/// Writes a line for a person; one who has closed the pipe does not want it.
fn say(to: &mut dyn Write, line: &str) {
    let _ = writeln!(to, "{line}");
}
