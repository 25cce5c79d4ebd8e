//! Archives of `torch.export` are untrusted: whatever is changed in one, importing it gives a program or an error, in memory that
//! the file's size warrants. One test for each known trick is in `hostile.rs`.
//!
//! `INDUCTOR_ARCHIVES` names a folder with more archives; `support/fuzz.rs` tells of other variables.
#![cfg(feature = "torch")]

#[path = "support/archive.rs"]
mod archive;
#[path = "support/fuzz.rs"]
mod fuzz;
#[path = "support/memory.rs"]
mod memory;
#[path = "support/programs.rs"]
mod programs;

use archive::{Files, MODEL};
use fuzz::{NUMBERS, Random, change_bytes, number};
use inductor::torch_export::load_bytes;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// Importing takes at most twice the file and this.
const ROOM: u64 = 64 << 20;
/// Every so many imported programs, one is compiled.
const COMPILED: u64 = 16;

/// An archive with what changes need to know.
struct Seed {
    bytes: Vec<u8>,
    files: Files,
    /// Files of JSON.
    trees: Vec<(String, Value)>,
    /// Paths to each value of each tree.
    paths: Vec<(usize, String)>,
    /// All texts: names, operators, sizes.
    texts: Vec<String>,
}

impl Seed {
    fn new(path: &Path) -> Seed {
        let bytes = std::fs::read(path).expect("an archive");
        let mut files = Files::read(&bytes);
        let mut trees = vec![];
        for name in [MODEL, "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"] {
            if let Some((_, text)) = files.0.iter().find(|(n, _)| n == name) {
                let mut tree: Value = serde_json::from_slice(text).expect("JSON");
                prune(&mut tree);
                trees.push((name.to_string(), tree));
            }
        }
        for (name, tree) in &trees {
            files.set(name, serde_json::to_vec(tree).expect("text"));
        }
        let (mut paths, mut texts) = (vec![], vec![]);
        for (k, (_, tree)) in trees.iter().enumerate() {
            collect(tree, String::new(), &mut |path, value| {
                paths.push((k, path));
                if let Value::String(text) = value {
                    texts.push(text.clone());
                }
            });
        }
        texts.dedup();
        Seed { bytes, files, trees, paths, texts }
    }
}

/// Takes out what the importer passes over, so that changes hit what it reads.
fn prune(tree: &mut Value) {
    if let Some(map) = tree.as_object_mut() {
        for key in ["module_call_graph", "metadata", "device", "layout", "requires_grad", "kind", "guards_code", "verifiers"] {
            map.remove(key);
        }
        map.values_mut().for_each(prune);
    } else if let Some(list) = tree.as_array_mut() {
        list.iter_mut().for_each(prune);
    }
}

fn collect(value: &Value, path: String, found: &mut dyn FnMut(String, &Value)) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, v)| collect(v, format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), found)),
        Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| collect(v, format!("{path}/{i}"), found)),
        _ => {}
    }
    found(path, value);
}

/// The vendored archives, and those of the environment.
fn seeds() -> Vec<Seed> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/ops")];
    folders.extend(std::env::var_os("INDUCTOR_ARCHIVES").map(PathBuf::from));
    let mut paths = vec![];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if path.extension().is_some_and(|e| e == "pt2") => paths.push(path),
                _ => {}
            }
        }
    }
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().map(|p| Seed::new(p)).collect()
}

/// Archive number `k`: one of the seeds with some changes, of its bytes or of the structure of its files.
fn changed(seeds: &[Seed], k: u64) -> Vec<u8> {
    let mut random = Random::of(k);
    let seed = &seeds[random.below(seeds.len())];
    let times = 1 + random.below(3);
    if random.below(4) == 0 {
        let mut bytes = if random.below(2) == 0 { seed.bytes.clone() } else { seed.files.zip() };
        (0..times).for_each(|_| change_bytes(&mut bytes, &mut random));
        return bytes;
    }
    let mut trees: Vec<Value> = seed.trees.iter().map(|(_, tree)| tree.clone()).collect();
    for _ in 0..times {
        let (tree, path) = random.pick(&seed.paths);
        let other = random.pick(&seed.paths).1.clone();
        let part = trees[*tree].pointer(&other).cloned();
        if let Some(value) = trees[*tree].pointer_mut(path) {
            change_value(value, part, seeds, seed, &mut random);
        }
    }
    let mut files = seed.files.clone();
    for ((name, _), tree) in seed.trees.iter().zip(&trees) {
        files.set(name, serde_json::to_vec(tree).expect("text"));
    }
    files.zip()
}

fn change_value(value: &mut Value, part: Option<Value>, seeds: &[Seed], seed: &Seed, random: &mut Random) {
    if random.below(12) == 0 {
        *value = match random.below(7) {
            0 => Value::Null,
            1 => json!({}),
            2 => json!([]),
            3 => json!(1e300),
            4 => (0..1 + random.below(200)).fold(json!(1), |inner, _| json!([inner])),
            _ => part.unwrap_or(Value::Null),
        };
        return;
    }
    match value {
        Value::Number(n) => {
            let near = n.as_i64().unwrap_or(0).wrapping_add(random.below(5) as i64 - 2);
            *value = if random.below(3) == 0 { json!(near) } else { json!(random.pick(&NUMBERS)) };
        }
        Value::Bool(flag) => *flag = !*flag,
        Value::String(text) => {
            *text = match random.below(8) {
                0 => String::new(),
                1 => "Mul(".repeat(random.below(200)) + "Symbol('s0', integer=True)" + &", Integer(9223372036854775807))".repeat(random.below(200)),
                2 => format!("Integer({})", random.pick(&NUMBERS)),
                3 => match random.below(4) {
                    0 => "n".repeat(1 << random.below(17)),
                    1 => "a\u{1b}[31m\n\0\u{202e}\u{9b}//".into(),
                    _ => "../".repeat(3) + text,
                },
                // An operator of another program, with this one's arguments.
                4 => {
                    let other = random.pick(seeds);
                    random.pick(&other.texts).clone()
                }
                _ => random.pick(&seed.texts).clone(),
            };
        }
        Value::Array(list) => change_list(list, part, random),
        Value::Object(map) => {
            let keys: Vec<String> = map.keys().cloned().collect();
            let Some(key) = keys.get(random.below(keys.len())).cloned() else { return };
            let removed = map.remove(&key);
            if random.below(3) > 0 {
                const KINDS: [&str; 12] = [
                    "as_int",
                    "as_ints",
                    "as_none",
                    "as_tensor",
                    "as_tensors",
                    "as_float",
                    "as_bool",
                    "as_sym_int",
                    "as_expr",
                    "as_string",
                    "as_name",
                    "buffer",
                ];
                map.insert(random.pick(&KINDS).to_string(), removed.unwrap_or(Value::Null));
            }
        }
        Value::Null => *value = part.unwrap_or(json!(0)),
    }
}

fn change_list(list: &mut Vec<Value>, part: Option<Value>, random: &mut Random) {
    let at = random.below(list.len());
    match random.below(7) {
        0 if !list.is_empty() => drop(list.remove(at)),
        1 if !list.is_empty() => list.insert(at, list[at].clone()),
        2 if !list.is_empty() => list.extend(vec![list[at].clone(); 1 + random.below(100)]),
        3 => list.reverse(),
        4 => list.clear(),
        5 if list.len() > 1 => list.swap(at, 0),
        _ => list.extend(part),
    }
}

#[test]
fn changed_archives_are_programs_or_errors() {
    let seeds = seeds();
    fuzz::run("archives", 2000, |k, trial| {
        let bytes = changed(&seeds, k);
        // The bytes themselves are in memory here, which a file is not.
        let room = 2 * bytes.len() as u64 + ROOM;
        let Some(Ok(imported)) = trial.step("importing", room, || load_bytes(bytes)) else { return false };
        if k.is_multiple_of(number("INDUCTOR_COMPILED", COMPILED)) {
            programs::survive(&imported.traced, room, trial);
        }
        true
    });
}
