//! Archives of `torch.export` for tests: taken apart, changed, and put together again.
#![allow(dead_code)]

use serde_json::Value;

/// The program's file.
pub const MODEL: &str = "models/model.json";

/// Files of an archive, below its top folder.
#[derive(Clone)]
pub struct Files(pub Vec<(String, Vec<u8>)>);

impl Files {
    /// Of a sound archive.
    pub fn read(bytes: &[u8]) -> Files {
        let number = |at: usize, n: usize| (0..n).rev().fold(0usize, |x, i| x << 8 | bytes[at + i] as usize);
        let end = (0..bytes.len() - 21).rev().find(|&i| bytes[i..i + 4] == *b"PK\x05\x06").expect("an end record");
        let mut at = number(end + 16, 4);
        let mut files = vec![];
        for _ in 0..number(end + 10, 2) {
            let (size, name_len, rest, header) =
                (number(at + 24, 4), number(at + 28, 2), number(at + 30, 2) + number(at + 32, 2), number(at + 42, 4));
            let name = String::from_utf8(bytes[at + 46..at + 46 + name_len].to_vec()).expect("a name");
            let data = header + 30 + number(header + 26, 2) + number(header + 28, 2);
            let inside = name.split_once('/').expect("a top folder").1.to_string();
            files.push((inside, bytes[data..data + size].to_vec()));
            at += 46 + name_len + rest;
        }
        Files(files)
    }

    /// A file.
    pub fn get(&self, name: &str) -> &[u8] {
        &self.0.iter().find(|(n, _)| n == name).expect("the file is there").1
    }

    /// Replaces or adds a file.
    pub fn set(&mut self, name: &str, data: Vec<u8>) {
        self.0.retain(|(n, _)| n != name);
        self.0.push((name.into(), data));
    }

    /// The program.
    pub fn model(&self) -> Value {
        serde_json::from_slice(self.get(MODEL)).expect("a program")
    }

    /// With another program.
    pub fn with_model(mut self, model: &Value) -> Vec<u8> {
        self.set(MODEL, serde_json::to_vec(model).expect("text"));
        self.zip()
    }

    /// The archive.
    pub fn zip(&self) -> Vec<u8> {
        zip(self.0.iter().map(|(name, data)| (format!("x/{name}"), &data[..])))
    }
}

/// A zip of stored files, without check sums.
pub fn zip<'a>(files: impl IntoIterator<Item = (String, &'a [u8])>) -> Vec<u8> {
    let (mut out, mut directory, mut count) = (vec![], vec![], 0u16);
    for (name, data) in files {
        let offset = out.len() as u32;
        let size = (data.len() as u32).to_le_bytes();
        let common = [&[20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &size, &size, &(name.len() as u16).to_le_bytes(), &[0, 0]].concat();
        for part in [b"PK\x03\x04", &common[..], name.as_bytes(), data] {
            out.extend_from_slice(part);
        }
        directory.extend([&b"PK\x01\x02\x14\0"[..], &common, &[0; 10], &offset.to_le_bytes(), name.as_bytes()].concat());
        count += 1;
    }
    let (at, n) = (out.len() as u32, count.to_le_bytes());
    let end = [&b"PK\x05\x06\0\0\0\0"[..], &n, &n, &(directory.len() as u32).to_le_bytes(), &at.to_le_bytes(), &[0, 0]].concat();
    out.extend(directory);
    out.extend(end);
    out
}
