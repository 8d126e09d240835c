//! Several nodes on one PostgreSQL: who tells whom, and what becomes of it when the server
//! or its word is lost.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

/// Polls so seldom that only a notification can be in time.
fn deaf_to_polls(home: &Home) -> RegistrySettings {
    RegistrySettings { poll: Duration::from_secs(3600), ..home.settings() }
}

async fn listeners(home: &Home) -> i64 {
    home.number(
        "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'portcullis listener'
         AND query LIKE 'LISTEN%'",
    )
    .await
}

async fn until_listening(home: &Home, count: i64) {
    let end = Instant::now() + Duration::from_secs(10);
    while listeners(home).await < count {
        assert!(Instant::now() < end, "nobody listens");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_notification_tells_the_other_node_within_a_second() {
    let home = Home::postgres();
    let settings = deaf_to_polls(&home);
    let first = open_with(settings.clone()).await.unwrap();
    let second = open_with(settings).await.unwrap();
    until_listening(&home, 2).await;
    let started = Instant::now();
    register(&first, "a").await.unwrap();
    apply(&first, add_anchors(&[1])).await;
    eventually("the other node has it", || {
        second.status(&acme(), &device("a")).is_some() && second.tenant(&acme()).anchors.len() == 1
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn without_notifications_polling_goes_on_and_the_ear_comes_back() {
    let home = Home::postgres();
    let first = home.open().await;
    let second = home.open().await;
    until_listening(&home, 2).await;
    let ended = home
        .number(
            "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE application_name = 'portcullis listener'",
        )
        .await;
    assert_eq!(ended, 2);
    let started = Instant::now();
    register(&first, "a").await.unwrap();
    eventually("polled", || second.status(&acme(), &device("a")).is_some()).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    until_listening(&home, 2).await;
    assert!(first.healthy() && second.healthy());
}

#[tokio::test]
async fn a_lost_connection_is_made_anew_within_the_same_write() {
    let home = Home::postgres();
    let registry = open_with(deaf_to_polls(&home)).await.unwrap();
    apply(&registry, option("k", Some("v"))).await;
    home.number(
        "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE application_name = 'portcullis'",
    )
    .await;
    assert!(register(&registry, "a").await.unwrap().created);
    assert_eq!(apply(&registry, set_status("a", DeviceStatus::Blocked)).await, Outcome::Done);
    assert!(registry.healthy());
}

#[tokio::test]
async fn without_the_server_memory_serves_until_it_is_stale_and_writes_say_why_they_fail() {
    let mut home = Home::postgres();
    let settings =
        RegistrySettings { max_staleness: Duration::from_millis(300), ..home.settings() };
    let registry = open_with(settings).await.unwrap();
    register(&registry, "a").await.unwrap();
    let Home::Postgres(postgres) = &mut home else { panic!() };
    postgres.stop();
    eventually("it notices", || !registry.healthy()).await;
    eventually("memory is stale", || !registry.fresh()).await;
    assert_eq!(registry.status(&acme(), &device("a")), Some(DeviceStatus::Active));
    let started = Instant::now();
    let error = register(&registry, "b").await.unwrap_err();
    assert!(started.elapsed() < DEADLINE + Duration::from_millis(500));
    let text = error.to_string();
    assert!(text.contains("at PostgreSQL 127.0.0.1:") && text.contains("refused"), "{text}");
    assert_eq!(registry.status(&acme(), &device("b")), None);
    let error = registry.devices(page(1)).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unavailable { .. }), "{error}");

    let error = open_with(home.settings()).await.err().unwrap();
    assert!(matches!(error, RegistryError::Open { .. }), "{error}");
    let Home::Postgres(postgres) = &mut home else { panic!() };
    postgres.start_again();
    eventually("it is back", || registry.healthy() && registry.fresh()).await;
    assert!(register(&registry, "b").await.unwrap().created);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_under_load_loses_nothing_that_was_answered() {
    let mut home = Home::postgres();
    let nodes = [home.open().await, home.open().await];
    let (ended, failures) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let answered: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let node = nodes[task % 2].clone();
            let (ended, failures) = (ended.clone(), failures.clone());
            let answered = answered.clone();
            tokio::spawn(async move {
                for number in 0.. {
                    if ended.load(Ordering::Acquire) {
                        break;
                    }
                    let id = format!("d{task}-{number}");
                    match register(&node, &id).await {
                        Ok(_) => {
                            answered.lock().unwrap().insert(id);
                        }
                        Err(_) => {
                            failures.fetch_add(1, Ordering::AcqRel);
                            sleep(Duration::from_millis(10)).await;
                        }
                    }
                }
            })
        })
        .collect();
    let count = || answered.lock().unwrap().len();
    for _ in 0..3 {
        let before = count();
        eventually("there is load", || count() > before + 50).await;
        let Home::Postgres(postgres) = &mut home else { panic!() };
        tokio::task::block_in_place(|| postgres.stop());
        let before = failures.load(Ordering::Acquire);
        eventually("writes fail", || failures.load(Ordering::Acquire) > before).await;
        tokio::task::block_in_place(|| postgres.start_again());
    }
    let before = count();
    eventually("there is load again", || count() > before + 50).await;
    ended.store(true, Ordering::Release);
    for task in tasks {
        task.await.unwrap();
    }
    let fresh = home.open().await;
    for id in answered.lock().unwrap().iter() {
        assert!(fresh.status(&acme(), &device(id)).is_some(), "{id}");
        assert!(nodes.iter().any(|node| node.status(&acme(), &device(id)).is_some()), "{id}");
    }
    for node in &nodes {
        let id = answered.lock().unwrap().last().unwrap().clone();
        eventually("each node has the others'", || node.status(&acme(), &device(&id)).is_some())
            .await;
        assert!(node.healthy());
    }
}

#[tokio::test]
async fn a_server_that_was_replaced_while_it_was_away_is_read_anew() {
    let mut home = Home::postgres();
    let registry = home.open().await;
    for id in ["a", "b", "c"] {
        register(&registry, id).await.unwrap();
    }
    let Home::Postgres(postgres) = &mut home else { panic!() };
    postgres.stop();
    eventually("it notices", || !registry.healthy()).await;
    postgres.start_again();
    // A backup without `c`, on which somebody has since come past this node's version.
    let mut connection = home.connect().await;
    let mut backup = connection.begin().await.unwrap();
    for statement in [
        "DELETE FROM devices WHERE device_id = 'c'",
        "UPDATE devices SET status = 'blocked', version = 2 WHERE device_id = 'a'",
        "UPDATE registry_version SET version = 9",
    ] {
        backup.execute(statement, &[]).await.unwrap();
    }
    backup.commit().await.unwrap();
    eventually("it is read anew", || {
        registry.status(&acme(), &device("c")).is_none()
            && registry.status(&acme(), &device("a")) == Some(DeviceStatus::Blocked)
    })
    .await;
}

#[tokio::test]
async fn a_writer_that_holds_the_lock_costs_a_clear_error_and_no_connection() {
    let home = Home::postgres();
    let registry = open_with(deaf_to_polls(&home)).await.unwrap();
    register(&registry, "a").await.unwrap();
    let mut connection = home.connect().await;
    let mut holder = connection.begin().await.unwrap();
    holder.execute("UPDATE registry_version SET version = version", &[]).await.unwrap();
    let error = register(&registry, "b").await.unwrap_err();
    assert!(error.to_string().contains("lock timeout"), "{error}");
    holder.rollback().await.unwrap();
    assert!(register(&registry, "b").await.unwrap().created);
}

#[tokio::test]
async fn tls_is_as_strict_as_the_url_says() {
    let home = Home::postgres();
    let Home::Postgres(postgres) = &home else { panic!() };
    let open = |host, mode| open_with(RegistrySettings::new(postgres.tls_url(host, mode)));
    for (host, mode) in [("localhost", "verify-full"), ("127.0.0.1", "verify-ca")] {
        let registry = open(host, mode).await.unwrap();
        register(&registry, "a").await.unwrap();
        let encrypted = home
            .number(
                "SELECT COUNT(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                 WHERE ssl AND application_name = 'portcullis'",
            )
            .await;
        assert!(encrypted >= 1, "{mode}");
        registry.close().await;
    }
    let error = open("127.0.0.1", "verify-full").await.err().unwrap();
    assert!(matches!(error, RegistryError::Open { .. }), "{error}");
}
