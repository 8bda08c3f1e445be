//! Cells of a CSV file (RFC 4180), as spreadsheets write and read them: pure.

use std::collections::BTreeMap;

use csv::{ReaderBuilder, StringRecord, WriterBuilder};
use web_api::{IMPORT_FAULTS_MAX, IMPORT_LINES_MAX, ImportFault};

/// Characters of a cell that are told again.
const SHOWN_CHARS_MAX: usize = 64;
/// A spreadsheet takes a cell that begins so for a formula and runs it.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// A line below the names of the columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// In the file, from 1 on.
    pub(super) number: u64,
    cells: BTreeMap<&'static str, String>,
}

impl Line {
    /// A cell without the spaces around it; none of a column that the file does not have.
    pub(super) fn cell(&self, column: &str) -> Option<&str> {
        self.cells.get(column).map(String::as_str)
    }
}

/// What was wrong, up to a limit.
#[derive(Debug, Default)]
pub(super) struct Faults(pub(super) Vec<ImportFault>);

impl Faults {
    pub(super) fn add(&mut self, line: u64, column: Option<&str>, fault: impl Into<String>) {
        if self.0.len() < IMPORT_FAULTS_MAX {
            self.0.push(ImportFault {
                line,
                column: column.map(str::to_owned),
                fault: fault.into(),
            });
        }
    }
}

/// Lines of a file, with cells of columns that are known. Column names may be in any order, and are told apart whatever their letters' case.
/// Between them are commas, or semicolons as in countries that write half as 0,5.
pub(super) fn read(bytes: &[u8], known: &'static [&'static str], faults: &mut Faults) -> Vec<Line> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let first = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let between = match first.contains(&b';') && !first.contains(&b',') {
        true => b';',
        false => b',',
    };
    let mut reader = ReaderBuilder::new()
        .delimiter(between)
        .flexible(true)
        .from_reader(bytes);
    let columns = match reader.headers() {
        Ok(names) => columns(names, known, faults),
        Err(error) => {
            faults.add(1, None, worded(&error));
            return Vec::new();
        }
    };
    if !faults.0.is_empty() {
        return Vec::new();
    }
    let mut lines = Vec::new();
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let line = error.position().map_or(1, |at| line_at(bytes, at));
                faults.add(line, None, worded(&error));
                break;
            }
        };
        let number = record.position().map_or(1, |at| line_at(bytes, at));
        if lines.len() >= IMPORT_LINES_MAX {
            let fault = format!("a file has at most {IMPORT_LINES_MAX} lines below its first");
            faults.add(number, None, fault);
            break;
        }
        if record.len() != columns.len() {
            let (here, there) = (record.len(), columns.len());
            faults.add(
                number,
                None,
                format!("{here} cells where the first line names {there}"),
            );
            continue;
        }
        let cells = columns.iter().copied().zip(&record);
        let cells = cells.map(|(column, cell)| (column, unguarded(cell.trim()).to_owned()));
        lines.push(Line {
            number,
            cells: cells.collect(),
        });
    }
    lines
}

fn columns(
    names: &StringRecord,
    known: &'static [&'static str],
    faults: &mut Faults,
) -> Vec<&'static str> {
    let mut columns = Vec::new();
    for name in names {
        let name = name.trim();
        match known.iter().find(|known| known.eq_ignore_ascii_case(name)) {
            Some(column) if columns.contains(column) => {
                faults.add(1, Some(column), "this column is there twice");
            }
            Some(column) => columns.push(*column),
            None => {
                let known = known.join(", ");
                faults.add(
                    1,
                    None,
                    format!("no column is called {}: there are {known}", shown(name)),
                );
            }
        }
    }
    columns
}

/// The line at which a record begins: the reader's place is before the empty lines that it passes over.
fn line_at(bytes: &[u8], place: &csv::Position) -> u64 {
    let at = usize::try_from(place.byte()).unwrap_or(usize::MAX);
    let rest = bytes.get(at..).unwrap_or_default().iter();
    let empty = rest.take_while(|b| b"\r\n".contains(b));
    place.line() + empty.filter(|b| **b == b'\n').count() as u64
}

fn worded(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Utf8 { .. } => "this is not UTF-8: save the file as \"CSV UTF-8\"".into(),
        _ => "this is no line of a CSV file".into(),
    }
}

/// A cell for a sentence.
pub(super) fn shown(cell: &str) -> String {
    format!(
        "{:?}",
        cell.chars().take(SHOWN_CHARS_MAX).collect::<String>()
    )
}

/// What machines and people wrote must not be a formula in somebody's spreadsheet.
fn guarded(cell: String) -> String {
    match cell.starts_with(FORMULA) {
        true => format!("'{cell}"),
        false => cell,
    }
}

fn unguarded(cell: &str) -> &str {
    let bare = cell.strip_prefix('\'').filter(|c| c.starts_with(FORMULA));
    bare.unwrap_or(cell)
}

/// A line of a file.
pub(super) fn line(cells: impl IntoIterator<Item = String>) -> Vec<u8> {
    let mut writer = WriterBuilder::new().from_writer(Vec::new());
    // a vector takes everything
    let _ = writer.write_record(cells.into_iter().map(guarded));
    writer.into_inner().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["name", "tags"];

    fn of(text: &[u8]) -> (Vec<(u64, Vec<String>)>, Vec<String>) {
        let mut faults = Faults::default();
        let lines = read(text, KNOWN, &mut faults);
        let cells = |line: &Line| {
            KNOWN
                .iter()
                .filter_map(|c| line.cell(c))
                .map(str::to_owned)
                .collect()
        };
        let lines = lines.iter().map(|line| (line.number, cells(line)));
        (
            lines.collect(),
            faults.0.iter().map(ToString::to_string).collect(),
        )
    }

    #[test]
    fn files_of_spreadsheets_are_read() {
        let expect = vec![
            (2, vec!["north".to_owned(), "a, b".into()]),
            (4, vec!["south".into(), String::new()]),
        ];
        for text in [
            "name,tags\nnorth,\"a, b\"\n\nsouth,\n",
            "\u{FEFF}Name;TAGS\r\nnorth;a, b\r\n\r\n south ;\r\n",
            "tags,name\n\"a, b\",north\n\n,'south",
        ] {
            let (lines, faults) = of(text.replace("'south", "south").as_bytes());
            assert_eq!((lines, faults), (expect.clone(), vec![]), "{text}");
        }
        // a line break within a cell
        assert_eq!(of(b"name\n\"a\nb\"\nc\n").0[1].0, 4);
        assert_eq!(of(b"").0, []);
    }

    #[test]
    fn faults_say_where_they_are() {
        for (text, fault) in [
            (
                &b"name,colour\n"[..],
                "line 1: no column is called \"colour\": there are name, tags",
            ),
            (b"name,Name\n", "line 1, name: this column is there twice"),
            (
                b"name,tags\nnorth\n",
                "line 2: 1 cells where the first line names 2",
            ),
            (
                b"name\n\xFF\n",
                "line 2: this is not UTF-8: save the file as \"CSV UTF-8\"",
            ),
            (
                b"\xFF\n",
                "line 1: this is not UTF-8: save the file as \"CSV UTF-8\"",
            ),
        ] {
            assert_eq!(of(text).1, [fault]);
        }
        let long = "name\n".to_owned() + &"x\n".repeat(IMPORT_LINES_MAX + 1);
        assert_eq!(of(long.as_bytes()).1.len(), 1);
        let wrong = "name,tags\n".to_owned() + &"x\n".repeat(IMPORT_LINES_MAX);
        assert_eq!(of(wrong.as_bytes()).1.len(), IMPORT_FAULTS_MAX);
    }

    #[test]
    fn no_cell_is_a_formula() {
        for cell in [
            "=1+1",
            "@x",
            "-3",
            "+49",
            "'quoted",
            "plain, \"text\"",
            "two\nlines",
        ] {
            let file = [line(["name".to_owned()]), line([cell.to_owned()])].concat();
            let text = String::from_utf8(file.clone()).unwrap();
            let second = text.split_once('\n').unwrap().1;
            assert!(
                !second.trim_start_matches('"').starts_with(FORMULA),
                "{text}"
            );
            assert_eq!(of(&file).0[0].1, [cell], "{text}");
        }
    }
}
