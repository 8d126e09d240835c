use std::collections::HashSet;
use std::sync::Barrier;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use boring::bn::BigNum;
use boring::ec::{EcGroup, EcKey};
use boring::ecdsa::EcdsaSig;
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::{PKey, Private};
use boring::rsa::Rsa;
use boring::sha::sha256;
use boring::sign::Verifier;
use boring::symm::Cipher;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Value, json};

use super::*;
use crate::trust::{StaleCrl, TrustMaterial, TrustStore};

const START: UnixSeconds = 1_800_000_000;

/// One device's request, with everything in it free to be changed.
struct World {
    clock: Clock,
    service: TokenService,
    tenant: TenantId,
    device: DeviceId,
    leaf_sha256: [u8; 32],
    epoch: Epoch,
    settings: TokenSettings,
    keys: SigningKeys,
}

impl World {
    fn new() -> World {
        World::with_keys(SigningKeys::load(vec![("k1".into(), pem(&p256()))]).unwrap())
    }

    fn with_keys(keys: SigningKeys) -> World {
        let clock = Clock::manual(START);
        World {
            service: TokenService::new(1000, clock.clone()),
            clock,
            tenant: TenantId::parse("acme").unwrap(),
            device: DeviceId::parse("device-001").unwrap(),
            leaf_sha256: [7; 32],
            epoch: epoch(StaleCrl::Refuse),
            settings: TokenSettings {
                issuer: "acme.iot.example.com".into(),
                audience: "acme.iot.example.com".into(),
                lifespan: 3600,
                algorithm: Algorithm::Es256,
                bind_certificate: false,
                response_type: ResponseType::Vendor,
                oauth_issuer: None,
            },
            keys,
        }
    }

    fn try_token(&self) -> Result<Issued, TokenFault> {
        self.service.token(&self.request())
    }

    fn request(&self) -> TokenRequest<'_> {
        TokenRequest {
            tenant: &self.tenant,
            device: &self.device,
            leaf_sha256: &self.leaf_sha256,
            epoch: &self.epoch,
            settings: &self.settings,
            keys: &self.keys,
        }
    }

    fn token(&self) -> Issued {
        self.try_token().unwrap()
    }

    fn access(&self) -> IssuedAccess {
        self.service.access_token(&self.request()).unwrap()
    }

    /// Gets a token, makes the change, and asks again: what comes must be new and current.
    fn renews_after(mut self, change: impl FnOnce(&mut World)) -> (Issued, Issued) {
        let before = self.token();
        assert!(!self.token().fresh);
        change(&mut self);
        let after = self.token();
        assert!(after.fresh);
        assert_ne!(before.token.jwt(), after.token.jwt());
        assert_eq!(self.token().token.jwt(), after.token.jwt());
        (before, after)
    }
}

/// Two stores that differ in their policy differ in their epoch.
pub(super) fn epoch(stale_crl: StaleCrl) -> Epoch {
    let material = TrustMaterial { stale_crl, ..TrustMaterial::default() };
    *TrustStore::build(material).unwrap_or_else(|_| panic!("an empty store")).epoch()
}

fn ec(curve: Nid) -> PKey<Private> {
    let group = EcGroup::from_curve_name(curve).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

pub(super) fn p256() -> PKey<Private> {
    ec(Nid::X9_62_PRIME256V1)
}

pub(super) fn rsa(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

pub(super) fn pem(key: &PKey<Private>) -> Vec<u8> {
    key.private_key_to_pem_pkcs8().unwrap()
}

pub(super) fn part(jwt: &str, index: usize) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(jwt.split('.').nth(index).unwrap()).unwrap()
}

fn claims(issued: &Issued) -> Value {
    serde_json::from_slice(&part(issued.token.jwt(), 1)).unwrap()
}

#[test]
fn a_token_says_what_the_platform_expects_and_no_more() {
    let world = World::new();
    let issued = world.token();
    let header = String::from_utf8(part(issued.token.jwt(), 0)).unwrap();
    assert_eq!(header, r#"{"alg":"ES256","typ":"JWT","kid":"k1"}"#);

    let claims = claims(&issued);
    let names: HashSet<&str> = claims.as_object().unwrap().keys().map(String::as_str).collect();
    let expected =
        ["jti", "iss", "aud", "sub", "tci", "iat", "nbf", "exp", "tfa", "ten", "xsrfToken"];
    assert_eq!(names, HashSet::from(expected));
    assert_eq!(claims["iss"], "acme.iot.example.com");
    assert_eq!(claims["aud"], "acme.iot.example.com");
    assert_eq!(claims["sub"], "device_device-001");
    assert_eq!(claims["ten"], "acme");
    assert_eq!(claims["iat"], START);
    assert_eq!(claims["nbf"], START);
    assert_eq!(claims["exp"], START + 3600);
    assert_eq!(claims["tfa"], false);
    assert_eq!(issued.token.expires_at(), START + 3600);

    let uuid = claims["jti"].as_str().unwrap();
    let dashes: Vec<usize> = uuid.match_indices('-').map(|(at, _)| at).collect();
    assert_eq!((uuid.len(), &uuid[14..15], dashes), (36, "4", vec![8, 13, 18, 23]));
    assert!("89ab".contains(&uuid[19..20]));
    assert_ne!(claims["jti"], claims["tci"]);
    assert_eq!(claims["xsrfToken"].as_str().unwrap().len(), 20);

    let body = format!(r#"{{"accessToken":"{}"}}"#, issued.token.jwt());
    assert_eq!(issued.token.body(), body.as_bytes());
}

#[test]
fn an_access_token_names_its_client_and_is_always_bound() {
    let world = World::new();
    let access = world.access();
    assert!(access.fresh);
    let claims: Value = serde_json::from_slice(&part(access.token.jwt(), 1)).unwrap();
    assert_eq!(claims["client_id"], "device-001");
    assert_eq!(claims["sub"], "device_device-001");
    assert_eq!(claims["cnf"], json!({ "x5t#S256": URL_SAFE_NO_PAD.encode([7; 32]) }));
    let body: Value = serde_json::from_slice(&access.body()).unwrap();
    let expected = json!({
        "access_token": access.token.jwt(), "token_type": "Bearer", "expires_in": 3600
    });
    assert_eq!(body, expected);
}

#[test]
fn an_access_token_has_a_half_life_of_its_own_and_tells_what_is_left() {
    let mut world = World::new();
    let device = world.token();
    world.clock.advance(1000);
    let first = world.access();
    assert_ne!(first.token.jwt(), device.token.jwt());
    assert!(Arc::ptr_eq(&world.token().token, &device.token));
    world.clock.advance(1799);
    let again = world.access();
    assert!(Arc::ptr_eq(&first.token, &again.token) && !again.fresh);
    assert_eq!((first.expires_in, again.expires_in), (3600, 1801));
    assert!(world.token().fresh, "the device's token is past its half");
    assert!(Arc::ptr_eq(&world.access().token, &first.token));
    // Binding device tokens does not touch access tokens, which are bound anyway.
    world.settings.bind_certificate = true;
    assert!(!world.access().fresh);
    world.clock.advance(1);
    assert!(world.access().fresh);
    world.leaf_sha256 = [8; 32];
    assert!(world.access().fresh);
    world.service.forget(&world.tenant, &world.device);
    assert!(world.access().fresh && world.token().fresh);
}

#[test]
fn a_bound_token_names_the_leaf() {
    let mut world = World::new();
    world.settings.bind_certificate = true;
    let expected = json!({ "x5t#S256": URL_SAFE_NO_PAD.encode([7; 32]) });
    assert_eq!(claims(&world.token())["cnf"], expected);
}

#[test]
fn an_es256_token_verifies_with_the_public_key() {
    let key = p256();
    let world = World::with_keys(SigningKeys::load(vec![("k1".into(), pem(&key))]).unwrap());
    let issued = world.token();
    let (message, _) = issued.token.jwt().rsplit_once('.').unwrap();
    let signature = part(issued.token.jwt(), 2);
    assert_eq!(signature.len(), 64);
    let (r, s) = signature.split_at(32);
    let signature = EcdsaSig::from_private_components(
        BigNum::from_slice(r).unwrap(),
        BigNum::from_slice(s).unwrap(),
    )
    .unwrap();
    assert!(signature.verify(&sha256(message.as_bytes()), &key.ec_key().unwrap()).unwrap());
}

#[test]
fn an_rs256_token_verifies_with_the_public_key() {
    let key = rsa(2048);
    let mut world = World::with_keys(SigningKeys::load(vec![("k1".into(), pem(&key))]).unwrap());
    world.settings.algorithm = Algorithm::Rs256;
    let issued = world.token();
    assert!(part(issued.token.jwt(), 0).starts_with(br#"{"alg":"RS256""#));
    let (message, _) = issued.token.jwt().rsplit_once('.').unwrap();
    let signature = part(issued.token.jwt(), 2);
    let mut verifier = Verifier::new(MessageDigest::sha256(), &key).unwrap();
    assert!(verifier.verify_oneshot(&signature, message.as_bytes()).unwrap());
}

#[test]
fn the_published_key_set_verifies_tokens_and_holds_no_private_part() {
    install_crypto_provider();
    install_crypto_provider();
    let keys = vec![("ec".into(), pem(&p256())), ("rsa".into(), pem(&rsa(2048)))];
    let mut world = World::with_keys(SigningKeys::load(keys).unwrap());

    let jwks: Value = serde_json::from_slice(&world.keys.jwks()).unwrap();
    let members = |index: usize| -> HashSet<String> {
        jwks["keys"][index].as_object().unwrap().keys().cloned().collect()
    };
    let set = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<HashSet<_>>();
    assert_eq!(members(0), set(&["kty", "crv", "x", "y", "use", "alg", "kid"]));
    assert_eq!(members(1), set(&["kty", "n", "e", "use", "alg", "kid"]));
    assert_eq!(jwks["keys"][0]["x"].as_str().unwrap().len(), 43);
    assert_eq!(jwks["keys"][0]["y"].as_str().unwrap().len(), 43);
    assert_eq!(jwks["keys"][1]["e"], "AQAB");

    let parsed: JwkSet = serde_json::from_slice(&world.keys.jwks()).unwrap();
    for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
        world.settings.algorithm = algorithm;
        let issued = world.token();
        let header = jsonwebtoken::decode_header(issued.token.jwt()).unwrap();
        let key = DecodingKey::from_jwk(parsed.find(&header.kid.unwrap()).unwrap()).unwrap();
        let mut validation = Validation::new(header.alg);
        validation.set_audience(&["acme.iot.example.com"]);
        validation.set_issuer(&["acme.iot.example.com"]);
        jsonwebtoken::decode::<Value>(issued.token.jwt(), &key, &validation).unwrap();
    }
}

#[test]
fn the_verifier_takes_only_the_algorithm_of_the_key() {
    use jsonwebtoken::Algorithm::{ES256, HS256, RS256, RS512};
    install_crypto_provider();
    let (ec, rsa) = (p256(), rsa(2048));
    let rsa_public = rsa.rsa().unwrap();
    let ec_set = SigningKeys::load(vec![("k".into(), pem(&ec))]).unwrap();
    let ec_jwks: JwkSet = serde_json::from_slice(&ec_set.jwks()).unwrap();
    let ec_decoding = DecodingKey::from_jwk(&ec_jwks.keys[0]).unwrap();
    let rsa_decoding = DecodingKey::from_rsa_der(&rsa_public.public_key_to_der_pkcs1().unwrap());
    let rsa_encoding = EncodingKey::from_rsa_der(&rsa.private_key_to_der_pkcs8().unwrap());
    let ec_encoding = EncodingKey::from_ec_der(&ec.private_key_to_der_pkcs8().unwrap());

    let payload = json!({ "exp": u32::MAX });
    let by_rsa = jsonwebtoken::encode(&Header::new(RS256), &payload, &rsa_encoding).unwrap();
    let by_ec = jsonwebtoken::encode(&Header::new(ES256), &payload, &ec_encoding).unwrap();
    let decode = |jwt: &str, key: &DecodingKey, alg| {
        jsonwebtoken::decode::<Value>(jwt, key, &Validation::new(alg))
    };
    decode(&by_rsa, &rsa_decoding, RS256).unwrap();
    decode(&by_ec, &ec_decoding, ES256).unwrap();

    // Another algorithm of the same family, the other family, HMAC over a public key, none.
    for alg in [RS512, ES256, HS256] {
        assert!(jsonwebtoken::encode(&Header::new(alg), &payload, &rsa_encoding).is_err());
    }
    assert!(decode(&by_rsa, &ec_decoding, RS256).is_err());
    assert!(decode(&by_ec, &rsa_decoding, ES256).is_err());
    let (_, rest) = by_rsa.split_once('.').unwrap();
    for alg in ["HS256", "RS512", "PS256", "none", "NONE"] {
        let header = URL_SAFE_NO_PAD.encode(json!({ "alg": alg }).to_string());
        let forged = format!("{header}.{rest}");
        for asked in [RS256, RS512, HS256] {
            assert!(decode(&forged, &rsa_decoding, asked).is_err(), "{alg}");
        }
        assert!(decode(&format!("{header}.e30."), &rsa_decoding, RS256).is_err());
    }
    // A signature that is good, under a header that names another algorithm.
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS512"}"#);
    let (claims, _) = rest.split_once('.').unwrap();
    let message = format!("{header}.{claims}");
    let signature = crypto::PrivateKey::from_pem(&pem(&rsa)).unwrap().sign(message.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(signature.unwrap());
    assert!(decode(&format!("{message}.{signature}"), &rsa_decoding, RS512).is_err());

    let secret = DecodingKey::from_secret(&rsa.public_key_to_der().unwrap());
    assert!(decode(&by_rsa, &secret, RS256).is_err());
    assert!(decode(&by_rsa, &secret, HS256).is_err());
}

#[test]
fn a_changed_or_misshapen_signature_is_refused_and_leaves_no_error_behind() {
    install_crypto_provider();
    let key = p256();
    let encoding = EncodingKey::from_ec_der(&key.private_key_to_der_pkcs8().unwrap());
    let set = SigningKeys::load(vec![("k".into(), pem(&key))]).unwrap();
    let jwks: JwkSet = serde_json::from_slice(&set.jwks()).unwrap();
    let decoding = DecodingKey::from_jwk(&jwks.keys[0]).unwrap();
    let header = Header::new(jsonwebtoken::Algorithm::ES256);
    let jwt = jsonwebtoken::encode(&header, &json!({ "exp": u32::MAX }), &encoding).unwrap();
    let (message, _) = jwt.rsplit_once('.').unwrap();
    let good = part(&jwt, 2);
    let mut changed = good.clone();
    changed[40] ^= 1;
    let der = EcdsaSig::sign(&sha256(message.as_bytes()), &key.ec_key().unwrap())
        .unwrap()
        .to_der()
        .unwrap();
    for bad in [changed, vec![0; 64], vec![255; 64], vec![], good[..63].to_vec(), der] {
        let forged = format!("{message}.{}", URL_SAFE_NO_PAD.encode(bad));
        let validation = Validation::new(jsonwebtoken::Algorithm::ES256);
        let fault = jsonwebtoken::decode::<Value>(&forged, &decoding, &validation).unwrap_err();
        assert!(matches!(fault.kind(), ErrorKind::InvalidSignature));
        assert!(ErrorStack::get().errors().is_empty());
    }
}

#[test]
fn a_token_is_given_again_until_half_of_its_life_has_passed() {
    let world = World::new();
    let first = world.token();
    assert!(first.fresh);
    world.clock.advance(1799);
    let again = world.token();
    assert!(!again.fresh);
    assert!(Arc::ptr_eq(&first.token, &again.token));
    world.clock.advance(1);
    let second = world.token();
    assert!(second.fresh);
    assert_eq!(second.token.expires_at(), START + 1800 + 3600);
    world.clock.advance(1799);
    assert!(!world.token().fresh);
    world.clock.advance(1);
    assert!(world.token().fresh);
}

#[test]
fn half_of_an_odd_lifespan_is_not_rounded_down() {
    let mut world = World::new();
    world.settings.lifespan = 301;
    assert!(world.token().fresh);
    world.clock.advance(150);
    assert!(!world.token().fresh);
    world.clock.advance(1);
    assert!(world.token().fresh);
}

#[test]
fn a_clock_that_is_set_back_makes_a_token_that_is_valid_now() {
    let world = World::new();
    world.token();
    world.clock.advance(-1);
    let issued = world.token();
    assert!(issued.fresh);
    assert_eq!(claims(&issued)["nbf"], START - 1);
}

#[test]
fn another_leaf_gets_a_new_token() {
    World::new().renews_after(|world| world.leaf_sha256 = [8; 32]);
}

#[test]
fn another_trust_epoch_gets_a_new_token() {
    World::new().renews_after(|world| world.epoch = epoch(StaleCrl::Accept));
}

#[test]
fn another_lifespan_gets_a_new_token() {
    let (_, after) = World::new().renews_after(|world| world.settings.lifespan = 300);
    assert_eq!(after.token.expires_at(), START + 300);
}

#[test]
fn changed_settings_get_a_new_token() {
    World::new().renews_after(|world| world.settings.issuer = "b.example.com".into());
    World::new().renews_after(|world| world.settings.audience = "b.example.com".into());
    World::new().renews_after(|world| world.settings.bind_certificate = true);
    let keys = vec![("ec".into(), pem(&p256())), ("rsa".into(), pem(&rsa(2048)))];
    World::with_keys(SigningKeys::load(keys).unwrap())
        .renews_after(|world| world.settings.algorithm = Algorithm::Rs256);
}

#[test]
fn the_media_type_of_the_answer_does_not_change_the_token() {
    let mut world = World::new();
    world.token();
    world.settings.response_type = ResponseType::Json;
    assert!(!world.token().fresh);
}

#[test]
fn a_rotated_key_signs_new_tokens_and_a_withdrawn_one_ends_its_own() {
    let (old, new) = (pem(&p256()), pem(&p256()));
    let mut world = World::with_keys(SigningKeys::load(vec![("old".into(), old.clone())]).unwrap());
    let first = world.token();
    let both = vec![("new".into(), new.clone()), ("old".into(), old)];
    world.keys = SigningKeys::load(both).unwrap();
    assert!(!world.token().fresh, "the old key is still published");
    world.keys = SigningKeys::load(vec![("new".into(), new)]).unwrap();
    let second = world.token();
    assert!(second.fresh);
    assert!(part(first.token.jwt(), 0).ends_with(br#""kid":"old"}"#));
    assert!(part(second.token.jwt(), 0).ends_with(br#""kid":"new"}"#));
}

#[test]
fn a_kid_that_names_another_key_gets_a_new_token() {
    World::new().renews_after(|world| {
        world.keys = SigningKeys::load(vec![("k1".into(), pem(&p256()))]).unwrap();
    });
}

#[test]
fn one_device_id_in_two_tenants_is_two_devices() {
    let mut world = World::new();
    let acme = world.token();
    world.tenant = TenantId::parse("umbrella").unwrap();
    let umbrella = world.token();
    assert!(umbrella.fresh);
    assert_eq!(claims(&umbrella)["ten"], "umbrella");
    world.tenant = TenantId::parse("acme").unwrap();
    assert!(Arc::ptr_eq(&world.token().token, &acme.token));
}

#[test]
fn names_that_run_together_are_two_devices() {
    let id = |text| DeviceId::parse(text).unwrap();
    let tenant = |text| TenantId::parse(text).unwrap();
    assert_ne!(
        cache_key(Kind::Device, &tenant("ab"), &id("c")),
        cache_key(Kind::Device, &tenant("a"), &id("bc"))
    );
}

#[test]
fn a_forgotten_device_gets_a_new_token() {
    World::new().renews_after(|world| world.service.forget(&world.tenant, &world.device));
}

#[test]
fn concurrent_requests_of_one_device_get_one_token() {
    let world = World::new();
    let start = Barrier::new(8);
    // Many rounds, so that some of them do collide.
    for _ in 0..200 {
        world.service.forget(&world.tenant, &world.device);
        let issued: Vec<Issued> = std::thread::scope(|scope| {
            let ask = || {
                start.wait();
                world.token()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let tokens: HashSet<&str> = issued.iter().map(|issued| issued.token.jwt()).collect();
        assert_eq!(tokens.len(), 1);
        assert_eq!(issued.iter().filter(|issued| issued.fresh).count(), 1);
    }
}

#[test]
fn ten_thousand_devices_stay_within_the_capacity() {
    let mut world = World::new();
    for index in 0..10_000 {
        world.device = DeviceId::parse(&format!("device-{index}")).unwrap();
        world.token();
    }
    world.service.current.run_pending_tasks();
    assert!(world.service.current.entry_count() <= 1000);
    assert!(!world.token().fresh, "the last one is remembered");
}

#[test]
fn a_lifespan_under_the_minimum_is_refused() {
    let mut world = World::new();
    world.settings.lifespan = 299;
    assert!(matches!(world.try_token(), Err(TokenFault::LifespanTooShort(299))));
}

#[test]
fn an_algorithm_without_a_key_is_refused() {
    let mut world = World::new();
    world.settings.algorithm = Algorithm::Rs256;
    assert!(matches!(world.try_token(), Err(TokenFault::NoSigningKey(Algorithm::Rs256))));
    let none = SigningKeys::load(vec![]).unwrap();
    assert!(none.is_empty());
    assert_eq!(none.jwks(), r#"{"keys":[]}"#);
}

#[test]
fn keys_are_read_in_every_usual_form() {
    let (ec, rsa) = (p256(), rsa(2048));
    let forms = [
        ("ec-pkcs8", pem(&ec)),
        ("ec-sec1", ec.ec_key().unwrap().private_key_to_pem().unwrap()),
        ("rsa-pkcs8", pem(&rsa)),
        ("rsa-pkcs1", rsa.rsa().unwrap().private_key_to_pem().unwrap()),
    ];
    let keys = SigningKeys::load(forms.map(|(kid, pem)| (kid.into(), pem)).to_vec()).unwrap();
    assert!(keys.has(Algorithm::Es256) && keys.has(Algorithm::Rs256));
    assert!(keys.publishes("rsa-pkcs1") && !keys.publishes("rsa"));
}

#[test]
fn every_fault_of_a_key_list_is_told_at_once() {
    let good = pem(&p256());
    let encrypted =
        p256().private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), b"x").unwrap();
    let long = "k".repeat(65);
    let keys: Vec<(String, Vec<u8>)> = vec![
        ("ok.1_A-z".into(), good.clone()),
        ("p384".into(), pem(&ec(Nid::SECP384R1))),
        ("rsa-1024".into(), pem(&rsa(1024))),
        ("ed25519".into(), pem(&PKey::generate(boring::pkey::Id::ED25519).unwrap())),
        ("public".into(), p256().public_key_to_pem().unwrap()),
        ("encrypted".into(), encrypted),
        ("empty".into(), vec![]),
        ("ok.1_A-z".into(), good.clone()),
        ("".into(), good.clone()),
        (long, good.clone()),
        ("../k".into(), good.clone()),
        ("k\"".into(), good),
    ];
    let faults = SigningKeys::load(keys).unwrap_err();
    use KeyFault::*;
    let expected = [
        (1, Unsupported),
        (2, Unsupported),
        (3, Unsupported),
        (4, Unreadable),
        (5, Unreadable),
        (6, Unreadable),
        (7, DuplicateKid { first: 0 }),
        (8, BadKid),
        (9, BadKid),
        (10, BadKid),
        (11, BadKid),
    ];
    assert_eq!(faults, expected);
}

#[test]
fn nothing_secret_is_shown_by_debug() {
    let world = World::new();
    let issued = world.token();
    let shown = format!("{:?} {issued:?}", world.keys);
    assert!(shown.contains("k1"));
    assert!(!shown.contains(issued.token.jwt()));
    assert!(shown.len() < 300, "{shown}");
}
