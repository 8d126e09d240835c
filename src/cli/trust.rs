//! `portcullis trust`.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use openssl::pkey::Id;
use openssl::x509::X509;
use serde_json::{Map, Value, json};
use ureq::http::Method;

use super::client::{path, query};
use super::files;
use super::session::{Ended, Session, Usage, each};
use super::table::{Table, card};
use super::text::{field, list, short};

/// Certificates a page of the API, and pages at most.
const PAGE: usize = 500;
const PAGES: usize = 100;
/// What a page of certificates and a list of revocations may measure.
const MOST_BULK: usize = 4 * 1024 * 1024;
const MOST_CSV: usize = 1024 * 1024;
/// Signatures of RSA with 8192 bits have 1024 octets.
const MOST_SIGNATURE: usize = 64 * 1024;
/// Hex digits of a fingerprint: what must be given of it, and what tables show.
const LEAST_PREFIX: usize = 8;
const SHOWN_PREFIX: usize = 16;
const HEADS: &[&str] =
    &["FINGERPRINT", "NAME", "STATUS", "AUTO", "DEVICE ID", "PROVEN", "VALID UNTIL", "SOURCE"];

/// What the API calls the options of `revoke`.
const REVOCATION_WORDS: &[(&str, &str)] =
    &[("revocationDate", "--date"), ("serialNumberInHex", "--serial")];

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Trust certificates: all of these files, or none.
    Add(Add),
    /// Every trusted certificate of the tenant.
    List,
    /// All about one.
    Show {
        #[arg(value_name = "FINGERPRINT")]
        fingerprint: Fingerprint,
    },
    /// Trust certificates no longer.
    Remove {
        #[arg(value_name = "FINGERPRINT", required = true)]
        fingerprints: Vec<Fingerprint>,
    },
    /// Trust a certificate no longer, and keep it.
    Disable {
        #[arg(value_name = "FINGERPRINT")]
        fingerprint: Fingerprint,
    },
    /// Trust it again.
    Enable {
        #[arg(value_name = "FINGERPRINT")]
        fingerprint: Fingerprint,
    },
    /// Get a code for the CA's owner to sign, as proof of possession of its key.
    Code {
        #[arg(value_name = "FINGERPRINT")]
        fingerprint: Fingerprint,
    },
    /// Hand in the signed code.
    Prove {
        #[arg(value_name = "FINGERPRINT")]
        fingerprint: Fingerprint,
        /// The signature as OpenSSL writes it, or its base64.
        #[arg(long, value_name = "FILE")]
        signature: PathBuf,
    },
    /// Vouch for the possession of the key, without a proof.
    Confirm {
        #[arg(value_name = "FINGERPRINT")]
        fingerprint: Fingerprint,
    },
    /// Revoke certificates by their serial numbers, under every CA of the tenant, at once and for
    /// good.
    ///
    /// A revocation is final, as in a CRL: there is no way to take it back. To let a device in
    /// again give it a new certificate.
    Revoke(Revoke),
    /// The tenant's revocations as a CRL: PEM, or DER into a file.
    Crl {
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Args, Debug)]
pub struct Add {
    /// Certificates of CAs in PEM or DER; a file may hold several.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// What to call it; its common name, where this is left out.
    #[arg(long)]
    name: Option<String>,
    /// Register devices of this CA on their first call.
    #[arg(long)]
    auto_registration: bool,
    /// Where the device's id stands in its certificate: cn, san_uri:PATTERN, san_dns[:PATTERN],
    /// serial.
    #[arg(long, value_name = "RULE")]
    device_identity: Option<String>,
    /// Keep it, and do not trust it yet.
    #[arg(long)]
    disabled: bool,
}

#[derive(Args, Debug)]
pub struct Revoke {
    /// A serial number in hex; may be given several times.
    #[arg(long, value_name = "HEX", required_unless_present = "csv", conflicts_with = "csv")]
    serial: Vec<String>,
    /// Since when, for the CRL: RFC 3339 or a date, now or earlier; now, where this is left out.
    /// The revocation takes effect at once in any case.
    #[arg(long, value_name = "DATE", conflicts_with = "csv")]
    date: Option<String>,
    /// A CSV file with the columns serialNumberInHex and revocationDate.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

/// SHA-256 of a certificate in hex, or how it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(String);

impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Fingerprint, String> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        let good = (LEAST_PREFIX..=64).contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_hexdigit());
        match good {
            true => Ok(Fingerprint(digits.to_ascii_lowercase())),
            false => Err(format!("write {LEAST_PREFIX} to 64 hex digits of the SHA-256")),
        }
    }
}

impl Fingerprint {
    /// The whole one, where nothing has to be looked up for it.
    pub fn whole(&self) -> Option<&str> {
        (self.0.len() == 64).then_some(self.0.as_str())
    }

    /// The one of `candidates` (fingerprint, name) that begins so.
    ///
    /// # Errors
    /// None does, or several do; those are named.
    pub fn find(
        &self,
        candidates: impl Iterator<Item = (String, String)>,
    ) -> anyhow::Result<String> {
        let prefix = &self.0;
        let mut found: Vec<(String, String)> =
            candidates.filter(|(fingerprint, _)| fingerprint.starts_with(prefix)).collect();
        found.dedup();
        match found.as_slice() {
            [(one, _)] => Ok(one.clone()),
            [] => bail!("no fingerprint begins with {prefix}"),
            several => {
                let names = several.iter().take(5).map(|(fingerprint, name)| {
                    format!("{fingerprint} {}", short(name, 40)).trim_end().to_owned()
                });
                let more = if several.len() > 5 { ", …" } else { "" };
                let names: Vec<String> = names.collect();
                bail!("{prefix} is not enough: {}{more}", names.join(", "))
            }
        }
    }
}

impl Command {
    pub fn run(self, at: &mut Session<'_>) -> anyhow::Result<Ended> {
        let tenant = at.tenant()?.as_str().to_owned();
        let room =
            Room { certificates: path(&["tenant", "tenants", &tenant, "trusted-certificates"]) };
        match self {
            Command::Add(add) => add.run(at, &room)?,
            Command::List => {
                let all = json!({ "certificates": room.all(at)? });
                at.answer(&all, table)?;
            }
            Command::Show { fingerprint } => {
                let one = room.one(&room.resolve(at, &fingerprint)?);
                let certificate = at.client.get(&one)?;
                at.answer(&certificate, details)?;
            }
            Command::Remove { fingerprints } => {
                let whole: Result<Vec<String>, _> =
                    fingerprints.iter().map(|fingerprint| room.resolve(at, fingerprint)).collect();
                return each(at, &whole?, |at, fingerprint| {
                    at.client.delete(&room.one(fingerprint))?;
                    Ok(at.done(&format!("{fingerprint} is removed"))?)
                });
            }
            Command::Disable { fingerprint } => room.set(at, &fingerprint, "DISABLED")?,
            Command::Enable { fingerprint } => room.set(at, &fingerprint, "ENABLED")?,
            Command::Code { fingerprint } => {
                let whole = room.resolve(at, &fingerprint)?;
                let code = room.possession(&whole, "verification-code");
                let certificate = at.client.send(Method::POST, &code, None)?;
                let signing = how_to_sign(&certificate, &whole)?;
                at.answer(&certificate, |_| signing)?;
            }
            Command::Prove { fingerprint, signature } => {
                let signature = read_signature(&signature)?;
                let whole = room.resolve(at, &fingerprint)?;
                let body = json!({ "proofOfPossessionSignedVerificationCode": signature });
                let pop = room.possession(&whole, "pop");
                let certificate = at.client.send(Method::POST, &pop, Some(&body))?;
                at.answer(&certificate, |_| format!("{whole}: possession of the key is proven"))?;
            }
            Command::Confirm { fingerprint } => {
                let whole = room.resolve(at, &fingerprint)?;
                let confirmed = room.possession(&whole, "confirmed");
                let certificate = at.client.send(Method::POST, &confirmed, None)?;
                at.answer(&certificate, |_| {
                    format!("{whole}: possession of the key is confirmed")
                })?;
            }
            Command::Revoke(revoke) => revoke.run(at, &room)?,
            Command::Crl { out } => crl(at, &room, out)?,
        }
        Ok(Ended::Well)
    }
}

/// The paths of a tenant.
struct Room {
    certificates: String,
}

impl Room {
    fn one(&self, fingerprint: &str) -> String {
        format!("{}{}", self.certificates, path(&[fingerprint]))
    }

    fn possession(&self, fingerprint: &str, what: &str) -> String {
        format!("{}-pop{}", self.certificates, path(&[fingerprint, what]))
    }

    fn crl(&self) -> String {
        format!("{}{}", self.certificates, path(&["settings", "crl"]))
    }

    /// Every page, by fingerprint.
    fn all(&self, at: &Session<'_>) -> anyhow::Result<Vec<Value>> {
        let mut all = Vec::new();
        let size = PAGE.to_string();
        for page in 1..=PAGES {
            let number = page.to_string();
            let parameters = [("pageSize", Some(&*size)), ("currentPage", Some(&*number))];
            let page = at.client.get(&query(&self.certificates, &parameters))?;
            let found = list(&page, "certificates");
            all.extend(found.iter().cloned());
            if page.get("next").is_none() || found.is_empty() {
                return Ok(all);
            }
        }
        bail!("{} has more than {} trusted certificates", self.certificates, PAGES * PAGE)
    }

    fn resolve(&self, at: &Session<'_>, fingerprint: &Fingerprint) -> anyhow::Result<String> {
        if let Some(whole) = fingerprint.whole() {
            return Ok(whole.to_owned());
        }
        let all = self.all(at)?;
        fingerprint.find(
            all.iter()
                .map(|certificate| (field(certificate, "fingerprint"), field(certificate, "name"))),
        )
    }

    fn set(
        &self,
        at: &mut Session<'_>,
        fingerprint: &Fingerprint,
        status: &str,
    ) -> anyhow::Result<()> {
        let one = self.one(&self.resolve(at, fingerprint)?);
        let certificate = at.client.send(Method::PUT, &one, Some(&json!({ "status": status })))?;
        at.answer(&certificate, |certificate| {
            format!(
                "{} {} is {}",
                prefix(certificate),
                field(certificate, "name"),
                field(certificate, "status")
            )
        })?;
        Ok(())
    }
}

impl Add {
    fn run(self, at: &mut Session<'_>, room: &Room) -> anyhow::Result<()> {
        let mut certificates = Vec::new();
        // The edge counts the certificates; the operator thinks in files.
        let mut places = Vec::new();
        for file in &self.files {
            let first = certificates.len() + 1;
            for certificate in files::read_certificates(file)? {
                certificates.push(self.upload(&certificate)?);
            }
            places.push(match certificates.len() {
                last if last == first => format!("{first} is {}", file.display()),
                last => format!("{first} to {last} are of {}", file.display()),
            });
        }
        if certificates.len() > 1 && self.name.is_some() {
            let count = certificates.len();
            let message = format!("--name is for one certificate, and these files hold {count}");
            return Err(Usage(message).into());
        }
        let added = match certificates.as_slice() {
            [one] => {
                let added = at.client.send(Method::POST, &room.certificates, Some(one))?;
                if at.json {
                    return Ok(at.say_json(&added)?);
                }
                json!({ "certificates": [added] })
            }
            many => {
                let body = json!({ "certificates": many });
                if body.to_string().len() > MOST_BULK {
                    bail!(
                        "these {} certificates are more than the {MOST_BULK} bytes that the API \
                         takes at once: give fewer files",
                        many.len()
                    );
                }
                let bulk = format!("{}/bulk", room.certificates);
                at.client.send(Method::POST, &bulk, Some(&body)).with_context(|| {
                    format!("nothing was added; certificate {}", places.join(", "))
                })?
            }
        };
        at.answer(&added, table)?;
        Ok(())
    }

    fn upload(&self, certificate: &X509) -> anyhow::Result<Value> {
        let mut upload = Map::new();
        let der = STANDARD.encode(certificate.to_der()?);
        upload.insert("certInPemFormat".to_owned(), der.into());
        upload.insert("autoRegistrationEnabled".to_owned(), self.auto_registration.into());
        let status = if self.disabled { "DISABLED" } else { "ENABLED" };
        upload.insert("status".to_owned(), status.into());
        if let Some(name) = &self.name {
            upload.insert("name".to_owned(), name.as_str().into());
        }
        if let Some(rule) = &self.device_identity {
            upload.insert("deviceIdentity".to_owned(), rule.as_str().into());
        }
        Ok(upload.into())
    }
}

impl Revoke {
    fn run(self, at: &mut Session<'_>, room: &Room) -> anyhow::Result<()> {
        if let Some(file) = self.csv {
            let csv = files::read(&file)?;
            if csv.len() > MOST_CSV {
                let file = file.display();
                bail!(
                    "{file}: more than the {MOST_CSV} bytes that the API takes at once: split it"
                );
            }
            at.client.send_bytes(Method::PUT, &room.crl(), Some("text/csv"), &csv)?;
            at.done(&format!("the serial numbers of {} are revoked", file.display()))?;
            return Ok(());
        }
        let entry = |serial: &String| {
            let mut entry = Map::new();
            entry.insert("serialNumberInHex".to_owned(), serial.as_str().into());
            if let Some(date) = &self.date {
                entry.insert("revocationDate".to_owned(), date.as_str().into());
            }
            Value::from(entry)
        };
        let entries: Vec<Value> = self.serial.iter().map(entry).collect();
        let sent = at.client.send(Method::PUT, &room.crl(), Some(&json!({ "crls": entries })));
        sent.map_err(|failure| failure.in_words(REVOCATION_WORDS))?;
        let serials: Vec<String> =
            self.serial.iter().map(|serial| super::text::escaped(serial)).collect();
        at.done(&format!("revoked: {}", serials.join(", ")))?;
        Ok(())
    }
}

fn crl(at: &mut Session<'_>, room: &Room, out: Option<PathBuf>) -> anyhow::Result<()> {
    let der = at.client.get_bytes(&room.crl())?;
    if let Some(file) = out {
        fs::write(&file, &der).with_context(|| file.display().to_string())?;
        return Ok(at.done(&format!("{}: {} bytes, DER", file.display(), der.len()))?);
    }
    if at.json {
        return Ok(at.say_json(&json!({ "crl": STANDARD.encode(&der) }))?);
    }
    let base64 = STANDARD.encode(&der);
    let mut pem = String::from("-----BEGIN X509 CRL-----\n");
    // Lines of RFC 7468 section 2.
    for (place, c) in base64.chars().enumerate() {
        if place > 0 && place % 64 == 0 {
            pem.push('\n');
        }
        pem.push(c);
    }
    pem.push_str("\n-----END X509 CRL-----");
    at.say(&pem)?;
    Ok(())
}

/// The base64 of a signature in either form.
fn read_signature(file: &Path) -> anyhow::Result<String> {
    let bytes = files::read(file)?;
    if bytes.is_empty() || bytes.len() > MOST_SIGNATURE {
        bail!("{}: not a signature: it has {} bytes", file.display(), bytes.len());
    }
    let text: Vec<u8> = bytes.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    let decoded = STANDARD.decode(&text).ok().filter(|decoded| !decoded.is_empty());
    Ok(STANDARD.encode(decoded.unwrap_or(bytes)))
}

/// The commands for the CA's owner. They are meant to be run, so nothing that a shell would
/// act on may come from the edge.
fn how_to_sign(certificate: &Value, fingerprint: &str) -> anyhow::Result<String> {
    let code = field(certificate, "proofOfPossessionUnsignedVerificationCode");
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_=.".contains(&b);
    if code.is_empty() || !code.bytes().all(plain) {
        bail!("the edge gave a code that is none: {code}");
    }
    let until = field(certificate, "proofOfPossessionVerificationCodeUsableUntil");
    let key = certificate.get("certInPemFormat").and_then(Value::as_str).and_then(|text| {
        let der = STANDARD.decode(text).ok()?;
        Some(X509::from_der(&der).ok()?.public_key().ok()?.id())
    });
    let key = key.ok_or_else(|| anyhow!("the edge gave no certificate with the code"))?;
    let sign = match key {
        // OpenSSL signs with Ed25519 what it can measure first: a file.
        Id::ED25519 => format!(
            "  printf %s {code} > code.txt\n  \
               openssl pkeyutl -sign -rawin -inkey ca.key -in code.txt -out code.sig"
        ),
        _ => format!("  printf %s {code} | openssl dgst -sha256 -sign ca.key -out code.sig"),
    };
    Ok(format!(
        "code    {code}\nuntil   {until}\n\n\
         Sign it with the CA's private key, where that key is:\n\n{sign}\n\n\
         and hand the signature in:\n\n  \
           portcullis trust prove {fingerprint} --signature code.sig"
    ))
}

fn table(certificates: &Value) -> String {
    let row = |certificate: &Value| {
        let field = |name| field(certificate, name);
        vec![
            prefix(certificate),
            short(&field("name"), 40),
            field("status"),
            field("autoRegistrationEnabled"),
            short(&field("deviceIdentity"), 40),
            field("proofOfPossessionValid"),
            field("notAfter"),
            field("source"),
        ]
    };
    Table::new(HEADS).page(list(certificates, "certificates").iter().map(row).collect())
}

fn prefix(certificate: &Value) -> String {
    field(certificate, "fingerprint").chars().take(SHOWN_PREFIX).collect()
}

fn details(certificate: &Value) -> String {
    let field = |name| field(certificate, name);
    // Revocation takes hex.
    let serial = openssl::bn::BigNum::from_dec_str(&field("serialNumber"))
        .and_then(|number| number.to_hex_str().map(|hex| hex.to_string()));
    card(vec![
        ("Name", field("name")),
        ("Fingerprint", field("fingerprint")),
        ("Status", field("status")),
        ("Source", field("source")),
        ("Auto-registration", field("autoRegistrationEnabled")),
        ("Device id", field("deviceIdentity")),
        ("Subject", field("subject")),
        ("Issuer", field("issuer")),
        ("Serial number", field("serialNumber")),
        ("  in hex", serial.unwrap_or_default()),
        ("Valid from", field("notBefore")),
        ("Valid until", field("notAfter")),
        ("Signature", field("algorithmName")),
        ("Possession proven", field("proofOfPossessionValid")),
        ("Code to sign", field("proofOfPossessionUnsignedVerificationCode")),
        ("  usable until", field("proofOfPossessionVerificationCodeUsableUntil")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(prefix: &str, candidates: &[&str]) -> Result<String, String> {
        let prefix: Fingerprint = prefix.parse()?;
        let candidates = candidates.iter().map(|text| ((*text).to_owned(), "CA".to_owned()));
        prefix.find(candidates).map_err(|error| error.to_string())
    }

    #[test]
    fn fingerprints_are_hex_in_any_usual_spelling() {
        let whole = "AB:".repeat(31) + "CD";
        let parsed: Fingerprint = whole.parse().unwrap();
        assert_eq!(parsed.whole().unwrap(), "ab".repeat(31) + "cd");
        assert_eq!("0123abcd".parse::<Fingerprint>().unwrap().whole(), None);
        for odd in ["", "1234567", "xyzxyzxy", "../../..", &"a".repeat(65)] {
            assert!(odd.parse::<Fingerprint>().is_err(), "{odd}");
        }
    }

    #[test]
    fn a_prefix_stands_for_the_one_fingerprint_that_begins_so() {
        let known = ["aaaaaaaa11", "aaaaaaaa22", "bbbbbbbb11"];
        assert_eq!(find("BBBBBBBB", &known).unwrap(), "bbbbbbbb11");
        assert_eq!(find("aaaaaaaa2", &known).unwrap(), "aaaaaaaa22");
        let several = find("aaaaaaaa", &known).unwrap_err();
        assert!(several.contains("aaaaaaaa11 CA, aaaaaaaa22 CA"), "{several}");
        assert!(find("cccccccc", &known).unwrap_err().contains("no fingerprint begins"));
    }

    #[test]
    fn a_code_that_a_shell_would_act_on_is_not_printed_as_a_command() {
        for code in ["", "a;rm", "$(x)", "a b", "`x`", "a\nb"] {
            let certificate = json!({ "proofOfPossessionUnsignedVerificationCode": code });
            let error = how_to_sign(&certificate, "ab").unwrap_err().to_string();
            assert!(error.contains("a code that is none") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn signatures_are_taken_as_octets_or_base64() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("code.sig");
        let octets = [0x30_u8, 0x45, 0x02, 0xff];
        fs::write(&file, octets).unwrap();
        assert_eq!(read_signature(&file).unwrap(), "MEUC/w==");
        fs::write(&file, "MEUC\n/w==\n").unwrap();
        assert_eq!(read_signature(&file).unwrap(), "MEUC/w==");
        fs::write(&file, "").unwrap();
        assert!(read_signature(&file).is_err());
    }
}
