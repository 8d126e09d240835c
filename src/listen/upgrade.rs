//! The opening of a WebSocket for MQTT (RFC 6455 §4.2, MQTT 5.0 §6): what asks for one, and what
//! is answered.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boring::sha::sha1;
use http::header::{
    CONNECTION, HOST, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, Method, Version};
use pingora_http::RequestHeader;

use crate::gate::ClientIdentity;
use crate::refusal::{Refusal, Refused};

use super::connection::Upgrade;
use super::decide::host_of;

const PATH: &str = "/mqtt";
/// The subprotocols: of MQTT since 3.1.1, and as clients of 3.1 call it.
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];
/// RFC 6455 §1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of the key (RFC 6455 §4.1).
const KEY_BYTES: usize = 16;

/// Why there is no WebSocket.
#[derive(Debug)]
pub enum Unfit {
    /// It is of a version that is not spoken here.
    Version(Refused),
    Refused(Refused),
}

/// What a request for a WebSocket on the path of MQTT, for one of its subprotocols, comes to.
/// `None`: it is no such request. Its authority has been checked.
pub fn asked(request: &RequestHeader, identity: &ClientIdentity) -> Option<Result<Upgrade, Unfit>> {
    let headers = &request.headers;
    if request.version != Version::HTTP_11
        || request.uri.path() != PATH
        || !has_token(headers, UPGRADE, "websocket")
    {
        return None;
    }
    let protocol = tokens(headers, SEC_WEBSOCKET_PROTOCOL)
        .find_map(|offered| PROTOCOLS.into_iter().find(|known| *known == offered))?;
    Some(opened(request, identity, protocol))
}

/// The answer, with which the connection becomes the WebSocket. No extension is ever agreed on.
pub fn answer(upgrade: &Upgrade) -> String {
    let Upgrade { accept, protocol } = upgrade;
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    )
}

fn opened(
    request: &RequestHeader,
    identity: &ClientIdentity,
    protocol: &'static str,
) -> Result<Upgrade, Unfit> {
    let headers = &request.headers;
    let malformed =
        |reason: &'static str| Unfit::Refused(Refused::new(Refusal::ProtocolError, reason));
    if request.method != Method::GET {
        return Err(malformed("a WebSocket is asked for by GET"));
    }
    if !has_token(headers, CONNECTION, "upgrade") {
        return Err(malformed("Upgrade stands there and Connection does not name it"));
    }
    if only(headers, SEC_WEBSOCKET_VERSION) != Some("13") {
        let reason = "a WebSocket of a version other than 13";
        return Err(Unfit::Version(Refused::new(Refusal::ProtocolError, reason)));
    }
    let key = only(headers, SEC_WEBSOCKET_KEY).filter(|key| {
        // Four characters for three bytes, whatever they are.
        key.len() <= 4 * KEY_BYTES
            && STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == KEY_BYTES)
    });
    let key = key.ok_or_else(|| malformed("Sec-WebSocket-Key is not one key of 16 bytes"))?;
    if matches!(identity, ClientIdentity::Verified(_)) && of_another_site(headers) {
        return Err(Unfit::Refused(Refused::new(
            Refusal::Misdirected,
            "a page of another site asks for a WebSocket with the certificate of its reader",
        )));
    }
    let accept = STANDARD.encode(sha1(format!("{key}{GUID}").as_bytes()));
    Ok(Upgrade { accept, protocol })
}

/// Whether a browser asks for a page that is not of the host asked (RFC 6455 §10.2): it would show
/// the certificate of whoever reads the page. Devices send no Origin, or the host's own.
fn of_another_site(headers: &HeaderMap) -> bool {
    let mut origins = headers.get_all(ORIGIN).iter();
    let (Some(origin), None) = (origins.next(), origins.next()) else {
        return headers.contains_key(ORIGIN);
    };
    let host = only(headers, HOST).and_then(host_of);
    // A page that came without TLS could be anybody's.
    let origin = origin.to_str().ok().and_then(|origin| origin.strip_prefix("https://"));
    match (origin.and_then(host_of), host) {
        (Some(origin), Some(host)) => !origin.eq_ignore_ascii_case(host),
        _ => true,
    }
}

/// The value of a header that stands once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().map(str::trim),
        _ => None,
    }
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

/// The members of a header's list, over all of its lines.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 6] = [
        ("Host", "acme.example.com"),
        ("Connection", "keep-alive, Upgrade"),
        ("Upgrade", "h2c, WebSocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Protocol", "chat, mqtt"),
    ];

    fn request(path: &str, headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", path.as_bytes(), None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    /// [`GOOD`] with another value for a name, or without it.
    fn with(name: &'static str, value: Option<&'static str>) -> RequestHeader {
        let others = GOOD.into_iter().filter(|(other, _)| *other != name);
        let headers: Vec<_> = others.chain(value.map(|value| (name, value))).collect();
        request("/mqtt", &headers)
    }

    fn outcome(request: &RequestHeader) -> Option<Result<Upgrade, Unfit>> {
        asked(request, &ClientIdentity::Anonymous)
    }

    #[test]
    fn the_answer_is_the_one_of_the_specification() {
        let upgrade = outcome(&request("/mqtt?a=b", &GOOD)).unwrap().unwrap();
        // RFC 6455 §1.3.
        assert_eq!(upgrade.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(upgrade.protocol, "mqtt");
        assert!(answer(&upgrade).starts_with("HTTP/1.1 101 "));
    }

    #[test]
    fn only_a_websocket_on_the_path_of_mqtt_for_its_subprotocol_is_the_edges() {
        for path in ["/", "/mqtt/", "/MQTT", "/mqtt2", "/a/mqtt"] {
            assert!(outcome(&request(path, &GOOD)).is_none(), "{path}");
        }
        for protocol in [None, Some("amqp"), Some("MQTT"), Some("mqttx")] {
            assert!(outcome(&with("Sec-WebSocket-Protocol", protocol)).is_none(), "{protocol:?}");
        }
        assert!(outcome(&with("Upgrade", Some("h2c"))).is_none());
        let old = outcome(&with("Sec-WebSocket-Protocol", Some("mqttv3.1"))).unwrap().unwrap();
        assert_eq!(old.protocol, "mqttv3.1");
    }

    #[test]
    fn an_opening_that_breaks_the_rules_comes_to_no_websocket() {
        let long = "A".repeat(400);
        let keys = [None, Some(""), Some("AAAA"), Some("!"), Some(long.leak() as &str)];
        for key in keys {
            let outcome = outcome(&with("Sec-WebSocket-Key", key)).unwrap();
            assert!(matches!(outcome, Err(Unfit::Refused(_))), "{key:?}");
        }
        for version in [None, Some("12"), Some("13, 8"), Some("013")] {
            let outcome = outcome(&with("Sec-WebSocket-Version", version)).unwrap();
            assert!(matches!(outcome, Err(Unfit::Version(_))), "{version:?}");
        }
        assert!(outcome(&with("Connection", Some("keep-alive"))).unwrap().is_err());
        let mut twice = request("/mqtt", &GOOD);
        twice.append_header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==").unwrap();
        assert!(outcome(&twice).unwrap().is_err());
        let mut post = request("/mqtt", &GOOD);
        post.set_method(Method::POST);
        assert!(outcome(&post).unwrap().is_err());
    }

    #[test]
    fn a_page_is_of_the_site_whose_host_it_asks() {
        let another = |origin: &[&str]| {
            let mut request = request("/mqtt", &GOOD);
            for origin in origin {
                request.append_header("Origin", *origin).unwrap();
            }
            of_another_site(&request.headers)
        };
        assert!(!another(&[]));
        assert!(!another(&["https://acme.example.com"]));
        assert!(!another(&["https://ACME.example.com:8443"]));
        for origin in [
            "null",
            "",
            "http://acme.example.com",
            "https://evil.example",
            "https://acme.example.com.evil.example",
        ] {
            assert!(another(&[origin]), "{origin}");
        }
        assert!(another(&["https://acme.example.com", "https://evil.example"]));
    }
}
