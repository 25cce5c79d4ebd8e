//! Counts of launches, kernels and bytes of whole training steps, for named targets: a change of fusion, scheduling or memory
//! planning shows here. `UPDATE_EXPECT=1 cargo test --test golden` rewrites them. Every kernel of these plans is validated, and can
//! be written in MSL, HLSL and WGSL.
#![cfg(feature = "torch")]
#![allow(missing_docs)]

#[path = "kernels/valid.rs"]
mod valid;

use expect_test::expect_file;
use inductor::codegen::Plan;
use inductor::compile::{Report, inductor_with_report};
use inductor::config::{Config, Mode, Target};
use inductor::runtime::Explain;
use inductor::schedule::{Program, buffer_bytes};
use inductor::types::Bindings;
use inductor::{Traced, models, optim, torch_export};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

/// Each buffer that a command touches read or written once, over all commands.
fn traffic(program: &Program) -> i64 {
    let bytes = |b: u32| {
        let placed = &program.buffers[b as usize];
        buffer_bytes(&placed.ty, placed.storage).eval(&Bindings::new()).expect("fixed sizes")
    };
    let of_command = |c: &inductor::schedule::Dispatch| {
        let kernel = &program.kernels[c.kernel as usize];
        let written: BTreeSet<_> = kernel.writes.iter().map(|w| w.buffer).collect();
        kernel.reads().into_iter().chain(written).map(|local| bytes(c.buffers[local.0 as usize].0)).sum::<i64>()
    };
    program.commands.iter().map(of_command).sum()
}

fn training(traced: &Traced, target: &Target) -> (Plan, Report) {
    let config = Config { mode: Mode::Train(optim::AdamW::new(1e-3).into()), ..Config::default() };
    let examples: Vec<_> = traced.graph.inputs.iter().map(|i| traced.graph.ty(i.value).clone()).collect();
    inductor_with_report(&traced.graph, &examples, target, &config).unwrap_or_else(|e| panic!("{}: {e}", target.caps.name))
}

/// A table of a model's training step, a line for each target.
fn counts(traced: &Traced) -> String {
    let mut out = String::from("target          forward  backward  update  kernels  shaders  KB moved  KB held  KB saved\n");
    for (name, target) in [("h100", Target::h100()), ("webgpu-default", Target::webgpu_default()), ("cpu", Target::cpu())] {
        let (plan, report) = training(traced, &target);
        valid::validate(&plan);
        let explain = Explain::new(&plan, &report);
        let l = &explain.launches;
        let (moved, held) = (traffic(&plan.program) / 1024, explain.memory.predicted_peak_bytes / 1024);
        let (kernels, shaders, saved) = (plan.program.kernels.len(), plan.code.len(), explain.partition.saved_activation_bytes / 1024);
        let counted = format!("{:>8} {:>9} {:>7} {kernels:>8} {shaders:>8} {moved:>9} {held:>8} {saved:>9}", l.forward, l.backward, l.update);
        writeln!(out, "{name:<14} {counted}").expect("text grows");
    }
    out
}

fn exported(name: &str) -> Traced {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/models").join(name).join("model.pt2");
    torch_export::load(&file).unwrap_or_else(|e| panic!("{name}: {e}")).traced
}

macro_rules! golden {
    ($($name:ident: $traced:expr;)*) => {
        $(#[test]
        fn $name() {
            expect_file![concat!("golden/", stringify!($name), ".txt")].assert_eq(&counts(&$traced));
        })*
    };
}

golden! {
    mlp: models::mnist_mlp().unwrap();
    small_gpt: models::gpt(&models::GptConfig::small(65)).unwrap();
    nanogpt: models::gpt(&models::GptConfig::nanogpt()).unwrap();
    hf_bert: exported("hf_bert");
    hf_convnext: exported("hf_convnext");
    hf_gpt2: exported("hf_gpt2");
    hf_llama: exported("hf_llama");
    hf_mamba: exported("hf_mamba");
    hf_t5: exported("hf_t5");
    hf_vit: exported("hf_vit");
    nn_unet: exported("nn_unet");
    nn_vae: exported("nn_vae");
}

/// Launches of forward and backward, on the reference card, stay below those of torch.compile 2.11.
#[test]
fn fewer_launches_than_torch_compile() {
    let bars = [
        ("hf_gpt2", 108),
        ("hf_llama", 126),
        ("hf_bert", 147),
        ("hf_vit", 151),
        ("hf_convnext", 174),
        ("hf_mamba", 262),
        ("hf_t5", 298),
        ("nn_unet", 71),
        ("nn_vae", 23),
    ];
    for (name, bar) in bars {
        let traced = exported(name);
        let (plan, report) = training(&traced, &Target::h100());
        let launches = Explain::new(&plan, &report).launches;
        let count = launches.forward + launches.backward;
        assert!(count < bar, "{name}: {count} launches, torch.compile has {bar}");
    }
}
