use super::*;
use crate::trust::Anchor;
use crate::trust::testing::pki::{Key, Template};
use crate::trust::testing::{self, NOW, Pair};

fn anchor(pair: &Pair, auto_registration: bool) -> Anchor {
    Anchor { der: pair.root.clone(), auto_registration, ..Anchor::default() }
}

fn material(anchors: Vec<Anchor>) -> TrustMaterial {
    TrustMaterial { anchors, ..TrustMaterial::default() }
}

fn epoch_of(material: TrustMaterial) -> Epoch {
    *testing::build(material).epoch()
}

fn revoking(serials: &[&str]) -> TrustMaterial {
    let revoked_serials = serials.iter().map(|serial| (*serial).to_owned()).collect();
    TrustMaterial { revoked_serials, ..TrustMaterial::default() }
}

#[test]
fn an_epoch_follows_from_the_material_and_not_from_its_order() {
    let (a, b) = (Pair::mint("a", NOW + 1), Pair::mint("b", NOW + 1));
    let epoch = |anchors| epoch_of(material(anchors));
    let both = epoch(vec![anchor(&a, false), anchor(&b, false)]);
    assert_eq!(both, epoch(vec![anchor(&b, false), anchor(&a, false)]));
    assert_eq!(both, epoch(vec![anchor(&b, false), anchor(&a, false), anchor(&a, false)]));
    assert_ne!(both, epoch(vec![anchor(&a, false)]));
    assert_ne!(both, epoch(vec![anchor(&a, true), anchor(&b, false)]));
    let as_intermediate =
        TrustMaterial { intermediates: vec![b.root.clone()], ..material(vec![anchor(&a, false)]) };
    assert_ne!(both, epoch_of(as_intermediate));
}

#[test]
fn every_setting_of_an_anchor_and_every_revoked_serial_number_changes_the_epoch() {
    let pair = Pair::mint("a", NOW + 1);
    let plain = || anchor(&pair, false);
    let rule = |text| IdentityRule::parse(text).unwrap();
    let epochs = [
        epoch_of(material(vec![plain()])),
        epoch_of(material(vec![anchor(&pair, true)])),
        epoch_of(material(vec![Anchor { names_tenant: true, ..plain() }])),
        epoch_of(material(vec![Anchor { identity: rule("serial"), ..plain() }])),
        epoch_of(material(vec![Anchor { identity: rule("cn:(.*)"), ..plain() }])),
        epoch_of(material(vec![Anchor { identity: rule("cn:(.+)"), ..plain() }])),
        epoch_of(TrustMaterial { anchors: vec![plain()], ..revoking(&["0A"]) }),
        epoch_of(TrustMaterial { anchors: vec![plain()], ..revoking(&["0B"]) }),
        epoch_of(TrustMaterial { anchors: vec![plain()], ..revoking(&["0A", "0B"]) }),
    ];
    for (i, epoch) in epochs.iter().enumerate() {
        assert!(!epochs[..i].contains(epoch), "{i}");
    }
    let spelled_out = Anchor { identity: rule("cn"), ..plain() };
    assert_eq!(epochs[0], epoch_of(material(vec![spelled_out])));
}

#[test]
fn a_serial_number_has_one_value_in_every_spelling() {
    let epoch = epoch_of(revoking(&["A1"]));
    assert_eq!(epoch, epoch_of(revoking(&["a1"])));
    assert_eq!(epoch, epoch_of(revoking(&["00A1", "a1", "0A1"])));
    assert_ne!(epoch, epoch_of(revoking(&["A10"])));
    assert_ne!(epoch, epoch_of(revoking(&["1A"])));
    let long = "F".repeat(40);
    assert_eq!(epoch_of(revoking(&[&long])), epoch_of(revoking(&[&format!("000{long}")])));
    assert_ne!(epoch_of(revoking(&[&long])), epoch_of(revoking(&[&long[1..]])));
}

#[test]
fn a_revocation_that_is_no_serial_number_is_a_fault_and_never_left_out() {
    let too_long = format!("1{}", "0".repeat(40));
    for bad in ["", "G1", "0x1", "-1", " 1", "1 ", "1:2", "\u{661}", &too_long] {
        let faults = TrustStore::build(revoking(&["", "1", "2", bad])).err().unwrap();
        let last = faults.last().unwrap();
        assert_eq!(last.kind, MaterialKind::RevokedSerial, "{bad:?}");
        assert_eq!(
            last.to_string().split_once(": ").unwrap().1,
            "not a serial number: hexadecimal digits for at most 20 octets"
        );
        let alone = TrustStore::build(revoking(&[bad])).err().unwrap();
        assert_eq!((alone.len(), alone[0].index), (1, 0), "{bad:?}");
    }
}

#[test]
fn every_fault_is_told_at_once_with_its_place() {
    let pair = Pair::mint("a", NOW + 1);
    let mut material = material(vec![
        anchor(&pair, false),
        Anchor { der: pair.leaf.clone(), ..Anchor::default() },
        Anchor::default(),
    ]);
    material.intermediates = vec![b"garbage".to_vec()];
    material.crls = vec![Vec::new()];
    let faults = TrustStore::build(material).err().unwrap();
    let places: Vec<_> = faults.iter().map(|fault| (fault.kind, fault.index)).collect();
    assert_eq!(
        places,
        [
            (MaterialKind::Anchor, 1),
            (MaterialKind::Anchor, 2),
            (MaterialKind::Intermediate, 0),
            (MaterialKind::Crl, 0),
        ]
    );
    assert_eq!(
        faults[0].to_string(),
        "trusted certificate 1: not a CA certificate: its basic constraints do not say CA:true"
    );
}

#[test]
fn one_certificate_has_one_set_of_settings() {
    let pair = Pair::mint("a", NOW + 1);
    let plain = || anchor(&pair, false);
    let identity = IdentityRule::parse("serial").unwrap();
    assert_eq!(testing::store(vec![plain(), plain()]).anchors().len(), 2);
    for (other, setting) in [
        (anchor(&pair, true), "auto_registration"),
        (Anchor { identity, ..plain() }, "device_identity"),
        (Anchor { names_tenant: true, ..plain() }, "names_tenant"),
    ] {
        let faults = TrustStore::build(material(vec![plain(), other])).err().unwrap();
        let expected = format!(
            "trusted certificate 1: the same certificate as trusted certificate 0, but with \
             another {setting}"
        );
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].to_string(), expected);
    }
}

#[test]
fn anchors_tell_their_settings_and_share_equal_rules() {
    let (a, b, c) = (Pair::mint("a", NOW), Pair::mint("b", NOW), Pair::mint("c", NOW));
    let with = |pair: &Pair, text| Anchor {
        identity: IdentityRule::parse(text).unwrap(),
        names_tenant: true,
        ..anchor(pair, false)
    };
    let store = testing::store(vec![with(&a, "cn:(.+)"), with(&b, "cn:(.+)"), anchor(&c, true)]);
    let [a, b, c] = store.anchors() else { panic!("three anchors") };
    assert_eq!(
        (a.identity.as_str(), a.names_tenant, a.auto_registration),
        ("cn:(.+)", true, false)
    );
    assert_eq!((c.identity.as_str(), c.names_tenant, c.auto_registration), ("cn", false, true));
    assert_eq!(a.identity, b.identity);
    assert!(std::ptr::eq(a.identity.as_str(), b.identity.as_str()));
}

#[test]
fn subjects_are_those_of_anchors_and_intermediates() {
    let root = Template::ca("Root").self_signed();
    let issuing = Template::ca("Issuing").signed_by(&root);
    let store = testing::build(TrustMaterial {
        intermediates: vec![issuing.der.clone(), issuing.der.clone()],
        ..material(vec![Anchor { der: root.der, ..Anchor::default() }])
    });
    let subjects: Vec<&[u8]> = store.subjects().collect();
    assert_eq!(subjects.len(), 2);
    assert_eq!(subjects[0], store.anchors()[0].subject_der);
    assert!(subjects[1].ends_with(b"Issuing") && subjects[1].starts_with(&[0x30]));
    assert_eq!(testing::build(TrustMaterial::default()).subjects().count(), 0);
}

#[test]
fn what_could_be_no_anchor_is_told_as_a_trust_store_tells_it() {
    let root = Template::ca("Root").self_signed();
    assert_eq!(check_anchor(root.der.clone()), Ok(()));
    let issuing = Template::ca("Issuing").signed_by(&root);
    assert_eq!(check_anchor(issuing.der), Ok(()));
    let expired = Template::ca("Old").validity(NOW - 2, NOW - 1).self_signed();
    assert_eq!(check_anchor(expired.der), Ok(()));

    let twice = [root.der.clone(), root.der.clone()].concat();
    let minted = |template: Template| template.self_signed().der;
    for (der, start) in [
        (minted(Template::ca("v1").v1()), "not X.509 version 3"),
        (minted(Template::ca("no").basic_constraints(false, None)), "not a CA certificate"),
        (minted(Template::device("device-1")), "not a CA certificate"),
        (minted(Template::ca("weak").key(&Key::rsa(1024))), "its key is not on the list"),
        (minted(Template::ca("zero").serial(&[0])), "its serial number is not positive"),
        (twice, "not a DER certificate"),
        (b"rubbish".to_vec(), "not a DER certificate"),
        (Vec::new(), "not a DER certificate"),
    ] {
        let reason = check_anchor(der.clone()).unwrap_err();
        assert!(reason.starts_with(start), "{start}: {reason}");
        let faults = TrustStore::build(material(vec![Anchor { der, ..Anchor::default() }]));
        assert_eq!(faults.err().unwrap()[0].reason, reason);
    }
    let large = Template::ca("a").extension("1.3.6.1.4.1.99999.1", false, &[0; 16 * 1024]);
    assert_eq!(check_anchor(minted(large)), Err("it has more than 16 KiB".into()));
}
