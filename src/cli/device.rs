//! `portcullis device`.

use std::path::PathBuf;

use anyhow::bail;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};
use ureq::http::Method;

use super::client::{path, query};
use super::files;
use super::import::import;
use super::session::{Ended, Session, each};
use super::table::{Table, card};
use super::text::{field, list, short};
use super::trust::Fingerprint;
use crate::names::DeviceId;

const PAGE: &str = "100";
const PAGE_OF_ALL: &str = "1000";
const HEADS: &[&str] = &["ID", "STATUS", "REGISTERED BY", "SINCE", "PINS", "TYPE", "NAME"];

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Register the devices of a CSV file. Rows that fail keep no other from being registered,
    /// and end it with exit code 4.
    ///
    /// A device that is there already stays as it is, with its status, TYPE and NAME: to import a
    /// file again is safe, and changes none of them.
    Import {
        /// With the columns ID and AUTH_TYPE (CERTIFICATES), and TENANT, TYPE, NAME; a row is one
        /// line; `-` reads what is piped in.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Write the rows that failed as CSV: line, id, reason; the first 10,000 of them.
        #[arg(long, value_name = "FILE")]
        failures: Option<PathBuf>,
    },
    /// Devices by id: the first 100, or all.
    List {
        #[arg(long, value_enum, ignore_case = true)]
        status: Option<Status>,
        /// Those whose id begins so.
        #[arg(long)]
        prefix: Option<String>,
        #[arg(long)]
        all: bool,
    },
    /// All about one.
    Show {
        #[arg(value_name = "ID", value_parser = device_id)]
        id: String,
    },
    /// Keep devices out.
    Block {
        #[arg(value_name = "ID", required = true, value_parser = device_id)]
        ids: Vec<String>,
    },
    /// Let them in again.
    Unblock {
        #[arg(value_name = "ID", required = true, value_parser = device_id)]
        ids: Vec<String>,
    },
    /// Forget devices, and their pins.
    Delete {
        #[arg(value_name = "ID", required = true, value_parser = device_id)]
        ids: Vec<String>,
    },
    /// Take exactly this certificate for the device; registers it where it is not there.
    Pin {
        #[arg(value_name = "ID", value_parser = device_id)]
        id: String,
        /// The device's certificate in PEM or DER.
        #[arg(value_name = "FILE", required_unless_present = "sha256", conflicts_with = "sha256")]
        file: Option<PathBuf>,
        /// SHA-256 of its DER.
        #[arg(long, value_name = "HEX", value_parser = whole_fingerprint)]
        sha256: Option<String>,
    },
    /// Take a pinned certificate no longer.
    Unpin {
        #[arg(value_name = "ID", value_parser = device_id)]
        id: String,
        /// Of the pin, or at least 8 hex digits that it begins with.
        #[arg(value_name = "SHA256")]
        fingerprint: Fingerprint,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Status {
    Active,
    Blocked,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Status::Active => "ACTIVE",
            Status::Blocked => "BLOCKED",
        }
    }
}

fn device_id(text: &str) -> Result<String, String> {
    DeviceId::parse(text).map(|id| id.as_str().to_owned()).map_err(|fault| fault.to_string())
}

fn whole_fingerprint(text: &str) -> Result<String, String> {
    let parsed = text.parse::<Fingerprint>().ok();
    let whole = parsed.as_ref().and_then(Fingerprint::whole).map(str::to_owned);
    whole.ok_or_else(|| "write the 64 hex digits of the SHA-256".to_owned())
}

impl Command {
    pub fn run(self, at: &mut Session<'_>) -> anyhow::Result<Ended> {
        if let Command::Import { file, failures } = self {
            return import(at, &file, failures.as_deref());
        }
        let tenant = at.tenant()?.as_str().to_owned();
        let devices = path(&["tenant", "tenants", &tenant, "devices"]);
        let one = |id: &str| format!("{devices}{}", path(&[id]));
        let set = |at: &mut Session<'_>, id: &str, status: Status| {
            let body = json!({ "status": status.name() });
            let device = at.client.send(Method::PUT, &one(id), Some(&body))?;
            Ok(at.answer(&device, |device| {
                format!("{} is {}", field(device, "id"), field(device, "status"))
            })?)
        };
        match self {
            // Done above, where no tenant is needed.
            Command::Import { .. } => {}
            Command::List { status, prefix, all } => {
                listing(at, &devices, status, prefix.as_deref(), all)?;
            }
            Command::Show { id } => {
                let device = at.client.get(&one(&id))?;
                at.answer(&device, details)?;
            }
            Command::Block { ids } => {
                return each(at, &ids, |at, id| set(at, id, Status::Blocked));
            }
            Command::Unblock { ids } => {
                return each(at, &ids, |at, id| set(at, id, Status::Active));
            }
            Command::Delete { ids } => {
                return each(at, &ids, |at, id| {
                    at.client.delete(&one(id))?;
                    Ok(at.done(&format!("{id} is deleted"))?)
                });
            }
            Command::Pin { id, file, sha256 } => {
                let body = match (file, sha256) {
                    (Some(file), _) => match files::read_certificates(&file)?.as_slice() {
                        [one] => json!({ "certInPemFormat": STANDARD.encode(one.to_der()?) }),
                        several => bail!(
                            "{}: holds {} certificates; give the device's own alone",
                            file.display(),
                            several.len()
                        ),
                    },
                    (None, sha256) => json!({ "sha256": sha256 }),
                };
                let pins = format!("{}/pins", one(&id));
                let device = at.client.send(Method::POST, &pins, Some(&body))?;
                at.answer(&device, details)?;
            }
            Command::Unpin { id, fingerprint } => {
                let whole = match fingerprint.whole() {
                    Some(whole) => whole.to_owned(),
                    None => {
                        let device = at.client.get(&one(&id))?;
                        fingerprint
                            .find(pins(&device).into_iter().map(|pin| (pin, String::new())))?
                    }
                };
                at.client.delete(&format!("{}{}", one(&id), path(&["pins", &whole])))?;
                at.done(&format!("{id} is not pinned to {whole}"))?;
            }
        }
        Ok(Ended::Well)
    }
}

fn listing(
    at: &mut Session<'_>,
    devices: &str,
    status: Option<Status>,
    prefix: Option<&str>,
    all: bool,
) -> anyhow::Result<()> {
    let mut table = Table::new(HEADS);
    let mut after: Option<String> = None;
    loop {
        let parameters = [
            ("limit", Some(if all { PAGE_OF_ALL } else { PAGE })),
            ("after", after.as_deref()),
            ("status", status.map(Status::name)),
            ("prefix", prefix),
        ];
        let page = at.client.get(&query(devices, &parameters))?;
        let found = list(&page, "devices");
        match (at.json, all) {
            (true, false) => at.say_json(&page)?,
            (true, true) => {
                for device in found {
                    at.say_json(device)?;
                }
            }
            (false, _) if after.is_none() || !found.is_empty() => {
                at.say(&table.page(found.iter().map(row).collect()))?;
            }
            (false, _) => {}
        }
        let more = page.get("next").is_some();
        if !all {
            if more && !at.json {
                at.note("There are more: --all lists them.");
            }
            return Ok(());
        }
        let last = found.last().and_then(|device| device.get("id")).and_then(Value::as_str);
        let last = last.map(str::to_owned);
        // By id: pages that do not get on are no pages.
        if !more || last <= after {
            return Ok(());
        }
        after = last;
    }
}

fn row(device: &Value) -> Vec<String> {
    let field = |name| field(device, name);
    vec![
        field("id"),
        field("status"),
        field("registeredBy"),
        field("registeredAt"),
        pins(device).len().to_string(),
        short(&field("type"), 40),
        short(&field("name"), 40),
    ]
}

fn pins(device: &Value) -> Vec<String> {
    let pins = list(device, "pins").iter().filter_map(Value::as_str);
    pins.map(super::text::escaped).collect()
}

fn details(device: &Value) -> String {
    let field = |name| field(device, name);
    let mut rows = vec![
        ("Id", field("id")),
        ("Status", field("status")),
        ("Type", field("type")),
        ("Name", field("name")),
        ("Registered by", field("registeredBy")),
        ("Registered at", field("registeredAt")),
        ("Changed at", field("changedAt")),
        ("Certificate at registration", field("leafSha256")),
        ("Its CA", field("anchorSha256")),
    ];
    rows.extend(pins(device).into_iter().map(|pin| ("Pin", pin)));
    card(rows)
}
