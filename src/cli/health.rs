//! Whether an edge is alive, for health checks: no credential, one request, an exit code.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use openssl::ssl::{SslConnector, SslMethod, SslStream};
use openssl::x509::store::X509StoreBuilder;

use super::client::Base;
use super::session::{USUAL, Usage, set};
use super::{files, say, text};

/// For each step on the connection, the look-up of its name included.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Addresses of a name that are tried.
const MOST_ADDRESSES: usize = 4;
const MOST_ANSWER: u64 = 64 * 1024;
const ADMIN: &str = "PORTCULLIS_ADMIN";

#[derive(Args, Debug)]
pub struct Health {
    /// Where the admin API is; a bare ADDRESS:PORT is asked over TLS where `--ca` is given [env:
    /// PORTCULLIS_ADMIN] [default: http://127.0.0.1:9090].
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// Ask whether it should get traffic, too.
    #[arg(long)]
    ready: bool,
    /// The CA of the edge's own certificate, in place of those of this machine: an edge with
    /// `admin.tls` is asked over TLS.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The name in that certificate [default: the host of `--admin`].
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
}

/// Where an edge is, and how it is asked.
struct Place {
    /// For people.
    shown: String,
    /// As the `Host` header has it.
    authority: String,
    host: String,
    port: u16,
    tls: bool,
}

impl Health {
    /// Whether it is well; what it says goes to `out`.
    ///
    /// # Errors
    /// [`Usage`]; no answer, or none in HTTP.
    pub fn run(
        &self,
        environment: impl Fn(&str) -> Option<OsString>,
        out: &mut dyn Write,
    ) -> anyhow::Result<bool> {
        let place = self.place(environment)?;
        let shown = &place.shown;
        let tcp = place.connect();
        let tcp = tcp.with_context(|| {
            format!("no answer at {shown} (`--admin URL` names another admin address)")
        })?;
        tcp.set_read_timeout(Some(TIMEOUT))?;
        tcp.set_write_timeout(Some(TIMEOUT))?;
        let answer = match place.tls {
            false => self.ask(tcp, &place),
            true => self.ask(self.tls(tcp, &place)?, &place),
        };
        let answer = String::from_utf8_lossy(&answer).into_owned();
        if !answer.starts_with("HTTP/1.1 ") {
            let hint = match place.tls {
                false => "over TLS, with `admin.tls`, it takes `--admin https://…` and `--ca FILE`",
                true => "is it the address of another service?",
            };
            bail!("{shown} does not answer in HTTP; {hint}");
        }
        let (header, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        say(out, &text::escaped(body.trim_end()));
        Ok(header.starts_with("HTTP/1.1 200 "))
    }

    /// What `--admin` or the environment names: a URL as the other commands take it, or an
    /// address and a port.
    fn place(&self, environment: impl Fn(&str) -> Option<OsString>) -> Result<Place, Usage> {
        let (name, given) = match (&self.admin, set(&environment, ADMIN)) {
            (Some(given), _) => ("--admin", OsString::from(given)),
            (None, Some(given)) => (ADMIN, given),
            (None, None) => ("--admin", OsString::from(USUAL)),
        };
        let given = given.to_str().ok_or_else(|| Usage(format!("{name} is not UTF-8")))?;
        let place = match given.parse::<SocketAddr>() {
            Ok(address) => Place {
                shown: address.to_string(),
                authority: address.to_string(),
                host: address.ip().to_string(),
                port: address.port(),
                tls: self.ca.is_some(),
            },
            Err(_) => {
                let base = Base::parse(given).map_err(|fault| Usage(format!("{name}: {fault}")))?;
                Place {
                    shown: base.to_string(),
                    authority: base.authority().to_owned(),
                    host: base.host().to_owned(),
                    port: base.port(),
                    tls: base.is_https(),
                }
            }
        };
        if !place.tls && (self.ca.is_some() || self.server_name.is_some()) {
            let shown = &place.shown;
            let message = format!("--ca and --server-name need https, and {name} is {shown}");
            return Err(Usage(message));
        }
        Ok(place)
    }

    fn tls(&self, tcp: TcpStream, place: &Place) -> anyhow::Result<SslStream<TcpStream>> {
        // With the roots of this machine.
        let mut connector = SslConnector::builder(SslMethod::tls_client())?;
        if let Some(ca) = &self.ca {
            let mut roots = X509StoreBuilder::new()?;
            for certificate in files::read_certificates(ca)? {
                roots.add_cert(certificate)?;
            }
            connector.set_cert_store(roots.build());
        }
        let name = self.server_name.as_deref().unwrap_or(&place.host);
        connector.build().connect(name, tcp).with_context(|| {
            format!(
                "no TLS with {} as {name} (`--ca FILE` names the CA of the edge's certificate, \
                 `--server-name NAME` the name in it)",
                place.shown
            )
        })
    }

    /// What comes back until the other end closes, is silent, or says too much.
    fn ask(&self, mut stream: impl Read + Write, place: &Place) -> Vec<u8> {
        let path = if self.ready { "/readyz" } else { "/healthz" };
        let host = &place.authority;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let mut answer = Vec::new();
        if stream.write_all(request.as_bytes()).is_ok() {
            // An answer that breaks off counts by its status line; without one it is none.
            let _ = stream.take(MOST_ANSWER).read_to_end(&mut answer);
        }
        answer
    }
}

impl Place {
    fn connect(&self) -> io::Result<TcpStream> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host name is not known");
        for address in self.look_up()? {
            match TcpStream::connect_timeout(&address, TIMEOUT) {
                Ok(tcp) => return Ok(tcp),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// The system's look-up has no deadline; nobody waits for the thread that it is left in.
    fn look_up(&self) -> io::Result<Vec<SocketAddr>> {
        let (found, from) = mpsc::channel();
        let (host, port) = (self.host.clone(), self.port);
        thread::spawn(move || {
            let addresses = (host.as_str(), port).to_socket_addrs();
            let _ = found.send(addresses.map(|all| all.take(MOST_ADDRESSES).collect()));
        });
        let late =
            |_| io::Error::new(io::ErrorKind::TimedOut, "the host name was not found in time");
        from.recv_timeout(TIMEOUT).map_err(late)?
    }
}
