//! PEM (RFC 7468) → DER, for certificates and CRLs.
//!
//! Stricter than most readers: a block that is broken, unfinished or of another label is a
//! fault, never skipped, so that half a trust store cannot pass for a whole one. Text between
//! blocks is let through, as tools write it there.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What a file must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Certificates,
    Crls,
}

/// Why a file does not hold what it must. Lines count from 1; no content is quoted.
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
}

impl Content {
    fn label(self) -> &'static str {
        match self {
            Content::Certificates => "CERTIFICATE",
            Content::Crls => "X509 CRL",
        }
    }
}

/// Every object of a file: PEM blocks, or one object in DER.
pub fn objects(bytes: &[u8], content: Content) -> Result<Vec<Vec<u8>>, PemFault> {
    // DER of both is a SEQUENCE; PEM and the text around it start with a letter or a dash.
    if bytes.first() == Some(&0x30) && !has_marker(bytes) {
        return Ok(vec![bytes.to_vec()]);
    }
    let mut objects = Vec::new();
    let mut open: Option<(usize, Vec<u8>)> = None;
    for (index, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let (number, line) = (index + 1, line.trim_ascii());
        match &mut open {
            None if line.starts_with(b"-----BEGIN ") => {
                begin(line, number, content)?;
                open = Some((number, Vec::new()));
            }
            None if has_marker(line) => return Err(PemFault::BadLine(number)),
            None => {}
            Some((start, text)) => match line.strip_prefix(b"-----END ") {
                Some(label) if label.strip_suffix(b"-----") == Some(content.label().as_bytes()) => {
                    let der = STANDARD.decode(&*text).map_err(|_| PemFault::BadBase64(*start))?;
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

fn begin(line: &[u8], number: usize, content: Content) -> Result<(), PemFault> {
    let label = line.strip_prefix(b"-----BEGIN ").and_then(|rest| rest.strip_suffix(b"-----"));
    match label {
        None => Err(PemFault::BadLine(number)),
        // A whole certificate in one line, as headers carry it, is not PEM.
        Some(label) if label.contains(&b'-') => Err(PemFault::BadLine(number)),
        Some(label) if label == content.label().as_bytes() => Ok(()),
        Some(label) if label.ends_with(b"PRIVATE KEY") => Err(PemFault::PrivateKey(number)),
        Some(_) => Err(PemFault::OtherLabel { line: number, wanted: content.label() }),
    }
}

fn has_marker(bytes: &[u8]) -> bool {
    bytes.windows(10).any(|window| window == b"-----BEGIN")
}
