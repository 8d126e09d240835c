//! `portcullis device import`: a CSV file of any length, sent as it is read.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::client::{Failure, query};
use super::session::{Ended, Session};
use super::table::Table;
use super::text::{count, field, list};
use crate::names::TenantId;

const BULK: &str = "/devicecontrol/bulkNewDeviceRequests";
const HEADS: &[&str] = &["LINE", "ID", "REASON"];
/// What is kept of the header line.
const MOST_HEADER: usize = 64 * 1024;
const TICK: Duration = Duration::from_millis(200);

/// Sends `file` (`-`: what is piped in) and tells what became of its rows.
///
/// # Errors
/// Nothing was registered, or nobody knows how much was; the message says which.
pub fn import(at: &mut Session<'_>, file: &Path, failures: Option<&Path>) -> anyhow::Result<Ended> {
    let shown = file.display();
    let (input, length): (Box<dyn Read>, Option<u64>) = if file == Path::new("-") {
        (Box::new(io::stdin().lock()), None)
    } else {
        let input = File::open(file).with_context(|| shown.to_string())?;
        let metadata = input.metadata().with_context(|| shown.to_string())?;
        if metadata.is_dir() {
            bail!("{shown}: a folder, and not a CSV file");
        }
        let same = |path: &Path| {
            std::fs::metadata(path)
                .is_ok_and(|other| (other.dev(), other.ino()) == (metadata.dev(), metadata.ino()))
        };
        if failures.is_some_and(same) {
            bail!("--failures names the file that is imported, which would be lost");
        }
        (Box::new(input), metadata.is_file().then_some(metadata.len()))
    };
    // Opened before anything is registered: where it cannot be written, nothing is sent.
    let failures = match failures {
        Some(path) => {
            let open = OpenOptions::new().create(true).truncate(false).write(true).open(path);
            Some((open.with_context(|| path.display().to_string())?, path))
        }
        None => None,
    };

    let bar = progress(length);
    let mut upload = Upload::new(input, bar.clone());
    let to = query(BULK, &[("tenant", at.any_tenant().map(TenantId::as_str))]);
    let answer = at.client.upload(&to, &mut upload);
    bar.finish_and_clear();
    if let Some(error) = upload.failed {
        return Err(error).with_context(|| {
            format!(
                "{shown}: reading broke off, after {} rows had been sent, of which fewer may be \
                 registered; to send the file again is safe",
                HumanCount(upload.rows)
            )
        });
    }
    let report = answer.map_err(|failure| reason(at, &to, &upload.header, failure, upload.rows))?;

    let failed = list(&report, "failedCreationList");
    if let Some((file, path)) = failures {
        write_failures(file, failed).with_context(|| path.display().to_string())?;
    }
    if at.json {
        at.say_json(&report)?;
    } else {
        if !failed.is_empty() {
            let row =
                |row: &Value| ["line", "deviceId", "failureReason"].map(|name| field(row, name));
            at.say(&Table::new(HEADS).page(failed.iter().map(|one| row(one).to_vec()).collect()))?;
            at.say("")?;
        }
        at.say(&summary(&report))?;
    }
    Ok(if count(&report, "numberOfFailed") > 0 { Ended::SomeFailed } else { Ended::Well })
}

fn summary(report: &Value) -> String {
    let [all, created, failed, good] =
        ["numberOfAll", "numberOfCreated", "numberOfFailed", "numberOfSuccessful"]
            .map(|name| count(report, name));
    let mut text = format!(
        "{} rows: {} registered, {} were there already, {} failed",
        HumanCount(all),
        HumanCount(created),
        HumanCount(good.saturating_sub(created)),
        HumanCount(failed)
    );
    let listed = list(report, "failedCreationList").len() as u64;
    if listed < failed {
        text.push_str(&format!(
            " (the first {} of them are listed; mend those and import again, which changes \
             nothing for rows that are registered)",
            HumanCount(listed)
        ));
    }
    text
}

/// Why an upload failed. An edge that says no to the header line closes the connection while
/// the rest is still on its way, and its reason gets lost; so it is asked about that line alone.
fn reason(at: &Session<'_>, to: &str, header: &[u8], failure: Failure, rows: u64) -> anyhow::Error {
    match failure {
        refused @ Failure::Refused { .. } => refused.into(),
        Failure::BrokeOff(line) => match at.client.upload(to, &mut &*header) {
            Err(refused @ Failure::Refused { .. }) => refused.into(),
            _ => unknown(&line, rows),
        },
        Failure::NoAnswer(line) if rows == 0 => Failure::NoAnswer(line).into(),
        Failure::NoAnswer(line) => unknown(&line, rows),
    }
}

fn unknown(line: &str, rows: u64) -> anyhow::Error {
    anyhow::anyhow!(
        "{line}, after {} rows had been sent. Fewer may be registered: the edge registers them \
         while they come in. Send the file again, which is safe: it changes nothing for those \
         that are",
        HumanCount(rows)
    )
}

/// `line,id,reason` (RFC 4180), in place of what the file held.
fn write_failures(file: File, failed: &[Value]) -> io::Result<()> {
    // A pipe or a terminal has no length.
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    let mut out = BufWriter::new(file);
    out.write_all(b"line,id,reason\r\n")?;
    for row in failed {
        let cells = ["line", "deviceId", "failureReason"]
            .map(|name| format!("\"{}\"", field(row, name).replace('"', "\"\"")));
        out.write_all(format!("{}\r\n", cells.join(",")).as_bytes())?;
    }
    out.flush()
}

/// On a terminal only.
fn progress(length: Option<u64>) -> ProgressBar {
    let target = match io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(length, target);
    let template = match length {
        Some(_) => "{bar:24} {bytes} of {total_bytes}, {bytes_per_sec}, {msg}",
        None => "{spinner} {bytes}, {bytes_per_sec}, {msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}

/// The file on its way, with what is told about it.
struct Upload {
    input: Box<dyn Read>,
    bar: ProgressBar,
    /// The header line, and empty ones in front of it.
    header: Vec<u8>,
    has_header: bool,
    /// Nothing stands on the line that is being read.
    empty: bool,
    rows: u64,
    /// Why the input ended before its end.
    failed: Option<io::Error>,
}

impl Upload {
    fn new(input: Box<dyn Read>, bar: ProgressBar) -> Upload {
        Upload {
            input,
            bar,
            header: Vec::new(),
            has_header: false,
            empty: true,
            rows: 0,
            failed: None,
        }
    }

    /// Counts lines as the edge does: a row is one line, empty ones are none, and the first one is
    /// the header.
    fn count(&mut self, piece: &[u8]) {
        for byte in piece {
            if !self.has_header && self.header.len() < MOST_HEADER {
                self.header.push(*byte);
            }
            match byte {
                b'\r' | b'\n' => self.end_line(),
                // A header line of spaces is none.
                byte if self.has_header || !byte.is_ascii_whitespace() => self.empty = false,
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        match (std::mem::replace(&mut self.empty, true), self.has_header) {
            (true, _) => {}
            (false, true) => self.rows += 1,
            (false, false) => self.has_header = true,
        }
    }
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = loop {
            match self.input.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                // The client reports errors of the file and of the network alike.
                let copy = io::Error::new(error.kind(), "the file cannot be read");
                self.failed = Some(error);
                return Err(copy);
            }
        };
        self.count(buffer.get(..read).unwrap_or_default());
        self.bar.inc(read as u64);
        if read == 0 {
            // The last line may have no end.
            self.end_line();
            self.bar.set_message(format!("{} rows sent, waiting", HumanCount(self.rows)));
        } else {
            let seconds = self.bar.elapsed().as_secs().max(1);
            let (rows, rate) = (HumanCount(self.rows), HumanCount(self.rows / seconds));
            self.bar.set_message(format!("{rows} rows, {rate}/s"));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(text: &'static str) -> (u64, String) {
        let mut upload = Upload::new(Box::new(text.as_bytes()), ProgressBar::hidden());
        let mut one = [0; 1];
        while upload.read(&mut one).unwrap() > 0 {}
        (upload.rows, String::from_utf8(upload.header).unwrap())
    }

    #[test]
    fn rows_are_the_lines_that_are_not_empty_behind_the_header_line() {
        assert_eq!(
            counted("ID;AUTH_TYPE\r\na;b\r\n\r\nc;\"d\ne;f\r\n"),
            (3, "ID;AUTH_TYPE\r".into())
        );
        assert_eq!(counted("\n \nID\ra\r\"\rb"), (3, "\n \nID\r".into()));
        assert_eq!(counted("ID"), (0, "ID".into()));
        assert_eq!(counted(""), (0, String::new()));
    }

    #[test]
    fn an_import_that_is_cut_off_says_what_was_sent_and_that_fewer_may_be_registered() {
        let said = unknown("the edge has closed the connection", 196_451).to_string();
        assert!(said.contains("after 196,451 rows had been sent. Fewer may be"), "{said}");
        assert!(said.contains("Send the file again, which is safe"), "{said}");
    }

    #[test]
    fn failures_replace_what_the_file_held() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("failed.csv");
        std::fs::write(&path, "x".repeat(1000)).unwrap();
        let row = serde_json::json!({
            "deviceId": "a\"b\u{1b}", "failureReason": "ID: odd, very", "line": "7"
        });
        write_failures(OpenOptions::new().write(true).open(&path).unwrap(), &[row]).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "line,id,reason\r\n\"7\",\"a\"\"b\\u{1b}\",\"ID: odd, very\"\r\n"
        );
    }

    #[test]
    fn the_summary_tells_of_failures_that_are_not_listed() {
        let report = serde_json::json!({
            "numberOfAll": 12000, "numberOfCreated": 1, "numberOfFailed": 11000,
            "numberOfSuccessful": 1000, "failedCreationList": [{}, {}],
        });
        let text = summary(&report);
        assert!(
            text.starts_with("12,000 rows: 1 registered, 999 were there already, 11,000 failed")
        );
        assert!(text.contains("the first 2 of them"), "{text}");
    }
}
