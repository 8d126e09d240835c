//! What YAML text may not be, whatever its keys.

use super::{GOOD, Site, edited};

fn only_fault(text: impl AsRef<[u8]>) -> String {
    let mut site = Site::new("");
    site.write("portcullis.yaml", text);
    let faults = site.faults();
    match &faults[..] {
        [one] => one.clone(),
        other => panic!("{other:#?}"),
    }
}

#[test]
fn syntax_errors_have_place_and_help() {
    for (text, expected) in [
        ("listeners: [\n  a\n", "| close every `[` and `{`"),
        ("listeners: \"a\n", "| close the quote that was opened before"),
        ("listeners:\n\tx: 1\n", "| indent with spaces"),
        ("a: b: c\n", "| text that holds `: `"),
        ("a: @b\n", "| text that holds `: `, `@`"),
        ("%YAML 1.2\n---\na: 1\n", "| text that starts with `%`"),
    ] {
        let fault = only_fault(text);
        assert!(
            fault.contains(": not valid YAML: ") && fault.contains(expected),
            "{text}: {fault}"
        );
        assert!(!fault.starts_with('0'), "{fault}");
    }
    assert!(only_fault("a: b: c\n").starts_with("1:5: "), "{}", only_fault("a: b: c\n"));
}

#[test]
fn an_alias_bomb_stops_at_its_first_anchor() {
    let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x]\n");
    for (name, of) in "bcdefghi".chars().zip("abcdefgh".chars()) {
        bomb.push_str(&format!("{name}: &{name} [*{of}, *{of}, *{of}, *{of}, *{of}, *{of}]\n"));
    }
    let fault = only_fault(bomb);
    assert!(fault.contains("YAML anchors are not accepted"), "{fault}");
    assert!(only_fault("a: *b\n").starts_with("1:4: YAML aliases are not accepted"));
}

#[test]
fn deep_nesting_is_refused_at_any_size() {
    for (text, open) in [("[", 1 << 20), ("{a: ", 1 << 18), ("- ", 1 << 19), ("[", 40)] {
        let fault = only_fault(format!("a:\n  {}", text.repeat(open)));
        assert!(fault.contains("nested deeper than 32 levels"), "{fault}");
    }
}

#[test]
fn too_many_values_are_refused() {
    let fault = only_fault(format!("a: [{}]", "1,".repeat(1_100_000)));
    assert!(fault.contains("the file holds more than 1000000 values"), "{fault}");
}

#[test]
fn one_document_of_plain_yaml_is_accepted_and_nothing_else() {
    for (text, expected) in [
        (format!("{GOOD}---\na: 1\n"), "15:1: a second document starts here"),
        (edited("id: acme", "id: !!str acme"), "10:9: YAML tags are not accepted"),
        (edited("id: acme", "id: &x acme"), "10:12: YAML anchors are not accepted"),
        (edited("id: acme", "[a]: b\n    id: acme"), "10:5: a list or a mapping cannot be a key"),
        (edited("id: acme", "id: acme\0"), "10:13: the control character \\u{0} is not accepted"),
        (edited("id: acme", "id: \u{1b}[2J"), "10:9: the control character \\u{1b}"),
    ] {
        let fault = only_fault(text);
        assert!(fault.starts_with(expected), "{expected}\n{fault}");
    }
}

#[test]
fn a_key_is_written_once() {
    let mut site = Site::new(&edited("id: acme", "id: acme\n    id: beta"));
    let faults = site.faults();
    let expected = "11:5: the key `id` is written twice | first written in line 10";
    assert!(matches!(&faults[..], [one] if one.starts_with(expected)), "{faults:?}");
    let faults = Site::new(&edited("{ file: root.pem }", "{ file: root.pem, file: x }")).faults();
    assert!(matches!(&faults[..], [one] if one.starts_with("13:46: the key `file`")), "{faults:?}");
}

#[test]
fn text_is_utf8_and_not_too_large() {
    let mut latin1 = b"listeners: 1\nname: caf".to_vec();
    latin1.push(0xe9);
    assert!(only_fault(latin1).starts_with("2:10: not valid UTF-8"));
    let fault = only_fault(vec![b'#'; (8 << 20) + 1]);
    assert!(fault.contains("larger than 8 MiB"), "{fault}");
}

#[test]
fn an_empty_file_says_what_is_missing() {
    assert!(only_fault("").starts_with("1:1: expected a mapping, found nothing"));
    assert!(only_fault("# nothing\n").contains("expected a mapping"));
}

#[test]
fn carriage_returns_and_a_byte_order_mark_are_no_fault() {
    let dos = format!("\u{feff}{}", GOOD.replace('\n', "\r\n"));
    assert!(Site::new(&dos).compile().is_ok());
    let fault = only_fault(dos.replace("id: acme\r", "ident: acme\r\n    id: acme\r"));
    assert!(fault.starts_with("10:5: unknown key `ident`"), "{fault}");
}

#[test]
fn a_line_of_a_mebibyte_is_shown_in_part() {
    let mut site = Site::new(&format!("{{ {} }}", "é: 1, ".repeat(150_000)));
    let faults = site.compile().err().unwrap();
    assert!((1..=20_000).contains(&faults.0.len()));
    assert!(faults.to_string().lines().all(|line| line.chars().count() < 300));
}
