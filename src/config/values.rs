//! Values with a unit or a form of their own: durations, sizes, addresses, ranges, paths.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::decode::Decoder;
use super::fault::Place;
use super::node::{Kind, Node};
use crate::ip_range::IpRange;

/// A file that the configuration names.
#[derive(Clone, Debug)]
pub struct FileRef {
    /// Relative to the file that names it, or absolute.
    pub path: PathBuf,
    pub at: Place,
}

impl Decoder<'_> {
    /// A whole number and its unit: `250ms`, `10s`, `5m`, `12h`, `2d`.
    pub fn duration(&mut self, node: &Node, range: RangeInclusive<Duration>) -> Option<Duration> {
        let text = self.text(node)?;
        let Some(duration) = parse_duration(text) else {
            self.fault(
                node.at,
                "not a duration",
                "a whole number and its unit: `250ms`, `10s`, `5m`, `12h`, `2d`",
            );
            return None;
        };
        if range.contains(&duration) {
            return Some(duration);
        }
        let help = format!("from {} to {}", spell(*range.start()), spell(*range.end()));
        self.fault(node.at, "the duration is out of range", help);
        None
    }

    /// Octets: a whole number with `B`, `KiB`, `MiB` or `GiB`, or without a unit.
    pub fn size(&mut self, node: &Node, range: RangeInclusive<u64>) -> Option<u64> {
        let text = self.text(node)?;
        let Some(size) = parse_size(text) else {
            self.fault(
                node.at,
                "not a size",
                "a whole number and its unit: `512B`, `16KiB`, `10MiB`",
            );
            return None;
        };
        if range.contains(&size) {
            return Some(size);
        }
        let help = format!("from {} to {}", spell_size(*range.start()), spell_size(*range.end()));
        self.fault(node.at, "the size is out of range", help);
        None
    }

    /// An IP address and a port; names are not looked up.
    pub fn socket_address(&mut self, node: &Node) -> Option<SocketAddr> {
        let text = self.text(node)?;
        let address = text.parse().ok();
        if address.is_none() {
            self.fault(
                node.at,
                "not an IP address with a port",
                "such as \"127.0.0.1:8080\" or \"[::1]:8080\"; host names are not looked up",
            );
        }
        address
    }

    pub fn ip_range(&mut self, node: &Node) -> Option<IpRange> {
        self.parsed(node, "such as \"10.0.0.0/8\" or \"2001:db8::/32\"", str::parse)
    }

    pub fn file(&mut self, node: &Node) -> Option<FileRef> {
        let text = self.text(node)?;
        if text.contains("-----BEGIN") {
            self.fault(
                node.at,
                "this is PEM text",
                "put it in a file, and write the file's path here",
            );
            return None;
        }
        if text.is_empty() || text.chars().any(char::is_control) {
            self.fault(node.at, "not the path of a file", "a path in one line, such as `acme.pem`");
            return None;
        }
        let base = self.source.path.parent().unwrap_or(Path::new(""));
        Some(FileRef { path: base.join(text), at: node.at })
    }

    /// Text that goes into answers and headers: one line, not too long.
    pub fn line<'n>(&mut self, node: &'n Node, most: usize) -> Option<&'n str> {
        let text = self.text(node)?;
        if (1..=most).contains(&text.len()) && !text.chars().any(char::is_control) {
            return Some(text);
        }
        self.fault(node.at, "not a line of text", format!("1 to {most} octets in one line"));
        None
    }
}

/// A name of the operator's that becomes a metric label.
pub fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// `auto`, written without quotes.
pub fn is_auto(node: &Node) -> bool {
    matches!(&node.kind, Kind::Scalar { text, .. } if &**text == "auto")
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs);
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3_600),
        "d" => seconds(86_400),
        _ => None,
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    match unit {
        "" | "B" => Some(number),
        "KiB" => number.checked_mul(1 << 10),
        "MiB" => number.checked_mul(1 << 20),
        "GiB" => number.checked_mul(1 << 30),
        _ => None,
    }
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit))
}

fn spell(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        _ if seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        _ if seconds.is_multiple_of(3_600) => format!("{}h", seconds / 3_600),
        _ if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}

fn spell_size(size: u64) -> String {
    match size {
        0..1_024 => format!("{size}B"),
        _ if size.is_multiple_of(1 << 30) => format!("{}GiB", size >> 30),
        _ if size.is_multiple_of(1 << 20) => format!("{}MiB", size >> 20),
        _ => format!("{}KiB", size >> 10),
    }
}
