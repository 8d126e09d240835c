use super::*;

fn client_ids(patterns: &[&str]) -> ClientIds {
    let patterns = patterns.iter().map(|text| ClientIdPattern::parse(text).unwrap());
    ClientIds::Patterns(patterns.collect())
}

#[test]
fn client_ids_name_devices_as_the_platform_has_them() {
    let ids = ClientIds::default();
    for (id, device) in [("dev-1", "dev-1"), ("d:dev-1", "dev-1"), ("d:dev-1:c8y_T:x", "dev-1")] {
        assert_eq!(ids.device(id), Some(device), "{id}");
    }
    for id in ["", "d:", "d::t", ":dev-1", "x:dev-1", "dev-1:t", "dev 1", "dev/1", "d:dev/1", "d:é"]
    {
        assert_eq!(ids.device(id), None, "{id}");
    }
}

#[test]
fn a_client_id_belongs_to_one_device_whoever_asks() {
    // `d:a` would else be the device `a`, and the device `d` with `a` behind it.
    let ids = client_ids(&["d:{device}", "{device}:*"]);
    assert_eq!(ids.device("d:a"), Some("a"));
    assert_eq!(ids.device("e:a"), Some("e"));
}

#[test]
fn a_pattern_says_where_the_device_ends() {
    for bad in [
        "",
        "x",
        "{device}*",
        "{device}-*",
        "dev{device}",
        "{device}x",
        "{device}{tenant}",
        "{device}/#",
    ] {
        assert!(ClientIdPattern::parse(bad).is_err(), "{bad}");
    }
    for good in ["{device}", "{device}/*", "fleet/{device}", "x:{device}:y"] {
        assert!(ClientIdPattern::parse(good).is_ok(), "{good}");
    }
}

#[test]
fn templates_are_filled_with_what_is_known() {
    let tenant = TenantId::parse("acme").unwrap();
    let device = DeviceId::parse("dev-1").unwrap();
    let client = Client {
        tenant: &tenant,
        device: Some(&device),
        leaf_sha256: Some(&[0xab; 32]),
        client_id: "d:dev-1",
        user_name: "bob",
        password: b"pw",
        token: "jwt",
    };
    let fill = |text: &str| {
        let template = Template::parse(text, &Placeholder::ALL).unwrap();
        String::from_utf8(template.fill(&client)).unwrap()
    };
    assert_eq!(fill("{tenant}/device_{device}!"), "acme/device_dev-1!");
    assert_eq!(fill("{client_id}|{user_name}|{password}|{token}"), "d:dev-1|bob|pw|jwt");
    assert_eq!(fill("{fingerprint}"), "ab".repeat(32));
    assert_eq!(fill(""), "");
    for bad in ["{", "}", "{x}", "{{device}}", "{device"] {
        assert!(Template::parse(bad, &Placeholder::ALL).is_err(), "{bad}");
    }
    assert!(Template::parse("{password}", &[Placeholder::Device]).is_err());
}

#[test]
fn tenants_are_kept_apart_by_a_separator_at_an_end() {
    let separates = |text: &str| {
        let template = Template::parse(text, &Placeholder::ALL).unwrap();
        template.separates(Placeholder::Tenant)
    };
    for good in [
        "{tenant}/{client_id}",
        "{client_id}/{tenant}",
        "{client_id}@{tenant}",
        "{tenant}:x{client_id}",
        "x{tenant}/{client_id}/y",
        "{tenant}/{device}/{client_id}",
        "{device}/{tenant}/{client_id}",
    ] {
        assert!(separates(good), "{good}");
    }
    for bad in [
        "{client_id}",
        "{tenant}",
        "{tenant}{client_id}",
        "{tenant}-{client_id}",
        "{client_id}-{tenant}",
        "{client_id}/{tenant}/x",
        "{device}{tenant}/{client_id}",
    ] {
        assert!(!separates(bad), "{bad}");
    }
}

#[test]
fn the_proxy_header_is_what_a_parser_of_its_own_reads() {
    let device = DeviceId::parse("dev-1").unwrap();
    let certificate = vec![0x30; 700];
    let header = proxy_header(&ProxiedClient {
        peer: "192.0.2.7:4711".parse().unwrap(),
        local: "192.0.2.1:8883".parse().unwrap(),
        server_name: Some("acme.example.com"),
        tls_version: "TLSv1.3",
        device: Some((&device, &certificate)),
    });
    let parsed = ppp::v2::Header::try_from(header.as_slice()).unwrap();
    assert_eq!(
        parsed.addresses,
        ppp::v2::IPv4::new([192, 0, 2, 7], [192, 0, 2, 1], 4711, 8883).into()
    );
    let tlvs: Vec<_> = parsed.tlvs().map(Result::unwrap).collect();
    assert_eq!((tlvs[0].kind, &*tlvs[0].value), (TYPE_AUTHORITY, &b"acme.example.com"[..]));
    assert_eq!((tlvs[1].kind, tlvs[1].value.get(..5)), (TYPE_SSL, Some(&[7, 0, 0, 0, 0][..])));
    assert_eq!(tlvs.len(), 2);
}

#[test]
fn a_certificate_that_does_not_fit_is_left_out() {
    let device = DeviceId::parse("dev-1").unwrap();
    let certificate = vec![0x30; 65_530];
    let header = proxy_header(&ProxiedClient {
        peer: "[2001:db8::1]:4711".parse().unwrap(),
        local: "192.0.2.1:8883".parse().unwrap(),
        server_name: None,
        tls_version: "TLSv1.2",
        device: Some((&device, &certificate)),
    });
    assert!(header.len() < 200);
    assert!(ppp::v2::Header::try_from(header.as_slice()).is_ok());
    assert!(header.windows(5).any(|window| window == b"dev-1"));
}
