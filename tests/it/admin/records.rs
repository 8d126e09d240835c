//! The audit trail, and what names and prefixes are to the store.

use serde_json::{Value, json};

use super::{ACME, LIFESPAN, Newcomer, prove, self_signed, serial};
use crate::world::{Api, World, anchors, fingerprint};

const SECRET: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKL";
const BULK: &str = "/devicecontrol/bulkNewDeviceRequests";

/// The audit trail, oldest first: actor, tenant, action, target and detail of each record.
fn trail(api: &Api, query: &str) -> Vec<[String; 5]> {
    let records = api.get(&format!("/edge/audit?limit=1000{query}")).json();
    let text = |record: &Value, field: &str| record[field].as_str().unwrap_or("-").to_owned();
    let fields = ["actor", "tenant", "action", "target", "detail"];
    let records = records["records"].as_array().unwrap().iter().rev();
    records.map(|record| fields.map(|field| text(record, field))).collect()
}

/// One change after the other; each must leave one record.
struct Audited<'a> {
    api: &'a Api,
    seen: usize,
}

impl Audited<'_> {
    #[track_caller]
    fn expect(&mut self, tenant: &str, action: &str, target: &str, detail: &str) {
        let trail = trail(self.api, "");
        assert_eq!(trail.len(), self.seen + 1, "{action}: {trail:#?}");
        self.seen = trail.len();
        let expected = ["admin (127.0.0.1)", tenant, action, target, detail];
        assert_eq!(trail.last().unwrap(), &expected.map(str::to_owned));
    }

    #[track_caller]
    fn change(&mut self, request: (&str, &str, Value), status: u16, expected: [&str; 4]) {
        let (method, path, body) = request;
        let answer = self.api.ask(method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        let [tenant, action, target, detail] = expected;
        self.expect(tenant, action, target, detail);
    }

    #[track_caller]
    fn nothing(&mut self, method: &str, path: &str, body: Value) {
        let answer = self.api.ask(method, path, body);
        assert!((200..500).contains(&answer.status), "{method} {path}: {answer:?}");
        assert_eq!(trail(self.api, "").len(), self.seen, "{method} {path}");
    }
}

#[test]
fn every_change_is_audited_once_with_who_and_what_and_refused_ones_are_not() {
    let (world, newcomer) = (World::start(), Newcomer::new());
    let api = &world.operator();
    let mut audited = Audited { api, seen: 0 };
    let print = api.trust("acme", &newcomer.root, true);
    let added = format!("count=1 sha256={print} auto_registration=true identity=\"cn\"");
    audited.expect("acme", "anchor.add", &print, &added);
    let anchor = format!("{}/{print}", anchors("acme"));
    let update = |body: Value| ("PUT", anchor.as_str(), body);
    let disable = update(json!({ "status": "DISABLED" }));
    audited.change(disable, 200, ["acme", "anchor.update", &print, "status=disabled"]);
    audited.nothing("PUT", &anchor, json!({ "deviceIdentity": "nonsense" }));
    let sign = anchor.replace("certificates/", "certificates-pop/");
    let possession = |step| ["acme", "anchor.possession", print.as_str(), step];
    let new_code = format!("step=new_code usable_until={}", world.clock.now() + 86_400);
    let code = format!("{sign}/verification-code");
    audited.change(("POST", &code, Value::Null), 200, possession(&new_code));
    let wrong = json!({ "proofOfPossessionSignedVerificationCode": "AAAA" });
    audited.nothing("POST", &format!("{sign}/pop"), wrong);
    assert_eq!(prove(api, "acme", &print, &newcomer.root), 200);
    let steps: Vec<String> = trail(api, "").into_iter().skip(2).map(|r| r[4].clone()).collect();
    assert_eq!(steps, [&*new_code, &*new_code, "step=signed confirmed=true"]);
    audited.seen += 2;
    let confirmed = format!("{sign}/confirmed");
    audited.change(
        ("POST", &confirmed, Value::Null),
        200,
        possession("step=vouched_by_hand confirmed=true"),
    );

    let revoked = serial(&newcomer.device);
    let crl = format!("{ACME}/trusted-certificates/settings/crl");
    let number = revoked.trim_start_matches('0');
    let of_list = format!("count=1 {number}");
    let list = json!({ "crls": [{ "serialNumberInHex": revoked }] });
    audited.change(("PUT", &crl, list), 204, ["acme", "revocations.add", number, &of_list]);
    let option = "oauth.internal/device-token.lifespan.seconds";
    let set = ("PUT", LIFESPAN, json!({ "value": 600 }));
    audited.change(set, 200, ["acme", "option.set", option, "value=\"600\""]);
    audited.nothing("PUT", LIFESPAN, json!({ "value": 1 }));
    let unset = ("DELETE", LIFESPAN, Value::Null);
    audited.change(unset, 204, ["acme", "option.delete", option, ""]);
    audited.nothing("DELETE", LIFESPAN, Value::Null);

    let leaf = self_signed("meter");
    let (pin, device) = (fingerprint(&leaf), format!("{ACME}/devices/meter"));
    let pins = format!("{device}/pins");
    let of_pin = format!("sha256={pin}");
    let by_sha256 = ("POST", pins.as_str(), json!({ "sha256": pin }));
    audited.change(by_sha256, 201, ["acme", "device.pin", "meter", &of_pin]);
    let block = ("PUT", device.as_str(), json!({ "status": "BLOCKED" }));
    audited.change(block, 200, ["acme", "device.block", "meter", ""]);
    let unblock = ("PUT", device.as_str(), json!({ "status": "ACTIVE" }));
    audited.change(unblock, 200, ["acme", "device.unblock", "meter", ""]);
    let unpin = format!("{pins}/{pin}");
    audited.change(
        ("DELETE", &unpin, Value::Null),
        204,
        ["acme", "device.unpin", "meter", &of_pin],
    );
    audited.nothing("DELETE", &unpin, Value::Null);
    audited.change(("DELETE", &device, Value::Null), 204, ["acme", "device.delete", "meter", ""]);
    audited.nothing("PUT", &device, json!({ "status": "BLOCKED" }));
    let csv = b"ID,AUTH_TYPE,TENANT\na,CERTIFICATES,globex\nb,CERTIFICATES,globex\n";
    assert_eq!(api.send("POST", BULK, "text/csv", csv).status, 201);
    audited.expect("globex", "devices.register", "", "created=2 existed=0");
    audited.change(("DELETE", &anchor, Value::Null), 204, ["acme", "anchor.delete", &print, ""]);
    audited.nothing("POST", &anchors("acme"), json!({ "certInPemFormat": "x" }));

    // A device that registers itself is no operator's change.
    assert_eq!(world.acme_client().token().unwrap().status, 200);
    assert_eq!(trail(api, "").len(), audited.seen);
    assert_eq!(trail(api, "&tenant=globex").len(), 1);
    assert_eq!(trail(api, "&tenant=acme").len(), audited.seen - 1);
}

#[test]
fn rotations_of_keys_are_audited_whoever_asks_for_them() {
    let world = World::with(|world, config| {
        world.write_secret("keys.secret", SECRET);
        world.write_secret("acme.token", &[b'a'; 40]);
        config.edge = String::new();
        config.tokens = "{ rotation: { secret_file: keys.secret } }".into();
        config.admin = "{ bind: \"127.0.0.1:0\", token_file: operator.token, credentials: \
                        [{ name: acme-ops, token_file: acme.token, role: operator, tenant: acme }] }"
            .into();
    });
    let api = world.operator();
    let first = trail(&api, "");
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!((first[0][0].as_str(), first[0][2].as_str()), ("portcullis", "signing_key.add"));
    let bound = api.with_token(&"a".repeat(40));
    assert_eq!(bound.ask("POST", "/edge/signing-keys/rotate", Value::Null).status, 403);
    assert_eq!(trail(&bound, ""), Vec::<[String; 5]>::new());
    assert_eq!(api.ask("POST", "/edge/signing-keys/rotate", Value::Null).status, 200);
    let trail = trail(&api, "");
    assert_eq!(trail.len(), 2);
    let [actor, tenant, action, kid, _] = &trail[1];
    assert_eq!((actor.as_str(), tenant.as_str()), ("admin (127.0.0.1)", "-"));
    assert_eq!(action, "signing_key.add");
    let path = format!("/edge/signing-keys/{kid}");
    assert_eq!(bound.ask("DELETE", &path, Value::Null).status, 403);
    assert_eq!(api.ask("DELETE", &path, Value::Null).status, 204);
    let last = self::trail(&api, "").pop().unwrap();
    assert_eq!((last[2].as_str(), &last[3]), ("signing_key.delete", kid));
}

fn register(api: &Api, tenant: &str, ids: &[&str]) {
    let rows: String = ids.iter().map(|id| format!("{id},CERTIFICATES\n")).collect();
    let csv = format!("ID,AUTH_TYPE\n{rows}");
    let answer = api.send("POST", &format!("{BULK}?tenant={tenant}"), "text/csv", csv.as_bytes());
    assert_eq!(answer.json()["numberOfCreated"], ids.len(), "{answer:?}");
}

/// Every byte that is no letter or digit, escaped.
fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric();
    let one = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(one).collect()
}

fn with_prefix(api: &Api, prefix: &str) -> Vec<String> {
    let path = format!("{ACME}/devices?prefix={}", escaped(prefix));
    let answer = api.get(&path);
    assert_eq!(answer.status, 200, "{prefix:?}: {answer:?}");
    let ids = answer.json()["devices"].as_array().unwrap().clone();
    ids.iter().map(|device| device["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_prefix_is_letters_and_no_pattern() {
    let world = World::start();
    let api = world.operator();
    register(&api, "acme", &["a_1", "ab1", "A_1", "a-1", "a.1", "a@1", "a=1", "a", "a__", "a__x"]);
    register(&api, "globex", &["a_2"]);
    assert_eq!(with_prefix(&api, "a_"), ["a_1", "a__", "a__x"]);
    assert_eq!(with_prefix(&api, "A"), ["A_1"]);
    assert_eq!(with_prefix(&api, "a__"), ["a__", "a__x"]);
    assert_eq!(with_prefix(&api, "a="), ["a=1"]);
    assert_eq!(with_prefix(&api, "").len(), 10);
    let odd = [
        "%",
        "_",
        "__",
        "a%",
        "a\\",
        "a*",
        "a?",
        "[a]",
        "'",
        "a' OR '1'='1",
        "a\0",
        "ä",
        "\u{10ffff}",
    ];
    for prefix in odd {
        assert_eq!(with_prefix(&api, prefix), Vec::<String>::new(), "{prefix:?}");
    }
    let long = api.get(&format!("{ACME}/devices?prefix={}", "a".repeat(129)));
    assert_eq!(long.status, 400);
}

#[test]
fn pages_of_devices_hold_each_once_whatever_is_deleted_meanwhile() {
    let world = World::start();
    let api = world.operator();
    let ids: Vec<String> = (0..57).map(|n| format!("d{n:03}={n}@x")).collect();
    register(&api, "acme", &ids.iter().map(String::as_str).collect::<Vec<_>>());
    let mut next = Some(format!("{ACME}/devices?limit=10"));
    let mut seen = Vec::new();
    while let Some(path) = next {
        let page = api.get(&path).json();
        let last = seen.len();
        for device in page["devices"].as_array().unwrap() {
            seen.push(device["id"].as_str().unwrap().to_owned());
        }
        let gone = format!("{ACME}/devices/{}", escaped(&seen[last]));
        assert_eq!(api.ask("DELETE", &gone, Value::Null).status, 204);
        next = page["next"].as_str().map(str::to_owned);
    }
    assert_eq!(seen, ids);
}

#[test]
fn sql_in_any_part_of_a_request_is_text() {
    let world = World::start();
    let api = world.operator();
    register(&api, "acme", &["kept"]);
    for sql in [
        "'; DROP TABLE devices;--",
        "kept' OR '1'='1",
        "\"; DELETE FROM devices;--",
        "kept'/*",
        "$1",
        "?1",
        "\\'; VACUUM;--",
        "kept\0",
        "NULL",
        "kept%' ESCAPE '%",
    ] {
        let part = escaped(sql);
        for (method, path, body) in [
            ("GET", format!("{ACME}/devices/{part}"), Value::Null),
            ("PUT", format!("{ACME}/devices/{part}"), json!({ "status": "BLOCKED" })),
            ("DELETE", format!("{ACME}/devices/{part}"), Value::Null),
            ("GET", format!("{ACME}/devices?after={part}"), Value::Null),
            ("GET", format!("{ACME}/devices?status={part}"), Value::Null),
            ("GET", format!("{ACME}/devices?prefix={part}"), Value::Null),
            ("GET", format!("{ACME}/devices?limit={part}"), Value::Null),
            ("GET", format!("/tenant/tenants/{part}/devices"), Value::Null),
            ("GET", format!("/edge/audit?tenant={part}"), Value::Null),
            ("GET", format!("/edge/audit?before={part}"), Value::Null),
            ("GET", format!("/edge/tenants?after={part}"), Value::Null),
            ("GET", format!("{}/{part}", anchors("acme")), Value::Null),
            ("DELETE", format!("{}/{part}", anchors("acme")), Value::Null),
            ("DELETE", format!("{ACME}/devices/kept/pins/{part}"), Value::Null),
            ("POST", format!("{ACME}/devices/{part}/pins"), json!({ "sha256": "00".repeat(32) })),
            ("PUT", format!("{ACME}/options/{part}/{part}"), json!({ "value": sql })),
            ("DELETE", format!("{ACME}/options/oauth.internal/{part}"), Value::Null),
            ("DELETE", format!("/edge/signing-keys/{part}"), Value::Null),
        ] {
            let answer = api.ask(method, &path, body);
            // Names of letters alone are names.
            let named = sql == "NULL";
            let found = named || path.contains("?prefix=");
            assert!(
                (400..500).contains(&answer.status) || found && answer.status < 300,
                "{method} {path}: {answer:?}"
            );
        }
    }
    // As names, which may hold anything printable.
    let newcomer = Newcomer::new();
    let name = "Robert'); DROP TABLE anchors;-- %_\\";
    let anchor = json!({ "name": name, "certInPemFormat": newcomer.root.pem() });
    let created = api.ask("POST", &anchors("acme"), anchor);
    assert_eq!((created.status, &created.json()["name"]), (201, &name.into()));
    let csv =
        format!("ID;AUTH_TYPE;NAME;TYPE\nnamed;CERTIFICATES;{0};{0}\n", name.replace(';', ":"));
    let bulk = api.send("POST", &format!("{BULK}?tenant=acme"), "text/csv", csv.as_bytes());
    assert_eq!(bulk.json()["numberOfCreated"], 1, "{bulk:?}");
    let listed = api.get(&format!("{ACME}/devices")).json();
    let ids: Vec<&str> =
        listed["devices"].as_array().unwrap().iter().map(|d| d["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["NULL", "kept", "named"]);
    assert_eq!(listed["devices"][1]["status"], "ACTIVE");
    assert_eq!(listed["devices"][2]["name"], name.replace(';', ":"));
}

#[test]
fn names_that_would_break_a_line_or_a_terminal_are_refused() {
    let world = World::start();
    let api = world.operator();
    let newcomer = Newcomer::new();
    for name in [
        "a\r\nb",
        "a\nb",
        "a\0b",
        "\u{1b}[31mred",
        "a\u{202e}b",
        "a\u{2028}b",
        "\u{9b}31m",
        &"x".repeat(5_000),
    ] {
        let anchor = json!({ "name": name, "certInPemFormat": newcomer.root.pem() });
        let refused = api.ask("POST", &anchors("acme"), anchor);
        assert_eq!(refused.status, 422, "{name:?}: {refused:?}");
    }
    assert_eq!(trail(&api, "").len(), 0);
}
