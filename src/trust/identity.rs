//! Which part of an end-entity certificate names the device.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::certificate::{plain_text, serial_hex, unparsable};
use crate::names::DeviceId;
use crate::refusal::{Refusal, Refused};

/// Characters of a rule's text.
const MAX_TEXT: usize = 512;
/// Octets of a pattern compiled to an automaton, and of what a search keeps in memory.
const MAX_COMPILED: usize = 64 * 1024;
/// Octets of a value that a pattern is held against.
const MAX_VALUE: usize = 2 * 1024;

/// How the certificates under an anchor name their devices.
///
/// Text form `SOURCE[:PATTERN]`:
///
/// | source | value |
/// |---|---|
/// | `cn` | the one common name of the subject: UTF8String, PrintableString or IA5String |
/// | `san_uri` | URIs of the subject alternative names; needs a pattern |
/// | `san_dns` | DNS names of the subject alternative names, in the case that they are written in |
/// | `serial` | the serial number: upper-case hex, two digits an octet, no leading zero octets |
///
/// Without a pattern the value is the device's id. A pattern is a regular expression in the
/// syntax of the crate `regex`, over octets: no Unicode classes, `\d` and `(?i)` are ASCII's.
/// It must match the whole value, and its one capturing group is the id. A search takes time
/// linear in the value.
///
/// A value that a pattern is held against is printable ASCII, else the certificate is refused.
/// Of several values those that do not match are left aside; what remains must name one device.
/// The id must be a [`DeviceId`].
///
/// Cloning copies a pointer.
#[derive(Clone)]
pub struct IdentityRule(Arc<Rule>);

struct Rule {
    text: String,
    source: Source,
    pattern: Option<Regex>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    CommonName,
    SanUri,
    SanDns,
    Serial,
}

/// Why a text is no identity rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityFault {
    #[error("a device identity has at most {MAX_TEXT} characters")]
    TooLong,
    #[error("a device identity holds printable ASCII only; write another octet as `\\xHH`")]
    NotPrintable,
    #[error(
        "a device identity starts with `cn`, `san_uri`, `san_dns` or `serial`, then a colon \
         where a pattern follows"
    )]
    UnknownSource,
    #[error("`san_uri` needs a pattern, such as `san_uri:urn:device:([a-z0-9-]+)`")]
    PatternMissing,
    #[error("the pattern is empty; write it, or leave the colon out")]
    PatternEmpty,
    /// The parser's own words, which quote nothing.
    #[error("the pattern is no regular expression: {0}")]
    BadPattern(String),
    #[error(
        "the pattern is too large when compiled (more than {} KiB); use smaller repetitions",
        MAX_COMPILED / 1024
    )]
    TooLarge,
    #[error(
        "the pattern has {0} capturing groups; put the device id, and nothing else, into one: \
         `(…)`; other groups are `(?:…)`"
    )]
    Groups(usize),
}

impl IdentityRule {
    /// # Errors
    /// Where a text is none; says what to write instead.
    pub fn parse(text: &str) -> Result<IdentityRule, IdentityFault> {
        // Before anything that takes time or memory by the text's length.
        if text.len() > MAX_TEXT {
            return Err(IdentityFault::TooLong);
        }
        if !is_printable(text) {
            return Err(IdentityFault::NotPrintable);
        }
        let (source, pattern) = match text.split_once(':') {
            Some((source, pattern)) => (source, Some(pattern)),
            None => (text, None),
        };
        let source = match source {
            "cn" => Source::CommonName,
            "san_uri" => Source::SanUri,
            "san_dns" => Source::SanDns,
            "serial" => Source::Serial,
            _ => return Err(IdentityFault::UnknownSource),
        };
        let pattern = match pattern {
            None if source == Source::SanUri => return Err(IdentityFault::PatternMissing),
            None => None,
            Some("") => return Err(IdentityFault::PatternEmpty),
            Some(pattern) => Some(compile(pattern)?),
        };
        Ok(IdentityRule(Arc::new(Rule { text: text.to_owned(), source, pattern })))
    }

    /// What [`IdentityRule::parse`] was given.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Whether the common name as it stands is the id.
    pub(super) fn is_common_name(&self) -> bool {
        self.0.source == Source::CommonName && self.0.pattern.is_none()
    }

    /// The device that a certificate names.
    ///
    /// # Errors
    /// `CertificateUnsupported`: it names none, or more than one.
    pub(super) fn device(&self, certificate: &X509Certificate<'_>) -> Result<DeviceId, Refused> {
        let source = self.0.source;
        let values = source.values(certificate)?;
        let mut found: Option<&str> = None;
        for value in &values {
            let Some(id) = self.id_of(value)? else { continue };
            if found.is_some_and(|other| other != id) {
                return Err(refused(format!("its {} name several devices", source.plural())));
            }
            found = Some(id);
        }
        let Some(id) = found else {
            let part = source.singular();
            return Err(refused(match values.len() {
                0 => format!("it has no {part}"),
                1 => format!("its {part} does not match the pattern of its anchor"),
                _ => format!("no {part} of it matches the pattern of its anchor"),
            }));
        };
        let whose = if self.0.pattern.is_some() { "the device id in its" } else { "its" };
        DeviceId::parse(id).map_err(|fault| {
            refused(format!("{whose} {} is no device id: {fault}", source.singular()))
        })
    }

    /// The id in a value; `None` where the pattern does not match.
    fn id_of<'v>(&self, value: &'v str) -> Result<Option<&'v str>, Refused> {
        let Some(pattern) = &self.0.pattern else { return Ok(Some(value)) };
        let singular = self.0.source.singular();
        if value.len() > MAX_VALUE {
            return Err(refused(format!("a {singular} of it has more than {MAX_VALUE} octets")));
        }
        if !is_printable(value) {
            return Err(refused(format!("a {singular} of it is not printable ASCII")));
        }
        let group = pattern.captures(value.as_bytes()).and_then(|captures| captures.get(1));
        Ok(group.and_then(|group| value.get(group.range())))
    }
}

impl Default for IdentityRule {
    /// `cn`.
    fn default() -> IdentityRule {
        let rule = Rule { text: "cn".to_owned(), source: Source::CommonName, pattern: None };
        IdentityRule(Arc::new(rule))
    }
}

/// By text.
impl PartialEq for IdentityRule {
    fn eq(&self, other: &IdentityRule) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.text == other.0.text
    }
}

impl Eq for IdentityRule {}

impl fmt::Display for IdentityRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for IdentityRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityRule({})", self.0.text)
    }
}

impl Source {
    /// A part of the subject that must be there alone has one value; the others as many as
    /// the certificate holds.
    fn values<'c>(
        self,
        certificate: &'c X509Certificate<'_>,
    ) -> Result<Vec<Cow<'c, str>>, Refused> {
        let wanted = match self {
            Source::CommonName => return Ok(vec![common_name(certificate)?.into()]),
            Source::Serial => return Ok(vec![serial_hex(certificate.raw_serial()).into()]),
            Source::SanUri | Source::SanDns => self,
        };
        let mut values = Vec::new();
        let names = certificate.subject_alternative_name().map_err(|_| unparsable())?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) if wanted == Source::SanUri => values.push((*uri).into()),
                GeneralName::DNSName(dns) if wanted == Source::SanDns => values.push((*dns).into()),
                // It may be a second name, read here and not there.
                GeneralName::Invalid(..) => return Err(unparsable()),
                _ => {}
            }
        }
        Ok(values)
    }

    fn singular(self) -> &'static str {
        match self {
            Source::CommonName => "common name",
            Source::SanUri => "URI (subject alternative name)",
            Source::SanDns => "DNS name (subject alternative name)",
            Source::Serial => "serial number",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Source::CommonName => "common names",
            Source::SanUri => "URIs (subject alternative names)",
            Source::SanDns => "DNS names (subject alternative names)",
            Source::Serial => "serial numbers",
        }
    }
}

fn compile(pattern: &str) -> Result<Regex, IdentityFault> {
    // Alone first: what closes a group that it did not open must not reach the anchors below.
    let alone = build(pattern)?;
    // The whole match counts as one.
    let groups = alone.captures_len().saturating_sub(1);
    if groups != 1 {
        return Err(IdentityFault::Groups(groups));
    }
    build(&format!(r"\A(?:{pattern})\z"))
}

fn build(pattern: &str) -> Result<Regex, IdentityFault> {
    RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_COMPILED)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => IdentityFault::TooLarge,
            error => {
                // The lines before the last show the pattern.
                let text = error.to_string();
                let (_, what) = text.rsplit_once("error: ").unwrap_or(("", "it does not parse"));
                IdentityFault::BadPattern(what.trim().to_owned())
            }
        })
}

fn common_name<'c>(certificate: &'c X509Certificate<'_>) -> Result<&'c str, Refused> {
    let mut names = certificate.subject().iter_common_name();
    let name = match (names.next(), names.next()) {
        (Some(name), None) => name.attr_value(),
        (None, _) => return Err(refused("its subject has no common name")),
        _ => return Err(refused("its subject has several common names")),
    };
    // BMPString, UniversalString and TeletexString have been read differently by different
    // software: not as an identity.
    plain_text(name)
        .ok_or_else(|| refused("its common name is not a UTF8String, PrintableString or IA5String"))
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

fn refused(what: impl fmt::Display) -> Refused {
    let reason = format!("the end-entity certificate: {what}");
    Refused::new(Refusal::CertificateUnsupported, reason)
}

#[cfg(test)]
mod tests;
