//! Archives of `torch.export` are untrusted: whatever is changed in one, importing it gives a program or an error.
#![cfg(feature = "torch")]

use inductor::torch_export::load_bytes;
use proptest::prelude::*;
use std::path::Path;

/// Changes of each archive; the environment of a long run asks for more.
fn mutations() -> u32 {
    std::env::var("INDUCTOR_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(2000)
}

/// The vendored archives.
fn archives() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/ops");
    let mut out = vec![];
    for op in std::fs::read_dir(folder).expect("cases are vendored").flatten() {
        for case in std::fs::read_dir(op.path()).expect("a folder of cases").flatten() {
            out.push(std::fs::read(case.path().join("model.pt2")).expect("a case has a program"));
        }
    }
    assert!(!out.is_empty());
    out
}

/// Bytes overwritten, removed, doubled or cut off.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Cut(prop::sample::Index),
    Digits(prop::sample::Index, u64),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => (any::<prop::sample::Index>(), 1..64usize).prop_map(|(at, n)| Change::Remove(at, n)),
        1 => (any::<prop::sample::Index>(), 1..64usize).prop_map(|(at, n)| Change::Repeat(at, n)),
        1 => any::<prop::sample::Index>().prop_map(Change::Cut),
        3 => (any::<prop::sample::Index>(), any::<u64>()).prop_map(|(at, n)| Change::Digits(at, n)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    match change {
        Change::Set(at, byte) => *at.get_mut(bytes) = *byte,
        Change::Remove(at, n) => {
            let from = at.index(bytes.len());
            bytes.drain(from..(from + n).min(bytes.len()));
        }
        Change::Repeat(at, n) => {
            let from = at.index(bytes.len());
            let part = bytes[from..(from + n).min(bytes.len())].to_vec();
            bytes.splice(from..from, part);
        }
        Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
        // Another number where one stands, as wide as the text allows: sizes, offsets, dimensions, dtypes.
        Change::Digits(at, n) => {
            let from = at.index(bytes.len());
            let Some(first) = (from..bytes.len()).find(|&i| bytes[i].is_ascii_digit()) else { return };
            let length = bytes[first..].iter().take_while(|b| b.is_ascii_digit()).count();
            for (k, digit) in n.to_string().bytes().cycle().take(length).enumerate() {
                bytes[first + k] = digit;
            }
        }
    }
}

#[test]
fn changed_archives_are_programs_or_errors() {
    let archives = archives();
    let cases = mutations();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    let input = (any::<prop::sample::Index>(), prop::collection::vec(change(), 1..4));
    runner
        .run(&input, |(which, changes)| {
            let mut bytes = which.get(&archives).clone();
            changes.iter().for_each(|c| apply(&mut bytes, c));
            // An error is fine; a panic fails the test.
            let _ = load_bytes(bytes);
            Ok(())
        })
        .expect("no change makes the importer panic");
}
