//! Several nodes on one PostgreSQL: who tells whom, and what becomes of it when the server
//! or its word is lost.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::registry::postgres::Postgres;

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

/// What was answered outlives the server, whatever its database is set up for.
#[tokio::test]
async fn a_commit_waits_for_the_disk_where_the_database_says_otherwise() {
    for (set_up, in_force) in [("off", "on"), ("local", "local")] {
        let home = Home::postgres();
        let url = home.settings().url;
        let and = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{and}options=-csynchronous_commit%3D{set_up}");
        let (mut connection, _) = Postgres::new(&url).unwrap().reconnect().await.unwrap();
        let (now,): (String,) =
            sqlx::query_as("SHOW synchronous_commit").fetch_one(&mut connection).await.unwrap();
        assert_eq!(now, in_force);
    }
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

#[tokio::test]
async fn a_database_with_another_default_isolation_costs_no_write() {
    let home = Home::postgres();
    home.sql("ALTER DATABASE postgres SET default_transaction_isolation = 'serializable'").await;
    let nodes = [home.open().await, home.open().await];
    let tasks: Vec<_> = (0..100)
        .map(|number| {
            let node = nodes[number % 2].clone();
            tokio::spawn(async move { register(&node, &format!("d{number}")).await.unwrap() })
        })
        .collect();
    for task in tasks {
        assert!(task.await.unwrap().created);
    }
    for number in 0..20 {
        let (edge, key, value) = (Actor::edge(), format!("k{number}"), Some("v"));
        let (one, other) = tokio::join!(
            nodes[0].apply(&edge, option(&key, value)),
            nodes[1].apply(&edge, option(&key, value)),
        );
        assert_eq!((one.unwrap(), other.unwrap()), (Outcome::Done, Outcome::Done));
    }
}

/// What the log has taken.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_node_that_is_not_told_of_changes_says_so_once_and_once_when_it_is() {
    let mut home = Home::postgres();
    let Home::Postgres(postgres) = &mut home else { panic!() };
    let url = postgres.url();
    postgres.stop();
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false);
    let _log = tracing::subscriber::set_default(log.finish());
    let count = |what: &str| {
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(what)).count()
    };
    let ear = crate::registry::postgres::Postgres::new(&url).unwrap().listen(Arc::default());
    eventually("it says so", || count("WARN") == 1).await;
    // Several more attempts.
    sleep(Duration::from_secs(2)).await;
    assert_eq!((count("WARN"), count("again")), (1, 0));
    let Home::Postgres(postgres) = &mut home else { panic!() };
    postgres.start_again();
    eventually("it says so again", || count("told of other nodes' changes again") == 1).await;
    assert_eq!(count("WARN"), 1);
    ear.abort();
}
