//! The configuration file and the files that it includes → models.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::decode::Decoder;
use super::fault::{Fault, Place, Source, quoted};
use super::files::{self, FileFault};
use super::model::EdgeModel;
use super::node::{self, Kind, Node, position};
use super::tenant_model::TenantModel;

/// Octets of one configuration file.
const MAX_TEXT: u64 = 8 << 20;
/// Tenants in all files, and files of `include`.
pub const MAX_TENANTS: usize = 100_000;

pub struct Loaded {
    pub source: Arc<Source>,
    pub edge: EdgeModel,
    /// Of the file itself and of its includes, each with the source that it stands in.
    pub tenants: Vec<(Arc<Source>, TenantModel)>,
    /// Whether these are all: none was so faulty that it had to be left out.
    pub whole: bool,
}

/// `None` where the file itself gives nothing to go on with.
pub fn load(path: &Path, faults: &mut Vec<Fault>) -> Option<Loaded> {
    let (source, node) = match read(path) {
        Ok(source) => parse(source, faults)?,
        Err(fault) => {
            faults.push(*fault);
            return None;
        }
    };
    let (edge, found) = decode(&source, |d| EdgeModel::decode(d, &node));
    faults.extend(found);
    let mut edge = edge?;
    let mut found = Found { tenants: Vec::new(), whole: true };
    found.add(&source, std::mem::take(&mut edge.tenants));
    if let Some(include) = &edge.include {
        let pattern = base(&source).join(&include.value);
        match expand(&pattern, path) {
            Ok(files) => {
                for file in files {
                    match included(&file, (&source, include.at), faults) {
                        Some((source, tenants)) => found.add(&source, tenants),
                        None => found.whole = false,
                    }
                }
            }
            Err(reason) => {
                found.whole = false;
                let fault = Fault::at(&source, include.at, reason);
                faults.push(fault.help("such as \"tenants.d/*.yaml\""));
            }
        }
    }
    if let Some((source, tenant)) = found.tenants.get(MAX_TENANTS) {
        faults.push(Fault::at(source, tenant.at, format!("more than {MAX_TENANTS} tenants")));
    }
    Some(Loaded { source, edge, tenants: found.tenants, whole: found.whole })
}

struct Found {
    tenants: Vec<(Arc<Source>, TenantModel)>,
    whole: bool,
}

impl Found {
    fn add(&mut self, source: &Arc<Source>, tenants: Vec<Option<TenantModel>>) {
        for tenant in tenants {
            match tenant {
                Some(tenant) => self.tenants.push((source.clone(), tenant)),
                None => self.whole = false,
            }
        }
    }
}

/// The directory that a source's relative paths start at.
pub fn base(source: &Source) -> &Path {
    source.path.parent().unwrap_or(Path::new(""))
}

/// `None` where the file gives no tenants to go on with.
fn included(
    file: &Path,
    (root, at): (&Source, Place),
    faults: &mut Vec<Fault>,
) -> Option<(Arc<Source>, Vec<Option<TenantModel>>)> {
    let source = match read(file) {
        Ok(source) => source,
        Err(fault) if fault.line == 0 => {
            faults.push(Fault::at(root, at, fault.message).help("see `include`"));
            return None;
        }
        Err(fault) => {
            faults.push(*fault);
            return None;
        }
    };
    let (source, node) = parse(source, faults)?;
    let (found, new) = decode(&source, |d| match &node.kind {
        Kind::Null => Some(Vec::new()),
        Kind::Map(_) => Some(vec![TenantModel::decode(d, &node)]),
        _ => d.list(&node, |d, node| Some(TenantModel::decode(d, node))),
    });
    faults.extend(new);
    Some((source, found?))
}

fn decode<T>(source: &Source, decode: impl FnOnce(&mut Decoder<'_>) -> T) -> (T, Vec<Fault>) {
    let mut decoder = Decoder::new(source);
    let decoded = decode(&mut decoder);
    (decoded, decoder.faults)
}

fn parse(source: Source, faults: &mut Vec<Fault>) -> Option<(Arc<Source>, Node)> {
    let node = node::parse(&source, faults)?;
    Some((Arc::new(source), node))
}

/// Boxed, because a fault is large and seldom.
fn read(path: &Path) -> Result<Source, Box<Fault>> {
    let cannot = |reason: FileFault| {
        let name = path.to_string_lossy();
        let message = format!("cannot read {}: {reason}", quoted(&name));
        Box::new(Fault::of_file(path, message).help(reason.help(&name)))
    };
    let file = files::read(path, MAX_TEXT).map_err(cannot)?;
    match String::from_utf8(file.bytes) {
        Ok(text) => Ok(Source { path: path.to_owned(), text }),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let bytes = error.into_bytes();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let (line, column) = position(text.get(..valid).unwrap_or_default());
            let start = u32::try_from(valid).unwrap_or(u32::MAX);
            let at = Place { line, column, start, end: start };
            let source = Source { path: path.to_owned(), text };
            Err(Box::new(Fault::at(&source, at, "not valid UTF-8").help("save the file as UTF-8")))
        }
    }
}

/// The files that a pattern names, by name. `*` and `?` stand in the file name only; hidden
/// files and the configuration file itself are left out.
fn expand(pattern: &Path, root: &Path) -> Result<Vec<PathBuf>, String> {
    let wild = |text: &str| text.contains(['*', '?']);
    let (Some(directory), Some(name)) =
        (pattern.parent(), pattern.file_name().and_then(|name| name.to_str()))
    else {
        return Err("not the path of files".to_owned());
    };
    if wild(&directory.to_string_lossy()) {
        return Err("`*` and `?` may stand in the file name only".to_owned());
    }
    if !wild(name) {
        return Ok(vec![pattern.to_owned()]);
    }
    let directory = if directory == Path::new("") { Path::new(".") } else { directory };
    let unreadable = |error: std::io::Error| {
        let directory = quoted(&directory.to_string_lossy());
        format!("cannot list {directory}: {}", FileFault::from(error))
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let found = entry.map_err(unreadable)?.file_name();
        let hidden = found.to_string_lossy().starts_with('.');
        if hidden || !matches(name.as_bytes(), found.to_string_lossy().as_bytes()) {
            continue;
        }
        // Joined with the pattern's own directory, so that paths read as they are written.
        let file = pattern.with_file_name(&found);
        if file != root {
            files.push(file);
        }
        if files.len() > MAX_TENANTS {
            return Err(format!("more than {MAX_TENANTS} files match"));
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a name matches a pattern of `*` and `?`; linear but for one step back a star.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = name.get(n) {
        match (pattern.get(p), star) {
            (Some(b'*'), _) => {
                star = Some((p, n));
                p += 1;
            }
            (Some(wanted), _) if *wanted == b'?' || wanted == byte => {
                p += 1;
                n += 1;
            }
            (_, Some((at, from))) => {
                star = Some((at, from + 1));
                p = at + 1;
                n = from + 1;
            }
            (_, None) => return false,
        }
    }
    pattern.iter().skip(p).all(|rest| *rest == b'*')
}
