//! How a node follows what others write.

use super::*;
use crate::registry::schema::MIGRATIONS;

on_both_engines!(
    two_nodes_see_each_others_changes,
    what_was_deleted_and_added_again_is_there,
    a_node_that_missed_pruned_deletions_loads_everything,
    a_backup_that_was_put_back_is_followed,
    a_row_that_portcullis_never_writes_ends_the_following_and_is_refused_at_a_start,
    a_registry_of_the_first_schema_is_brought_up_to_date,
    a_schema_from_the_future_is_refused,
    many_nodes_start_at_once,
    a_hundred_thousand_devices_are_loaded_in_seconds,
);

async fn two_nodes_see_each_others_changes(home: Home) {
    let (first, second) = (home.open().await, home.open().await);
    register(&first, "a").await.unwrap();
    apply(&first, set_status("a", DeviceStatus::Blocked)).await;
    apply(&first, pin("b", LEAF)).await;
    apply(&first, add_anchors(&[1])).await;
    apply(&first, option("k", Some("v"))).await;
    let serials = vec![("A".to_owned(), NOW)];
    apply(&first, Change::AddRevocations { tenant: acme(), serials }).await;
    let row = key("k", "ES256", NOW);
    apply(&first, Change::AddSigningKey { row, unless_published_since: 0 }).await;
    let seen = || {
        second.tenant(&acme()) == first.tenant(&acme())
            && second.signing_keys() == first.signing_keys()
    };
    eventually("the other node has it all", seen).await;
    assert_eq!(second.status(&acme(), &device("a")), Some(DeviceStatus::Blocked));
    assert_eq!(second.pinned(&acme(), &LEAF), Some(device("b")));

    // Both ways, and at once.
    register(&second, "c").await.unwrap();
    register(&first, "d").await.unwrap();
    apply(&second, delete("b")).await;
    apply(&second, option("k", None)).await;
    apply(&second, Change::DeleteAnchor { tenant: acme(), sha256: [1; 32] }).await;
    let seen = || {
        first.status(&acme(), &device("c")).is_some()
            && second.status(&acme(), &device("d")).is_some()
            && first.status(&acme(), &device("b")).is_none()
            && first.pin_owner(&LEAF) == PinOwner::Nobody
            && first.tenant(&acme()).options.is_empty()
            && first.tenant(&acme()).anchors.is_empty()
    };
    eventually("each node has the other's", seen).await;
    assert_eq!(first.tenant(&acme()).revocations.len(), 1);
    assert_eq!(register(&second, "a").await.unwrap().status, DeviceStatus::Blocked);
}

async fn what_was_deleted_and_added_again_is_there(home: Home) {
    // A node that polls once in an hour learns of everything at once, when it writes.
    let slow = RegistrySettings { poll: Duration::from_secs(3600), ..home.settings() };
    let (first, second) = (home.open().await, open_with(slow).await.unwrap());
    apply(&first, pin("a", LEAF)).await;
    apply(&first, add_anchors(&[1])).await;
    apply(&first, option("k", Some("v"))).await;
    apply(&second, option("other", Some("v"))).await;
    assert_eq!(second.pinned(&acme(), &LEAF), Some(device("a")));

    apply(&first, delete("a")).await;
    apply(&first, Change::DeleteAnchor { tenant: acme(), sha256: [1; 32] }).await;
    apply(&first, option("k", None)).await;
    apply(&first, pin("a", LEAF)).await;
    apply(&first, set_status("a", DeviceStatus::Blocked)).await;
    apply(&first, add_anchors(&[1, 2])).await;
    apply(&first, option("k", Some("w"))).await;
    apply(&second, option("other", Some("w"))).await;
    assert_eq!(second.status(&acme(), &device("a")), Some(DeviceStatus::Blocked));
    assert_eq!(second.pinned(&acme(), &LEAF), Some(device("a")));
    eventually("the first has the second's", || second.tenant(&acme()) == first.tenant(&acme()))
        .await;
    assert_eq!(second.tenant(&acme()).anchors.len(), 2);
}

async fn a_node_that_missed_pruned_deletions_loads_everything(home: Home) {
    let clock = Clock::manual(NOW);
    let open = async |poll| {
        let settings = RegistrySettings { poll: Duration::from_secs(poll), ..home.settings() };
        Registry::open(settings, clock.clone(), metrics()).await.unwrap()
    };
    let first = open(3600).await;
    for id in ["a", "b"] {
        register(&first, id).await.unwrap();
    }
    apply(&first, option("k", Some("v"))).await;
    // On SQLite nothing wakes the second node, which so misses what follows; PostgreSQL's
    // hears of it, and must come to the same.
    let second = open(3600).await;
    let before = second.tenant(&acme());
    apply(&first, delete("a")).await;
    clock.advance(2 * 86_400);
    apply(&first, delete("b")).await;
    assert_eq!(home.number("SELECT COUNT(*) FROM deletions").await, 1);
    let pruned = home.number("SELECT pruned FROM registry_version").await;
    assert_eq!(pruned, home.number("SELECT version - 1 FROM registry_version").await);
    register(&second, "c").await.unwrap();
    assert_eq!(second.status(&acme(), &device("a")), None);
    assert_eq!(second.status(&acme(), &device("b")), None);
    // What is as it was is not made anew.
    assert!(Arc::ptr_eq(&before, &second.tenant(&acme())));
}

async fn a_backup_that_was_put_back_is_followed(home: Home) {
    let registry = home.open().await;
    register(&registry, "old").await.unwrap();
    apply(&registry, add_anchors(&[1])).await;
    apply(&registry, option("k", Some("v"))).await;
    register(&registry, "new").await.unwrap();
    // As it was after the first registration: rows that are gone leave no deletion.
    let mut connection = home.connect().await;
    let mut backup = connection.begin().await.unwrap();
    for statement in [
        "UPDATE registry_version SET version = 1, pruned = 0",
        "DELETE FROM devices WHERE device_id = 'new'",
        "UPDATE devices SET status = 'blocked'",
        "DELETE FROM tenant_options",
    ] {
        backup.execute(statement, &[]).await.unwrap();
    }
    backup.commit().await.unwrap();
    eventually("memory is that of the backup", || {
        registry.status(&acme(), &device("new")).is_none()
            && registry.status(&acme(), &device("old")) == Some(DeviceStatus::Blocked)
            && registry.tenant(&acme()).options.is_empty()
    })
    .await;
    assert_eq!(registry.tenant(&acme()).anchors.len(), 1);
    register(&registry, "new").await.unwrap();
    assert!(registry.healthy());
}

async fn a_row_that_portcullis_never_writes_ends_the_following_and_is_refused_at_a_start(
    home: Home,
) {
    let stale = RegistrySettings { max_staleness: Duration::from_millis(300), ..home.settings() };
    let registry = open_with(stale).await.unwrap();
    register(&registry, "a").await.unwrap();
    // The row before its version: a poll between the two must not take the version for read.
    home.sql(
        "INSERT INTO devices (tenant, device_id, status, registered_by, registered_at, changed_at,
             version)
         SELECT 'acme', '../x', 'active', 'auto', 0, 0, version + 1 FROM registry_version",
    )
    .await;
    home.sql("UPDATE registry_version SET version = version + 1").await;
    eventually("it is not followed", || !registry.healthy()).await;
    eventually("memory ages", || !registry.fresh()).await;
    assert_eq!(registry.status(&acme(), &device("a")), Some(DeviceStatus::Active));
    let error = open_with(home.settings()).await.err().unwrap();
    assert!(matches!(error, RegistryError::Corrupt { source: StoreFault::Row(_), .. }), "{error}");

    home.sql("DELETE FROM devices WHERE device_id = '../x'").await;
    eventually("it is followed again", || registry.healthy() && registry.fresh()).await;
}

async fn a_registry_of_the_first_schema_is_brought_up_to_date(home: Home) {
    let mut connection = home.connect().await;
    match &mut connection {
        Connection::Sqlite(inside) => MIGRATIONS.run_direct(Some(1), inside, false).await.unwrap(),
        Connection::Postgres(inside) => {
            MIGRATIONS.run_direct(Some(1), inside, false).await.unwrap();
        }
    }
    let sql = "INSERT INTO devices VALUES ($1, 'a', 'blocked', 'auto', 5, 6, NULL, NULL)";
    connection.execute(sql, &["acme".into()]).await.unwrap();
    connection.close().await.unwrap();
    if let Home::Sqlite { file, .. } = &home {
        sqlite::only_for_its_owner(file);
    }
    let registry = home.open().await;
    assert_eq!(registry.status(&acme(), &device("a")), Some(DeviceStatus::Blocked));
    let record = registry.device(&acme(), &device("a")).await.unwrap().unwrap();
    assert_eq!((record.registered_at, record.changed_at, record.name), (5, 6, None));
    assert_eq!(apply(&registry, set_status("a", DeviceStatus::Active)).await, Outcome::Done);
    assert_eq!(apply(&registry, pin("a", LEAF)).await, Outcome::Done);
}

async fn a_schema_from_the_future_is_refused(home: Home) {
    home.open().await.close().await;
    home.sql("UPDATE _sqlx_migrations SET version = 9999 WHERE version = 2").await;
    let error = open_with(home.settings()).await.err().unwrap();
    assert!(matches!(error, RegistryError::TooNew { .. }), "{error}");
}

async fn many_nodes_start_at_once(home: Home) {
    let nodes: Vec<_> = (0..6).map(|_| tokio::spawn(open_with(home.settings()))).collect();
    for (index, node) in nodes.into_iter().enumerate() {
        let node = node.await.unwrap().unwrap();
        assert!(register(&node, &format!("d{index}")).await.unwrap().created);
    }
    assert_eq!(home.number("SELECT COUNT(*) FROM devices").await, 6);
    assert_eq!(home.number("SELECT COUNT(*) FROM registry_version").await, 1);
}

async fn a_hundred_thousand_devices_are_loaded_in_seconds(home: Home) {
    home.open().await.close().await;
    home.sql(
        "INSERT INTO devices (tenant, device_id, status, registered_by, registered_at, changed_at)
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
         SELECT 'tenant-' || (i % 7), 'device-' || i,
                CASE WHEN i = 77777 THEN 'blocked' ELSE 'active' END, 'bulk', 0, 0
         FROM n",
    )
    .await;
    let started = Instant::now();
    let registry = home.open().await;
    let taken = started.elapsed();
    assert!(taken < Duration::from_secs(10), "{taken:?}");
    for index in 1..=100_000 {
        let tenant = tenant(&format!("tenant-{}", index % 7));
        let expected = if index == 77_777 { DeviceStatus::Blocked } else { DeviceStatus::Active };
        assert_eq!(registry.status(&tenant, &device(&format!("device-{index}"))), Some(expected));
    }
}
