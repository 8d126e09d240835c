use boring::bn::BigNum;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::JwkSet;

use super::*;
use crate::clock::Clock;
use crate::names::{DeviceId, TenantId};
use crate::token::tests::epoch;
use crate::token::{
    Bearer, Bearers, ResponseType, TokenFault, TokenRequest, TokenService, TokenSettings,
};
use crate::trust::StaleCrl;

pub(super) const START: UnixSeconds = 1_800_000_000;
/// Seconds: 60 of staleness, and what must be added to them.
pub(super) const PUBLISH_FOR: u64 = 420;
pub(super) const LIFESPAN: u32 = 1_200;

fn secret() -> KeySecret {
    KeySecret::from_bytes(b"0123456789abcdef0123456789abcdef").unwrap()
}

fn other_secret() -> KeySecret {
    KeySecret::from_bytes(b"0123456789abcdef0123456789abcdeF").unwrap()
}

/// One algorithm, rotated every hour.
fn settings() -> RotationSettings {
    RotationSettings {
        every: Duration::from_secs(3_600),
        publish_for: Duration::from_secs(PUBLISH_FOR),
        algorithms: vec![Algorithm::Es256],
        retain: Duration::from_secs(u64::from(LIFESPAN) + 60),
    }
}

pub(super) fn ring(rows: &[SealedKey]) -> KeyRing {
    let (ring, faults) = KeyRing::build(rows, &secret(), settings());
    assert_eq!(faults, []);
    ring
}

/// Rows as the schedule makes them, asked each 10 s until `end`.
fn scheduled(end: UnixSeconds) -> Vec<SealedKey> {
    let mut rows = Vec::new();
    let mut now = START;
    while now <= end {
        rows.extend(ring(&rows).due(now).unwrap().into_iter().map(|new| new.row));
        now += 10;
    }
    rows
}

pub(super) fn signer(keys: &SigningKeys, now: UnixSeconds) -> Option<String> {
    keys.signing(Algorithm::Es256, now).map(|key| key.kid().to_string())
}

fn states(rows: &[SealedKey], now: UnixSeconds) -> Vec<KeyState> {
    let states = ring(rows).states(now);
    rows.iter()
        .filter_map(|row| states.iter().find(|status| *status.kid == *row.kid))
        .map(|status| status.state)
        .collect()
}

#[test]
fn a_key_is_published_signs_retires_and_goes() {
    let rows = scheduled(START + 3_600);
    let [first, second] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((first.published_at, first.sign_from), (START, START));
    assert_eq!(second.published_at, START + 3_600 - 420);
    assert_eq!(second.sign_from, START + 3_600);

    use KeyState::*;
    let rows = rows.as_slice();
    assert_eq!(states(&rows[..1], START), [Signing]);
    assert_eq!(states(rows, second.sign_from - 1), [Signing, Published]);
    assert_eq!(states(rows, second.sign_from), [Retired, Signing]);
    let end = second.sign_from + i64::from(LIFESPAN) + 60;
    assert_eq!(states(rows, end - 1), [Retired, Signing]);
    assert_eq!(ring(rows).expired(end - 1), [""; 0]);
    assert_eq!(states(rows, end), [Signing]);
    assert_eq!(ring(rows).expired(end), std::slice::from_ref(&first.kid));
    assert!(!ring(rows).signing_keys(end).publishes(&first.kid));
    assert_eq!(ring(rows).states(START)[1].retires_at, Some(end));
    assert_eq!(ring(rows).states(START)[0].retires_at, None);
    // Left alone for years, the last key stays.
    assert_eq!(states(rows, START + 100_000_000), [Signing]);
}

#[test]
fn a_kid_tells_when_and_which_and_is_fit_for_a_key_set() {
    let row = ring(&[]).due(START).unwrap().remove(0).row;
    let hex = row.kid.strip_prefix("k-1800000000-").unwrap();
    let opened = secret().open(&row).unwrap();
    let hash = BigNum::from_slice(&opened.public_sha256()[..4]).unwrap().to_hex_str().unwrap();
    assert_eq!((hex.len(), hex), (8, hash.to_lowercase().as_str()));
}

#[test]
fn the_time_of_the_next_change_misses_none() {
    let rows = scheduled(START + 7_200);
    let ring = ring(&rows);
    let view = |now| {
        let kids: Vec<_> = ring.states(now).into_iter().map(|key| (key.kid, key.state)).collect();
        (kids, ring.due(now).unwrap().len(), ring.expired(now))
    };
    let (mut now, mut changes) = (START - 10, 0);
    while let Some(next) = ring.next_change(now) {
        assert!(next > now);
        assert_eq!(view(now), view(next - 1), "between {now} and {next}");
        (now, changes) = (next, changes + 1);
    }
    assert!(changes >= 6, "{changes}");
    assert_eq!(view(now), view(now + 1_000_000));
}

#[test]
fn a_key_that_took_too_long_to_be_written_is_not() {
    let new = ring(&[]).due(START).unwrap().remove(0);
    assert!(new.usable(START) && new.usable(START + 30));
    assert!(!new.usable(START + 31) && !new.usable(START - 1));
}

/// A service over a ring, with one device.
struct Signing {
    clock: Clock,
    service: TokenService,
    bearers: Bearers,
    settings: TokenSettings,
    tenant: TenantId,
    device: DeviceId,
}

impl Signing {
    fn new() -> Signing {
        crate::token::install_crypto_provider();
        let clock = Clock::manual(START);
        Signing {
            service: TokenService::new(10, clock.clone()),
            bearers: Bearers::default(),
            clock,
            settings: TokenSettings {
                issuer: "acme.example.com".into(),
                audience: "acme.example.com".into(),
                lifespan: LIFESPAN,
                algorithm: Algorithm::Es256,
                bind_certificate: false,
                response_type: ResponseType::Vendor,
                oauth_issuer: None,
            },
            tenant: TenantId::parse("acme").unwrap(),
            device: DeviceId::parse("device-1").unwrap(),
        }
    }

    fn at(&self, now: UnixSeconds) -> &Signing {
        self.clock.advance(now - self.clock.now());
        self
    }

    fn token(&self, keys: &SigningKeys) -> Result<(String, bool), TokenFault> {
        let request = TokenRequest {
            tenant: &self.tenant,
            device: &self.device,
            leaf_sha256: &[7; 32],
            epoch: &epoch(StaleCrl::Refuse),
            settings: &self.settings,
            keys,
        };
        self.service.token(&request).map(|issued| (issued.token.jwt().into(), issued.fresh))
    }

    /// Both as this edge judges and as a verifier does that has fetched the key set.
    fn verifies(&self, jwt: &str, keys: &SigningKeys) -> bool {
        let now = self.clock.now();
        let judged = self.bearers.check(jwt, keys, &self.settings, &self.tenant, None, now);
        let set: JwkSet = serde_json::from_slice(&keys.jwks()).unwrap();
        let header = jsonwebtoken::decode_header(jwt).unwrap();
        let by_set = set.find(&header.kid.unwrap()).is_some_and(|jwk| {
            let (message, signature) = jwt.rsplit_once('.').unwrap();
            let key = DecodingKey::from_jwk(jwk).unwrap();
            jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key, header.alg).unwrap()
        });
        matches!(judged, Bearer::Ours(_)) && by_set
    }
}

#[test]
fn a_token_of_any_key_verifies_until_it_expires() {
    let rows = scheduled(START + 4 * 3_600);
    let ring = ring(&rows);
    let world = Signing::new();
    let mut tokens: Vec<(String, UnixSeconds)> = Vec::new();
    let mut kids = HashSet::new();
    for now in (START..START + 5 * 3_600).step_by(60) {
        let keys = ring.signing_keys(now);
        world.at(now).service.forget(&world.tenant, &world.device);
        let (jwt, fresh) = world.token(&keys).unwrap();
        assert!(fresh);
        kids.insert(signer(&keys, now).unwrap());
        tokens.push((jwt, now + i64::from(LIFESPAN)));
        tokens.retain(|(_, ends)| *ends > now);
        for (jwt, _) in &tokens {
            assert!(world.verifies(jwt, &keys), "at {}", now - START);
        }
    }
    assert_eq!(kids.len(), 5);
}

#[test]
fn the_current_token_is_given_again_until_half_life_across_a_rotation() {
    let rows = scheduled(START + 3_600);
    let ring = ring(&rows);
    let world = Signing::new();
    let change = START + 3_600;
    let before = world.at(change - 60).token(&ring.signing_keys(change - 60)).unwrap();
    assert!(before.1);
    for now in [change, change + 539] {
        let again = world.at(now).token(&ring.signing_keys(now)).unwrap();
        assert_eq!(again, (before.0.clone(), false));
    }
    let after = world.at(change + 540).token(&ring.signing_keys(change + 540)).unwrap();
    assert!(after.1);
    let kid = |jwt: &str| jsonwebtoken::decode_header(jwt).unwrap().kid.unwrap();
    assert_eq!((kid(&before.0), kid(&after.0)), (rows[0].kid.clone(), rows[1].kid.clone()));

    // A key that is deleted takes its tokens with it.
    let again = world.token(&ring.signing_keys(change + 540)).unwrap();
    assert!(!again.1);
    let (only_first, _) = KeyRing::build(&rows[..1], &secret(), settings());
    assert!(world.token(&only_first.signing_keys(change + 540)).unwrap().1);
}

#[test]
fn a_clock_that_is_set_back_signs_with_an_older_key_or_none() {
    let rows = scheduled(START + 3_600);
    let ring = ring(&rows);
    let world = Signing::new();
    let keys = ring.signing_keys(START + 3_600);
    assert_eq!(signer(&keys, START + 3_600), Some(rows[1].kid.clone()));
    // The same set, and one that is made after the clock has moved.
    for keys in [&keys, &ring.signing_keys(START + 1_000)] {
        assert_eq!(signer(keys, START + 1_000), Some(rows[0].kid.clone()));
        assert_eq!(signer(keys, START - 1), None);
    }
    let refused = world.at(START - 1).token(&keys);
    assert!(matches!(refused, Err(TokenFault::NoSigningKey(Algorithm::Es256))));
    assert!(ring.due(START - 1_000_000).unwrap().is_empty(), "nor is a first key made again");
}

#[test]
fn an_early_key_does_not_sign_in_a_set_that_lives_on() {
    let rows = scheduled(START + 3_600);
    let keys = ring(&rows).signing_keys(START + 3_500);
    assert!(keys.publishes(&rows[1].kid));
    assert_eq!(signer(&keys, START + 3_599), Some(rows[0].kid.clone()));
    assert_eq!(signer(&keys, START + 3_600), Some(rows[1].kid.clone()));
}

#[test]
fn a_key_by_command_waits_like_every_other() {
    let mut rows = scheduled(START);
    let new = ring(&rows).rotate_now(Algorithm::Es256, START + 100).unwrap();
    assert_eq!((new.row.published_at, new.row.sign_from), (START + 100, START + 520));
    assert_eq!(new.unless_published_since, START + 1);
    rows.push(new.row);
    // The schedule counts from it.
    assert!(ring(&rows).due(START + 3_700 - 1).unwrap().is_empty());
    assert_eq!(ring(&rows).due(START + 3_700).unwrap().len(), 1);
}

#[test]
fn the_only_key_that_can_sign_is_deleted_together_with_those_that_wait() {
    let mut rows = scheduled(START);
    let first = rows[0].kid.clone();
    rows.push(ring(&rows).rotate_now(Algorithm::Es256, START + 100).unwrap().row);
    let second = rows[1].kid.clone();
    let now = START + 519;
    let with = |ring: KeyRing, kid: &str, now| ring.with(kid, now).join(" ");
    assert_eq!(with(ring(&rows), &first, now), format!("{first} {second}"));
    assert_eq!(with(ring(&rows), &second, now), second);
    assert_eq!(with(ring(&rows), "nobody's", now), "nobody's");
    // A file's key signs on; and so does the first one once it is the older one.
    assert_eq!(with(ring(&rows).beside(vec![Algorithm::Es256]), &first, now), first);
    assert_eq!(with(ring(&rows), &second, now + 1), second);
    assert_eq!(with(ring(&rows), &first, now + 1), first);
}

#[test]
fn each_algorithm_has_its_own_keys() {
    let both =
        RotationSettings { algorithms: vec![Algorithm::Es256, Algorithm::Rs256], ..settings() };
    let (empty, _) = KeyRing::build(&[], &secret(), both.clone());
    let rows: Vec<SealedKey> = empty.due(START).unwrap().into_iter().map(|new| new.row).collect();
    assert_eq!(rows.len(), 2);
    let (ring, faults) = KeyRing::build(&rows, &secret(), both);
    assert_eq!(faults, []);
    let keys = ring.signing_keys(START);
    for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
        assert_eq!(keys.signing(algorithm, START).unwrap().algorithm(), algorithm);
    }
    assert!(ring.states(START).iter().all(|key| key.state == KeyState::Signing));
    let jwks: serde_json::Value = serde_json::from_slice(&keys.jwks()).unwrap();
    let rsa = jwks["keys"].as_array().unwrap().iter().find(|key| key["kty"] == "RSA").unwrap();
    assert_eq!(rsa["n"].as_str().unwrap().len(), 342, "2048 bits");
}

#[test]
fn a_row_of_another_secret_is_told_and_not_used() {
    let rows = scheduled(START);
    let (ring, faults) = KeyRing::build(&rows, &other_secret(), settings());
    assert_eq!(faults, [KeyRingFault { kid: rows[0].kid.clone(), reason: RowFault::DoesNotOpen }]);
    assert!(ring.signing_keys(START).is_empty() && ring.states(START).is_empty());
    // It founds no second set of keys beside that of the other nodes.
    assert!(ring.due(START + 1_000_000).unwrap().is_empty());
    assert!(matches!(
        ring.rotate_now(Algorithm::Es256, START),
        Err(RotationFault::Closed(Algorithm::Es256))
    ));
    assert!(ring.expired(i64::MAX).is_empty());
    assert!(faults[0].to_string().contains("another secret"));
}

#[test]
fn no_key_is_made_where_a_newer_row_does_not_open() {
    let mut rows = scheduled(START);
    let late = START + 1_000_000;
    assert_eq!(ring(&rows).due(late).unwrap().len(), 1);
    // What a node with another secret has written, or this node with the wrong one finds.
    let closed = |published_at, sign_from| {
        other_secret().new_key(Algorithm::Es256, published_at, sign_from).unwrap()
    };
    let build = |rows: &[SealedKey]| KeyRing::build(rows, &secret(), settings()).0;
    rows.push(closed(START + 1, START + 421));
    let blocked = build(&rows);
    assert!(blocked.due(late).unwrap().is_empty());
    let refused = blocked.rotate_now(Algorithm::Es256, late).unwrap_err();
    assert!(matches!(refused, RotationFault::Closed(Algorithm::Es256)));
    assert!(refused.to_string().contains("newest ES256 key"), "{refused}");
    assert_eq!(blocked.next_change(START), None, "nor is one looked for later");
    // The older key serves on.
    assert_eq!(signer(&blocked.signing_keys(late), late), Some(rows[0].kid.clone()));
    assert_eq!(blocked.expired(late), [""; 0]);
    // The newest of the closed rows counts, in whatever order they come.
    rows.push(closed(START - 1, START + 500));
    assert!(build(&rows).due(late).unwrap().is_empty());
    rows.push(closed(START - 2, START - 2));
    assert!(build(&rows).due(late).unwrap().is_empty());
    // With a key after it all goes on.
    rows.push(secret().new_key(Algorithm::Es256, START + 1, START + 421).unwrap());
    let made = build(&rows).due(late).unwrap().remove(0);
    assert_eq!(made.unless_published_since, START + 2, "the registry would take it");
    assert_eq!(made.row.sign_from, late + 420);
    assert_eq!(build(&rows).next_change(START + 422), Some(START + 421 + 1_260));
}

#[test]
fn an_older_row_that_does_not_open_holds_nothing_up() {
    let mut rows = scheduled(START);
    rows.push(other_secret().new_key(Algorithm::Es256, START, START + 421).unwrap());
    rows.push(other_secret().new_key(Algorithm::Es256, START - 1, START - 1).unwrap());
    // Nor does one of another algorithm.
    rows.push(SealedKey { algorithm: "RS256".into(), published_at: START + 9, ..rows[0].clone() });
    let (ring, faults) = KeyRing::build(&rows, &secret(), settings());
    assert_eq!(faults.len(), 3);
    assert!(ring.due(START + 3_180 - 1).unwrap().is_empty());
    assert_eq!(ring.next_change(START), Some(START + 3_180));
    assert_eq!(ring.due(START + 3_180).unwrap().len(), 1);
    assert!(ring.rotate_now(Algorithm::Es256, START).is_ok());
    assert!(ring.rotate_now(Algorithm::Rs256, START).is_err());
}

#[test]
fn a_row_that_was_changed_in_the_database_does_not_open() {
    let rows = scheduled(START + 3_600);
    let good = &rows[1];
    let open = |change: &dyn Fn(&mut SealedKey)| {
        let mut row = good.clone();
        change(&mut row);
        secret().open(&row).map(|_| ()).unwrap_err()
    };
    assert!(secret().open(good).is_ok());
    assert_eq!(open(&|row| row.sign_from -= 1), RowFault::DoesNotOpen);
    assert_eq!(open(&|row| row.published_at -= 1), RowFault::DoesNotOpen);
    assert_eq!(open(&|row| row.kid.push('x')), RowFault::DoesNotOpen);
    assert_eq!(open(&|row| row.algorithm = "RS256".into()), RowFault::DoesNotOpen);
    assert_eq!(open(&|row| row.sealed = rows[0].sealed.clone()), RowFault::DoesNotOpen);
    assert_eq!(open(&|row| row.algorithm = "HS256".into()), RowFault::UnknownAlgorithm);
    assert_eq!(open(&|row| row.kid = "../k".into()), RowFault::BadKid);
    for odd in ["", "A", "AA==", "AQ==", "!", &"A".repeat(100), &"A".repeat(16 * 1024 + 4)] {
        assert_eq!(open(&|row| row.sealed = odd.into()), RowFault::Unreadable, "{odd:.10}");
    }
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let bytes = STANDARD.decode(&good.sealed).unwrap();
    for at in [1, 12, 13, 60, bytes.len() - 17, bytes.len() - 16, bytes.len() - 1] {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        let fault = open(&|row| row.sealed = STANDARD.encode(&bytes));
        assert_eq!(fault, RowFault::DoesNotOpen, "octet {at}");
    }
    for kept in [29, bytes.len() - 15, bytes.len() - 1] {
        let fault = open(&|row| row.sealed = STANDARD.encode(&bytes[..kept]));
        assert_eq!(fault, RowFault::DoesNotOpen, "{kept} octets");
    }
}

#[test]
fn what_is_sealed_shows_no_key() {
    let row = ring(&[]).due(START).unwrap().remove(0).row;
    let again = ring(&[]).due(START).unwrap().remove(0).row;
    assert_ne!(row.sealed, again.sealed);
    assert!(!format!("{row:?}").contains(&row.sealed));
    // The start of every PKCS#8 structure of P-256, in the three alignments of base64.
    for plain in ["MIGHAgEAMBMG", "hwIBADATBgcq", "iHAgEAMBMGBy"] {
        assert!(!row.sealed.contains(plain));
    }
    let shown = format!("{:?}", ring(&[row]));
    assert!(shown.contains("k-1800000000-") && shown.len() < 100, "{shown}");
}

#[test]
fn odd_rows_are_told_without_odd_characters_and_the_rest_is_used() {
    let mut rows = scheduled(START);
    let good = rows[0].clone();
    rows.push(good.clone());
    rows.push(SealedKey { kid: "\x1b[31mk\r\n'".repeat(50), ..good.clone() });
    let (ring, faults) = KeyRing::build(&rows, &secret(), settings());
    assert_eq!(signer(&ring.signing_keys(START), START), Some(good.kid.clone()));
    let reasons: Vec<&RowFault> = faults.iter().map(|fault| &fault.reason).collect();
    assert_eq!(reasons, [&RowFault::BadKid, &RowFault::DuplicateKid]);
    let told = faults[0].to_string();
    assert!(!told.contains(['\x1b', '\r', '\n']) && told.len() < 250, "{told}");
}

#[test]
fn no_more_keys_are_used_or_made_than_the_bound() {
    let mut rows = scheduled(START);
    for n in 1..=MAX_KEYS as i64 {
        rows.push(secret().new_key(Algorithm::Es256, START + n, START + n).unwrap());
    }
    let (ring, faults) = KeyRing::build(&rows, &secret(), settings());
    assert_eq!(faults.len(), 1, "the oldest");
    assert_eq!(faults[0].kid, rows[0].kid);
    let now = START + MAX_KEYS as i64;
    assert_eq!(ring.states(now).len(), MAX_KEYS);
    let refused = ring.rotate_now(Algorithm::Es256, now);
    assert!(matches!(refused, Err(RotationFault::TooManyKeys)));
}

#[test]
fn odd_settings_and_times_make_no_panic() {
    let odd = RotationSettings {
        every: Duration::MAX,
        publish_for: Duration::MAX,
        algorithms: vec![Algorithm::Es256; 2],
        retain: Duration::MAX,
    };
    let mut rows = scheduled(START);
    rows.push(secret().new_key(Algorithm::Es256, i64::MAX, i64::MAX).unwrap());
    rows.push(secret().new_key(Algorithm::Es256, i64::MIN, i64::MIN).unwrap());
    let (ring, faults) = KeyRing::build(&rows, &secret(), odd);
    // The kid of a time before 1970 has a second dash, which is fine.
    assert_eq!(faults, []);
    for now in [i64::MIN, 0, START, i64::MAX] {
        ring.due(now).unwrap();
        let new = ring.rotate_now(Algorithm::Es256, now).unwrap();
        for then in [i64::MIN, 0, i64::MAX] {
            assert!(!new.usable(then) || then == now);
        }
        let published = ring.signing_keys(now);
        assert_eq!(ring.states(now).len() + ring.expired(now).len(), rows.len());
        assert!(published.has(Algorithm::Es256));
        assert!(ring.next_change(now).is_none_or(|next| next > now));
    }
}

#[test]
fn settings_that_would_break_a_promise_are_refused() {
    use RotationSettingsFault::*;
    let staleness = Duration::from_secs(60);
    let faults = |change: &dyn Fn(&mut RotationSettings)| {
        let mut settings = settings();
        change(&mut settings);
        settings.check(staleness).err().unwrap_or_default()
    };
    let seconds = Duration::from_secs;
    assert_eq!(faults(&|_| {}), []);
    assert_eq!(
        faults(&|settings| settings.publish_for = seconds(419)),
        [PublishedTooShortly { least: seconds(420) }]
    );
    assert_eq!(
        faults(&|settings| settings.every = seconds(420)),
        [RotatedTooOften { publish_for: seconds(420) }]
    );
    assert_eq!(
        faults(&|settings| settings.retain = seconds(359)),
        [RetainedTooShortly { least: seconds(360) }]
    );
    assert_eq!(
        faults(&|settings| settings.retain = seconds(3_600 * 25 + 25)),
        [TooManyKeys { most: 25, least: seconds(3_601) }]
    );
    assert_eq!(faults(&|settings| settings.algorithms.clear()), [Algorithms]);
    assert_eq!(faults(&|settings| settings.algorithms = vec![Algorithm::Es256; 2]), [Algorithms]);
    let all = faults(&|settings| {
        settings.algorithms.clear();
        (settings.publish_for, settings.every) = (seconds(1), seconds(1));
        settings.retain = seconds(100);
    });
    assert_eq!(all.len(), 5, "{all:?}");
    for fault in all {
        assert!(!fault.to_string().contains("Duration"), "{fault}");
    }
}

#[test]
fn a_secret_is_long_and_random() {
    use crate::token::KeySecretFault::*;
    let fault = |contents: &[u8]| KeySecret::from_bytes(contents).err();
    assert_eq!(fault(b""), Some(TooShort(0)));
    assert_eq!(fault(b"0123456789abcdef0123456789abcde"), Some(TooShort(31)));
    assert_eq!(fault(&[0; 64]), Some(NotRandom));
    assert_eq!(fault(&[1; 5_000]), Some(TooLong(5_000)));
    assert_eq!(fault(b"0123456789abcdef0123456789abcdef\n"), None);
}
