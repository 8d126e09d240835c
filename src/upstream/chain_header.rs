//! `X-Ssl-Cert-Chain` as devices send it.
//!
//! One strict form leaves the edge, many arrive: PEM on one line with the line breaks turned
//! into blanks, or the base64 in one block; with the leaf first or the intermediates only; the
//! dashes of the last END line cut short; the whole URL-encoded. What comes out is bytes that
//! claim to be certificates, in the order in which they stood; nothing has been verified.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Bytes of a header, as sent.
const MAX_HEADER: usize = 64 * 1024;
const MAX_CERTIFICATES: usize = 16;
/// Bytes of one certificate's DER.
const MAX_CERTIFICATE: usize = 16 * 1024;

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE";
const DASHES: &[u8] = b"-----";

/// Why a chain header does not parse. The number counts certificates from 1; nothing of the
/// header itself is quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainHeaderFault {
    #[error("the header is longer than 64 KiB")]
    TooLong,
    #[error("the header holds no certificate")]
    Empty,
    #[error("the header holds more than 16 certificates")]
    TooMany,
    #[error("a '%' is not followed by two hexadecimal digits")]
    BadEscape,
    #[error("certificate {0} does not start with its BEGIN line")]
    NoBegin(usize),
    #[error("certificate {0} does not end with its END line")]
    NoEnd(usize),
    #[error("certificate {0} is not base64")]
    BadBase64(usize),
    #[error("certificate {0} is longer than 16 KiB")]
    CertificateTooLong(usize),
}

/// The DER of each certificate, at most 16 of at most 16 KiB, none empty.
///
/// # Errors
/// On everything but the forms above: other PEM labels, text between certificates, bytes
/// that are neither base64 nor blank (space, tab, CR, LF).
pub fn parse_chain_header(value: &[u8]) -> Result<Vec<Vec<u8>>, ChainHeaderFault> {
    if value.len() > MAX_HEADER {
        return Err(ChainHeaderFault::TooLong);
    }
    let text = url_decoded(value)?;
    let mut certificates = Vec::new();
    let mut rest = skip_blanks(&text);
    while !rest.is_empty() {
        let number = certificates.len() + 1;
        if number > MAX_CERTIFICATES {
            return Err(ChainHeaderFault::TooMany);
        }
        let inner = rest.strip_prefix(BEGIN).ok_or(ChainHeaderFault::NoBegin(number))?;
        let end = inner.iter().position(|byte| *byte == b'-');
        let (body, tail) =
            end.and_then(|at| inner.split_at_checked(at)).ok_or(ChainHeaderFault::NoEnd(number))?;
        certificates.push(der(body, number)?);
        rest = after_end(tail).ok_or(ChainHeaderFault::NoEnd(number))?;
    }
    if certificates.is_empty() { Err(ChainHeaderFault::Empty) } else { Ok(certificates) }
}

/// A `%` occurs in no PEM, so one is enough to know that the whole is URL-encoded. `+` stays
/// `+`: base64 needs it, and a client that encodes blanks as `+` could not be told apart.
fn url_decoded(value: &[u8]) -> Result<Cow<'_, [u8]>, ChainHeaderFault> {
    if !value.contains(&b'%') {
        return Ok(Cow::Borrowed(value));
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let [first, tail @ ..] = rest {
        let (byte, after) = match (first, tail) {
            (b'%', [high, low, after @ ..]) => {
                let (high, low) =
                    digit(*high).zip(digit(*low)).ok_or(ChainHeaderFault::BadEscape)?;
                (high << 4 | low, after)
            }
            (b'%', _) => return Err(ChainHeaderFault::BadEscape),
            (plain, after) => (*plain, after),
        };
        decoded.push(byte);
        rest = after;
    }
    Ok(Cow::Owned(decoded))
}

fn der(body: &[u8], number: usize) -> Result<Vec<u8>, ChainHeaderFault> {
    let base64: Vec<u8> = body.iter().copied().filter(|byte| !is_blank(*byte)).collect();
    match STANDARD.decode(base64) {
        Ok(der) if der.len() > MAX_CERTIFICATE => Err(ChainHeaderFault::CertificateTooLong(number)),
        Ok(der) if !der.is_empty() => Ok(der),
        _ => Err(ChainHeaderFault::BadBase64(number)),
    }
}

/// What follows the END line and its blanks. Only the last line of the header may miss dashes.
fn after_end(tail: &[u8]) -> Option<&[u8]> {
    let tail = tail.strip_prefix(END)?;
    if let Some(rest) = tail.strip_prefix(DASHES) {
        return Some(skip_blanks(rest));
    }
    let dashes = tail.iter().take_while(|byte| **byte == b'-').count();
    let rest = skip_blanks(tail.get(dashes..)?);
    rest.is_empty().then_some(rest)
}

fn skip_blanks(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| is_blank(**byte)).count();
    text.get(blanks..).unwrap_or_default()
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::encode;

    const LEAF: &[u8] = &[0x30; 150];
    const ISSUER: &[u8] = &[0xfb; 97];

    fn both() -> Vec<Vec<u8>> {
        vec![LEAF.to_vec(), ISSUER.to_vec()]
    }

    fn one_line() -> String {
        format!("{} {}", encode::pem(LEAF, ' '), encode::pem(ISSUER, ' '))
    }

    fn one_block(der: &[u8]) -> String {
        format!("-----BEGIN CERTIFICATE----- {} -----END CERTIFICATE-----", STANDARD.encode(der))
    }

    fn parsed(text: &str) -> Result<Vec<Vec<u8>>, ChainHeaderFault> {
        parse_chain_header(text.as_bytes())
    }

    #[test]
    fn every_form_of_the_field_parses() {
        let one_line = one_line();
        let lines = format!("{}\n{}\n", encode::pem(LEAF, '\n'), encode::pem(ISSUER, '\n'));
        for form in [
            one_line.clone(),
            format!("  {one_line}\t "),
            format!("{} {}", one_block(LEAF), one_block(ISSUER)),
            one_line.replace("----- ", "-----").replace(" -----", "-----"),
            one_line.strip_suffix("-----").unwrap().to_owned(),
            one_line.strip_suffix("--").unwrap().to_owned(),
            format!("{} ", one_line.strip_suffix("-----").unwrap()),
            lines.clone(),
            lines.replace('\n', "\r\n"),
            encode::percent(&lines, b""),
            encode::percent(&lines, b"+/="),
            encode::percent(&one_line, b"+/="),
            encode::percent(&one_line, b"").replace("%2B", "%2b").replace("%2F", "%2f"),
        ] {
            assert_eq!(parsed(&form), Ok(both()), "{form}");
        }
        assert_eq!(parsed(&one_block(ISSUER)), Ok(vec![ISSUER.to_vec()]));
    }

    #[test]
    fn a_plus_is_never_a_blank() {
        let der = [0xfb, 0xef, 0xbe];
        let escaped = "-----BEGIN%20CERTIFICATE-----%0A++++%0A-----END%20CERTIFICATE-----";
        assert_eq!(parsed(escaped), Ok(vec![der.to_vec()]));
        assert_eq!(parsed(&escaped.replace('+', "%2B")), Ok(vec![der.to_vec()]));
        assert_eq!(parsed(&escaped.replace("%20", "+")), Err(ChainHeaderFault::NoBegin(1)));
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        use ChainHeaderFault as Fault;
        let good = one_block(LEAF);
        let body = STANDARD.encode(LEAF);
        for (text, fault) in [
            (String::new(), Fault::Empty),
            (" \t".to_owned(), Fault::Empty),
            ("%20".to_owned(), Fault::Empty),
            ("%".to_owned(), Fault::BadEscape),
            ("%2".to_owned(), Fault::BadEscape),
            ("%+1".to_owned(), Fault::BadEscape),
            (body.clone(), Fault::NoBegin(1)),
            (format!("{good}, {good}"), Fault::NoBegin(2)),
            (format!("{good} x"), Fault::NoBegin(2)),
            (good.replace("CERTIFICATE", "PRIVATE KEY"), Fault::NoBegin(1)),
            (good.replace("END CERTIFICATE", "END X509 CRL"), Fault::NoEnd(1)),
            (good.replace(" -----END CERTIFICATE-----", ""), Fault::NoEnd(1)),
            (good.replace("-----END CERTIFICATE-----", "-----END"), Fault::NoEnd(1)),
            (format!("{} {good}", good.strip_suffix('-').unwrap()), Fault::NoEnd(1)),
            (good.replace(&body, ""), Fault::BadBase64(1)),
            (good.replace(&body, "MII"), Fault::BadBase64(1)),
            (good.replace(&body, "MI\u{b}IC"), Fault::BadBase64(1)),
            (good.replace(&body, "MI,IC"), Fault::BadBase64(1)),
            (good.replace(&body, "MI\0C"), Fault::BadBase64(1)),
            (good.replace(' ', "\u{a0}"), Fault::NoBegin(1)),
        ] {
            assert_eq!(parsed(&text), Err(fault), "{text}");
        }
    }

    #[test]
    fn count_and_sizes_are_bounded() {
        let small = one_block(&[1]);
        assert_eq!(parsed(&[small.as_str(); 16].join(" ")).unwrap().len(), 16);
        assert_eq!(parsed(&[small.as_str(); 17].join(" ")), Err(ChainHeaderFault::TooMany));
        let largest = vec![7; MAX_CERTIFICATE];
        assert_eq!(parsed(&one_block(&largest)), Ok(vec![largest.clone()]));
        let larger = vec![7; MAX_CERTIFICATE + 1];
        assert_eq!(parsed(&one_block(&larger)), Err(ChainHeaderFault::CertificateTooLong(1)));
        let padded = format!("{}{small}", " ".repeat(MAX_HEADER - small.len()));
        assert!(parsed(&padded).is_ok());
        assert_eq!(parsed(&format!(" {padded}")), Err(ChainHeaderFault::TooLong));
    }

    #[test]
    fn no_bytes_make_the_parser_panic() {
        let seeds = [
            one_line().into_bytes(),
            format!("{} {}", one_block(LEAF), one_block(&[1, 2])).into_bytes(),
            encode::percent(&one_line(), b"+").into_bytes(),
            b"-----BEGIN CERTIFICATE-----AA==-----END CERTIFICATE-".to_vec(),
        ];
        // Splices that reach further in than single bytes do.
        let pieces: [&[u8]; 10] =
            [BEGIN, END, DASHES, b"%", b"%2", b"%2B", b"=", b" ", b"\xff\0", b"-----BEGIN "];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 16).unwrap() % below.max(1)
        };
        let mut accepted = 0;
        for _ in 0..200_000 {
            let mut input = seeds[random(seeds.len())].clone();
            for _ in 0..=random(3) {
                let at = random(input.len() + 1);
                match random(5) {
                    0 => input.truncate(at),
                    1 if at < input.len() => input[at] = u8::try_from(random(256)).unwrap(),
                    2 if at < input.len() => drop(input.remove(at)),
                    3 => drop(input.drain(..at)),
                    _ => {
                        let piece = pieces[random(pieces.len())];
                        input.splice(at..at, piece.iter().copied());
                    }
                }
            }
            if let Ok(certificates) = parse_chain_header(&input) {
                accepted += 1;
                assert!(certificates.len() <= MAX_CERTIFICATES);
                assert!(certificates.iter().all(|der| !der.is_empty()));
            }
        }
        assert!(accepted > 0);
    }
}
