//! MQTT: what can be wrong with listeners, brokers and what they are told, and that each fault
//! says what to write.

use super::{GOOD, Site, edited, tenant};

/// acme alone before a broker; its `mqtt` is line 17.
const ONE: &str = r#"listeners:
  mqtts: [{ bind: "127.0.0.1:0" }]
tokens: { lifespan: 1h, signing_keys: [{ kid: k1, file: k1.pem }] }
upstreams:
  platform:
    http: ["127.0.0.1:8080"]
    mqtt: ["127.0.0.1:1883"]
tenants:
  - id: acme
    server_names: [acme.example.com]
    certificate: { chain: acme.pem, key: acme.key }
    trusted_certificates: [{ file: root.pem }]
    upstream: platform
    client_certificate: required
"#;

#[track_caller]
fn faults(text: &str) -> Vec<String> {
    Site::new(text).faults()
}

#[track_caller]
fn one_fault(text: &str, expected: &str) {
    assert_eq!(faults(text), [expected], "{text}");
}

/// The one fault of acme's `mqtt`, which stands in line 15.
#[track_caller]
fn of_mqtt(mqtt: &str, expected: &str) {
    one_fault(&format!("{ONE}    mqtt: {{ {mqtt} }}\n"), expected);
}

#[track_caller]
fn is_good(text: &str) {
    assert_eq!(faults(text), Vec::<String>::new(), "{text}");
}

#[test]
fn each_key_of_mqtt_can_be_written() {
    is_good(ONE);
    let all = format!(
        "{ONE}    mqtt:\n      client_ids: [\"{{device}}\", \"d:{{device}}:*\"]\n      \
         upstream_client_id: \"{{tenant}}/{{client_id}}\"\n      user_name: \"{{tenant}}/{{device}}\"\n      \
         password: \"{{token}}\"\n      user_properties: {{ X-Device: \"{{device}}\" }}\n      \
         proxy_protocol: true\nlimits: {{ mqtt_connect_timeout: 5s, mqtt_connect_bytes: 32KiB, \
         mqtt_packet_bytes: 16MiB }}\n"
    );
    let compiled = Site::new(&all).compiled();
    let forward = tenant(&compiled, "acme").broker_forward.clone();
    assert!(forward.proxy_protocol && forward.uses_token());
    assert_eq!(forward.client_ids.device("d:x:y"), Some("x"));
    assert_eq!(forward.client_ids.device("d:x"), None);
}

#[test]
fn mqtt_needs_a_listener_and_a_broker() {
    one_fault(
        &ONE.replace("    mqtt: [\"127.0.0.1:1883\"]\n", ""),
        "2:19: devices are served by MQTT and no upstream has a broker | add `mqtt: \
         [\"127.0.0.1:1883\"]` to an upstream",
    );
    one_fault(
        &ONE.replace("  mqtts: [{ bind: \"127.0.0.1:0\" }]\n", "  {}\n"),
        "2:3: there is no listener | such as `https: [{ bind: \"0.0.0.0:8443\" }]` or `mqtts: [{ \
         bind: \"0.0.0.0:8883\" }]`",
    );
    one_fault(
        &ONE.replace("[{ bind: \"127.0.0.1:0\" }]", "[]"),
        "2:10: the list is empty | write `[{ bind: \"0.0.0.0:8883\" }]`",
    );
    one_fault(
        &ONE.replace("bind: \"127.0.0.1:0\"", "default_tenant: acme"),
        "2:11: the key `bind` is missing | write `bind: \"0.0.0.0:8883\"`",
    );
    one_fault(
        &ONE.replace("mqtt: [\"127.0.0.1:1883\"]", "mqtt: []"),
        "7:11: the list is empty | write `[\"127.0.0.1:8080\"]`",
    );
}

#[test]
fn a_tenant_that_has_mqtt_has_a_broker() {
    let text =
        edited("upstream: platform\n", "upstream: platform\n    mqtt: { proxy_protocol: true }\n");
    one_fault(
        &text,
        "15:11: the upstream `platform` of this tenant has no broker | add `mqtt: \
         [\"127.0.0.1:1883\"]` to that upstream",
    );
    is_good(GOOD);
}

/// Tenants beside acme, each with its lines and upstreams of their own.
fn with(upstreams: &str, acme: &str, tenants: &[(&str, &str, &str)]) -> String {
    let text = ONE.replace("tenants:\n", &format!("{upstreams}tenants:\n"));
    let mut text = format!("{text}{acme}");
    for (id, upstream, lines) in tenants {
        text.push_str(&format!(
            "  - id: {id}\n    server_names: [{id}.example.com]\n    \
             certificate: {{ chain: acme.pem, key: acme.key }}\n    \
             trusted_certificates: [{{ file: root.pem }}]\n    upstream: {upstream}\n{lines}"
        ));
    }
    text
}

const APART: &str = "    mqtt: { upstream_client_id: \"{tenant}/{client_id}\" }\n";
const OTHERWISE: &str = "    mqtt: { upstream_client_id: \"{client_id}@{tenant}\" }\n";
const HELP: &str = "where a client of the one could take over a session of the other | give both \
                    `mqtt: { upstream_client_id: \"{tenant}/{client_id}\" }`, or each a broker of \
                    its own";

fn share(place: &str, one: &str, other: &str, broker: &str) -> String {
    format!("{place}: tenants `{one}` and `{other}` share the broker {broker}, {HELP}")
}

/// Tells broker addresses only, so that certificates for other names are no fault here.
#[track_caller]
fn shared(text: &str, expected: &[String]) {
    let found: Vec<String> =
        faults(text).into_iter().filter(|fault| fault.contains("share the broker")).collect();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn tenants_that_share_a_broker_keep_their_client_ids_apart() {
    fn beta(lines: &str) -> [(&str, &str, &str); 1] {
        [("beta", "platform", lines)]
    }
    shared(&with("", APART, &beta(APART)), &[]);
    shared(&with("", OTHERWISE, &beta(OTHERWISE)), &[]);
    let broker = "127.0.0.1:1883";
    shared(&with("", "", &beta("")), &[share("15:5", "acme", "beta", broker)]);
    shared(&with("", APART, &beta("")), &[share("16:5", "acme", "beta", broker)]);
    shared(&with("", "", &beta(APART)), &[share("20:13", "acme", "beta", broker)]);
    // Each separates, and `x@acme` beside `acme/x` does not.
    shared(&with("", APART, &beta(OTHERWISE)), &[share("21:13", "acme", "beta", broker)]);
    for (names, apart) in [
        ("user_name: \"device_{device}\", password: \"{password}\"", false),
        ("user_name: \"{tenant}/{device}\", password: \"{password}\"", true),
        ("user_name: \"{token}\"", true),
        ("user_name: edge, password: its-own-secret", true),
    ] {
        let own = "upstream_client_id: \"{tenant}/{client_id}\"";
        let lines = format!("    mqtt: {{ {own}, {names} }}\n");
        let found = faults(&with("", &lines, &beta(&lines)));
        let about = found.iter().filter(|fault| fault.contains("would have one user name")).count();
        assert_eq!(about, usize::from(!apart), "{names}: {found:?}");
    }
    for glued in ["{tenant}{client_id}", "{tenant}-{client_id}", "x{client_id}", "{client_id}"] {
        let lines = format!("    mqtt: {{ upstream_client_id: \"{glued}\" }}\n");
        let expected = [share("21:13", "acme", "beta", broker)];
        shared(&with("", &lines, &beta(&lines)), &expected);
    }
}

#[test]
fn one_broker_under_two_names_is_one_broker() {
    let other = "  other:\n    http: [\"127.0.0.1:8081\"]\n    mqtt: [\"127.0.0.1:1884\", \"127.0.0.1:1883\"]\n";
    let expected = [share("18:5", "acme", "beta", "127.0.0.1:1883")];
    shared(&with(other, "", &[("beta", "other", "")]), &expected);
    let apart = other.replace(", \"127.0.0.1:1883\"", "");
    shared(&with(&apart, "", &[("beta", "other", "")]), &[]);
    let mapped = other.replace("127.0.0.1:1883", "[::ffff:127.0.0.1]:1883");
    let expected = [share("18:5", "acme", "beta", "127.0.0.1:1883")];
    shared(&with(&mapped, "", &[("beta", "other", "")]), &expected);
}

#[test]
fn a_tenant_on_the_brokers_of_two_others_is_held_against_both() {
    let upstreams = "  second:\n    http: [\"127.0.0.1:8081\"]\n    mqtt: [\"127.0.0.1:1884\"]\n  \
                     both:\n    http: [\"127.0.0.1:8082\"]\n    mqtt: [\"127.0.0.1:1883\", \"127.0.0.1:1884\"]\n";
    // beta is alone on its broker until gamma comes.
    let tenants = [("beta", "second", ""), ("gamma", "both", APART)];
    let expected = [share("32:13", "beta", "gamma", "127.0.0.1:1884")];
    shared(&with(upstreams, APART, &tenants), &expected);
}

#[test]
fn client_id_patterns_say_where_the_device_stands() {
    let help = "such as `\"{device}\"` or `\"d:{device}:*\"`";
    let of = |pattern: &str, message: &str| {
        of_mqtt(&format!("client_ids: [\"{pattern}\"]"), &format!("15:26: {message} | {help}"));
    };
    of("d:*", "a client id pattern holds `{device}`");
    of("", "a client id pattern holds `{device}`");
    of("{client_id}", "a client id pattern holds `{device}`");
    let beside = "beside `{device}` a client id pattern holds text, and a star at its end";
    of("{tenant}:{device}", beside);
    of("{device}:{device}", beside);
    of("*:{device}", beside);
    of("{device}/+", beside);
    let glued = "what stands beside `{device}` must begin with a character that no device id has, \
                 such as `:` or `/`";
    of("{device}*", glued);
    of("dev-{device}", glued);
    of_mqtt("client_ids: []", "15:25: the list is empty | write `[\"{device}\"]`");
}

#[test]
fn templates_have_their_placeholders_and_no_others() {
    let all = "the placeholders are `{tenant}`, `{device}`, `{client_id}`, `{token}`, \
               `{fingerprint}`, `{user_name}`, `{password}`";
    for (text, message) in [
        ("{devcie}", "there is no placeholder `{devcie}` here"),
        ("{Device}", "there is no placeholder `{Device}` here"),
        ("{}", "there is no placeholder `{}` here"),
        ("{device", "a `{` without its `}`"),
        ("device}", "a `}` without its `{`"),
    ] {
        of_mqtt(&format!("user_name: \"{text}\""), &format!("15:24: {message} | {all}"));
        let password = format!("user_name: x, password: \"{text}\"");
        of_mqtt(&password, &format!("15:37: {message} | {all}"));
        let property = format!("user_properties: {{ x: \"{text}\" }}");
        of_mqtt(&property, &format!("15:35: {message} | {all}"));
    }
    of_mqtt(
        "upstream_client_id: \"{token}\"",
        "15:33: there is no placeholder `{token}` here | the placeholders are `{tenant}`, `{device}`, `{client_id}`",
    );
    let mixed = "two devices could come to have one client id at the broker | write \
                 `upstream_client_id: \"{device}/{client_id}\"`";
    of_mqtt("client_ids: any", &format!("15:11: {mixed}"));
    let glued = "upstream_client_id: \"{device}{client_id}\"";
    of_mqtt(glued, &format!("15:13: {mixed}"));
    of_mqtt(&format!("client_ids: any, {glued}"), &format!("15:30: {mixed}"));
    of_mqtt(
        "upstream_client_id: \"{tenant}\"",
        "15:33: every client would get one client id | such as `\"{tenant}/{client_id}\"`",
    );
}

#[test]
fn what_a_broker_is_told_can_be_said_and_believed() {
    of_mqtt(
        "password: \"{token}\"",
        "15:13: before MQTT 5.0 there is no password without a user name | add `user_name: \"{device}\"`",
    );
    let optional = ONE.replace("certificate: required", "certificate: optional");
    one_fault(
        &format!("{optional}    mqtt: {{ user_name: \"{{device}}\" }}\n"),
        "15:13: a client without a certificate could send this user name itself | add `password: \
         \"{token}\"`, or write `client_certificate: required`",
    );
    for proof in [
        "user_name: \"{token}\"",
        "user_name: \"{device}\", password: \"{token}\"",
        "user_name: \"{device}\", proxy_protocol: true",
        "user_name: edge, password: its-own-secret",
        "proxy_protocol: true",
    ] {
        is_good(&format!("{optional}    mqtt: {{ {proof} }}\n"));
    }
    // What anybody could send, and what clients before 5.0 do not have.
    for no_proof in [
        "user_name: \"{device}\", password: x",
        "user_name: \"{device}\", password: \"{password}\"",
        "user_name: \"{device}\", user_properties: { device: \"{device}\" }",
        "user_name: edge",
    ] {
        let found = faults(&format!("{optional}    mqtt: {{ {no_proof} }}\n"));
        assert_eq!(found.len(), 1, "{no_proof}: {found:?}");
        assert!(found[0].contains("could send this user name itself"), "{found:?}");
    }
}

#[test]
fn a_token_for_the_broker_needs_tokens() {
    let without =
        ONE.replace("tokens: { lifespan: 1h, signing_keys: [{ kid: k1, file: k1.pem }] }\n", "");
    for told in [
        "user_name: x, password: \"{token}\"",
        "user_name: \"{token}\"",
        "user_properties: { token: \"{token}\" }",
    ] {
        let message = "the broker is to be told a token, and tokens are off for this tenant | leave \
                       `{token}` out, or add `tokens`";
        let text = format!("    mqtt: {{ {told} }}\n");
        one_fault(&format!("{without}{text}"), &format!("14:11: {message}"));
        one_fault(
            &format!("{ONE}{text}    tokens: {{ enabled: false }}\n"),
            &format!("15:11: {message}"),
        );
    }
}

#[test]
fn user_properties_have_one_name_each() {
    of_mqtt(
        "user_properties: { X-Device: a, x-device: b }",
        "15:45: this user property stands here in two spellings | keep one of them",
    );
    of_mqtt(
        "user_properties: { X-Device: a, X-Device: b }",
        "15:45: the key `X-Device` is written twice | first written in line 15; keep one of the two",
    );
    for name in ["", "a\\nb", &"x".repeat(257)] {
        let expected = "15:32: not a name for a user property | 1 to 256 printable characters";
        of_mqtt(&format!("user_properties: {{ \"{name}\": a }}"), expected);
    }
    let many: Vec<String> = (0..33).map(|n| format!("p{n}: x")).collect();
    let many = format!("user_properties: {{ {} }}", many.join(", "));
    of_mqtt(&many, "15:30: too many user properties | at most 32");
}

#[test]
fn unknown_keys_of_mqtt_are_faults() {
    of_mqtt("username: x", "15:13: unknown key `username` | did you mean `user_name`?");
    of_mqtt(
        "proxy_protocol: yes",
        "15:29: expected true or false, found a single value | write `true` or `false`, without quotes",
    );
}
