//! Bulk registration: good files, bad rows, bad files.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::Frame;
use serde_json::{Value, json};

use super::{ACME_OPERATOR, Answer, OPERATOR, World, request};
use crate::names::{DeviceId, TenantId};
use crate::registry::{DeviceStatus, RegisteredBy};

const PATH: &str = "/devicecontrol/bulkNewDeviceRequests";

fn counts(report: &Value) -> [u64; 4] {
    ["All", "Created", "Failed", "Successful"]
        .map(|name| report[format!("numberOf{name}")].as_u64().unwrap())
}

/// `line: reason` of each failed row.
fn failures(report: &Value) -> Vec<String> {
    let rows = report["failedCreationList"].as_array().unwrap().iter();
    rows.map(|row| {
        assert_eq!(row["bulkNewDeviceStatus"], "FAILED");
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        format!("{}: {}", text("line"), text("failureReason"))
    })
    .collect()
}

async fn multipart(world: &World, token: &str, path: &str, body: &str) -> Answer {
    let request = request("POST", path, Some(token))
        .header("content-type", "multipart/form-data; boundary=XX")
        .body(Body::new(Frames(
            body.as_bytes().chunks(8_192).map(Bytes::copy_from_slice).collect(),
        )))
        .unwrap();
    world.ask(request).await
}

/// A body that comes in pieces, as it does from a socket.
struct Frames(VecDeque<Bytes>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}

fn part(name: &str, content: &str) -> String {
    format!(
        "--XX\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"d.csv\"\r\n\r\n{content}\r\n"
    )
}

#[tokio::test]
async fn one_bad_row_never_loses_the_good_ones() {
    let world = World::new().await;
    let csv = "ID;AUTH_TYPE;CREDENTIALS;TENANT;TYPE;NAME;ICCID;external-serial\r\n\
        d1;CERTIFICATES;;;pump;\"Pump; 1\";893;x\r\n\
        d 2;CERTIFICATES;;;;;;\r\n\
        d3;BASIC;;;;;;\r\n\
        d4;CERTIFICATES;secret-of-d4;;;;;\r\n\
        d5;CERTIFICATES;;globex;;;;\r\n\
        d6;CERTIFICATES;;acme;;;;\r\n\
        d7;;;;;;;\r\n\
        ;CERTIFICATES;;;;;;\r\n\
        d8;certificates\r\n\
        d1;CERTIFICATES;;;;;;\r\n";
    let answer = world.csv(ACME_OPERATOR, "POST", PATH, csv).await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    let report = answer.json();
    assert_eq!(counts(&report), [10, 3, 6, 4]);
    let failures = failures(&report);
    let expected =
        ["3: ID", "4: AUTH_TYPE", "5: CREDENTIALS", "6: TENANT", "8: AUTH_TYPE", "9: ID"];
    assert_eq!(failures.len(), expected.len());
    for (failure, expected) in failures.iter().zip(expected) {
        assert!(failure.starts_with(expected), "{failure}");
        assert!(!failure.contains("secret-of-d4"));
    }
    let known = json!([{ "bulkNewDeviceStatus": "CREDENTIAL_UPDATED", "deviceId": "d1" }]);
    assert_eq!(report["credentialUpdatedList"], known);
    let acme = TenantId::parse("acme").unwrap();
    let d1 =
        world.registry().device(&acme, &DeviceId::parse("d1").unwrap()).await.unwrap().unwrap();
    assert_eq!((d1.status, d1.registered_by), (DeviceStatus::Active, RegisteredBy::Bulk));
    assert_eq!((d1.device_type.as_deref(), d1.name.as_deref()), (Some("pump"), Some("Pump; 1")));
}

#[tokio::test]
async fn a_blocked_device_stays_blocked() {
    let world = World::new().await;
    let csv = "ID,AUTH_TYPE\nd1,CERTIFICATES\n";
    world.csv(ACME_OPERATOR, "POST", PATH, csv).await;
    let block = json!({ "status": "BLOCKED" });
    world.send(ACME_OPERATOR, "PUT", "/tenant/tenants/acme/devices/d1", block).await;
    let report = world.csv(ACME_OPERATOR, "POST", PATH, csv).await.json();
    assert_eq!(counts(&report), [1, 0, 0, 1]);
    let acme = TenantId::parse("acme").unwrap();
    let status = world.registry().status(&acme, &DeviceId::parse("d1").unwrap());
    assert_eq!(status, Some(DeviceStatus::Blocked));
}

#[tokio::test]
async fn more_rows_than_one_batch_are_registered_in_several() {
    let world = World::new().await;
    let rows: String = (0..2_345).map(|n| format!("d{n},CERTIFICATES\n")).collect();
    let csv = format!("ID,AUTH_TYPE\n{rows}");
    let report = world.csv(ACME_OPERATOR, "POST", PATH, &csv).await.json();
    assert_eq!(counts(&report), [2_345, 2_345, 0, 2_345]);
    let acme = TenantId::parse("acme").unwrap();
    assert_eq!(world.registry().device_count(&acme).await.unwrap(), 2_345);
}

#[tokio::test]
async fn lists_end_and_counts_do_not() {
    let world = World::new().await;
    let csv = format!("ID,AUTH_TYPE\n{}", "d1,BASIC\n".repeat(10_050));
    let report = world.csv(ACME_OPERATOR, "POST", PATH, &csv).await.json();
    assert_eq!(counts(&report), [10_050, 0, 10_050, 0]);
    assert_eq!(failures(&report).len(), 10_000);
}

#[tokio::test]
async fn the_tenant_is_the_credential_s_the_query_s_or_the_row_s() {
    let world = World::new().await;
    let csv = "ID,AUTH_TYPE,TENANT\nd1,CERTIFICATES,acme\nd2,CERTIFICATES,globex\nd3,CERTIFICATES,\nd4,CERTIFICATES,nobody\n";
    let report = world.csv(OPERATOR, "POST", PATH, csv).await.json();
    assert_eq!(counts(&report), [4, 2, 2, 2]);
    let report = world.csv(OPERATOR, "POST", &format!("{PATH}?tenant=globex"), csv).await.json();
    assert_eq!(counts(&report), [4, 1, 2, 2]);
    let globex = TenantId::parse("globex").unwrap();
    assert_eq!(world.registry().device_count(&globex).await.unwrap(), 2);
    let foreign = world.csv(ACME_OPERATOR, "POST", &format!("{PATH}?tenant=globex"), csv).await;
    assert_eq!(foreign.refusal().0, 404);
    let missing = world.csv(OPERATOR, "POST", &format!("{PATH}?tenant=nobody"), csv).await;
    assert_eq!(missing.refusal().0, 404);
}

#[tokio::test]
async fn a_file_in_a_form_is_read_as_one_in_the_body() {
    let world = World::new().await;
    let csv = "\u{feff}ID\tAUTH_TYPE\nd1\tCERTIFICATES\n";
    let body = format!("{}{}--XX--\r\n", part("note", "hello"), part("file", csv));
    let answer = multipart(&world, ACME_OPERATOR, PATH, &body).await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    assert_eq!(counts(&answer.json()), [1, 1, 0, 1]);
    for body in [
        format!("{}--XX--\r\n", part("other", csv)),
        "--XX--\r\n".to_owned(),
        "no boundary at all".to_owned(),
        "x".repeat(1024 * 1024),
        format!("{}{}--XX--\r\n", part("note", &"x".repeat(300_000)), part("file", csv)),
    ] {
        let answer = multipart(&world, ACME_OPERATOR, PATH, &body).await;
        assert_eq!(answer.refusal().0, 400);
    }
    let rows: String = (0..9_000).map(|n| format!("d{n},CERTIFICATES\n")).collect();
    let whole = part("file", &format!("ID,AUTH_TYPE\n{rows}"));
    let answer = multipart(&world, ACME_OPERATOR, PATH, &format!("{whole}--XX--\r\n")).await;
    assert_eq!(counts(&answer.json()), [9_000, 8_999, 0, 9_000]);
    let (status, message) =
        multipart(&world, ACME_OPERATOR, PATH, whole.trim_end()).await.refusal();
    assert_eq!(status, 400, "{message}");
    assert!(message.contains("rows had been read, of which 0 were registered"), "{message}");
}

#[tokio::test]
async fn a_stray_quote_costs_its_own_row_and_the_totals_are_right() {
    let world = World::new().await;
    let rows: String = (0..3_000).map(|n| format!("d{n},CERTIFICATES,x\n")).collect();
    let csv = format!("ID,AUTH_TYPE,NAME\na,CERTIFICATES,\"rack\n{rows}b,CERTIFICATES,\"");
    let report = world.csv(ACME_OPERATOR, "POST", PATH, &csv).await.json();
    assert_eq!(counts(&report), [3_002, 3_000, 2, 3_000]);
    let why = "a quote is not closed on this line; a field cannot hold line breaks";
    assert_eq!(failures(&report), [format!("2: {why}"), format!("3003: {why}")]);
}

#[tokio::test]
async fn a_second_file_of_a_form_is_refused_and_the_first_one_is_told_of() {
    let world = World::new().await;
    let file = |rows: std::ops::Range<u32>| {
        let rows: String = rows.map(|n| format!("d{n},CERTIFICATES\n")).collect();
        // The last row ends with its file.
        part("file", format!("ID,AUTH_TYPE\n{rows}d,BASIC\nlast,CERTIFICATES").as_str())
    };
    let two = format!("{}{}--XX--\r\n", file(0..1_500), file(1_500..1_600));
    let (status, message) = multipart(&world, ACME_OPERATOR, PATH, &two).await.refusal();
    assert_eq!(status, 400, "{message}");
    assert!(message.contains("second field `file`, which was not read"), "{message}");
    assert!(
        message.contains("1502 rows had been read, of which 1501 were registered"),
        "{message}"
    );
    let acme = TenantId::parse("acme").unwrap();
    assert_eq!(world.registry().device_count(&acme).await.unwrap(), 1_501);
    // Other fields may stand behind the file, up to the size of those in front of it.
    let behind = |size| format!("{}{}--XX--\r\n", file(0..10), part("note", &"x".repeat(size)));
    assert_eq!(multipart(&world, ACME_OPERATOR, PATH, &behind(1_000)).await.status, 201);
    let (status, message) =
        multipart(&world, ACME_OPERATOR, PATH, &behind(300_000)).await.refusal();
    assert!(status == 400 && message.contains("not of its file"), "{message}");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_refused_whole() {
    let world = World::new().await;
    for (csv, why) in [
        ("", "empty"),
        ("\n\n", "empty"),
        ("ID,NAME\nd1,x\n", "lacks the column AUTH_TYPE"),
        ("AUTH_TYPE\nCERTIFICATES\n", "lacks the column ID"),
        ("ID,AUTH_TYPE,id\n", "column ID twice"),
        ("ID,AUTH_TYPE,NAME,NAME\n", "column NAME twice"),
    ] {
        let (status, message) = world.csv(ACME_OPERATOR, "POST", PATH, csv).await.refusal();
        assert!(status == 422 && message.contains(why), "{csv:?}: {status} {message}");
    }
    let json = world.send(ACME_OPERATOR, "POST", PATH, json!({})).await;
    assert_eq!(json.refusal().0, 415);
}

/// A body of which nothing ever comes.
struct Never;

impl hyper::body::Body for Never {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Poll::Pending
    }
}

#[tokio::test]
async fn a_principal_has_two_registrations_at_a_time_and_leaves_room_for_others() {
    let world = World::new().await;
    let slow = || {
        let request = request("POST", PATH, Some(ACME_OPERATOR)).header("content-type", "text/csv");
        world.ask(request.body(Body::new(Never)).unwrap())
    };
    let csv = "ID,AUTH_TYPE\nd1,CERTIFICATES\n";
    let third = async {
        let answer = world.csv(ACME_OPERATOR, "POST", PATH, csv).await;
        assert!(answer.headers.contains_key("retry-after"));
        let (status, message) = answer.refusal();
        assert!(status == 429 && message.contains("Two bulk registrations"), "{message}");
        let other = world.csv(OPERATOR, "POST", &format!("{PATH}?tenant=acme"), csv).await;
        assert_eq!(other.status, 201, "{:?}", other.body);
    };
    tokio::select! {
        biased;
        _ = slow() => panic!("it was answered"),
        _ = slow() => panic!("it was answered"),
        () = third => {}
    }
    // Their clients have gone, and with them what they held.
    assert_eq!(world.csv(ACME_OPERATOR, "POST", PATH, csv).await.status, 201);
}

#[tokio::test]
async fn a_store_that_is_gone_is_an_error_and_no_empty_success() {
    let world = World::new().await;
    world.registry().close().await;
    let csv = "ID,AUTH_TYPE\nd1,CERTIFICATES\n";
    let answer = world.csv(ACME_OPERATOR, "POST", PATH, csv).await;
    assert_eq!(answer.refusal().0, 503);
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn single_registration_says_what_to_do_instead() {
    let world = World::new().await;
    let answer = world
        .send(ACME_OPERATOR, "POST", "/devicecontrol/newDeviceRequests", json!({ "id": "x" }))
        .await;
    let (status, message) = answer.refusal();
    assert!(status == 422 && message.contains("autoRegistrationEnabled"), "{message}");
}
