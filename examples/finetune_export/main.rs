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
use common::{Common, progress::Progress};
use data::{Batches, Plan};
use inductor::graph::OutputRole;
use inductor::optim::AdamW;
use inductor::runtime::save_tensors;
use inductor::torch_export::{Imported, load};
use inductor::{Inputs, State, Step, StepResult, Traced, compile_train};
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
    /// Learning rate.
    #[arg(long, default_value_t = 1e-3)]
    lr: f64,
    /// Weight decay, of all parameters.
    #[arg(long, default_value_t = 0.01)]
    weight_decay: f64,
}

fn main() -> std::process::ExitCode {
    common::main(run)
}

fn run() -> Result<()> {
    let options = Options::parse();
    let device = options.common.start()?;
    let mut imported = load(&options.model)?;
    choose_loss(&mut imported.traced, options.loss.as_deref())?;
    let plan = Plan { seed: options.common.seed, batch: options.batch, in_order: options.in_order, whole: options.whole.clone() };
    let batches = Batches::new(&imported.traced.graph, &options.data, plan)?;
    common::say(batches.describe());

    let optimizer = AdamW::new(options.lr).weight_decay(options.weight_decay).decay_vectors(true);
    let step = compile_train(&imported.traced, &device, optimizer, &options.common.config())?;
    if options.common.explain {
        common::say(step.explain().to_string());
    }
    let mut state = step.init(options.common.seed)?;
    for (name, tensor) in &imported.tensors {
        state.set(name, tensor.clone())?;
    }
    fit(options.common.steps.unwrap_or(100), &batches, &step, &mut state)?;
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

/// Steps over the batches. The loss of a step is read after the next one is queued, so that a GPU does not wait for the host.
fn fit(steps: u64, batches: &Batches, step: &Step, state: &mut State) -> Result<()> {
    let progress = Progress::new(0, steps, batches.size() as u64, "examples");
    let mut queued = None::<(u64, StepResult)>;
    for number in 1..=steps {
        let result = step.run(state, Inputs::Named(batches.get(number - 1)?))?;
        if let Some((number, result)) = queued.replace((number, result)) {
            progress.step(number, result.loss()?);
        }
    }
    if let Some((number, result)) = queued {
        progress.step(number, result.loss()?);
    }
    progress.finish(steps);
    Ok(())
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
