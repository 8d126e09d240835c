//! Whole commands against an edge with canned answers.

mod access;
mod device;
mod trust;

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{CommandFactory, Parser};
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslAcceptor, SslMethod, SslVerifyMode};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::testing::{Answer, Asked, Edge, answer, refusal};
use super::*;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// What a command gave: exit code, output, and what stood on the error output.
#[derive(Debug)]
struct Run {
    code: u8,
    out: String,
    notes: String,
}

fn run_with(environment: &[(&str, &str)], arguments: &[&str]) -> Run {
    let environment: HashMap<String, OsString> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
    let parsed = Arguments::try_parse_from(["portcullis"].iter().chain(arguments));
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let code = match parsed.map(|arguments| arguments.command) {
        Ok(Command::Ask(ask)) => {
            match ask.run(|name| environment.get(name).cloned(), &mut out, &mut notes) {
                Ok(Ended::Well) => 0,
                Ok(Ended::SomeFailed) => SOME_FAILED,
                Err(error) => {
                    say(&mut notes, &format!("{error:#}"));
                    code_of(&error)
                }
            }
        }
        Ok(_) => panic!("not a command of the admin API"),
        Err(error) => {
            say(&mut notes, &error.to_string());
            USAGE
        }
    };
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { code, out: text(out), notes: text(notes) }
}

/// For the tenant acme.
fn run(edge: &Edge, arguments: &[&str]) -> Run {
    run_with(&[("PORTCULLIS_ADMIN", &edge.url()), ("PORTCULLIS_TENANT", "acme")], arguments)
}

struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn ec_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

/// A certificate of `name`, issued by `issuer` or by itself.
fn certificate(name: &str, key: &PKey<Private>, issuer: Option<(&X509, &PKey<Private>)>) -> X509 {
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let serial = BigNum::from_u32(7).unwrap().to_asn1_integer().unwrap();
    builder.set_serial_number(&serial).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(issuer.map_or(&*subject, |(ca, _)| ca.subject_name())).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    builder.set_pubkey(key).unwrap();
    match issuer {
        None => builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()),
        Some((ca, _)) => {
            let context = builder.x509v3_context(Some(ca), None);
            let names = SubjectAlternativeName::new().ip("127.0.0.1").build(&context).unwrap();
            builder.append_extension(names).unwrap();
            let usage = ExtendedKeyUsage::new().server_auth().client_auth().build().unwrap();
            builder.append_extension(usage)
        }
    }
    .unwrap();
    let digest = match key.id() {
        openssl::pkey::Id::ED25519 => MessageDigest::null(),
        _ => MessageDigest::sha256(),
    };
    builder.sign(issuer.map_or(key, |(_, key)| key), digest).unwrap();
    builder.build()
}

fn fingerprint(digit: char) -> String {
    std::iter::repeat_n(digit, 64).collect()
}

/// As the schema TrustedCertificate has it.
fn trusted(fingerprint: &str, name: &str) -> Value {
    json!({
        "algorithmName": "SHA256withECDSA", "autoRegistrationEnabled": true,
        "certInPemFormat": "MAA=", "fingerprint": fingerprint, "issuer": "CN=Root",
        "name": name, "notAfter": "2036-01-01T00:00:00Z", "notBefore": "2026-01-01T00:00:00Z",
        "serialNumber": "255", "status": "ENABLED", "subject": "CN=Root", "version": 3,
        "proofOfPossessionValid": false, "deviceIdentity": "cn", "source": "registry",
    })
}

/// As the schema Device has it.
fn device(id: &str) -> Value {
    json!({
        "id": id, "status": "ACTIVE", "registeredBy": "BULK",
        "registeredAt": "2026-01-01T00:00:00Z", "changedAt": "2026-01-01T00:00:00Z",
        "pins": [fingerprint('a'), fingerprint('b')], "name": "\u{1b}[31mred\u{1b}[0m",
    })
}

fn page_of(certificates: Value, next: bool) -> Answer {
    let mut page = json!({
        "certificates": certificates, "self": "/x",
        "statistics": { "pageSize": 500, "currentPage": 1 },
    });
    if next {
        page["next"] = "/elsewhere".into();
    }
    answer(200, page)
}

const CERTIFICATES: &str = "/tenant/tenants/acme/trusted-certificates";
const DEVICES: &str = "/tenant/tenants/acme/devices";

#[test]
fn the_command_line_is_well_formed() {
    Arguments::command().debug_assert();
}

#[test]
fn what_cannot_be_taken_back_or_is_cut_stands_in_the_help() {
    for (path, says) in [
        (["trust", "revoke"], "A revocation is final"),
        (["trust", "revoke"], "give it a new certificate"),
        (["device", "import"], "the first 10,000 of them"),
        (["device", "import"], "stays as it is, with its status, TYPE and NAME"),
        (["device", "import"], "a row is one line"),
    ] {
        let mut command = Arguments::command();
        let mut named = &mut command;
        for name in path {
            named = named.find_subcommand_mut(name).unwrap();
        }
        let help = named.render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains(says), "{says}: {help}");
    }
}

#[test]
fn nothing_of_the_edge_reaches_the_terminal_raw() {
    let edge = Edge::start(|asked| match asked.line.as_str() {
        line if line.contains("box-1") => answer(200, device("box-1")),
        line if line.contains("box-2") => {
            refusal(404, "general/notFound", "gone\u{1b}]0;x\u{7}\nreally")
        }
        _ => answer(200, json!({ "devices": [device("box-1")], "self": "/x" })),
    });
    for arguments in [
        &["device", "list"][..],
        &["device", "show", "box-1"],
        &["device", "show", "box-2"],
        &["device", "list", "--json"],
        &["device", "list", "--json", "--all"],
    ] {
        let run = run(&edge, arguments);
        let shown = format!("{}{}", run.out, run.notes);
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{arguments:?}: {shown:?}");
        assert!(shown.contains("u{1b}") || shown.contains("u001b"), "{arguments:?}: {shown:?}");
    }
}

#[test]
fn refusals_are_one_line_with_the_edge_s_words() {
    let edge = Edge::start(|_| Answer {
        headers: "Retry-After: 17\r\n".to_owned(),
        ..refusal(429, "general/tooManyRequests", "Too many requests of this principal.")
    });
    let run = run(&edge, &["option", "get"]);
    assert_eq!((run.code, run.out.as_str()), (1, ""));
    // The API's description is read with a token alone, so it is not pointed to.
    assert_eq!(
        run.notes,
        "Too many requests of this principal. Try again in 17 s. (429 general/tooManyRequests)\n"
    );
}

#[test]
fn what_the_api_tells_its_callers_to_send_is_told_as_commands_have_it() {
    let edge = Edge::start(|asked| match asked.line.as_str() {
        line if line.starts_with("DELETE") => {
            refusal(409, "general/conflict", "It signs; delete it with ?force=true: all.")
        }
        line if line.ends_with("/pop") => refusal(
            400,
            "general/badRequest",
            "There is no code: ask for a new one by POST to …/verification-code.",
        ),
        _ => refusal(
            422,
            "general/unprocessable",
            "Entry 2 of crls: revocationDate lies in the future; serialNumberInHex.",
        ),
    });
    let files = Files::new();
    let signature = files.write("code.sig", [0x30, 0x45], 0o644);
    for (arguments, says) in [
        (&["key", "delete", "k1"][..], "It signs; delete it with --force: all. (409"),
        (
            &["trust", "prove", &fingerprint('a'), "--signature", &signature],
            "ask for a new one by `portcullis trust code`. (400",
        ),
        (
            &["trust", "revoke", "--serial", "1", "--serial", "2", "--date", "2036-01-01"],
            "Entry 2 of crls: --date lies in the future; --serial. (422",
        ),
    ] {
        let run = run(&edge, arguments);
        assert!(run.code == 1 && run.notes.contains(says), "{run:?}");
    }
}

#[test]
fn wrong_usage_is_told_from_failure() {
    let edge = Edge::start(|_| answer(200, json!({})));
    for arguments in [
        &["trust", "show", "1234567"][..],
        &["trust", "show", "not-hexadecimal"],
        &["trust", "add"],
        &["trust", "revoke"],
        &["trust", "revoke", "--serial", "1", "--csv", "x"],
        &["trust", "prove", "12345678"],
        &["device", "show", "../tenants"],
        &["device", "block"],
        &["device", "pin", "box-1"],
        &["device", "pin", "box-1", "file", "--sha256", "ab"],
        &["device", "pin", "box-1", "--sha256", "abcdef0123"],
        &["device", "list", "--status", "broken"],
        &["option", "set", "oauth.internal", "1"],
        &["key", "rotate", "--algorithm", "HS256"],
        &["audit", "--limit", "0"],
        &["tenant", "list", "--admin", "127.0.0.1:9090"],
        &["tenant", "list", "--admin", "ftp://127.0.0.1"],
        &["tenant", "list", "--admin", "http://a:b@127.0.0.1"],
        &["tenant", "list", "--admin", "http://127.0.0.1/api"],
        &["tenant", "list", "--tenant", "No/Tenant"],
        &["tenant", "list", "--ca", "ca.pem"],
    ] {
        let run = run(&edge, arguments);
        assert_eq!(run.code, USAGE, "{arguments:?}: {}", run.notes);
    }
    assert!(edge.lines().is_empty());
}

#[test]
fn keys_options_audit_and_tenants_are_asked_for_as_the_api_has_them() {
    let edge = Edge::start(|asked| match asked.line.as_str() {
        line if line.contains("signing-keys") && line.starts_with("DELETE") => answer(204, ""),
        line if line.contains("signing-keys") => answer(
            200,
            json!({ "keys": [
                { "kid": "k1", "algorithm": "ES256", "state": "SIGNING", "source": "file" },
            ]}),
        ),
        line if line.contains("audit") => answer(
            200,
            json!({ "self": "/x", "records": [{
                "id": 7, "time": "2026-01-01T00:00:00Z", "actor": "admin", "action": "device.block",
                "target": "acme/box-1", "detail": "",
            }]}),
        ),
        line if line.contains("tenants?") => answer(
            200,
            json!({ "self": "/x", "tenants": [{
                "id": "acme", "state": "SERVICEABLE", "devices": 3, "trustedCertificates": 1,
                "revokedSerialNumbers": 0,
            }]}),
        ),
        line if line.contains("options/") => answer(
            200,
            json!({
                "category": "oauth.internal", "key": "device-token.lifespan.seconds", "value": "600",
            }),
        ),
        _ => answer(200, json!({ "options": [] })),
    });
    let name = "oauth.internal/device-token.lifespan.seconds";
    let option = format!("/tenant/tenants/acme/options/{name}");
    for (arguments, line, body, shown) in [
        (&["key", "list"][..], "GET /edge/signing-keys", Value::Null, "k1      ES256"),
        (
            &["key", "rotate", "--algorithm", "ES256"],
            "POST /edge/signing-keys/rotate",
            json!({ "algorithm": "ES256" }),
            "SIGNING",
        ),
        (
            &["key", "delete", "k/1"],
            "DELETE /edge/signing-keys/k%2F1",
            Value::Null,
            "k/1 is deleted",
        ),
        (
            &["audit", "--limit", "5"],
            "GET /edge/audit?tenant=acme&limit=5",
            Value::Null,
            "device.block",
        ),
        (&["tenant", "list"], "GET /edge/tenants?limit=1000", Value::Null, "acme  SERVICEABLE  3"),
        (&["option", "get"], "GET /tenant/tenants/acme/options", Value::Null, "OPTION"),
        (&["option", "get", name], &format!("GET {option}"), Value::Null, "600\n"),
        (
            &["option", "set", name, "600"],
            &format!("PUT {option}"),
            json!({ "value": "600" }),
            "= 600",
        ),
    ] {
        let run = run(&edge, arguments);
        assert!(run.code == 0 && run.out.contains(shown), "{run:?}");
        let asked = edge.asked().pop().unwrap();
        assert_eq!((asked.line.as_str(), asked.json()), (line, body));
    }
}
