//! What an edge makes of the database that it finds at its start.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Output;

use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection};

use crate::pki::{Minted, Template};
use crate::postgres::Postgres;
use crate::world::{Config, Process, World, eventually, plain_get, portcullis};

use super::{block_on, database};

const JSON_LOG: &str = "{ format: json, level: info, requests: false }";

#[test]
fn a_database_that_cannot_be_used_ends_the_start_with_a_reason_and_no_password() {
    let postgres = Postgres::start();
    let admin = postgres.url();
    database::postgres(&admin, "CREATE ROLE edge LOGIN PASSWORD 'hunter2'");
    database::postgres(&admin, "CREATE DATABASE edge OWNER edge");
    ask_for_passwords(&postgres);
    let of = |user: &str, database: &str| {
        admin
            .replace("postgres@", &format!("{user}@"))
            .replace("/postgres?", &format!("/{database}?"))
    };
    let advice = "check that PostgreSQL runs and can be reached, the url's host, port, database, \
                  user, password and sslmode, and that the user may create tables";
    let place = |database: &str| {
        format!("{database} at PostgreSQL {}", admin.split(['@', '/']).nth(3).unwrap())
    };

    let told = refused(&of("edge:hunter3", "edge"), "");
    let reason = "password authentication failed for user \"edge\"";
    assert_told(&told, &[&place("edge"), advice, reason]);

    let told = refused(&of("edge", "edge"), ", password_file: wrong.password");
    assert_told(&told, &[&place("edge"), advice, reason]);

    let told = refused(&of("edge:hunter2", "nowhere"), "");
    assert_told(&told, &[&place("nowhere"), advice, "database \"nowhere\" does not exist"]);

    // PostgreSQL's own database lets nobody but its owner make tables.
    let told = refused(&of("edge:hunter2", "postgres"), "");
    assert_told(&told, &[&place("postgres"), advice, "permission denied for schema public"]);

    let world = on(&of("edge", "edge"), ", password_file: right.password");
    let mut process = Process::run(&world);
    assert_eq!(process.acme_client(&world).token().unwrap().status, 200);
    assert_eq!(plain_get(process.admin, "/readyz").status, 200);
    process.signal(libc::SIGTERM);
    process.wait();
    assert!(!process.text().contains("hunter"), "{}", process.text());

    let sql = "UPDATE _sqlx_migrations SET version = 9999 WHERE version = 2";
    database::postgres(&of("edge:hunter2", "edge"), sql);
    let told = refused(&of("edge:hunter2", "edge"), "");
    assert_told(&told, &[&place("edge"), "was written by a newer portcullis", "run that version"]);

    drop(postgres);
    let told = refused(&of("edge:hunter2", "edge"), "");
    assert_told(&told, &[&place("edge"), advice, "refused"]);
}

#[test]
fn the_way_to_a_database_on_another_machine_has_to_be_chosen() {
    let faulty = "postgres://edge:hunter2@db.example.com/edge";
    let world = on(faulty, "");
    for command in ["check", "run"] {
        let output = portcullis(&[command, "--config", world.file().to_str().unwrap()]);
        assert!(!output.status.success());
        let told = text(&output);
        assert_told(
            &told,
            &["PostgreSQL on another machine", "sslmode=verify-full", "sslmode=disable"],
        );
    }
    for mode in ["disable", "require", "verify-full"] {
        let world = on(&format!("{faulty}?sslmode={mode}"), "");
        let output = portcullis(&["check", "--config", world.file().to_str().unwrap()]);
        assert!(output.status.success(), "{mode}: {}", text(&output));
    }
}

#[test]
fn the_database_is_verified_against_a_ca_of_its_own() {
    let postgres = Postgres::start();
    // Its first certificate is its own root.
    let itself = on(&postgres.tls_url("localhost", "verify-full"), "");
    assert_eq!(Process::run(&itself).acme_client(&itself).token().unwrap().status, 200);

    let root = Template::ca("Database root").self_signed();
    certify(&postgres, &Template::server(&["localhost"]).signed_by(&root));
    let url = |host: &str, root: &Path| {
        let url = postgres.url().replace("127.0.0.1", host);
        let root = root.display();
        url.replace("sslmode=disable", &format!("sslmode=verify-full&sslrootcert={root}"))
    };
    let roots = tempfile::tempdir().unwrap();
    let file = |name: &str| roots.path().join(name);
    fs::write(file("right.pem"), root.pem()).unwrap();
    // Of the same name: only its key tells that it is another one.
    fs::write(file("wrong.pem"), Template::ca("Database root").self_signed().pem()).unwrap();

    let good = url("localhost", &file("right.pem"));
    eventually("it has its new certificate", || block_on(PgConnection::connect(&good)).is_ok());
    let world = on(&good, "");
    let process = Process::run(&world);
    assert_eq!(process.acme_client(&world).token().unwrap().status, 200);
    let sql =
        "SELECT CAST(bool_and(ssl) AS TEXT) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
               WHERE application_name LIKE 'portcullis%'";
    assert_eq!(database::postgres(&postgres.url(), sql), ["true"]);

    for (host, root) in [("localhost", "wrong.pem"), ("127.0.0.1", "right.pem")] {
        let told = refused(&url(host, &file(root)), "");
        assert_told(&told, &["cannot be opened", "sslmode", "certificate verify failed"]);
    }
}

#[test]
fn an_edge_takes_over_what_the_first_version_has_stored() {
    let world = World::files(|_, config| config.log = JSON_LOG.into());
    let file = world.dir.path().join("edge.db");
    // What the first version made, by its own statements.
    let migrations = tempfile::tempdir().unwrap();
    let first = "0001_devices.sql";
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/registry/migrations");
    fs::copy(source.join(first), migrations.path().join(first)).unwrap();
    world.write_secret("edge.db", b"");
    block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file);
        let mut connection = options.connect().await.unwrap();
        let first = Migrator::new(migrations.path()).await.unwrap();
        first.run_direct(None, &mut connection, false).await.unwrap();
        connection.close().await.unwrap();
    });
    database::sqlite(
        &file,
        "INSERT INTO devices VALUES
             ('acme', 'acme-device-1', 'active', 'auto', 5, 5, NULL, NULL),
             ('acme', 'acme-device-2', 'blocked', 'auto', 5, 6, NULL, NULL)",
    );
    let mut config = Config { log: JSON_LOG.into(), ..Config::default() };
    // Who is served from now on is known from before.
    config.acme = "trusted_certificates: [{ file: acme-root.pem }]".into();
    world.configure(&config);

    let process = Process::run(&world);
    let client = |name: &str| {
        let leaf = world.acme.another(name);
        process.acme_client(&world).identity(&[&leaf, &world.acme.issuing])
    };
    for (name, status) in [("acme-device-1", 200), ("acme-device-2", 403), ("acme-device-3", 403)] {
        assert_eq!(client(name).token().unwrap().status, status, "{name}");
    }
    let api = process.operator();
    let device = api.get("/tenant/tenants/acme/devices/acme-device-2").json();
    assert_eq!(device["status"], "BLOCKED");
    let path = "/tenant/tenants/acme/devices/acme-device-2";
    assert_eq!(api.ask("PUT", path, serde_json::json!({ "status": "ACTIVE" })).status, 200);
    assert_eq!(client("acme-device-2").token().unwrap().status, 200);
}

fn on(url: &str, keys: &str) -> World {
    let world = World::files(|_, config| {
        config.registry = format!("{{ url: \"{url}\"{keys} }}");
        config.log = JSON_LOG.into();
    });
    world.write_secret("right.password", b"hunter2\n");
    world.write_secret("wrong.password", b"hunter3\n");
    world
}

/// What an edge says that does not start.
fn refused(url: &str, keys: &str) -> String {
    let world = on(url, keys);
    let output = portcullis(&["run", "--config", world.file().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    text(&output)
}

#[track_caller]
fn assert_told(told: &str, parts: &[&str]) {
    for part in parts {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
    assert!(!told.contains("hunter"), "{told}");
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// From now on the user `edge` has to show its password.
fn ask_for_passwords(postgres: &Postgres) {
    let url = postgres.url();
    let rules = database::postgres(&url, "SHOW hba_file").remove(0);
    let others = fs::read_to_string(&rules).unwrap();
    fs::write(&rules, format!("host all edge all scram-sha-256\n{others}")).unwrap();
    database::postgres(&url, "SELECT CAST(pg_reload_conf() AS TEXT)");
    let sql = "SELECT auth_method FROM pg_hba_file_rules WHERE error IS NULL ORDER BY line_number";
    assert_eq!(database::postgres(&url, sql)[0], "scram-sha-256");
    let edge = url.replace("postgres@", "edge@");
    eventually("it asks for the password", || block_on(PgConnection::connect(&edge)).is_err());
}

/// Gives PostgreSQL another certificate.
fn certify(postgres: &Postgres, server: &Minted) {
    let url = postgres.url();
    let data = database::postgres(&url, "SHOW data_directory").remove(0);
    let folder = Path::new(&data).parent().unwrap();
    let owner = fs::metadata(&data).unwrap();
    for (name, pem) in [("server.pem", server.pem().into_bytes()), ("server.key", server.key.pem())]
    {
        // The files stay PostgreSQL's own.
        fs::write(folder.join(name), pem).unwrap();
        chown(folder.join(name), Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    database::postgres(&url, "SELECT CAST(pg_reload_conf() AS TEXT)");
}
