//! The command line: the edge itself, and the operator's client of its admin API.
//!
//! `run`, `check`, `demo` and `health` work on this machine. All other commands ask the admin
//! API of a running edge ([`client`]) and change nothing by themselves: what they may do is for
//! the edge to say, and its audit trail names the credential that they show.
//!
//! Whatever an edge answers is shown with its control characters escaped ([`text`]): the name
//! of a device cannot speak to the operator's terminal.

mod audit;
mod client;
mod device;
mod files;
mod health;
mod import;
mod key;
mod option;
mod session;
mod table;
mod tenant;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod text;
mod trust;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::clock::Clock;
use crate::demo;
use crate::log;
use crate::server::{Prepared, StartError};
use crate::signals::Signals;

use self::session::{Access, Ended, Usage};

/// 0: all is well. 1: it could not start or run, or the edge did not do as asked.
const FAILED: u8 = 1;
/// 2: wrong usage; clap's own.
const USAGE: u8 = 2;
/// 3: the configuration has faults.
const FAULTS: u8 = 3;
/// 4: some of many were done, the others failed.
const SOME_FAILED: u8 = 4;

/// An edge for fleets of devices: terminates mTLS, validates each device against its tenant's
/// trust store, answers token requests and proxies the rest.
///
/// Exit codes: 0 all is well, 1 it failed, 2 wrong usage, 3 the configuration has faults, 4 some
/// of many failed.
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
    Health(health::Health),
    #[command(flatten)]
    Ask(Ask),
}

/// What is asked of a running edge.
#[derive(Subcommand)]
enum Ask {
    /// A tenant's trusted certificates, and what is revoked.
    Trust {
        #[command(flatten)]
        access: Access,
        #[command(subcommand)]
        command: trust::Command,
    },
    /// A tenant's devices.
    Device {
        #[command(flatten)]
        access: Access,
        #[command(subcommand)]
        command: device::Command,
    },
    /// A tenant's options.
    Option {
        #[command(flatten)]
        access: Access,
        #[command(subcommand)]
        command: option::Command,
    },
    /// The keys that sign tokens.
    Key {
        #[command(flatten)]
        access: Access,
        #[command(subcommand)]
        command: key::Command,
    },
    /// Who changed what, newest first; of one tenant with `--tenant`.
    Audit {
        #[command(flatten)]
        access: Access,
        #[command(flatten)]
        command: audit::Command,
    },
    /// The tenants.
    Tenant {
        #[command(flatten)]
        access: Access,
        #[command(subcommand)]
        command: tenant::Command,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run { config } => run(&config),
        Command::Check { config } => check(&config),
        Command::Demo { once } => demo::run(once).map(|()| ExitCode::SUCCESS),
        Command::Health(health) => {
            let well = health.run(|name| std::env::var_os(name), &mut io::stdout());
            well.map(|well| if well { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
        }
        Command::Ask(ask) => ask_edge(ask),
    };
    result.unwrap_or_else(|error| {
        say(&mut io::stderr(), &format!("{error:#}"));
        ExitCode::from(code_of(&error))
    })
}

fn code_of(error: &anyhow::Error) -> u8 {
    if error.is::<Usage>() {
        return USAGE;
    }
    match error.downcast_ref::<StartError>() {
        Some(StartError::Config(_)) => FAULTS,
        _ => FAILED,
    }
}

fn ask_edge(ask: Ask) -> anyhow::Result<ExitCode> {
    let ended = ask.run(|name| std::env::var_os(name), &mut io::stdout(), &mut io::stderr());
    match ended {
        Ok(Ended::Well) => Ok(ExitCode::SUCCESS),
        Ok(Ended::SomeFailed) => Ok(ExitCode::from(SOME_FAILED)),
        Err(error) if reader_has_gone(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
    }
}

/// Whether writing failed because nobody reads on, as in `… | head`.
fn reader_has_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

impl Ask {
    fn run(
        self,
        environment: impl Fn(&str) -> Option<OsString>,
        out: &mut dyn Write,
        notes: &mut dyn Write,
    ) -> anyhow::Result<Ended> {
        let open = |access: Access| access.open(environment, out, notes);
        match self {
            Ask::Trust { access, command } => command.run(&mut open(access)?),
            Ask::Device { access, command } => command.run(&mut open(access)?),
            Ask::Option { access, command } => command.run(&mut open(access)?),
            Ask::Key { access, command } => command.run(&mut open(access)?),
            Ask::Audit { access, command } => command.run(&mut open(access)?),
            Ask::Tenant { access, command } => command.run(&mut open(access)?),
        }
    }
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
        mqtts = ?server.mqtts_addresses(),
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

/// Writes a line for a person; one who has closed the pipe does not want it.
fn say(to: &mut dyn Write, line: &str) {
    let _ = writeln!(to, "{line}");
}
