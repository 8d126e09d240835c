//! PEM (RFC 7468) → DER, for certificates and CRLs: of files, of uploads, of every text that
//! an operator gives.
//!
//! Stricter than most readers: a block that is broken, unfinished or of another label is a
//! fault, never skipped, so that half a trust store cannot pass for a whole one. Text between
//! blocks is let through, as tools write it there, unless it is the start of a private key.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What a text must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PemContent {
    Certificates,
    Crls,
}

/// Why a text does not hold what it must. Lines count from 1; no content is quoted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemFault {
    #[error("holds neither PEM nor DER")]
    Nothing,
    #[error("line {0}: a private key; this file is for public certificates and CRLs only")]
    PrivateKey(usize),
    #[error("line {line}: a PEM block of another kind; `{wanted}` is expected")]
    OtherLabel { line: usize, wanted: &'static str },
    #[error("line {0}: this PEM block has no end")]
    Unfinished(usize),
    #[error("line {0}: not a PEM line")]
    BadLine(usize),
    #[error("line {0}: this PEM block is not valid base64")]
    BadBase64(usize),
    #[error("line {0}: something follows the object in this PEM block; give each its own block")]
    Trailing(usize),
    #[error("holds more than {0}")]
    TooMany(usize),
}

impl PemContent {
    fn label(self) -> &'static str {
        match self {
            PemContent::Certificates => "CERTIFICATE",
            PemContent::Crls => "X509 CRL",
        }
    }
}

/// The DER of each certificate of a text, in its order: 1 to `limit`.
///
/// # Errors
/// As [`read_pem_objects`].
pub fn read_pem(text: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, PemFault> {
    read_pem_objects(text, PemContent::Certificates, limit)
}

/// Every object of a text, 1 to `limit`: PEM blocks, or one object in DER. What a block holds
/// is not parsed: it is one TLV, or what a parser will refuse.
///
/// # Errors
/// The first thing that is wrong; a private key comes before anything else in its line.
pub fn read_pem_objects(
    bytes: &[u8],
    content: PemContent,
    limit: usize,
) -> Result<Vec<Vec<u8>>, PemFault> {
    // DER of both is a SEQUENCE; PEM and the text around it start with a letter or a dash.
    if bytes.first() == Some(&0x30) && !contains(bytes, b"-----BEGIN") {
        return if limit == 0 { Err(PemFault::TooMany(0)) } else { Ok(vec![bytes.to_vec()]) };
    }
    let mut objects = Vec::new();
    let mut open: Option<(usize, Vec<u8>)> = None;
    for (index, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let (number, line) = (index + 1, line.trim_ascii());
        if contains(line, b"BEGIN ") && contains(line, b"PRIVATE KEY") {
            return Err(PemFault::PrivateKey(number));
        }
        match &mut open {
            None if line.starts_with(b"-----BEGIN ") => {
                begin(line, number, content)?;
                if objects.len() == limit {
                    return Err(PemFault::TooMany(limit));
                }
                open = Some((number, Vec::new()));
            }
            None if contains(line, b"-----BEGIN") => return Err(PemFault::BadLine(number)),
            None => {}
            Some((start, text)) => match line.strip_prefix(b"-----END ") {
                Some(label) if label.strip_suffix(b"-----") == Some(content.label().as_bytes()) => {
                    let der = STANDARD.decode(&*text).map_err(|_| PemFault::BadBase64(*start))?;
                    if has_trailing_octets(&der) {
                        return Err(PemFault::Trailing(*start));
                    }
                    objects.push(der);
                    open = None;
                }
                Some(_) => return Err(PemFault::BadLine(number)),
                None if line.starts_with(b"-----") => return Err(PemFault::Unfinished(*start)),
                None => text.extend_from_slice(line),
            },
        }
    }
    match open {
        Some((start, _)) => Err(PemFault::Unfinished(start)),
        None if objects.is_empty() => Err(PemFault::Nothing),
        None => Ok(objects),
    }
}

fn begin(line: &[u8], number: usize, content: PemContent) -> Result<(), PemFault> {
    let label = line.strip_prefix(b"-----BEGIN ").and_then(|rest| rest.strip_suffix(b"-----"));
    match label {
        None => Err(PemFault::BadLine(number)),
        // A whole certificate in one line, as headers carry it, is not PEM.
        Some(label) if label.contains(&b'-') => Err(PemFault::BadLine(number)),
        Some(label) if label == content.label().as_bytes() => Ok(()),
        Some(_) => Err(PemFault::OtherLabel { line: number, wanted: content.label() }),
    }
}

/// Whether the first TLV (X.690 section 8.1) ends before the octets do. One that has no length,
/// or ends behind them, is left to the parsers.
fn has_trailing_octets(der: &[u8]) -> bool {
    let content = match der {
        [_, short @ 0..=0x7f, ..] => 2_usize.checked_add(usize::from(*short)),
        [_, long @ 0x81..=0x84, rest @ ..] => {
            let octets = usize::from(*long - 0x80);
            rest.get(..octets).and_then(|length| {
                let length = length.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet));
                length.checked_add(2 + octets)
            })
        }
        _ => None,
    };
    content.is_some_and(|end| end < der.len())
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = "CERTIFICATE";

    fn block(label: &str, der: &[u8]) -> String {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
    }

    fn read(text: &str) -> Result<Vec<Vec<u8>>, PemFault> {
        read_pem(text.as_bytes(), 2)
    }

    #[test]
    fn certificates_come_out_in_their_order_whatever_stands_between_them() {
        let (one, two) = ([0x30, 1, 1], [0x30, 1, 2]);
        let text = format!("subject: a\n{}\r\nnote\n{}", block(LABEL, &one), block(LABEL, &two));
        assert_eq!(read(&text).unwrap(), [one, two]);
        assert_eq!(read(&text.replace('\n', "\r\n")).unwrap(), [one, two]);
        assert_eq!(read_pem(&one, 1).unwrap(), [one]);
    }

    #[test]
    fn long_forms_of_length_are_read() {
        for length in [0x7f_usize, 0x80, 0xff, 0x100, 0x1_0000] {
            let header = match length {
                0..=0x7f => vec![0x30, length as u8],
                0x80..=0xff => vec![0x30, 0x81, length as u8],
                0x100..=0xffff => vec![0x30, 0x82, (length >> 8) as u8, length as u8],
                _ => vec![0x30, 0x83, (length >> 16) as u8, (length >> 8) as u8, length as u8],
            };
            let mut der = [header, vec![0; length]].concat();
            assert_eq!(read(&block(LABEL, &der)).unwrap(), [der.clone()], "{length}");
            der.push(0);
            assert_eq!(read(&block(LABEL, &der)), Err(PemFault::Trailing(1)), "{length}");
        }
    }

    #[test]
    fn a_private_key_of_any_kind_is_told_wherever_it_stands() {
        let certificate = block(LABEL, &[0x30, 0]);
        for label in [
            "PRIVATE KEY",
            "EC PRIVATE KEY",
            "RSA PRIVATE KEY",
            "ENCRYPTED PRIVATE KEY",
            "OPENSSH PRIVATE KEY",
            "PGP PRIVATE KEY BLOCK",
        ] {
            let key = block(label, b"secret");
            assert_eq!(read(&key), Err(PemFault::PrivateKey(1)), "{label}");
            let second = format!("{certificate}{key}");
            assert_eq!(read(&second), Err(PemFault::PrivateKey(4)), "{label}");
            // Damaged: no block, and still a key.
            let damaged = second.replace("-----BEGIN P", "----BEGIN P");
            assert_eq!(read(&damaged), Err(PemFault::PrivateKey(4)), "{label}");
            assert_eq!(read(&key.replace('\n', " ")), Err(PemFault::PrivateKey(1)), "{label}");
            let inside = format!("-----BEGIN {LABEL}-----\nMAA=\n{key}");
            assert_eq!(read(&inside), Err(PemFault::PrivateKey(3)), "{label}");
        }
    }

    #[test]
    fn a_text_that_is_not_whole_is_a_fault() {
        let good = block(LABEL, &[0x30, 0]);
        for (text, expected) in [
            (String::new(), PemFault::Nothing),
            ("rubbish".into(), PemFault::Nothing),
            (good.replace("-----END", "-----DNE"), PemFault::Unfinished(1)),
            (good.lines().take(2).collect::<Vec<_>>().join("\n"), PemFault::Unfinished(1)),
            (format!("{good}{}", good.replace("MA", "!!")), PemFault::BadBase64(4)),
            (good.replace("MAA=", "MAA= MAA="), PemFault::BadBase64(1)),
            (good.replace("MAA=", "MAA=\nMAA="), PemFault::BadBase64(1)),
            (block(LABEL, &[0x30, 0, 0x30, 0]), PemFault::Trailing(1)),
            (good.replace("-----END CERTIFICATE", "-----END X509 CRL"), PemFault::BadLine(3)),
            (good.replace('\n', " "), PemFault::BadLine(1)),
            (format!("x {good}"), PemFault::BadLine(1)),
            (
                block("PUBLIC KEY", &[0x30, 0]),
                PemFault::OtherLabel { line: 1, wanted: "CERTIFICATE" },
            ),
            (
                format!("{good}{}", block("X509 CRL", &[0x30, 0])),
                PemFault::OtherLabel { line: 4, wanted: "CERTIFICATE" },
            ),
        ] {
            assert_eq!(read(&text), Err(expected), "{text}");
        }
        let crl = block("X509 CRL", &[0x30, 0]);
        assert_eq!(read_pem_objects(crl.as_bytes(), PemContent::Crls, 1).unwrap(), [[0x30, 0]]);
    }

    #[test]
    fn there_are_never_more_objects_than_the_limit() {
        let good = block(LABEL, &[0x30, 0]);
        assert_eq!(read(&good.repeat(2)).unwrap().len(), 2);
        assert_eq!(read(&good.repeat(3)), Err(PemFault::TooMany(2)));
        assert_eq!(read_pem(good.as_bytes(), 0), Err(PemFault::TooMany(0)));
        assert_eq!(read_pem(&[0x30, 0], 0), Err(PemFault::TooMany(0)));
    }
}
