//! `portcullis trust`.

use super::*;

#[test]
fn lists_go_through_every_page_and_follow_no_link() {
    let edge = Edge::start(|asked| match asked.line.contains("currentPage=1") {
        true => page_of(json!([trusted(&fingerprint('a'), "Röot")]), true),
        false => page_of(json!([trusted(&fingerprint('b'), "Other")]), false),
    });
    let run = run(&edge, &["trust", "list"]);
    assert_eq!(run.code, 0, "{run:?}");
    let lines: Vec<&str> = run.out.lines().collect();
    assert!(lines[0].starts_with("FINGERPRINT       NAME   STATUS"), "{}", run.out);
    assert!(lines[1].starts_with("aaaaaaaaaaaaaaaa  Röot   ENABLED"), "{}", run.out);
    assert!(lines[2].starts_with("bbbbbbbbbbbbbbbb  Other  ENABLED"), "{}", run.out);
    assert_eq!(
        edge.lines(),
        [1, 2].map(|page| { format!("GET {CERTIFICATES}?pageSize=500&currentPage={page}") })
    );
}

#[test]
fn one_certificate_is_added_alone_and_several_all_or_none() {
    let files = Files::new();
    let (key, other) = (ec_key(), ec_key());
    let (one, two) = (certificate("One", &key, None), certificate("Two", &other, None));
    let pem = files.write("one.pem", one.to_pem().unwrap(), 0o644);
    let der = files.write("two.der", two.to_der().unwrap(), 0o644);
    let edge = Edge::start(|asked| match asked.line.ends_with("/bulk") {
        false => answer(201, trusted(&fingerprint('a'), "Line 1")),
        true => refusal(409, "general/conflict", "Certificate 2 is there already."),
    });
    let single = run(
        &edge,
        &[
            "trust",
            "add",
            &pem,
            "--name",
            "Line 1",
            "--auto-registration",
            "--device-identity",
            "san_dns",
            "--disabled",
        ],
    );
    assert!(single.code == 0 && single.out.contains("Line 1"), "{single:?}");
    let both = run(&edge, &["trust", "add", &pem, &der]);
    assert_eq!(both.code, 1);
    let expected = format!("1 is {pem}, 2 is {der}: Certificate 2 is there already.");
    assert!(both.notes.contains(&expected), "{}", both.notes);
    let asked = edge.asked();
    assert_eq!(asked[0].line, format!("POST {CERTIFICATES}"));
    assert_eq!(
        asked[0].json(),
        json!({
            "certInPemFormat": STANDARD.encode(one.to_der().unwrap()), "name": "Line 1",
            "autoRegistrationEnabled": true, "status": "DISABLED", "deviceIdentity": "san_dns",
        })
    );
    let sent = asked[1].json();
    assert_eq!(sent["certificates"][1]["certInPemFormat"], STANDARD.encode(two.to_der().unwrap()));
    assert_eq!(run(&edge, &["trust", "add", &pem, &der, "--name", "x"]).code, USAGE);
}

#[test]
fn a_private_key_never_leaves_the_machine() {
    let files = Files::new();
    let key = ec_key();
    let both =
        [certificate("CA", &key, None).to_pem().unwrap(), key.private_key_to_pem_pkcs8().unwrap()];
    let file = files.write("ca.pem", both.concat(), 0o600);
    let edge = Edge::start(|_| answer(201, json!({})));
    for arguments in [["trust", "add", &file], ["device", "pin", &file]] {
        let arguments: Vec<&str> = match arguments[1] {
            "pin" => vec!["device", "pin", "box-1", &file],
            _ => arguments.to_vec(),
        };
        let run = run(&edge, &arguments);
        assert!(run.code == 1 && run.notes.contains("private key"), "{run:?}");
    }
    assert!(edge.lines().is_empty());
}

#[test]
fn a_prefix_stands_for_one_certificate_and_removal_looks_all_up_first() {
    let edge = Edge::start(|asked| match asked.line.starts_with("GET") {
        true => page_of(
            json!([trusted(&fingerprint('a'), "A"), trusted(&fingerprint('b'), "B")]),
            false,
        ),
        false => answer(204, ""),
    });
    let missing = run(&edge, &["trust", "remove", "aaaaaaaa", "cccccccc"]);
    assert_eq!(missing.code, 1);
    assert!(edge.lines().iter().all(|line| line.starts_with("GET")), "{:?}", edge.lines());
    let done = run(&edge, &["trust", "remove", "AA:AA:AA:AA", &fingerprint('b')]);
    assert_eq!(
        done.out,
        format!("{0} is removed\n{1} is removed\n", fingerprint('a'), fingerprint('b'))
    );
    assert_eq!(
        edge.lines().last().unwrap(),
        &format!("DELETE {CERTIFICATES}/{}", fingerprint('b'))
    );
}

#[test]
fn a_code_comes_with_the_command_that_signs_it() {
    let whole = fingerprint('a');
    for (key, command) in [
        (ec_key(), "printf %s c0de_-x | openssl dgst -sha256 -sign ca.key -out code.sig"),
        (PKey::generate_ed25519().unwrap(), "openssl pkeyutl -sign -rawin -inkey ca.key"),
    ] {
        let der = certificate("CA", &key, None).to_der().unwrap();
        let edge = Edge::start(move |_| {
            let mut body = trusted(&fingerprint('a'), "CA");
            body["certInPemFormat"] = STANDARD.encode(&der).into();
            body["proofOfPossessionUnsignedVerificationCode"] = "c0de_-x".into();
            body["proofOfPossessionVerificationCodeUsableUntil"] = "2026-01-02T00:00:00Z".into();
            answer(200, body)
        });
        let run = run(&edge, &["trust", "code", &whole]);
        assert!(run.out.contains(command), "{run:?}");
        assert!(run.out.contains(&format!("portcullis trust prove {whole} --signature code.sig")));
        assert_eq!(edge.lines(), [format!("POST {CERTIFICATES}-pop/{whole}/verification-code")]);
    }
}

#[test]
fn a_signature_is_handed_in_as_base64() {
    let files = Files::new();
    let signature = files.write("code.sig", [0x30, 0x45, 0x02, 0xff], 0o644);
    let whole = fingerprint('a');
    let edge = Edge::start(|_| answer(200, trusted(&fingerprint('a'), "CA")));
    assert_eq!(run(&edge, &["trust", "prove", &whole, "--signature", &signature]).code, 0);
    let asked = &edge.asked()[0];
    assert_eq!(asked.line, format!("POST {CERTIFICATES}-pop/{whole}/pop"));
    assert_eq!(asked.json(), json!({ "proofOfPossessionSignedVerificationCode": "MEUC/w==" }));
}

#[test]
fn serial_numbers_are_revoked_one_by_one_or_by_a_file() {
    let files = Files::new();
    let csv = files.write("revoked.csv", "serialNumberInHex\nAB\n", 0o644);
    let edge = Edge::start(|_| answer(204, ""));
    let serials = run(
        &edge,
        &["trust", "revoke", "--serial", "ab", "--serial", "CD", "--date", "2026-01-01"],
    );
    assert_eq!(serials.out, "revoked: ab, CD\n");
    assert_eq!(run(&edge, &["trust", "revoke", "--csv", &csv]).code, 0);
    let asked = edge.asked();
    assert_eq!(
        asked[0].json(),
        json!({ "crls": [
            { "serialNumberInHex": "ab", "revocationDate": "2026-01-01" },
            { "serialNumberInHex": "CD", "revocationDate": "2026-01-01" },
        ]})
    );
    assert_eq!(asked[1].line, format!("PUT {CERTIFICATES}/settings/crl"));
    assert_eq!(asked[1].header("content-type"), Some("text/csv"));
    assert_eq!(asked[1].body, b"serialNumberInHex\nAB\n");
}

#[test]
fn a_crl_is_printed_as_pem_and_written_as_der() {
    let files = Files::new();
    let edge = Edge::start(|_| answer(200, "0".repeat(100)));
    let run_out = run(&edge, &["trust", "crl"]).out;
    let lines: Vec<&str> = run_out.lines().collect();
    assert_eq!((lines[0], lines[1].len()), ("-----BEGIN X509 CRL-----", 64));
    assert_eq!(lines.last(), Some(&"-----END X509 CRL-----"));
    let file = files.path("tenant.crl");
    assert_eq!(run(&edge, &["trust", "crl", "--out", file.to_str().unwrap()]).code, 0);
    assert_eq!(fs::read(file).unwrap(), "0".repeat(100).into_bytes());
}
