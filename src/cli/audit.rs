//! `portcullis audit`.

use clap::Args;
use serde_json::{Value, json};

use super::client::query;
use super::session::{Ended, Session};
use super::table::Table;
use super::text::{field, list};

/// Of one page of the API.
const MOST: u32 = 1000;
const HEADS: &[&str] = &["TIME", "ACTOR", "TENANT", "ACTION", "TARGET", "DETAIL"];

#[derive(Args, Debug)]
pub struct Command {
    /// How many records, the newest first.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

impl Command {
    pub fn run(self, at: &mut Session<'_>) -> anyhow::Result<Ended> {
        let tenant = at.any_tenant().map(|tenant| tenant.as_str().to_owned());
        let mut records: Vec<Value> = Vec::new();
        let mut before: Option<i64> = None;
        let mut wanted = self.limit;
        while wanted > 0 {
            let parameters = [
                ("tenant", tenant.clone()),
                ("before", before.map(|id| id.to_string())),
                ("limit", Some(wanted.min(MOST).to_string())),
            ];
            let parameters: Vec<(&str, Option<&str>)> =
                parameters.iter().map(|(name, value)| (*name, value.as_deref())).collect();
            let page = at.client.get(&query("/edge/audit", &parameters))?;
            let found = list(&page, "records");
            wanted = wanted.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
            records.extend(found.iter().cloned());
            let last = found.last().and_then(|record| record.get("id")).and_then(Value::as_i64);
            // Newest first: pages that do not get on are no pages.
            let gets_on = last.is_some_and(|last| before.is_none_or(|before| last < before));
            if page.get("next").is_none() || !gets_on {
                break;
            }
            before = last;
        }
        at.answer(&json!({ "records": records }), |records| {
            let row = |record: &Value| {
                ["time", "actor", "tenant", "action", "target", "detail"]
                    .map(|name| field(record, name))
                    .to_vec()
            };
            Table::new(HEADS).page(list(records, "records").iter().map(row).collect())
        })?;
        Ok(Ended::Well)
    }
}
