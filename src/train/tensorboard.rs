//! Event files of TensorBoard: scalars only.
//!
//! A file is a sequence of records: the length of the data (u64), a checksum of the length, the data, a checksum of the data, all
//! little endian. The data is the protocol buffer `tensorflow.Event`; the checksum is CRC-32C (Castagnoli), rotated and moved, as
//! TensorFlow's `record_writer.cc` has it.

use super::observer::{Event, Observer};
use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A file of events in a folder that TensorBoard reads.
pub struct EventFile {
    path: PathBuf,
    out: BufWriter<File>,
}

impl EventFile {
    /// A new file in the folder, which is made where there is none. A run that goes on has a file more.
    pub fn create(folder: impl AsRef<Path>) -> Result<EventFile> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(|e| Error::file(folder, e))?;
        let second = now() as u64;
        for n in 0.. {
            let path = folder.join(format!("events.out.tfevents.{second:010}.inductor.{}.{n}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    let mut events = EventFile { path, out: BufWriter::new(file) };
                    events.record(&[number(1, now()), text(3, "brain.Event:2")].concat())?;
                    return Ok(events);
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::file(path, e)),
            }
        }
        Err(Error::file(folder, "no name is free"))
    }

    /// Adds a number at a step.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) -> Result<()> {
        let value = [text(1, tag), single(2, value as f32)].concat();
        let summary = bytes(1, &value);
        self.record(&[number(1, now()), integer(2, step), bytes(5, &summary)].concat())
    }

    /// Brings what was added to the file.
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(|e| Error::file(&self.path, e))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn record(&mut self, data: &[u8]) -> Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let record = [&length[..], &masked(&length).to_le_bytes(), data, &masked(data).to_le_bytes()].concat();
        self.out.write_all(&record).map_err(|e| Error::file(&self.path, e))
    }
}

impl Observer for EventFile {
    fn observe(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Step(record) => {
                self.scalar("train/loss", record.step, record.loss)?;
                self.scalar("train/lr", record.step, record.lr)?;
                record.gradient_norms.iter().try_for_each(|(name, norm)| self.scalar(&format!("gradient_norm/{name}"), record.step, *norm))
            }
            Event::Evaluation(found) => {
                found.metrics.iter().try_for_each(|(name, x)| self.scalar(&format!("evaluation/{name}"), found.step, *x))?;
                self.flush()
            }
            Event::End { .. } => self.flush(),
            _ => Ok(()),
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// A field's number and kind of encoding, as protocol buffers have them.
fn key(field: u64, wire: u64) -> Vec<u8> {
    varint(field << 3 | wire)
}

fn varint(mut x: u64) -> Vec<u8> {
    let mut out = vec![];
    while x >= 0x80 {
        out.push(x as u8 | 0x80);
        x >>= 7;
    }
    out.push(x as u8);
    out
}

fn integer(field: u64, x: u64) -> Vec<u8> {
    [key(field, 0), varint(x)].concat()
}

fn number(field: u64, x: f64) -> Vec<u8> {
    [&key(field, 1)[..], &x.to_le_bytes()].concat()
}

fn bytes(field: u64, data: &[u8]) -> Vec<u8> {
    [&key(field, 2)[..], &varint(data.len() as u64), data].concat()
}

fn text(field: u64, x: &str) -> Vec<u8> {
    bytes(field, x.as_bytes())
}

fn single(field: u64, x: f32) -> Vec<u8> {
    [&key(field, 5)[..], &x.to_le_bytes()].concat()
}

fn masked(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn crc32c(data: &[u8]) -> u32 {
    let step = |crc: u32, &byte: &u8| (0..8).fold(crc ^ byte as u32, |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()));
    !data.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_those_of_the_format() {
        // The check value of CRC-32C.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(varint(300), [0xac, 0x02]);
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(folder.path()).unwrap();
        file.scalar("loss", 7, 0.5).unwrap();
        file.flush().unwrap();
        let data = std::fs::read(file.path()).unwrap();
        let first = u64::from_le_bytes(data[..8].try_into().unwrap()) as usize;
        assert_eq!(&data[12 + 9..12 + first], b"\x1a\x0dbrain.Event:2");
        let second = &data[12 + first + 4..];
        let length = u64::from_le_bytes(second[..8].try_into().unwrap()) as usize;
        assert_eq!(&second[12 + 9..12 + length], b"\x10\x07\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x3f");
        assert_eq!(second.len(), 12 + length + 4);
        let other = EventFile::create(folder.path()).unwrap();
        assert_ne!(other.path(), file.path());
    }
}
