//! Comma-separated values with a header (RFC 4180).

use crate::error::{Error, Result};
use crate::types::HostTensor;
use std::collections::BTreeSet;
use std::path::Path;

/// A table of text, whose columns become tensors.
///
/// ```
/// use inductor::train::data::Csv;
/// let table = Csv::parse("height,width,kind\n1.5,2,\"small, red\"\n3,4.5,large\n")?;
/// assert_eq!(table.numbers(&["width", "height"])?.to_f32(), [2.0, 1.5, 4.5, 3.0]);
/// let (labels, kinds) = table.classes("kind")?;
/// assert_eq!((labels.to_i64(), kinds), (vec![1, 0], vec!["large".to_string(), "small, red".to_string()]));
/// # Ok::<(), inductor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Csv {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Csv {
    /// Reads a file.
    pub fn read(path: impl AsRef<Path>) -> Result<Csv> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
        table(&text).map_err(|what| Error::file(path, what))
    }

    /// Of text.
    pub fn parse(text: &str) -> Result<Csv> {
        table(text).map_err(Error::Input)
    }

    /// Names of the columns.
    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Those columns as f32 of `[rows, columns]`. What is no number is an error with its line.
    pub fn numbers(&self, columns: &[&str]) -> Result<HostTensor> {
        let places = columns.iter().map(|c| self.column(c)).collect::<Result<Vec<usize>>>()?;
        let mut data = Vec::with_capacity(self.len() * columns.len());
        for (at, row) in self.rows.iter().enumerate() {
            for &place in &places {
                let (cell, name) = (&row[place], &self.header[place]);
                let number = cell.trim().parse::<f32>();
                data.push(number.map_err(|_| Error::Input(format!("row {} of {name}: {cell:?} is no number", at + 1)))?);
            }
        }
        Ok(HostTensor::f32(&[self.len(), columns.len()], &data))
    }

    /// A column as classes, i32 of `[rows]`, and their names, sorted.
    pub fn classes(&self, column: &str) -> Result<(HostTensor, Vec<String>)> {
        let place = self.column(column)?;
        let names: Vec<String> = self.rows.iter().map(|row| row[place].clone()).collect::<BTreeSet<_>>().into_iter().collect();
        let labels: Vec<i32> = self.rows.iter().map(|row| names.binary_search(&row[place]).unwrap_or(0) as i32).collect();
        Ok((HostTensor::i32(&[self.len()], &labels), names))
    }

    fn column(&self, name: &str) -> Result<usize> {
        let place = self.header.iter().position(|h| h == name);
        place.ok_or_else(|| Error::Input(format!("there is no column {name}; there are {}", self.header.join(", "))))
    }
}

fn table(text: &str) -> Result<Csv, String> {
    let mut records = records(text.strip_prefix('\u{feff}').unwrap_or(text))?.into_iter();
    let header = records.next().ok_or("it has no header")?;
    let rows: Vec<Vec<String>> = records.collect();
    if let Some((at, row)) = rows.iter().enumerate().find(|(_, row)| row.len() != header.len()) {
        return Err(format!("row {} has {} cells, the header {}", at + 1, row.len(), header.len()));
    }
    Ok(Csv { header, rows })
}

/// Cells of each line; lines may break within quotes, empty ones are none.
fn records(text: &str) -> Result<Vec<Vec<String>>, String> {
    let (mut all, mut record, mut cell, mut quoted) = (vec![], vec![], String::new(), false);
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match (c, quoted) {
            ('"', true) if characters.next_if_eq(&'"').is_some() => cell.push('"'),
            ('"', true) => quoted = false,
            ('"', false) if cell.is_empty() => quoted = true,
            (',', false) => record.push(std::mem::take(&mut cell)),
            ('\r', false) if characters.peek() == Some(&'\n') => {}
            ('\n', false) => {
                record.push(std::mem::take(&mut cell));
                all.push(std::mem::take(&mut record));
            }
            _ => cell.push(c),
        }
    }
    if quoted {
        return Err("a quote is not closed".into());
    }
    if !cell.is_empty() || !record.is_empty() {
        record.push(cell);
        all.push(record);
    }
    all.retain(|record: &Vec<String>| record.len() > 1 || !record[0].is_empty());
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_line_ends() {
        let table = Csv::parse("\u{feff}a,b\r\n\"x \"\"y\"\"\nz\", 2\r\n\r\n,3").unwrap();
        assert_eq!(table.rows, [["x \"y\"\nz", " 2"], ["", "3"]]);
        assert_eq!(table.numbers(&["b"]).unwrap().shape(), [2, 1]);
        assert!(table.numbers(&["a"]).unwrap_err().to_string().contains("row 1 of a"));
        assert!(table.numbers(&["c"]).unwrap_err().to_string().contains("there are a, b"));
        for (text, part) in [("", "no header"), ("a,b\n1", "row 1 has 1 cells"), ("a\n\"1", "not closed")] {
            assert!(Csv::parse(text).unwrap_err().to_string().contains(part), "{text}");
        }
    }
}
