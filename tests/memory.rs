//! Memory of training steps: budgets, checkpointed blocks, and values that take over memory.
#![allow(missing_docs)]

use inductor::compile::{frontier, inductor_with_report};
use inductor::config::{MemoryBudget, Mode, Saving, Target};
use inductor::models::{GptConfig, gpt, mlp};
use inductor::nn::{self, Attention, Block};
use inductor::runtime::Explain;
use inductor::{Config, CrossEntropy, DType, Device, HostTensor, Initializer, Step, Traced, compile, compile_train, optim, trace};
use std::collections::BTreeSet;

const BLOCKS: u64 = 4;

/// Transformer blocks with layer norms and dropout over so many tokens.
fn blocks(checkpointed: bool, (batch, tokens): (usize, usize)) -> Traced {
    trace("blocks", |t| {
        let mut x = t.input("x", DType::F32, (batch, tokens, 64));
        for i in 0..BLOCKS {
            let path = t.path("blocks").path(i);
            let block = |x: &inductor::Tensor| nn::dropout(&path, &nn::transformer_block(&path, x, &Block::new(Attention::causal(4))), 0.25);
            x = if checkpointed { t.checkpoint(&x, block) } else { block(&x) };
        }
        Ok(x.square().mean_all())
    })
    .unwrap()
}

fn training() -> Config {
    Config { mode: Mode::Train(optim::AdamW::new(1e-3).into()), ..Config::default() }
}

fn explained(traced: &Traced, target: &Target, config: &Config) -> inductor::Result<Explain> {
    let examples: Vec<_> = traced.graph.inputs.iter().map(|i| traced.graph.ty(i.value).clone()).collect();
    inductor_with_report(&traced.graph, &examples, target, config).map(|(plan, report)| Explain::new(&plan, &report))
}

fn targets() -> [Target; 3] {
    [Target::h100(), Target::webgpu_default(), Target::cpu()]
}

/// A block holds, while its gradients are computed, what would be saved of it if nothing were computed again.
#[test]
fn checkpointed_blocks_lower_the_peak_by_what_they_save_but_for_one() {
    let size = (32, 128);
    for target in targets() {
        let [free, kept] = [false, true].map(|c| explained(&blocks(c, size), &target, &training()).unwrap());
        let whole = explained(&blocks(false, size), &target, &Config { saving: Saving::Everything, ..training() }).unwrap();
        let [free_saved, kept_saved, whole_saved] = [&free, &kept, &whole].map(|e| e.partition.saved_activation_bytes);
        let [free_peak, kept_peak] = [&free, &kept].map(|e| e.memory.predicted_peak_bytes);
        let least = free_saved - kept_saved - whole_saved / BLOCKS;
        assert!(kept_peak + least <= free_peak, "{}: saved {free_saved}, {kept_saved}; peak {free_peak}, {kept_peak}", target.caps.name);
    }
}

#[test]
fn a_smaller_budget_never_raises_the_peak() {
    let traced = blocks(false, (32, 128));
    for target in targets() {
        let points = frontier(&traced.graph, &target, &training()).unwrap();
        let (whole, floor) = (points[0].peak_bytes, points.iter().map(|p| p.peak_bytes).min().unwrap());
        assert!(floor < whole, "{}: {points:?}", target.caps.name);
        let mut last = whole;
        for k in 0..=10 {
            let limit = whole - (whole - floor) * k / 10;
            let config = Config { memory_budget: Some(MemoryBudget::Bytes(limit)), ..training() };
            let peak = explained(&traced, &target, &config).unwrap().memory.predicted_peak_bytes;
            assert!(peak <= limit && peak <= last, "{}: {peak} bytes at a budget of {limit}, {last} before", target.caps.name);
            last = peak;
        }
        let config = Config { memory_budget: Some(MemoryBudget::Bytes(floor - 1)), ..training() };
        let error = explained(&traced, &target, &config).unwrap_err().to_string();
        assert!(error.contains(&format!("at least {floor} bytes")), "{error}");
    }
}

/// Parameters after two steps, dropout among them, and the loss of each.
fn trained(traced: &Traced, x: &HostTensor, config: &Config) -> (Vec<u32>, Vec<Vec<f32>>) {
    let step = compile_train(traced, &Device::cpu(), optim::AdamW::new(1e-2), config).unwrap();
    let mut state = step.init(3).unwrap();
    let losses = (0..2).map(|_| step.run(&mut state, [x]).unwrap().loss().unwrap().to_bits()).collect();
    let names = traced.graph.inputs.iter().map(|i| i.name.as_str()).filter(|name| name.starts_with("blocks"));
    (losses, names.map(|name| state.get(name).unwrap().to_f32()).collect())
}

#[test]
fn budgets_change_no_bit_on_the_interpreter() {
    let traced = blocks(false, (4, 32));
    let x = HostTensor::f32(&[4, 32, 64], &(0..4 * 32 * 64).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect::<Vec<_>>());
    let expected = trained(&traced, &x, &Config::default());
    let points = frontier(&traced.graph, &Target::cpu(), &training()).unwrap();
    for point in points {
        let config = Config { memory_budget: Some(MemoryBudget::Bytes(point.peak_bytes)), ..Config::default() };
        assert!(trained(&traced, &x, &config) == expected, "{point:?}");
    }
}

/// Cross entropy of a head without a bias, whose logits are as many as that.
fn head(rows: usize, features: usize, columns: usize) -> Traced {
    trace("head", |t| {
        let x = t.input("x", DType::F32, (rows, features));
        let w = t.parameter("w", DType::F32, (features, columns), inductor::Initializer::Uniform { low: -1.0, high: 1.0 });
        Ok(x.matmul(&w).cross_entropy(&t.input("y", DType::I32, rows)))
    })
    .unwrap()
}

/// Rows of the logits' kernels with what they cost, and the slots that logits and their gradients are in.
fn logits(explained: &Explain, bytes: u64) -> (Vec<&str>, BTreeSet<u32>) {
    let softmax = explained.commands.iter().filter(|c| c.label.contains("online_softmax_stats")).map(|c| c.variant.as_str());
    (softmax.collect(), explained.memory.buffers.iter().filter(|b| b.bytes == bytes).map(|b| b.slot).collect())
}

#[test]
fn values_that_take_over_memory_cost_no_kernel_its_form() {
    // A prime number of rows has no chunks.
    let explained = explained(&head(2039, 64, 50257), &Target::h100(), &training()).unwrap();
    let (variants, slots) = logits(&explained, 4 * 2039 * 50257);
    assert_eq!((variants, slots.len()), (vec!["1-rows-of-256"], 1));
    let refused = explained.decisions.iter().find(|d| d.stage == "memory").unwrap();
    assert!(refused.verdict == "whole" && refused.reason.contains("no number of chunks up to 16 divides its rows"), "{refused:?}");
}

/// Cross entropy over labels that may be left out: all gradients wait for their count, which no kernel may have in common with the sum
/// of the losses.
#[test]
fn a_head_runs_in_chunks_of_rows() {
    let traced = trace("head", |t| {
        let x = t.input("x", DType::F32, (2048, 64));
        let w = t.parameter("w", DType::F32, (64, 50257), Initializer::Zeros);
        Ok(x.matmul(&w).cross_entropy_with(&t.input("y", DType::I32, 2048), CrossEntropy::new().ignore_index(-100)))
    })
    .unwrap();
    let [chunked, whole] = [true, false].map(|fuse| explained(&traced, &Target::h100(), &Config { fuse, ..training() }).unwrap());
    let (variants, slots) = logits(&chunked, 4 * 1024 * 50257);
    assert_eq!((variants, slots.len()), (vec!["1-rows-of-256"; 2], 1));
    assert!(chunked.memory.buffers.iter().all(|b| b.bytes <= 4 * 1024 * 50257), "the logits are never whole");
    assert!(chunked.decisions.iter().any(|d| d.stage == "memory" && d.verdict == "2 chunks of rows"));
    assert!(whole.decisions.iter().all(|d| d.stage != "memory"));
}

/// A head's loss and parameter after a step on some device, by a step of which `look` has seen whether values share memory.
fn trained_head(rows: usize, columns: usize, device: &Device, reuse: bool, look: impl Fn(&Step)) -> (f32, Vec<f32>) {
    let x = HostTensor::f32(&[rows, 2], &(0..2 * rows).map(|i| (i % 13) as f32 * 0.1).collect::<Vec<_>>());
    let y = HostTensor::i32(&[rows], &(0..rows).map(|i| (i * 7919 % columns) as i32).collect::<Vec<_>>());
    let step = compile_train(&head(rows, 2, columns), device, optim::Sgd::new(10.0), &Config { reuse, ..Config::default() }).unwrap();
    look(&step);
    let mut state = step.init(3).unwrap();
    let loss = step.run(&mut state, [&x, &y]).unwrap().loss().unwrap();
    (loss, state.get("w").unwrap().to_f32())
}

/// Parameters after a step whose logits come in chunks, and after one whose logits are whole: the software adapter has no binding for those.
#[test]
fn chunks_of_rows_train_as_the_whole_does() {
    let trained = |device: &Device, reuse: bool| {
        trained_head(1024, 65536, device, reuse, |step| {
            assert_eq!(step.explain().decisions.iter().any(|d| d.verdict.ends_with("chunks of rows")), reuse);
        })
    };
    let (loss, w) = trained(&Device::cpu(), false);
    let software = Device::software().inspect_err(|error| eprintln!("software adapter: skipped, {error}"));
    for device in [Device::cpu()].into_iter().chain(software) {
        let (found, v) = trained(&device, true);
        assert!((found - loss).abs() < 1e-5 * loss.abs(), "{found} and {loss}");
        let far = v.iter().zip(&w).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-5, "{far}");
    }
}

#[test]
fn large_values_take_over_memory_and_keep_their_numbers() {
    let trained =
        |device: &Device, reuse: bool| trained_head(1024, 32768, device, reuse, |step| assert_eq!(step.plan().program.in_place.is_empty(), !reuse));
    let (loss, w) = trained(&Device::cpu(), false);
    assert!(trained(&Device::cpu(), true) == (loss, w.clone()));
    match Device::software() {
        Ok(device) => {
            let (found, v) = trained(&device, true);
            assert!((found - loss).abs() < 1e-5 * loss.abs(), "{found} and {loss}");
            let far = v.iter().zip(&w).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 1e-5, "{far}");
        }
        Err(error) => eprintln!("software adapter: skipped, {error}"),
    }
}

/// The reference card with so much memory.
fn card(bytes: u64) -> Target {
    let mut target = Target::h100();
    target.caps.memory_bytes = Some(bytes);
    target
}

#[test]
fn a_step_that_does_not_fit_is_refused_with_the_budget_that_does() {
    let traced = blocks(false, (32, 128));
    let points = frontier(&traced.graph, &Target::h100(), &training()).unwrap();
    let (whole, floor) = (points[0].peak_bytes, points.iter().map(|p| p.peak_bytes).min().unwrap());
    let middle = (whole + floor) / 2;
    let error = explained(&traced, &card(middle), &training()).unwrap_err().to_string();
    for part in [&format!("its predicted peak is {whole} bytes"), "its largest tensors are ", "tests/memory.rs:", &format!("h100 has {middle} bytes")]
    {
        assert!(error.contains(part), "no {part:?} in: {error}");
    }
    let (_, budget) = error.split_once("a memory budget of ").unwrap_or_else(|| panic!("{error}"));
    let budget: u64 = budget.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{error}"));
    let config = Config { memory_budget: Some(MemoryBudget::Bytes(budget)), ..training() };
    let peak = explained(&traced, &card(middle), &config).unwrap().memory.predicted_peak_bytes;
    assert!(peak <= budget && budget <= middle, "{peak} bytes of {budget}, on a card of {middle}");

    let error = explained(&traced, &card(floor - 1), &training()).unwrap_err().to_string();
    assert!(error.contains(&format!("no memory budget makes it fit: the smallest is {floor} bytes")), "{error}");
    let error = explained(&traced, &card(1 << 20), &Config::default()).unwrap_err().to_string();
    assert!(error.contains("predicted peak") && error.ends_with("h100 has 1048576 bytes"), "{error}");
}

/// A program with its inputs, trained unless it says otherwise.
struct Measured {
    name: &'static str,
    traced: Traced,
    trains: bool,
}

/// Small and large inputs, products, convolutions, attention.
fn measured() -> Vec<Measured> {
    let of = |name, trains, traced| Measured { name, traced, trains };
    let images = trace("images", |t| {
        let x = t.input("x", DType::F32, (16, 3, 64, 64));
        let h = nn::conv2d(&t.path("c"), &x, nn::Conv2d::new(8, 3)).relu();
        Ok(nn::linear(&t.path("fc"), &h.mean([-1, -2]), 10).cross_entropy(&t.input("y", DType::I32, 16)))
    });
    let look_up = trace("look_up", |t| {
        let table = t.parameter("table", DType::F32, (4096, 1024), Initializer::Ones);
        Ok(table.index_select(0, &t.input("i", DType::I32, 8)).sum_all())
    });
    vec![
        of("wide inputs", true, mlp(4096, &[256, 64, 10]).unwrap()),
        of("small inputs", true, mlp(64, &[784, 512, 10]).unwrap()),
        of("gpt", true, gpt(&GptConfig { layers: 2, ..GptConfig::small(65) }).unwrap()),
        of("blocks", true, blocks(false, (8, 64))),
        of("images", true, images.unwrap()),
        of("look-up", false, look_up.unwrap()),
    ]
}

fn zeros(traced: &Traced) -> Vec<HostTensor> {
    let given = traced.graph.inputs.iter().filter(|i| i.role == inductor::graph::InputRole::Input).map(|i| traced.graph.ty(i.value));
    given.map(|ty| HostTensor::zeros(ty.dtype, &ty.shape.as_ints().unwrap())).collect()
}

#[test]
fn the_predicted_peak_is_what_the_allocator_reports() {
    for Measured { name, traced, trains } in measured() {
        let device = match Device::software() {
            Ok(device) => device,
            Err(error) => return eprintln!("software adapter: skipped, {error}"),
        };
        let step = match trains {
            true => compile_train(&traced, &device, optim::AdamW::new(1e-3), &Config::default()),
            false => compile(&traced, &device, &Config::default()),
        }
        .unwrap();
        let (mut state, inputs) = (step.init(1).unwrap(), zeros(&traced));
        for _ in 0..6 {
            step.run(&mut state, &inputs).unwrap().wait().unwrap();
        }
        let (predicted, reported) = (step.explain().memory.predicted_peak_bytes, device.allocated_bytes().unwrap());
        let off = (predicted as f64 / reported as f64 - 1.0).abs();
        assert!(off <= 0.01, "{name}: {predicted} bytes predicted, {reported} reported ({:.2}%)", 100.0 * off);
    }
}
