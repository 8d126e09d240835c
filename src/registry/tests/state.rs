//! Anchors, revocations, options and signing keys: every change, its outcome, memory and the
//! audit trail.

use super::*;

on_both_engines!(
    anchors_are_added_all_or_none,
    an_anchor_is_changed_field_by_field_and_deleted,
    possession_goes_its_way_step_by_step_and_each_is_told,
    what_was_added_and_revoked_stands_in_the_audit_trail,
    revocations_are_written_over_and_bounded,
    options_are_set_and_deleted,
    of_two_nodes_that_rotate_at_once_one_wins,
    a_tenants_state_is_the_same_until_it_changes,
    everything_is_there_after_a_restart,
);

async fn anchors_are_added_all_or_none(home: Home) {
    let registry = home.open().await;
    assert_eq!(apply(&registry, add_anchors(&[2, 1])).await, Outcome::Done);
    let held = registry.tenant(&acme());
    assert_eq!(held.anchors, [Arc::new(anchor(1)), Arc::new(anchor(2))]);
    assert!(registry.tenant(&tenant("umbrella")).anchors.is_empty());
    assert_eq!(apply(&registry, add_anchors(&[3, 1])).await, Outcome::Conflict { index: 1 });
    assert_eq!(apply(&registry, add_anchors(&[4, 5, 4])).await, Outcome::Conflict { index: 2 });
    assert_eq!(registry.tenant(&acme()).anchors.len(), 2);
    assert_eq!(home.number("SELECT COUNT(*) FROM anchors").await, 2);
    // The same certificate may be another tenant's too.
    let elsewhere = Change::AddAnchors { tenant: tenant("umbrella"), anchors: vec![anchor(1)] };
    assert_eq!(apply(&registry, elsewhere).await, Outcome::Done);
    assert_eq!(home.number("SELECT COUNT(*) FROM audit WHERE action = 'anchor.add'").await, 2);
}

async fn an_anchor_is_changed_field_by_field_and_deleted(home: Home) {
    let registry = home.open().await;
    apply(&registry, add_anchors(&[1])).await;
    let update = |sha256, name: Option<&str>, status, auto_registration| Change::UpdateAnchor {
        tenant: acme(),
        sha256,
        name: name.map(Into::into),
        status,
        auto_registration,
        identity: None,
    };
    let disabled = Some(AnchorStatus::Disabled);
    assert_eq!(apply(&registry, update([1; 32], None, disabled, None)).await, Outcome::Done);
    let after = AnchorRecord { status: AnchorStatus::Disabled, ..anchor(1) };
    assert_eq!(*registry.tenant(&acme()).anchors[0], after);
    assert_eq!(apply(&registry, update([1; 32], Some("'"), None, Some(true))).await, Outcome::Done);
    let after = AnchorRecord { name: "'".into(), auto_registration: true, ..after };
    assert_eq!(*registry.tenant(&acme()).anchors[0], after);
    let identity = Change::UpdateAnchor {
        tenant: acme(),
        sha256: [1; 32],
        name: None,
        status: None,
        auto_registration: None,
        identity: Some(r"cn:(.*)\.example\.com".into()),
    };
    assert_eq!(apply(&registry, identity).await, Outcome::Done);
    assert_eq!(registry.tenant(&acme()).anchors[0].identity, r"cn:(.*)\.example\.com");
    assert_eq!(apply(&registry, update([9; 32], None, disabled, None)).await, Outcome::NotFound);

    let delete = |sha256| Change::DeleteAnchor { tenant: acme(), sha256 };
    assert_eq!(apply(&registry, delete([9; 32])).await, Outcome::NotFound);
    assert_eq!(apply(&registry, delete([1; 32])).await, Outcome::Done);
    assert!(registry.tenant(&acme()).anchors.is_empty());
    assert_eq!(apply(&registry, add_anchors(&[1])).await, Outcome::Done);
    assert_eq!(registry.tenant(&acme()).anchors, [Arc::new(anchor(1))]);
}

async fn possession_goes_its_way_step_by_step_and_each_is_told(home: Home) {
    use PossessionStep::{NewCode, Signed, Vouched};
    // The second node learns of nothing by itself: PostgreSQL's may.
    let slow = RegistrySettings { poll: Duration::from_secs(3600), ..home.settings() };
    let (first, second) = (home.open().await, open_with(slow).await.unwrap());
    apply(&first, add_anchors(&[1])).await;
    let set = |sha256, step| Change::SetPossession { tenant: acme(), sha256, step };
    let code = |code: &str| NewCode { code: code.into(), usable_until: NOW + 86_400 };
    let held = || first.tenant(&acme()).anchors[0].possession.clone();
    assert_eq!(apply(&first, set([1; 32], code("s3cret"))).await, Outcome::Done);
    let expected =
        Possession { confirmed: false, code: Some("s3cret".into()), usable_until: NOW + 86_400 };
    assert_eq!(held(), expected);
    assert_eq!(apply(&first, set([1; 32], Signed)).await, Outcome::Done);
    assert_eq!(held(), Possession { confirmed: true, code: None, usable_until: 0 });
    // A new code takes nothing back, whatever the node that makes it has in memory.
    assert_eq!(apply(&second, set([1; 32], code("0ther"))).await, Outcome::Done);
    let confirmed = Possession { confirmed: true, code: Some("0ther".into()), ..expected };
    assert_eq!(second.tenant(&acme()).anchors[0].possession, confirmed);
    assert_eq!(apply(&first, set([1; 32], Vouched)).await, Outcome::Done);
    assert_eq!(held(), Possession { confirmed: true, code: None, usable_until: 0 });
    assert_eq!(apply(&first, set([2; 32], Vouched)).await, Outcome::NotFound);

    let audit = first.audit(AuditQuery { limit: 9, ..AuditQuery::default() }).await.unwrap();
    let told: Vec<_> = audit.iter().map(|row| &*row.detail).take(4).collect();
    let expected = [
        "step=vouched_by_hand confirmed=true",
        "step=new_code usable_until=1800086400",
        "step=signed confirmed=true",
        "step=new_code usable_until=1800086400",
    ];
    assert_eq!(told, expected);
}

async fn what_was_added_and_revoked_stands_in_the_audit_trail(home: Home) {
    let registry = home.open().await;
    apply(&registry, add_anchors(&[1, 2])).await;
    let many = (0..1000_u16).map(|number| {
        let [high, low] = number.to_be_bytes();
        let mut sha256 = [0xee; 32];
        sha256[0] = high;
        sha256[1] = low;
        let identity = format!("cn:{}(.*)", "\u{1b}".repeat(4000));
        AnchorRecord { sha256, identity, ..anchor(3) }
    });
    apply(&registry, Change::AddAnchors { tenant: acme(), anchors: many.collect() }).await;
    let serials = (0..5000).map(|number| (format!("A{number:0>39}"), NOW)).collect();
    apply(&registry, Change::AddRevocations { tenant: acme(), serials }).await;
    let value = "\u{1b}".repeat(4096);
    apply(&registry, option("k", Some(&value))).await;

    let audit = registry.audit(AuditQuery { limit: 9, ..AuditQuery::default() }).await.unwrap();
    let hex = |number: &str| number.repeat(32);
    let both = format!(
        "count=2 sha256={} auto_registration=false identity=\"cn\" \
         sha256={} auto_registration=true identity=\"cn\"",
        hex("01"),
        hex("02")
    );
    assert_eq!((&*audit[3].target, &*audit[3].detail), (&*hex("01"), &*both));
    let counts = [(&audit[1], "count=5000 A0"), (&audit[2], "count=1000 sha256=0000ee")];
    for (row, start) in counts {
        assert!(row.detail.starts_with(start), "{}", row.detail);
        assert!(row.detail.ends_with(" more"), "{}", row.detail);
    }
    for row in &audit {
        let octets = row.actor.len() + row.action.len() + row.target.len() + row.detail.len();
        assert!(octets <= 8 * 1024, "{}: {octets}", row.action);
    }
}

async fn revocations_are_written_over_and_bounded(home: Home) {
    let registry = home.open().await;
    let add = |serials: &[(&str, i64)]| Change::AddRevocations {
        tenant: acme(),
        serials: serials.iter().map(|(serial, at)| ((*serial).to_owned(), *at)).collect(),
    };
    assert_eq!(apply(&registry, add(&[("A1", 1), ("F", 2), ("A1", 3)])).await, Outcome::Done);
    assert_eq!(apply(&registry, add(&[("F", 9)])).await, Outcome::Done);
    let held = registry.tenant(&acme());
    let expected = [("A1".to_owned(), 3), ("F".to_owned(), 9)];
    assert_eq!(*held.revocations, expected.into());
    assert_eq!(apply(&registry, add(&[])).await, Outcome::Existed);

    home.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 99998)
         INSERT INTO revocations (tenant, serial, revoked_at, version)
         SELECT 'acme', 'B' || i, 0, 0 FROM n",
    )
    .await;
    assert!(matches!(apply(&registry, add(&[("C", 1)])).await, Outcome::Limit(_)));
    assert_eq!(apply(&registry, add(&[("F", 10)])).await, Outcome::Done);
    assert_eq!(registry.tenant(&acme()).revocations.get("C"), None);
}

async fn options_are_set_and_deleted(home: Home) {
    let registry = home.open().await;
    let name = ("oauth.internal".to_owned(), "lifespan".to_owned());
    assert_eq!(apply(&registry, option("lifespan", None)).await, Outcome::NotFound);
    assert_eq!(apply(&registry, option("lifespan", Some("3600"))).await, Outcome::Done);
    assert_eq!(apply(&registry, option("lifespan", Some("300"))).await, Outcome::Done);
    assert_eq!(registry.tenant(&acme()).options, [(name, "300".to_owned())].into());
    assert_eq!(apply(&registry, option("lifespan", None)).await, Outcome::Done);
    assert!(registry.tenant(&acme()).options.is_empty());

    home.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
         INSERT INTO tenant_options (tenant, category, name, value, version)
         SELECT 'acme', 'c', 'k' || i, '', 0 FROM n",
    )
    .await;
    assert!(matches!(apply(&registry, option("lifespan", Some("1"))).await, Outcome::Limit(_)));
}

async fn of_two_nodes_that_rotate_at_once_one_wins(home: Home) {
    let (first, second) = (home.open().await, home.open().await);
    let add = |kid: &str, algorithm: &str, at, since| Change::AddSigningKey {
        row: key(kid, algorithm, at),
        unless_published_since: since,
    };
    let edge = Actor::edge();
    let (one, other) = tokio::join!(
        first.apply(&edge, add("one", "ES256", NOW, NOW - 10)),
        second.apply(&edge, add("two", "ES256", NOW, NOW - 10)),
    );
    let mut outcomes = [one.unwrap(), other.unwrap()];
    outcomes.sort_by_key(|outcome| *outcome == Outcome::Existed);
    assert_eq!(outcomes, [Outcome::Done, Outcome::Existed]);
    // Whoever lost has the winner's key when it learns so.
    assert_eq!(first.signing_keys(), second.signing_keys());
    let winner = first.signing_keys()[0].clone();

    assert_eq!(apply(&first, add("rsa", "RS256", NOW, NOW - 10)).await, Outcome::Done);
    let again = apply(&first, add(&winner.kid, "ES256", NOW + 1, NOW + 1)).await;
    assert_eq!(again, Outcome::Conflict { index: 0 });
    assert_eq!(apply(&first, add("next", "ES256", NOW + 20, NOW + 1)).await, Outcome::Done);
    let kids: Vec<String> = first.signing_keys().iter().map(|key| key.kid.clone()).collect();
    assert_eq!(kids.last().unwrap(), "next");
    assert_eq!(kids.len(), 3);

    let delete = |kids: &[&str]| Change::DeleteSigningKeys {
        kids: kids.iter().map(|kid| (*kid).to_owned()).collect(),
    };
    assert_eq!(apply(&first, delete(&["none"])).await, Outcome::NotFound);
    assert_eq!(apply(&first, delete(&["none", "rsa", &winner.kid])).await, Outcome::Done);
    assert_eq!(*first.signing_keys(), [key("next", "ES256", NOW + 20)]);
    eventually("the other node has forgotten them", || second.signing_keys().len() == 1).await;
    assert!(!format!("{:?}", first.signing_keys()).contains("c2VhbGVk"));
}

async fn a_tenants_state_is_the_same_until_it_changes(home: Home) {
    let registry = home.open().await;
    let mut changes = registry.changes();
    let nothing = registry.tenant(&acme());
    assert!(Arc::ptr_eq(&nothing, &registry.tenant(&tenant("umbrella"))));
    apply(&registry, add_anchors(&[1])).await;
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let held = registry.tenant(&acme());
    let keys = registry.signing_keys();

    // Neither devices nor pins nor another tenant concern it.
    register(&registry, "a").await.unwrap();
    apply(&registry, pin("a", LEAF)).await;
    apply(&registry, set_status("a", DeviceStatus::Blocked)).await;
    assert!(!changes.has_changed().unwrap());
    let elsewhere = Change::AddAnchors { tenant: tenant("umbrella"), anchors: vec![anchor(1)] };
    apply(&registry, elsewhere).await;
    assert!(Arc::ptr_eq(&held, &registry.tenant(&acme())));
    assert!(Arc::ptr_eq(&keys, &registry.signing_keys()));
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();

    apply(&registry, option("k", Some("v"))).await;
    let after = registry.tenant(&acme());
    assert!(!Arc::ptr_eq(&held, &after));
    assert!(Arc::ptr_eq(&held.revocations, &after.revocations));
    assert!(Arc::ptr_eq(&held.anchors[0], &after.anchors[0]));
    changes.mark_unchanged();
    let row = key("k", "ES256", NOW);
    apply(&registry, Change::AddSigningKey { row, unless_published_since: 0 }).await;
    assert!(changes.has_changed().unwrap());
    assert!(Arc::ptr_eq(&after, &registry.tenant(&acme())));
}

async fn everything_is_there_after_a_restart(home: Home) {
    let registry = home.open().await;
    apply(&registry, add_anchors(&[1, 2, 3])).await;
    apply(&registry, option("k", Some("v"))).await;
    let serials = vec![("A".to_owned(), NOW)];
    apply(&registry, Change::AddRevocations { tenant: acme(), serials }).await;
    apply(&registry, pin("a", LEAF)).await;
    let row = key("k", "ES256", NOW);
    apply(&registry, Change::AddSigningKey { row, unless_published_since: 0 }).await;
    let (state, keys) = (registry.tenant(&acme()), registry.signing_keys());
    registry.close().await;
    assert_eq!(registry.tenant(&acme()), state);

    let registry = home.open().await;
    assert_eq!(registry.tenant(&acme()), state);
    assert_eq!(registry.signing_keys(), keys);
    assert_eq!(registry.pinned(&acme(), &LEAF), Some(device("a")));
}
