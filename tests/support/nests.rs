//! Nests as text.
#![allow(dead_code)]

use inductor::loop_ir::{Buffer, Nest, parse, print};
use inductor::types::Provenance;

/// Nests and their buffers are what their text says, all but where they came from.
pub fn parse_back(buffers: &[Buffer], nests: &[Nest]) -> Result<(), String> {
    let text = print(buffers, nests);
    let (read, parsed) = parse(&text).map_err(|e| format!("{e}\n{text}"))?;
    if read != buffers || parsed.len() != nests.len() {
        return Err(format!("parses back to other buffers or to {} nests of {}\n{text}", parsed.len(), nests.len()));
    }
    let plain = |n: &Nest| Nest { provenance: Provenance::default(), ..n.clone() };
    match nests.iter().zip(&parsed).find(|(nest, parsed)| plain(nest) != **parsed) {
        Some((nest, parsed)) => Err(format!("parses back to another nest\n{nest}\n{parsed}")),
        None => Ok(()),
    }
}
