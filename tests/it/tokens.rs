//! The token endpoint as a device sees it, to the letter of the platform's API.
//!
//! A token is verified here with nothing but the key set that the edge publishes, and by
//! another library than the one that signed it.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openssl::sha::sha256;
use portcullis::registry::DeviceStatus;
use serde_json::{Value, json};

use crate::jwt::{Jwt, jwks, kids};
use crate::pki::{Crl, Key, Template};
use crate::registry::{WriteLock, set_status};
use crate::world::{
    AtEnd, Client, Config, Connection, Failure, NOW, Response, TOKEN_PATH, World, eventually,
};

const VENDOR: &str =
    "application/vnd.com.nsn.cumulocity.managedobject+json; charset=UTF-8; ver=0.9";
const ERROR: &str = "application/vnd.com.nsn.cumulocity.error+json";

#[test]
fn a_device_gets_its_token() {
    let world = World::start();
    let response = world.acme_client().token().unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some(VENDOR));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!(keys(&response.json()), ["accessToken"]);
    assert_eq!(response.access_token().split('.').count(), 3);
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn without_a_certificate_the_handshake_ends() {
    let world = World::start();
    let anonymous = world.client("acme.example.com");
    assert_eq!(anonymous.token().unwrap_err(), Failure::Alert(116));
    assert_eq!(anonymous.tls12().token().unwrap_err(), Failure::Alert(40));
}

#[test]
fn other_requests_reach_the_upstream_with_the_validated_chain() {
    let world = World::start();
    let response = world.acme_client().get("/inventory?x=1").unwrap();
    assert_eq!(response.text(), "GET /inventory?x=1 HTTP/1.1");
    let request = world.upstream.only_request();
    let chain = request.header("x-ssl-cert-chain");
    assert_eq!(chain.len(), 1);
    assert_eq!(chain[0].matches("-----BEGIN CERTIFICATE-----").count(), 3);
    assert!(!request.head.contains(TOKEN_PATH));
}

// ── Status codes ────────────────────────────────────────────────────────────────────────────

#[test]
fn any_accept_header_that_json_meets_is_served_and_others_get_406() {
    let world = World::start();
    let mut connection = world.acme_client().connect().unwrap();
    for accept in [
        "",
        "Accept: application/json\r\n",
        "Accept: application/vnd.com.nsn.cumulocity.managedobject+json;ver=0.9\r\n",
        "Accept: */*\r\n",
        "Accept: application/*\r\n",
        "Accept: text/html, application/json;q=0.1\r\n",
        "Accept: text/html\r\nAccept: APPLICATION/JSON\r\n",
    ] {
        let response = connection.token(accept).unwrap();
        assert_eq!(response.status, 200, "{accept}");
        assert_eq!(response.header("content-type"), Some(VENDOR), "{accept}");
    }
    for accept in ["text/html", "application/xml, image/*", "application/json;q=0", "x"] {
        let response = connection.token(&format!("Accept: {accept}\r\n")).unwrap();
        refused(&response, 406, "devicecontrol/notAcceptable");
    }
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn plain_json_is_an_option_of_the_tenant() {
    let world = World::with(|_, config| config.acme("tokens: { response_type: json }"));
    let response = world.acme_client().token().unwrap();
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert!(!response.access_token().is_empty());
    assert_eq!(world.globex_client().token().unwrap().header("content-type"), Some(VENDOR));
}

#[test]
fn other_methods_get_405_with_the_one_that_is_allowed() {
    let world = World::start();
    let mut connection = world.acme_client().connect().unwrap();
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "post"] {
        let request = format!("{method} {TOKEN_PATH} HTTP/1.1\r\nHost: acme.example.com\r\n\r\n");
        let response = connection.exchange(request.as_bytes()).unwrap();
        refused(&response, 405, "devicecontrol/methodNotAllowed");
        assert_eq!(response.header("allow"), Some("POST"), "{method}");
    }
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn a_tenant_without_tokens_answers_404_and_forwards_nothing() {
    let world = World::with(|_, config| config.acme("tokens: { enabled: false }"));
    let response = world.acme_client().token().unwrap();
    refused(&response, 404, "devicecontrol/notFound");
    assert!(world.upstream.requests().is_empty());
    assert_eq!(
        world.acme_client().get("/.well-known/jwks.json").unwrap().json(),
        json!({"keys": []})
    );
}

#[test]
fn without_a_certificate_an_optional_tenant_answers_401() {
    let world = World::with(|_, config| config.acme("client_certificate: optional"));
    let mut connection = world.client("acme.example.com").connect().unwrap();
    refused(&connection.token("").unwrap(), 401, "security/unauthorized");
    assert_eq!(connection.until_closed(), Failure::Closed);
    assert_eq!(world.acme_client().token().unwrap().status, 200);
    assert_eq!(world.metric("portcullis_devices_registered_total{tenant=\"acme\"}"), 1.0);
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn a_revoked_device_gets_401_on_the_connection_that_it_has() {
    let world = World::start();
    let mut connection = world.acme_client().connect().unwrap();
    assert_eq!(connection.token("").unwrap().status, 200);
    // Revoked counts before everything else: the device is blocked, too.
    set_status(&world, "acme-device-1", DeviceStatus::Blocked);
    world.write("acme.crl", Crl::of(&world.acme.issuing).revoke(&world.acme.device).der());
    world.write("issuing.pem", world.acme.issuing.pem());
    let mut config = Config::default();
    config.acme("intermediates: [issuing.pem]\ncrls: { files: [acme.crl] }");
    world.configure(&config);
    world.reload().unwrap();
    refused(&connection.token("").unwrap(), 401, "security/unauthorized");
    assert_eq!(connection.until_closed(), Failure::Closed);
    eventually("it is counted", || world.refusals("certificate_revoked") == 1.0);
}

#[test]
fn a_device_whose_certificate_ends_gets_401_on_the_connection_that_it_has() {
    let world = World::start();
    let leaf = Template::device("acme-device-1").validity(NOW - 60, NOW + 60);
    let leaf = leaf.signed_by(&world.acme.issuing);
    let client = world.acme_client().identity(&[&leaf, &world.acme.issuing]);
    let mut connection = client.connect().unwrap();
    world.clock.advance(60);
    assert_eq!(connection.token("").unwrap().status, 200);
    world.clock.advance(1);
    refused(&connection.token("").unwrap(), 401, "security/unauthorized");
    assert_eq!(connection.until_closed(), Failure::Closed);
}

#[test]
fn a_device_that_is_unknown_or_blocked_gets_403() {
    let world = World::with(|_, config| {
        config.acme = "trusted_certificates: [{ file: acme-root.pem }]".into();
    });
    let unknown = world.acme_client().token().unwrap();
    refused(&unknown, 403, "security/forbidden");
    assert_eq!(unknown.json()["message"], "The device is not registered for certificates.");

    let world = World::start();
    let client = world.acme_client();
    assert_eq!(client.token().unwrap().status, 200);
    set_status(&world, "acme-device-1", DeviceStatus::Blocked);
    let blocked = client.token().unwrap();
    refused(&blocked, 403, "security/forbidden");
    assert_eq!(blocked.json()["message"], "The device is blocked.");
}

#[test]
fn a_chain_header_that_cannot_be_parsed_gets_400() {
    let world = World::start();
    let pem = world.acme.issuing.pem().replace('\n', " ");
    for odd in [
        "forged".to_owned(),
        "%".to_owned(),
        format!("{} {pem}", "-----BEGIN CERTIFICATE----- MIIB -----END CERTIFICATE-----"),
        format!("{pem}, {pem}"),
        pem.replace("CERTIFICATE", "PRIVATE KEY"),
        format!("{pem}\r\nX-Ssl-Cert-Chain: {pem}"),
    ] {
        let mut connection = world.acme_client().connect().unwrap();
        let response = connection.token(&format!("X-Ssl-Cert-Chain: {odd}\r\n")).unwrap();
        refused(&response, 400, "security/invalidCertificateChain");
        assert_eq!(connection.until_closed(), Failure::Closed, "{odd}");
    }
    assert!(world.upstream.requests().is_empty());
}

/// In a handshake such a chain is an alert. Over HTTP it shows where the handshake's verdict
/// was another one, because the anchor has gone since.
#[test]
fn a_chain_that_leads_to_no_anchor_of_the_tenant_gets_422() {
    let world = World::start();
    let mut connection = world.acme_client().connect().unwrap();
    assert_eq!(connection.token("").unwrap().status, 200);
    world.write("acme-root.pem", world.globex.root.pem());
    world.reload().unwrap();
    refused(&connection.token("").unwrap(), 422, "security/invalidCertificateChain");
    assert_eq!(connection.until_closed(), Failure::Closed);
    assert_eq!(world.acme_client().token().unwrap_err(), Failure::Alert(48));
}

#[test]
fn over_the_rate_limit_the_answer_is_429_with_retry_after() {
    let world = World::with(|_, config| {
        config.acme("complete_chain_from_header: true");
        config.limits = "undecided_attempts_per_address: 1".into();
    });
    let client = world.acme_client().identity(&[&world.acme.device]);
    assert_eq!(client.token().unwrap().status, 401);
    let response = client.token().unwrap();
    refused(&response, 429, "general/tooManyRequests");
    assert_eq!(response.header("retry-after"), Some("60"));
}

#[test]
fn without_the_registry_the_answer_is_503_with_retry_after() {
    let world = World::start();
    let lock = WriteLock::take(world.dir.path());
    let response = world.acme_client().token().unwrap();
    refused(&response, 503, "general/unavailable");
    assert_eq!(response.header("retry-after"), Some("5"));
    lock.release();
    assert_eq!(world.acme_client().token().unwrap().status, 200);
}

// ── Content ─────────────────────────────────────────────────────────────────────────────────

#[test]
fn the_token_says_who_the_device_is_and_for_whom() {
    let world = World::start();
    let jwt = Jwt::of(&world.acme_client());
    assert_eq!(jwt.header, json!({ "alg": "ES256", "typ": "JWT", "kid": "k1" }));
    let claims = &jwt.claims;
    let expected =
        ["aud", "exp", "iat", "iss", "jti", "nbf", "sub", "tci", "ten", "tfa", "xsrfToken"];
    assert_eq!(keys(claims), expected);
    assert_eq!(claims["iss"], "acme.example.com");
    assert_eq!(claims["aud"], "acme.example.com");
    assert_eq!(claims["sub"], "device_acme-device-1");
    assert_eq!(claims["ten"], "acme");
    assert_eq!(claims["tfa"], false);
    assert_eq!((&claims["iat"], &claims["nbf"]), (&json!(NOW), &json!(NOW)));
    assert_eq!(claims["exp"], NOW + 3_600);
    for id in ["jti", "tci"] {
        let lengths: Vec<usize> = claims[id].as_str().unwrap().split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12], "{id} is a UUID");
    }
    assert_ne!(claims["jti"], claims["tci"]);
    assert!(claims["xsrfToken"].as_str().unwrap().len() >= 20);
}

#[test]
fn the_token_names_the_tenants_host_under_whichever_of_its_names_the_device_comes() {
    let world = World::start();
    let claims = Jwt::of(&world.acme_client().server_name("plant-7.acme.example.com")).claims;
    assert_eq!(
        (&claims["iss"], &claims["aud"]),
        (&"acme.example.com".into(), &"acme.example.com".into())
    );
}

#[test]
fn issuer_audience_and_lifespan_are_the_tenants() {
    let world = World::with(|_, config| {
        config.acme(
            "tokens: { issuer: \"https://{server_name}/\", audience: fleet, lifespan: 301s }",
        );
    });
    let claims = Jwt::of(&world.acme_client()).claims;
    assert_eq!(claims["iss"], "https://acme.example.com/");
    assert_eq!(claims["aud"], "fleet");
    assert_eq!(claims["exp"], NOW + 301);
    assert_eq!(Jwt::of(&world.globex_client()).claims["exp"], NOW + 3_600);
}

#[test]
fn an_es256_token_verifies_from_the_key_set_alone() {
    let world = World::start();
    let jwks = jwks(&world.acme_client());
    let [key] = jwks["keys"].as_array().unwrap().as_slice() else { panic!("{jwks}") };
    // The public part and nothing more.
    assert_eq!(keys(key), ["alg", "crv", "kid", "kty", "use", "x", "y"]);
    let mut jwt = Jwt::of(&world.acme_client());
    assert!(jwt.verifies(&jwks));
    jwt.signed.push('A');
    assert!(!jwt.verifies(&jwks));
}

#[test]
fn an_rs256_tenant_signs_with_its_rsa_key() {
    let world = World::with(|world, config| {
        world.write_key("rsa.key", &Key::rsa(2048));
        config.acme(
            "tokens: { algorithm: rs256, signing_keys: [{ kid: r1, file: rsa.key }, \
             { kid: e1, file: k1.key }] }",
        );
    });
    let jwks = jwks(&world.acme_client());
    assert_eq!(keys(&jwks["keys"][0]), ["alg", "e", "kid", "kty", "n", "use"]);
    let mut jwt = Jwt::of(&world.acme_client());
    assert_eq!((&jwt.header["alg"], &jwt.header["kid"]), (&"RS256".into(), &"r1".into()));
    assert!(jwt.verifies(&jwks));
    jwt.signature[17] ^= 1;
    assert!(!jwt.verifies(&jwks));
}

#[test]
fn the_key_set_is_public_and_not_to_be_kept_for_long() {
    let world = World::with(|_, config| config.acme("client_certificate: optional"));
    let response = world.client("acme.example.com").get("/.well-known/jwks.json").unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/jwk-set+json"));
    assert_eq!(response.header("cache-control"), Some("public, max-age=300"));
    assert!(world.upstream.requests().is_empty());
}

#[test]
fn a_bound_token_names_the_leaf_by_its_digest() {
    let world = World::with(|_, config| config.acme("tokens: { bind_certificate: true }"));
    let claims = Jwt::of(&world.acme_client()).claims;
    let digest = URL_SAFE_NO_PAD.encode(sha256(&world.acme.device.der));
    assert_eq!(claims["cnf"], json!({ "x5t#S256": digest }));
    assert_eq!(Jwt::of(&world.globex_client()).claims.get("cnf"), None);
}

#[test]
fn one_device_name_in_two_tenants_is_two_devices() {
    let world = World::start();
    let namesake = world.globex.another("acme-device-1");
    let namesake = world.globex_client().identity(&[&namesake, &world.globex.issuing]);
    let (at_acme, at_globex) = (Jwt::of(&world.acme_client()), Jwt::of(&namesake));
    assert_eq!(at_acme.claims["sub"], at_globex.claims["sub"]);
    for claim in ["iss", "aud", "ten", "jti"] {
        assert_ne!(at_acme.claims[claim], at_globex.claims[claim], "{claim}");
    }
    assert_eq!(at_globex.claims["iss"], "globex.example.com");
    assert_eq!(at_globex.claims["ten"], "globex");
}

#[test]
fn a_tenants_own_key_signs_for_nobody_else() {
    let world = World::with(|world, config| {
        world.write_key("own.key", &Key::p256());
        config.acme("tokens: { signing_keys: [{ kid: own, file: own.key }] }");
    });
    let (acme, globex) = (world.acme_client(), world.globex_client());
    assert!(Jwt::of(&acme).verifies(&jwks(&acme)));
    assert!(Jwt::of(&globex).verifies(&jwks(&globex)));
    assert!(!Jwt::of(&acme).verifies(&jwks(&globex)));
    assert!(!Jwt::of(&globex).verifies(&jwks(&acme)));
}

// ── The half-life rule ──────────────────────────────────────────────────────────────────────

#[test]
fn the_current_token_is_given_again_until_half_of_its_life_has_passed() {
    let world = World::start();
    let client = world.acme_client();
    let first = client.token().unwrap().access_token();
    world.clock.advance(1_799);
    assert_eq!(client.token().unwrap().access_token(), first);
    world.clock.advance(1);
    let second = client.token().unwrap().access_token();
    assert_ne!(second, first);
    assert_eq!(Jwt::parse(&second).claims["iat"], NOW + 1_800);
    world.clock.advance(1_799);
    assert_eq!(client.token().unwrap().access_token(), second);
    assert_eq!(world.metric("portcullis_tokens_total{result=\"issued\",tenant=\"acme\"}"), 2.0);
    assert_eq!(world.metric("portcullis_tokens_total{result=\"reissued\",tenant=\"acme\"}"), 2.0);
}

#[test]
fn half_of_an_odd_lifespan_is_not_rounded_down() {
    let world = World::with(|_, config| config.acme("tokens: { lifespan: 301s }"));
    let client = world.acme_client();
    let first = client.token().unwrap().access_token();
    world.clock.advance(150);
    assert_eq!(client.token().unwrap().access_token(), first);
    world.clock.advance(1);
    assert_ne!(client.token().unwrap().access_token(), first);
}

#[test]
fn the_current_token_is_the_same_whatever_connection_asks() {
    let world = World::start();
    let client = world.acme_client();
    let mut connection = client.connect().unwrap();
    let token = connection.token("").unwrap().access_token();
    assert_eq!(connection.token("").unwrap().access_token(), token);
    assert_eq!(client.token().unwrap().access_token(), token);
    assert_eq!(client.clone().tls12().token().unwrap().access_token(), token);
    let mut resumed = client.resuming(&connection.session().unwrap()).connect().unwrap();
    assert_eq!(resumed.token("").unwrap().access_token(), token);
    assert!(resumed.resumed());
}

#[test]
fn another_leaf_of_the_device_gets_another_token() {
    let world = World::start();
    let first = Jwt::of(&world.acme_client());
    let renewed = world.acme.another("acme-device-1");
    let renewed = world.acme_client().identity(&[&renewed, &world.acme.issuing]);
    let second = Jwt::of(&renewed);
    assert_eq!(first.claims["sub"], second.claims["sub"]);
    assert_ne!(first.claims["jti"], second.claims["jti"]);
    assert_eq!(Jwt::of(&renewed).claims["jti"], second.claims["jti"]);
}

#[test]
fn a_change_of_trust_gets_the_device_another_token() {
    let world = World::start();
    let mut connection = world.acme_client().connect().unwrap();
    let before = connection.token("").unwrap().access_token();
    world.write("further.pem", Template::ca("Further").self_signed().pem());
    let trusted = "trusted_certificates: [{ file: acme-root.pem, auto_registration: true }, \
                   { file: further.pem }]";
    let config = Config { acme: trusted.into(), ..Config::default() };
    world.configure(&config);
    world.reload().unwrap();
    let after = connection.token("").unwrap().access_token();
    assert_ne!(after, before);
    assert_eq!(world.acme_client().token().unwrap().access_token(), after);
}

#[test]
fn a_reload_that_changes_nothing_leaves_the_token() {
    let world = World::start();
    let before = world.acme_client().token().unwrap().access_token();
    world.reload().unwrap();
    assert_eq!(world.acme_client().token().unwrap().access_token(), before);
}

#[test]
fn a_new_lifespan_gets_the_device_another_token() {
    let world = World::start();
    let before = Jwt::of(&world.acme_client());
    let mut config = Config::default();
    config.acme("tokens: { lifespan: 10m }");
    world.configure(&config);
    world.reload().unwrap();
    let after = Jwt::of(&world.acme_client());
    assert_ne!(after.claims["jti"], before.claims["jti"]);
    assert_eq!(after.claims["exp"], NOW + 600);
}

// ── Keys ────────────────────────────────────────────────────────────────────────────────────

#[test]
fn keys_rotate_by_reload() {
    let world = World::with(|world, _| world.write_key("k2.key", &Key::p256()));
    let client = world.acme_client();
    let first = Jwt::of(&client);
    let put_in_force = |signing_keys: &str| {
        let mut config = Config::default();
        config.acme(&format!("tokens: {{ signing_keys: [{signing_keys}] }}"));
        world.configure(&config);
        world.reload().unwrap();
    };

    // The new key in front: it signs, and what the old one has signed is good until its time.
    put_in_force("{ kid: k2, file: k2.key }, { kid: k1, file: k1.key }");
    assert_eq!(kids(&jwks(&client)), ["k2", "k1"]);
    assert_eq!(Jwt::of(&client).claims["jti"], first.claims["jti"]);
    assert!(first.verifies(&jwks(&client)));
    let other = world.acme.another("acme-device-2");
    let other = Jwt::of(&world.acme_client().identity(&[&other, &world.acme.issuing]));
    assert_eq!(other.header["kid"], "k2");
    assert!(other.verifies(&jwks(&client)));

    // The old key is gone: a token under it is not given again.
    put_in_force("{ kid: k2, file: k2.key }");
    assert_eq!(kids(&jwks(&client)), ["k2"]);
    let second = Jwt::of(&client);
    assert_eq!(second.header["kid"], "k2");
    assert!(second.verifies(&jwks(&client)) && !first.verifies(&jwks(&client)));

    // An old name for a new key is a new key.
    world.write_key("k2.key", &Key::p256());
    world.reload().unwrap();
    let third = Jwt::of(&client);
    assert_ne!(third.claims["jti"], second.claims["jti"]);
    assert!(third.verifies(&jwks(&client)) && !second.verifies(&jwks(&client)));
}

/// Two nodes of one edge reload one after the other, while devices ask both and a verifier
/// knows only the keys that it fetched from the other node beforehand.
#[test]
fn a_rotation_under_load_on_two_nodes_fails_no_verification() {
    let one = World::with(|world, _| world.write_key("k2.key", &Key::p256()));
    let two = World::with(|world, _| {
        for name in ["k1.key", "k2.key", "acme-root.pem"] {
            std::fs::copy(one.dir.path().join(name), world.dir.path().join(name)).unwrap();
        }
    });
    let nodes = [&one, &two];
    let at = |node: &World| {
        let root = &node.server_root;
        Client::new(node.https(), "acme.example.com", root)
    };
    // Two leaves in turn: each request needs a new signature.
    let leaves = [one.acme.device.clone(), one.acme.another("acme-device-1")];
    let (rounds, done) = ([AtomicUsize::new(0), AtomicUsize::new(0)], AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _end = AtEnd(&done);
        for (index, node) in nodes.into_iter().enumerate() {
            let (rounds, done, leaves, issuing) = (&rounds, &done, &leaves, &one.acme.issuing);
            let verifier = at(nodes[1 - index]).identity(&[&leaves[0], issuing]);
            scope.spawn(move || {
                let mut devices: Vec<Connection> = leaves
                    .iter()
                    .map(|leaf| at(node).identity(&[leaf, issuing]).connect().unwrap())
                    .collect();
                let mut keys = verifier.connect().unwrap();
                while !done.load(Ordering::Acquire) {
                    let jwks = keys.get("/.well-known/jwks.json").unwrap().json();
                    for device in &mut devices {
                        let token = device.token("").unwrap().access_token();
                        assert!(Jwt::parse(&token).verifies(&jwks), "{jwks} {token}");
                    }
                    rounds[index].fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        // Between two steps every verifier fetches the keys anew, as its cache's age forces it to.
        let settle = || {
            let goal: Vec<usize> = rounds.iter().map(|r| r.load(Ordering::Acquire) + 3).collect();
            eventually("all have gone round", || {
                rounds.iter().zip(&goal).all(|(r, goal)| r.load(Ordering::Acquire) >= *goal)
            });
        };
        for keys in ["k1 k2", "k2 k1", "k2"] {
            let keys: Vec<String> =
                keys.split(' ').map(|k| format!("{{ kid: {k}, file: {k}.key }}")).collect();
            let mut config = Config::default();
            config.acme(&format!("tokens: {{ signing_keys: [{}] }}", keys.join(", ")));
            for node in nodes {
                node.configure(&config);
                node.reload().unwrap();
                settle();
            }
        }
    });
    assert_eq!(kids(&jwks(&at(&one).identity(&[&leaves[0], &one.acme.issuing]))), ["k2"]);
}

// ── Requests ────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_body_is_read_and_ignored() {
    let world = World::start();
    let mut connection = world.acme_client().connect().unwrap();
    let head = format!("POST {TOKEN_PATH} HTTP/1.1\r\nHost: acme.example.com\r\n");
    let token = connection.token("").unwrap().access_token();
    for rest in [
        "Content-Length: 21\r\nContent-Type: text/plain\r\n\r\nGET /x HTTP/1.1\r\n\r\n.."
            .to_owned(),
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned(),
        format!("Content-Length: 60000\r\n\r\n{}", "x".repeat(60_000)),
    ] {
        let response = connection.exchange(format!("{head}{rest}").as_bytes()).unwrap();
        assert_eq!(response.access_token(), token);
    }
    // Nothing of a body was taken for a request.
    assert_eq!(connection.get("/after").unwrap().text(), "GET /after HTTP/1.1");
    assert_eq!(world.upstream.requests().len(), 1);
}

#[test]
fn fifty_requests_at_once_get_one_token() {
    let world = World::start();
    let barrier = Barrier::new(50);
    let tokens: BTreeSet<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..50)
            .map(|_| {
                let mut connection = world.acme_client().connect().unwrap();
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    connection.token("").unwrap().access_token()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(tokens.len(), 1);
    assert_eq!(world.metric("portcullis_tokens_total{result=\"issued\",tenant=\"acme\"}"), 1.0);
    assert_eq!(world.metric("portcullis_tokens_total{result=\"reissued\",tenant=\"acme\"}"), 49.0);
}

/// Bearers are the platform's to verify: on this endpoint none counts, forged or real.
#[test]
fn a_bearer_is_no_credential_for_a_token() {
    let world = World::with(|_, config| config.acme("client_certificate: optional"));
    let real = world.acme_client().token().unwrap().access_token();
    let claims = real.split('.').nth(1).unwrap();
    let unsigned = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let other = world.acme.another("acme-device-2");
    for bearer in [real.clone(), format!("{unsigned}.{claims}.")] {
        let line = format!("Authorization: Bearer {bearer}\r\n");
        let anonymous = world.client("acme.example.com").token_with(&line).unwrap();
        refused(&anonymous, 401, "security/unauthorized");
        let client = world.acme_client().identity(&[&other, &world.acme.issuing]);
        let token = client.token_with(&line).unwrap().access_token();
        assert_eq!(Jwt::parse(&token).claims["sub"], "device_acme-device-2");
    }
}

// ── Means ───────────────────────────────────────────────────────────────────────────────────

/// A refusal in the platform's form, which tells nothing but the class of the fault.
#[track_caller]
fn refused(response: &Response, status: u16, error: &str) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.header("content-type"), Some(ERROR));
    let body = response.json();
    assert_eq!(keys(&body), ["error", "info", "message"]);
    assert_eq!(body["error"], error);
    assert!(body["message"].as_str().unwrap().ends_with('.'));
    assert!(response.header("x-request-id").is_some_and(|id| id.len() == 16));
    let text = response.text().to_lowercase();
    for secret in ["acme", "globex", "device-1", "sqlite", "edge.db", ".pem", "reload"] {
        assert!(!text.contains(secret), "{text}");
    }
}

/// In alphabetical order.
fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}
