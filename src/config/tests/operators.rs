//! The admin port, the registry and the rotation of keys: what operators can get wrong.

use std::time::Duration;

use super::{GOOD, Site, edited, tenant};
use crate::admin_settings::{CredentialSecret, Role};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// `GOOD` with a line in front, and files that the lines may name.
fn site(line: &str) -> Site {
    let site = Site::new(&format!("{line}\n{GOOD}"));
    site.secret("a.token", TOKEN);
    site.secret("b.token", format!("b{TOKEN}\n"));
    site.secret("short.token", "short");
    site.secret("two.token", format!("{TOKEN}\n{TOKEN}"));
    site.secret("keys.secret", (0..48).collect::<Vec<u8>>());
    site.secret("zeros.secret", [0; 48]);
    site.secret("password", "p@ss/w?rd\n");
    site
}

#[track_caller]
fn one_fault(line: &str, expected: &str) {
    let found = site(line).faults();
    let matches = matches!(&found[..], [one] if one.starts_with(expected));
    assert!(matches, "{line}\nexpected {expected}\nfound    {found:#?}");
}

#[test]
fn principals_are_who_the_file_says() {
    let compiled = site(
        "admin: { token_file: a.token, hosts: [Edge.Example.com], credentials: [{ name: team, \
         common_name: Team 1, role: viewer, tenant: acme }], tls: { certificate: { chain: acme.pem, \
         key: acme.key }, client_ca: root.pem } }",
    )
    .compiled();
    let admin = compiled.settings.admin;
    assert_eq!(admin.bind.to_string(), "127.0.0.1:9090");
    assert_eq!(admin.hosts, ["edge.example.com"]);
    assert!(admin.tls.is_some_and(|tls| tls.client_ca.is_some()));
    let [first, team] = &admin.credentials[..] else { panic!("two principals") };
    assert_eq!((first.name.as_str(), first.role), ("admin", Role::Operator));
    assert!(first.tenant.is_none());
    // Of the token alone, without the line's end.
    let hash = boring::sha::sha256(TOKEN.as_bytes());
    assert_eq!(first.secret, CredentialSecret::Token(hash));
    assert!(!format!("{:?}", first.secret).contains(|c: char| c.is_ascii_digit()));
    assert_eq!(team.secret, CredentialSecret::CommonName("Team 1".into()));
    assert_eq!(team.role, Role::Viewer);
    assert_eq!(team.tenant.as_ref().map(|id| id.as_str()), Some("acme"));
    assert!(Site::new(GOOD).compiled().settings.admin.credentials.is_empty());
}

#[test]
fn principals_that_cannot_be_told_apart_are_faults() {
    for (line, expected) in [
        ("admin: { token_file: short.token }", "1:22: `short.token`: not a token"),
        ("admin: { token_file: two.token }", "1:22: `two.token`: not a token"),
        ("admin: { token_file: none.token }", "1:22: `none.token`: not found"),
        (
            "admin: { credentials: [{ name: a, role: viewer }] }",
            "1:24: a principal needs a way to prove itself",
        ),
        (
            "admin: { credentials: [{ name: a, token_file: a.token, common_name: a, role: viewer }] }",
            "1:24: two ways to prove one principal",
        ),
        (
            "admin: { credentials: [{ name: a, token_file: a.token }] }",
            "1:24: the key `role` is missing",
        ),
        (
            "admin: { credentials: [{ name: a b, token_file: a.token, role: viewer }] }",
            "1:32: not a name",
        ),
        (
            "admin: { token_file: a.token, credentials: [{ name: b, token_file: a.token, role: viewer }] }",
            "1:53: `b` proves itself as `admin` does",
        ),
        (
            "admin: { token_file: a.token, credentials: [{ name: admin, token_file: b.token, role: viewer }] }",
            "1:53: the name `admin` is given twice",
        ),
        (
            "admin: { credentials: [{ name: a, common_name: a, role: viewer }] }",
            "1:48: a client certificate without a CA",
        ),
        (
            "admin: { credentials: [{ name: a, token_file: a.token, role: viewer, tenant: acne }] }",
            "1:78: unknown tenant `acne` | did you mean `acme`?",
        ),
        ("admin: { tls: { certificate: { chain: acme.pem } } }", "1:30: the key `key` is missing"),
        ("admin: { hosts: [192.0.2.1] }", "1:18: "),
        (
            "admin: { tls: { certificate: { chain: acme.pem, key: k1.pem } } }",
            "1:54: `k1.pem`: the key does not belong to the first certificate",
        ),
        (
            "admin: { tls: { certificate: { chain: acme.pem, key: acme.key }, client_ca: k1.pem } }",
            "1:77: `k1.pem`: ",
        ),
    ] {
        one_fault(line, expected);
    }
}

#[test]
fn a_token_that_others_can_read_stops_the_start() {
    let mut site = site("admin: { token_file: a.token }");
    site.set_mode("a.token", 0o640);
    assert!(site.faults()[0].contains("chmod 600"));
}

#[test]
fn a_registry_is_a_file_or_postgresql_on_a_protected_way() {
    let url = |text: &str| {
        let line = format!("registry: {{ url: \"{text}\", password_file: password }}");
        site(&line).compiled().settings.registry.url
    };
    let password = "password=p%40ss%2Fw%3Frd";
    assert_eq!(url("postgres://u@127.0.0.1/db"), format!("postgres://u@127.0.0.1/db?{password}"));
    for local in ["postgresql://u@[::1]:5432/db", "postgres:///db?host=/run/postgresql"] {
        assert!(url(local).ends_with(password), "{local}");
    }
    let far = "postgres://u@db.example.com:5432/db?sslmode=verify-full";
    assert_eq!(url(far), format!("{far}&{password}"));

    let unprotected = "1:18: PostgreSQL on another machine";
    for far in
        ["postgres://u:p@db.example.com/db", "postgres://[2001:db8::1]/d", "postgres:///d?host=h"]
    {
        let line = format!("registry: {{ url: \"{far}\" }}");
        one_fault(&line, unprotected);
        assert!(!site(&line).faults()[0].contains("db.example.com"));
    }
    for odd in ["mysql://u:secret@h/d", "postgres://", "sqlite:", "portcullis.db"] {
        let line = format!("registry: {{ url: \"{odd}\" }}");
        one_fault(&line, "1:18: not the URL of a registry");
        assert!(!site(&line).faults()[0].contains("secret"));
    }
    one_fault(
        "registry: { url: \"postgres://u@localhost/d?sslmod=x\" }",
        "1:18: the registry's url is not usable: after '?' it has a parameter other than",
    );
    one_fault("registry: { url: \"sqlite:a%20b.db\" }", "1:18: the registry's url is not usable");
    one_fault(
        "registry: { url: \"sqlite:a.db\", password_file: password }",
        "1:48: SQLite has no password",
    );
}

#[test]
fn a_lost_poll_does_not_make_the_registry_stale() {
    let settings = site("registry: { max_staleness: 30s, poll: 10s }").compiled().settings;
    assert_eq!(settings.registry.max_staleness, Duration::from_secs(30));
    assert!(settings.registry.url.ends_with("portcullis.db"));
    one_fault(
        "registry: { max_staleness: 30s, poll: 11s }",
        "1:33: one lost poll would already make the registry stale",
    );
    one_fault("registry: { max_staleness: 1s }", "1:28: the duration is out of range");
}

fn with_tokens(tokens: &str) -> Site {
    let text = edited(
        "tokens: { lifespan: 1h, signing_keys: [{ kid: k1, file: k1.pem }] }",
        &format!("tokens: {{ {tokens} }}"),
    );
    let site = site("workers: 1");
    site.write("portcullis.yaml", text);
    site
}

#[test]
fn keys_are_published_long_enough_for_every_verifier() {
    let mut good = with_tokens("rotation: { secret_file: keys.secret, publish_for: 16m }");
    let compiled = good.compiled();
    tenant(&compiled, "acme");
    let (rotation, _) = compiled.settings.rotation.unwrap();
    assert_eq!(rotation.every, Duration::from_secs(30 * 86_400));
    assert_eq!(with_tokens("rotation: { secret_file: keys.secret, every: 29h }").faults().len(), 0);
    for (tokens, expected) in [
        (
            "rotation: { secret_file: keys.secret, publish_for: 15m }",
            "5:49: keys must be published for at least 960 s",
        ),
        (
            "rotation: { secret_file: keys.secret, every: 1d }",
            "5:49: rotated this often, more than 25 keys of an algorithm would be published at a \
             time; a key must sign for at least 29h",
        ),
        (
            "rotation: { secret_file: keys.secret, publish_for: 1h, every: 1d }",
            "5:66: rotated this often",
        ),
        (
            "rotation: { secret_file: zeros.secret }",
            "5:36: `zeros.secret`: the secret has fewer than 8 different octets",
        ),
        ("rotation: { every: 30d }", "5:21: the key `secret_file` is missing"),
        ("rotation: { secret_file: keys.secret, algorithms: [] }", "5:61: "),
        ("lifespan: 1h", "10:5: tenant `acme` issues tokens without a signing key"),
    ] {
        let found = with_tokens(tokens).faults();
        let matches = matches!(&found[..], [one] if one.starts_with(expected));
        assert!(matches, "{tokens}\nexpected {expected}\nfound    {found:#?}");
    }
}

#[test]
fn a_tenants_algorithm_is_one_that_is_made() {
    let rs256 = |tokens: &str| {
        let site = with_tokens(tokens);
        let text = std::fs::read_to_string(site.path("portcullis.yaml")).unwrap();
        site.write("portcullis.yaml", format!("{text}    tokens: {{ algorithm: rs256 }}\n"));
        site
    };
    let made = "rotation: { secret_file: keys.secret, algorithms: [es256, rs256] }";
    tenant(&rs256(made).compiled(), "acme");
    let faults =
        rs256("signing_keys: [{ kid: k1, file: k1.pem }], rotation: { secret_file: keys.secret }")
            .tenant_faults();
    assert!(faults[0].contains("no signing key of tenant `acme` is for RS256"), "{faults:?}");
}

fn with_tenant(lines: &str) -> Site {
    let site = site("workers: 1");
    site.write("portcullis.yaml", format!("{GOOD}{lines}"));
    site
}

#[test]
fn what_a_tenant_says_of_tokens_goes_together() {
    use crate::tenant::{ForeignBearers, TokenSource};
    let good = with_tenant(
        "    tokens: { oauth: true, oauth_issuer: \"https://{server_name}:8443\" }\n    \
         bearers: { verify: true, foreign: refuse }\n",
    )
    .compiled();
    let acme = tenant(&good, "acme");
    let issuer = acme.tokens.as_ref().and_then(|tokens| tokens.oauth_issuer.clone());
    assert_eq!(issuer.as_deref(), Some("https://acme.example.com:8443"));
    assert_eq!(acme.token_source, TokenSource::Edge);
    assert_eq!(acme.bearers.foreign, ForeignBearers::Refuse);
    for (lines, expected) in [
        ("    bearers: { foreign: refuse }\n", "15:16: foreign bearers can be told only where"),
        (
            "    tokens: { oauth: true, oauth_issuer: \"http://a.example\" }\n",
            "15:42: not an issuer of RFC 8414",
        ),
        (
            "    tokens: { oauth: true, oauth_issuer: \"https://a.example/\" }\n",
            "15:42: not an issuer of RFC 8414",
        ),
        (
            "    tokens: { source: platform }\n    bearers: { verify: true, foreign: refuse }\n",
            "15:13: the platform's own tokens would be refused here",
        ),
        (
            "    tokens: { oauth: true, oauth_issuer: \"https://a.example/x\" }\n",
            "15:42: not an issuer of RFC 8414",
        ),
        (
            "    tokens: { oauth: true, oauth_issuer: \"https://a.example/?x\" }\n",
            "15:42: not an issuer of RFC 8414",
        ),
    ] {
        let found = with_tenant(lines).faults();
        let matches = matches!(&found[..], [one] if one.starts_with(expected));
        assert!(matches, "{lines}\nexpected {expected}\nfound    {found:#?}");
    }
}

#[test]
fn a_relaying_tenant_needs_no_key_and_an_oauth_one_does() {
    let bare = |tokens: &str| {
        let text =
            edited("tokens: { lifespan: 1h, signing_keys: [{ kid: k1, file: k1.pem }] }\n", "");
        Site::new(&format!("{text}    tokens: {{ {tokens} }}\n"))
    };
    tenant(&bare("source: platform").compiled(), "acme");
    let found = bare("source: platform, oauth: true").faults();
    assert!(found[0].contains("issues tokens without a signing key"), "{found:?}");
}

#[test]
fn clients_without_sni_have_one_way_to_a_tenant() {
    let by_certificate = |rest: &str| {
        Site::new(&edited(
            "      default_tenant: acme\n",
            &format!("      tenant_by_certificate: {{ chain: acme.pem, key: acme.key }}\n{rest}"),
        ))
    };
    let compiled = by_certificate("").compiled();
    assert!(compiled.settings.listeners[0].tenant_by_certificate.is_some());
    for (rest, expected) in [
        ("      default_tenant: acme\n", "4:39: clients without SNI have two ways to a tenant"),
        (
            "      client_certificates: false\n",
            "4:39: `tenant_by_certificate` on a listener that asks for no certificate",
        ),
    ] {
        let found = by_certificate(rest).faults();
        assert!(matches!(&found[..], [one] if one.starts_with(expected)), "{found:#?}");
    }
}

#[test]
fn a_rule_of_identity_is_checked_where_it_stands() {
    let rule = |rule: &str| {
        Site::new(&edited(
            "{ file: root.pem }",
            &format!("{{ file: root.pem, device_identity: '{rule}' }}"),
        ))
    };
    let good = rule("cn:(.*)[.]company[.]com").compiled();
    let acme = tenant(&good, "acme");
    let anchors = &acme.file_trust.material().anchors;
    assert_eq!(anchors[0].identity.as_str(), "cn:(.*)[.]company[.]com");
    assert!(!anchors[0].names_tenant);
    for bad in ["san_uri", "cn:(", "cn:abc", "cn:(a)(b)", "serials"] {
        let found = rule(bad).faults();
        assert!(matches!(&found[..], [one] if one.starts_with("13:63: ")), "{bad} {found:#?}");
    }
}
