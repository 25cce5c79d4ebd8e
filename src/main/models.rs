//! Models by name or file.

use anyhow::{Context, Result, bail};
use inductor::Traced;
use inductor::models::{GptConfig, gpt, mnist_mlp};
use std::path::Path;

/// A named model, or graph text from a file. Parameters of graph text start at zero.
pub fn load(name: &str) -> Result<Traced> {
    if let Some(traced) = named(name)? {
        return Ok(traced);
    }
    let path = Path::new(name);
    match path.extension().and_then(|e| e.to_str()) {
        Some("ir") => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
            let graph = inductor::graph::parse(&text).with_context(|| name.to_string())?;
            Ok(Traced { graph, initializers: vec![] })
        }
        _ => bail!("{name} is no model: give graph text (.ir), or one of mlp, small, nanogpt, gpt2"),
    }
}

/// The training graph of a measured model.
pub fn named(name: &str) -> Result<Option<Traced>> {
    Ok(Some(match name {
        "mlp" => mnist_mlp()?,
        "small" => gpt(&GptConfig::small(65))?,
        "nanogpt" => gpt(&GptConfig::nanogpt())?,
        "gpt2" => gpt(&GptConfig::gpt2())?,
        _ => return Ok(None),
    }))
}
