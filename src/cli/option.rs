//! `portcullis option`.

use std::str::FromStr;

use clap::Subcommand;
use serde_json::{Value, json};
use ureq::http::Method;

use super::client::path;
use super::session::{Ended, Session};
use super::table::Table;
use super::text::{escaped, field, list};

const HEADS: &[&str] = &["OPTION", "VALUE"];

#[derive(Subcommand, Debug)]
pub enum Command {
    /// One option, or all that are set.
    Get {
        #[arg(value_name = "CATEGORY/KEY")]
        name: Option<Name>,
    },
    /// Set an option.
    Set {
        #[arg(value_name = "CATEGORY/KEY")]
        name: Name,
        value: String,
    },
    /// Go back to what the configuration says.
    Unset {
        #[arg(value_name = "CATEGORY/KEY")]
        name: Name,
    },
}

/// Such as `oauth.internal/device-token.lifespan.seconds`.
#[derive(Clone, Debug)]
pub struct Name {
    category: String,
    key: String,
}

impl FromStr for Name {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Name, &'static str> {
        match text.split_once('/') {
            Some((category, key)) if !category.is_empty() && !key.is_empty() => {
                Ok(Name { category: category.to_owned(), key: key.to_owned() })
            }
            _ => Err("write CATEGORY/KEY, such as oauth.internal/device-token.lifespan.seconds"),
        }
    }
}

impl Command {
    pub fn run(self, at: &mut Session<'_>) -> anyhow::Result<Ended> {
        let tenant = at.tenant()?.clone();
        let options = path(&["tenant", "tenants", tenant.as_str(), "options"]);
        let one = |name: &Name| format!("{options}{}", path(&[&name.category, &name.key]));
        match self {
            Command::Get { name: None } => {
                let options = at.client.get(&options)?;
                at.answer(&options, |options| {
                    Table::new(HEADS).page(list(options, "options").iter().map(row).collect())
                })?;
            }
            Command::Get { name: Some(name) } => {
                let option = at.client.get(&one(&name))?;
                at.answer(&option, |option| field(option, "value"))?;
            }
            Command::Set { name, value } => {
                let body = json!({ "value": value });
                let option = at.client.send(Method::PUT, &one(&name), Some(&body))?;
                at.answer(&option, |option| row(option).join(" = "))?;
            }
            Command::Unset { name } => {
                at.client.delete(&one(&name))?;
                at.done(&format!("{}/{} is not set", escaped(&name.category), escaped(&name.key)))?;
            }
        }
        Ok(Ended::Well)
    }
}

fn row(option: &Value) -> Vec<String> {
    vec![format!("{}/{}", field(option, "category"), field(option, "key")), field(option, "value")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_has_a_category_and_a_key() {
        let name: Name = "oauth.internal/a.b/c".parse().unwrap();
        assert_eq!((name.category.as_str(), name.key.as_str()), ("oauth.internal", "a.b/c"));
        for odd in ["", "a", "/", "a/", "/b"] {
            assert!(odd.parse::<Name>().is_err(), "{odd}");
        }
    }
}
