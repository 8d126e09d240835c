use super::*;
use crate::trust::testing::pki::{COMMON_NAME, Crl, Key, Minted, Template};
use crate::trust::testing::{self, NOT_AFTER, NOT_BEFORE, NOW, Pair, URI, with_sans};
use crate::trust::{Anchor, TrustMaterial};

fn store(pair: &Pair) -> TrustStore {
    let der = pair.root.clone();
    testing::store(vec![Anchor { der, auto_registration: true, ..Anchor::default() }])
}

#[test]
fn a_verified_chain_says_who_the_device_is_and_how_it_is_known() {
    let pair = Pair::mint("device-1", NOW + 500);
    let Verdict::Verified(chain) = store(&pair).verify(&[&pair.leaf], &[], NOW) else {
        panic!("not verified");
    };
    assert_eq!(chain.device().as_str(), "device-1");
    assert_eq!(chain.path(), [pair.leaf.clone(), pair.root.clone()]);
    assert_eq!(chain.leaf_sha256(), &sha256(&pair.leaf));
    assert_eq!(chain.anchor(), Some(&sha256(&pair.root)));
    assert!(chain.auto_registration());
    assert_eq!(chain.valid_until(), NOW + 500);
    let info = chain.leaf_info();
    assert_eq!(info.subject, "CN=device-1,O=Fleet");
    assert_eq!(info.issuer, "CN=Root\\, Inc.,O=Fleet");
    assert_eq!(info.serial_hex, "ABCDEF");
    assert_eq!((info.not_before, info.not_after), (NOW - 1_000, NOW + 500));
    assert_eq!(info.dns_names, ["device.example.com"]);
    assert_eq!(info.uris, ["urn:device:1"]);
}

#[test]
fn an_identity_is_exactly_one_common_name_that_is_a_device_id() {
    for common_names in ["", "a|b", "a b", "a:b", "../a", "a\u{202e}b", "a+b", "caf\u{e9}"] {
        let pair = Pair::mint(common_names, NOW + 500);
        let stranger = Pair::mint("device-1", NOW + 500);
        // Known issuer or not: it is no device either way.
        for store in [store(&pair), store(&stranger)] {
            match store.verify(&[&pair.leaf], &[], NOW) {
                Verdict::Refused(refused) => {
                    assert!(matches!(
                        refused.refusal,
                        Refusal::CertificateUnsupported | Refusal::CertificateMalformed
                    ));
                }
                _ => panic!("{common_names:?} was let through"),
            }
        }
    }
}

#[test]
fn reasons_name_the_certificate_and_the_date() {
    let pair = Pair::mint("device-1", NOW - 1);
    let Verdict::Refused(refused) = store(&pair).verify(&[&pair.leaf], &[], NOW) else {
        panic!("not refused");
    };
    assert_eq!(refused.refusal, Refusal::CertificateExpired);
    assert_eq!(
        refused.reason,
        "certificate 0 of the path (the end-entity): expired on 2027-01-15T07:59:59Z"
    );
}

#[test]
fn an_end_entity_without_its_issuer_is_undecided_until_the_issuer_comes() {
    let pair = Pair::mint("device-1", NOW + 500);
    let empty = TrustStore::build(TrustMaterial::default()).unwrap();
    assert!(empty.is_empty());
    assert!(matches!(empty.verify(&[&pair.leaf], &[], NOW), Verdict::Undecided(_)));
    assert!(matches!(empty.verify(&[&pair.leaf], &[&pair.root], NOW), Verdict::Undecided(_)));
    assert!(matches!(empty.verify(&[&pair.leaf], &[b"0"], NOW), Verdict::Refused(_)));
    assert!(matches!(empty.verify(&[], &[], NOW), Verdict::Refused(_)));
}

fn by(minted: &Minted, rule: &str) -> Anchor {
    let identity = IdentityRule::parse(rule).unwrap();
    Anchor { der: minted.der.clone(), identity, ..Anchor::default() }
}

fn verified(verdict: Verdict) -> Arc<VerifiedChain> {
    match verdict {
        Verdict::Verified(chain) => chain,
        Verdict::Undecided(refused) | Verdict::Refused(refused) => panic!("{refused}"),
    }
}

fn refusal(verdict: Verdict) -> Refused {
    match verdict {
        Verdict::Refused(refused) => refused,
        Verdict::Undecided(refused) => panic!("undecided: {refused}"),
        Verdict::Verified(_) => panic!("verified"),
    }
}

#[test]
fn each_anchor_names_its_devices_by_its_own_rule() {
    let (a, b) = (Template::ca("A").self_signed(), Template::ca("B").self_signed());
    let store = testing::store(vec![by(&a, "cn"), by(&b, "san_uri:urn:device:([a-z]+)")]);
    let leaf = with_sans(Template::device("by-cn"), &[(URI, b"urn:device:uri")]);
    for (issuer, anchor, expected) in [(&a, 0, "by-cn"), (&b, 1, "uri")] {
        let chain = verified(store.verify(&[&leaf.clone().signed_by(issuer).der], &[], NOW));
        let anchor = store.anchors().get(anchor).map(|anchor| &anchor.sha256);
        assert_eq!((chain.device().as_str(), chain.anchor()), (expected, anchor));
    }
    // What the one reads is nothing to the other.
    let no_name = with_sans(Template::device("a b"), &[(URI, b"urn:device:uri")]);
    verified(store.verify(&[&no_name.clone().signed_by(&b).der], &[], NOW));
    let refused = refusal(store.verify(&[&no_name.signed_by(&a).der], &[], NOW));
    assert_eq!(refused.refusal, Refusal::CertificateUnsupported);
    let refused = refusal(store.verify(&[&Template::device("d").signed_by(&b).der], &[], NOW));
    assert_eq!(refused.refusal, Refusal::CertificateUnsupported);
    assert_eq!(
        refused.reason,
        "the end-entity certificate: it has no URI (subject alternative name)"
    );
}

#[test]
fn an_end_entity_without_its_issuer_is_refused_only_where_no_anchor_could_name_it() {
    let (a, b) = (Template::ca("A").self_signed(), Template::ca("B").self_signed());
    let stranger = Template::ca("Stranger").self_signed();
    let nameless = Template::device("a b").signed_by(&stranger);
    let by_cn = testing::store(vec![by(&a, "cn"), by(&b, "cn")]);
    let refused = refusal(by_cn.verify(&[&nameless.der], &[], NOW));
    assert_eq!(refused.refusal, Refusal::CertificateUnsupported);
    for rule in ["serial", "san_dns", "cn:([a-z]) .*"] {
        let mixed = testing::store(vec![by(&a, "cn"), by(&b, rule)]);
        assert!(
            matches!(mixed.verify(&[&nameless.der], &[], NOW), Verdict::Undecided(_)),
            "{rule}"
        );
    }
    // Completed, it is held against the rule of its own anchor.
    let issuing = Template::ca("Issuing").signed_by(&a);
    let leaf = Template::device("a b").signed_by(&issuing);
    let mixed = testing::store(vec![by(&a, "cn"), by(&b, "serial")]);
    assert!(matches!(mixed.verify(&[&leaf.der], &[], NOW), Verdict::Undecided(_)));
    refusal(mixed.verify(&[&leaf.der], &[&issuing.der], NOW));
}

/// A root, an issuing CA with serial number 0x51, and devices 0x0A and 0x0B.
struct Fleet {
    root: Minted,
    issuing: Minted,
    first: Minted,
    second: Minted,
}

impl Fleet {
    fn mint() -> Fleet {
        let root = Template::ca("Root").serial(&[0x50]).self_signed();
        let issuing = Template::ca("Issuing").serial(&[0x51]).signed_by(&root);
        let first = Template::device("first").serial(&[0x0A]).signed_by(&issuing);
        let second = Template::device("second").serial(&[0x0B]).signed_by(&issuing);
        Fleet { root, issuing, first, second }
    }

    fn material(&self, revoked: &[&str]) -> TrustMaterial {
        TrustMaterial {
            anchors: vec![by(&self.root, "cn")],
            intermediates: vec![self.issuing.der.clone()],
            revoked_serials: revoked.iter().map(|serial| (*serial).to_owned()).collect(),
            ..TrustMaterial::default()
        }
    }

    fn refusal(&self, device: &Minted, revoked: &[&str]) -> Option<Refused> {
        match testing::build(self.material(revoked)).verify(&[&device.der], &[], NOW) {
            Verdict::Verified(_) => None,
            other => Some(refusal(other)),
        }
    }
}

#[test]
fn a_revoked_serial_number_refuses_that_end_entity_and_no_other() {
    let fleet = Fleet::mint();
    for spelling in ["A", "0a", "0000A"] {
        let refused = fleet.refusal(&fleet.first, &["1", spelling, "FFFF"]).unwrap();
        assert_eq!(refused.refusal, Refusal::CertificateRevoked);
        assert_eq!(refused.reason, "certificate 0 of the path (the end-entity): revoked");
        assert!(fleet.refusal(&fleet.second, &["1", spelling, "FFFF"]).is_none());
    }
    for other in ["A0", "0A00", "10A", "AA"] {
        assert!(fleet.refusal(&fleet.first, &[other]).is_none(), "{other}");
    }
}

#[test]
fn serial_numbers_of_every_length_are_found_among_many() {
    let root = Template::ca("Root").self_signed();
    let long = [0x7F; 20];
    let padded = [0x00, 0x80, 0x01];
    let many: Vec<String> = (1..2_000).map(|n| format!("{:X}", n * 7)).collect();
    let with = |extra: &str| {
        let mut material = TrustMaterial { anchors: vec![by(&root, "cn")], ..Default::default() };
        material.revoked_serials.extend(many.iter().cloned());
        material.revoked_serials.insert(extra.to_owned());
        testing::build(material)
    };
    let (other, long_hex) = ("ABCDEF01", "7F".repeat(20));
    for (octets, hex) in [(&long[..], long_hex.as_str()), (&padded, "8001")] {
        let leaf = Template::device("device-1").serial(octets).signed_by(&root);
        let refused = refusal(with(hex).verify(&[&leaf.der], &[], NOW));
        assert_eq!(refused.refusal, Refusal::CertificateRevoked);
        verified(with(other).verify(&[&leaf.der], &[], NOW));
    }
    // The first, one in the middle and the last of them.
    for n in [&[7][..], &[0x1B, 0x58], &[0x36, 0xA9]] {
        let leaf = Template::device("device-1").serial(n);
        let refused = refusal(with(other).verify(&[&leaf.signed_by(&root).der], &[], NOW));
        assert_eq!(refused.refusal, Refusal::CertificateRevoked, "{n:x?}");
    }
}

#[test]
fn one_row_revokes_the_same_serial_number_under_every_issuer() {
    let (a, b) = (Template::ca("A").self_signed(), Template::ca("B").self_signed());
    let material = |revoked: &str| TrustMaterial {
        anchors: vec![by(&a, "cn"), by(&b, "cn")],
        revoked_serials: [revoked.to_owned()].into(),
        ..TrustMaterial::default()
    };
    for issuer in [&a, &b] {
        let leaf = Template::device("device-1").serial(&[0x2A]).signed_by(issuer);
        let refused = refusal(testing::build(material("2A")).verify(&[&leaf.der], &[], NOW));
        assert_eq!(refused.refusal, Refusal::CertificateRevoked);
        verified(testing::build(material("2B")).verify(&[&leaf.der], &[], NOW));
    }
}

#[test]
fn a_revoked_intermediate_refuses_all_below_it_unless_another_path_avoids_it() {
    let fleet = Fleet::mint();
    for device in [&fleet.first, &fleet.second] {
        let refused = fleet.refusal(device, &["51"]).unwrap();
        assert_eq!(refused.refusal, Refusal::CertificateRevoked);
        assert_eq!(refused.reason, "certificate 1 of the path (an intermediate): revoked");
    }
    // The CA's certificate was issued anew for the same key.
    let renewed = Template::ca("Issuing").serial(&[0x52]).key(&fleet.issuing.key);
    let renewed = renewed.signed_by(&fleet.root);
    let store = testing::build(fleet.material(&["51"]));
    let chain = verified(store.verify(&[&fleet.first.der], &[&renewed.der], NOW));
    assert_eq!(chain.path()[1], renewed.der);
}

#[test]
fn no_anchor_is_revoked_by_a_serial_number() {
    let fleet = Fleet::mint();
    assert!(fleet.refusal(&fleet.first, &["50"]).is_none());
    // Nor an intermediate that is an anchor.
    let mut material = fleet.material(&["50", "51"]);
    material.anchors.push(by(&fleet.issuing, "cn"));
    let chain = verified(testing::build(material).verify(&[&fleet.first.der], &[], NOW));
    assert_eq!(chain.anchor(), Some(&sha256(&fleet.issuing.der)));
}

#[test]
fn serial_numbers_revoke_beside_crls_that_say_otherwise() {
    let fleet = Fleet::mint();
    let mut material = fleet.material(&["A"]);
    material.crls = vec![Crl::of(&fleet.issuing).der(), Crl::of(&fleet.root).der()];
    let store = testing::build(material);
    let refused = refusal(store.verify(&[&fleet.first.der], &[], NOW));
    assert_eq!(refused.refusal, Refusal::CertificateRevoked);
    verified(store.verify(&[&fleet.second.der], &[], NOW));
}

fn pinned_in(store: &TrustStore, der: &[u8], now: UnixSeconds) -> Verdict {
    store.verify_pinned(der, &DeviceId::parse("pinned-1").unwrap(), now)
}

fn pinned(template: Template) -> Verdict {
    pinned_in(&testing::store(Vec::new()), &template.self_signed().der, NOW)
}

/// As the usual command writes it: self-signed, CA:TRUE.
fn usual() -> Template {
    Template::blank("some device").basic_constraints(true, None)
}

#[test]
fn a_pinned_certificate_is_its_own_path_and_the_pin_says_who_it_is() {
    let der = usual().serial(&[0x0C]).validity(NOT_BEFORE, NOW + 7).self_signed().der;
    let chain = verified(pinned_in(&testing::store(Vec::new()), &der, NOW));
    assert_eq!(chain.device().as_str(), "pinned-1");
    assert_eq!((chain.anchor(), chain.auto_registration()), (None, false));
    assert_eq!((chain.path(), chain.leaf()), (&[der.clone()][..], &der[..]));
    assert_eq!(chain.leaf_sha256(), &sha256(&der));
    assert_eq!(chain.valid_until(), NOW + 7);
    let info = chain.leaf_info();
    assert_eq!((info.subject.as_str(), info.issuer.as_str()), ("CN=some device", "CN=some device"));
    assert_eq!((info.serial_hex.as_str(), info.not_after), ("0C", NOW + 7));
}

#[test]
fn what_a_pinned_certificate_says_besides_key_and_dates_does_not_count() {
    for template in [
        usual(),
        Template::device("d"),
        Template::blank("d").v1(),
        Template::server(&["server.example.com"]),
        Template::blank("").subject(&[(COMMON_NAME, 0x1e, b"\0d"), (COMMON_NAME, 0x1e, b"\0e")]),
        Template::blank("d").extension("1.3.6.1.4.1.99999.1", true, &[5, 0]),
        Template::blank("d").serial(&[0]),
        Template::blank("d").key(&Key::p256().with_sha1()),
        Template::blank("d").with_broken_signature(),
        Template::blank("d").key(&Key::rsa(2048)),
        Template::blank("d").key(&Key::ed25519()),
    ] {
        assert_eq!(verified(pinned(template)).device().as_str(), "pinned-1");
    }
    // Nor does its issuer, whatever the store knows of it.
    let fleet = Fleet::mint();
    let mut material = fleet.material(&["51"]);
    material.crls = vec![Crl::of(&fleet.issuing).revoke(&fleet.first).der()];
    verified(pinned_in(&testing::build(material), &fleet.first.der, NOW));
}

#[test]
fn a_pinned_certificate_is_valid_from_its_first_second_to_its_last() {
    let store = testing::store(Vec::new());
    let der = usual().validity(NOW, NOW + 10).self_signed().der;
    for now in [NOW, NOW + 10] {
        verified(pinned_in(&store, &der, now));
    }
    let early = refusal(pinned_in(&store, &der, NOW - 1));
    assert_eq!(early.refusal, Refusal::CertificateExpired);
    assert!(early.reason.contains("not valid before 2027-01-15T08:00:00Z"), "{early}");
    let late = refusal(pinned_in(&store, &der, NOW + 11));
    assert_eq!(late.refusal, Refusal::CertificateExpired);
    assert!(late.reason.contains("expired on 2027-01-15T08:00:10Z"), "{late}");
}

#[test]
fn a_pinned_certificates_key_is_on_the_list() {
    use openssl::nid::Nid;
    for key in [Key::rsa(1024), Key::ec(Nid::SECP224R1), Key::dsa(), Key::ed448()] {
        let refused = refusal(pinned(usual().key(&key)));
        assert_eq!(refused.refusal, Refusal::CertificateUnsupported);
        assert_eq!(
            refused.reason,
            "certificate 0 of the path (the end-entity): its key type or size is not on the list"
        );
    }
}

#[test]
fn a_pinned_certificate_is_revoked_by_its_serial_number() {
    let fleet = Fleet::mint();
    let store = testing::build(fleet.material(&["A"]));
    let refused = refusal(pinned_in(&store, &fleet.first.der, NOW));
    assert_eq!(refused.refusal, Refusal::CertificateRevoked);
    verified(pinned_in(&store, &fleet.second.der, NOW));
    // One that no revocation could name is not taken.
    let longest = Template::blank("d").serial(&[&[0, 0xFF], &[1; 19][..]].concat());
    verified(pinned(longest));
    let refused = refusal(pinned(Template::blank("d").serial(&[0x7F; 21])));
    assert_eq!(refused.refusal, Refusal::CertificateUnsupported);
}

#[test]
fn a_pinned_certificate_is_one_certificate_of_bounded_size() {
    let store = testing::store(Vec::new());
    let der = usual().self_signed().der;
    let twice = [der.clone(), der.clone()].concat();
    for bad in [&[][..], b"rubbish", &der[..der.len() - 1], &twice] {
        let refused = refusal(pinned_in(&store, bad, NOW));
        assert_eq!(refused.refusal, Refusal::CertificateMalformed);
    }
    let large = usual().extension("1.3.6.1.4.1.99999.1", false, &[0; 16 * 1024]);
    let refused = refusal(pinned(large));
    assert_eq!(refused.reason, "a certificate has more than 16 KiB");
}

#[test]
fn the_pin_of_one_leaf_is_not_that_of_another_with_the_same_key_and_name() {
    let key = Key::p256();
    let store = testing::store(Vec::new());
    let [a, b] = [1, 2].map(|serial| usual().key(&key).serial(&[serial]).self_signed().der);
    let [a_chain, b_chain] = [&a, &b].map(|der| verified(pinned_in(&store, der, NOW)));
    assert_eq!(a_chain.leaf_sha256(), &sha256(&a));
    assert_ne!(a_chain.leaf_sha256(), b_chain.leaf_sha256());
}

#[test]
fn a_pinned_ca_vouches_for_nobody() {
    let store = testing::store(Vec::new());
    let ca = Template::ca("some device").validity(NOT_BEFORE, NOT_AFTER).self_signed();
    verified(pinned_in(&store, &ca.der, NOW));
    let leaf = Template::device("device-1").signed_by(&ca);
    assert!(matches!(store.verify(&[&leaf.der, &ca.der], &[], NOW), Verdict::Undecided(_)));
    assert!(matches!(store.verify(&[&ca.der], &[], NOW), Verdict::Refused(_)));
}
