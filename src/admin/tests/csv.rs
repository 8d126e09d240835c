//! The CSV reader, fed in pieces of every size.

use super::super::csv::{Csv, HeaderFault, Item, Row, RowFault};

/// The items of a text, which are the same however it is cut: into pieces of one size, or into
/// two at every byte.
fn read(text: &[u8]) -> Result<Vec<Item>, HeaderFault> {
    let whole = read_in(text, text.len().max(1));
    for size in [1, 2, 3, 7] {
        assert_eq!(read_in(text, size), whole, "in pieces of {size}");
    }
    for place in 0..=text.len() {
        let (before, behind) = text.split_at(place);
        assert_eq!(read_pieces([before, behind]), whole, "cut at {place}");
    }
    whole
}

fn read_in(text: &[u8], size: usize) -> Result<Vec<Item>, HeaderFault> {
    read_pieces(text.chunks(size))
}

fn read_pieces<'t>(pieces: impl IntoIterator<Item = &'t [u8]>) -> Result<Vec<Item>, HeaderFault> {
    let mut items = Vec::new();
    let mut csv = Csv::default();
    for piece in pieces {
        csv.feed(piece, &mut |item| items.push(item))?;
    }
    csv.finish(&mut |item| items.push(item))?;
    Ok(items)
}

fn header(names: &[&str]) -> Item {
    Item::Header(names.iter().map(|name| (*name).to_owned()).collect())
}

fn row(line: u64, fields: &[&str]) -> Item {
    let fields = Ok(fields.iter().map(|field| (*field).to_owned()).collect());
    Item::Row(Row { line, fields })
}

#[test]
fn the_header_line_tells_the_separator() {
    for separator in ["\t", ";", ","] {
        let text = "ID|AUTH_TYPE\nd1|CERTIFICATES\n".replace('|', separator);
        let items = read(text.as_bytes()).unwrap();
        assert_eq!(items, [header(&["ID", "AUTH_TYPE"]), row(2, &["d1", "CERTIFICATES"])]);
    }
    let items = read(b"ID;\"a,b,c\";X\n1;2,3,4;5").unwrap();
    assert_eq!(items, [header(&["ID", "a,b,c", "X"]), row(2, &["1", "2,3,4", "5"])]);
    assert_eq!(read(b"ID\nd1\n").unwrap(), [header(&["ID"]), row(2, &["d1"])]);
}

#[test]
fn byte_order_marks_and_line_ends_of_every_kind_are_no_content() {
    for end in ["\n", "\r\n", "\r"] {
        let text = format!("\u{feff}ID,NAME{end}a,b{end}c,d");
        let items = read(text.as_bytes()).unwrap();
        let Item::Row(last) = &items[2] else { panic!("{items:?}") };
        assert_eq!(items[0], header(&["ID", "NAME"]), "{end:?}");
        assert_eq!(last.fields, Ok(vec!["c".to_owned(), "d".to_owned()]), "{end:?}");
    }
}

#[test]
fn quoted_fields_hold_separators_and_quotes() {
    let items = read(b"ID,NAME\r\na,\"x, \"\"y\"\"\"\r\n\"b\",\"\"\r\n").unwrap();
    let expected = [header(&["ID", "NAME"]), row(2, &["a", "x, \"y\""]), row(3, &["b", ""])];
    assert_eq!(items, expected);
}

#[test]
fn a_quote_that_is_not_closed_costs_its_own_line_and_no_other() {
    let open = |line| Item::Row(Row { line, fields: Err(RowFault::QuoteNotClosed) });
    for end in ["\n", "\r\n", "\r"] {
        let text =
            "ID,NAME|\"a,x|b,\"|c,\"\"\"|d,\"y\"\"z|e,\"w\"|z\",f|\"g\",|\"".replace('|', end);
        let items = read(text.as_bytes()).unwrap();
        let expected = [
            header(&["ID", "NAME"]),
            open(2),
            open(3),
            open(4),
            open(5),
            row(6, &["e", "w"]),
            row(7, &["z\"", "f"]),
            row(8, &["g", ""]),
            open(9),
        ];
        assert_eq!(items, expected, "{end:?}");
    }
}

#[test]
fn a_stray_quote_in_a_long_file_loses_no_row() {
    let mut text = String::from("ID;AUTH_TYPE\n\"d1;CERTIFICATES\n");
    let rows = 20_000;
    for number in 0..rows {
        text.push_str(&format!("d{number};CERTIFICATES\n"));
    }
    let items = read_in(text.as_bytes(), 4096).unwrap();
    assert_eq!(items.len(), 2 + rows);
    let good = |item: &&Item| matches!(item, Item::Row(Row { fields: Ok(_), .. }));
    assert_eq!(items.iter().filter(good).count(), rows);
    assert_eq!(items.last(), Some(&row(20_002, &["d19999", "CERTIFICATES"])));
}

#[test]
fn lines_have_the_numbers_that_an_editor_shows() {
    for end in ["\n", "\r\n", "\r"] {
        let text = "|ID||a|\"b|".replace('|', end);
        let open = Item::Row(Row { line: 5, fields: Err(RowFault::QuoteNotClosed) });
        assert_eq!(read(text.as_bytes()).unwrap(), [header(&["ID"]), row(4, &["a"]), open]);
    }
    let mixed = read(b"ID\r\ra\n\nb\r\n\rc").unwrap();
    assert_eq!(mixed, [header(&["ID"]), row(3, &["a"]), row(5, &["b"]), row(7, &["c"])]);
}

#[test]
fn a_byte_order_mark_counts_at_the_beginning_of_the_file_alone() {
    let marked = |line| row(line, &["\u{feff}a"]);
    let items = read("\u{feff}ID\n\u{feff}a\n\"\n\u{feff}a\n".as_bytes()).unwrap();
    let open = Item::Row(Row { line: 3, fields: Err(RowFault::QuoteNotClosed) });
    assert_eq!(items, [header(&["ID"]), marked(2), open, marked(4)]);
}

#[test]
fn empty_lines_count_and_are_nothing_else() {
    let items = read(b"\n\nID,NAME\n\n\r\na,b\n\n\nc,d\n\n").unwrap();
    assert_eq!(items, [header(&["ID", "NAME"]), row(6, &["a", "b"]), row(9, &["c", "d"])]);
}

#[test]
fn short_rows_are_filled_up_and_long_ones_are_faults() {
    let items = read(b"A,B,C\n1\n1,2,3,,\n1,2,3,4\n9,8,7\n").unwrap();
    assert_eq!(items[1], row(2, &["1", "", ""]));
    assert_eq!(items[2], row(3, &["1", "2", "3"]));
    let fault = Item::Row(Row { line: 4, fields: Err(RowFault::TooManyFields) });
    assert_eq!(items[3], fault);
    assert_eq!(items[4], row(5, &["9", "8", "7"]));
}

#[test]
fn an_overlong_row_is_one_fault_and_the_next_row_is_read() {
    let longs = ["x".repeat(70_000), ",".repeat(300), "x,".repeat(40_000)];
    let open = [format!("\"{}", "x".repeat(70_000)), "x".repeat(65_537)];
    for long in longs.into_iter().chain(open) {
        let text = format!("A,B\n1,2\n{long}\n3,4\n");
        let items = read_in(text.as_bytes(), 4096).unwrap();
        let fault = Item::Row(Row { line: 3, fields: Err(RowFault::TooLong) });
        assert_eq!(items[2], fault);
        assert_eq!(items[3], row(4, &["3", "4"]));
    }
    let most = "x".repeat(65_536);
    let items = read_in(format!("A,B\n{most}\n").as_bytes(), 4096).unwrap();
    assert_eq!(items[1], row(2, &[&most, ""]));
}

#[test]
fn what_is_not_utf_8_is_a_fault_of_its_row() {
    let items = read(b"A,B\n\xff,2\n3,4\n").unwrap();
    assert_eq!(items[1], Item::Row(Row { line: 2, fields: Err(RowFault::NotUtf8) }));
    assert_eq!(items[2], row(3, &["3", "4"]));
}

#[test]
fn a_file_without_a_header_line_is_refused() {
    assert_eq!(read(b""), Err(HeaderFault::Empty));
    assert_eq!(read(b"\xef\xbb\xbf\r\n  \n"), Err(HeaderFault::Empty));
    assert_eq!(read(b"A,\xff\n"), Err(HeaderFault::NotUtf8));
    assert_eq!(read(b"A,\"B\nC\"\n1,2\n"), Err(HeaderFault::QuoteNotClosed));
    assert_eq!(read(b"\"A,B"), Err(HeaderFault::QuoteNotClosed));
    let long = format!("A,{}\n", "x".repeat(70_000));
    assert_eq!(read_in(long.as_bytes(), 4096), Err(HeaderFault::TooLong));
    assert_eq!(read_in(",".repeat(300).as_bytes(), 4096), Err(HeaderFault::TooLong));
}

#[test]
fn a_file_without_rows_has_none() {
    assert_eq!(read(b"ID,NAME").unwrap(), [header(&["ID", "NAME"])]);
}

/// Every text of a few bytes that mean something, behind a header: whatever it is, cutting it
/// changes nothing (which [`read`] asserts), and each line that is not empty gives one row.
#[test]
fn however_a_file_is_cut_its_rows_are_the_same_and_each_line_is_one() {
    let meaning = *b"a\",\n\r";
    let mut texts: Vec<Vec<u8>> = vec![Vec::new()];
    for _ in 0..5 {
        let longer = |text: &Vec<u8>| meaning.map(|byte| [text.as_slice(), &[byte]].concat());
        texts = texts.iter().flat_map(longer).collect();
    }
    assert_eq!(texts.len(), 3_125);
    for text in texts {
        let items = read(&[b"A,B\n", text.as_slice()].concat()).unwrap();
        let lines = text.split(|b| b"\r\n".contains(b)).filter(|line| !line.is_empty());
        assert_eq!(items.len(), 1 + lines.count(), "{:?}", String::from_utf8_lossy(&text));
    }
}
