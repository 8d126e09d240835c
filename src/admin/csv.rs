//! CSV in pieces of any size: finds the separator in the header line, then gives row after
//! row in bounded memory. As RFC 4180 has it, with any of three separators and any line end, but
//! for one thing: a row is one line. A quote that somebody forgot to close costs its own row, and
//! none of those behind it.

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
    /// What has come in of the line that is being read; at most [`ROW_BYTES`].
    gathered: Vec<u8>,
    /// There was more of it.
    too_long: bool,
    /// Its place, from 1.
    number: u64,
    /// The byte before was a CR: a LF now is of the same line end.
    carriage_return: bool,
    /// Once the header line is there.
    rows: Option<Box<Rows>>,
}

/// Takes lines apart.
struct Rows {
    reader: Reader,
    text: Vec<u8>,
    ends: Vec<usize>,
    /// Fields of the header line.
    columns: usize,
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
    /// Its place in the file, from 1.
    pub line: u64,
    /// As many as the header line has; a short row is filled up with empty fields.
    pub fields: Result<Vec<String>, RowFault>,
}

/// Why a row has no fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowFault {
    #[error("the row has more than 65536 bytes or 256 fields")]
    TooLong,
    #[error("a quote is not closed on this line; a field cannot hold line breaks")]
    QuoteNotClosed,
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
    #[error("A quote of the header line is not closed on it; a name cannot hold line breaks.")]
    QuoteNotClosed,
    #[error("The header line is not UTF-8.")]
    NotUtf8,
}

impl Default for Csv {
    fn default() -> Csv {
        Csv { gathered: Vec::new(), too_long: false, number: 1, carriage_return: false, rows: None }
    }
}

impl Csv {
    /// Takes the next stretch of the file; `each` gets what it completes.
    ///
    /// # Errors
    /// The file cannot be read; it must not be fed on.
    pub fn feed(&mut self, input: &[u8], each: &mut impl FnMut(Item)) -> Result<(), HeaderFault> {
        let mut input = input;
        while let Some(first) = input.first() {
            if std::mem::take(&mut self.carriage_return) && *first == b'\n' {
                input = input.get(1..).unwrap_or_default();
                continue;
            }
            let end = input.iter().position(|byte| b"\r\n".contains(byte));
            let (part, rest) = input.split_at(end.unwrap_or(input.len()));
            self.gather(part)?;
            let Some((end, rest)) = rest.split_first() else { break };
            self.end_line(each)?;
            self.number += 1;
            self.carriage_return = *end == b'\r';
            input = rest;
        }
        Ok(())
    }

    /// The file has ended.
    ///
    /// # Errors
    /// As [`Csv::feed`].
    pub fn finish(mut self, each: &mut impl FnMut(Item)) -> Result<(), HeaderFault> {
        self.end_line(each)?;
        if self.rows.is_some() { Ok(()) } else { Err(HeaderFault::Empty) }
    }

    fn gather(&mut self, part: &[u8]) -> Result<(), HeaderFault> {
        let room = ROW_BYTES - self.gathered.len();
        self.too_long |= part.len() > room;
        if self.too_long && self.rows.is_none() {
            return Err(HeaderFault::TooLong);
        }
        self.gathered.extend_from_slice(part.get(..room).unwrap_or(part));
        Ok(())
    }

    /// The line is whole. Empty ones are nothing, but they count.
    fn end_line(&mut self, each: &mut impl FnMut(Item)) -> Result<(), HeaderFault> {
        let too_long = std::mem::take(&mut self.too_long);
        match &mut self.rows {
            None => {
                let whole = self.gathered.as_slice();
                let text = match self.number {
                    1 => whole.strip_prefix(BYTE_ORDER_MARK).unwrap_or(whole),
                    _ => whole,
                };
                if !text.trim_ascii().is_empty() {
                    let (rows, names) = Rows::begin(text.trim_ascii_end())?;
                    self.rows = Some(Box::new(rows));
                    each(Item::Header(names));
                }
            }
            Some(_) if self.gathered.is_empty() => {}
            Some(rows) => {
                let fields = match too_long {
                    true => Err(RowFault::TooLong),
                    false => rows.fields(&self.gathered),
                };
                each(Item::Row(Row { line: self.number, fields }));
            }
        }
        self.gathered.clear();
        Ok(())
    }
}

impl Rows {
    /// Finds the separator in the header line, and the names of its columns.
    fn begin(header: &[u8]) -> Result<(Rows, Vec<String>), HeaderFault> {
        let mut rows = Rows {
            reader: ReaderBuilder::new().delimiter(separator(header)).build(),
            // The reader wants room for one byte more than it writes.
            text: vec![0; ROW_BYTES + 1],
            ends: vec![0; FIELDS],
            columns: usize::MAX,
        };
        let names = rows.fields(header).map_err(|fault| match fault {
            RowFault::NotUtf8 => HeaderFault::NotUtf8,
            RowFault::QuoteNotClosed => HeaderFault::QuoteNotClosed,
            RowFault::TooLong | RowFault::TooManyFields => HeaderFault::TooLong,
        })?;
        rows.columns = names.len();
        Ok((rows, names.iter().map(|name| name.trim().to_owned()).collect()))
    }

    /// The fields of a line, which holds no line end and is not empty.
    fn fields(&mut self, line: &[u8]) -> Result<Vec<String>, RowFault> {
        let found = self.split(line)?;
        let mut fields = Vec::with_capacity(self.columns.min(FIELDS));
        let mut start = 0;
        for end in self.ends.iter().take(found) {
            let text = self.text.get(start..*end).unwrap_or_default();
            start = *end;
            let text = std::str::from_utf8(text).map_err(|_| RowFault::NotUtf8)?;
            if fields.len() < self.columns {
                fields.push(text.to_owned());
            } else if !text.is_empty() {
                // Spreadsheets like to end each line with separators.
                return Err(RowFault::TooManyFields);
            }
        }
        if self.columns != usize::MAX {
            fields.resize(self.columns, String::new());
        }
        Ok(fields)
    }

    /// Writes the fields into `text`, their ends into `ends`, and gives their number.
    fn split(&mut self, line: &[u8]) -> Result<usize, RowFault> {
        // Nothing of the line before counts. The line end keeps the reader from taking this one
        // for the beginning of a file, where it drops a byte order mark.
        self.reader.reset();
        let (mut used, mut fields) = (0, 0);
        for part in [b"\n", line, b"\n"] {
            let text = self.text.get_mut(used..).unwrap_or_default();
            let ends = self.ends.get_mut(fields..).unwrap_or_default();
            let (result, _, wrote, ended) = self.reader.read_record(part, text, ends);
            used += wrote;
            fields += ended;
            match result {
                ReadRecordResult::Record => return Ok(fields),
                ReadRecordResult::InputEmpty | ReadRecordResult::End => {}
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    return Err(RowFault::TooLong);
                }
            }
        }
        // A line end that does not end the row stands within quotes.
        Err(RowFault::QuoteNotClosed)
    }
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
