//! Which names the API answers to: what keeps web pages away from it.
//!
//! A page of another origin may send requests here, and a page whose own name is made to
//! point here (DNS rebinding) may read the answers as well. The first says so in `Origin`,
//! the second in `Host`; both are refused. There are no cookies and no CORS headers.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Uri};

use super::error::ApiError;

/// # Errors
/// 421 where the request is addressed to a name that is neither an IP address, `localhost` nor
/// one of `hosts` (lower case); 400 without exactly one `Host`; 403 where another origin's page
/// sent it.
pub fn check(headers: &HeaderMap, uri: &Uri, tls: bool, hosts: &[String]) -> Result<(), ApiError> {
    let mut values = headers.get_all(HOST).iter();
    let (Some(host), None) = (values.next(), values.next()) else {
        return Err(ApiError::bad_request("Send one Host header (RFC 9112 section 3.2)."));
    };
    let host = host.to_str().unwrap_or_default();
    let addressed = host.parse::<Authority>().is_ok_and(|authority| is_ours(&authority, hosts));
    // In absolute form, the target's authority counts (RFC 9112 section 3.2.2): hold both.
    let target = uri.authority().is_none_or(|authority| is_ours(authority, hosts));
    if !addressed || !target {
        return Err(ApiError::misdirected(
            "The API does not answer to this host name. Use an IP address or localhost, or add the \
             name to admin.hosts in the configuration file.",
        ));
    }
    let own = format!("{}://{host}", if tls { "https" } else { "http" });
    let foreign = |origin: &[u8]| !origin.eq_ignore_ascii_case(own.as_bytes());
    if headers.get_all(ORIGIN).iter().any(|origin| foreign(origin.as_bytes())) {
        return Err(ApiError::forbidden("Requests of other origins are refused."));
    }
    Ok(())
}

fn is_ours(authority: &Authority, hosts: &[String]) -> bool {
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    literal.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|name| name.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn ask(host: &[&str], origin: Option<&str>, tls: bool) -> u16 {
        ask_for("/", host, origin, tls)
    }

    fn ask_for(uri: &str, host: &[&str], origin: Option<&str>, tls: bool) -> u16 {
        let mut headers = HeaderMap::new();
        for host in host {
            headers.append(HOST, HeaderValue::from_str(host).unwrap());
        }
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        let hosts = ["edge.example.com".to_owned()];
        check(&headers, &uri.parse().unwrap(), tls, &hosts)
            .map_or_else(|error| error.status().as_u16(), |()| 200)
    }

    #[test]
    fn ip_addresses_localhost_and_configured_names_are_answered() {
        for host in [
            "127.0.0.1:9090",
            "10.0.0.1",
            "[::1]:9090",
            "[2001:db8::1]",
            "localhost",
            "LOCALHOST:1",
            "Edge.Example.com:9090",
        ] {
            assert_eq!(ask(&[host], None, false), 200, "{host}");
        }
    }

    #[test]
    fn any_other_name_is_misdirected() {
        for host in [
            "evil.example.com",
            "localhost.evil.example.com",
            "edge.example.com.evil.example.com",
            "127.0.0.1.evil.example.com",
            "127.0.0.1@evil.example.com",
            "evil@127.0.0.1",
            "",
            "a b",
        ] {
            assert_eq!(ask(&[host], None, false), 421, "{host}");
        }
        assert_eq!(ask(&[], None, false), 400);
        assert_eq!(ask(&["localhost", "evil.example.com"], None, false), 400);
        assert_eq!(ask_for("http://evil.example.com/", &["localhost"], None, false), 421);
        assert_eq!(ask_for("http://localhost/", &["localhost"], None, false), 200);
    }

    #[test]
    fn only_the_request_s_own_origin_may_stand_in_it() {
        let host = &["localhost:9090"];
        assert_eq!(ask(host, Some("http://localhost:9090"), false), 200);
        assert_eq!(ask(host, Some("https://localhost:9090"), true), 200);
        for origin in [
            "http://localhost",
            "http://localhost:9091",
            "https://localhost:9090",
            "http://evil.example.com",
            "null",
            "",
        ] {
            assert_eq!(ask(host, Some(origin), false), 403, "{origin}");
        }
    }
}
