//! CONNECTs that break the rules, and what each version is told.

use super::*;

fn text(value: &[u8]) -> Vec<u8> {
    [&(value.len() as u16).to_be_bytes()[..], value].concat()
}

fn read(body: &[&[u8]]) -> Result<Connect, Unreadable> {
    let body = body.concat();
    assert!(body.len() < 128);
    let packet = [&[CONNECT, body.len() as u8], &body[..]].concat();
    Connect::read(header(&packet).unwrap().unwrap(), &packet)
}

#[track_caller]
fn fault(body: &[&[u8]]) -> (u8, Option<Version>) {
    match read(body) {
        Ok(_) => panic!("read: {body:?}"),
        Err(Unreadable { denied, answer_in }) => (denied.code, answer_in),
    }
}

const V311: &[u8] = b"\x00\x04MQTT\x04";
const V5: &[u8] = b"\x00\x04MQTT\x05";

#[test]
fn each_version_that_there_is_is_read_and_any_other_is_told_in_one_that_it_may_know() {
    let rest = b"\x02\x00\x3c\x00\x02id";
    for (start, version) in [(&b"\x00\x06MQIsdp\x03"[..], Version::V31), (V311, Version::V311)] {
        assert_eq!(read(&[start, rest]).ok().unwrap().version(), version);
    }
    let connect = read(&[V5, b"\x02\x00\x3c\x00\x00\x02id"]).ok().unwrap();
    assert_eq!(connect.version(), Version::V5);
    let unsupported = UNSUPPORTED_PROTOCOL_VERSION;
    for (start, answer_in) in [
        (&b"\x00\x04MQTT\x03"[..], Some(Version::V311)),
        (b"\x00\x04MQTT\x00", Some(Version::V311)),
        (b"\x00\x04MQTT\x06", Some(Version::V5)),
        // A bridge of mosquitto asks whether the other side knows bridges, and goes on in 3.1.1.
        (b"\x00\x04MQTT\x84", Some(Version::V311)),
        (b"\x00\x06MQIsdp\x04", Some(Version::V311)),
        (b"\x00\x04mqtt\x04", None),
        (b"\x00\x04HTTP\x04", None),
        (b"", None),
    ] {
        assert_eq!(fault(&[start, rest]), (unsupported, answer_in), "{start:?}");
    }
}

#[test]
fn properties_that_break_the_rules_are_a_protocol_error() {
    let with = |properties: &[u8]| {
        fault(&[V5, b"\x02\x00\x3c", &[properties.len() as u8], properties, b"\x00\x02id"])
    };
    for broken in [
        // Receive maximum 0, maximum packet size 0.
        &b"\x21\x00\x00"[..],
        b"\x27\x00\x00\x00\x00",
        // Twice: session expiry, receive maximum, packet size, alias maximum, both requests.
        b"\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01",
        b"\x21\x00\x01\x21\x00\x01",
        b"\x27\x00\x00\x01\x00\x27\x00\x00\x01\x00",
        b"\x22\x00\x01\x22\x00\x01",
        b"\x19\x01\x19\x01",
        b"\x17\x01\x17\x01",
        b"\x15\x00\x01m\x15\x00\x01m",
        b"\x15\x00\x01m\x16\x00\x01d\x16\x00\x01d",
        // Neither 0 nor 1; a property of other packets; none at all; data without a method.
        b"\x17\x02",
        b"\x23\x00\x01",
        b"\xff",
        b"\x16\x00\x01d",
    ] {
        assert_eq!(with(broken), (PROTOCOL_ERROR, Some(Version::V5)), "{broken:?}");
    }
}

#[test]
fn texts_are_utf_8_without_nul_and_no_longer_than_the_packet() {
    let v311 = |rest: &[u8]| fault(&[V311, rest]);
    for broken in [
        &b"\x02\x00\x3c\x00\x02\xff\xfe"[..],
        b"\x02\x00\x3c\x00\x02i\0",
        b"\x02\x00\x3c\x00\x09id",
        b"\x02\x00\x3c",
        // User name; will topic.
        b"\x82\x00\x3c\x00\x02id\x00\x02u\0",
        b"\x82\x00\x3c\x00\x02id\x00\x02\xc3\x28",
        b"\x06\x00\x3c\x00\x02id\x00\x02t\0\x00\x00",
        // The reserved flag; a will's QoS and its RETAIN without a will; its QoS 3.
        b"\x03\x00\x3c\x00\x02id",
        b"\x0a\x00\x3c\x00\x02id",
        b"\x22\x00\x3c\x00\x02id",
        b"\x1e\x00\x3c\x00\x02id\x00\x01t\x00\x00",
    ] {
        assert_eq!(v311(broken), (MALFORMED_PACKET, None), "{broken:?}");
    }
    let nul = text(b"a\0");
    let with = |property: &[&[u8]]| {
        let property = property.concat();
        [&[property.len() as u8], &property[..]].concat()
    };
    let own = |property: &[&[u8]]| [b"\x02\x00\x3c", &with(property)[..], b"\x00\x02id"].concat();
    let of_will = |property: &[&[u8]]| {
        let properties = with(property);
        [b"\x06\x00\x3c\x00\x00\x02id", &properties[..], b"\x00\x01t\x00\x00"].concat()
    };
    for broken in [
        [&b"\x02\x00\x3c\x00"[..], &nul].concat(),
        own(&[b"\x26", &nul, &text(b"v")]),
        own(&[b"\x26", &text(b"n"), &nul]),
        own(&[b"\x15", &nul]),
        of_will(&[b"\x03", &nul]),
        of_will(&[b"\x08", &nul]),
        of_will(&[b"\x26", &nul, &text(b"v")]),
        b"\x22\x00\x3c\x00\x00\x02id".to_vec(),
        b"\x1e\x00\x3c\x00\x00\x02id\x00\x00\x01t\x00\x00".to_vec(),
    ] {
        assert_eq!(fault(&[V5, &broken]), (MALFORMED_PACKET, Some(Version::V5)), "{broken:?}");
    }
    // The same without NUL.
    for whole in [own(&[b"\x26", &nul[..3], b"b", &text(b"v")]), of_will(&[b"\x03\x00\x01c"])] {
        assert!(read(&[V5, &whole]).is_ok(), "{whole:?}");
    }
}

#[test]
fn the_start_of_a_connect_tells_its_version() {
    assert_eq!(announced(b"\x10\xff\xff\x7f\x00\x04MQTT\x05\x02"), Some(Version::V5));
    assert_eq!(announced(b"\x10\xff\xff\x7f\x00\x04MQTT\x04"), Some(Version::V311));
    for none in [&b""[..], b"\x10", b"\x10\xff\xff\x7f\x00\x04MQTT", b"\x30\x10\x00\x04MQTT\x05"] {
        assert_eq!(announced(none), None, "{none:?}");
    }
}
