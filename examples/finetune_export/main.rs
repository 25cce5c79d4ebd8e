//! Trains a program that `torch.export.save` wrote, and writes the weights back for PyTorch.
//!
//! The program must compute its loss: export the model in training mode, with a `forward` that returns the loss. Data come as
//! safetensors files with one tensor for each input of `forward`, under its name or as `input.0`, `input.1`, ...; their first
//! dimension counts examples, which are taken in batches of the size that was exported (`--batch` where it is symbolic).
//!
//! ```sh
//! cargo run --example finetune_export -- model.pt2 --data train.safetensors
//! python -c 'model.load_state_dict(safetensors.torch.load_file("out/model.safetensors"))'
//! ```
//!
//! The update is PyTorch's `torch.optim.AdamW` with its defaults: equal data in equal order (`--in-order`) give equal losses.
//! Without `--data` the program trains on one random batch over and over: the loss falls, and the weights are worth nothing.

#[path = "../common/mod.rs"]
mod common;
mod data;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use common::{Common, training::Training};
use data::{Batches, Plan};
use inductor::graph::OutputRole;
use inductor::optim::AdamW;
use inductor::runtime::save_tensors;
use inductor::torch_export::{Imported, load};
use inductor::{Inputs, State, Traced, compile_train};
use std::path::PathBuf;

/// Trains a program of torch.export.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    common: Common,
    /// The program: a file that torch.export.save wrote, of a model whose forward returns its loss.
    model: PathBuf,
    /// Safetensors files with the inputs; those of one name are joined.
    #[arg(long, num_args = 1..)]
    data: Vec<PathBuf>,
    /// Examples of a batch, where the program leaves it open.
    #[arg(long)]
    batch: Option<usize>,
    /// Take the examples in the order of the files instead of another order in each epoch.
    #[arg(long)]
    in_order: bool,
    /// Inputs that are the same at every step, by name: not taken in batches.
    #[arg(long, value_delimiter = ',')]
    whole: Vec<String>,
    /// The output that is the loss, where there are several: output.0, output.1, ...
    #[arg(long)]
    loss: Option<String>,
    /// Learning rate [default: 0.001].
    #[arg(long)]
    lr: Option<f64>,
    /// Weight decay, of all parameters [default: 0.01].
    #[arg(long)]
    weight_decay: Option<f64>,
}

fn main() -> std::process::ExitCode {
    common::main(run)
}

fn run() -> Result<()> {
    let mut options = Options::parse();
    let device = options.common.start()?;
    let notes = options.common.recall()?;
    notes.recall(&mut options.batch, "batch")?;
    notes.recall(&mut options.lr, "lr")?;
    notes.recall(&mut options.weight_decay, "weight-decay")?;
    let mut imported = load(&options.model)?;
    choose_loss(&mut imported.traced, options.loss.as_deref())?;
    let plan = Plan { seed: options.common.seed(), batch: options.batch, in_order: options.in_order, whole: options.whole.clone() };
    let batches = Batches::new(&imported.traced.graph, &options.data, plan)?;
    common::say(batches.describe());

    let (lr, weight_decay) = (options.lr.unwrap_or(1e-3), options.weight_decay.unwrap_or(0.01));
    let optimizer = AdamW::new(lr).weight_decay(weight_decay).decay_vectors(true);
    let step = compile_train(&imported.traced, &device, optimizer, &options.common.config())?;
    if options.common.explain {
        common::say(step.explain().to_string());
    }
    let training = Training {
        common: &options.common,
        step: &step,
        steps: options.common.steps.unwrap_or(100),
        schedule: None,
        size: (batches.size(), "examples"),
        facts: vec![
            ("example", "finetune_export".into()),
            ("model", digest(std::slice::from_ref(&options.model))?),
            ("data", digest(&options.data)?),
            ("batch", batches.size().to_string()),
            ("order", format!("in order {}, whole {:?}, loss {:?}", options.in_order, options.whole, options.loss)),
            ("lr", lr.to_string()),
            ("weight-decay", weight_decay.to_string()),
        ],
    };
    let mut state = training.begin()?;
    training.run(training.trainer()?, &mut state, |number| Ok(Inputs::Named(batches.get(number - 1)?)))?;
    save(&options, &imported, &state)?;
    options.common.show_profile(&step)
}

/// Gives the loss its role: the output that the user names, or the only 0-d float.
fn choose_loss(traced: &mut Traced, wanted: Option<&str>) -> Result<()> {
    let graph = &mut traced.graph;
    let is_result = |role: &OutputRole| matches!(role, OutputRole::User | OutputRole::Loss);
    let results: Vec<(usize, String)> = graph
        .outputs
        .iter()
        .enumerate()
        .filter(|(_, o)| is_result(&o.role))
        .map(|(i, o)| (i, format!("{}: {}", o.name, graph.ty(o.value))))
        .collect();
    let listed = results.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(", ");
    let is_scalar = |i: &usize| graph.ty(graph.outputs[*i].value).shape.rank() == 0 && graph.ty(graph.outputs[*i].value).dtype.is_float();
    let scalars: Vec<usize> = results.iter().map(|(i, _)| *i).filter(is_scalar).collect();
    let chosen = match (wanted, &scalars[..]) {
        (Some(name), _) => {
            let found = scalars.iter().copied().find(|&i| graph.outputs[i].name == name);
            found.with_context(|| format!("--loss {name}: there is no 0-d float output of that name; there are [{listed}]"))?
        }
        (None, [only]) => *only,
        (None, []) => bail!(
            "the program has no loss: none of its outputs [{listed}] is a 0-d float; export a model whose forward takes the labels and returns the loss"
        ),
        (None, _) => bail!("several outputs may be the loss; name one of [{listed}] with --loss"),
    };
    for (i, _) in results {
        graph.outputs[i].role = if i == chosen { OutputRole::Loss } else { OutputRole::User };
    }
    Ok(())
}

/// Tells files of other contents apart.
fn digest(files: &[PathBuf]) -> Result<String> {
    let mut hash = blake3::Hasher::new();
    for path in files {
        hash.update(&std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    Ok(hash.finalize().to_hex()[..16].to_string())
}

/// Writes what `load_state_dict` takes: parameters and persistent buffers, tied ones under each of their names.
fn save(options: &Options, imported: &Imported, state: &State) -> Result<()> {
    let tensors = imported.state_dict(&|name| state.get(name))?;
    ensure!(!tensors.is_empty(), "the program has no weights to save");
    let path = options.common.out.join("model.safetensors");
    save_tensors(&path, &tensors, None)?;
    common::say(format!("wrote {} tensors to {}", tensors.len(), path.display()));
    Ok(())
}
