//! What a request asks for: the paths that the edge answers itself, told apart from those
//! that only look like them.

use http::HeaderMap;

use crate::upstream::same_folded;

/// The platform's device token endpoint.
pub const TOKEN_PATH: &str = "/devicecontrol/deviceAccessToken";
/// RFC 7517 keys (the path is a convention of RFC 8414's registry neighbours).
pub const JWKS_PATH: &str = "/.well-known/jwks.json";

/// RFC 6749 leaves the path open; this one is the common choice.
pub const OAUTH_TOKEN_PATH: &str = "/oauth/token";
/// RFC 8414 §3.
pub const METADATA_PATH: &str = "/.well-known/oauth-authorization-server";

/// The edge's own paths: always, and where the tenant has OAuth on.
const OWN: [&str; 2] = [TOKEN_PATH, JWKS_PATH];
const OWN_WITH_OAUTH: [&str; 4] = [TOKEN_PATH, JWKS_PATH, OAUTH_TOKEN_PATH, METADATA_PATH];

fn own(oauth: bool) -> &'static [&'static str] {
    if oauth { &OWN_WITH_OAUTH } else { &OWN }
}

/// How often a path may be percent-decoded before it is too odd to be told apart.
const DECODING_ROUNDS: usize = 4;

/// Whose a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Token,
    Jwks,
    OauthToken,
    OauthMetadata,
    Upstream,
    /// Not an endpoint of the edge to the letter, but some server would read it as one.
    Ambiguous,
}

/// Tells whose `path` (without query) is, at a tenant with `oauth` on or off. The comparison with the edge's own paths is to the
/// letter; whatever an upstream could fold to one of them (case, escapes, parameters, dots,
/// doubled or reversed slashes, a NUL) is ambiguous, so that edge and upstream never read
/// one request differently.
pub fn target(path: &str, oauth: bool) -> Target {
    match path {
        TOKEN_PATH => Target::Token,
        JWKS_PATH => Target::Jwks,
        OAUTH_TOKEN_PATH if oauth => Target::OauthToken,
        METADATA_PATH if oauth => Target::OauthMetadata,
        _ if folds_to_own(path.as_bytes(), own(oauth)) => Target::Ambiguous,
        // Read as a reference of RFC 3986 §4.2, two slashes begin an authority.
        _ if matches!(path.as_bytes(), [b'/' | b'\\', b'/' | b'\\', ..])
            && ends_in_own(path.as_bytes(), own(oauth)) =>
        {
            Target::Ambiguous
        }
        _ => Target::Upstream,
    }
}

/// Headers by which some frameworks replace a request's path.
const OVERRIDES: [&str; 3] = ["x-original-url", "x-original-uri", "x-rewrite-url"];

/// Whether a header asks the upstream to read one of the edge's own paths instead of the one
/// that was asked for: as path or as URL.
pub fn overrides_to_own(headers: &HeaderMap, oauth: bool) -> bool {
    headers.iter().any(|(name, value)| {
        OVERRIDES.iter().any(|known| same_folded(name, known))
            && ends_in_own(value.as_bytes(), own(oauth))
    })
}

/// Whether a URL's path could be one of the edge's own: what stands before it is taken for
/// scheme and authority.
fn ends_in_own(url: &[u8], own: &[&str]) -> bool {
    let Some(url) = fold(url, own) else { return true };
    own.iter().any(|own| {
        let tail = url.len().checked_sub(own.len()).and_then(|at| url.get(at..));
        tail.is_some_and(|tail| tail.eq_ignore_ascii_case(own.as_bytes()))
    })
}

fn folds_to_own(path: &[u8], own: &[&str]) -> bool {
    // Every folding keeps at least the letters: a shorter path cannot become an own one.
    if own.iter().all(|own| path.len() < own.len()) {
        return false;
    }
    // The server that reads h2 or an odd request line may prepend what is missing here.
    if path.first() != Some(&b'/') {
        return true;
    }
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_~/".contains(b);
    let folded;
    let path = if path.iter().all(plain) && !path.windows(2).any(|pair| pair == b"//") {
        path
    } else {
        let Some(reading) = fold(path, own) else { return true };
        folded = reading;
        &folded
    };
    let path = path.strip_suffix(b"/").unwrap_or(path);
    own.iter().any(|own| path.eq_ignore_ascii_case(own.as_bytes()))
}

/// The most generous reading that a server could give a path. `None`: there is more than one,
/// and one of them may be an own path.
fn fold(path: &[u8], own: &[&str]) -> Option<Vec<u8>> {
    let mut bytes = path.to_vec();
    // Servers behind servers decode more than once, but not without end: each round costs
    // the path's length, and its sender chooses how many there are.
    let mut rounds = 0;
    while let Some(decoded) = decode(&bytes) {
        rounds += 1;
        if rounds > DECODING_ROUNDS {
            return None;
        }
        bytes = decoded;
    }
    if climbs(&bytes) && names_own(&bytes, own) {
        return None;
    }
    if let Some(end) = bytes.iter().position(|b| matches!(b, 0 | b'?' | b'#')) {
        bytes.truncate(end);
    }
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in bytes.split(|b| matches!(b, b'/' | b'\\')) {
        let segment = trim(segment.split(|b| *b == b';').next().unwrap_or_default());
        match segment {
            b"" | b"." => {}
            b".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let mut folded = Vec::with_capacity(bytes.len() + 1);
    for segment in segments {
        folded.push(b'/');
        folded.extend_from_slice(segment);
    }
    Some(folded)
}

/// Whether some segment is `..`: what it takes back depends on what a server counts as a
/// segment, and servers differ.
fn climbs(path: &[u8]) -> bool {
    path.split(|b| matches!(b, b'/' | b'\\'))
        .any(|segment| trim(segment.split(|b| *b == b';').next().unwrap_or_default()) == b"..")
}

fn names_own(path: &[u8], own: &[&str]) -> bool {
    own.iter().any(|own| {
        let last = own.rsplit('/').next().unwrap_or(own).as_bytes();
        path.windows(last.len()).any(|part| part.eq_ignore_ascii_case(last))
    })
}

/// Without the blanks around it; some servers trim every control character.
fn trim(segment: &[u8]) -> &[u8] {
    let kept = |b: &u8| *b > b' ';
    let start = segment.iter().position(kept).unwrap_or(segment.len());
    let end = segment.iter().rposition(kept).map_or(start, |last| last + 1);
    segment.get(start..end).unwrap_or_default()
}

/// One round of percent-decoding, with the overlong UTF-8 forms of ASCII taken for what they
/// stand for (RFC 3629 §10). `None`: nothing to decode.
fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let hex = |b: Option<&u8>| b.and_then(|b| (*b as char).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        // `%u` and four digits, which some servers take for a character.
        let wide = matches!((byte, bytes.get(at + 1)), (b'%', Some(b'u' | b'U')));
        if wide
            && let [Some(a), Some(b), Some(c), Some(d)] =
                [2, 3, 4, 5].map(|place| hex(bytes.get(at + place)))
        {
            let code = a << 12 | b << 8 | c << 4 | d;
            out.push(u8::try_from(code).unwrap_or(b'?' + 1));
            at += 6;
            continue;
        }
        match (byte, hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    let mut short = Vec::with_capacity(out.len());
    let mut rest = out.as_slice();
    while let Some((first, tail)) = rest.split_first() {
        (short, rest) = match (first, tail) {
            (0xC0 | 0xC1, [next @ 0x80..=0xBF, tail @ ..]) => {
                short.push((first & 1) << 6 | (next & 0x3F));
                (short, tail)
            }
            (0xF0, [0x80, middle @ 0x80..=0x81, next @ 0x80..=0xBF, tail @ ..]) => {
                short.push((middle & 1) << 6 | (next & 0x3F));
                (short, tail)
            }
            (0xE0, [middle @ 0x80..=0x81, next @ 0x80..=0xBF, tail @ ..]) => {
                short.push((middle & 1) << 6 | (next & 0x3F));
                (short, tail)
            }
            _ => {
                short.push(*first);
                (short, tail)
            }
        };
    }
    (short.len() < bytes.len()).then_some(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_path_is_taken_to_the_letter() {
        assert_eq!(target(TOKEN_PATH, false), Target::Token);
        assert_eq!(target(JWKS_PATH, true), Target::Jwks);
        for other in
            ["/", "/inventory/managedObjects", "/devicecontrol/operations", "/a%2fb;c//d/."]
        {
            assert_eq!(target(other, true), Target::Upstream, "{other}");
        }
    }

    #[test]
    fn what_some_server_reads_as_the_token_path_is_ambiguous() {
        for trick in [
            "//devicecontrol/deviceAccessToken",
            "/devicecontrol//deviceAccessToken",
            "/devicecontrol/./deviceAccessToken",
            "/x/../devicecontrol/deviceAccessToken",
            "/devicecontrol/deviceAccessToken/",
            "/devicecontrol/deviceAccessToken//",
            "/devicecontrol/deviceAccessToken/.",
            "/devicecontrol/%64eviceAccessToken",
            "/devicecontrol%2fdeviceAccessToken",
            "/devicecontrol%252fdeviceAccessToken",
            "/%2e/devicecontrol/deviceAccessToken",
            "/devicecontrol;x=y/deviceAccessToken",
            "/devicecontrol/deviceAccessToken;jsessionid=1",
            "/devicecontrol\\deviceAccessToken",
            "/devicecontrol/deviceAccessToken%00",
            "/devicecontrol/deviceAccessToken%00.css",
            "/devicecontrol/deviceAccessToken%3Fx",
            "/devicecontrol/deviceAccessToken%20",
            "/devicecontrol/deviceAccessToken%0b",
            "//acme.example.com/devicecontrol/deviceAccessToken",
            "/\\acme.example.com/devicecontrol/deviceAccessToken",
            "/devicecontrol%c0%afdeviceAccessToken",
            "/devicecontrol%e0%80%afdeviceAccessToken",
            "/devicecontrol%f0%80%80%afdeviceAccessToken",
            "devicecontrol/deviceAccessToken",
            "/devicecontrol/%u0064eviceAccessToken",
            "/devicecontrol/%23/../deviceAccessToken",
            "/devicecontrol/x%3F/../deviceAccessToken",
            "/devicecontrol/;x/../deviceAccessToken",
            "/devicecontrol/%20/../deviceAccessToken",
            "/devicecontrol/a%5Cb/../deviceAccessToken",
            "//../devicecontrol/deviceAccessToken",
            "/devicecontrol/x%2fy/..;z/deviceAccessToken",
            "/DEVICECONTROL/DEVICEACCESSTOKEN",
            "/devicecontrol/deviceaccesstoken",
            "/.well-known/JWKS.json",
        ] {
            assert_eq!(target(trick, false), Target::Ambiguous, "{trick}");
        }
    }

    #[test]
    fn the_paths_of_oauth_are_the_upstreams_until_it_is_on() {
        for path in [OAUTH_TOKEN_PATH, METADATA_PATH, "/oauth//token", "/OAuth/Token"] {
            assert_eq!(target(path, false), Target::Upstream, "{path}");
        }
        assert_eq!(target(OAUTH_TOKEN_PATH, true), Target::OauthToken);
        assert_eq!(target(METADATA_PATH, true), Target::OauthMetadata);
        for trick in ["/oauth//token", "/OAuth/Token", "/x/../oauth/token", "//a/oauth/token"] {
            assert_eq!(target(trick, true), Target::Ambiguous, "{trick}");
        }
    }

    #[test]
    fn a_path_is_not_decoded_without_end() {
        let nested = format!("/%{}41", "25".repeat(16_000));
        assert_eq!(target(&nested, false), Target::Ambiguous);
    }
}
