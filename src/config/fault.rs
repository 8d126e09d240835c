//! What is wrong with a configuration, said to a person: where, what, and what to write
//! instead.

use std::fmt;
use std::path::{Path, PathBuf};

/// Faults shown at once; the rest is counted. A person mends the first ones first.
const SHOWN: usize = 200;
/// Characters of a line shown around a fault; a generated file may have one line of 8 MiB.
const WINDOW: usize = 120;
/// Octets of it looked at on either side, for the same reason.
const REACH: usize = 1_024;
/// Faults gathered from the text of one file; past it, the rest is not told.
pub const MAX_FAULTS: usize = 10_000;

/// Everything that is wrong, in the order of files and lines. Never empty as an error.
#[derive(Debug, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

/// One thing that is wrong. Its `Display` shows the line and points at the place.
///
/// Text that comes from a file is escaped, and a line is shown only up to where a secret may
/// start: an inline password, the user part of a URL, the body of a PEM block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub file: PathBuf,
    /// From 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// In characters, from 1; 0 where the file as a whole is meant.
    pub column: usize,
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    excerpt: Option<Excerpt>,
}

/// The text of one configuration file; kept as long as faults may still be found in it.
#[derive(Debug)]
pub struct Source {
    pub path: PathBuf,
    pub text: String,
}

/// A stretch of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub line: u32,
    pub column: u32,
    /// Offset in octets of the first character, and of the one after the last.
    pub start: u32,
    pub end: u32,
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub struct Located<T> {
    pub value: T,
    pub at: Place,
}

impl Fault {
    /// A fault at a place of a source.
    pub fn at(source: &Source, place: Place, message: impl Into<String>) -> Fault {
        Fault {
            file: source.path.clone(),
            line: place.line as usize,
            column: place.column as usize,
            message: message.into(),
            help: None,
            excerpt: Excerpt::new(&source.text, place),
        }
    }

    /// A fault of a file as a whole.
    pub fn of_file(file: &Path, message: impl Into<String>) -> Fault {
        Fault {
            file: file.to_owned(),
            line: 0,
            column: 0,
            message: message.into(),
            help: None,
            excerpt: None,
        }
    }

    pub fn help(mut self, help: impl Into<String>) -> Fault {
        self.help = Some(help.into());
        self
    }
}

impl Faults {
    pub fn sorted(mut faults: Vec<Fault>) -> Faults {
        faults.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        Faults(faults)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().take(SHOWN).enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => writeln!(f, "\nand {more} more"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        let file = printable(&self.file.to_string_lossy());
        if self.line == 0 {
            writeln!(f, "{gutter}--> {file}")?;
        } else {
            writeln!(f, "{gutter}--> {file}:{}:{}", self.line, self.column)?;
        }
        let help = self.help.as_deref().unwrap_or_default();
        match &self.excerpt {
            Some(Excerpt { text, indent, width }) => {
                let (blank, carets) = (" ".repeat(*indent), "^".repeat(*width));
                writeln!(f, "{gutter} |")?;
                writeln!(f, "{number} | {text}")?;
                writeln!(f, "{}", format!("{gutter} | {blank}{carets} {help}").trim_end())
            }
            None if help.is_empty() => Ok(()),
            None => writeln!(f, "{gutter} = {help}"),
        }
    }
}

/// The shown part of a line, escaped, and where in it the carets stand.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    text: String,
    indent: usize,
    width: usize,
}

impl Excerpt {
    /// `None` where nothing of the line may be shown.
    fn new(text: &str, place: Place) -> Option<Excerpt> {
        let (before, after) = text.split_at_checked(place.start as usize)?;
        let near = before.get(before.ceil_char_boundary(before.len().saturating_sub(REACH))..)?;
        let before = near.rsplit(['\n', '\r']).next()?;
        let start = place.start as usize - before.len();
        let after = after.get(..after.floor_char_boundary(REACH))?.split(['\n', '\r']).next()?;
        let line = text.get(start..start + before.len() + after.len())?;
        let open = open_part(line);
        let (before, after) = open.split_at_checked(before.len())?;
        let spanned = (place.end.saturating_sub(place.start) as usize).min(after.len());
        let marked = after.get(..spanned).unwrap_or(after);

        let skipped = before.chars().count().saturating_sub(WINDOW / 2);
        let lead = if skipped > 0 { "…" } else { "" };
        let before: String = before.chars().skip(skipped).collect();
        let room = WINDOW.saturating_sub(before.chars().count());
        let shown: String = after.chars().take(room).collect();
        let tail = if shown.len() < after.len() || open.len() < line.len() { "…" } else { "" };

        let before = format!("{lead}{}", printable(&before));
        let marked: String = marked.chars().take(room).collect();
        Some(Excerpt {
            indent: before.chars().count(),
            width: printable(&marked).chars().count().max(1),
            text: format!("{before}{}{tail}", printable(&shown)),
        })
    }
}

/// The part of a line that holds no secret, as far as can be told: keys of ours never hold
/// one, but a person may have guessed at a key, or pasted a private key.
fn open_part(line: &str) -> &str {
    let pem_body = |line: &str| {
        line.len() >= 16 && line.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
    };
    if pem_body(line.trim()) {
        return "";
    }
    let mut open = line.len();
    if let Some(begin) = line.find("-----BEGIN") {
        open = open.min(begin);
    }
    if let Some(scheme) = line.find("://")
        && line.get(scheme..).is_some_and(|rest| rest.contains('@'))
    {
        open = open.min(scheme + 3);
    }
    if let Some(value) = secret_value(line) {
        open = open.min(value);
    }
    line.get(..open).unwrap_or_default()
}

/// Where the value of the first key starts that sounds like a secret and is not one of ours.
fn secret_value(line: &str) -> Option<usize> {
    const SECRETS: [&str; 6] = ["pass", "secret", "token", "apikey", "api_key", "credential"];
    const OURS: [&str; 4] = ["tokens", "token_cache", "secret_file", "session_tickets"];
    let lower = line.to_ascii_lowercase();
    lower.match_indices(':').map(|(colon, _)| colon).find_map(|colon| {
        let key = lower.get(..colon)?.trim_end_matches([' ', '"', '\'']);
        let start = key.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-');
        let key = key.get(start.map_or(0, |end| end + 1)..)?;
        let secret = SECRETS.iter().any(|word| key.contains(word)) && !OURS.contains(&key);
        secret.then_some(colon + 1)
    })
}

/// A text in which nothing moves the cursor, hides or reorders what follows.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let invisible = matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}');
        if c.is_control() || invisible {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// A word of the file for use inside a message: escaped, and cut where it is long.
pub fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(64).collect();
    let tail = if cut.len() < text.len() { "…" } else { "" };
    format!("`{}{tail}`", printable(&cut))
}
