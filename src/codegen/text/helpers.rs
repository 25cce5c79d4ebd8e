//! The library of WGSL helper functions, `shaders/helpers.wgsl`: a module gets those it calls, with what they call.
//!
//! A function for i64 is written once, for i32, and derived by its suffix: `floor_div_l` is `floor_div_i` with i64 for i32.

use crate::types::DeviceCaps;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

static SOURCE: &str = include_str!("../../../shaders/helpers.wgsl");

/// Name to text.
static LIBRARY: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let mut out = BTreeMap::new();
    for function in functions(SOURCE) {
        let name = name_of(&function).to_string();
        if let Some(stem) = name.strip_suffix("_i") {
            let long = format!("{stem}_l");
            let text = function.replace("i32", "i64").replace("_i(", "_l(").replace("u32(", "u64(");
            out.insert(long, text);
        }
        out.insert(name, function);
    }
    // Written for i64 itself, where it differs by more than the type.
    for function in functions(SOURCE) {
        let name = name_of(&function).to_string();
        out.insert(name, function);
    }
    out
});

/// Whether there is such a function.
pub fn exists(name: &str) -> bool {
    LIBRARY.contains_key(name)
}

/// Declared by modules with opaque values: zero, set from what only the launch knows.
pub const OPAQUE_ZERO: &str = "var<private> opaque_zero: u32;";

/// The first statement of an entry point whose module calls these functions, where they need one. A launch has one layer of workgroups.
pub fn opening(used: &BTreeSet<String>) -> Option<String> {
    used.iter().any(|name| name.starts_with("opaque_")).then(|| "opaque_zero = wid.z;".to_string())
}

/// The texts of these functions and of those they call, in order of their names. With 64-bit integers a wide product is one
/// multiplication; without comparisons of them their words are compared.
pub fn texts(used: &BTreeSet<String>, caps: &DeviceCaps) -> Vec<String> {
    let mut wanted: BTreeSet<&str> = BTreeSet::new();
    let mut open: Vec<&str> = used.iter().map(String::as_str).collect();
    while let Some(name) = open.pop() {
        let Some((name, text)) = LIBRARY.get_key_value(name) else { continue };
        if wanted.insert(name) {
            let body = &text[text.find('{').unwrap_or(0)..];
            open.extend(words(body).filter(|w| LIBRARY.contains_key(*w)));
        }
    }
    let text = |name: &str| match name {
        "mul_wide_" if caps.i64 => LIBRARY["mul_wide_native_"].replace("mul_wide_native_", "mul_wide_"),
        "less_l" if !caps.i64_comparisons => LIBRARY["less_words_l"].replace("less_words_l", "less_l"),
        _ => LIBRARY[name].clone(),
    };
    wanted.into_iter().map(text).collect()
}

/// Functions begin with `fn` and end with `}` at the start of a line; comments above them stay out of modules.
fn functions(source: &str) -> Vec<String> {
    let mut out = vec![];
    let mut lines: Option<Vec<&str>> = None;
    for line in source.lines() {
        if line.starts_with("fn ") {
            lines = Some(vec![]);
        }
        if let Some(open) = &mut lines {
            open.push(line.split("//").next().unwrap_or("").trim_end());
            if line == "}" || (line.starts_with("fn ") && line.ends_with('}')) {
                out.push(open.join("\n"));
                lines = None;
            }
        }
    }
    out
}

fn name_of(function: &str) -> &str {
    function[3..].split('(').next().unwrap_or("")
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty())
}
