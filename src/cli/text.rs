//! Texts of an edge as a terminal may see them.

use std::fmt::Write;

use serde_json::Value;

/// Whether a character could move the cursor, colour what follows, reorder a line or hide in
/// it: control characters, and Unicode's invisible and bidirectional format characters.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text on one line, with every character that acts written as an escape.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if acts(c) => safe.extend(c.escape_default()),
            c => safe.push(c),
        }
    }
    safe
}

/// At most `most` characters, with `…` at the end where some are missing.
pub fn short(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// JSON on one line; the characters that act are escaped as JSON has it (RFC 8259 section 7).
pub fn json(value: &Value) -> String {
    let mut safe = String::new();
    // Outside of strings JSON has none of these characters.
    for c in value.to_string().chars() {
        if acts(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(c);
        }
    }
    safe
}

/// A field of an answer, escaped; empty where it is not there.
pub fn field(value: &Value, name: &str) -> String {
    match value.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => escaped(text),
        Some(Value::Bool(true)) => "yes".to_owned(),
        Some(Value::Bool(false)) => "no".to_owned(),
        Some(other) => escaped(&other.to_string()),
    }
}

/// A list of an answer; empty where it is not there.
pub fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A count of an answer; 0 where it is not there.
pub fn count(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_written_as_an_escape() {
        assert_eq!(escaped("a\u{1b}[31mb\r\nc\u{9b}2J"), r"a\u{1b}[31mb\r\nc\u{9b}2J");
        assert_eq!(escaped("user\u{202e}txt.exe\u{200b}"), r"user\u{202e}txt.exe\u{200b}");
        assert_eq!(escaped("\u{7f}\0\u{e0041}"), r"\u{7f}\u{0}\u{e0041}");
        assert_eq!(escaped("Fabrik München 工場"), "Fabrik München 工場");
    }

    #[test]
    fn json_stays_json_when_it_is_escaped() {
        let value = json!({ "name": "a\u{1b}[0m\u{9b}\u{202e}\u{e0041}\"ü" });
        let text = super::json(&value);
        assert!(text.chars().all(|c| !acts(c)), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn fields_are_escaped_and_may_be_missing() {
        let value = json!({ "a": "x\ty", "b": true, "c": 7, "d": null });
        assert_eq!(
            ["a", "b", "c", "d", "e"].map(|name| field(&value, name)),
            [r"x\ty", "yes", "7", "", ""]
        );
    }

    #[test]
    fn long_texts_end_in_an_ellipsis() {
        assert_eq!(short("abc", 3), "abc");
        assert_eq!(short("äöüß", 3), "äö…");
    }
}
