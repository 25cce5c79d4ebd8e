//! The rules of the house that a machine can check: direction of dependencies, file length, room docs, what code must not
//! contain.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Rooms from the bottom up; a room uses rooms of its own line and of the lines above it in this list.
const ORDER: &[&[&str]] = &[
    &["types", "config", "error", "files", "threads"],
    &["scalar"],
    &["loop_ir"],
    &["forms"],
    &["fusion"],
    &["graph", "ops"],
    &["eval"],
    &["rewrite", "frontend", "passes", "autograd", "update"],
    &["lower"],
    &["partition"],
    &["schedule"],
    &["codegen"],
    &["platform"],
    &["compile"],
    &["interp"],
    &["runtime"],
    &["report", "train"],
    &["cli", "lib"],
];

const MAX_LINES: usize = 1000;

struct Source {
    /// Relative to the package.
    path: String,
    room: String,
    text: String,
    /// Lines of code without unit tests and comments, with their numbers.
    code: Vec<(usize, String)>,
}

fn files(dir: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() { files(&path, into) } else { into.push(path) }
    }
    into.sort();
}

fn package() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut paths = vec![];
    files(&package().join("src"), &mut paths);
    paths.retain(|p| p.extension().is_some_and(|e| e == "rs"));
    paths.into_iter().map(|p| source(&p)).collect()
}

fn source(path: &Path) -> Source {
    let text = std::fs::read_to_string(path).expect("readable source");
    let inside = path.strip_prefix(package().join("src")).expect("below src");
    let room = inside.components().next().expect("a file").as_os_str().to_string_lossy().trim_end_matches(".rs").to_string();
    let before_tests = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let is_test_file = path.file_stem().is_some_and(|s| s == "tests");
    let lines = if is_test_file { "" } else { &text[..before_tests] };
    let code = lines.lines().enumerate().map(|(i, l)| (i + 1, without_comment(l).to_string())).filter(|(_, l)| !l.trim().is_empty()).collect();
    Source { path: format!("src/{}", inside.display()), room, text: text.clone(), code }
}

fn without_comment(line: &str) -> &str {
    match line.find("//") {
        Some(at) if !line[..at].contains('"') => &line[..at],
        _ => line,
    }
}

/// Rooms named by `crate::room` and `crate::{room::..., room::...}`.
fn rooms_used(code: &[(usize, String)]) -> Vec<(usize, String)> {
    let joined: Vec<(usize, char)> = code.iter().flat_map(|(n, l)| l.chars().chain(['\n']).map(|c| (*n, c))).collect();
    let text: String = joined.iter().map(|(_, c)| *c).collect();
    let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut used = vec![];
    for (at, found) in text.match_indices("crate::") {
        let line = joined[text[..at].chars().count()].0;
        let rest = &text[at + found.len()..];
        if !rest.starts_with('{') {
            used.push((line, word(rest)));
            continue;
        }
        let (mut depth, mut start) = (0, true);
        for (i, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => start = true,
                c if c.is_whitespace() => {}
                _ if depth == 1 && start => {
                    used.push((line, word(&rest[i..])));
                    start = false;
                }
                _ => {}
            }
            start |= c == '{' && depth == 1;
            if depth == 0 {
                break;
            }
        }
    }
    used
}

fn level(room: &str) -> Option<usize> {
    ORDER.iter().position(|rooms| rooms.contains(&room))
}

fn report(faults: Vec<String>) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn dependencies_point_one_way() {
    let mut faults = vec![];
    for s in sources().iter().filter(|s| s.room != "cli" && s.room != "lib") {
        let Some(own) = level(&s.room) else {
            faults.push(format!("{}: room {} is not in the list", s.path, s.room));
            continue;
        };
        for (line, used) in rooms_used(&s.code) {
            if level(&used).is_some_and(|other| other > own) {
                faults.push(format!("{}:{line}: {} uses {used}, which comes after it", s.path, s.room));
            }
            if matches!(&s.room[..], "schedule" | "codegen" | "interp") && used == "ops" {
                faults.push(format!("{}:{line}: from schedule on only verification sees operators", s.path));
            }
        }
    }
    report(faults);
}

/// Rooms whose files must not import one another in circles.
const LAYERED: [&str; 5] = ["loop_ir", "forms", "fusion", "schedule", "codegen"];

/// The module of a file, as a path from the crate's root.
fn module(path: &str) -> Vec<String> {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    inside.split('/').map(String::from).collect()
}

/// What a path with braces names: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn named(text: &str) -> Vec<Vec<String>> {
    let word: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let Some(rest) = text[word.len()..].strip_prefix("::") else { return vec![vec![word]] };
    let mut tails = vec![];
    match rest.strip_prefix('{') {
        None => tails = named(rest),
        Some(list) => {
            let (mut depth, mut start) = (0, 0);
            for (i, c) in list.char_indices() {
                depth += (c == '{') as i32 - (c == '}') as i32;
                if (c == ',' && depth == 0) || depth < 0 {
                    tails.extend(named(list[start..i].trim()));
                    start = i + 1;
                }
                if depth < 0 {
                    break;
                }
            }
        }
    }
    tails.into_iter().map(|tail| [vec![word.clone()], tail].concat()).collect()
}

/// Files of its own room that a file imports from. A folder's `mod.rs` only lists the others, and counts for none.
fn imports(s: &Source, modules: &BTreeMap<Vec<String>, String>) -> BTreeSet<String> {
    let text: String = s.code.iter().map(|(_, l)| format!("{l}\n")).collect();
    let own = module(&s.path);
    let mut out = BTreeSet::new();
    let mut add = |path: Vec<String>| {
        let known = (1..=path.len()).rev().find_map(|n| modules.get(&path[..n]));
        out.extend(known.filter(|p| **p != s.path && !p.ends_with("/mod.rs")).cloned());
    };
    for (at, _) in text.match_indices("super::").filter(|(at, _)| !text[..*at].ends_with("super::")) {
        let ups = text[at..].split("super::").take_while(|part| part.is_empty()).count();
        let above = own[..own.len().saturating_sub(ups)].to_vec();
        named(&text[at + "super::".len() * ups..]).into_iter().for_each(|tail| add([above.clone(), tail].concat()));
    }
    for (at, found) in text.match_indices("crate::") {
        named(&text[at + found.len()..]).into_iter().for_each(&mut add);
    }
    for (at, found) in text.match_indices("\nuse ") {
        named(&text[at + found.len()..]).into_iter().for_each(|tail| add([own.clone(), tail].concat()));
    }
    out
}

#[test]
fn files_of_a_room_import_one_way() {
    let all = sources();
    let mut faults = vec![];
    for room in LAYERED {
        let files: Vec<&Source> = all.iter().filter(|s| s.room == room).collect();
        let modules: BTreeMap<Vec<String>, String> = files.iter().map(|s| (module(&s.path), s.path.clone())).collect();
        let mut left: BTreeMap<String, BTreeSet<String>> = files.iter().map(|s| (s.path.clone(), imports(s, &modules))).collect();
        // What imports nothing that is left is in no circle.
        while let Some(free) = left.iter().find(|(_, uses)| uses.is_empty()).map(|(path, _)| path.clone()) {
            left.remove(&free);
            left.values_mut().for_each(|uses| {
                uses.remove(&free);
            });
        }
        faults.extend(left.into_iter().map(|(path, uses)| format!("{path}: in a circle or behind one, by {uses:?}")));
    }
    report(faults);
}

#[test]
fn imports_are_found_in_every_spelling() {
    let paths = ["src/codegen/mod.rs", "src/codegen/a.rs", "src/codegen/text/mod.rs", "src/codegen/text/b.rs", "src/codegen/text/b/c.rs"];
    let modules: BTreeMap<Vec<String>, String> = paths.iter().map(|p| (module(p), p.to_string())).collect();
    let of = |path: &str, line: &str| {
        let code = vec![(1, String::new()), (2, line.to_string())];
        let s = Source { path: path.into(), room: "codegen".into(), text: String::new(), code };
        imports(&s, &modules).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(of("src/codegen/a.rs", "use super::text::{self, b::{X, c::Y}};"), ["src/codegen/text/b.rs", "src/codegen/text/b/c.rs"]);
    assert_eq!(of("src/codegen/text/b/c.rs", "let x = super::super::super::a::f();"), ["src/codegen/a.rs"]);
    assert_eq!(of("src/codegen/text/b.rs", "use c::Z;"), ["src/codegen/text/b/c.rs"]);
    assert_eq!(of("src/codegen/text/b.rs", "use crate::codegen::{a, plan::Plan};"), ["src/codegen/a.rs"]);
}

#[test]
fn only_the_runtime_names_wgpu() {
    let named = |s: &Source| s.code.iter().filter(|(_, l)| l.contains("wgpu::")).map(|(n, _)| format!("{}:{n}", s.path)).collect::<Vec<_>>();
    report(sources().iter().filter(|s| s.room != "runtime").flat_map(named).collect());
}

#[test]
fn files_are_short() {
    let too_long = |s: &Source| {
        let before_tests = s.text.find("#[cfg(test)]\nmod tests {").unwrap_or(s.text.len());
        let lines = s.text[..before_tests].lines().count();
        (lines > MAX_LINES).then(|| format!("{}: {lines} lines", s.path))
    };
    report(sources().iter().filter_map(too_long).collect());
}

#[test]
fn rooms_say_what_comes_in_and_goes_out() {
    let mut faults = vec![];
    for s in sources().iter().filter(|s| s.path.ends_with("/mod.rs") && s.path.matches('/').count() == 2) {
        let docs: String = s.text.lines().take_while(|l| l.starts_with("//!")).collect::<Vec<_>>().join("\n").to_lowercase();
        for part in ["comes in", "goes out", "invariant", "must not know", "add here"] {
            if !docs.contains(part) {
                faults.push(format!("{}: the docs do not say \"{part}\"", s.path));
            }
        }
    }
    report(faults);
}

#[test]
fn code_does_not_contain_what_it_must_not() {
    let mut faults = vec![];
    let mut mapping = vec![];
    for s in sources() {
        let prints = !matches!(&s.room[..], "cli");
        let environment = !matches!(&s.room[..], "config" | "cli");
        mapping.extend((s.room == "types" && s.text.contains("memmap2")).then(|| s.path.clone()));
        // The interpreter's one file of raw slot access and the products' foreign interface argues each use; see its docs.
        let products = s.path == "src/interp/raw.rs";
        let allocator = s.path == "src/cli/allocator.rs";
        let may_be_unsafe = s.room == "runtime" || products || allocator || mapping.first() == Some(&s.path);
        for (n, l) in &s.code {
            let mut forbid = |bad: bool, what: &str| {
                if bad {
                    faults.push(format!("{}:{n}: {what}: {}", s.path, l.trim()));
                }
            };
            let has = |names: &[&str]| names.iter().any(|w| l.contains(w));
            forbid(prints && has(&["println!(", "print!(", "eprintln!(", "eprint!("]), "the library does not print");
            forbid(environment && has(&["env::var", "env::set_var"]), "only config reads the environment");
            forbid(
                !may_be_unsafe && has(&["unsafe {", "unsafe fn", "unsafe impl"]),
                "unsafe is for the runtime, the interpreter's raw slots, the file mapping of types and the program's allocator",
            );
            forbid(has(&["todo!(", "dbg!(", "unimplemented!("]), "unfinished code");
            forbid(
                s.path != "src/codegen/text/emit.rs" && has(&["workgroupBarrier(", "storageBarrier("]),
                "barriers are written by `Emitter::barrier`",
            );
            let hides_error = l.contains(".ok()") && !l.contains("parse");
            forbid(s.room == "codegen" && (l.contains("fn choose") || hides_error), "schedule chooses, and no error becomes another kernel");
            forbid(s.room != "lib" && l.trim_start().starts_with("pub use crate::"), "re-exports are for lib.rs");
        }
    }
    if mapping.len() > 1 {
        faults.push(format!("types maps files in {mapping:?}, which is more than one file"));
    }
    report(faults);
}

#[test]
fn no_file_names_a_machine() {
    let mut paths = vec![];
    for dir in ["src", "tests", "examples", "benches", "shaders", ".ci"] {
        files(&package().join(dir), &mut paths);
    }
    for file in ["Cargo.toml", "Makefile", "README.md", "NOTES.md", "CHANGELOG.md"] {
        paths.push(package().join(file));
    }
    let machine: Vec<String> = ["work", "root", "home", "Users"].iter().map(|dir| format!("/{dir}/")).collect();
    let mut faults = vec![];
    for path in paths {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for (i, line) in text.lines().enumerate() {
            let is_path = |m: &String| line.match_indices(m.as_str()).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '.'));
            if machine.iter().any(is_path) {
                faults.push(format!("{}:{}: {}", path.display(), i + 1, line.trim()));
            }
        }
    }
    report(faults);
}

#[test]
fn uses_are_found_in_every_spelling() {
    let lines = ["use crate::graph::{Builder, crate_::x};", "use crate::{ops::{self, Op}, types::DType,", "  eval};", "let x = crate::fusion::f();"];
    let code: Vec<(usize, String)> = lines.iter().enumerate().map(|(i, l)| (i + 1, l.to_string())).collect();
    let expected = [(1, "graph"), (2, "ops"), (2, "types"), (2, "eval"), (4, "fusion")];
    assert_eq!(rooms_used(&code), expected.map(|(n, r)| (n, r.to_string())));
}
