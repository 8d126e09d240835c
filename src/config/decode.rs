//! Tree → values, gathering faults instead of stopping at the first.
//!
//! A decoder of a value takes the `Decoder` and a node and gives `None` where it has
//! reported a fault. A mapping is read through `Fields`, which learns the known keys from
//! what is asked for, so that a key cannot be documented, read and yet be unknown.

use std::ops::RangeInclusive;

use super::fault::{Fault, MAX_FAULTS, Place, Source, quoted};
use super::node::{Key, Kind, Node};

pub struct Decoder<'s> {
    pub source: &'s Source,
    pub faults: Vec<Fault>,
}

/// A mapping that is being read; `finish` must end it.
pub struct Fields<'n> {
    at: Place,
    entries: &'n [(Key, Node)],
    known: Vec<&'static str>,
}

impl<'s> Decoder<'s> {
    pub fn new(source: &'s Source) -> Decoder<'s> {
        Decoder { source, faults: Vec::new() }
    }

    pub fn fault(&mut self, at: Place, message: impl Into<String>, help: impl Into<String>) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(Fault::at(self.source, at, message).help(help));
        }
    }

    pub fn mapping<'n>(&mut self, node: &'n Node) -> Option<Fields<'n>> {
        match &node.kind {
            Kind::Map(entries) => Some(Fields { at: node.at, entries, known: Vec::new() }),
            _ => self.wrong_kind(node, "a mapping", "a mapping is written `{ key: value }`"),
        }
    }

    /// `None` where it is no list, or an item is faulty; every item is looked at.
    pub fn list<T>(
        &mut self,
        node: &Node,
        mut item: impl FnMut(&mut Self, &Node) -> Option<T>,
    ) -> Option<Vec<T>> {
        match &node.kind {
            Kind::List(items) => {
                let decoded: Vec<_> = items.iter().map(|node| item(self, node)).collect();
                decoded.into_iter().collect()
            }
            _ => {
                self.wrong_kind(node, "a list", "a list is written `[a, b]`, or `- a` line by line")
            }
        }
    }

    /// A list that must hold something.
    pub fn filled_list<T>(
        &mut self,
        node: &Node,
        example: &str,
        item: impl FnMut(&mut Self, &Node) -> Option<T>,
    ) -> Option<Vec<T>> {
        if matches!(&node.kind, Kind::List(items) if items.is_empty()) {
            self.fault(node.at, "the list is empty", format!("write `{example}`"));
            return None;
        }
        self.list(node, item)
    }

    /// Text as it is written; quotes are needed only where YAML needs them.
    pub fn text<'n>(&mut self, node: &'n Node) -> Option<&'n str> {
        match &node.kind {
            Kind::Scalar { text, .. } => Some(text),
            _ => self.wrong_kind(
                node,
                "text",
                "write one value, in quotes where it holds `: ` or `#`",
            ),
        }
    }

    pub fn boolean(&mut self, node: &Node) -> Option<bool> {
        match &node.kind {
            Kind::Scalar { text, plain: true } if &**text == "true" => Some(true),
            Kind::Scalar { text, plain: true } if &**text == "false" => Some(false),
            _ => self.wrong_kind(node, "true or false", "write `true` or `false`, without quotes"),
        }
    }

    pub fn integer(&mut self, node: &Node, range: RangeInclusive<u64>) -> Option<u64> {
        let number = match &node.kind {
            Kind::Scalar { text, plain: true } if text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().unwrap_or(u64::MAX)
            }
            _ => {
                return self.wrong_kind(node, "a number", "write a whole number, without quotes");
            }
        };
        if range.contains(&number) {
            return Some(number);
        }
        let help = format!("from {} to {}", range.start(), range.end());
        self.fault(node.at, "the number is out of range", help);
        None
    }

    pub fn count(&mut self, node: &Node, range: RangeInclusive<u32>) -> Option<usize> {
        let range = u64::from(*range.start())..=u64::from(*range.end());
        self.integer(node, range).and_then(|number| usize::try_from(number).ok())
    }

    /// One of a closed set of words.
    pub fn choice<T: Copy>(&mut self, node: &Node, choices: &[(&'static str, T)]) -> Option<T> {
        let text = self.text(node)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("`{word}`")).collect();
        let help = match nearest(text, choices.iter().map(|(word, _)| *word)) {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("one of {}", words.join(", ")),
        };
        self.fault(node.at, format!("unknown choice {}", quoted(text)), help);
        None
    }

    /// Decodes by a type's own parser, whose error says what is wrong.
    pub fn parsed<T, E: std::fmt::Display>(
        &mut self,
        node: &Node,
        help: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(node)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.fault(node.at, reason.to_string(), help);
                None
            }
        }
    }

    pub fn wrong_kind<T>(&mut self, node: &Node, expected: &str, help: &str) -> Option<T> {
        self.fault(node.at, format!("expected {expected}, found {}", node.kind_name()), help);
        None
    }
}

impl<'n> Fields<'n> {
    /// The value of a key that may be absent.
    pub fn get(&mut self, key: &'static str) -> Option<&'n Node> {
        self.known.push(key);
        self.entries.iter().find(|(found, _)| &*found.text == key).map(|(_, node)| node)
    }

    /// The place of a key itself.
    pub fn key(&self, key: &str) -> Option<Place> {
        self.entries.iter().find(|(found, _)| &*found.text == key).map(|(found, _)| found.at)
    }

    /// All entries, for a mapping whose keys are names of the operator's.
    pub fn named(&self) -> &'n [(Key, Node)] {
        self.entries
    }

    pub fn optional<'s, T>(
        &mut self,
        decoder: &mut Decoder<'s>,
        key: &'static str,
        decode: impl FnOnce(&mut Decoder<'s>, &'n Node) -> Option<T>,
    ) -> Option<T> {
        self.get(key).and_then(|node| decode(decoder, node))
    }

    /// The default stands in for a faulty value, too: the fault is reported, and the rest
    /// can still be looked at.
    pub fn or<'s, T>(
        &mut self,
        decoder: &mut Decoder<'s>,
        key: &'static str,
        default: T,
        decode: impl FnOnce(&mut Decoder<'s>, &'n Node) -> Option<T>,
    ) -> T {
        self.optional(decoder, key, decode).unwrap_or(default)
    }

    /// The default stands in for an absent value only; `None` where it is faulty.
    pub fn or_if_absent<'s, T>(
        &mut self,
        decoder: &mut Decoder<'s>,
        key: &'static str,
        default: T,
        decode: impl FnOnce(&mut Decoder<'s>, &'n Node) -> Option<T>,
    ) -> Option<T> {
        match self.get(key) {
            Some(node) => decode(decoder, node),
            None => Some(default),
        }
    }

    pub fn required<'s, T>(
        &mut self,
        decoder: &mut Decoder<'s>,
        key: &'static str,
        example: &str,
        decode: impl FnOnce(&mut Decoder<'s>, &'n Node) -> Option<T>,
    ) -> Option<T> {
        match self.get(key) {
            Some(node) => decode(decoder, node),
            None => {
                let help = format!("write `{example}`");
                decoder.fault(self.at, format!("the key `{key}` is missing"), help);
                None
            }
        }
    }

    /// Reports every key that nothing has asked for.
    pub fn finish(self, decoder: &mut Decoder<'_>) {
        for (key, _) in self.entries {
            if self.known.contains(&&*key.text) {
                continue;
            }
            let help = match nearest(&key.text, self.known.iter().copied()) {
                Some(word) => format!("did you mean `{word}`?"),
                None => format!("known here: {}", self.known.join(", ")),
            };
            decoder.fault(key.at, format!("unknown key {}", quoted(&key.text)), help);
        }
    }
}

/// The candidate that a slip of the fingers may have turned into `text`: at most a third of
/// its letters inserted, left out, replaced or swapped with their neighbour.
pub fn nearest<'c>(text: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    // An operator's list of names can be long; a suggestion is worth only so much work.
    const LOOKED_AT: usize = 1_000;
    let text: Vec<char> = text.chars().take(64).collect();
    let most = (text.len() / 3).max(1);
    candidates
        .take(LOOKED_AT)
        .map(|candidate| (distance(&text, &candidate.chars().collect::<Vec<_>>()), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance, case apart.
fn distance(a: &[char], b: &[char]) -> usize {
    let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX);
    let (mut above, mut last): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..=b.len()).collect());
    let mut previous: Option<&char> = None;
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        let mut before: Option<&char> = None;
        for (j, y) in b.iter().enumerate() {
            let replaced = at(&last, j) + usize::from(!x.eq_ignore_ascii_case(y));
            let shifted = at(&last, j + 1).min(at(&row, j)) + 1;
            let swapped = match (previous, before, j.checked_sub(1)) {
                (Some(p), Some(q), Some(two_back)) if p == y && q == x => at(&above, two_back) + 1,
                _ => usize::MAX,
            };
            row.push(replaced.min(shifted).min(swapped));
            before = Some(y);
        }
        previous = Some(x);
        above = std::mem::replace(&mut last, row);
    }
    at(&last, b.len())
}
