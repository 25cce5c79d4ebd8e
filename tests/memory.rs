//! Memory of training steps: budgets, checkpointed blocks, and values that take over memory.
#![allow(missing_docs)]

use inductor::compile::{frontier, inductor_with_report};
use inductor::config::{MemoryBudget, Mode, Saving, Target};
use inductor::nn::{self, Attention, Block};
use inductor::runtime::Explain;
use inductor::{Config, DType, Device, HostTensor, Traced, compile_train, optim, trace};
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

#[test]
fn values_that_take_over_memory_cost_no_kernel_its_form() {
    let explained = explained(&head(2048, 64, 50257), &Target::h100(), &training()).unwrap();
    let softmax: Vec<_> = explained.commands.iter().filter(|c| c.label.contains("check_index")).map(|c| c.variant.as_str()).collect();
    assert_eq!(softmax, ["1-rows-of-256"]);
    let logits = explained.memory.buffers.iter().filter(|b| b.bytes == 4 * 2048 * 50257).map(|b| b.slot);
    assert_eq!(logits.collect::<BTreeSet<_>>().len(), 1);
}

#[test]
fn large_values_take_over_memory_and_keep_their_numbers() {
    let (rows, columns) = (1024, 32768);
    let traced = head(rows, 2, columns);
    let x = HostTensor::f32(&[rows, 2], &(0..2 * rows).map(|i| (i % 13) as f32 * 0.1).collect::<Vec<_>>());
    let y = HostTensor::i32(&[rows], &(0..rows).map(|i| (i * 7919 % columns) as i32).collect::<Vec<_>>());
    let trained = |device: &Device, reuse: bool| {
        let step = compile_train(&traced, device, optim::Sgd::new(10.0), &Config { reuse, ..Config::default() }).unwrap();
        assert_eq!(step.plan().program.in_place.is_empty(), !reuse);
        let mut state = step.init(3).unwrap();
        let loss = step.run(&mut state, [&x, &y]).unwrap().loss().unwrap();
        (loss, state.get("w").unwrap().to_f32())
    };
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
