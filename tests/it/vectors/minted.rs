//! Cases of our own, minted when they run: one for each rule of the profile and each class of
//! attack on path validation that the edge knows of.

use openssl::nid::Nid;
use portcullis::refusal::Refusal::{
    CertificateExpired, CertificateMalformed, CertificateRevoked, CertificateUnsupported,
    IssuerUnknown, RevocationUnknown,
};
use portcullis::trust::{Anchor, MAX_INTERMEDIATES, MaterialKind, StaleCrl, TrustMaterial};

use super::{Case, Expect};
use crate::pki::*;

/// 2027-01-15.
pub const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    paths(&mut cases);
    validity(&mut cases);
    end_entities(&mut cases);
    issuers(&mut cases);
    ed25519(&mut cases);
    material(&mut cases);
    revocation(&mut cases);
    cases
}

fn paths(cases: &mut Vec<Case>) {
    let root = Template::ca("Root").self_signed();
    let issuing = Template::ca("Issuing").path_len(0).signed_by(&root);
    let device = Template::device("device-1").signed_by(&issuing);
    let chain = [&device, &issuing];
    cases.push(case("chain-to-a-root", &[&root], &chain, Expect::Success));
    cases.push(case("root-presented-too", &[&root], &[&device, &issuing, &root], Expect::Success));
    cases.push(case("intermediate-as-anchor", &[&issuing], &[&device], Expect::Success));
    cases.push(case("issuer-missing", &[&root], &[&device], Expect::Undecided));
    let twice = [&device, &root, &issuing, &issuing];
    cases.push(case("wrong-order-and-twice", &[&root], &twice, Expect::Success));
    let direct = Template::device("device-2").signed_by(&root);
    cases.push(case("signed-by-the-root", &[&root], &[&direct], Expect::Success));

    let stranger = Template::ca("Stranger").self_signed();
    cases.push(case("another-root", &[&stranger], &chain, Expect::Undecided));
    let namesake = Template::ca("Issuing").self_signed();
    cases.push(case("same-name-other-key", &[&namesake], &[&device], Expect::Undecided));
    let unnamed = Template::device("device-3").without_key_ids().signed_by(&issuing);
    let expect = Expect::Refused(CertificateMalformed);
    cases.push(case("same-name-other-key-no-ids", &[&namesake], &[&unnamed], expect));
    cases.push(case("same-name-both", &[&namesake, &root], &[&unnamed, &issuing], Expect::Success));

    // Two CAs certify each other; only one of the paths ends in an anchor.
    let (a, b) = (Key::p256(), Key::p256());
    let a_self = Template::ca("A").key(&a).self_signed();
    let b_self = Template::ca("B").key(&b).self_signed();
    let a_by_b = Template::ca("A").key(&a).signed_by(&b_self);
    let b_by_a = Template::ca("B").key(&b).signed_by(&a_self);
    let under_a = Template::device("device-4").signed_by(&a_self);
    let crossed = [&under_a, &b_by_a, &a_by_b];
    cases.push(case("cross-signed", &[&b_self], &crossed, Expect::Success));
    cases.push(case("cycle", &[&stranger], &crossed, Expect::Undecided));
    let expired = Template::ca("A").key(&a).validity(NOT_BEFORE, NOW - DAY).signed_by(&b_self);
    let detour = [&under_a, &expired, &a_by_b];
    cases.push(case("backtracks-over-an-expired-twin", &[&b_self], &detour, Expect::Success));
    let bad_serial = Template::ca("A").key(&a).serial(&[0]).signed_by(&b_self);
    let detour = [&under_a, &bad_serial, &a_by_b];
    cases.push(case("backtracks-over-the-profile", &[&b_self], &detour, Expect::Success));

    let broken = Template::device("device-5").with_broken_signature().signed_by(&root);
    let expect = Expect::Refused(CertificateMalformed);
    cases.push(case("broken-signature", &[&root], &[&broken], expect));
    let own = Template::device("device-6").self_signed();
    cases.push(case("self-signed-end-entity", &[&root], &[&own], Expect::Undecided));
    let mut garbage = issuing.clone();
    garbage.der = vec![0x30, 3, 1, 2, 3];
    let expect = Expect::Refused(CertificateMalformed);
    cases.push(case("unparsable-intermediate", &[&root], &[&device, &garbage], expect));
    cases.push(case("unparsable-end-entity", &[&root], &[&garbage, &issuing], expect));
    cases.push(case(
        "unparsable-and-not-needed",
        &[&root],
        &[&device, &garbage, &issuing],
        Expect::Success,
    ));
    let stuffed = vec![&device; 17];
    let expect = Expect::Refused(CertificateUnsupported);
    cases.push(case("seventeen-certificates", &[&root], &stuffed, expect));
    let large = Template::device("device-7")
        .another_extension("1.3.6.1.4.1.99999.1", false, &[0; 17 * 1024])
        .signed_by(&root);
    cases.push(case("large-end-entity", &[&root], &[&large], expect));

    // Every issuer has the name of every other: as many wrong paths as there are.
    let ladder: Vec<Minted> =
        (0..14).map(|_| Template::ca("Same").without_key_ids().self_signed()).collect();
    let top = Template::ca("Same").without_key_ids().self_signed();
    let leaf = Template::device("device-8").without_key_ids().signed_by(&ladder[0]);
    let presented: Vec<&Minted> = std::iter::once(&leaf).chain(&ladder).collect();
    let expect = Expect::RefusedAnyhow;
    cases.push(case("same-name-ladder", &[&top], &presented, expect));
    let mut lower = root.clone();
    let mut long = Vec::new();
    for depth in 0..14 {
        lower = Template::ca(&format!("CA {depth}")).signed_by(&lower);
        long.insert(0, lower.clone());
    }
    let leaf = Template::device("device-9").signed_by(&lower);
    let presented: Vec<&Minted> = std::iter::once(&leaf).chain(&long).collect();
    cases.push(case("sixteen-deep", &[&root], &presented, Expect::Success));
    let one_more = Template::ca("CA 14").signed_by(&lower);
    let leaf = Template::device("device-10").signed_by(&one_more);
    let presented: Vec<&Minted> = [&leaf, &one_more].into_iter().chain(&long).collect();
    cases.push(case("seventeen-deep", &[&root], &presented, Expect::Refused(IssuerUnknown)));
}

fn validity(cases: &mut Vec<Case>) {
    let root = Template::ca("Root").self_signed();
    let issuing = Template::ca("Issuing").signed_by(&root);
    let expect = Expect::Refused(CertificateExpired);
    let mut add = |id, root: &Minted, issuing: &Minted, template: Template, expect| {
        let device = template.signed_by(issuing);
        cases.push(case(id, &[root], &[&device, issuing], expect));
    };
    let device = || Template::device("device-1");
    add("last-second", &root, &issuing, device().validity(NOT_BEFORE, NOW), Expect::Success);
    add("first-second", &root, &issuing, device().validity(NOW, NOT_AFTER), Expect::Success);
    add("expired", &root, &issuing, device().validity(NOT_BEFORE, NOW - 1), expect);
    add("not-yet-valid", &root, &issuing, device().validity(NOW + 1, NOT_AFTER), expect);
    let year_2050 = device().validity(NOT_BEFORE, 4_000_000_000);
    add("generalized-time", &root, &issuing, year_2050, Expect::Success);
    let old = Template::ca("Issuing").validity(NOT_BEFORE, NOW - DAY).signed_by(&root);
    add("expired-intermediate", &root, &old, device(), expect);
    let future = Template::ca("Issuing").validity(NOW + DAY, NOT_AFTER).signed_by(&root);
    add("not-yet-valid-intermediate", &root, &future, device(), expect);
    let old_root = Template::ca("Root").validity(NOT_BEFORE, NOW - DAY).self_signed();
    let under_old = Template::ca("Issuing").signed_by(&old_root);
    add("expired-anchor", &old_root, &under_old, device(), expect);
    let stranger = Template::ca("Stranger").self_signed();
    add("expired-and-no-issuer", &stranger, &issuing, device().validity(0, 1), expect);
}

fn end_entities(cases: &mut Vec<Case>) {
    let root = Template::ca("Root").self_signed();
    let stranger = Template::ca("Stranger").self_signed();
    let refuse = Expect::Refused(CertificateUnsupported);
    let mut add = |id: &str, template: Template, expect| {
        let leaf = template.signed_by(&root);
        cases.push(case(id, &[&root], &[&leaf], expect));
        // A fault of its own is told whether the issuer is known or not.
        if let Expect::Refused(CertificateUnsupported) = expect {
            let id = format!("{id}-and-no-issuer");
            cases.push(case(&id, &[&stranger], &[&leaf], expect));
        }
    };
    let device = || Template::device("device-1");
    let sha1_root = Template::ca("Root").key(&Key::p256().with_sha1()).self_signed();

    add("blank-extensions", Template::blank("device-1"), Expect::Success);
    add("v1-end-entity", device().v1(), refuse);
    add("ca-as-end-entity", Template::ca("device-1"), refuse);
    add("basic-constraints-false", device().basic_constraints(false, None), Expect::Success);
    add("eku-server-only", device().extended_key_usage(&[SERVER_AUTH]), refuse);
    add("eku-both", device().extended_key_usage(&[SERVER_AUTH, CLIENT_AUTH]), Expect::Success);
    add("eku-any", device().extended_key_usage(&[ANY_USAGE]), Expect::Success);
    add("ku-encipherment-only", device().key_usage(KEY_ENCIPHERMENT), refuse);
    add("ku-cert-sign", device().key_usage(DIGITAL_SIGNATURE | KEY_CERT_SIGN), refuse);
    let unknown = "1.3.6.1.4.1.99999.1";
    add("unknown-critical", device().extension(unknown, true, &[5, 0]), refuse);
    add("unknown-not-critical", device().extension(unknown, false, &[5, 0]), Expect::Success);
    let twice = device().another_extension(KEY_USAGE, true, &tlv(0x03, &[7, DIGITAL_SIGNATURE]));
    add("duplicate-extension", twice, Expect::Refused(CertificateMalformed));
    add("end-entity-name-constraints", device().permitted_dns("example.com"), refuse);
    add("malformed-dns-name", device().dns_names(&[".example.com"]), refuse);
    add("serial-of-twenty", device().serial(&[0x7f; 20]), Expect::Success);
    add("serial-zero", device().serial(&[0]), refuse);
    add("serial-negative", device().serial(&[0x80]), refuse);
    add("serial-of-21", device().serial(&[0x01; 21]), refuse);
    let empty = Expect::Refused(CertificateMalformed);
    add("serial-empty", device().serial(&[]), empty);
    add("serial-not-minimal", device().serial(&[0, 1]), empty);
    add("rsa-1024", device().key(&Key::rsa(1024)), refuse);
    add("rsa-2048", device().key(&Key::rsa(2048)), Expect::Success);
    add("p-384", device().key(&Key::ec(Nid::SECP384R1)), Expect::Success);
    add("p-521", device().key(&Key::ec(Nid::SECP521R1)), Expect::Success);
    add("p-224", device().key(&Key::ec(Nid::SECP224R1)), refuse);
    add("secp256k1", device().key(&Key::ec(Nid::SECP256K1)), refuse);
    add("ed25519", device().key(&Key::ed25519()), Expect::Success);
    add("ed448", device().key(&Key::ed448()), refuse);
    add("dsa", device().key(&Key::dsa()), refuse);
    let sha1 = device().signed_by(&sha1_root);
    cases.push(case("sha1-signature", &[&sha1_root], &[&sha1], refuse));

    let under =
        |root: &Minted, name| Template::device("device-1").dns_names(&[name]).signed_by(root);
    let constrained = Template::ca("Root").permitted_dns("fleet.example").self_signed();
    let inside = under(&constrained, "a.fleet.example");
    cases.push(case("name-constraints-met", &[&constrained], &[&inside], Expect::Success));
    let outside = under(&constrained, "a.other.example");
    cases.push(case("name-constraints-broken", &[&constrained], &[&outside], refuse));
}

fn issuers(cases: &mut Vec<Case>) {
    let root = Template::ca("Root").self_signed();
    let refuse = Expect::Refused(CertificateUnsupported);
    let mut add = |id, issuing: Template, expect| {
        let issuing = issuing.signed_by(&root);
        let device = Template::device("device-1").signed_by(&issuing);
        cases.push(case(id, &[&root], &[&device, &issuing], expect));
    };
    let ca = || Template::ca("Issuing");
    add("issuer-ca-false", ca().basic_constraints(false, None), Expect::RefusedAnyhow);
    add("issuer-no-basic-constraints", ca().without_extension(BASIC_CONSTRAINTS), refuse);
    add("issuer-is-a-device", Template::device("device-0"), refuse);
    add("issuer-v1", ca().v1(), refuse);
    add("issuer-no-key-usage", ca().without_extension(KEY_USAGE), Expect::Success);
    add("issuer-no-cert-sign", ca().key_usage(CRL_SIGN), Expect::RefusedAnyhow);
    add("issuer-unknown-critical", ca().extension("1.3.6.1.4.1.99999.1", true, &[5, 0]), refuse);
    add("issuer-eku-server-only", ca().extended_key_usage(&[SERVER_AUTH]), refuse);
    add("issuer-eku-client", ca().extended_key_usage(&[CLIENT_AUTH]), Expect::Success);
    add("issuer-serial-zero", ca().serial(&[0]), refuse);
    add("issuer-serial-negative", ca().serial(&[0xff]), refuse);
    add("issuer-serial-of-21", ca().serial(&[0x01; 21]), refuse);
    add("issuer-rsa-1024", ca().key(&Key::rsa(1024)), refuse);
    add("issuer-p-224", ca().key(&Key::ec(Nid::SECP224R1)), refuse);
    add("issuer-without-key-ids", ca().without_key_ids(), Expect::Success);

    let narrow = Template::ca("Narrow").path_len(0).signed_by(&root);
    let below = ca().signed_by(&narrow);
    let device = Template::device("device-1").signed_by(&below);
    cases.push(case("path-length", &[&root], &[&device, &below, &narrow], refuse));
    let narrow_root = Template::ca("Narrow root").path_len(0).self_signed();
    let below = ca().signed_by(&narrow_root);
    let device = Template::device("device-1").signed_by(&below);
    cases.push(case("path-length-of-the-anchor", &[&narrow_root], &[&device, &below], refuse));
    let mut limited = case("max-intermediates", &[&root], &[&device, &below], Expect::Success);
    limited.material.anchors = vec![anchor(&narrow_root)];
    limited.max_intermediates = 0;
    limited.expect = refuse;
    cases.push(limited);
}

/// RFC 8410. Every CA of these has an Ed25519 key.
fn ed25519(cases: &mut Vec<Case>) {
    let key = Key::ed25519();
    let root = Template::ca("Root").key(&key).self_signed();
    let issuing = Template::ca("Issuing").key(&Key::ed25519()).signed_by(&root);
    let device = || Template::device("device-1").key(&Key::ed25519());
    let mut add = |id: &str, chain: &[&Minted], crls: Vec<Vec<u8>>, expect| {
        let mut case = case(&format!("ed25519-{id}"), &[&root], chain, expect);
        case.material.intermediates = vec![issuing.der.clone()];
        case.material.crls = crls;
        cases.push(case);
    };
    let malformed = Expect::Refused(CertificateMalformed);
    let refuse = Expect::Refused(CertificateUnsupported);
    let fault = Expect::Fault(MaterialKind::Crl);

    let good = device().signed_by(&issuing);
    add("throughout", &[&good, &issuing], vec![], Expect::Success);
    let p256 = Template::device("device-1").signed_by(&issuing);
    add("over-p-256", &[&p256, &issuing], vec![], Expect::Success);
    let ca_p256 = Template::ca("P-256").signed_by(&root);
    let below = device().signed_by(&ca_p256);
    add("over-p-256-over-ed25519", &[&below, &ca_p256], vec![], Expect::Success);

    let broken = device().with_broken_signature().signed_by(&issuing);
    add("broken-signature", &[&broken, &issuing], vec![], malformed);
    // The second time from the cache of signatures.
    add("broken-signature-again", &[&broken, &issuing], vec![], malformed);
    let mut tampered = good.clone();
    let subject = tampered.der.windows(8).rposition(|bytes| bytes == b"device-1").unwrap();
    tampered.der[subject] ^= 1;
    add("tampered-content", &[&tampered, &issuing], vec![], malformed);
    let mut namesake = root.clone();
    namesake.key = Key::ed25519();
    let forged = device().without_key_ids().signed_by(&namesake);
    add("of-another-key", &[&forged], vec![], malformed);
    // The algorithm says Ed25519 and the issuer's key is none, and the other way round.
    let id = "1.3.101.112";
    namesake.key = Key::p256().with_algorithm(id, &[]);
    let forged = device().without_key_ids().signed_by(&namesake);
    add("signature-of-p-256", &[&forged], vec![], malformed);
    namesake.key = key.clone().with_algorithm("1.2.840.10045.4.3.2", &[]);
    let forged = device().without_key_ids().signed_by(&namesake);
    add("signature-as-ecdsa", &[&forged], vec![], malformed);

    // Section 3: the parameters MUST be absent. The signatures are good.
    for (name, parameters) in [("null", tlv(0x05, &[])), ("empty-sequence", sequence(&[]))] {
        namesake.key = key.clone().with_algorithm(id, &parameters);
        let leaf = device().signed_by(&namesake);
        add(&format!("parameters-{name}"), &[&leaf], vec![], refuse);
        let crl = Crl::of(&root).key(&namesake.key).der();
        add(&format!("crl-parameters-{name}"), &[&good, &issuing], vec![crl], fault);
        let key = sequence(&[&sequence(&[&oid(id), &parameters]), &tlv(0x03, &[0; 33])]);
        let leaf = device().public_key(&key).signed_by(&issuing);
        add(&format!("key-parameters-{name}"), &[&leaf, &issuing], vec![], refuse);
    }
    for length in [31, 33] {
        let bits = tlv(0x03, &vec![0; 1 + length]);
        let key = sequence(&[&sequence(&[&oid(id)]), &bits]);
        let leaf = device().public_key(&key).signed_by(&issuing);
        add(&format!("key-of-{length}-octets"), &[&leaf, &issuing], vec![], refuse);
    }

    let crl = || Crl::of(&issuing);
    let revoked = Expect::Refused(CertificateRevoked);
    add("crl-revoked", &[&good, &issuing], vec![crl().revoke(&good).der()], revoked);
    add("crl-not-revoked", &[&good, &issuing], vec![crl().revoke(&p256).der()], Expect::Success);
    let broken = crl().with_broken_signature().der();
    add("crl-broken-signature", &[&good, &issuing], vec![broken], fault);
    add("crl-of-another-key", &[&good, &issuing], vec![crl().key(&key).der()], fault);
}

fn material(cases: &mut Vec<Case>) {
    let device = |root: &Minted| Template::device("device-1").signed_by(root);
    let mut add = |id, root: Template| {
        let root = root.self_signed();
        let device = device(&root);
        let expect = Expect::Fault(MaterialKind::Anchor);
        cases.push(case(id, &[&root], &[&device], expect));
    };
    let ca = || Template::ca("Root");
    add("anchor-v1", ca().v1());
    add("anchor-ca-false", ca().basic_constraints(false, None).key_usage(DIGITAL_SIGNATURE));
    add("anchor-end-entity", Template::device("device-1"));
    add("anchor-no-cert-sign", ca().key_usage(CRL_SIGN));
    add("anchor-rsa-1024", ca().key(&Key::rsa(1024)));
    add("anchor-ed448", ca().key(&Key::ed448()));
    add("anchor-serial-zero", ca().serial(&[0]));
    add("anchor-unknown-critical", ca().extension("1.3.6.1.4.1.99999.1", true, &[5, 0]));

    let root = ca().self_signed();
    let issuing = Template::ca("Issuing").signed_by(&root);
    let leaf = device(&issuing);
    let mut pooled = case("intermediate-of-the-tenant", &[&root], &[&leaf], Expect::Success);
    pooled.material.intermediates = vec![issuing.der.clone(), issuing.der.clone()];
    cases.push(pooled);
    let mut bad = case("intermediate-not-a-ca", &[&root], &[&leaf], Expect::Success);
    bad.material.intermediates = vec![leaf.der.clone()];
    bad.expect = Expect::Fault(MaterialKind::Intermediate);
    cases.push(bad);
    let mut two = case("anchor-twice-flags-differ", &[&root, &root], &[&leaf], Expect::Success);
    two.material.anchors[1].auto_registration = true;
    two.expect = Expect::Fault(MaterialKind::Anchor);
    cases.push(two);
    let both = [&leaf, &issuing];
    cases.push(case("anchor-twice", &[&root, &root], &both, Expect::Success));
    cases.push(case("no-anchor", &[], &both, Expect::Undecided));
}

fn revocation(cases: &mut Vec<Case>) {
    let root = Template::ca("Root").self_signed();
    let issuing = Template::ca("Issuing").signed_by(&root);
    let twin = Template::ca("Issuing").signed_by(&root);
    let device = Template::device("device-1").serial(&[42]).signed_by(&issuing);
    let other = Template::device("device-2").serial(&[42]).signed_by(&twin);
    let good = Template::device("device-3").serial(&[43]).signed_by(&issuing);
    let stranger = Template::ca("Stranger").self_signed();

    let with = |id: &str, leaf: &Minted, by: &Minted, crls: Vec<Vec<u8>>, expect| {
        let mut case = case(id, &[&root], &[leaf, by], expect);
        // CRLs are of issuers that are known when the store is built.
        case.material.intermediates = vec![issuing.der.clone(), twin.der.clone()];
        case.material.crls = crls;
        case
    };
    let listing = || Crl::of(&issuing).revoke_serial(&[1]).revoke(&device).revoke_serial(&[99]);
    let revoked = Expect::Refused(CertificateRevoked);
    let unknown = Expect::Refused(RevocationUnknown);
    let fault = Expect::Fault(MaterialKind::Crl);
    let ended = |crl: Crl| crl.current(NOT_BEFORE, NOW - 1).der();
    let early = |crl: Crl| crl.current(NOW + 1, NOT_AFTER).der();

    cases.push(with("revoked", &device, &issuing, vec![listing().der()], revoked));
    cases.push(with("not-revoked", &good, &issuing, vec![listing().der()], Expect::Success));
    let only_root = vec![Crl::of(&root).der()];
    cases.push(with("issuer-without-crl", &device, &issuing, only_root, Expect::Success));
    let of_root = vec![Crl::of(&root).revoke(&issuing).der()];
    cases.push(with("revoked-intermediate", &good, &issuing, of_root, revoked));
    cases.push(with(
        "same-serial-same-name",
        &other,
        &twin,
        vec![listing().der()],
        Expect::Success,
    ));
    let both = vec![listing().der(), Crl::of(&twin).der()];
    cases.push(with("same-serial-both-crls", &other, &twin, both.clone(), Expect::Success));
    cases.push(with("same-serial-both-crls-revoked", &device, &issuing, both, revoked));

    cases.push(with("stale-crl", &good, &issuing, vec![ended(listing())], unknown));
    cases.push(with("crl-of-tomorrow", &good, &issuing, vec![early(listing())], unknown));
    cases.push(with("stale-crl-revoked", &device, &issuing, vec![ended(listing())], revoked));
    let old_and_new = vec![ended(Crl::of(&issuing)), listing().der()];
    cases.push(with("old-and-new-crl", &good, &issuing, old_and_new.clone(), Expect::Success));
    cases.push(with("old-and-new-crl-revoked", &device, &issuing, old_and_new, revoked));
    for (id, leaf, expect) in [
        ("stale-crl-accepted", &good, Expect::Success),
        ("stale-crl-accepted-revoked", &device, revoked),
    ] {
        let mut case = with(id, leaf, &issuing, vec![ended(listing())], expect);
        case.material.stale_crl = StaleCrl::Accept;
        cases.push(case);
    }

    let idp = sequence(&[&tlv(0x81, &[0xff])]);
    for (id, crl) in [
        ("crl-of-a-stranger", Crl::of(&stranger).der()),
        ("crl-broken-signature", listing().with_broken_signature().der()),
        ("crl-of-another-key", listing().key(&Key::p256()).der()),
        ("crl-sha1", listing().key(&issuing.key.clone().with_sha1()).der()),
        ("crl-no-next-update", listing().without_next_update().der()),
        ("crl-scope", listing().extension(ISSUING_DISTRIBUTION_POINT, true, &idp).der()),
        (
            "crl-scope-not-critical",
            listing().extension(ISSUING_DISTRIBUTION_POINT, false, &idp).der(),
        ),
        ("crl-delta", listing().extension(DELTA_CRL_INDICATOR, true, &tlv(0x02, &[1])).der()),
        ("crl-critical", listing().extension("1.3.6.1.4.1.99999.1", true, &[5, 0]).der()),
        ("crl-entry-critical", listing().entry_extension("2.5.29.29", true, &sequence(&[])).der()),
        ("crl-empty-file", Vec::new()),
        ("crl-empty-signature", sequence(&[&sequence(&[]), &sequence(&[]), &tlv(0x03, &[])])),
    ] {
        cases.push(with(id, &good, &issuing, vec![crl], fault));
    }
    let silent = Template::ca("Silent").key_usage(KEY_CERT_SIGN).self_signed();
    let mut case = case("crl-without-crl-sign", &[&silent], &[&good], fault);
    case.material.crls = vec![Crl::of(&silent).der()];
    cases.push(case);
}

fn case(id: &str, anchors: &[&Minted], chain: &[&Minted], expect: Expect) -> Case {
    Case {
        id: format!("minted::{id}"),
        material: TrustMaterial {
            anchors: anchors.iter().map(|minted| anchor(minted)).collect(),
            ..TrustMaterial::default()
        },
        chain: chain.iter().map(|minted| minted.der.clone()).collect(),
        now: NOW,
        max_intermediates: MAX_INTERMEDIATES,
        expect,
    }
}

fn anchor(minted: &Minted) -> Anchor {
    Anchor { der: minted.der.clone(), ..Anchor::default() }
}
