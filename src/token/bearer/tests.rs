use base64::engine::general_purpose::STANDARD;
use boring::hash::hmac_sha256;
use boring::pkey::{PKey, Private};
use jsonwebtoken::EncodingKey;
use serde_json::json;

use super::*;
use crate::clock::Clock;
use crate::token::tests::{epoch, p256, pem, rsa};
use crate::token::{Algorithm, ResponseType, TokenRequest, TokenService};
use crate::trust::StaleCrl;

pub(super) const NOW: UnixSeconds = 1_800_000_000;
pub(super) const LEAF: [u8; 32] = [7; 32];

/// A tenant with a key of each algorithm, and somebody who knows all that is public.
pub(super) struct World {
    pub(super) ec: PKey<Private>,
    pub(super) rsa: PKey<Private>,
    pub(super) keys: SigningKeys,
    pub(super) settings: TokenSettings,
    pub(super) tenant: TenantId,
    pub(super) bearers: Bearers,
}

impl World {
    pub(super) fn new() -> World {
        crate::token::install_crypto_provider();
        let (ec, rsa) = (p256(), rsa(2048));
        let keys = vec![("ec".into(), pem(&ec)), ("rsa".into(), pem(&rsa))];
        World {
            keys: SigningKeys::load(keys).unwrap(),
            ec,
            rsa,
            settings: TokenSettings {
                issuer: "acme.example.com".into(),
                audience: "acme.example.com".into(),
                lifespan: 3_600,
                algorithm: Algorithm::Es256,
                bind_certificate: false,
                response_type: ResponseType::Vendor,
                oauth_issuer: None,
            },
            tenant: TenantId::parse("acme").unwrap(),
            bearers: Bearers::default(),
        }
    }

    /// As it is judged at first sight; whatever is remembered by then must not change that.
    pub(super) fn check_on(&self, token: &str, leaf: Option<&[u8; 32]>) -> Bearer {
        let check = |bearers: &Bearers| {
            bearers.check(token, &self.keys, &self.settings, &self.tenant, leaf, NOW)
        };
        let bearer = check(&Bearers::default());
        assert_eq!(check(&self.bearers), bearer);
        assert_eq!(check(&self.bearers), bearer, "the second time");
        bearer
    }

    pub(super) fn check(&self, token: &str) -> Bearer {
        self.check_on(token, Some(&LEAF))
    }

    /// What the edge itself gives.
    fn issued(&self) -> (String, String) {
        let service = TokenService::new(10, Clock::manual(NOW));
        let request = TokenRequest {
            tenant: &self.tenant,
            device: &DeviceId::parse("device-1").unwrap(),
            leaf_sha256: &LEAF,
            epoch: &epoch(StaleCrl::Refuse),
            settings: &self.settings,
            keys: &self.keys,
        };
        let token = service.token(&request).unwrap().token.jwt().to_owned();
        (token, service.access_token(&request).unwrap().token.jwt().to_owned())
    }

    /// Signed by the edge's own EC key: what only a fault of the edge could make.
    pub(super) fn signed(&self, header: &str, claims: &str) -> String {
        let message = message(header, claims);
        let key = EncodingKey::from_ec_der(&self.ec.private_key_to_der_pkcs8().unwrap());
        let es256 = jsonwebtoken::Algorithm::ES256;
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, es256).unwrap();
        format!("{message}.{signature}")
    }

    fn with_header(&self, header: Value) -> Bearer {
        self.check(&self.signed(&header.to_string(), &claims(&[]).to_string()))
    }

    pub(super) fn with_claims(&self, changes: &[(&str, Value)]) -> Bearer {
        self.check(&self.signed(HEADER, &claims(changes).to_string()))
    }
}

pub(super) const HEADER: &str = r#"{"alg":"ES256","typ":"JWT","kid":"ec"}"#;

fn message(header: &str, claims: &str) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
}

/// Good claims, with changes; `null` takes one away.
pub(super) fn claims(changes: &[(&str, Value)]) -> Value {
    let mut claims = json!({
        "iss": "acme.example.com", "aud": "acme.example.com", "sub": "device_device-1",
        "ten": "acme", "iat": NOW, "nbf": NOW, "exp": NOW + 3_600,
    });
    for (name, value) in changes {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(*name),
            value => claims.as_object_mut().unwrap().insert(name.to_string(), value.clone()),
        };
    }
    claims
}

pub(super) fn ours() -> Bearer {
    Bearer::Ours(VerifiedBearer { device: DeviceId::parse("device-1").unwrap() })
}

#[track_caller]
pub(super) fn refused(bearer: Bearer, reason: &str) {
    match bearer {
        Bearer::Refused(told) => assert!(told.contains(reason), "{told}"),
        other => panic!("{other:?}, not refused for '{reason}'"),
    }
}

#[test]
fn what_the_edge_issues_is_ours() {
    let mut world = World::new();
    for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
        world.settings.algorithm = algorithm;
        let (token, access) = world.issued();
        assert_eq!(world.check(&token), ours());
        assert_eq!(world.check_on(&token, None), ours(), "a token that is bound to nothing");
        assert_eq!(world.check(&access), ours());
    }
    assert_eq!(world.check(&world.signed(HEADER, &claims(&[]).to_string())), ours());
    // The kid is what names the key; the type may be left out.
    assert_eq!(world.with_header(json!({ "kid": "ec", "alg": "ES256" })), ours());
}

#[test]
fn what_is_no_token_of_ours_is_foreign() {
    let world = World::new();
    let opaque = ["", ".", "..", "...", "a", "opaque-token", "a.b", "a.b.c", "a.b.c.d.e", "é.é.é"];
    for token in opaque {
        assert_eq!(world.check(token), Bearer::Foreign, "{token}");
    }
    let header = |header: Value| world.with_header(header);
    // Our issuer under a key that we do not publish: perhaps the platform's own.
    for kid in [json!("platform"), json!("EC"), json!("ec "), json!(1), json!(["ec"]), json!(null)]
    {
        assert_eq!(header(json!({ "alg": "ES256", "kid": kid })), Bearer::Foreign, "{kid}");
    }
    assert_eq!(header(json!({ "alg": "ES256" })), Bearer::Foreign);
    for path in ["../../ec", "/etc/passwd", "../../../dev/null", "ec\0", "ec' OR '1'='1"] {
        assert_eq!(header(json!({ "alg": "HS256", "kid": path })), Bearer::Foreign, "{path:?}");
    }
    // Our key id with another issuer: theirs may be called so too.
    let mut stranger = World::new();
    stranger.settings.issuer = "other.example.com".into();
    for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
        stranger.settings.algorithm = algorithm;
        assert_eq!(world.check(&stranger.issued().0), Bearer::Foreign, "{algorithm:?}");
    }
    for issuer in [json!("other.example.com"), Value::Null] {
        let foreign = message(HEADER, &claims(&[("iss", issuer)]).to_string());
        for signature in ["", "AAAA", "!!", &"A".repeat(86)] {
            assert_eq!(world.check(&format!("{foreign}.{signature}")), Bearer::Foreign);
        }
    }
    // No key set, nothing of ours.
    let none = SigningKeys::load(vec![]).unwrap();
    let (token, _) = world.issued();
    let bearer =
        world.bearers.check(&token, &none, &world.settings, &world.tenant, Some(&LEAF), NOW);
    assert_eq!(bearer, Bearer::Foreign);
    assert!(boring::error::ErrorStack::get().errors().is_empty());
}

#[test]
fn an_unsigned_token_is_refused_whoever_it_names() {
    let world = World::new();
    for alg in ["none", "None", "NONE", "nOnE"] {
        for kid in ["ec", "platform"] {
            let header = json!({ "alg": alg, "kid": kid }).to_string();
            let unsigned = message(&header, &claims(&[]).to_string());
            refused(world.check(&format!("{unsigned}.")), "not signed");
            refused(world.check(&world.signed(&header, "{}")), "not signed");
        }
    }
    refused(world.check(&format!("{}.", message(HEADER, &claims(&[]).to_string()))), "signature");
}

#[test]
fn hmac_with_a_public_key_as_its_secret_is_refused() {
    let world = World::new();
    let jwks = world.keys.jwks();
    let rsa = world.rsa.rsa().unwrap();
    let secrets: Vec<(&str, Vec<u8>)> = vec![
        ("rsa", world.rsa.public_key_to_pem().unwrap()),
        ("rsa", world.rsa.public_key_to_der().unwrap()),
        ("rsa", rsa.public_key_to_der_pkcs1().unwrap()),
        ("rsa", rsa.n().to_vec()),
        ("ec", world.ec.public_key_to_pem().unwrap()),
        ("ec", world.ec.public_key_to_der().unwrap()),
        ("ec", jwks.to_vec()),
        ("ec", STANDARD.encode(&jwks).into_bytes()),
    ];
    for (kid, secret) in secrets {
        let header = json!({ "alg": "HS256", "typ": "JWT", "kid": kid }).to_string();
        let message = message(&header, &claims(&[]).to_string());
        let mac = hmac_sha256(&secret, message.as_bytes()).unwrap();
        let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(mac));
        refused(world.check(&token), "algorithm");
    }
}

#[test]
fn a_key_takes_its_own_algorithm_only() {
    let world = World::new();
    for alg in ["RS256", "ES384", "es256", "ES256 ", "PS256", "EdDSA", "HS256", ""] {
        refused(world.with_header(json!({ "alg": alg, "kid": "ec" })), "algorithm");
    }
    for alg in [json!(null), json!(["ES256"]), json!(1)] {
        refused(world.with_header(json!({ "alg": alg, "kid": "ec" })), "algorithm");
    }
    refused(world.with_header(json!({ "kid": "ec" })), "algorithm");
    // Signed by the one key under the other's name.
    refused(world.with_header(json!({ "alg": "ES256", "kid": "rsa" })), "algorithm");
    refused(world.with_header(json!({ "alg": "RS256", "kid": "rsa" })), "signature");
}

#[test]
fn a_header_that_names_keys_or_asks_for_more_is_refused() {
    let world = World::new();
    let theirs = serde_json::from_slice::<Value>(&World::new().keys.jwks()).unwrap();
    for (name, value) in [
        ("jku", json!("https://evil.example.com/jwks.json")),
        ("jwk", theirs["keys"][0].clone()),
        ("x5u", json!("https://evil.example.com/c.pem")),
        ("x5c", json!(["MIIB"])),
        ("x5t", json!("AAAA")),
        ("x5t#S256", json!("AAAA")),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("cty", json!("JWT")),
        ("KID", json!("rsa")),
    ] {
        let mut header = json!({ "alg": "ES256", "typ": "JWT", "kid": "ec" });
        header.as_object_mut().unwrap().insert(name.into(), value);
        refused(world.with_header(header), "more than the edge writes");
    }
    for typ in [json!("at+jwt"), json!("dpop+jwt"), json!("logout+jwt"), json!(null)] {
        refused(world.with_header(json!({ "alg": "ES256", "kid": "ec", "typ": typ })), "type");
    }
}

#[test]
fn a_forged_or_changed_token_is_refused() {
    let world = World::new();
    let (token, _) = world.issued();
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (header, _) = message.split_once('.').unwrap();
    let admin = URL_SAFE_NO_PAD.encode(claims(&[("sub", json!("device_admin"))]).to_string());
    refused(world.check(&format!("{header}.{admin}.{signature}")), "signature");
    refused(world.check(&format!("{message}.")), "signature");
    refused(world.check(&format!("{message}.{signature}=")), "signature");
    refused(world.check(&format!("{message}.{}", &signature[..85])), "signature");
    refused(world.check(&format!("{message}.{}", "A".repeat(86))), "signature");
    refused(world.check(&format!("{message}.!!")), "signature");
    // By the same key id of somebody else.
    let stranger = World::new();
    refused(world.check(&stranger.issued().0), "signature");
    assert!(boring::error::ErrorStack::get().errors().is_empty());
}

#[test]
fn times_are_whole_numbers_and_hold_now() {
    let world = World::new();
    for name in ["exp", "nbf", "iat"] {
        for odd in [
            json!((NOW + 3_600).to_string()),
            json!(NOW as f64 + 0.5),
            json!(1e300),
            json!(u64::MAX),
            json!([NOW]),
            json!({}),
            json!(true),
        ] {
            refused(world.with_claims(&[(name, odd)]), "whole number");
        }
    }
    // `null` is a value, and no number.
    let text = claims(&[]).to_string().replace(&format!("\"exp\":{}", NOW + 3_600), "\"exp\":null");
    refused(world.check(&world.signed(HEADER, &text)), "whole number");
    refused(world.with_claims(&[("exp", Value::Null)]), "no end");
    for past in [NOW, NOW - 1, 0, -1, i64::MIN] {
        refused(world.with_claims(&[("exp", json!(past))]), "expired");
    }
    assert_eq!(world.with_claims(&[("exp", json!(NOW + 1))]), ours(), "no leeway");
    for name in ["nbf", "iat"] {
        refused(world.with_claims(&[(name, json!(NOW + 61))]), "future");
        refused(world.with_claims(&[(name, json!(i64::MAX))]), "future");
        assert_eq!(world.with_claims(&[(name, json!(NOW + 60))]), ours());
        assert_eq!(world.with_claims(&[(name, Value::Null)]), ours());
    }
}

#[test]
fn a_token_of_one_tenant_is_refused_by_another_even_where_they_share_all_else() {
    let acme = World::new();
    let (token, access) = acme.issued();
    let umbrella = TenantId::parse("umbrella").unwrap();
    for token in [&token, &access] {
        // The same device name, the same keys, the same issuer and audience.
        let bearers = Bearers::default();
        let check =
            |tenant| bearers.check(token, &acme.keys, &acme.settings, tenant, Some(&LEAF), NOW);
        refused(check(&umbrella), "another tenant");
        assert_eq!(check(&acme.tenant), ours());
        refused(check(&umbrella), "another tenant");
    }
    for ten in [json!("ACME"), json!("acme "), json!(["acme"]), Value::Null] {
        refused(acme.with_claims(&[("ten", ten)]), "another tenant");
    }
}

#[test]
fn a_token_of_another_tenants_issuer_is_refused_where_a_shared_key_has_signed_it() {
    let (mut acme, mut settings) = (World::new(), World::new().settings);
    settings.issuer = "umbrella.example.com".into();
    settings.audience = "umbrella.example.com".into();
    settings.oauth_issuer = Some("https://umbrella.example.com".into());
    let umbrella = TenantId::parse("umbrella").unwrap();
    acme.settings.oauth_issuer = Some("https://acme.example.com".into());
    for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
        acme.settings.algorithm = algorithm;
        let (token, access) = acme.issued();
        for token in [&token, &access] {
            let at_umbrella =
                || acme.bearers.check(token, &acme.keys, &settings, &umbrella, Some(&LEAF), NOW);
            refused(at_umbrella(), "signed here for another tenant");
            assert_eq!(acme.check(token), ours());
            refused(at_umbrella(), "signed here for another tenant");
        }
    }
    // By the signature alone, whatever else is odd, expired or missing.
    for issuer in [json!("umbrella.example.com"), json!(""), Value::Null] {
        let changes = [("iss", issuer), ("exp", json!(1)), ("sub", json!("admin"))];
        refused(acme.with_claims(&changes), "signed here for another tenant");
        let odd = acme.signed(r#"{"alg":"HS256","kid":"ec"}"#, &claims(&changes).to_string());
        refused(acme.check(&odd), "signed here for another tenant");
    }
}

#[test]
fn the_audience_is_one_text() {
    let world = World::new();
    for aud in [
        json!("other.example.com"),
        json!(["acme.example.com"]),
        json!(["other.example.com", "acme.example.com"]),
        json!([]),
        json!(""),
        Value::Null,
    ] {
        refused(world.with_claims(&[("aud", aud)]), "audience");
    }
}

#[test]
fn the_issuer_is_one_text() {
    let world = World::new();
    for iss in [json!(["acme.example.com"]), json!({}), json!(1), json!(true)] {
        refused(world.with_claims(&[("iss", iss)]), "issuer is not a text");
    }
}

#[test]
fn the_subject_is_a_device() {
    let world = World::new();
    for sub in [
        json!("admin"),
        json!("device_"),
        json!("device_../x"),
        json!("device_a b"),
        json!("device_$a"),
        json!("Device_a"),
        json!("xdevice_a"),
        json!(["device_a"]),
        Value::Null,
    ] {
        refused(world.with_claims(&[("sub", sub)]), "subject");
    }
}

#[test]
fn a_name_that_stands_twice_is_refused() {
    let world = World::new();
    let good = claims(&[]).to_string();
    let rest = good.strip_prefix('{').unwrap();
    for twice in [
        r#""sub":"device_admin""#,
        r#""iss":"other.example.com""#,
        r#""exp":99999999999"#,
        r#""\u0065xp":99999999999"#,
        r#""x":{"y":1,"y":2}"#,
    ] {
        refused(world.check(&world.signed(HEADER, &format!("{{{twice},{rest}"))), "twice");
    }
    for header in [
        r#"{"alg":"ES256","kid":"platform","kid":"ec"}"#,
        r#"{"alg":"ES256","kid":"ec","kid":"platform"}"#,
        r#"{"alg":"none","alg":"ES256","kid":"ec"}"#,
    ] {
        refused(world.check(&world.signed(header, &good)), "twice");
    }
}

#[test]
fn misshapen_claims_under_our_key_are_refused() {
    let world = World::new();
    for odd in ["", "[]", "null", "{", "\"iss\"", "{\"iss\":\"acme.example.com\"", "{}x"] {
        refused(world.check(&world.signed(HEADER, odd)), "not a JSON object");
    }
    let header = URL_SAFE_NO_PAD.encode(HEADER);
    for odd in ["e30=", "e3", "+/+/", "e30 "] {
        let bearer = world.check(&format!("{header}.{odd}.AAAA"));
        assert!(matches!(bearer, Bearer::Refused(_)), "{odd}");
    }
}

#[test]
fn a_bound_token_is_good_with_its_certificate_only() {
    let world = World::new();
    let (_, access) = world.issued();
    assert_eq!(world.check_on(&access, Some(&LEAF)), ours());
    refused(world.check_on(&access, Some(&[8; 32])), "another certificate");
    refused(world.check_on(&access, None), "the connection has none");
    let hash = URL_SAFE_NO_PAD.encode(LEAF);
    for odd in [
        json!({}),
        json!({ "jkt": hash }),
        json!({ "x5t#S256": hash, "jkt": hash }),
        json!({ "x5t#S256": [hash] }),
        json!({ "x5t#s256": hash }),
        json!([hash]),
        json!(hash),
        json!(false),
    ] {
        refused(world.with_claims(&[("cnf", odd)]), "something else");
    }
    for other in ["", "AAAA", &STANDARD.encode(LEAF), &"07".repeat(32)] {
        let odd = json!({ "x5t#S256": other });
        refused(world.with_claims(&[("cnf", odd)]), "another certificate");
    }
    let good = claims(&[]).to_string();
    let null = format!("{},\"cnf\":null}}", good.strip_suffix('}').unwrap());
    refused(world.check(&world.signed(HEADER, &null)), "something else");
}

#[test]
fn a_token_of_a_megabyte_is_refused_or_foreign_by_its_header_alone() {
    let world = World::new();
    let long = "A".repeat(1 << 20);
    let header = URL_SAFE_NO_PAD.encode(HEADER);
    refused(world.check(&format!("{header}.{long}.AAAA")), "longer than 8 KiB");
    refused(world.check(&format!("{header}.AAAA.{long}")), "longer than 8 KiB");
    refused(world.check(&format!("{long}.AAAA.AAAA")), "longer than 8 KiB");
    let foreign = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"platform"}"#);
    assert_eq!(world.check(&format!("{foreign}.{long}.AAAA")), Bearer::Foreign);
    assert_eq!(world.check(&long), Bearer::Foreign);
    assert_eq!(world.check(&".".repeat(1 << 20)), Bearer::Foreign);
    let padded = claims(&[("pad", json!("x".repeat(8 * 1024)))]).to_string();
    refused(world.check(&world.signed(HEADER, &padded)), "longer than 8 KiB");
    let deep = format!("{{\"iss\":{}", "[".repeat(5_000));
    refused(world.check(&world.signed(HEADER, &deep)), "not a JSON object");
}

#[test]
fn a_reason_quotes_nothing_of_the_token() {
    let world = World::new();
    let marker = "\r\n\x1b[31mmarker";
    let with = |name: &str| world.with_claims(&[(name, json!(marker))]);
    for bearer in [with("aud"), with("ten"), with("sub"), with("exp"), with("cnf")] {
        let Bearer::Refused(reason) = bearer else { panic!("{bearer:?}") };
        assert!(!reason.contains("marker") && !reason.contains(char::is_control));
    }
}
