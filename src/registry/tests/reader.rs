//! Operators' questions: whatever becomes of them, writes and polls go on.

use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::*;
use crate::registry::questions;
use crate::registry::sql::Location;
use crate::registry::store::Answers;

/// Has no answer to a question for devices, and a fault for the audit trail.
pub(super) struct Silent(pub(super) Place);

#[async_trait(?Send)]
impl Answers for Silent {
    fn place(&self) -> &Place {
        &self.0
    }

    async fn devices(&mut self, _: &DeviceQuery) -> Result<Vec<DeviceRecord>, StoreFault> {
        pending().await
    }

    async fn device(
        &mut self,
        _: &TenantId,
        _: &DeviceId,
    ) -> Result<Option<DeviceRecord>, StoreFault> {
        Ok(None)
    }

    async fn device_count(&mut self, _: &TenantId) -> Result<u64, StoreFault> {
        Ok(7)
    }

    async fn audit(&mut self, _: &AuditQuery) -> Result<Vec<AuditRecord>, StoreFault> {
        Err(StoreFault::Row("a fault of the test"))
    }

    async fn close(self: Box<Self>) {}
}

/// A registry that writes to a file and is silent when it is asked.
async fn silent(home: &Home, question_deadline: Duration) -> Arc<Registry> {
    let settings = home.settings();
    let location = Location::parse(&settings.url).unwrap();
    let answers = Box::new(Silent(Place::sqlite(Path::new("silent"))));
    let opening = async move {
        let store: Box<dyn Store> = Box::new(location.open(Arc::default()).await?);
        Ok(store)
    };
    let bounds = Bounds { question_deadline, ..BOUNDS };
    let clock = Clock::manual(NOW);
    Registry::start(opening, answers, Arc::default(), &settings, clock, metrics(), bounds)
        .await
        .unwrap()
}

#[tokio::test]
async fn an_unanswered_question_ends_by_its_deadline_and_harms_neither_writes_nor_health() {
    let home = Home::sqlite();
    let registry = silent(&home, Duration::from_millis(300)).await;
    let asked = tokio::spawn({
        let registry = registry.clone();
        async move { registry.devices(page(1)).await }
    });
    sleep(Duration::from_millis(50)).await;
    register(&registry, "a").await.unwrap();
    apply(&registry, set_status("a", DeviceStatus::Blocked)).await;
    assert!(!asked.is_finished());
    let error = asked.await.unwrap().unwrap_err();
    assert!(matches!(error, RegistryError::Timeout { .. }), "{error}");
    // The next one is asked all the same.
    assert_eq!(registry.device_count(&acme()).await.unwrap(), 7);
    let error = registry.audit(AuditQuery::default()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unavailable { .. }), "{error}");
    assert!(registry.healthy() && registry.fresh());
}

#[tokio::test]
async fn a_bounded_number_of_questions_wait_and_none_holds_up_the_end() {
    let home = Home::sqlite();
    let registry = silent(&home, Duration::from_secs(600)).await;
    let asked: Vec<_> = (0..QUESTIONS + 16)
        .map(|_| {
            let registry = registry.clone();
            tokio::spawn(async move { registry.devices(page(1)).await.unwrap_err() })
        })
        .collect();
    // One is with the reader, if it was quick, and the others wait.
    let refused = || asked.iter().filter(|question| question.is_finished()).count();
    eventually("some are refused", || refused() >= 15).await;
    register(&registry, "a").await.unwrap();
    assert!(registry.healthy());
    let started = Instant::now();
    registry.close().await;
    assert!(started.elapsed() < Duration::from_secs(2));
    let mut busy = 0;
    for question in asked {
        match question.await.unwrap() {
            RegistryError::Busy { .. } => busy += 1,
            RegistryError::Closed => {}
            other => panic!("{other}"),
        }
    }
    assert!((15..=16).contains(&busy), "{busy}");
    assert!(matches!(registry.devices(page(1)).await, Err(RegistryError::Closed)));
}

/// The questions match far more devices than they give and find none, so that each reads a
/// hundred thousand rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_registration_stays_quick_while_sixteen_slow_questions_run() {
    let home = Home::sqlite();
    home.open().await.close().await;
    home.sql(
        "INSERT INTO devices (tenant, device_id, status, registered_by, registered_at, changed_at)
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)
         SELECT 'acme', 'device-' || i, 'blocked', 'bulk', 0, 0 FROM n",
    )
    .await;
    let registry = home.open().await;
    let ended = Arc::new(AtomicBool::new(false));
    let questions: Vec<_> = (0..16)
        .map(|_| {
            let (registry, ended) = (registry.clone(), ended.clone());
            tokio::spawn(async move {
                let mut answered = 0;
                while !ended.load(Ordering::Acquire) {
                    let query = DeviceQuery {
                        status: Some(DeviceStatus::Active),
                        id_prefix: Some("device-1".into()),
                        ..page(1000)
                    };
                    assert!(registry.devices(query).await.unwrap().is_empty());
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    let mut taken = Vec::new();
    for number in 0..21 {
        let started = Instant::now();
        assert!(register(&registry, &format!("new-{number}")).await.unwrap().created);
        taken.push(started.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    ended.store(true, Ordering::Release);
    let mut answered = 0;
    for question in questions {
        answered += question.await.unwrap();
    }
    taken.sort();
    // Not the slowest: a machine with other work may hold up any single one.
    assert!(answered >= 16);
    assert!(taken[10] < Duration::from_millis(200), "{taken:?}");
    assert!(registry.healthy());
}

#[tokio::test]
async fn each_question_is_a_search_in_an_index() {
    let home = Home::sqlite();
    home.open().await.close().await;
    let mut connection = home.connect().await;
    let page: [Value<'_>; 4] = ["acme".into(), "a".into(), "b".into(), 10.into()];
    let audit: [Value<'_>; 3] = [10.into(), 10.into(), "acme".into()];
    let cases: [(&str, &[Value<'_>], &str); 5] = [
        (questions::PAGE, &page, "(tenant=? AND device_id>? AND device_id<?)"),
        (questions::PAGE_OF_ACTIVE, &page, "(tenant=? AND device_id>? AND device_id<?)"),
        (questions::PAGE_OF_BLOCKED, &page, "INDEX devices_blocked (tenant=? AND device_id>?"),
        (questions::AUDIT, &audit[..2], "(id<?)"),
        (questions::AUDIT_OF_TENANT, &audit, "INDEX audit_by_tenant (tenant=? AND id<?)"),
    ];
    for (statement, values, expected) in cases {
        let rows =
            connection.rows(format!("EXPLAIN QUERY PLAN {statement}"), values).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get(3).unwrap()).collect();
        assert!(
            plan.len() == 1 && plan[0].contains("SEARCH") && plan[0].contains(expected),
            "{plan:?}"
        );
    }
}

#[tokio::test]
async fn a_question_that_is_broken_off_on_sqlite_ends_within_the_engine_too() {
    let home = Home::sqlite();
    let registry = home.open().await;
    register(&registry, "a").await.unwrap();
    registry.close().await;
    let engines = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names =
            tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("sqlx-sqlite")).count()
    };
    eventually("nothing is open", || engines() == 0).await;
    let mut reader = Location::parse(&home.settings().url).unwrap().reader();
    let endless = reader.with(async |connection| {
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
                   SELECT COUNT(*) FROM n";
        connection.rows(sql, &[]).await
    });
    assert!(tokio::time::timeout(Duration::from_millis(200), endless).await.is_err());
    eventually("SQLite's thread has ended", || engines() == 0).await;
    assert_eq!(reader.device_count(&acme()).await.unwrap(), 1);
    let refused =
        reader.with(async |connection| connection.execute("DELETE FROM devices", &[]).await);
    assert!(refused.await.unwrap_err().to_string().contains("readonly"));
}

#[tokio::test]
async fn a_question_is_answered_over_a_new_connection_where_the_old_one_is_lost() {
    let mut home = Home::postgres();
    let registry = home.open().await;
    register(&registry, "a").await.unwrap();
    assert_eq!(ids(&registry, page(9)).await, ["a"]);
    let ended = home
        .number(
            "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE application_name = 'portcullis reader'",
        )
        .await;
    assert_eq!(ended, 1);
    assert_eq!(ids(&registry, page(9)).await, ["a"]);

    let Home::Postgres(postgres) = &mut home else { panic!() };
    postgres.stop();
    let error = registry.devices(page(1)).await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    let Home::Postgres(postgres) = &mut home else { panic!() };
    postgres.start_again();
    let end = Instant::now() + Duration::from_secs(10);
    while registry.devices(page(9)).await.is_err() {
        assert!(Instant::now() < end, "it never answers again");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Where the server's language would put `a` before `B`.
#[tokio::test]
async fn on_postgresql_devices_are_ordered_by_their_bytes_whatever_its_language() {
    let home = Home::postgres();
    home.sql("CREATE DATABASE icu TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en'").await;
    let Home::Postgres(postgres) = &home else { panic!() };
    let url = postgres.url().replace("/postgres?", "/icu?");
    let registry = open_with(RegistrySettings::new(url)).await.unwrap();
    for id in ["a", "B", "b-1", "b_1", "B1", "b1"] {
        register(&registry, id).await.unwrap();
    }
    assert_eq!(ids(&registry, page(9)).await, ["B", "B1", "a", "b-1", "b1", "b_1"]);
    let by = |prefix: &str| DeviceQuery { id_prefix: Some(prefix.into()), ..page(9) };
    assert_eq!(ids(&registry, by("b")).await, ["b-1", "b1", "b_1"]);
    assert_eq!(ids(&registry, by("B")).await, ["B", "B1"]);
    let behind = DeviceQuery { after: Some(device("B1")), ..page(2) };
    assert_eq!(ids(&registry, behind).await, ["a", "b-1"]);
}
