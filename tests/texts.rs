//! Texts of graphs and nests and safetensors are untrusted, too: whatever is changed in one, reading it gives a program or tensors, or
//! an error, in memory that it warrants; and a program can be compiled, or not, with an error.

#[path = "support/fuzz.rs"]
mod fuzz;
#[path = "support/memory.rs"]
mod memory;
#[path = "support/programs.rs"]
mod programs;

use fuzz::{NUMBERS, Random, change_bytes};
use inductor::config::Config;
use inductor::graph::{Builder, Graph, InputRole, OutputRole, parse, print, verify};
use inductor::loop_ir::{self, Phase};
use inductor::lower::lower;
use inductor::ops::samples;
use inductor::runtime::{TensorFile, load_tensors, save_tensors};
use inductor::{DType, HostTensor, Traced};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// Reading and compiling takes at most a few times the text and this.
const ROOM: u64 = 256 << 20;

/// The texts of tests, and a program for each sample of each operator.
fn texts() -> Vec<String> {
    let mut texts = vec![];
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => texts.push(std::fs::read_to_string(path).expect("text").split("// ----").next().unwrap_or_default().to_string()),
            }
        }
    }
    texts.sort();
    let mut texts: Vec<String> = texts.iter().map(|t| without_results(t)).collect();
    texts.extend(samples().iter().filter_map(|s| program_of(s).ok()).map(|g| without_results(&print(&g))));
    texts
}

/// The text without the types of results, which follow from the operands': so a change of a size reaches what is behind the parser.
fn without_results(text: &str) -> String {
    let short = |line: &str| match line.rsplit_once(" : ") {
        Some((call, _)) if !call.contains("= input ") && !line.contains(" region ") => call.to_string(),
        _ => line.to_string(),
    };
    text.lines().map(short).collect::<Vec<_>>().join("\n")
}

fn program_of(sample: &inductor::ops::Sample) -> Result<Graph, String> {
    let mut b = Builder::new("sample");
    let operands = sample.operands.iter().enumerate();
    let operands = operands.map(|(k, ty)| b.input(&format!("x{k}"), InputRole::Input, ty.clone())).collect::<Result<Vec<_>, _>>()?;
    for (k, value) in b.node(sample.op.clone(), &operands)?.into_iter().enumerate() {
        b.output(&format!("y{k}"), OutputRole::User, value);
    }
    Ok(b.finish())
}

/// Words, numbers, and everything else character by character.
fn tokens(text: &str) -> Vec<&str> {
    let kind = |c: char| {
        if c.is_ascii_digit() {
            1
        } else if c.is_alphanumeric() || c == '_' {
            2
        } else {
            0
        }
    };
    let (mut out, mut start, mut last) = (vec![], 0, 0);
    for (i, c) in text.char_indices() {
        if i > start && (kind(c) == 0 || kind(c) != last) {
            out.push(&text[start..i]);
            start = i;
        }
        last = kind(c);
    }
    out.push(&text[start..]);
    out
}

/// Text number `k`: one of the seeds with some changes, of its words, its lines or its bytes.
fn changed(seeds: &[String], k: u64) -> String {
    let mut random = Random::of(k);
    let mut text = random.pick(seeds).clone();
    for _ in 0..1 + random.below(2) {
        text = match random.below(8) {
            0 => {
                let mut bytes = text.into_bytes();
                change_bytes(&mut bytes, &mut random);
                String::from_utf8_lossy(&bytes).into_owned()
            }
            1 | 2 => change_lines(&text, seeds, &mut random),
            _ => change_word(&text, seeds, &mut random),
        };
    }
    text
}

fn change_lines(text: &str, seeds: &[String], random: &mut Random) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let (at, other) = (random.below(lines.len()), random.below(lines.len()));
    match random.below(5) {
        0 if !lines.is_empty() => drop(lines.remove(at)),
        1 if !lines.is_empty() => lines.insert(at, lines[other]),
        2 if !lines.is_empty() => lines.swap(at, other),
        3 => lines.extend(random.pick(seeds).lines().collect::<Vec<_>>()),
        _ => {
            let foreign = random.pick(seeds);
            let count = foreign.lines().count();
            lines.splice(at..at, foreign.lines().nth(random.below(count)));
        }
    }
    lines.join("\n")
}

fn change_word(text: &str, seeds: &[String], random: &mut Random) -> String {
    let words = tokens(text);
    let numbers: Vec<usize> = (0..words.len()).filter(|&i| words[i].starts_with(|c: char| c.is_ascii_digit())).collect();
    let names: Vec<usize> = (0..words.len()).filter(|&i| words[i].starts_with(|c: char| c.is_alphabetic())).collect();
    let chosen = if random.below(2) == 0 || names.is_empty() { &numbers } else { &names };
    if chosen.is_empty() {
        return text.into();
    }
    let at = *random.pick(chosen);
    let own = words[at].to_string();
    let new = match random.below(12) {
        0..=3 if own.starts_with(|c: char| c.is_ascii_digit()) => random.pick(&NUMBERS).to_string(),
        4 => (own.parse::<i64>().unwrap_or(0).wrapping_add(random.below(3) as i64 - 1)).to_string(),
        5 => "div(".repeat(1 << random.below(12)) + &own,
        6 => "a".repeat(1 << random.below(17)),
        7 => "[".repeat(1 << random.below(17)) + &own,
        8 => random.pick(&["1e308", "-1", "\"inf\"", "\"nan\"", "null", "true", "{}", "[]", "\"\\u001b[31m\\n\"", "%", "@", "//"]).to_string(),
        9 => {
            let foreign = tokens(random.pick::<String>(seeds));
            random.pick(&foreign).to_string()
        }
        _ => words[*random.pick(chosen)].to_string(),
    };
    words.iter().enumerate().map(|(i, w)| if i == at { new.as_str() } else { w }).collect()
}

#[test]
fn changed_texts_are_programs_or_errors() {
    let seeds = texts();
    fuzz::run("texts", 2000, |k, trial| {
        let text = changed(&seeds, k);
        let room = 16 * text.len() as u64 + ROOM;
        let Some(Ok(graph)) = trial.step("parsing", room, || parse(&text)) else { return false };
        if !trial.step("verifying", room, || verify(&graph)).is_some_and(|faults| faults.is_empty()) {
            return false;
        }
        programs::survive(&Traced { graph, ..Traced::default() }, room, trial);
        true
    });
}

/// A text with two of its sizes, wherever they stand, replaced by others.
fn with_sizes(text: &str, sizes: [(&str, &str); 2]) -> String {
    let words = tokens(text).into_iter();
    words.map(|word| sizes.iter().find(|(old, _)| *old == word).map_or(word, |(_, new)| new)).collect()
}

/// Every operator whose operands have no element, but more rows than anyone could visit.
#[test]
fn nothing_to_do_ends_at_once() {
    let seeds: Vec<String> = samples().iter().filter_map(|s| program_of(s).ok()).map(|g| without_results(&print(&g))).collect();
    let mut texts = BTreeSet::new();
    for seed in &seeds {
        let inputs: String = seed.lines().filter_map(|l| l.contains("= input ").then(|| l.rsplit_once(" : ")).flatten()).map(|(_, ty)| ty).collect();
        let sizes: BTreeSet<&str> = tokens(&inputs).into_iter().filter(|w| w.parse::<u64>().is_ok_and(|n| n > 1)).collect();
        for (none, many) in sizes.iter().flat_map(|a| sizes.iter().map(move |b| (a, b))).filter(|(a, b)| a != b) {
            texts.insert(with_sizes(seed, [(none, "0"), (many, "1000000000000")]));
        }
    }
    let texts: Vec<String> = texts.into_iter().collect();
    fuzz::run_each("programs without elements", texts.len() as u64, |k, trial| {
        let Ok(graph) = parse(&texts[k as usize]) else { return false };
        if !verify(&graph).is_empty() {
            return false;
        }
        programs::survive(&Traced { graph, ..Traced::default() }, ROOM, trial);
        true
    });
}

/// Nests as they are lowered, and those of tests.
fn nests() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests/loop_ir");
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("a file").path()).collect();
    files.sort();
    let text = |file: &std::path::PathBuf| std::fs::read_to_string(file).expect("text").split("// ----").next().unwrap_or_default().to_string();
    let lowered = samples().into_iter().filter_map(|s| program_of(&s).ok()).filter_map(|g| lower(&[(Phase::Forward, &g)], &Config::default()).ok());
    files.iter().map(text).chain(lowered.map(|l| loop_ir::print(&l.buffers, &l.nests))).collect()
}

#[test]
fn changed_nests_are_nests_or_errors() {
    let seeds = nests();
    fuzz::run("nests", 4000, |k, trial| {
        let text = changed(&seeds, k);
        let room = 16 * text.len() as u64 + ROOM;
        let Some(Ok((buffers, nests))) = trial.step("parsing", room, || loop_ir::parse(&text)) else { return false };
        trial.step("verifying", room, || nests.iter().flat_map(loop_ir::verify).count());
        let printed = loop_ir::print(&buffers, &nests);
        trial.step("parsing back", room, || assert_eq!(loop_ir::parse(&printed), Ok((buffers, nests)), "change {k}:\n{text}\n{printed}"));
        true
    });
}

/// A file of some tensors, as bytes.
fn file_of_tensors(folder: &Path) -> Vec<u8> {
    let path = folder.join("seed.safetensors");
    let tensors: Vec<(String, HostTensor)> = [DType::F32, DType::I64, DType::Bool, DType::BF16]
        .into_iter()
        .enumerate()
        .map(|(k, dtype)| (format!("input.{k}"), HostTensor::zeros(dtype, &[2, 3 + k][..(k + 1).min(2)])))
        .collect();
    save_tensors(&path, &tensors, Some([("step".to_string(), "3".to_string())].into())).expect("a file");
    std::fs::read(path).expect("a file")
}

fn changed_file(seed: &[u8], k: u64) -> Vec<u8> {
    let mut random = Random::of(k);
    let length = u64::from_le_bytes(seed[..8].try_into().expect("eight bytes")) as usize;
    let (mut header, mut data) = (String::from_utf8_lossy(&seed[8..8 + length]).into_owned(), seed[8 + length..].to_vec());
    let mut size = None;
    for _ in 0..1 + random.below(3) {
        match random.below(8) {
            0 => change_bytes(&mut data, &mut random),
            1 => size = Some(*random.pick(&NUMBERS) as u64),
            2 => {
                let mut bytes = header.into_bytes();
                change_bytes(&mut bytes, &mut random);
                header = String::from_utf8_lossy(&bytes).into_owned();
            }
            _ => header = change_word(&header, &["F64 F8_E4M3 F4 U16 C64 shape dtype data_offsets __metadata__".to_string()], &mut random),
        }
    }
    [&size.unwrap_or(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

#[test]
fn changed_tensor_files_are_tensors_or_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    let seed = file_of_tensors(folder.path());
    fuzz::run("tensor files", 2000, |k, trial| {
        let bytes = changed_file(&seed, k);
        let path = folder.path().join(format!("{k}.safetensors"));
        std::fs::File::create(&path).and_then(|mut f| f.write_all(&bytes)).expect("writable");
        let room = 16 * bytes.len() as u64 + (1 << 20);
        let opened = trial.step("opening", room, || TensorFile::open(&path).map(|f| f.tensors().count()).is_ok());
        let loaded = trial.step("loading", room, || load_tensors(&path).is_ok());
        std::fs::remove_file(&path).expect("it is there");
        opened == Some(true) && loaded == Some(true)
    });
}
