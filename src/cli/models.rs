//! Models by name or file.

use anyhow::{Context, Result, bail};
use inductor::graph::{Builder, Graph, ValueMap, verify};
use inductor::models::{GptConfig, gpt, gpt_sized, mnist_mlp};
use inductor::{Dim, HostTensor, Traced};
use std::path::Path;

/// A program with the tensors that its file holds.
pub struct Model {
    /// The program.
    pub traced: Traced,
    /// Parameters and buffers by name; those not here start as the program says.
    pub tensors: Vec<(String, HostTensor)>,
}

/// A named model, graph text, or a program of `torch.export` from a file. Parameters of graph text start at zero.
pub fn load(name: &str) -> Result<Model> {
    let plain = |traced| Model { traced, tensors: vec![] };
    if let Some(traced) = named(name)? {
        return Ok(plain(traced));
    }
    let path = Path::new(name);
    match path.extension().and_then(|e| e.to_str()) {
        Some("ir") => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
            let graph = graph_of(&text).with_context(|| name.to_string())?;
            Ok(plain(Traced { graph, ..Traced::default() }))
        }
        #[cfg(feature = "torch")]
        Some("pt2") => {
            let imported = inductor::torch_export::load(path)?;
            Ok(Model { traced: imported.traced, tensors: imported.tensors })
        }
        _ => bail!("{name} is no model: give graph text (.ir), a program of torch.export (.pt2), or one of mlp, small, nanogpt, gpt2"),
    }
}

/// The graph of a text, sound and without equal nodes, which other front ends never make.
fn graph_of(text: &str) -> Result<Graph> {
    let written = inductor::graph::parse(text)?;
    let mut b = Builder::new(&written.name);
    let mut map = ValueMap::default();
    b.copy_inputs(&written, &mut map).map_err(anyhow::Error::msg)?;
    for id in written.ids() {
        b.copy_node(&written, id, &mut map).map_err(anyhow::Error::msg)?;
    }
    for output in &written.outputs {
        b.output(&output.name, output.role.clone(), map[&output.value]);
    }
    let graph = b.finish();
    let faults = verify(&graph);
    if !faults.is_empty() {
        bail!("the graph is not sound: {}", faults.join("; "));
    }
    Ok(graph)
}

/// The configuration of a measured GPT.
fn gpt_config(name: &str) -> Option<GptConfig> {
    match name {
        "small" => Some(GptConfig::small(65)),
        "nanogpt" => Some(GptConfig::nanogpt()),
        "gpt2" => Some(GptConfig::gpt2()),
        _ => None,
    }
}

/// The training graph of a measured model.
pub fn named(name: &str) -> Result<Option<Traced>> {
    Ok(match gpt_config(name) {
        Some(config) => Some(gpt(&config)?),
        None if name == "mlp" => Some(mnist_mlp()?),
        None => None,
    })
}

/// The training graph of a measured GPT for batches and sequences of any size up to its own, and these sizes.
pub fn symbolic(name: &str) -> Result<(Traced, Vec<(Dim, i64)>)> {
    let config = gpt_config(name).with_context(|| format!("{name} has no symbolic sizes: give one of small, nanogpt, gpt2"))?;
    let sizes = [("batch", config.batch), ("time", config.context)].map(|(name, most)| (Dim::symbol(name, 1, most as i64), most as i64));
    let traced = gpt_sized(&config, sizes[0].0.clone(), sizes[1].0.clone())?;
    Ok((traced, sizes.to_vec()))
}
