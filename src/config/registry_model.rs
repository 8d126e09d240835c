//! Where the registry is kept, as the file describes it.

use std::net::IpAddr;
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

/// `rest`: of a PostgreSQL URL, behind its scheme.
fn leaves_the_machine(rest: &str) -> bool {
    let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let named_elsewhere =
        tail.contains("host=") && !tail.contains("host=/") && !tail.contains("host=%2F");
    let loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    // A socket's path is percent-encoded where it stands in the place of a host.
    let local = host.is_empty() || host == "localhost" || host.starts_with("%2F") || loopback;
    named_elsewhere || !local
}

fn url(d: &mut Decoder<'_>, node: &Node) -> Option<Located<String>> {
    let url = d.line(node, 4_096)?;
    let postgres = ["postgres://", "postgresql://"].iter().find_map(|s| url.strip_prefix(s));
    let known = match (url.strip_prefix("sqlite:"), postgres) {
        (Some(path), _) => !path.is_empty(),
        (_, Some(rest)) => !rest.is_empty(),
        _ => false,
    };
    if let Some(rest) = postgres
        && leaves_the_machine(rest)
        && !url.contains("sslmode=")
    {
        d.fault(
            node.at,
            "PostgreSQL on another machine, and nothing says how the way there is protected",
            "add `?sslmode=verify-full` (with `sslrootcert=` for a CA of your own), or \
             `?sslmode=disable` where the network is trusted: who is on the way can add an anchor",
        );
        return None;
    }
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
