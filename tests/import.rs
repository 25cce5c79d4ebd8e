//! Archives of `torch.export` are untrusted: whatever is changed in one, importing it gives a program or an error, in memory that
//! the file's size warrants. One test for each known trick is in `hostile.rs`.
//!
//! `INDUCTOR_MUTATIONS` asks for more changes than a daily run has, `INDUCTOR_ARCHIVES` names a folder with more archives,
//! `INDUCTOR_FIRST_MUTATION` starts elsewhere: change number `k` is the same in every run.
#![cfg(feature = "torch")]

#[path = "support/archive.rs"]
mod archive;
#[path = "support/memory.rs"]
mod memory;

use archive::{Files, MODEL};
use inductor::Config;
use inductor::compile::inductor;
use inductor::config::Target;
use inductor::torch_export::load_bytes;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// Importing takes at most twice the file and this.
const ROOM: u64 = 64 << 20;
/// Every so many imported programs, one is compiled.
const COMPILED: u64 = 16;
/// Longer than this is a hang.
const PATIENCE: Duration = Duration::from_secs(30);

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

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

/// Random numbers of one change.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// Archive number `k`: one of the seeds with some changes, of its bytes or of the structure of its files.
fn changed(seeds: &[Seed], k: u64) -> Vec<u8> {
    let mut random = Random(k.wrapping_mul(0xD1B5_4A32_D192_ED03));
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

/// Bytes overwritten, removed, doubled or cut off; another number where one stands.
fn change_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    let at = random.below(bytes.len());
    let end = (at + 1 + random.below(64)).min(bytes.len());
    match random.below(10) {
        0..=3 => bytes[at] = random.next() as u8,
        4 => drop(bytes.drain(at..end)),
        5 => {
            let part = bytes[at..end].to_vec();
            drop(bytes.splice(at..at, part));
        }
        6 => bytes.truncate(at),
        _ => {
            let digits = random.next().to_string();
            let first = (at..bytes.len()).find(|&i| bytes[i].is_ascii_digit()).unwrap_or(bytes.len());
            let found = bytes[first..].iter_mut().take_while(|b| b.is_ascii_digit());
            found.zip(digits.bytes().cycle()).for_each(|(byte, digit)| *byte = digit);
        }
    }
}

const NUMBERS: [i64; 22] = [
    0,
    1,
    2,
    3,
    7,
    13,
    28,
    -1,
    -2,
    64,
    65,
    1 << 16,
    1 << 20,
    i32::MAX as i64,
    1 << 31,
    1 << 32,
    1_000_000_000_000,
    1_000_000_000_000_000,
    1 << 62,
    i64::MAX,
    i64::MIN,
    -1_000_000_000_000,
];

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
                3 => "../".repeat(3) + text,
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

thread_local! {
    /// Where this thread panicked last.
    static PANICKED: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What went wrong, with the number of the first change that did it, and how often.
type Faults = Mutex<BTreeMap<String, (u64, u64)>>;

/// Imports and now and then compiles; gives whether it was a program.
fn survive(bytes: Vec<u8>, k: u64, faults: &Faults, worst: &AtomicU64) -> bool {
    let blame = |what: String| {
        let mut faults = faults.lock().expect("no panic here");
        faults.entry(what).or_insert((k, 0)).1 += 1;
    };
    memory::TASK.set(k);
    let (len, started) = (bytes.len() as u64, Instant::now());
    let (result, peak) = memory::peak_of(|| catch_unwind(AssertUnwindSafe(|| load_bytes(bytes))));
    // The bytes themselves are in memory here, which a file is not.
    worst.fetch_max(peak, Ordering::Relaxed);
    if peak > 2 * len + ROOM {
        blame(format!("importing takes {} MiB", peak >> 20));
    }
    if started.elapsed() > PATIENCE {
        blame("importing does not end".into());
    }
    // A panic that the importer turned into an error counts as one.
    let panicked = PANICKED.take();
    if !panicked.is_empty() {
        blame(format!("import panicked at {panicked}"));
    }
    let Ok(Ok(imported)) = result else { return false };
    if k.is_multiple_of(COMPILED) {
        let started = Instant::now();
        let graph = &imported.traced.graph;
        let examples: Vec<_> = graph.inputs.iter().map(|i| graph.ty(i.value).clone()).collect();
        let (result, peak) =
            memory::peak_of(|| catch_unwind(AssertUnwindSafe(|| inductor(graph, &examples, &Target::cpu(), &Config::default()).is_ok())));
        if result.is_err() {
            blame(format!("compile panicked at {}", PANICKED.take()));
        } else if peak > 2 * len + ROOM {
            blame(format!("compiling takes {} MiB", peak >> 20));
        } else if started.elapsed() > PATIENCE {
            blame("compiling does not end".into());
        }
    }
    true
}

/// Ends the process when a thread stays at one change for too long: a hang has no other end.
fn watch(running: &AtomicU64, slots: &[AtomicU64]) {
    let mut since: Vec<(u64, Instant)> = slots.iter().map(|_| (u64::MAX, Instant::now())).collect();
    while running.load(Ordering::Relaxed) > 0 {
        std::thread::sleep(Duration::from_millis(100));
        for (slot, at) in slots.iter().zip(&mut since) {
            let k = slot.load(Ordering::Relaxed);
            if at.0 != k {
                *at = (k, Instant::now());
            } else if at.1.elapsed() > 2 * PATIENCE {
                let _ = writeln!(std::io::stderr(), "change {k} does not end");
                std::process::abort();
            }
        }
    }
}

#[test]
fn changed_archives_are_programs_or_errors() {
    let (seeds, first, count) = (seeds(), number("INDUCTOR_FIRST_MUTATION", 0), number("INDUCTOR_MUTATIONS", 2000));
    std::panic::set_hook(Box::new(|info| {
        let at = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        let text = info.payload_as_str().unwrap_or_default().lines().next().unwrap_or_default().to_string();
        PANICKED.set(format!("{at}: {}", text.chars().take(160).collect::<String>()));
    }));
    let (faults, worst, programs, next) = (Faults::default(), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(first));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let (running, slots): (AtomicU64, Vec<AtomicU64>) = (AtomicU64::new(threads as u64), (0..threads).map(|_| AtomicU64::new(0)).collect());
    std::thread::scope(|scope| {
        scope.spawn(|| watch(&running, &slots));
        for slot in &slots {
            let (seeds, faults, worst, programs, next, running) = (&seeds, &faults, &worst, &programs, &next, &running);
            scope.spawn(move || {
                loop {
                    let k = next.fetch_add(1, Ordering::Relaxed);
                    slot.store(k, Ordering::Relaxed);
                    if k >= first + count {
                        running.fetch_sub(1, Ordering::Relaxed);
                        break;
                    }
                    programs.fetch_add(survive(changed(seeds, k), k, faults, worst) as u64, Ordering::Relaxed);
                    if (k + 1) % 100_000 == 0 {
                        eprintln!("{} changes, {} kinds of fault", k + 1, faults.lock().expect("no panic here").len());
                    }
                }
            });
        }
    });
    drop(std::panic::take_hook());
    let (programs, worst) = (programs.into_inner(), worst.into_inner());
    println!("{count} changes of {} archives: {programs} are programs, the others errors; at most {} KiB beside the file", seeds.len(), worst >> 10);
    let faults = faults.into_inner().expect("no panic here");
    let list: Vec<String> = faults.iter().map(|(what, (k, n))| format!("{n} times, first change {k}: {what}")).collect();
    assert!(list.is_empty(), "\n{}", list.join("\n"));
    assert!(programs * 20 > count, "changes must reach the converter, and only {programs} of {count} gave a program");
}
