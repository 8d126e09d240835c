use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::upstream::parse_chain_header;

const DIALECTS: [Dialect; 5] =
    [Dialect::XSslCertChain, Dialect::Rfc9440, Dialect::Xfcc, Dialect::AwsAlb, Dialect::Traefik];

/// A leaf, an intermediate and an anchor; only their bytes count here.
fn path() -> Vec<Vec<u8>> {
    vec![vec![0xfb; 120], vec![0x31; 97], vec![0x32; 48]]
}

fn info() -> LeafInfo {
    LeafInfo {
        subject: "CN=device-1,O=Acme".into(),
        issuer: r"CN=Issuing CA,O=Acme\, Inc.".into(),
        serial_hex: "03A5B1".into(),
        not_before: 1_695_261_017,
        not_after: 1_726_797_017,
        dns_names: vec!["device-1.acme.example".into(), "d1.acme.example".into()],
        uris: vec!["spiffe://acme/device-1".into()],
    }
}

fn settings(dialect: Dialect, header_budget: usize) -> ForwardSettings {
    ForwardSettings { dialect, header_budget, extra_stripped: Vec::new(), trust_forwarded: false }
}

fn told(dialect: Dialect, budget: usize, path: &[Vec<u8>], leaf: &LeafInfo) -> IdentityHeaders {
    let device = Device { path, leaf_sha256: &[0xab; 32], leaf };
    settings(dialect, budget).headers_of(&device)
}

fn texts(headers: &IdentityHeaders) -> Vec<(&str, &str)> {
    headers.list.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
}

fn fingerprint() -> String {
    "ab".repeat(32)
}

#[test]
fn x_ssl_cert_chain_is_pem_on_one_line_and_parses_back_to_the_same_certificates() {
    let headers = told(Dialect::XSslCertChain, 16_384, &path(), &info());
    assert!(!headers.reduced);
    let [(name, value)] = texts(&headers)[..] else { panic!("one header") };
    assert_eq!(name, "x-ssl-cert-chain");
    assert!(value.starts_with("-----BEGIN CERTIFICATE----- +/v7"));
    assert!(value.ends_with("MjIy -----END CERTIFICATE-----"));
    assert!(value.contains("-----END CERTIFICATE----- -----BEGIN CERTIFICATE----- MTEx"));
    assert!(value.split(' ').all(|word| (1..=64).contains(&word.len())));
    assert_eq!(parse_chain_header(value.as_bytes()), Ok(path()));
}

#[test]
fn chains_of_any_length_survive_the_way_out_and_back() {
    for length in 1..=200_usize {
        let path = vec![vec![0xa7; length], vec![0x5c; 3 * length]];
        let headers = told(Dialect::XSslCertChain, 16_384, &path, &info());
        let (_, value) = &headers.list[0];
        assert_eq!(parse_chain_header(value.as_bytes()), Ok(path));
    }
}

#[test]
fn rfc_9440_is_a_byte_sequence_and_a_list_without_the_leaf() {
    let headers = told(Dialect::Rfc9440, 16_384, &path(), &info());
    let [leaf, middle, anchor] = [0, 1, 2].map(|at| STANDARD.encode(&path()[at]));
    assert_eq!(
        texts(&headers),
        [
            ("client-cert", format!(":{leaf}:").as_str()),
            ("client-cert-chain", format!(":{middle}:, :{anchor}:").as_str()),
        ]
    );
    let alone = told(Dialect::Rfc9440, 16_384, &path()[..1], &info());
    assert_eq!(texts(&alone), [("client-cert", format!(":{leaf}:").as_str())]);
}

#[test]
fn xfcc_is_one_element_in_envoys_order() {
    let headers = told(Dialect::Xfcc, 16_384, &path(), &info());
    let escaped = |ders: &[Vec<u8>]| {
        let pem: String = ders.iter().map(|der| pem_file(der)).collect();
        pem.replace('\n', "%0A")
            .replace(' ', "%20")
            .replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D")
    };
    let expected = format!(
        "Hash={};Cert=\"{}\";Chain=\"{}\";Subject=\"CN=device-1,O=Acme\";\
         URI=spiffe://acme/device-1;DNS=device-1.acme.example;DNS=d1.acme.example",
        fingerprint(),
        escaped(&path()[..1]),
        escaped(&path()),
    );
    assert_eq!(texts(&headers), [("x-forwarded-client-cert", expected.as_str())]);
}

#[test]
fn aws_alb_keeps_plus_equals_and_slash() {
    let headers = told(Dialect::AwsAlb, 16_384, &path(), &info());
    let escaped = |pem: String| pem.replace('\n', "%0A").replace(' ', "%20");
    let chain: String = path().iter().map(|der| pem_file(der)).collect();
    assert_eq!(
        texts(&headers),
        [
            ("x-amzn-mtls-clientcert", escaped(chain).as_str()),
            ("x-amzn-mtls-clientcert-leaf", escaped(pem_file(&path()[0])).as_str()),
            ("x-amzn-mtls-clientcert-serial-number", "03A5B1"),
            ("x-amzn-mtls-clientcert-issuer", r"CN=Issuing CA,O=Acme\2C Inc."),
            ("x-amzn-mtls-clientcert-subject", "CN=device-1,O=Acme"),
            (
                "x-amzn-mtls-clientcert-validity",
                "NotBefore=2023-09-21T01:50:17Z;NotAfter=2024-09-20T01:50:17Z"
            ),
        ]
    );
}

#[test]
fn traefik_is_bare_base64_and_an_escaped_info() {
    let headers = told(Dialect::Traefik, 16_384, &path(), &info());
    let certificates: Vec<String> = path().iter().map(|der| STANDARD.encode(der)).collect();
    assert_eq!(
        texts(&headers),
        [
            ("x-forwarded-tls-client-cert", certificates.join(",").as_str()),
            (
                "x-forwarded-tls-client-cert-info",
                "Subject%3D%22CN%3Ddevice-1%2CO%3DAcme%22%3BIssuer%3D%22CN%3DIssuing+CA%2C\
                 O%3DAcme%5C2C+Inc.%22%3BNB%3D%221695261017%22%3BNA%3D%221726797017%22%3B\
                 SAN%3D%22device-1.acme.example%2Cd1.acme.example%2Cspiffe%3A%2F%2Facme%2F\
                 device-1%22"
            ),
        ]
    );
}

#[test]
fn nothing_in_a_certificate_breaks_out_of_its_field() {
    let hostile = "a\",;\\=\r\n\0Hash=00;URI=x,By=y\u{202e}é%";
    let leaf = LeafInfo {
        subject: format!("CN={hostile}"),
        issuer: format!("CN={hostile}\\"),
        serial_hex: "01\r\nX-Evil: 1".into(),
        not_before: i64::MIN,
        not_after: i64::MAX,
        dns_names: vec![hostile.into()],
        uris: vec![hostile.into(), "urn:a=b".into()],
    };
    for dialect in DIALECTS {
        for (name, value) in told(dialect, 16_384, &path(), &leaf).list {
            let text = value.to_str().unwrap();
            assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{name}: {text}");
        }
    }
    let xfcc = told(Dialect::Xfcc, 16_384, &path(), &leaf);
    let fields = xfcc_fields(texts(&xfcc)[0].1);
    let keys: Vec<&str> = fields.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["Hash", "Cert", "Chain", "Subject", "URI", "URI", "DNS"]);
    assert_eq!(fields[0].1, fingerprint());
    assert_eq!(fields[3].1, encode::distinguished_name(&leaf.subject));
    assert_eq!(fields[5].1, "urn:a=b");

    let traefik = told(Dialect::Traefik, 16_384, &path(), &leaf);
    let info = texts(&traefik)[1].1;
    assert_eq!(info.matches("%3B").count(), 4, "the separators and no other semicolon");
    assert_eq!(info.matches("%22").count(), 10, "the quotes of five fields and no other");

    let aws = told(Dialect::AwsAlb, 16_384, &path(), &leaf);
    assert!(aws.list.iter().all(|(name, _)| !name.as_str().ends_with("serial-number")));
}

#[test]
fn a_chain_over_the_budget_falls_back_to_the_leaf_and_then_to_the_fingerprint() {
    for dialect in DIALECTS {
        let whole = size(&told(dialect, 16_384, &path(), &info()).list);
        assert!(!told(dialect, whole, &path(), &info()).reduced, "{dialect:?}");

        let reduced = told(dialect, whole - 1, &path(), &info());
        assert!(reduced.reduced, "{dialect:?}");
        let leaf_size = size(&reduced.list);
        let text = format!("{:?}", texts(&reduced));
        assert!(text.contains(&fingerprint()), "{dialect:?}");
        assert!(!text.contains(&STANDARD.encode(&path()[2])), "{dialect:?}");

        let least = told(dialect, leaf_size - 1, &path(), &info());
        assert!(least.reduced);
        let (name, value) = match dialect {
            Dialect::Xfcc => ("x-forwarded-client-cert", format!("Hash={}", fingerprint())),
            _ => ("x-ssl-cert-sha256", fingerprint()),
        };
        assert_eq!(texts(&least), [(name, value.as_str())], "{dialect:?}");
        assert_eq!(texts(&told(dialect, 0, &path(), &info())), texts(&least), "{dialect:?}");
    }
    let reduced = told(Dialect::XSslCertChain, 400, &path(), &info());
    let [chain, sha256] = texts(&reduced)[..] else { panic!("two headers") };
    assert_eq!(parse_chain_header(chain.1.as_bytes()), Ok(path()[..1].to_vec()));
    assert_eq!(sha256, ("x-ssl-cert-sha256", fingerprint().as_str()));
}

#[test]
fn a_pinned_leaf_is_told_whole_without_an_issuer() {
    for dialect in DIALECTS {
        let alone = told(dialect, 16_384, &path()[..1], &info());
        assert!(!alone.reduced, "{dialect:?}");
        assert!(!alone.list.is_empty(), "{dialect:?}");
        let text = format!("{:?}", texts(&alone));
        let [leaf, middle] = [0, 1].map(|at| STANDARD.encode(&path()[at]));
        let bare = text.replace("%0A", "").replace("%2B", "+").replace("%2F", "/").replace(' ', "");
        assert!(bare.contains(&leaf[..60]), "{dialect:?}: {text}");
        assert!(!bare.contains(&middle[..60]), "{dialect:?}: {text}");
    }
}

#[test]
fn every_header_that_is_sent_is_also_stripped() {
    for dialect in DIALECTS {
        for budget in [0, 400, 16_384] {
            for (name, _) in told(dialect, budget, &path(), &info()).list {
                assert!(settings(Dialect::XSslCertChain, 0).strips(&name), "{name}");
            }
        }
    }
}

#[test]
fn configured_headers_are_stripped_too() {
    let mut settings = settings(Dialect::XSslCertChain, 0);
    let name = HeaderName::from_static("x_my.identity");
    assert!(!settings.strips(&name));
    settings.extra_stripped.push(StrippedName::parse("X-My-Identity").unwrap());
    assert!(settings.strips(&name));
}

/// Fields of one XFCC element as a reader sees them who honours quotes and escapes.
fn xfcc_fields(element: &str) -> Vec<(String, String)> {
    let mut fields = vec![String::new()];
    let mut characters = element.chars();
    let mut quoted = false;
    while let Some(character) = characters.next() {
        let field = fields.last_mut().unwrap();
        match character {
            '"' => quoted = !quoted,
            '\\' if quoted => field.push(characters.next().unwrap()),
            ';' if !quoted => fields.push(String::new()),
            ',' if !quoted => panic!("a second element"),
            other => field.push(other),
        }
    }
    assert!(!quoted);
    let split = |field: String| {
        let (key, value) = field.split_once('=').unwrap();
        (key.to_owned(), value.to_owned())
    };
    fields.into_iter().map(split).collect()
}
