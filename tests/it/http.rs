//! HTTP/1.1 as a hostile device speaks it: forged identities, smuggled requests, disguised
//! paths, dripped bytes. What the upstream received is the judge.

mod forwarding;
mod paths;
mod slow;
mod smuggling;
mod spoofing;

use crate::world::{Config, Connection, Recorded, World};

/// A world whose tenant acme also serves devices without a certificate.
fn with_optional_certificate(edit: impl FnOnce(&mut Config)) -> World {
    World::with(|_, config| {
        config.acme("client_certificate: optional");
        edit(config);
    })
}

/// A GET of acme with further header lines, each with its CRLF.
fn get(path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: acme.example.com\r\n{lines}\r\n")
}

/// The statuses of all answers until the edge closes the connection.
fn statuses(connection: &mut Connection) -> Vec<u16> {
    std::iter::from_fn(|| connection.response().ok()).map(|response| response.status).collect()
}

fn path_of(request: &Recorded) -> &str {
    request.head.split(' ').nth(1).unwrap_or_default()
}

/// Names of a request's header, as an upstream folds them.
fn folded_names(request: &Recorded) -> Vec<String> {
    let lines = request.head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    lines.map(|(name, _)| fold(name)).collect()
}

fn fold(name: &str) -> String {
    let fold = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    name.chars().map(fold).collect()
}
