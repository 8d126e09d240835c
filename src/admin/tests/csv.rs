//! The CSV reader, fed in pieces of every size.

use super::super::csv::{Csv, HeaderFault, Item, Row, RowFault};

/// The items of a text, which are the same however it is cut.
fn read(text: &[u8]) -> Result<Vec<Item>, HeaderFault> {
    let whole = read_in(text, text.len().max(1));
    for size in [1, 2, 3, 7] {
        assert_eq!(read_in(text, size), whole, "in pieces of {size}");
    }
    whole
}

fn read_in(text: &[u8], size: usize) -> Result<Vec<Item>, HeaderFault> {
    let mut items = Vec::new();
    let mut csv = Csv::default();
    for piece in text.chunks(size) {
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
fn quoted_fields_hold_separators_quotes_and_line_ends() {
    let items = read(b"ID,NAME\r\na,\"x, \"\"y\"\"\r\nz\"\r\nb,c\r\n").unwrap();
    let expected = [header(&["ID", "NAME"]), row(2, &["a", "x, \"y\"\r\nz"]), row(4, &["b", "c"])];
    assert_eq!(items, expected);
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
    for long in ["x".repeat(70_000), ",".repeat(300), "x,".repeat(40_000)] {
        let text = format!("A,B\n1,2\n{long}\n3,4\n");
        let items = read_in(text.as_bytes(), 4096).unwrap();
        let fault = Item::Row(Row { line: 3, fields: Err(RowFault::TooLong) });
        assert_eq!(items[2], fault);
        assert_eq!(items[3], row(4, &["3", "4"]));
    }
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
    let long = format!("A,{}\n", "x".repeat(70_000));
    assert_eq!(read_in(long.as_bytes(), 4096), Err(HeaderFault::TooLong));
    assert_eq!(read_in(",".repeat(300).as_bytes(), 4096), Err(HeaderFault::TooLong));
}

#[test]
fn a_file_without_rows_has_none() {
    assert_eq!(read(b"ID,NAME").unwrap(), [header(&["ID", "NAME"])]);
}
