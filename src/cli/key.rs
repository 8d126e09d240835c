//! `portcullis key`.

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};
use ureq::http::Method;

use super::client::path;
use super::session::{Ended, Session};
use super::table::Table;
use super::text::{escaped, field, list};

const KEYS: &str = "/edge/signing-keys";
const HEADS: &[&str] =
    &["KEY ID", "ALGORITHM", "STATE", "SOURCE", "PUBLISHED", "SIGNS FROM", "RETIRES"];

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Every key, with its state.
    List,
    /// Publish a new key; it signs once verifiers have had the time to fetch it.
    Rotate {
        /// Of this algorithm only.
        #[arg(long, value_enum, ignore_case = true)]
        algorithm: Option<Algorithm>,
    },
    /// Take a key away at once: tokens that it signed are refused from then on.
    Delete {
        #[arg(value_name = "KID")]
        kid: String,
        /// Even the one that signs now. After a theft delete all keys of its algorithm: a new
        /// one then signs at once.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Algorithm {
    Es256,
    Rs256,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Algorithm::Es256 => "ES256",
            Algorithm::Rs256 => "RS256",
        }
    }
}

impl Command {
    pub fn run(self, at: &mut Session<'_>) -> anyhow::Result<Ended> {
        match self {
            Command::List => {
                let keys = at.client.get(KEYS)?;
                at.answer(&keys, table)?;
            }
            Command::Rotate { algorithm } => {
                let body = match algorithm {
                    Some(algorithm) => json!({ "algorithm": algorithm.name() }),
                    None => json!({}),
                };
                let keys = at.client.send(Method::POST, &format!("{KEYS}/rotate"), Some(&body))?;
                at.answer(&keys, table)?;
            }
            Command::Delete { kid, force } => {
                let query = if force { "?force=true" } else { "" };
                at.client.delete(&format!("{KEYS}{}{query}", path(&[&kid])))?;
                at.done(&format!("{} is deleted", escaped(&kid)))?;
            }
        }
        Ok(Ended::Well)
    }
}

fn table(keys: &Value) -> String {
    let row = |key: &Value| {
        ["kid", "algorithm", "state", "source", "publishedAt", "signFrom", "retiresAt"]
            .map(|name| field(key, name))
            .to_vec()
    };
    Table::new(HEADS).page(list(keys, "keys").iter().map(row).collect())
}
