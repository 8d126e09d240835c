//! Devices and pins: every change, its outcome, memory, the store and the audit trail.

use super::*;

on_both_engines!(
    what_was_registered_and_blocked_is_there_after_a_restart,
    a_blocked_device_that_registers_again_stays_blocked,
    many_devices_register_at_once_and_each_is_created_once,
    a_change_of_a_device_that_is_not_there_changes_and_audits_nothing,
    bulk_registration_tells_created_from_existed,
    a_device_takes_its_pins_with_it,
    a_pin_has_one_device_a_tenant_and_a_device_sixteen_pins,
    a_page_goes_on_after_the_last_device_and_stays_in_its_tenant,
    nothing_in_a_prefix_is_a_wildcard_or_sql,
    whoever_changed_what_is_found_newest_first,
    the_audit_trail_reaches_back_four_hundred_days,
    devices_are_counted_alike_in_memory_and_in_the_store,
    what_is_out_of_bounds_is_refused_before_the_store,
);

async fn what_was_registered_and_blocked_is_there_after_a_restart(home: Home) {
    let registry = home.open().await;
    assert!(registry.healthy() && registry.fresh());
    assert_eq!(registry.status(&acme(), &device("a")), None);
    let registered = register(&registry, "a").await.unwrap();
    assert_eq!(registered, Registered { status: DeviceStatus::Active, created: true });
    assert_eq!(registry.status(&acme(), &device("a")), Some(DeviceStatus::Active));
    register(&registry, "b").await.unwrap();
    assert_eq!(apply(&registry, set_status("b", DeviceStatus::Blocked)).await, Outcome::Done);
    assert_eq!(registry.status(&acme(), &device("b")), Some(DeviceStatus::Blocked));
    registry.close().await;

    let registry = home.open().await;
    assert_eq!(registry.status(&acme(), &device("a")), Some(DeviceStatus::Active));
    assert_eq!(registry.status(&acme(), &device("b")), Some(DeviceStatus::Blocked));
    assert_eq!(registry.status(&tenant("umbrella"), &device("a")), None);
    let record = registry.device(&acme(), &device("a")).await.unwrap().unwrap();
    let expected = DeviceRecord {
        device: device("a"),
        status: DeviceStatus::Active,
        registered_by: RegisteredBy::Auto,
        registered_at: NOW,
        changed_at: NOW,
        leaf_sha256: Some(LEAF),
        anchor_sha256: Some(ANCHOR),
        device_type: None,
        name: None,
        pins: Vec::new(),
    };
    assert_eq!(record, expected);
    assert_eq!(registry.devices(page(1)).await.unwrap(), [expected]);
    assert_eq!(registry.device(&acme(), &device("c")).await.unwrap(), None);
    assert_eq!(registry.device_count(&acme()).await.unwrap(), 2);
}

async fn a_blocked_device_that_registers_again_stays_blocked(home: Home) {
    let registry = home.open().await;
    register(&registry, "a").await.unwrap();
    apply(&registry, set_status("a", DeviceStatus::Blocked)).await;
    let again = registry.register(&acme(), &device("a"), &[9; 32], &ANCHOR).await.unwrap();
    assert_eq!(again, Registered { status: DeviceStatus::Blocked, created: false });
    assert_eq!(registry.status(&acme(), &device("a")), Some(DeviceStatus::Blocked));
    let listed = registry.devices(page(10)).await.unwrap();
    assert_eq!((listed.len(), listed[0].leaf_sha256), (1, Some(LEAF)));
    let Outcome::Devices(outcomes) = apply(&registry, bulk(&["a"])).await else { panic!() };
    assert_eq!(outcomes, [DeviceOutcome::Existed]);
    assert_eq!(registry.status(&acme(), &device("a")), Some(DeviceStatus::Blocked));
}

async fn many_devices_register_at_once_and_each_is_created_once(home: Home) {
    let registry = home.open().await;
    let tasks: Vec<_> = (0..1000)
        .map(|index| {
            let registry = registry.clone();
            tokio::spawn(async move { register(&registry, &format!("d{}", index % 500)).await })
        })
        .collect();
    let mut created = 0;
    for task in tasks {
        let registered = task.await.unwrap().unwrap();
        assert_eq!(registered.status, DeviceStatus::Active);
        created += usize::from(registered.created);
    }
    assert_eq!(created, 500);
    assert_eq!(registry.device_count(&acme()).await.unwrap(), 500);
}

async fn a_change_of_a_device_that_is_not_there_changes_and_audits_nothing(home: Home) {
    let registry = home.open().await;
    register(&registry, "there").await.unwrap();
    let before = home.number("SELECT version FROM registry_version").await;
    for change in [
        set_status("a", DeviceStatus::Blocked),
        delete("a"),
        Change::UnpinCertificate { tenant: acme(), device: device("there"), leaf_sha256: LEAF },
    ] {
        assert_eq!(apply(&registry, change).await, Outcome::NotFound);
    }
    assert_eq!(registry.status(&acme(), &device("a")), None);
    assert_eq!(home.number("SELECT version FROM registry_version").await, before);
    let audit = AuditQuery { limit: 10, ..AuditQuery::default() };
    assert!(registry.audit(audit).await.unwrap().is_empty());
}

async fn bulk_registration_tells_created_from_existed(home: Home) {
    use DeviceOutcome::{Created, Existed};
    let registry = home.open().await;
    register(&registry, "b").await.unwrap();
    let Outcome::Devices(outcomes) = apply(&registry, bulk(&["a", "b", "c", "a"])).await else {
        panic!()
    };
    assert_eq!(outcomes, [Created, Existed, Created, Existed]);
    let record = registry.device(&acme(), &device("a")).await.unwrap().unwrap();
    assert_eq!(record.registered_by, RegisteredBy::Bulk);
    assert_eq!(record.device_type.as_deref(), Some("c8y_Linux"));
    assert_eq!(record.name.as_deref(), Some("Pump a \"'; DROP TABLE devices; --"));
    assert_eq!(registry.status(&acme(), &device("c")), Some(DeviceStatus::Active));

    let many: Vec<String> = (0..MAX_REGISTRATIONS).map(|index| format!("m{index}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let Outcome::Devices(outcomes) = apply(&registry, bulk(&many)).await else { panic!() };
    assert_eq!(outcomes, vec![Created; MAX_REGISTRATIONS]);
    let Outcome::Devices(outcomes) = apply(&registry, bulk(&many)).await else { panic!() };
    assert_eq!(outcomes, vec![Existed; MAX_REGISTRATIONS]);

    let audit = AuditQuery { limit: 10, ..AuditQuery::default() };
    let audit = registry.audit(audit).await.unwrap();
    let told: Vec<_> = audit.iter().map(|row| (&*row.action, &*row.detail)).collect();
    let expected = [
        ("devices.register", "created=1000 existed=0"),
        ("devices.register", "created=2 existed=2"),
    ];
    assert_eq!(told, expected);
}

async fn a_device_takes_its_pins_with_it(home: Home) {
    let registry = home.open().await;
    assert_eq!(apply(&registry, pin("a", [1; 32])).await, Outcome::Done);
    assert_eq!(apply(&registry, pin("a", [2; 32])).await, Outcome::Done);
    assert_eq!(registry.status(&acme(), &device("a")), Some(DeviceStatus::Active));
    assert_eq!(registry.pinned(&acme(), &[1; 32]), Some(device("a")));
    assert_eq!(registry.pinned(&tenant("umbrella"), &[1; 32]), None);
    assert_eq!(registry.pin_owner(&[2; 32]), PinOwner::One(acme(), device("a")));
    let record = registry.device(&acme(), &device("a")).await.unwrap().unwrap();
    assert_eq!(record.registered_by, RegisteredBy::Manual);
    assert_eq!(record.pins, [[1; 32], [2; 32]]);
    assert_eq!(registry.devices(page(10)).await.unwrap(), [record]);

    let unpin =
        Change::UnpinCertificate { tenant: acme(), device: device("a"), leaf_sha256: [2; 32] };
    assert_eq!(apply(&registry, unpin).await, Outcome::Done);
    assert_eq!(registry.pin_owner(&[2; 32]), PinOwner::Nobody);
    assert_eq!(apply(&registry, delete("a")).await, Outcome::Done);
    assert_eq!(registry.status(&acme(), &device("a")), None);
    assert_eq!(registry.pinned(&acme(), &[1; 32]), None);
    assert_eq!(home.number("SELECT COUNT(*) FROM pins").await, 0);
    // The certificate is free for another device.
    assert_eq!(apply(&registry, pin("b", [1; 32])).await, Outcome::Done);
}

async fn a_pin_has_one_device_a_tenant_and_a_device_sixteen_pins(home: Home) {
    let registry = home.open().await;
    apply(&registry, pin("a", [1; 32])).await;
    assert_eq!(apply(&registry, pin("a", [1; 32])).await, Outcome::Existed);
    assert_eq!(apply(&registry, pin("b", [1; 32])).await, Outcome::Conflict { index: 0 });
    assert_eq!(registry.status(&acme(), &device("b")), None);
    let elsewhere = Change::PinCertificate {
        tenant: tenant("umbrella"),
        device: device("z"),
        leaf_sha256: [1; 32],
    };
    assert_eq!(apply(&registry, elsewhere).await, Outcome::Done);
    assert_eq!(registry.pin_owner(&[1; 32]), PinOwner::Several);
    for number in 2..=16 {
        assert_eq!(apply(&registry, pin("a", [number; 32])).await, Outcome::Done);
    }
    assert!(matches!(apply(&registry, pin("a", [17; 32])).await, Outcome::Limit(_)));
    assert_eq!(registry.pinned(&acme(), &[17; 32]), None);
}

async fn a_page_goes_on_after_the_last_device_and_stays_in_its_tenant(home: Home) {
    let registry = home.open().await;
    for id in ["c", "a", "b", "percent=_1"] {
        register(&registry, id).await.unwrap();
    }
    apply(&registry, set_status("b", DeviceStatus::Blocked)).await;
    let other = tenant("acme_");
    registry.register(&other, &device("z"), &LEAF, &ANCHOR).await.unwrap();
    let after = |id| DeviceQuery { after: Some(device(id)), ..page(2) };
    assert_eq!(ids(&registry, page(2)).await, ["a", "b"]);
    assert_eq!(ids(&registry, after("b")).await, ["c", "percent=_1"]);
    assert!(ids(&registry, after("percent=_1")).await.is_empty());
    let blocked = DeviceQuery { status: Some(DeviceStatus::Blocked), ..page(2) };
    assert_eq!(ids(&registry, blocked).await, ["b"]);
    assert_eq!(ids(&registry, DeviceQuery { tenant: other, ..page(10) }).await, ["z"]);
    // A tenant's name is never a pattern: `_` would match any character under LIKE.
    assert!(ids(&registry, DeviceQuery { tenant: tenant("a___"), ..page(10) }).await.is_empty());
}

async fn nothing_in_a_prefix_is_a_wildcard_or_sql(home: Home) {
    let registry = home.open().await;
    for id in ["a_b", "aXb", "a=b", "A_b"] {
        register(&registry, id).await.unwrap();
    }
    let by = |prefix: &str| DeviceQuery { id_prefix: Some(prefix.into()), ..page(10) };
    assert_eq!(ids(&registry, by("a_")).await, ["a_b"]);
    assert_eq!(ids(&registry, by("A")).await, ["A_b"]);
    assert_eq!(ids(&registry, by("")).await.len(), 4);
    for odd in ["%", "_", "a%", "' OR '1'='1", "'; DROP TABLE devices; --", "\0", "a\0", "\\", "é"]
    {
        assert!(ids(&registry, by(odd)).await.is_empty(), "{odd:?}");
    }
    assert!(ids(&registry, by(&"a".repeat(100_000))).await.is_empty());
    for id in ["a", "a-", "az", "azz", "aa", "b"] {
        register(&registry, id).await.unwrap();
    }
    assert_eq!(ids(&registry, by("a")).await, ["a", "a-", "a=b", "aXb", "a_b", "aa", "az", "azz"]);
    let behind = |after: &str, prefix| DeviceQuery { after: Some(device(after)), ..by(prefix) };
    assert_eq!(ids(&registry, behind("a_b", "a")).await, ["aa", "az", "azz"]);
    assert_eq!(ids(&registry, behind("A", "az")).await, ["az", "azz"]);
    assert!(ids(&registry, behind("b", "az")).await.is_empty());
    let blocked = Some(DeviceStatus::Blocked);
    apply(&registry, set_status("azz", DeviceStatus::Blocked)).await;
    apply(&registry, set_status("b", DeviceStatus::Blocked)).await;
    assert_eq!(ids(&registry, DeviceQuery { status: blocked, ..by("a") }).await, ["azz"]);
    let active = DeviceQuery { status: Some(DeviceStatus::Active), ..behind("aa", "a") };
    assert_eq!(ids(&registry, active).await, ["az"]);
    for id in ["a", "a-", "az", "azz", "aa", "b"] {
        apply(&registry, delete(id)).await;
    }
    assert_eq!(ids(&registry, page(u32::MAX)).await.len(), 4);
}

async fn whoever_changed_what_is_found_newest_first(home: Home) {
    let registry = home.open().await;
    register(&registry, "a").await.unwrap();
    apply(&registry, set_status("a", DeviceStatus::Blocked)).await;
    let elsewhere = Change::SetOption {
        tenant: tenant("umbrella"),
        category: "c".into(),
        key: "k".into(),
        value: Some("'\"; --\u{1b}[31m".into()),
    };
    assert_eq!(registry.apply(&Actor::edge(), elsewhere).await.unwrap(), Outcome::Done);
    let new_key = Change::AddSigningKey { row: key("k1", "ES256", NOW), unless_published_since: 0 };
    apply(&registry, new_key).await;
    apply(&registry, delete("a")).await;

    let query = |tenant, before, limit| registry.audit(AuditQuery { tenant, before, limit });
    let all = query(None, None, 10).await.unwrap();
    let told: Vec<_> = all.iter().map(|row| (&*row.action, &*row.target)).collect();
    let expected = [
        ("device.delete", "a"),
        ("signing_key.add", "k1"),
        ("option.set", "c/k"),
        ("device.block", "a"),
    ];
    assert_eq!(told, expected);
    assert!(all.is_sorted_by(|newer, older| newer.id > older.id));
    assert_eq!(
        (&*all[0].actor, &all[0].tenant, all[0].at),
        ("ops (192.0.2.7)", &Some(acme()), NOW)
    );
    assert_eq!((&*all[1].actor, &all[1].tenant), ("ops (192.0.2.7)", &None));
    assert!(!all.iter().any(|row| row.detail.contains("c2VhbGVk")));
    // What could break out of a line of a terminal or a log is escaped.
    assert_eq!((&*all[2].actor, &*all[2].detail), ("portcullis", "value=\"'\\\"; --\\u{1b}[31m\""));

    assert_eq!(query(None, Some(all[1].id), 1).await.unwrap(), all[2..3]);
    let of_acme = query(Some(acme()), None, 10).await.unwrap();
    assert_eq!(of_acme, [all[0].clone(), all[3].clone()]);
}

async fn the_audit_trail_reaches_back_four_hundred_days(home: Home) {
    let clock = Clock::manual(NOW);
    let registry = Registry::open(home.settings(), clock.clone(), metrics()).await.unwrap();
    home.sql(
        "INSERT INTO audit (id, at, actor, action, target, detail)
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)
         SELECT -i, 5, 'ops', 'option.set', 'c/k', '' FROM n",
    )
    .await;
    // Some with each change.
    apply(&registry, option("a", Some("v"))).await;
    assert_eq!(home.number("SELECT COUNT(*) FROM audit").await, 501);
    clock.advance(AUDIT_KEPT);
    apply(&registry, option("b", Some("v"))).await;
    clock.advance(1);
    apply(&registry, option("c", Some("v"))).await;
    let audit = AuditQuery { limit: 9, ..AuditQuery::default() };
    let audit = registry.audit(audit).await.unwrap();
    let told: Vec<_> = audit.iter().map(|row| &*row.target).collect();
    assert_eq!(told, ["oauth.internal/c", "oauth.internal/b"]);
}

async fn devices_are_counted_alike_in_memory_and_in_the_store(home: Home) {
    let registry = home.open().await;
    let counts = async |registry: &Registry, tenant: &TenantId| {
        (registry.known_devices(tenant), registry.device_count(tenant).await.unwrap())
    };
    register(&registry, "a").await.unwrap();
    register(&registry, "a").await.unwrap();
    apply(&registry, bulk(&["a", "b", "c"])).await;
    apply(&registry, pin("d", LEAF)).await;
    let other = tenant("umbrella");
    registry.register(&other, &device("a"), &LEAF, &ANCHOR).await.unwrap();
    assert_eq!(counts(&registry, &acme()).await, (4, 4));
    apply(&registry, delete("d")).await;
    apply(&registry, set_status("a", DeviceStatus::Blocked)).await;
    assert_eq!(counts(&registry, &acme()).await, (3, 3));
    assert_eq!(counts(&registry, &other).await, (1, 1));
    assert_eq!(counts(&registry, &tenant("nobody")).await, (0, 0));
    registry.close().await;
    let registry = home.open().await;
    assert_eq!(counts(&registry, &acme()).await, (3, 3));
}

async fn what_is_out_of_bounds_is_refused_before_the_store(home: Home) {
    let registry = home.open().await;
    let unfit = async |change| match registry.apply(&operator(), change).await {
        Err(RegistryError::Unfit(reason)) => reason,
        other => panic!("{other:?}"),
    };
    unfit(option("k", Some("a\0b"))).await;
    unfit(option("k\n", Some("a"))).await;
    unfit(option("", Some("a"))).await;
    unfit(option("k", Some(&"x".repeat(5000)))).await;
    let mut foreign = bulk(&["a"]);
    if let Change::RegisterDevices { tenant: to, .. } = &mut foreign {
        *to = tenant("umbrella");
    }
    unfit(foreign).await;
    unfit(bulk(&vec!["a"; 1001])).await;
    for serial in ["", "0", "0A", "a1", "G", "-1", "1\0", &"F".repeat(41)] {
        let serials = vec![(serial.to_owned(), NOW)];
        unfit(Change::AddRevocations { tenant: acme(), serials }).await;
    }
    let serials = vec![("A".to_owned(), NOW); 5001];
    unfit(Change::AddRevocations { tenant: acme(), serials }).await;
    let huge = AnchorRecord { der: vec![0; 65 * 1024], ..anchor(1) };
    unfit(Change::AddAnchors { tenant: acme(), anchors: vec![huge] }).await;
    assert_eq!(home.number("SELECT version FROM registry_version").await, 0);
}
