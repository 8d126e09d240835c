//! The server name that a ClientHello asks for.

use crate::names::ServerName;

/// The host name of a server_name extension (RFC 6066 §3): none, or exactly one.
pub fn server_name(extension: Option<&[u8]>) -> Result<Option<ServerName>, &'static str> {
    const MALFORMED: &str = "the SNI extension is malformed";
    let Some(bytes) = extension else { return Ok(None) };
    let (list, rest) = length_prefixed(bytes).ok_or(MALFORMED)?;
    let (kind, entry) = list.split_first().ok_or(MALFORMED)?;
    let (name, more) = length_prefixed(entry).ok_or(MALFORMED)?;
    if *kind != 0 || !rest.is_empty() || !more.is_empty() {
        return Err(MALFORMED);
    }
    let name = str::from_utf8(name).map_err(|_| "the SNI is not ASCII")?;
    ServerName::parse(name).map(Some).map_err(|_| "the SNI is not a host name in A-labels")
}

fn length_prefixed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sni_is_one_host_name_or_a_refusal() {
        let sni = |name: &[u8]| {
            let mut bytes = ((name.len() + 3) as u16).to_be_bytes().to_vec();
            bytes.push(0);
            bytes.extend((name.len() as u16).to_be_bytes());
            bytes.extend(name);
            bytes
        };
        assert_eq!(server_name(None), Ok(None));
        let mixed = server_name(Some(&sni(b"Acme.Example.com"))).unwrap().unwrap();
        assert_eq!(mixed.as_str(), "acme.example.com");
        let long = [b'a'; 255];
        for odd in [&b""[..], b"a\0b", b"192.0.2.1", "bücher".as_bytes(), &long, b"a."] {
            assert!(server_name(Some(&sni(odd))).is_err(), "{odd:?}");
        }
        let mut two = sni(b"a.example");
        two.extend(sni(b"b.example"));
        for malformed in [&two[..], b"", b"\0", b"\0\x04\0\0\x01"] {
            assert!(server_name(Some(malformed)).is_err());
        }
    }
}
