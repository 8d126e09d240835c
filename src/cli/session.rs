//! What every command of the admin API shares: where the edge is, who asks, what is printed.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;
use serde_json::Value;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};

use super::client::{Base, Client, Token, query};
use super::files;
use super::text::{self, field};
use crate::names::TenantId;

/// Where an edge is that nobody has moved.
pub const USUAL: &str = "http://127.0.0.1:9090";
/// Tenants that are named where one is missing.
const NAMED: usize = 20;

/// How to reach the admin API, and as whom.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "The edge")]
pub struct Access {
    /// Where the admin API is [env: PORTCULLIS_ADMIN] [default: http://127.0.0.1:9090].
    #[arg(long, global = true, value_name = "URL")]
    admin: Option<String>,
    /// A file with a token of the admin API, closed to other users [env:
    /// PORTCULLIS_TOKEN_FILE].
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The CA of the edge's own certificate, in place of those of this machine.
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A client certificate with its chain, in PEM.
    #[arg(long, global = true, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Its private key in PEM, closed to other users.
    #[arg(long, global = true, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The tenant [env: PORTCULLIS_TENANT].
    #[arg(long, global = true, value_name = "ID")]
    tenant: Option<String>,
    /// Print the edge's JSON, each answer on a line; `--all` prints each entry on a line.
    #[arg(long, global = true)]
    json: bool,
}

/// The command line is wrong in a way that its grammar does not tell.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Well,
    /// Some of many failed, and the operator was told which.
    SomeFailed,
}

/// One command's client, tenant and output.
pub struct Session<'a> {
    pub client: Client,
    pub json: bool,
    tenant: Option<TenantId>,
    out: &'a mut dyn Write,
    notes: &'a mut dyn Write,
}

impl Access {
    /// # Errors
    /// [`Usage`], or files that cannot be used.
    pub fn open<'a>(
        &self,
        environment: impl Fn(&str) -> Option<OsString>,
        out: &'a mut dyn Write,
        notes: &'a mut dyn Write,
    ) -> anyhow::Result<Session<'a>> {
        let text = |given: &Option<String>, name: &str| match given {
            Some(text) => Ok(Some(text.clone())),
            None => set(&environment, name)
                .map(|text| text.into_string().map_err(|_| Usage(format!("{name} is not UTF-8"))))
                .transpose(),
        };
        let admin = text(&self.admin, "PORTCULLIS_ADMIN")?.unwrap_or_else(|| USUAL.to_owned());
        let base = Base::parse(&admin).map_err(|fault| Usage(format!("--admin: {fault}")))?;
        let tenant = text(&self.tenant, "PORTCULLIS_TENANT")?;
        let tenant = tenant.as_deref().map(TenantId::parse).transpose();
        let tenant = tenant.map_err(|fault| Usage(format!("--tenant: {fault}")))?;
        let file = self.token_file.clone();
        let file = file.or_else(|| set(&environment, "PORTCULLIS_TOKEN_FILE").map(PathBuf::from));
        let token = match file {
            Some(file) => {
                let text = files::read_token(&file)?;
                Some(Token::new(&text, file).ok_or_else(|| anyhow!("the token cannot be sent"))?)
            }
            None => None,
        };
        if token.is_some() && !base.is_https() && !base.is_loopback() {
            let _ = writeln!(
                notes,
                "warning: {base} is not encrypted, and the token can be read on the way; use https"
            );
        }
        let tls = self.tls(&base)?;
        Ok(Session { client: Client::new(base, token, tls), json: self.json, tenant, out, notes })
    }

    fn tls(&self, base: &Base) -> anyhow::Result<TlsConfig> {
        let given = [&self.ca, &self.certificate, &self.key].iter().any(|file| file.is_some());
        if given && !base.is_https() {
            let message =
                format!("--ca, --certificate and --key need https, and --admin is {base}");
            return Err(Usage(message).into());
        }
        let roots = match &self.ca {
            Some(file) => RootCerts::from(certificates(file)?),
            None => RootCerts::PlatformVerifier,
        };
        let client = match (&self.certificate, &self.key) {
            (None, None) => None,
            (Some(chain), Some(key)) => {
                let pem = files::read_key(key)?.private_key_to_pem_pkcs8()?;
                let key = PrivateKey::from_pem(&pem)?;
                Some(ClientCert::new_with_certs(&certificates(chain)?, key))
            }
            _ => return Err(Usage("--certificate and --key go together".to_owned()).into()),
        };
        Ok(TlsConfig::builder()
            .provider(TlsProvider::NativeTls)
            .root_certs(roots)
            .client_cert(client)
            .build())
    }
}

fn certificates(file: &Path) -> anyhow::Result<Vec<Certificate<'static>>> {
    let read = files::read_certificates(file)?;
    let certificate =
        |der: Vec<u8>| -> Certificate<'static> { Certificate::from_der(&der).to_owned() };
    read.iter().map(|one| Ok(certificate(one.to_der()?))).collect()
}

/// A variable that is set to nothing is not set.
pub fn set(environment: &impl Fn(&str) -> Option<OsString>, name: &str) -> Option<OsString> {
    environment(name).filter(|value| !value.is_empty())
}

impl Session<'_> {
    /// The tenant that was named, if one was.
    pub fn any_tenant(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }

    /// # Errors
    /// [`Usage`] where none was named; it tells those that the edge shows to this caller.
    pub fn tenant(&self) -> anyhow::Result<&TenantId> {
        if let Some(tenant) = &self.tenant {
            return Ok(tenant);
        }
        let limit = NAMED.to_string();
        let known = self.client.get(&query("/edge/tenants", &[("limit", Some(&limit))]));
        let known = known.unwrap_or_default();
        let names: Vec<String> =
            text::list(&known, "tenants").iter().map(|tenant| field(tenant, "id")).collect();
        let more = if known.get("next").is_some() { ", …" } else { "" };
        let there = match names.as_slice() {
            [] => String::new(),
            names => format!("; there are {}{more}", names.join(", ")),
        };
        let message =
            format!("of which tenant? Name it by `--tenant ID` or PORTCULLIS_TENANT{there}");
        Err(Usage(message).into())
    }

    /// Prints a line or more for whoever reads the output; `text` is escaped already.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    /// Prints JSON on one line.
    pub fn say_json(&mut self, value: &Value) -> io::Result<()> {
        writeln!(self.out, "{}", text::json(value))
    }

    /// Prints an answer: as JSON, or as `shown` has it.
    pub fn answer(
        &mut self,
        value: &Value,
        shown: impl FnOnce(&Value) -> String,
    ) -> io::Result<()> {
        if self.json { self.say_json(value) } else { self.say(&shown(value)) }
    }

    /// Says that something was done. Whoever wants JSON learns it from the exit code.
    pub fn done(&mut self, text: &str) -> io::Result<()> {
        if self.json { Ok(()) } else { self.say(text) }
    }

    /// Tells the operator something beside the output. Nobody may be listening.
    pub fn note(&mut self, text: &str) {
        let _ = writeln!(self.notes, "{text}");
    }
}

/// Does the same to each of many. What is wrong with one keeps no other from being done; what
/// would be wrong with all ends it.
///
/// # Errors
/// The fault of the only one; or no answer, or a refusal of the caller.
pub fn each(
    at: &mut Session<'_>,
    targets: &[String],
    mut act: impl FnMut(&mut Session<'_>, &str) -> anyhow::Result<()>,
) -> anyhow::Result<Ended> {
    use super::client::Failure;
    let mut ended = Ended::Well;
    for target in targets {
        let Err(error) = act(at, target) else { continue };
        let own = matches!(
            error.downcast_ref(),
            Some(Failure::Refused { status: 400 | 404 | 409 | 422, .. })
        );
        let error = error.context(text::escaped(target));
        if !own || targets.len() == 1 {
            return Err(error);
        }
        at.note(&format!("{error:#}"));
        ended = Ended::SomeFailed;
    }
    Ok(ended)
}
