//! One case for each kind of fault in the text, with its place.

use super::{GOOD, Site, edited};

/// What is replaced in `GOOD`, by what, and the one fault that follows.
type Case = (&'static str, &'static str, &'static str);

fn each_gives_its_one_fault(cases: &[Case]) {
    for (from, to, expected) in cases {
        let found = Site::new(&edited(from, to)).faults();
        let matches = matches!(&found[..], [one] if one.starts_with(expected));
        assert!(matches, "{to}\nexpected {expected}\nfound    {found:#?}");
    }
}

#[test]
fn the_base_of_these_tests_is_good() {
    let compiled = Site::new(GOOD).compiled();
    assert!(compiled.unavailable.is_empty());
    assert_eq!(compiled.directory.serviceable().count(), 1);
}

#[test]
fn unknown_keys_are_faults_everywhere() {
    each_gives_its_one_fault(&[
        (
            "listeners:\n",
            "listener: 1\nlisteners:\n",
            "1:1: unknown key `listener` | did you mean `listeners`?",
        ),
        (
            "server_names:",
            "zone: x\n    server_names:",
            "11:5: unknown key `zone` | known here: id, server_names",
        ),
        ("    http:", "    htpp: 1\n    http:", "8:5: unknown key `htpp` | did you mean `http`?"),
        (
            "key: acme.key",
            "key: acme.key, cain: x",
            "12:52: unknown key `cain` | did you mean `chain`?",
        ),
        (
            "      default_tenant",
            "      defualt_tenant",
            "4:7: unknown key `defualt_tenant` | did you mean `default_tenant`?",
        ),
        (
            "file: root.pem",
            "file: root.pem, auto: true",
            "13:46: unknown key `auto` | known here: file, auto_registration",
        ),
        ("lifespan: 1h", "lifespam: 1h", "5:11: unknown key `lifespam` | did you mean `lifespan`?"),
        (
            "tokens: {",
            "limits: { conections: 1 }\ntokens: {",
            "5:11: unknown key `conections` | did you mean `connections`?",
        ),
    ]);
}

#[test]
fn missing_keys_are_faults() {
    each_gives_its_one_fault(&[
        (
            "    server_names: [acme.example.com]\n",
            "",
            "10:5: the key `server_names` is missing | write `server_names: [acme.example.com]`",
        ),
        (
            "    upstream: platform\n",
            "",
            "10:5: the key `upstream` is missing | write `upstream: platform`",
        ),
        ("chain: acme.pem, ", "", "12:18: the key `chain` is missing | write `chain: acme.pem`"),
        ("kid: k1, ", "", "5:40: the key `kid` is missing | write `kid: k1`"),
        (
            "bind: \"127.0.0.1:0\"\n      ",
            "",
            "3:7: the key `bind` is missing | write `bind: \"0.0.0.0:8443\"`",
        ),
    ]);
}

#[test]
fn wrong_kinds_are_faults() {
    each_gives_its_one_fault(&[
        (
            "[acme.example.com]",
            "acme.example.com",
            "11:19: expected a list, found a single value | a list is written `[a, b]`",
        ),
        (
            "{ chain: acme.pem, key: acme.key }",
            "acme.pem",
            "12:18: expected a mapping, found a single value | a mapping is written",
        ),
        ("id: acme", "id: [acme]", "10:9: expected text, found a list"),
        ("id: acme", "id:", "10:7: expected text, found nothing"),
        (
            "tokens: {",
            "workers: \"4\"\ntokens: {",
            "5:10: expected a number, found quoted text | write a whole number, without quotes",
        ),
        ("tokens: {", "workers: -1\ntokens: {", "5:10: expected a number, found a single value"),
        (
            "upstream: platform",
            "upstream: platform\n    send_ca_names: yes",
            "15:20: expected true or false, found a single value | write `true` or `false`",
        ),
        (
            "upstream: platform",
            "upstream: platform\n    send_ca_names: \"true\"",
            "15:20: expected true or false, found quoted text",
        ),
    ]);
}

#[test]
fn values_out_of_bounds_are_faults() {
    each_gives_its_one_fault(&[
        ("lifespan: 1h", "lifespan: 299s", "5:21: the duration is out of range | from 5m to 30d"),
        ("lifespan: 1h", "lifespan: 3600", "5:21: not a duration | a whole number and its unit"),
        ("lifespan: 1h", "lifespan: 18446744073709551615d", "5:21: not a duration"),
        ("tokens: {", "workers: 0\ntokens: {", "5:10: the number is out of range | from 1 to 1024"),
        (
            "tokens: {",
            "workers: 99999999999999999999\ntokens: {",
            "5:10: the number is out of range",
        ),
        (
            "tokens: {",
            "limits: { header_bytes: 1MB }\ntokens: {",
            "5:25: not a size | a whole number and its unit: `512B`, `16KiB`, `10MiB`",
        ),
        (
            "tokens: {",
            "limits: { header_bytes: 2MiB }\ntokens: {",
            "5:25: the size is out of range | from 4KiB to 1MiB",
        ),
        (
            "tokens: {",
            "limits: { handshake_timeout: 0s }\ntokens: {",
            "5:30: the duration is out of range | from 100ms to 1h",
        ),
        (
            "tokens: {",
            "log: { level: verbose }\ntokens: {",
            "5:15: unknown choice `verbose` | one of `error`, `warn`",
        ),
        (
            "tokens: {",
            "log: { format: jsno }\ntokens: {",
            "5:16: unknown choice `jsno` | did you mean `json`?",
        ),
        (
            "tokens: {",
            "registry: { url: \"postgres://u:hunter2@db/x\" }\ntokens: {",
            "5:18: PostgreSQL on another machine",
        ),
        (
            "tokens: {",
            "admin: { bind: \"localhost:9090\" }\ntokens: {",
            "5:16: not an IP address with a port",
        ),
        ("id: acme", "id: Acme", "10:9: a tenant id starts with a-z or 0-9"),
        (
            "[acme.example.com]",
            "[10.0.0.1]",
            "11:20: a server name is a host name, not an IP address",
        ),
        (
            "[acme.example.com]",
            "[\"*x.example.com\"]",
            "11:20: a wildcard is '*.' followed by a name",
        ),
        ("[acme.example.com]", "[]", "11:19: the list is empty | write `[acme.example.com]`"),
        ("chain: acme.pem", "chain: \"\"", "12:27: not the path of a file"),
        ("chain: acme.pem", "chain: \"-----BEGIN CERTIFICATE-----\"", "12:27: this is PEM text"),
        (
            "  platform:\n",
            "  \"a b\": { http: [\"10.0.0.1:1\"] }\n  platform:\n",
            "7:3: not a name for an upstream",
        ),
        ("[\"127.0.0.1:8080\"]", "[\"platform:8080\"]", "8:12: not an IP address with a port"),
        (
            "[\"127.0.0.1:8080\"]",
            "[\"10.0.0.1:80\", \"10.0.0.1:80\"]",
            "8:27: this server stands in the list twice",
        ),
        ("[\"127.0.0.1:8080\"]", "[]", "8:11: the list is empty"),
        (
            "[\"127.0.0.1:8080\"]",
            "[\"10.0.0.1:80\"]\n    health: { path: health }",
            "9:21: not the path of a request | such as `/health`",
        ),
        (
            "[\"127.0.0.1:8080\"]",
            "[\"10.0.0.1:80\"]\n    http2: true\n    tls: { server_name: p.example }",
            "9:5: this is HTTP/2 without TLS, and `tls` is on",
        ),
        (
            "      default_tenant",
            "      proxy_protocol: { from: [] }\n      default_tenant",
            "4:31: the list is empty",
        ),
        (
            "      default_tenant",
            "      proxy_protocol: { from: [10.1.0.0/8] }\n      default_tenant",
            "4:32: bits are set behind the prefix; the network starts at 10.0.0.0",
        ),
        (
            "upstream: platform",
            "upstream: platform\n    forward: { strip: [\"a b\"] }",
            "15:24: a header name has 1 to 128",
        ),
        (
            "upstream: platform",
            "upstream: platform\n    forward: { strip: [Host] }",
            "15:24: this would strip 'host'",
        ),
        (
            "upstream: platform",
            "upstream: platform\n    tokens: { issuer: \"{tenant}\" }",
            "15:23: unknown placeholder | the only placeholder is `{server_name}`",
        ),
    ]);
}

#[test]
fn references_that_lead_nowhere_are_faults() {
    each_gives_its_one_fault(&[
        (
            "upstream: platform",
            "upstream: platfrom",
            "14:15: unknown upstream `platfrom` | did you mean `platform`?",
        ),
        (
            "upstream: platform",
            "upstream: mqtt",
            "14:15: unknown upstream `mqtt` | configured: `platform`",
        ),
        (
            "default_tenant: acme",
            "default_tenant: acmee",
            "4:23: unknown tenant `acmee` | did you mean `acme`?",
        ),
        (
            "signing_keys: [{ kid: k1, file: k1.pem }]",
            "signing_keys: []",
            "10:5: tenant `acme` issues tokens without a signing key",
        ),
        (
            "[acme.example.com]",
            "[\"*.example.com\"]\n    tokens: { audience: x }",
            "12:13: the issuer needs a server name without `*`",
        ),
        (
            "[{ kid: k1, file: k1.pem }]",
            "[{ kid: k1, file: k1.pem }, { kid: k1, file: k1.pem }]",
            "5:74: the key id `k1` is given twice",
        ),
    ]);
}

#[test]
fn listeners_bind_an_address_once() {
    let twice = "bind: \"127.0.0.1:8443\"\n    - bind: \"127.0.0.1:8443\"\n";
    let found = Site::new(&edited("bind: \"127.0.0.1:0\"\n", twice)).faults();
    assert!(
        matches!(&found[..], [one] if one.starts_with("4:13: two listeners bind 127.0.0.1:8443 | see line 3")),
        "{found:?}"
    );
}

#[test]
fn a_fault_points_at_its_place() {
    let mut site = Site::new(&edited("    server_names", "    sever_names"));
    let shown = site.compile().err().unwrap().to_string();
    let file = site.path("portcullis.yaml");
    let expected = format!(
        "error: unknown key `sever_names`
  --> {}:11:5
   |
11 |     sever_names: [acme.example.com]
   |     ^^^^^^^^^^^ did you mean `server_names`?
",
        file.display()
    );
    assert!(shown.ends_with(&expected), "{shown}");
}

#[test]
fn what_a_file_holds_cannot_play_with_the_terminal() {
    let shown = Site::new(&edited("id: acme", "\"i\\e[2J\\u202Ed\": 1\n    id: acme"))
        .compile()
        .err()
        .unwrap()
        .to_string();
    assert!(shown.contains("unknown key `i\\u{1b}[2J\\u{202e}d`"), "{shown}");
    assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown}");
}

#[test]
fn secrets_in_a_line_are_not_shown() {
    for (from, to) in [
        ("tokens: {", "registry: { url: \"postgres://u:hunter2@db/x\" }\ntokens: {"),
        ("tokens: {", "registry: { password: hunter2 }\ntokens: {"),
        ("tokens: {", "session_tickets: { secret: hunter2, x: y }\ntokens: {"),
        ("tokens: {", "admin_token: hunter2\ntokens: {"),
        ("key: acme.key", "key: \"-----BEGIN PRIVATE KEY----- hunter2\""),
        ("id: acme", "id: acme\n  hunter2hunter2hunter2=="),
    ] {
        let faults = Site::new(&edited(from, to)).compile().err().unwrap().to_string();
        assert!(!faults.contains("hunter2"), "{faults}");
    }
}

#[test]
fn many_faults_are_counted_past_two_hundred() {
    let keys: String = (0..300).map(|n| format!("unknown{n}x: 1\n")).collect();
    let shown = Site::new(&format!("{GOOD}{keys}")).compile().err().unwrap().to_string();
    assert_eq!(shown.matches("error: ").count(), 200);
    assert!(shown.ends_with("\nand 100 more\n"), "{shown}");
}
