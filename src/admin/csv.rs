//! CSV in pieces of any size: finds the separator in the header line, then gives row after
//! row in bounded memory (RFC 4180, with any of three separators and any line end).

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

/// One row, the header line included.
const ROW_BYTES: usize = 64 * 1024;
/// Fields of one row.
const FIELDS: usize = 256;
/// Tried in this order; of several in the header line, the most frequent one is it.
const SEPARATORS: [u8; 3] = [b'\t', b';', b','];
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A reader of one file.
pub struct Csv {
    state: State,
    /// Where the next byte stands, from 1.
    line: u64,
    /// Fields of the header line.
    columns: usize,
}

enum State {
    /// Gathers the header line.
    Header(Vec<u8>),
    Rows(Box<Rows>),
}

struct Rows {
    reader: Reader,
    text: Vec<u8>,
    used: usize,
    ends: Vec<usize>,
    fields: usize,
    /// Where the row began; `None` between rows.
    begun: Option<u64>,
    too_long: bool,
}

/// What a file holds, one after the other.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// The names of the columns, as they stand there; once, and first.
    Header(Vec<String>),
    Row(Row),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// Where the row begins, from 1.
    pub line: u64,
    /// As many as the header line has; a short row is filled up with empty fields.
    pub fields: Result<Vec<String>, RowFault>,
}

/// Why a row has no fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowFault {
    #[error("the row has more than 65536 bytes or 256 fields; is a quote not closed?")]
    TooLong,
    #[error("the row is not UTF-8")]
    NotUtf8,
    #[error("the row has more fields than the header line")]
    TooManyFields,
}

/// Why a file cannot be read at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    #[error("The file is empty; its first line names the columns.")]
    Empty,
    #[error("The header line has more than 65536 bytes or 256 columns.")]
    TooLong,
    #[error("The header line is not UTF-8.")]
    NotUtf8,
}

impl Default for Csv {
    fn default() -> Csv {
        Csv { state: State::Header(Vec::new()), line: 1, columns: 0 }
    }
}

impl Csv {
    /// Takes the next stretch of the file; `each` gets what it completes.
    ///
    /// # Errors
    /// The file cannot be read; it must not be fed on.
    pub fn feed(&mut self, input: &[u8], each: &mut impl FnMut(Item)) -> Result<(), HeaderFault> {
        let mut input = input;
        if let State::Header(gathered) = &mut self.state {
            let end = header_end(gathered, input);
            let taken = end.unwrap_or(input.len());
            gathered.extend_from_slice(input.get(..taken).unwrap_or_default());
            if gathered.len() > ROW_BYTES {
                return Err(HeaderFault::TooLong);
            }
            if end.is_none() {
                return Ok(());
            }
            input = input.get(taken..).unwrap_or_default();
            self.begin(each)?;
        }
        self.rows(input, each);
        Ok(())
    }

    /// The file has ended.
    ///
    /// # Errors
    /// As [`Csv::feed`].
    pub fn finish(mut self, each: &mut impl FnMut(Item)) -> Result<(), HeaderFault> {
        if let State::Header(_) = &self.state {
            self.begin(each)?;
        }
        let State::Rows(rows) = &mut self.state else { return Ok(()) };
        if rows.begun.is_some() {
            rows.take(&[]);
            each(Item::Row(rows.row(self.columns)));
        }
        Ok(())
    }

    /// The header line is there: finds the separator, and the columns.
    fn begin(&mut self, each: &mut impl FnMut(Item)) -> Result<(), HeaderFault> {
        let State::Header(gathered) = &self.state else { return Ok(()) };
        let text = gathered.strip_prefix(BYTE_ORDER_MARK).unwrap_or(gathered);
        let text = text.trim_ascii_end();
        if text.trim_ascii().is_empty() {
            return Err(HeaderFault::Empty);
        }
        let mut rows = Rows::new(separator(text));
        rows.begun = Some(1);
        rows.take(text);
        rows.take(b"\n");
        let header = match rows.row(usize::MAX).fields {
            Ok(header) => header,
            Err(RowFault::NotUtf8) => return Err(HeaderFault::NotUtf8),
            Err(_) => return Err(HeaderFault::TooLong),
        };
        self.line = 1 + newlines(gathered);
        self.columns = header.len();
        self.state = State::Rows(Box::new(rows));
        each(Item::Header(header.iter().map(|name| name.trim().to_owned()).collect()));
        Ok(())
    }

    fn rows(&mut self, mut input: &[u8], each: &mut impl FnMut(Item)) {
        let State::Rows(rows) = &mut self.state else { return };
        loop {
            if rows.begun.is_none() {
                // Empty lines are nothing, but they count.
                let start = input.iter().position(|b| !b"\r\n".contains(b));
                let (blank, rest) = input.split_at(start.unwrap_or(input.len()));
                self.line += newlines(blank);
                input = rest;
                rows.begun = Some(self.line).filter(|_| !input.is_empty());
            }
            if input.is_empty() {
                return;
            }
            let (taken, whole) = rows.take(input);
            let (done, rest) = input.split_at(taken.min(input.len()));
            self.line += newlines(done);
            input = rest;
            if whole {
                each(Item::Row(rows.row(self.columns)));
            }
        }
    }
}

impl Rows {
    fn new(separator: u8) -> Rows {
        Rows {
            reader: ReaderBuilder::new().delimiter(separator).build(),
            text: vec![0; ROW_BYTES],
            used: 0,
            ends: vec![0; FIELDS],
            fields: 0,
            begun: None,
            too_long: false,
        }
    }

    /// Reads on in the row that has begun; an empty input is the file's end. Gives the bytes
    /// taken, and whether the row is whole.
    fn take(&mut self, input: &[u8]) -> (usize, bool) {
        let mut taken = 0;
        loop {
            let rest = input.get(taken..).unwrap_or_default();
            if rest.is_empty() && taken > 0 {
                return (taken, false);
            }
            let text = self.text.get_mut(self.used..).unwrap_or_default();
            let ends = self.ends.get_mut(self.fields..).unwrap_or_default();
            let (result, read, wrote, ended) = self.reader.read_record(rest, text, ends);
            taken += read;
            self.used += wrote;
            self.fields += ended;
            match result {
                ReadRecordResult::Record => return (taken, true),
                ReadRecordResult::InputEmpty | ReadRecordResult::End => return (taken, false),
                // What does not fit is read all the same, and written over.
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    self.too_long = true;
                    self.used = 0;
                    self.fields = 0;
                }
            }
        }
    }

    /// The row that is whole now; the next one may begin.
    fn row(&mut self, columns: usize) -> Row {
        let line = self.begun.take().unwrap_or_default();
        let fields = if std::mem::take(&mut self.too_long) {
            Err(RowFault::TooLong)
        } else {
            self.fields_of_row(columns)
        };
        self.used = 0;
        self.fields = 0;
        Row { line, fields }
    }

    fn fields_of_row(&self, columns: usize) -> Result<Vec<String>, RowFault> {
        let mut fields = Vec::with_capacity(columns.min(FIELDS));
        let mut start = 0;
        for end in self.ends.iter().take(self.fields) {
            let text = self.text.get(start..*end).unwrap_or_default();
            start = *end;
            let text = std::str::from_utf8(text).map_err(|_| RowFault::NotUtf8)?;
            if fields.len() < columns {
                fields.push(text.to_owned());
            } else if !text.is_empty() {
                // Spreadsheets like to end each line with separators.
                return Err(RowFault::TooManyFields);
            }
        }
        if columns != usize::MAX {
            fields.resize(columns, String::new());
        }
        Ok(fields)
    }
}

/// How much of `input` belongs to the header line, its line end included, if that is there.
fn header_end(gathered: &[u8], input: &[u8]) -> Option<usize> {
    let mut quoted = gathered.iter().filter(|b| **b == b'"').count() % 2 == 1;
    // Empty lines in front of the header are skipped.
    let start = gathered.strip_prefix(BYTE_ORDER_MARK).unwrap_or(gathered);
    let mut blank = start.trim_ascii().is_empty();
    for (index, byte) in input.iter().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'\r' | b'\n' if !quoted && !blank => return Some(index + 1),
            _ => {}
        }
        blank = blank && (byte.is_ascii_whitespace() || BYTE_ORDER_MARK.contains(byte));
    }
    None
}

fn separator(header: &[u8]) -> u8 {
    let mut counts = [0usize; SEPARATORS.len()];
    let mut quoted = false;
    for byte in header {
        quoted ^= *byte == b'"';
        for (count, separator) in counts.iter_mut().zip(SEPARATORS) {
            *count += usize::from(!quoted && *byte == separator);
        }
    }
    // Of equals the first; where there is none of them, one column.
    let most = counts.iter().max().copied().unwrap_or_default();
    let found = SEPARATORS.into_iter().zip(counts).find(|(_, count)| *count == most && most > 0);
    found.map_or(b',', |(separator, _)| separator)
}

fn newlines(text: &[u8]) -> u64 {
    text.iter().filter(|b| **b == b'\n').count() as u64
}
