//! The command line.

use std::io::{self, IsTerminal, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::fmt::format::FmtSpan;

use crate::clock::Clock;
use crate::config::{LogFormat, LogSettings};
use crate::demo;
use crate::server::{Prepared, Server, StartError};

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
    let prepared = Prepared::new(config)?;
    start_log(prepared.compiled().settings.log)?;
    let server = prepared.start(Clock::system())?;
    tracing::info!(
        target: "portcullis::server",
        version = env!("CARGO_PKG_VERSION"),
        https = ?server.https_addresses(),
        admin = %server.admin_address(),
        "serving"
    );
    until_terminated(&server)?;
    server.drain();
    Ok(ExitCode::SUCCESS)
}

/// Reloads at each SIGHUP; returns at SIGTERM or SIGINT.
pub fn until_terminated(server: &Server) -> io::Result<()> {
    enum Signal {
        Reload,
        End,
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut hup, mut term, mut int) = runtime.block_on(async {
        Ok::<_, io::Error>((
            signal(SignalKind::hangup())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        ))
    })?;
    loop {
        let next = runtime.block_on(async {
            tokio::select! {
                _ = hup.recv() => Signal::Reload,
                _ = term.recv() => Signal::End,
                _ = int.recv() => Signal::End,
            }
        });
        match next {
            // What is wrong stands in the log; the running configuration stays in force.
            Signal::Reload => drop(server.reload()),
            Signal::End => return Ok(()),
        }
    }
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
    let mut tcp = TcpStream::connect_timeout(&admin, TIMEOUT)?;
    tcp.set_read_timeout(Some(TIMEOUT))?;
    tcp.set_write_timeout(Some(TIMEOUT))?;
    write!(tcp, "GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    tcp.take(64 * 1024).read_to_string(&mut answer)?;
    let (header, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    say(&mut io::stdout(), body.trim_end());
    Ok(if header.starts_with("HTTP/1.1 200 ") { ExitCode::SUCCESS } else { FAILED.into() })
}

/// Starts the log on standard error. Only the edge's own events: the libraries' lines may
/// hold bytes from the wire.
pub fn start_log(settings: LogSettings) -> anyhow::Result<()> {
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::layer::SubscriberExt;
    let own = Targets::new().with_target("portcullis", settings.level);
    let registry = tracing_subscriber::registry().with(own);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_span_events(FmtSpan::NONE)
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

/// Writes a line for a person; one who has closed the pipe does not want it.
fn say(to: &mut dyn Write, line: &str) {
    let _ = writeln!(to, "{line}");
}
