//! YAML text → a tree in which every key and value knows its place.
//!
//! Built from parser events without recursion. Only what a configuration needs is let in:
//! one document of mappings, lists and scalars. Anchors, aliases and tags are refused where
//! they stand, so that no text can grow while it is read.

use std::collections::HashMap;

use boring::sha::Sha256;
use serde_saphyr::granit_parser::{
    ErrorKind, Event, Options, Parser, ScalarStyle, ScanError, Span,
};

use super::fault::{Fault, MAX_FAULTS, Place, Source, quoted};

/// Deeper nesting than any key of ours needs.
const MAX_DEPTH: usize = 32;
/// Values in one file; bounds a tree to about 100 MiB whatever the text.
const MAX_NODES: usize = 1_000_000;

#[derive(Debug)]
pub struct Node {
    pub at: Place,
    pub kind: Kind,
}

#[derive(Debug)]
pub enum Kind {
    Null,
    /// `plain`: without quotes, so that it may be a number or a boolean.
    Scalar {
        text: Box<str>,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug)]
pub struct Key {
    pub at: Place,
    pub text: Box<str>,
}

/// Reads the one document of a source. `None` where its structure is broken; a repeated key
/// is a fault, too, but the tree can still be decoded.
pub fn parse(source: &Source, faults: &mut Vec<Fault>) -> Option<Node> {
    if let Some(fault) = odd_character(source) {
        faults.push(fault);
        return None;
    }
    let mut builder = Builder { source, faults, open: Vec::new(), root: None, nodes: 0 };
    for event in Parser::new_from_str_with_options(&source.text, options()) {
        let step = match event {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => Err(Box::new(syntax_fault(source, &error))),
        };
        if let Err(fault) = step {
            builder.faults.push(*fault);
            return None;
        }
    }
    let nothing = Place { line: 1, column: 1, start: 0, end: 0 };
    Some(builder.root.unwrap_or(Node { at: nothing, kind: Kind::Null }))
}

impl Node {
    /// What a message calls it.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Null => "nothing",
            Kind::Scalar { plain: true, .. } => "a single value",
            Kind::Scalar { plain: false, .. } => "quoted text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }

    /// Adds the tree to a hash. Two trees that mean the same to the decoder, wherever they
    /// stand and however they are indented, give the same.
    pub fn digest(&self, hash: &mut Sha256) {
        fn text(hash: &mut Sha256, mark: u8, text: &str) {
            hash.update(&[mark]);
            hash.update(&(text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        }
        match &self.kind {
            Kind::Null => hash.update(b"n"),
            Kind::Scalar { text: value, plain } => {
                text(hash, if *plain { b'p' } else { b'q' }, value)
            }
            Kind::List(items) => {
                hash.update(b"[");
                items.iter().for_each(|item| item.digest(hash));
                hash.update(b"]");
            }
            Kind::Map(entries) => {
                hash.update(b"{");
                for (key, value) in entries {
                    text(hash, b'k', &key.text);
                    value.digest(hash);
                }
                hash.update(b"}");
            }
        }
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.disallow_directives = true;
    options.emit_unresolved_aliases = true;
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    options
}

struct Builder<'a> {
    source: &'a Source,
    faults: &'a mut Vec<Fault>,
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
}

/// A collection whose end has not come.
enum Open {
    List { at: Place, items: Vec<Node> },
    Map { at: Place, entries: Vec<(Key, Node)>, seen: HashMap<Box<str>, Place>, key: Option<Key> },
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Box<Fault>> {
        self.admit(&event, &span)?;
        let at = place(&span);
        match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) if text.is_empty() && self.wants_key() => {
                self.refuse(at, "a key is missing here", "write `key: value`")
            }
            Event::Scalar(text, ..) if self.wants_key() => {
                self.set_key(Key { at, text: text.into() });
                Ok(())
            }
            Event::Scalar(text, style, ..) => {
                let plain = style == ScalarStyle::Plain;
                let kind = match &*text {
                    "" | "~" | "null" | "Null" | "NULL" if plain => Kind::Null,
                    _ => Kind::Scalar { text: text.into(), plain },
                };
                self.attach(Node { at, kind });
                Ok(())
            }
            Event::SequenceStart(..) => self.begin(at, |at| Open::List { at, items: Vec::new() }),
            Event::MappingStart(..) => self.begin(at, |at| Open::Map {
                at,
                entries: Vec::new(),
                seen: HashMap::new(),
                key: None,
            }),
            Event::SequenceEnd | Event::MappingEnd => {
                let node = match self.open.pop() {
                    Some(Open::List { at, items }) => Node { at, kind: Kind::List(items) },
                    Some(Open::Map { at, entries, .. }) => Node { at, kind: Kind::Map(entries) },
                    None => return Ok(()),
                };
                self.attach(node);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What the YAML of a configuration may not hold.
    fn admit(&mut self, event: &Event<'_>, span: &Span) -> Result<(), Box<Fault>> {
        let at = place(span);
        match event {
            Event::DocumentStart(..) if self.root.is_some() => self.refuse(
                at,
                "a second document starts here",
                "a configuration file is one document: remove the `---`",
            ),
            Event::Alias(_) | Event::UnresolvedAlias(_) => self.refuse(
                at,
                "YAML aliases are not accepted",
                "write the value out instead of `*name`",
            ),
            Event::Scalar(_, _, anchor, tag)
            | Event::SequenceStart(_, anchor, tag)
            | Event::MappingStart(_, anchor, tag) => {
                self.nodes += 1;
                if *anchor != 0 {
                    self.refuse(
                        at,
                        "YAML anchors are not accepted",
                        "write the value without `&name`",
                    )
                } else if tag.is_some() {
                    let at = span.tag_span().map_or(at, |tag| place(&tag));
                    self.refuse(at, "YAML tags are not accepted", "write the value without `!tag`")
                } else if self.nodes > MAX_NODES {
                    self.refuse(
                        at,
                        format!("the file holds more than {MAX_NODES} values"),
                        "spread the tenants over the files of `include`",
                    )
                } else {
                    Ok(())
                }
            }
            _ => Ok(()),
        }
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open::Map { key: None, .. }))
    }

    fn set_key(&mut self, found: Key) {
        let Some(Open::Map { seen, key, .. }) = self.open.last_mut() else { return };
        match seen.get(&found.text) {
            Some(_) if self.faults.len() >= MAX_FAULTS => {}
            Some(first) => {
                let message = format!("the key {} is written twice", quoted(&found.text));
                let help = format!("first written in line {}; keep one of the two", first.line);
                self.faults.push(Fault::at(self.source, found.at, message).help(help));
            }
            None => {
                seen.insert(found.text.clone(), found.at);
            }
        }
        *key = Some(found);
    }

    fn begin(&mut self, at: Place, open: impl FnOnce(Place) -> Open) -> Result<(), Box<Fault>> {
        let at = Place { end: at.start, ..at };
        if self.wants_key() {
            return self.refuse(
                at,
                "a list or a mapping cannot be a key",
                "text that holds `{` or `[` goes in quotes",
            );
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(Box::new(too_deep(self.source, at)));
        }
        self.open.push(open(at));
        Ok(())
    }

    fn attach(&mut self, node: Node) {
        match self.open.last_mut() {
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, key, .. }) => {
                if let Some(key) = key.take() {
                    entries.push((key, node));
                }
            }
            None => self.root = Some(node),
        }
    }

    fn refuse(&self, at: Place, message: impl Into<String>, help: &str) -> Result<(), Box<Fault>> {
        Err(Box::new(Fault::at(self.source, at, message).help(help)))
    }
}

fn too_deep(source: &Source, at: Place) -> Fault {
    Fault::at(source, at, format!("nested deeper than {MAX_DEPTH} levels"))
        .help("no key of the configuration needs that")
}

fn syntax_fault(source: &Source, error: &ScanError) -> Fault {
    let marker = error.marker();
    let start = marker.byte_offset().unwrap_or(source.text.len());
    let at = Place {
        line: narrow(marker.line()),
        column: narrow(marker.col() + 1),
        start: narrow(start),
        end: narrow(start),
    };
    let help = match error.kind() {
        ErrorKind::RecursionLimitExceeded => return too_deep(source, at),
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabInPlainScalar => "indent with spaces",
        ErrorKind::UnclosedQuotedScalar | ErrorKind::InvalidQuotedScalarIndent => {
            "close the quote that was opened before"
        }
        ErrorKind::UnclosedFlowCollection { .. }
        | ErrorKind::UnexpectedEofFlowSequence
        | ErrorKind::UnexpectedEofFlowMapping
        | ErrorKind::ExpectedFlowSequenceSeparator
        | ErrorKind::ExpectedFlowMappingSeparator => {
            "close every `[` and `{`, and put commas between their values"
        }
        ErrorKind::DirectiveDisallowed => "text that starts with `%` goes in quotes",
        ErrorKind::MappingValueNotAllowed | ErrorKind::UnexpectedCharacter { .. } => {
            "text that holds `: `, `@`, `*` or `%` goes in quotes; else check the indentation"
        }
        _ => "check indentation and quotes, in this line and in the one above",
    };
    Fault::at(source, at, format!("not valid YAML: {}", error.info())).help(help)
}

/// Control characters have no place in a configuration, and some readers of YAML take NUL
/// for the end of the text.
fn odd_character(source: &Source) -> Option<Fault> {
    let odd = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
    let (start, found) = source.text.char_indices().find(|(_, c)| odd(*c))?;
    let (line, column) = position(source.text.get(..start)?);
    let at = Place { line, column, start: narrow(start), end: narrow(start + found.len_utf8()) };
    let message = format!("the control character {} is not accepted", found.escape_unicode());
    Some(Fault::at(source, at, message).help("remove it"))
}

/// Line and column of the character that follows `before`.
pub fn position(before: &str) -> (u32, u32) {
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (narrow(line), narrow(column))
}

fn place(span: &Span) -> Place {
    let start = span.start.byte_offset().unwrap_or_default();
    Place {
        line: narrow(span.start.line()),
        column: narrow(span.start.col() + 1),
        start: narrow(start),
        end: narrow(span.end.byte_offset().unwrap_or(start)),
    }
}

/// Files are far smaller than 4 GiB.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
