use super::*;
use crate::trust::leaf;
use crate::trust::testing::pki::{COMMON_NAME, ORGANIZATION, SUBJECT_ALT_NAME, Template};
use crate::trust::testing::{DNS, URI, with_sans};

const EMAIL: u8 = 0x81;

fn named(rule: &str, template: Template) -> Result<String, String> {
    let rule = IdentityRule::parse(rule).unwrap();
    match leaf::identity(&template.self_signed().der, &rule) {
        Ok(device) => Ok(device.as_str().to_owned()),
        Err(refused) => {
            assert!(is_printable(&refused.reason));
            Err(refused.reason.trim_start_matches("the end-entity certificate: ").to_owned())
        }
    }
}

fn by_cn(rule: &str, common_name: &str) -> Result<String, String> {
    named(rule, Template::device(common_name))
}

fn by_sans(rule: &str, names: &[(u8, &[u8])]) -> Result<String, String> {
    named(rule, with_sans(Template::device("the-cn"), names))
}

#[test]
fn a_rule_is_a_source_and_where_needed_a_pattern() {
    for text in [
        "cn",
        "cn:(.+)",
        "san_dns",
        "san_dns:([a-z]+)\\.example\\.com",
        "serial",
        "serial:00(.*)",
        "san_uri:urn:device:([0-9a-f:]+)",
        "cn:(?P<device>\\d+)(?:-old)?",
        "cn:(?i)(a|b)",
    ] {
        let rule = IdentityRule::parse(text).unwrap();
        assert_eq!(rule.as_str(), text);
        assert_eq!(rule.to_string(), text);
    }
    assert_eq!(IdentityRule::default().as_str(), "cn");
    assert_eq!(IdentityRule::default(), IdentityRule::parse("cn").unwrap());
    assert_ne!(IdentityRule::default(), IdentityRule::parse("cn:(.*)").unwrap());
}

#[test]
fn what_is_no_rule_is_told_with_what_to_write() {
    use IdentityFault::*;
    let fault = |text: &str| IdentityRule::parse(text).err();
    for text in ["", "CN", "cn ", " cn", "mail", "san_email:(.*)", ":(.*)", "(.*)"] {
        assert_eq!(fault(text), Some(UnknownSource), "{text}");
    }
    assert_eq!(fault("san_uri"), Some(PatternMissing));
    for text in ["cn:", "san_uri:", "serial:"] {
        assert_eq!(fault(text), Some(PatternEmpty), "{text}");
    }
    for text in
        ["cn:(\n)", "cn:(a\0)", "cn:(\u{202e})", "cn:(caf\u{e9})", "cn\u{200b}", "cn:(\x7f)"]
    {
        assert_eq!(fault(text), Some(NotPrintable), "{text:?}");
    }
    for (text, groups) in [("cn:.*", 0), ("cn:(?:.*)", 0), ("cn:(a)(b)", 2), ("cn:((a)b)", 2)] {
        assert_eq!(fault(text), Some(Groups(groups)), "{text}");
    }
    assert_eq!(fault("cn:(a").unwrap(), BadPattern("unclosed group".into()));
    for text in ["cn:a)|(b", "cn:(a)\\", "cn:([a)", "cn:(a", "cn:(?x)(a)#", "cn:(\\pL)"] {
        let Some(BadPattern(what)) = fault(text) else { panic!("{text}: {:?}", fault(text)) };
        assert!(!what.is_empty() && is_printable(&what), "{text}: {what:?}");
    }
    for fault in [TooLong, NotPrintable, UnknownSource, PatternMissing, TooLarge, Groups(2)] {
        assert!(is_printable(&fault.to_string().replace('…', "")), "{fault}");
    }
}

#[test]
fn rules_of_any_size_cost_little() {
    let longest = |len: usize| format!("cn:({})", "a".repeat(len - 5));
    assert!(IdentityRule::parse(&longest(512)).is_ok());
    assert_eq!(IdentityRule::parse(&longest(513)).err(), Some(IdentityFault::TooLong));
    let huge = "\u{202e}".repeat(1 << 20);
    assert_eq!(IdentityRule::parse(&huge).err(), Some(IdentityFault::TooLong));
    for bomb in [
        "([a-z]{1000}{1000})",
        "((?:a{0,1000}){0,1000})",
        "(a{100000})",
        "((?:(?:[^a]{99}){99}){99})",
    ] {
        let fault = IdentityRule::parse(&format!("cn:{bomb}")).err();
        assert_eq!(fault, Some(IdentityFault::TooLarge), "{bomb}");
    }
    assert!(IdentityRule::parse(&format!("cn:{}a{}", "(".repeat(250), ")".repeat(250))).is_err());
}

#[test]
fn a_search_takes_time_linear_in_the_value() {
    let value = "a".repeat(MAX_VALUE - 1) + "!";
    for bomb in
        ["((?:a+)+)", "((?:a|aa)+)", "((?:a*)*)b", "(.*.*.*.*.*.*.*.*)=", "(?:a?){90}(a{90})"]
    {
        let refused = by_cn(&format!("cn:{bomb}"), &value).unwrap_err();
        assert_eq!(refused, "its common name does not match the pattern of its anchor", "{bomb}");
    }
}

#[test]
fn a_pattern_must_match_the_whole_value() {
    assert_eq!(by_cn("cn:(.*)\\.company\\.com", "d1.company.com").unwrap(), "d1");
    assert_eq!(by_cn("cn:(a|ab)", "ab").unwrap(), "ab");
    assert_eq!(by_cn("cn:(a)|b", "a").unwrap(), "a");
    assert_eq!(by_cn("cn:(?i)DEVICE (\\d+)", "device 42").unwrap(), "42");
    let no_match = "its common name does not match the pattern of its anchor";
    for (rule, value) in [
        ("cn:(.*)\\.company\\.com", "d1.company.com.evil.example"),
        ("cn:(.*)\\.company\\.com", "d1.companyXcom"),
        ("cn:([a-z]+)", "abc1"),
        ("cn:([a-z]+)", "1abc"),
        ("cn:(a)|b", "xa"),
        ("cn:(a)|b", "ax"),
        ("cn:a|(b)", "ab"),
        // The group takes no part in this match.
        ("cn:(a)|b", "b"),
        ("cn:([a-z]+)", "ABC"),
    ] {
        assert_eq!(by_cn(rule, value).unwrap_err(), no_match, "{rule} {value}");
    }
}

#[test]
fn what_the_group_holds_must_be_a_device_id() {
    let no_id = "the device id in its common name is no device id: ";
    for (rule, value) in [
        ("cn:(.*)-x", "-x"),
        ("cn:(.*)-x", "a b-x"),
        ("cn:(.*)-x", "a:b-x"),
        ("cn:(.*)-x", "../a-x"),
        ("cn:(.*)-x", "a+b-x"),
        ("cn:(.*)-x", "#-x"),
        ("cn:()x", "x"),
        ("cn:(.*)-x", &("a".repeat(129) + "-x")),
    ] {
        let refused = by_cn(rule, value).unwrap_err();
        assert!(refused.starts_with(no_id), "{value}: {refused}");
    }
    assert_eq!(by_cn("cn:(.*)-x", &("a".repeat(128) + "-x")).unwrap(), "a".repeat(128));
}

#[test]
fn a_pattern_sees_printable_ascii_of_a_bounded_length_only() {
    for value in ["a\0-x", "a-\u{202e}x", "a-\r\nx", "a-\x1b[31mx", "a-\u{e9}x", "a-\x7fx"] {
        let refused = by_cn("cn:([a-z]+).*", value).unwrap_err();
        assert_eq!(refused, "a common name of it is not printable ASCII", "{value:?}");
    }
    let refused = by_cn("cn:(a).*", &"a".repeat(MAX_VALUE + 1)).unwrap_err();
    assert_eq!(refused, "a common name of it has more than 2048 octets");
    assert_eq!(by_cn("cn:(a).*", &"a".repeat(MAX_VALUE)).unwrap(), "a");
    let uri = [(URI, &b"urn:a:1"[..]), (URI, b"urn:a:2\0")];
    let refused = by_sans("san_uri:urn:a:([0-9])", &uri).unwrap_err();
    assert_eq!(refused, "a URI (subject alternative name) of it is not printable ASCII");
}

#[test]
fn a_common_name_is_one_in_a_plain_string_type_with_or_without_a_pattern() {
    let several = "its subject has several common names";
    let odd = "its common name is not a UTF8String, PrintableString or IA5String";
    for rule in ["cn", "cn:(.*)"] {
        let of = |subject: &[(&str, u8, &[u8])]| named(rule, Template::device("").subject(subject));
        for tag in [0x0c, 0x13, 0x16] {
            assert_eq!(of(&[(COMMON_NAME, tag, b"d1")]).unwrap(), "d1");
        }
        assert_eq!(
            of(&[(ORGANIZATION, 0x0c, b"d1")]).unwrap_err(),
            "its subject has no common name"
        );
        assert_eq!(of(&[(COMMON_NAME, 0x0c, &b"d1"[..]); 2]).unwrap_err(), several);
        for (tag, octets) in
            [(0x1e, &b"\0d\x001"[..]), (0x14, b"d1"), (0x1c, b"\0\0\0d"), (0x0c, b"\xff")]
        {
            assert_eq!(of(&[(COMMON_NAME, tag, octets)]).unwrap_err(), odd);
        }
    }
}

#[test]
fn other_sources_do_not_look_at_the_common_name() {
    let odd = Template::device("")
        .subject(&[(COMMON_NAME, 0x1e, b"\0d"), (COMMON_NAME, 0x0c, b"\0")])
        .serial(&[0x00, 0xAB, 0x0C]);
    let odd = with_sans(odd, &[(URI, b"urn:device:u1"), (DNS, b"n1.example.com")]);
    assert_eq!(named("san_uri:urn:device:(.*)", odd.clone()).unwrap(), "u1");
    assert_eq!(named("san_dns", odd.clone()).unwrap(), "n1.example.com");
    assert_eq!(named("san_dns:(.*)\\.example\\.com", odd.clone()).unwrap(), "n1");
    assert_eq!(named("serial", odd.clone()).unwrap(), "AB0C");
    assert_eq!(named("serial:AB(.*)", odd.clone()).unwrap(), "0C");
    assert_eq!(
        named("serial:ab(.*)", odd).unwrap_err(),
        "its serial number does not match the pattern of its anchor"
    );
}

#[test]
fn of_several_values_exactly_one_device_must_come() {
    let rule = "san_uri:urn:device:([a-z0-9]+)";
    let (one, two): (&[u8], &[u8]) = (b"urn:device:d1", b"urn:device:d2");
    let other: &[u8] = b"https://example.com/";
    assert_eq!(by_sans(rule, &[(URI, one)]).unwrap(), "d1");
    assert_eq!(by_sans(rule, &[(URI, other), (URI, one), (DNS, b"x.y")]).unwrap(), "d1");
    assert_eq!(by_sans(rule, &[(URI, one), (URI, other), (URI, one)]).unwrap(), "d1");
    let several = "its URIs (subject alternative names) name several devices";
    assert_eq!(by_sans(rule, &[(URI, one), (URI, two)]).unwrap_err(), several);
    assert_eq!(by_sans(rule, &[(URI, two), (URI, other), (URI, one)]).unwrap_err(), several);
    assert_eq!(
        by_sans(rule, &[(URI, other)]).unwrap_err(),
        "its URI (subject alternative name) does not match the pattern of its anchor"
    );
    assert_eq!(
        by_sans(rule, &[(URI, other), (URI, b"urn:x")]).unwrap_err(),
        "no URI (subject alternative name) of it matches the pattern of its anchor"
    );
    // A name of another type is no name of this one.
    let none = "it has no URI (subject alternative name)";
    assert_eq!(by_sans(rule, &[(DNS, one), (EMAIL, one)]).unwrap_err(), none);
    assert_eq!(by_cn(rule, "the-cn").unwrap_err(), none);

    let both: [(u8, &[u8]); 2] = [(DNS, b"a.example"), (DNS, b"b.example")];
    assert_eq!(
        by_sans("san_dns", &both).unwrap_err(),
        "its DNS names (subject alternative names) name several devices"
    );
    assert_eq!(by_sans("san_dns", &both[..1]).unwrap(), "a.example");
    assert_eq!(
        by_sans("san_dns", &[(URI, one)]).unwrap_err(),
        "it has no DNS name (subject alternative name)"
    );
    let wildcard = by_sans("san_dns", &[(DNS, b"*.example")]).unwrap_err();
    assert!(wildcard.starts_with("its DNS name (subject alternative name) is no device id: "));
}

#[test]
fn alternative_names_that_cannot_be_read_name_nobody() {
    let good: (u8, &[u8]) = (URI, b"urn:device:d1");
    let rule = "san_uri:urn:device:(.*)";
    for bad in [(URI, &b"urn:device:\xff"[..]), (DNS, b"\xff"), (0x8a, b"x")] {
        assert_eq!(by_sans(rule, &[good, bad]).unwrap_err(), "does not parse");
        assert_eq!(by_sans(rule, &[bad, good]).unwrap_err(), "does not parse");
    }
    let twice = with_sans(Template::device("d"), &[good]).another_extension(
        SUBJECT_ALT_NAME,
        false,
        &[0x30, 0],
    );
    assert_eq!(named(rule, twice).unwrap_err(), "does not parse");
}

#[test]
fn thousands_of_names_are_bounded_by_the_certificates_size() {
    let names: Vec<String> = (0..1_000).map(|n| format!("urn:x:{n}")).collect();
    let mut sans: Vec<(u8, &[u8])> = names.iter().map(|name| (URI, name.as_bytes())).collect();
    sans.push((URI, b"urn:device:d1"));
    assert_eq!(by_sans("san_uri:urn:device:(.*)", &sans).unwrap(), "d1");
}
