//! `portcullis device`.

use super::*;

#[test]
fn all_devices_come_in_pages_that_get_on() {
    let edge = Edge::start(|asked| {
        let (devices, next) = match asked.line.split_once("after=") {
            None => (json!([device("a"), device("b")]), true),
            Some((_, "b&status=BLOCKED&prefix=%25x")) => (json!([device("c")]), true),
            // A page that says "next" without end.
            Some(_) => (json!([device("c")]), true),
        };
        let mut page = json!({ "devices": devices, "self": "/x" });
        if next {
            page["next"] = "/y".into();
        }
        answer(200, page)
    });
    let all =
        run(&edge, &["device", "list", "--all", "--status", "blocked", "--prefix", "%x", "--json"]);
    let ids: Vec<Value> = all
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone())
        .collect();
    assert_eq!(ids, ["a", "b", "c", "c"]);
    assert_eq!(
        edge.lines()[1],
        format!("GET {DEVICES}?limit=1000&after=b&status=BLOCKED&prefix=%25x")
    );
    assert_eq!(edge.lines().len(), 3);
    let first = run(&edge, &["device", "list"]);
    assert!(first.notes.contains("--all") && first.out.lines().count() == 3, "{first:?}");
}

#[test]
fn one_of_many_that_fails_keeps_no_other_from_being_done() {
    let edge = Edge::start(|asked| match asked.line.ends_with("/b") {
        true => refusal(404, "general/notFound", "There is no such device."),
        false => answer(200, device("x")),
    });
    let many = run(&edge, &["device", "block", "a", "b", "c"]);
    assert_eq!(many.code, SOME_FAILED);
    assert!(many.notes.starts_with("b: There is no such device."), "{}", many.notes);
    assert_eq!(edge.lines(), ["a", "b", "c"].map(|id| format!("PUT {DEVICES}/{id}")));
    assert_eq!(edge.asked()[0].json(), json!({ "status": "BLOCKED" }));
    assert_eq!(run(&edge, &["device", "delete", "b"]).code, 1);
}

#[test]
fn what_is_wrong_with_all_ends_it_at_once() {
    let edge = Edge::start(|_| refusal(403, "security/forbidden", "A viewer changes nothing."));
    assert_eq!(run(&edge, &["device", "delete", "a", "b"]).code, 1);
    assert_eq!(edge.lines(), [format!("DELETE {DEVICES}/a")]);
}

#[test]
fn pins_are_set_by_file_or_digest_and_taken_by_prefix() {
    let files = Files::new();
    let leaf = certificate("box@1=x", &ec_key(), None);
    let pem = files.write("leaf.pem", leaf.to_pem().unwrap(), 0o644);
    let edge = Edge::start(|asked| match asked.line.split(' ').next() {
        Some("DELETE") => answer(204, ""),
        _ => answer(200, device("box@1=x")),
    });
    assert_eq!(run(&edge, &["device", "pin", "box@1=x", &pem]).code, 0);
    assert_eq!(run(&edge, &["device", "pin", "box@1=x", "--sha256", &fingerprint('A')]).code, 0);
    assert_eq!(run(&edge, &["device", "unpin", "box@1=x", "bbbbbbbb"]).code, 0);
    let asked = edge.asked();
    assert_eq!(asked[0].line, format!("POST {DEVICES}/box%401%3Dx/pins"));
    assert_eq!(
        asked[0].json(),
        json!({ "certInPemFormat": STANDARD.encode(leaf.to_der().unwrap()) })
    );
    assert_eq!(asked[1].json(), json!({ "sha256": fingerprint('a') }));
    assert_eq!(asked[3].line, format!("DELETE {DEVICES}/box%401%3Dx/pins/{}", fingerprint('b')));
}

/// As the schema BulkResult has it.
fn bulk_result(failed: Value) -> Answer {
    let count = failed.as_array().unwrap().len();
    answer(
        201,
        json!({
            "numberOfAll": count + 2, "numberOfCreated": 1, "numberOfFailed": count,
            "numberOfSuccessful": 2, "failedCreationList": failed,
            "credentialUpdatedList": [{ "bulkNewDeviceStatus": "CREDENTIAL_UPDATED", "deviceId": "b" }],
        }),
    )
}

#[test]
fn an_import_tells_its_failed_rows_and_ends_with_4() {
    let files = Files::new();
    let csv = "ID;AUTH_TYPE\na;CERTIFICATES\nb;CERTIFICATES\n:;CERTIFICATES\n";
    let file = files.write("devices.csv", csv, 0o644);
    let failures = files.path("failed.csv");
    let edge = Edge::start(|_| {
        bulk_result(json!([{
            "bulkNewDeviceStatus": "FAILED", "deviceId": ":", "failureReason": "ID: odd", "line": "4",
        }]))
    });
    let run = run(&edge, &["device", "import", &file, "--failures", failures.to_str().unwrap()]);
    assert_eq!(run.code, SOME_FAILED, "{run:?}");
    assert_eq!(
        run.out,
        "LINE  ID  REASON\n4     :   ID: odd\n\n\
         3 rows: 1 registered, 1 were there already, 1 failed\n"
    );
    assert_eq!(
        fs::read_to_string(failures).unwrap(),
        "line,id,reason\r\n\"4\",\":\",\"ID: odd\"\r\n"
    );
    let asked = &edge.asked()[0];
    assert_eq!(asked.line, "POST /devicecontrol/bulkNewDeviceRequests?tenant=acme");
    assert_eq!(asked.header("content-type"), Some("text/csv"));
    assert_eq!(asked.body, csv.as_bytes());
}

#[test]
fn an_import_needs_no_tenant_and_is_as_long_as_it_likes() {
    let files = Files::new();
    let mut csv = String::from("ID,AUTH_TYPE,TENANT\n");
    for row in 0..200_000 {
        csv.push_str(&format!("device-{row},CERTIFICATES,acme\n"));
    }
    let file = files.write("devices.csv", &csv, 0o644);
    let edge = Edge::start(|_| bulk_result(json!([])));
    let url = edge.url();
    let run = run_with(&[("PORTCULLIS_ADMIN", &url)], &["device", "import", &file]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(edge.asked()[0].line, "POST /devicecontrol/bulkNewDeviceRequests");
    assert!(edge.asked()[0].body == csv.as_bytes());
}

#[test]
fn an_import_that_is_refused_by_its_header_sends_nothing_of_the_file() {
    let files = Files::new();
    let file = files.write("devices.csv", "ID\n".repeat(1_000_000), 0o644);
    let edge = Edge::start(|_| Answer {
        after: Some(0),
        ..refusal(403, "security/forbidden", "A viewer.")
    });
    let run = run(&edge, &["device", "import", &file]);
    assert_eq!(run.code, 1);
    assert!(run.notes.starts_with("A viewer."), "{}", run.notes);
    assert_eq!(edge.asked().len(), 1);
}

#[test]
fn a_refusal_in_the_middle_of_an_import_is_told() {
    let files = Files::new();
    let mut csv = String::from("NAME;TYPE\n");
    csv.push_str(&"a;b\n".repeat(5_000_000));
    let file = files.write("devices.csv", csv, 0o644);
    let edge = Edge::start(|_| Answer {
        after: Some(1000),
        ..refusal(422, "general/unprocessable", "The header line lacks the column ID.")
    });
    let run = run(&edge, &["device", "import", &file]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.notes.starts_with("The header line lacks the column ID."), "{}", run.notes);
    let asked = edge.asked();
    // Either the answer came through, or the edge was asked about the header line alone.
    assert!(asked.len() == 1 || asked[1].body == b"NAME;TYPE\n", "{:?}", asked[1]);
}

#[test]
fn an_import_does_not_overwrite_its_own_file() {
    let files = Files::new();
    let file = files.write("devices.csv", "ID;AUTH_TYPE\n", 0o644);
    let link = files.path("link.csv");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let edge = Edge::start(|_| bulk_result(json!([])));
    let run = run(&edge, &["device", "import", &file, "--failures", link.to_str().unwrap()]);
    assert!(run.code == 1 && run.notes.contains("would be lost"), "{run:?}");
    assert_eq!(fs::read_to_string(file).unwrap(), "ID;AUTH_TYPE\n");
    assert!(edge.lines().is_empty());
}
