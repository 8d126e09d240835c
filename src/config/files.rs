//! The files that a configuration names: each read once, bounded, and never a device or pipe.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use boring::sha::sha256;

use super::fault::{Fault, Source, quoted};
use super::upstream_model::CertificateModel;
use super::values::FileRef;
use crate::server_certificate::ServerCertificateFault;

/// Octets of one certificate, key or CRL file.
const MAX_FILE: u64 = 16 << 20;

/// The files of one compile. Memory: the sum of their sizes until the compile ends.
#[derive(Default)]
pub struct Files {
    read: HashMap<PathBuf, Result<Arc<File>, FileFault>>,
    exposed: bool,
}

/// No `Debug`: it may be a key.
pub struct File {
    pub bytes: Vec<u8>,
    pub sha256: [u8; 32],
    mode: u32,
}

/// Why a file cannot be used. It is shown with the path, and never holds content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileFault {
    #[error("not found")]
    NotFound,
    #[error("permission denied")]
    Denied,
    #[error("not a regular file")]
    NotRegular,
    #[error("larger than {0} MiB")]
    TooLarge(u64),
    #[error("group or others have access to this secret (mode {0:04o})")]
    Exposed(u32),
    #[error("{0}")]
    Other(io::ErrorKind),
}

impl Files {
    pub fn read(&mut self, path: &Path) -> Result<Arc<File>, FileFault> {
        if let Some(known) = self.read.get(path) {
            return known.clone();
        }
        let file = read(path, MAX_FILE).map(Arc::new);
        self.read.insert(path.to_owned(), file.clone());
        file
    }

    /// Whether a secret was found that others can read. Whosever it is, the edge does not
    /// start: such a key must be taken for known.
    pub fn exposed(&self) -> bool {
        self.exposed
    }

    /// A file that only its owner may touch.
    pub fn read_secret(&mut self, path: &Path) -> Result<Arc<File>, FileFault> {
        let file = self.read(path)?;
        if file.mode & 0o077 != 0 {
            self.exposed = true;
            return Err(FileFault::Exposed(file.mode & 0o7777));
        }
        Ok(file)
    }
}

impl FileFault {
    /// What to do about it.
    pub fn help(&self, path: &str) -> String {
        match self {
            FileFault::NotFound => "a relative path starts at the file that names it".to_owned(),
            FileFault::Denied => "the edge runs as a user that may not read it".to_owned(),
            FileFault::Exposed(_) => format!("run `chmod 600 {path}`"),
            FileFault::NotRegular | FileFault::TooLarge(_) | FileFault::Other(_) => {
                "name a readable file".to_owned()
            }
        }
    }
}

/// Mode and content are of one and the same open file, whatever happens to the path
/// meanwhile; opening never waits for a pipe's other end.
pub fn read(path: &Path, most: u64) -> Result<File, FileFault> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(FileFault::NotRegular);
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(FileFault::TooLarge(most >> 20));
    }
    Ok(File { sha256: sha256(&bytes), bytes, mode: metadata.permissions().mode() })
}

impl From<io::Error> for FileFault {
    fn from(error: io::Error) -> FileFault {
        match error.kind() {
            io::ErrorKind::NotFound => FileFault::NotFound,
            io::ErrorKind::PermissionDenied => FileFault::Denied,
            kind => FileFault::Other(kind),
        }
    }
}

/// Reports a file that cannot be read where it is named.
pub fn open(
    source: &Source,
    named: &FileRef,
    file: Result<Arc<File>, FileFault>,
    faults: &mut Vec<Fault>,
) -> Option<Arc<File>> {
    match file {
        Ok(file) => Some(file),
        Err(reason) => {
            let path = named.path.to_string_lossy();
            let message = format!("{}: {reason}", quoted(&path));
            faults.push(Fault::at(source, named.at, message).help(reason.help(&path)));
            None
        }
    }
}

/// A fault of a file's content, shown where the file is named.
pub fn in_file(source: &Source, file: &FileRef, reason: &dyn std::fmt::Display) -> Fault {
    let path = quoted(&file.path.to_string_lossy());
    Fault::at(source, file.at, format!("{path}: {reason}")).help("see this file")
}

/// A fault of a certificate, shown where the file to blame is named.
pub fn certificate_fault(
    source: &Source,
    named: &CertificateModel,
    reason: &ServerCertificateFault,
) -> Fault {
    use ServerCertificateFault as Reason;
    let file = match reason {
        Reason::NoCertificate | Reason::BadChain => &named.chain,
        Reason::BadKey | Reason::Mismatch | Reason::UnsupportedKey => &named.key,
    };
    in_file(source, file, reason)
}
