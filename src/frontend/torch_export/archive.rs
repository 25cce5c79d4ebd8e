//! The archive of `torch.export.save`: a zip without compression, whose top folder's name varies.
//!
//! The directory is read here and not by a library, because an archive is untrusted: names that occur twice, names that leave
//! the archive, entries that overlap its end and sizes beyond it are errors, and nothing is allocated that the length of the
//! file does not cover. Check sums are not compared: PyTorch's writer leaves them out when asked to.

use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// Entries beyond this many are refused; models have fewer tensors.
const MAX_ENTRIES: u64 = 1 << 18;
/// Names beyond this many bytes are refused.
const MAX_NAME: u16 = 4096;

/// Memory that a value of JSON takes at most, and what all of them may take beside the length of their text.
const VALUE_BYTES: u64 = 64;
const VALUES_ROOM: u64 = 32 << 20;

/// Where an archive is read from.
pub trait Source: Read + Seek {}
impl<T: Read + Seek> Source for T {}

/// An open archive.
pub struct Archive {
    source: BufReader<Box<dyn Source>>,
    len: u64,
    top: String,
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    /// Of the local header.
    header: u64,
    size: u64,
}

/// The end record: where the directory is.
struct Directory {
    offset: u64,
    entries: u64,
    end: u64,
}

impl Archive {
    /// Reads the directory.
    pub fn open(source: Box<dyn Source>) -> Result<Archive, String> {
        let mut source = BufReader::new(source);
        let len = source.seek(SeekFrom::End(0)).map_err(unreadable)?;
        let directory = find_directory(&mut source, len)?;
        let entries = read_directory(&mut source, &directory)?;
        let model = |name: &&String| name.split_once('/').is_some_and(|(_, rest)| rest == "models/model.json");
        let tops: Vec<String> = entries.keys().filter(model).map(|n| n.split('/').next().unwrap_or_default().to_string()).collect();
        match &tops[..] {
            [top] => Ok(Archive { source, len, top: top.clone(), entries }),
            [] => Err("there is no models/model.json; torch.export.save of PyTorch 2.6 or later writes it".into()),
            _ => Err(format!("there are {} models in it, expected one", tops.len())),
        }
    }

    /// Bytes of the whole archive.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of a file below the top folder, if it is there.
    pub fn size(&self, path: &str) -> Option<u64> {
        self.entries.get(&format!("{}/{path}", self.top)).map(|e| e.size)
    }

    /// A file below the top folder.
    pub fn read(&mut self, path: &str) -> Result<Vec<u8>, String> {
        let name = format!("{}/{path}", self.top);
        let entry = *self.entries.get(&name).ok_or_else(|| format!("{path} is missing"))?;
        let mut header = [0u8; 30];
        self.read_at(entry.header, &mut header).map_err(|e| format!("{path}: {e}"))?;
        if header[..4] != *b"PK\x03\x04" {
            return Err(format!("{path}: its local header is broken"));
        }
        let data = entry.header + 30 + u16_at(&header, 26) as u64 + u16_at(&header, 28) as u64;
        if data.checked_add(entry.size).is_none_or(|end| end > self.len) {
            return Err(format!("{path}: {} bytes at {data} are past the end, at {}", entry.size, self.len));
        }
        let mut bytes = vec![0; usize::try_from(entry.size).map_err(|_| format!("{path}: {} bytes are too many", entry.size))?];
        self.read_at(data, &mut bytes).map_err(|e| format!("{path}: {e}"))?;
        Ok(bytes)
    }

    /// A file of JSON. One with more values than its length warrants in memory is refused: a digit and a comma become a number of
    /// eight bytes in a list that grows by doubling.
    pub fn read_json<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, String> {
        let text = self.read(path)?;
        let values = count_values(&text);
        if values.saturating_mul(VALUE_BYTES) > text.len() as u64 + VALUES_ROOM {
            return Err(format!("{path}: {values} values are too many for {} bytes", text.len()));
        }
        serde_json::from_slice(&text).map_err(|e| format!("{path}: {e}"))
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), String> {
        self.source.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
        self.source.read_exact(into).map_err(unreadable)
    }
}

/// Separators outside of strings: as many as there are values, about.
fn count_values(text: &[u8]) -> u64 {
    let (mut count, mut in_string, mut escaped) = (0, false, false);
    for &byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

fn unreadable(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the file ends too early".into(),
        _ => error.to_string(),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u32_at(bytes, at) as u64 | (u32_at(bytes, at + 4) as u64) << 32
}

/// The end record is the last thing in the file, before a comment of up to 64 KiB.
fn find_directory(source: &mut (impl Read + Seek), len: u64) -> Result<Directory, String> {
    let tail_len = len.min(22 + 65535 + 20);
    let mut tail = vec![0; tail_len as usize];
    source.seek(SeekFrom::Start(len - tail_len)).map_err(unreadable)?;
    source.read_exact(&mut tail).map_err(unreadable)?;
    let fits = |&i: &usize| tail[i..i + 4] == *b"PK\x05\x06" && i + 22 + u16_at(&tail, i + 20) as usize == tail.len();
    let at = (0..tail.len().saturating_sub(21)).rev().find(fits).ok_or("it is no zip archive, or it was cut off")?;
    let end = len - tail_len + at as u64;
    let record = &tail[at..];
    let directory = Directory { entries: u16_at(record, 10) as u64, offset: u32_at(record, 16) as u64, end };
    let directory = match at.checked_sub(20).filter(|&l| tail[l..l + 4] == *b"PK\x06\x07") {
        Some(locator) => read_zip64(source, u64_at(&tail, locator + 8), end)?,
        None => directory,
    };
    if directory.offset > directory.end {
        return Err(format!("its directory is at {}, past the end of its contents, {}", directory.offset, directory.end));
    }
    // An entry takes 46 bytes of the directory at least.
    if directory.entries > MAX_ENTRIES || directory.entries * 46 > directory.end - directory.offset {
        return Err(format!("its directory cannot hold {} entries", directory.entries));
    }
    Ok(directory)
}

fn read_zip64(source: &mut (impl Read + Seek), at: u64, end: u64) -> Result<Directory, String> {
    let mut record = [0u8; 56];
    if at.checked_add(56).is_none_or(|e| e > end) {
        return Err("its 64-bit end record is past the end".into());
    }
    source.seek(SeekFrom::Start(at)).map_err(unreadable)?;
    source.read_exact(&mut record).map_err(unreadable)?;
    if record[..4] != *b"PK\x06\x06" {
        return Err("its 64-bit end record is broken".into());
    }
    Ok(Directory { entries: u64_at(&record, 32), offset: u64_at(&record, 48), end: at })
}

fn read_directory(source: &mut (impl Read + Seek), directory: &Directory) -> Result<BTreeMap<String, Entry>, String> {
    let mut entries = BTreeMap::new();
    source.seek(SeekFrom::Start(directory.offset)).map_err(unreadable)?;
    for _ in 0..directory.entries {
        let mut record = [0u8; 46];
        source.read_exact(&mut record).map_err(unreadable)?;
        if record[..4] != *b"PK\x01\x02" {
            return Err("its directory is broken".into());
        }
        let (name_len, extra_len, comment_len) = (u16_at(&record, 28), u16_at(&record, 30), u16_at(&record, 32));
        if name_len > MAX_NAME {
            return Err(format!("a name in its directory has {name_len} bytes"));
        }
        let mut name = vec![0; name_len as usize];
        source.read_exact(&mut name).map_err(unreadable)?;
        let mut rest = vec![0; extra_len as usize + comment_len as usize];
        source.read_exact(&mut rest).map_err(unreadable)?;
        let name = String::from_utf8(name).map_err(|_| "a name in its directory is not text")?;
        check_name(&name)?;
        let (flags, method) = (u16_at(&record, 8), u16_at(&record, 10));
        let (packed, size) = (u32_at(&record, 20) as u64, u32_at(&record, 24) as u64);
        let mut entry = Entry { header: u32_at(&record, 42) as u64, size };
        let packed = widen(&rest[..extra_len as usize], &mut entry, packed);
        if method != 0 || flags & 1 != 0 || packed != entry.size {
            return Err(format!("{name} is compressed or encrypted; torch.export.save stores its files as they are"));
        }
        if entry.header.checked_add(30).and_then(|d| d.checked_add(entry.size)).is_none_or(|e| e > directory.end) {
            return Err(format!("{name}: {} bytes at {} are past the end, at {}", entry.size, entry.header, directory.end));
        }
        if entries.insert(name.clone(), entry).is_some() {
            return Err(format!("{name} is in it twice"));
        }
    }
    Ok(entries)
}

/// Takes 64-bit sizes from the extra field where the record says that they are there; gives the packed size.
fn widen(mut extra: &[u8], entry: &mut Entry, mut packed: u64) -> u64 {
    while extra.len() >= 4 {
        let (id, len) = (u16_at(extra, 0), u16_at(extra, 2) as usize);
        let Some(field) = extra.get(4..4 + len) else { break };
        if id == 1 {
            let mut numbers = field.chunks_exact(8).map(|c| u64_at(c, 0));
            for value in [&mut entry.size, &mut packed, &mut entry.header] {
                if *value == u32::MAX as u64 {
                    *value = numbers.next().unwrap_or(*value);
                }
            }
        }
        extra = &extra[4 + len..];
    }
    packed
}

fn check_name(name: &str) -> Result<(), String> {
    let strange = name.is_empty() || name.starts_with('/') || name.contains('\\') || name.contains('\0') || name.split('/').any(|p| p == "..");
    if strange { Err(format!("{name:?} is no name of a file in an archive")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A zip of stored files.
    fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
        let (mut out, mut directory) = (vec![], vec![]);
        for (name, data) in files {
            let offset = out.len() as u32;
            let sizes = [(data.len() as u32).to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
            let common = [&[20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &sizes, &(name.len() as u16).to_le_bytes(), &[0, 0]].concat();
            out.extend([&b"PK\x03\x04"[..], &common, name.as_bytes(), data].concat());
            directory.extend([&b"PK\x01\x02\x14\0"[..], &common, &[0; 10], &offset.to_le_bytes(), name.as_bytes()].concat());
        }
        let (at, n) = (out.len() as u32, files.len() as u16);
        let end =
            [&b"PK\x05\x06\0\0\0\0"[..], &n.to_le_bytes(), &n.to_le_bytes(), &(directory.len() as u32).to_le_bytes(), &at.to_le_bytes(), &[0, 0]];
        out.extend(directory);
        out.extend(end.concat());
        out
    }

    fn open(bytes: Vec<u8>) -> Result<Archive, String> {
        Archive::open(Box::new(io::Cursor::new(bytes)))
    }

    #[test]
    fn files_are_found_below_any_top_folder() {
        let mut archive = open(zip(&[("x/models/model.json", b"{}"), ("x/data/weights/weight_0", b"abc")])).unwrap();
        assert_eq!(archive.read("data/weights/weight_0").unwrap(), b"abc");
        assert_eq!(archive.size("data/weights/weight_1"), None);
        assert_eq!(archive.read("byteorder").unwrap_err(), "byteorder is missing");
    }

    #[test]
    fn strange_archives_are_refused() {
        let check = |files: &[(&str, &[u8])], message: &str| assert_eq!(open(zip(files)).err().unwrap(), message);
        check(&[("x/models/model.json", b""), ("x/models/model.json", b"")], "x/models/model.json is in it twice");
        check(&[("../models/model.json", b"")], "\"../models/model.json\" is no name of a file in an archive");
        check(&[("a", b"")], "there is no models/model.json; torch.export.save of PyTorch 2.6 or later writes it");
        check(&[("x/models/model.json", b""), ("y/models/model.json", b"")], "there are 2 models in it, expected one");
        assert_eq!(open(vec![]).err().unwrap(), "it is no zip archive, or it was cut off");
    }

    #[test]
    fn every_truncation_and_changed_byte_is_survived() {
        let whole = zip(&[("x/models/model.json", b"{}"), ("x/byteorder", b"little")]);
        for n in 0..whole.len() {
            assert!(open(whole[..n].to_vec()).is_err(), "{n}");
            for byte in [0, 1, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[n] = byte;
                if let Ok(mut archive) = open(changed) {
                    let _ = archive.read("models/model.json");
                }
            }
        }
    }
}
