//! One node: what becomes of a key, and when.

use serde_json::{Value, json};

use crate::jwt::{Jwt, jwks, kids};
use crate::pki::Key;
use crate::verifiers::{at_present, random_secret};
use crate::world::{Config, NOW, Process, World, eventually};

use super::{DAY, ROTATION, keys, listed, rotate, rotating, signer, states};

const HOUR: i64 = 3_600;
/// For as long a superseded key is published: the longest life of a token, and a minute.
const RETAINED: i64 = 30 * DAY + 60;

#[test]
fn a_key_is_published_then_signs_then_retires_and_goes() {
    let mut world = rotating(|_, _| {});
    let client = world.acme_client();
    let [first] = keys(&world).try_into().unwrap();
    assert_eq!((&*first.state, &*first.source), ("SIGNING", "registry"));
    assert_eq!(
        (first.published_at, first.sign_from, first.retires_at),
        (Some(NOW), Some(NOW), None)
    );
    assert_eq!(kids(&jwks(&client)), [&*first.kid]);
    assert_eq!(signer(&world), first.kid);

    // Its successor is published an hour before its time.
    world.clock.advance(30 * DAY - HOUR);
    let published = NOW + 30 * DAY - HOUR;
    eventually("the second key is published", || keys(&world).len() == 2);
    let [second, again] = keys(&world).try_into().unwrap();
    assert_eq!((&again.kid, &*again.state), (&first.kid, "SIGNING"));
    assert_eq!(second.state, "PUBLISHED");
    assert_eq!(second.published_at, Some(published));
    assert_eq!(second.sign_from, Some(published + HOUR));
    assert_eq!(again.retires_at, Some(published + HOUR + RETAINED));
    eventually("verifiers can fetch both", || kids(&jwks(&client)).len() == 2);
    assert_eq!(signer(&world), first.kid);

    // A restart in between makes no further key and changes nothing.
    world.restart();
    let client = world.acme_client();
    assert_eq!(keys(&world), [second, again]);
    assert_eq!(kids(&jwks(&client)).len(), 2);
    world.clock.advance(HOUR - 1);
    assert_eq!(signer(&world), first.kid);
    let current = Jwt::of(&client);
    assert_eq!(current.kid(), first.kid);
    world.clock.advance(1);
    let [second, ..] = &keys(&world)[..] else { panic!("no key") };
    let second = second.kid.clone();
    assert_eq!(signer(&world), second);
    assert_eq!(
        states(&world),
        [(second.clone(), "SIGNING".into()), (first.kid.clone(), "RETIRED".into())]
    );
    // A rotation takes no token away.
    let after = Jwt::of(&client);
    assert_eq!(after.claims["jti"], current.claims["jti"]);
    assert!(after.verifies(&jwks(&client)));

    // The superseded key is published until the last token that it may have signed has ended.
    world.restart();
    let client = world.acme_client();
    assert_eq!(signer(&world), second);
    assert!(current.verifies(&jwks(&client)));
    world.clock.advance(30 * DAY - HOUR);
    eventually("the third key is published", || keys(&world).len() == 3);
    world.clock.advance(HOUR + 59);
    assert_ne!(signer(&world), second);
    assert!(current.verifies(&jwks(&client)));
    world.clock.advance(1);
    eventually("the first key is gone", || {
        !kids(&jwks(&client)).contains(&&*first.kid) && keys(&world).len() == 2
    });
    assert!(!current.verifies(&jwks(&client)));
    // It is gone from the registry, too.
    world.restart();
    assert_eq!(keys(&world).len(), 2);
    assert!(states(&world).contains(&(second, "RETIRED".into())));
}

#[test]
fn keys_of_files_sign_until_the_first_key_of_the_edges_own_has_been_published_for_its_time() {
    let mut world = World::start();
    let old = Jwt::of(&world.acme_client());
    assert_eq!(old.kid(), "k1");
    // Without rotation there is nothing to rotate.
    assert_eq!(rotate(&world, Value::Null).status, 409);
    let [file] = keys(&world).try_into().unwrap();
    assert_eq!((&*file.state, &*file.source, file.published_at), ("SIGNING", "file", None));

    world.write_secret("keys.secret", &random_secret());
    let beside = "{ signing_keys: [{ kid: k1, file: k1.key }], \
                    rotation: { secret_file: keys.secret } }";
    world.configure(&Config { tokens: beside.into(), ..Config::default() });
    world.restart();
    let client = world.acme_client();
    let listed = keys(&world);
    let [own, file] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((&*own.state, own.sign_from), ("PUBLISHED", Some(NOW + HOUR)));
    assert_eq!((&*file.kid, &*file.state), ("k1", "SIGNING"));
    assert_eq!(kids(&jwks(&client)), [&*own.kid, "k1"]);
    world.clock.advance(HOUR - 1);
    let current = Jwt::of(&client);
    assert_eq!((current.kid(), &*signer(&world)), ("k1", "k1"));
    world.clock.advance(1);
    assert_eq!(signer(&world), own.kid);
    let mut now = states(&world);
    now.sort();
    let mut expected =
        vec![("k1".to_owned(), "PUBLISHED".to_owned()), (own.kid.clone(), "SIGNING".into())];
    expected.sort();
    assert_eq!(now, expected);
    // What the file's key has signed holds, and is given again.
    assert_eq!(Jwt::of(&client).claims["jti"], current.claims["jti"]);
    assert!(old.verifies(&jwks(&client)) && current.verifies(&jwks(&client)));

    // A lifespan later the file can go, by a reload.
    world.configure(&Config { tokens: ROTATION.into(), ..Config::default() });
    world.reload().unwrap();
    assert_eq!(kids(&jwks(&client)), [&*own.kid]);
    let new = Jwt::of(&client);
    assert_eq!(new.kid(), own.kid);
    assert!(new.verifies(&jwks(&client)) && !old.verifies(&jwks(&client)));
}

/// A restart brings the edge's own keys; a reload that takes the file's away must not leave
/// tokens unsigned, or known ones unverified, until then.
#[test]
fn a_reload_from_a_file_to_rotation_keeps_the_files_key_until_the_restart() {
    let mut world = World::start();
    let before = Jwt::of(&world.acme_client());
    world.write_secret("keys.secret", &random_secret());
    world.configure(&Config { tokens: ROTATION.into(), ..Config::default() });
    for _ in 0..2 {
        world.reload().unwrap();
        let client = world.acme_client();
        assert_eq!((signer(&world).as_str(), kids(&jwks(&client)).as_slice()), ("k1", &["k1"][..]));
        assert!(before.verifies(&jwks(&client)));
    }
    world.restart();
    let own = signer(&world);
    assert_ne!(own, "k1");
    assert_eq!(kids(&jwks(&world.acme_client())), [own]);
}

#[test]
fn a_rotation_by_command_publishes_at_once_and_signs_in_an_hour() {
    let world = rotating(|_, _| {});
    let client = world.acme_client();
    let before = signer(&world);
    world.clock.advance(DAY);
    let answer = listed(&rotate(&world, Value::Null));
    let [new, old] = &answer[..] else { panic!("{answer:?}") };
    assert_eq!(
        (&*new.state, new.published_at, new.sign_from),
        ("PUBLISHED", Some(NOW + DAY), Some(NOW + DAY + HOUR))
    );
    assert_eq!((&old.kid, &*old.state), (&before, "SIGNING"));
    eventually("verifiers can fetch it", || kids(&jwks(&client)).contains(&&*new.kid));
    world.clock.advance(HOUR - 1);
    assert_eq!(signer(&world), before);
    world.clock.advance(1);
    assert_eq!(signer(&world), new.kid);

    // The key that signs stays; one that waits may go, and then never signs.
    let delete =
        |kid: &str| world.api("DELETE", &format!("/edge/signing-keys/{kid}"), Value::Null).status;
    assert_eq!(delete(&new.kid), 409);
    let waiting = listed(&rotate(&world, json!({ "algorithm": "ES256" })))[0].kid.clone();
    assert_eq!((delete(&waiting), delete(&waiting), delete("k1")), (204, 404, 404));
    world.clock.advance(2 * HOUR);
    assert_eq!(signer(&world), new.kid);
    eventually("it is not published", || !kids(&jwks(&client)).contains(&&*waiting));

    assert_eq!(rotate(&world, json!({ "algorithm": "RS256" })).status, 422);
    assert!((400..500).contains(&rotate(&world, json!({ "algorithm": "none" })).status));
    assert_eq!(keys(&world).len(), 2);
    let audit = world.api("GET", "/edge/audit", Value::Null).text();
    assert!(audit.contains(&new.kid) && audit.contains(&waiting), "{audit}");
}

/// As after a theft: tokens are signed again at once and not when the next key's hour is over.
#[test]
fn a_new_key_signs_at_once_where_the_only_one_that_could_was_deleted() {
    let world = rotating(|_, _| {});
    let client = world.acme_client();
    let stolen = Jwt::of(&client);
    assert_eq!(rotate(&world, Value::Null).status, 200);
    assert_eq!(keys(&world).len(), 2);
    let path = format!("/edge/signing-keys/{}?force=true", stolen.kid());
    assert_eq!(world.api("DELETE", &path, Value::Null).status, 204);
    // With the answer it is gone from everywhere, here.
    assert!(!kids(&jwks(&client)).contains(&stolen.kid()));
    eventually("a new key signs", || client.token().unwrap().status == 200);
    let [(kid, state)] = states(&world).try_into().unwrap();
    assert_eq!((state.as_str(), signer(&world)), ("SIGNING", kid));
    assert!(Jwt::of(&client).verifies(&jwks(&client)));

    // Where an older one is there, it signs on, and what waits goes on waiting.
    world.clock.advance(DAY);
    rotate(&world, Value::Null);
    world.clock.advance(HOUR);
    let second = signer(&world);
    rotate(&world, Value::Null);
    let path = format!("/edge/signing-keys/{second}?force=true");
    assert_eq!(world.api("DELETE", &path, Value::Null).status, 204);
    let mut now: Vec<String> = states(&world).into_iter().map(|(_, state)| state).collect();
    now.sort();
    assert_eq!(now, ["PUBLISHED", "SIGNING"]);
    assert_ne!(signer(&world), second);
}

#[test]
fn each_algorithm_rotates_by_itself() {
    let world = rotating(|_, config| {
        config.tokens =
            "{ rotation: { secret_file: keys.secret, algorithms: [es256, rs256] } }".into();
        config.acme("tokens: { algorithm: rs256 }");
    });
    let (acme, globex) = (Jwt::of(&world.acme_client()), Jwt::of(&world.globex_client()));
    assert_eq!((&acme.header["alg"], &globex.header["alg"]), (&"RS256".into(), &"ES256".into()));
    let rotated = rotate(&world, json!({ "algorithm": "RS256" }));
    assert_eq!(listed(&rotated).len(), 3);
    world.clock.advance(HOUR);
    let (new_acme, new_globex) = (Jwt::of(&world.acme_client()), Jwt::of(&world.globex_client()));
    assert_eq!(new_acme.header["alg"], "RS256");
    assert_ne!(new_acme.kid(), acme.kid());
    assert_eq!(new_globex.kid(), globex.kid());
    let jwks = jwks(&world.acme_client());
    assert!([acme, globex, new_acme, new_globex].iter().all(|token| token.verifies(&jwks)));
}

/// Such a node cannot sign, says so, and disturbs nobody: it founds no second set of keys.
#[test]
fn a_node_with_another_secret_signs_nothing_and_makes_no_keys() {
    let world = rotating(|world, _| at_present(world, 0));
    let known = keys(&world);
    let configure = |tokens: &str| {
        world.configure(&Config {
            tokens: tokens.into(),
            log: "{ format: json }".into(),
            ..Config::default()
        });
    };
    world.write_secret("other.secret", &random_secret());
    configure("{ rotation: { secret_file: other.secret } }");
    {
        let node = Process::run(&world);
        let client = node.acme_client(&world);
        assert_eq!(client.token().unwrap().status, 503);
        assert_eq!(client.get("/.well-known/jwks.json").unwrap().json(), json!({ "keys": [] }));
        let rotated = node.operator().ask("POST", "/edge/signing-keys/rotate", json!({})).status;
        assert!(rotated >= 400, "{rotated}");
        let faults = node.events("portcullis::keys");
        let told = faults.iter().filter_map(|event| event["fault"].as_str());
        assert!(
            told.into_iter().any(|text| text.contains(&known[0].kid) && text.contains("secret")),
            "{faults:?}"
        );
        assert_eq!(keys(&world), known);
        assert_eq!(signer(&world), known[0].kid);
    }
    // With the secret of the others it is one of them.
    configure(ROTATION);
    let node = Process::run(&world);
    let token = Jwt::of(&node.acme_client(&world));
    assert_eq!(token.kid(), known[0].kid);
    assert!(token.verifies(&jwks(&world.acme_client())));
    assert_eq!(keys(&world), known);
}

#[test]
fn a_tenant_with_keys_of_its_own_takes_no_part_in_the_rotation() {
    let world = rotating(|world, config| {
        world.write_key("own.key", &Key::p256());
        config.acme("tokens: { signing_keys: [{ kid: own, file: own.key }] }");
    });
    rotate(&world, Value::Null);
    world.clock.advance(HOUR);
    let acme = world.acme_client();
    assert_eq!(kids(&jwks(&acme)), ["own"]);
    assert_eq!(Jwt::of(&acme).kid(), "own");
    eventually("the others' keys are two", || kids(&jwks(&world.globex_client())).len() == 2);
}
