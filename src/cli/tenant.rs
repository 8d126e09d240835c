//! `portcullis tenant`.

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::query;
use super::session::{Ended, Session};
use super::table::Table;
use super::text::{field, list};

const PAGE: &str = "1000";
const HEADS: &[&str] = &["ID", "STATE", "DEVICES", "TRUSTED CERTIFICATES", "REVOKED"];

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Every tenant that this credential sees.
    List,
}

impl Command {
    pub fn run(self, at: &mut Session<'_>) -> anyhow::Result<Ended> {
        let Command::List = self;
        let mut tenants = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let path =
                query("/edge/tenants", &[("limit", Some(PAGE)), ("after", after.as_deref())]);
            let page = at.client.get(&path)?;
            let last = list(&page, "tenants").last().and_then(|tenant| tenant.get("id"));
            let last = last.and_then(Value::as_str).map(str::to_owned);
            tenants.extend(list(&page, "tenants").iter().cloned());
            // Sorted by id: pages that do not get on are no pages.
            if page.get("next").is_none() || last <= after {
                break;
            }
            after = last;
        }
        at.answer(&json!({ "tenants": tenants }), |tenants| {
            let row = |tenant: &Value| {
                ["id", "state", "devices", "trustedCertificates", "revokedSerialNumbers"]
                    .map(|name| field(tenant, name))
                    .to_vec()
            };
            Table::new(HEADS).page(list(tenants, "tenants").iter().map(row).collect())
        })?;
        Ok(Ended::Well)
    }
}
