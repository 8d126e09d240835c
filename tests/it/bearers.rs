//! Bearer tokens of requests that go on to the platform: the edge's own only where they hold,
//! those of others as the tenant says, every other credential as it came.

use portcullis::registry::DeviceStatus;
use serde_json::{Value, json};

use crate::http2::frames::{H2, get};
use crate::jwt::{Jwt, encoded, jwks, signed, tampered, unsigned, with_hmac};
use crate::oauth::access_token;
use crate::pki::Key;
use crate::registry::set_status;
use crate::verifiers::random_secret;
use crate::world::{Client, Config, Connection, NOW, Response, World};

const VERIFY: &str = "bearers: { verify: true }";
const OURS_ALONE: &str = "bearers: { verify: true, foreign: refuse }";

/// A world in which acme verifies, and the key that signs acme's and globex's tokens.
fn verifying(edit: impl FnOnce(&World, &mut Config)) -> (World, Key) {
    let key = Key::p256();
    let world = World::with(|world, config| {
        world.write_key("k1.key", &key);
        edit(world, config);
    });
    (world, key)
}

/// One request on its own connection; `lines`: header lines.
fn ask(client: &Client, lines: &str) -> Response {
    ask_on(&mut client.connect().unwrap(), lines)
}

fn ask_on(connection: &mut Connection, lines: &str) -> Response {
    let request = format!("GET /inventory HTTP/1.1\r\nHost: acme.example.com\r\n{lines}\r\n");
    connection.exchange(request.as_bytes()).unwrap()
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

#[track_caller]
fn refused(response: &Response, what: &str) {
    assert_eq!(response.status, 401, "{what}: {response:?}");
    assert_eq!(response.json()["error"], "security/unauthorized", "{what}");
    let challenge = response.header("www-authenticate");
    assert_eq!(challenge, Some("Bearer error=\"invalid_token\""), "{what}");
    let text = response.text();
    assert!(!text.contains("k1") && !text.contains("acme"), "{what}: {text}");
}

#[test]
fn a_good_bearer_and_every_other_credential_go_on_as_they_came() {
    let (world, _) = verifying(|_, config| {
        config.acme(OURS_ALONE);
        config.acme("tokens: { oauth: true }");
    });
    let client = world.acme_client();
    let token = client.token().unwrap().access_token();
    let access = access_token(&client, "acme-device-1");
    let values = [
        format!("Bearer {token}"),
        format!("bEARER {token}"),
        format!("Bearer    {token}"),
        format!("Bearer {access}"),
        "Basic YWNtZS9kZXZpY2U6c2VjcmV0".to_owned(),
        "Digest username=\"x\"".to_owned(),
        format!("Bearerish {token}x"),
    ];
    let mut connection = client.connect().unwrap();
    for value in &values {
        let response = ask_on(&mut connection, &format!("Authorization: {value}\r\n"));
        assert_eq!(response.status, 200, "{value}: {response:?}");
    }
    assert_eq!(ask_on(&mut connection, "").status, 200);
    let requests = world.upstream.requests();
    let seen: Vec<Vec<&str>> = requests.iter().map(|r| r.header("authorization")).collect();
    let mut expected: Vec<Vec<&str>> = values.iter().map(|value| vec![value.as_str()]).collect();
    expected.push(Vec::new());
    assert_eq!(seen, expected);
}

#[test]
fn without_verification_every_bearer_is_the_platforms_to_judge() {
    let world = World::start();
    let client = world.acme_client();
    let token = client.token().unwrap().access_token();
    let jwt = Jwt::parse(&token);
    let forged = [tampered(&token), unsigned(&json!({ "alg": "none" }), &jwt.claims)];
    for token in &forged {
        assert_eq!(ask(&client, &bearer(token)).status, 200);
    }
    let requests = world.upstream.requests();
    assert_eq!(requests[0].header("authorization"), [format!("Bearer {}", forged[0])]);
    assert_eq!(requests[1].header("authorization"), [format!("Bearer {}", forged[1])]);
}

/// Everything that claims to be of the edge's making and is not what it signs.
#[test]
fn a_forged_token_of_ours_reaches_no_platform() {
    let (world, key) = verifying(|_, config| config.acme(VERIFY));
    let client = world.acme_client();
    let good = client.token().unwrap().access_token();
    let Jwt { header, claims, .. } = Jwt::parse(&good);
    let with_header = |name: &str, value: Value| {
        let mut header = header.clone();
        header[name] = value;
        header
    };
    let with_claim = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        signed(&header, &claims, &key)
    };
    let without_claim = |name: &str| {
        let mut claims = claims.clone();
        claims.as_object_mut().unwrap().remove(name);
        signed(&header, &claims, &key)
    };
    let attacker = Key::p256();
    let public = jwks(&client)["keys"][0].clone();
    let pem = {
        let key = openssl::pkey::PKey::public_key_from_der(&key.spki()).unwrap();
        key.public_key_to_pem().unwrap()
    };
    let hs256 = with_header("alg", "HS256".into());
    let mut forged = vec![
        ("none", unsigned(&with_header("alg", "none".into()), &claims)),
        ("None", unsigned(&with_header("alg", "nOnE".into()), &claims)),
        ("none without a kid", unsigned(&json!({ "alg": "none" }), &claims)),
        ("none with our signature", signed(&with_header("alg", "none".into()), &claims, &key)),
        ("no signature", unsigned(&header, &claims)),
        ("HS256 with the PEM", with_hmac(&hs256, &claims, &pem)),
        ("HS256 with the PEM's text", with_hmac(&hs256, &claims, pem.trim_ascii())),
        ("HS256 with the SPKI", with_hmac(&hs256, &claims, &key.spki())),
        ("HS256 with the JWK", with_hmac(&hs256, &claims, public.to_string().as_bytes())),
        ("HS256 with nothing", with_hmac(&hs256, &claims, b"\0")),
        ("ES384", signed(&with_header("alg", "ES384".into()), &claims, &key)),
        ("RS256", signed(&with_header("alg", "RS256".into()), &claims, &key)),
        ("es256", signed(&with_header("alg", "es256".into()), &claims, &key)),
        ("alg as a list", signed(&with_header("alg", json!(["ES256"])), &claims, &key)),
        ("another key under our kid", signed(&header, &claims, &attacker)),
        ("tampered", tampered(&good)),
        ("its own key", signed(&with_header("jwk", public.clone()), &claims, &attacker)),
        ("its own key, signed by ours", signed(&with_header("jwk", public), &claims, &key)),
    ];
    for name in ["jku", "x5u"] {
        let elsewhere = with_header(name, "https://attacker.example/keys".into());
        forged.push((name, signed(&elsewhere, &claims, &attacker)));
        forged.push((name, signed(&elsewhere, &claims, &key)));
    }
    forged.extend([
        ("x5c", signed(&with_header("x5c", json!([])), &claims, &key)),
        ("crit", signed(&with_header("crit", json!(["exp"])), &claims, &key)),
        ("b64", signed(&with_header("b64", false.into()), &claims, &key)),
        ("typ", signed(&with_header("typ", "dpop+jwt".into()), &claims, &key)),
        ("exp as text", with_claim("exp", (NOW + 3_600).to_string().into())),
        ("exp with a fraction", with_claim("exp", json!(1.9e9 + 0.5))),
        ("exp as a list", with_claim("exp", json!([NOW + 3_600]))),
        ("exp as null", with_claim("exp", Value::Null)),
        ("exp over", with_claim("exp", json!(u64::MAX))),
        ("no exp", without_claim("exp")),
        ("expired", with_claim("exp", NOW.into())),
        ("not yet", with_claim("nbf", (NOW + 61).into())),
        ("issued later", with_claim("iat", (NOW + 61).into())),
        ("nbf as text", with_claim("nbf", "0".into())),
        ("another audience", with_claim("aud", "globex.example.com".into())),
        ("audiences", with_claim("aud", json!(["acme.example.com"]))),
        ("no audience", without_claim("aud")),
        ("another tenant", with_claim("ten", "globex".into())),
        ("no tenant", without_claim("ten")),
        ("issuer as a list", with_claim("iss", json!(["acme.example.com"]))),
        ("a user", with_claim("sub", "admin".into())),
        ("nobody", with_claim("sub", "device_".into())),
        ("a path", with_claim("sub", "device_../admin".into())),
        ("no subject", without_claim("sub")),
        ("bound to a key", with_claim("cnf", json!({ "jkt": "x" }))),
        ("bound to nothing", with_claim("cnf", json!({}))),
        ("more than 8 KiB", with_claim("x", "x".repeat(8 * 1_024).into())),
    ]);
    let (encoded_header, twice) = (encoded(header.to_string()), claims.to_string());
    let twice = twice.replacen('{', "{\"sub\":\"device_other\",", 1);
    let message = format!("{encoded_header}.{}", encoded(twice));
    let signature = Jwt::parse(&signed(&header, &claims, &key)).signature;
    forged.push(("a name twice", format!("{message}.{}", encoded(signature))));

    let mut connection = client.connect().unwrap();
    for (what, token) in &forged {
        refused(&ask_on(&mut connection, &bearer(token)), what);
    }
    assert!(world.upstream.requests().is_empty());
    world.refused("token_refused", forged.len() as f64);
    // The connection is not to blame, and the forger's tools make good tokens.
    for token in [&good, &signed(&header, &claims, &key)] {
        assert_eq!(ask_on(&mut connection, &bearer(token)).status, 200);
    }
}

/// Not claimed to be of the edge's making: it identifies nobody here.
#[test]
fn a_foreign_bearer_passes_untouched_or_is_refused_as_the_tenant_says() {
    for (rule, passes) in [(VERIFY, true), (OURS_ALONE, false)] {
        let (world, key) = verifying(|_, config| config.acme(rule));
        let client = world.acme_client();
        let Jwt { header, claims, .. } = Jwt::of(&client);
        let with_kid = |kid: Value| {
            let mut header = header.clone();
            header["kid"] = kid;
            signed(&header, &claims, &key)
        };
        let mut of_the_platform = claims.clone();
        of_the_platform["iss"] = "platform.example.com".into();
        let foreign = [
            with_kid("../../../../dev/null".into()),
            with_kid("k1/../k1".into()),
            with_kid("k1'; DROP TABLE signing_keys; --".into()),
            with_kid("/etc/passwd".into()),
            with_kid("https://attacker.example/k1".into()),
            with_kid("K1".into()),
            with_kid("".into()),
            with_kid(json!(["k1"])),
            with_kid(Value::Null),
            signed(&header, &of_the_platform, &Key::p256()),
            signed(&json!({ "alg": "RS256" }), &claims, &Key::p256()),
            "opaque-token-of-the-platform".to_owned(),
            "a.b.c.d.e".to_owned(),
            "..".to_owned(),
        ];
        for token in &foreign {
            let response = ask(&client, &bearer(token));
            match passes {
                true => assert_eq!(response.status, 200, "{token}: {response:?}"),
                false => refused(&response, token),
            }
        }
        let requests = world.upstream.requests();
        let seen: Vec<Vec<&str>> = requests.iter().map(|r| r.header("authorization")).collect();
        let sent: Vec<String> = foreign.iter().map(|token| format!("Bearer {token}")).collect();
        match passes {
            true => assert_eq!(seen, sent.iter().map(|s| vec![s.as_str()]).collect::<Vec<_>>()),
            false => assert!(seen.is_empty(), "{seen:?}"),
        }
    }
}

#[test]
fn the_token_of_a_namesake_in_another_tenant_is_refused() {
    // Both tenants' tokens are under one key; in the second world under one issuer, too.
    for (claims, rule) in [("", OURS_ALONE), ("tokens: { issuer: fleet, audience: fleet }", VERIFY)]
    {
        let (world, _) = verifying(|_, config| {
            config.acme(rule);
            config.acme(claims);
            config.globex = format!("{}\n{claims}", config.globex);
        });
        let namesake = world.globex.another("acme-device-1");
        let namesake = world.globex_client().identity(&[&namesake, &world.globex.issuing]);
        let of_globex = namesake.token().unwrap().access_token();
        let client = world.acme_client();
        let own = client.token().unwrap().access_token();
        assert_eq!(Jwt::parse(&of_globex).claims["sub"], Jwt::parse(&own).claims["sub"]);
        assert_eq!(Jwt::parse(&of_globex).kid(), Jwt::parse(&own).kid());
        refused(&ask(&client, &bearer(&of_globex)), rule);
        assert!(world.upstream.requests().is_empty());
        assert_eq!(ask(&client, &bearer(&own)).status, 200);
    }
}

#[test]
fn a_token_that_is_bound_is_refused_with_any_other_certificate() {
    let (world, _) = verifying(|_, config| {
        config.acme(VERIFY);
        config.acme("client_certificate: optional");
        config.acme("tokens: { bind_certificate: true, oauth: true }");
    });
    let client = world.acme_client();
    let other = world.acme.another("acme-device-2");
    let other = world.acme_client().identity(&[&other, &world.acme.issuing]);
    let renewed = world.acme.another("acme-device-1");
    let renewed = world.acme_client().identity(&[&renewed, &world.acme.issuing]);
    let anonymous = world.client("acme.example.com");
    for token in [client.token().unwrap().access_token(), access_token(&client, "acme-device-1")] {
        for (who, client) in [("other", &other), ("renewed", &renewed), ("anonymous", &anonymous)] {
            refused(&ask(client, &bearer(&token)), who);
        }
        assert_eq!(ask(&client, &bearer(&token)).status, 200);
    }
    assert_eq!(world.upstream.requests().len(), 2);
}

#[test]
fn the_token_of_a_blocked_or_deleted_device_is_refused_whoever_brings_it() {
    let (world, _) = verifying(|_, config| {
        config.acme(VERIFY);
        config.acme("client_certificate: optional");
    });
    let token = world.acme_client().token().unwrap().access_token();
    let other = world.acme.another("acme-device-2");
    let other = world.acme_client().identity(&[&other, &world.acme.issuing]);
    let anonymous = world.client("acme.example.com");
    for client in [&other, &anonymous] {
        assert_eq!(ask(client, &bearer(&token)).status, 200);
    }
    set_status(&world, "acme-device-1", DeviceStatus::Blocked);
    for client in [&other, &anonymous] {
        let response = ask(client, &bearer(&token));
        assert_eq!(response.status, 403, "{response:?}");
        assert!(!response.text().contains("device-1"));
    }
    set_status(&world, "acme-device-1", DeviceStatus::Active);
    assert_eq!(ask(&anonymous, &bearer(&token)).status, 200);
    let path = "/tenant/tenants/acme/devices/acme-device-1";
    assert_eq!(world.api("DELETE", path, Value::Null).status, 204);
    for client in [&other, &anonymous] {
        refused(&ask(client, &bearer(&token)), "deleted");
    }
    assert_eq!(world.upstream.requests().len(), 3);
}

#[test]
fn two_authorization_headers_are_refused_where_bearers_are_verified() {
    let (world, _) = verifying(|_, config| config.acme(VERIFY));
    let client = world.acme_client();
    let good = bearer(&client.token().unwrap().access_token());
    let basic = "Authorization: Basic eDp5\r\n";
    let forged = bearer(&tampered(&client.token().unwrap().access_token()));
    for (first, second) in
        [(&*good, &*good), (&*good, &*forged), (basic, &*forged), (&*good, basic), (basic, basic)]
    {
        let response = ask(&client, &format!("{first}{second}"));
        assert_eq!(response.status, 401, "{first}{second}{response:?}");
    }
    for lines in [
        forged.replace("Authorization", "AUTHORIZATION"),
        forged.replace("Bearer ", "bearer\t"),
        forged.replace("Bearer ", "   BEARER  "),
        forged.replace("Bearer ", "\tBearer \t"),
        format!("{}, Bearer x\r\n", good.trim_end()),
        format!("{} x\r\n", good.trim_end()),
        "Authorization: Bearer\r\n".to_owned(),
    ] {
        // Empty and odd ones are foreign: they pass; what is forged of ours never does.
        let status = ask(&client, &lines).status;
        let is_ours = lines.contains('.');
        assert_eq!(status, if is_ours { 401 } else { 200 }, "{lines}");
    }
    let seen = world.upstream.requests();
    assert!(seen.iter().all(|request| !request.head.contains("eyJ")), "{seen:?}");
}

#[test]
fn bearers_of_http2_are_verified_alike() {
    let (world, _) = verifying(|_, config| config.acme(VERIFY));
    let client = world.acme_client();
    let token = client.token().unwrap().access_token();
    let good = format!("Bearer {token}");
    let forged = format!("bearer {}", tampered(&token));
    let mut h2 = H2::connect(&client);
    let mut ask = |values: &[&str]| {
        let authorization = values.iter().map(|value| ("authorization", *value));
        let fields: Vec<(&str, &str)> =
            get("/inventory").into_iter().chain(authorization).collect();
        let stream = h2.request(&fields, true);
        h2.answer(stream).status
    };
    assert_eq!(ask(&[&forged]), 401);
    assert_eq!(ask(&[&good, &forged]), 401);
    assert_eq!(ask(&["Basic eDp5", &good]), 401);
    assert_eq!(ask(&["Bearer opaque"]), 200);
    assert_eq!(ask(&["Basic eDp5"]), 200);
    assert_eq!(ask(&[&good]), 200);
    let requests = world.upstream.requests();
    let seen: Vec<Vec<&str>> = requests.iter().map(|r| r.header("authorization")).collect();
    assert_eq!(seen, [["Bearer opaque"], ["Basic eDp5"], [&*good]]);
}

#[test]
fn a_token_of_a_key_that_was_deleted_or_withdrawn_is_ours_no_longer() {
    let world = World::with(|world, config| {
        world.write_secret("keys.secret", &random_secret());
        config.tokens = "{ rotation: { secret_file: keys.secret } }".into();
        config.acme(OURS_ALONE);
    });
    let client = world.acme_client();
    let token = client.token().unwrap().access_token();
    let stolen = Jwt::parse(&token).kid().to_owned();
    assert_eq!(ask(&client, &bearer(&token)).status, 200);
    let keys = |method: &str, path: &str| {
        let response = world.api(method, &format!("/edge/signing-keys{path}"), Value::Null);
        assert!(response.status < 300, "{response:?}");
    };
    keys("POST", "/rotate");
    // Superseded, and still published: its tokens hold until they end.
    world.clock.advance(3_600 - 1_800);
    let young = world.acme.another("acme-device-2");
    let young = world.acme_client().identity(&[&young, &world.acme.issuing]);
    let young_token = young.token().unwrap().access_token();
    assert_eq!(Jwt::parse(&young_token).kid(), stolen);
    world.clock.advance(1_800);
    let new = young.token().unwrap().access_token();
    assert_ne!(Jwt::parse(&new).kid(), stolen);
    assert_eq!(ask(&young, &bearer(&young_token)).status, 200);
    keys("DELETE", &format!("/{stolen}"));
    refused(&ask(&young, &bearer(&young_token)), "deleted");
    assert_eq!(ask(&young, &bearer(&new)).status, 200);
    assert_eq!(world.upstream.requests().len(), 3);
}
