//! Files that an operator names.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, bail};
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;

/// Certificates, keys, signatures.
const MOST: u64 = 16 * 1024 * 1024;
/// A token file is one line.
const MOST_TOKEN: u64 = 4 * 1024;

/// A whole file.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    take(open(path)?, path, MOST)
}

/// The token in a file that only its owner may touch.
pub fn read_token(path: &Path) -> anyhow::Result<String> {
    let file = open(path)?;
    check_closed(&file, path)?;
    let bytes = take(file, path, MOST_TOKEN)?;
    let token = bytes.trim_ascii();
    let plain = token.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(b));
    // Nothing of the content is shown: it may be another secret.
    if token.is_empty() || !plain {
        bail!(
            "{}: not a token: one line of A-Z a-z 0-9 - . _ ~ + / = (RFC 6750 section 2.1)",
            path.display()
        );
    }
    Ok(String::from_utf8_lossy(token).into_owned())
}

/// The private key in a PEM file that only its owner may touch.
pub fn read_key(path: &Path) -> anyhow::Result<PKey<Private>> {
    let file = open(path)?;
    check_closed(&file, path)?;
    let pem = take(file, path, MOST)?;
    // Without a callback OpenSSL would ask at the terminal for the key's passphrase.
    PKey::private_key_from_pem_callback(&pem, |_| Ok(0)).map_err(|_| {
        anyhow::anyhow!(
            "{}: no private key in PEM, or an encrypted one (`openssl pkey -in KEY -out PLAIN` \
             takes the passphrase off)",
            path.display()
        )
    })
}

/// The certificates of a file, PEM or DER; at least one. Nothing else of the file goes
/// anywhere, and a private key in it refuses the file: it is not the one that was meant.
pub fn read_certificates(path: &Path) -> anyhow::Result<Vec<X509>> {
    let bytes = read(path)?;
    let shown = path.display();
    let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    if has(b"PRIVATE KEY-----") {
        bail!(
            "{shown}: holds a private key; give a file with the certificate alone. Nothing was sent."
        );
    }
    let certificates = match has(b"-----BEGIN ") {
        true => X509::stack_from_pem(&bytes).ok(),
        false => X509::from_der(&bytes).ok().map(|certificate| vec![certificate]),
    };
    match certificates {
        Some(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => bail!("{shown}: no certificate in PEM or DER"),
    }
}

fn open(path: &Path) -> anyhow::Result<File> {
    // Opening never waits for the other end of a pipe.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.with_context(|| path.display().to_string())?;
    if !file.metadata().with_context(|| path.display().to_string())?.is_file() {
        bail!("{}: not a regular file", path.display());
    }
    Ok(file)
}

/// Of the open file, whatever happens to its path meanwhile.
fn check_closed(file: &File, path: &Path) -> anyhow::Result<()> {
    let mode = file.metadata().with_context(|| path.display().to_string())?.mode();
    if mode & 0o077 != 0 {
        let shown = path.display();
        bail!(
            "{shown}: others can read or write it (mode {:04o}): chmod 600 {shown}",
            mode & 0o7777
        );
    }
    Ok(())
}

fn take(file: File, path: &Path, most: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = file.take(most + 1).read_to_end(&mut bytes);
    read.with_context(|| path.display().to_string())?;
    if bytes.len() as u64 > most {
        bail!("{}: more than {most} bytes", path.display());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn token(content: &str, mode: u32) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        read_token(&file).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_token_is_the_one_line_of_a_closed_file() {
        assert_eq!(token("abc-._~+/=09\n", 0o600).unwrap(), "abc-._~+/=09");
        assert_eq!(token("abc", 0o400).unwrap(), "abc");
    }

    #[test]
    fn a_token_file_that_others_can_touch_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o777] {
            let error = token("s3cret", mode).unwrap_err();
            assert!(
                error.contains("chmod 600 ") && error.contains(&format!("{mode:04o}")),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_shown() {
        for content in ["", "\n", "two words", "two\nlines", "ünicode", &"x".repeat(5000)] {
            let error = token(content, 0o600).unwrap_err();
            assert!(content.trim().is_empty() || !error.contains(content), "{error}");
        }
    }

    #[test]
    fn pipes_and_folders_are_no_files() {
        let folder = tempfile::tempdir().unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}
