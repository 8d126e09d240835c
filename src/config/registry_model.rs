//! Where the registry is kept, as the file describes it.

use std::time::Duration;

use super::decode::Decoder;
use super::fault::{Located, Place};
use super::node::Node;
use super::values::FileRef;

const SECOND: Duration = Duration::from_secs(1);

pub struct RegistryModel {
    pub url: Located<String>,
    /// The password of PostgreSQL's user, so that this file need not hold it.
    pub password_file: Option<FileRef>,
    pub max_staleness: Duration,
    pub poll: Duration,
}

impl RegistryModel {
    pub fn default(at: Place) -> RegistryModel {
        RegistryModel {
            url: Located { value: "sqlite:portcullis.db".to_owned(), at },
            password_file: None,
            max_staleness: 600 * SECOND,
            poll: SECOND,
        }
    }

    pub fn decode(d: &mut Decoder<'_>, node: &Node) -> Option<RegistryModel> {
        let default = RegistryModel::default(node.at);
        let mut fields = d.mapping(node)?;
        let url = fields.or(d, "url", default.url, url);
        let password_file = fields.optional(d, "password_file", Decoder::file);
        let max_staleness = fields.or(d, "max_staleness", default.max_staleness, |d, node| {
            d.duration(node, 5 * SECOND..=86_400 * SECOND)
        });
        let poll = fields
            .or(d, "poll", default.poll, |d, node| d.duration(node, SECOND / 10..=60 * SECOND));
        let at = fields.key("poll").or(fields.key("max_staleness"));
        fields.finish(d);
        if let Some(at) = at
            && poll * 3 > max_staleness
        {
            let help = "write a `poll` of at most a third of `max_staleness`";
            d.fault(at, "one lost poll would already make the registry stale", help);
        }
        if let Some(file) = &password_file
            && url.value.starts_with("sqlite:")
        {
            d.fault(file.at, "SQLite has no password", "leave `password_file` out");
        }
        Some(RegistryModel { url, password_file, max_staleness, poll })
    }
}

fn url(d: &mut Decoder<'_>, node: &Node) -> Option<Located<String>> {
    let url = d.line(node, 4_096)?;
    let postgres = ["postgres://", "postgresql://"].iter().find_map(|s| url.strip_prefix(s));
    let known = match (url.strip_prefix("sqlite:"), postgres) {
        (Some(path), _) => !path.is_empty(),
        (_, Some(rest)) => !rest.is_empty(),
        _ => false,
    };
    if known {
        return Some(Located { value: url.to_owned(), at: node.at });
    }
    // The text is not repeated: it may hold a password.
    d.fault(
        node.at,
        "not the URL of a registry",
        "write `sqlite:` and the path of a file, or `postgres://user@host/database`",
    );
    None
}
