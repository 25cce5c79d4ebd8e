//! The walls of the design, each proven once on every layer and on the adapter: a sort, a scan, a packed boolean output, a
//! write through a view, and one compilation that serves three batch sizes.

mod support;

use inductor::graph::{Builder, Graph, InputRole, OutputRole};
use inductor::runtime::{self, Device};
use inductor::scalar::ScalarFn;
use inductor::types::{DType, Dim, HostTensor, TensorType};
use inductor::{Config, Initializer, Trace, models, optim, trace};
use support::layers::{self, LAYERS, Named, What};

fn everywhere(graph: &Graph, inputs: &Named) {
    for layer in LAYERS {
        layers::check(layer, graph, What::Forward, inputs, 1e-6).unwrap();
    }
    if layers::software().is_some() {
        layers::check(&("software adapter", layers::adapter), graph, What::Forward, inputs, 1e-6).unwrap();
    }
}

fn numbers(shape: &[usize]) -> HostTensor {
    let numel: usize = shape.iter().product();
    HostTensor::f32(shape, &(0..numel).map(|i| ((i * 7919) % 101) as f32 / 25.0 - 2.0).collect::<Vec<_>>())
}

fn devices() -> Vec<Device> {
    let mut devices = vec![Device::cpu()];
    devices.extend(layers::software().cloned());
    devices
}

#[test]
fn one_sort() {
    let mut b = Builder::new("sort");
    let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, (3, 67))).unwrap();
    let (values, index) = b.sort(x, 1, true).unwrap();
    b.output("values", OutputRole::User, values);
    b.output("index", OutputRole::User, index);
    everywhere(&b.finish(), &vec![("x".into(), numbers(&[3, 67]))]);
}

/// Rows that no workgroup holds are sorted in blocks and merged.
#[test]
fn one_sort_of_long_rows() {
    for (dim, shape, descending) in [(1, [2usize, 9001], true), (0, [4099, 2], false)] {
        let mut b = Builder::new("long");
        let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, (shape[0] as i64, shape[1] as i64))).unwrap();
        let (values, index) = b.sort(x, dim, descending).unwrap();
        b.output("values", OutputRole::User, values);
        b.output("index", OutputRole::User, index);
        everywhere(&b.finish(), &vec![("x".into(), numbers(&shape))]);
    }
}

/// Blocks of a row keep their largest elements, of which the largest of the row are.
#[test]
fn one_topk_of_long_rows() {
    for (shape, k, dim) in [([2usize, 20_000], 5, 1), ([3, 9000], 40, 1), ([300, 3], 8, 0)] {
        let mut b = Builder::new("topk");
        let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, (shape[0] as i64, shape[1] as i64))).unwrap();
        let (values, index) = b.topk(x, k, dim, true).unwrap();
        let values = b.scale(values, 2.0).unwrap();
        b.output("values", OutputRole::User, values);
        b.output("index", OutputRole::User, index);
        everywhere(&b.finish(), &vec![("x".into(), numbers(&shape))]);
    }
}

/// So many pairs of rows and indices that the indices are sorted, more of them than a workgroup holds.
#[test]
fn one_sum_at_sorted_indices() {
    let (rows, width, count) = (2000usize, 16, 3000);
    let mut b = Builder::new("scatter");
    let base = b.input("base", InputRole::Input, TensorType::new(DType::F32, (rows as i64, width))).unwrap();
    let index = b.input("index", InputRole::Input, TensorType::new(DType::I32, count as i64)).unwrap();
    let src = b.input("src", InputRole::Input, TensorType::new(DType::F32, (count as i64, width))).unwrap();
    let y = b.op(inductor::ops::IndexAdd { dim: 0, checked: false }, &[base, index, src]).unwrap();
    b.output("y", OutputRole::User, y);
    let graph = b.finish();
    let types: Vec<TensorType> = graph.inputs.iter().map(|i| graph.ty(i.value).clone()).collect();
    let plan = inductor::compile::inductor(&graph, &types, &inductor::config::Target::webgpu_default(), &Config::default()).unwrap();
    assert!(plan.program.commands.iter().any(|c| c.label.contains("merge")), "{:?}", plan.program.commands);
    if layers::software().is_some() {
        let at = HostTensor::i32(&[count], &(0..count as i32).map(|k| k * 7919 % 1997).collect::<Vec<_>>());
        let inputs = vec![("base".into(), numbers(&[rows, width as usize])), ("index".into(), at), ("src".into(), numbers(&[count, width as usize]))];
        layers::check(&("software adapter as webgpu-default", layers::portable), &graph, What::Forward, &inputs, 1e-6).unwrap();
    }
}

#[test]
fn one_scan() {
    let mut b = Builder::new("scan");
    let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, (5, 33))).unwrap();
    let y = b.cumsum(x, 1).unwrap();
    b.output("y", OutputRole::User, y);
    everywhere(&b.finish(), &vec![("x".into(), numbers(&[5, 33]))]);
}

#[test]
fn one_packed_boolean_output() {
    let mut b = Builder::new("mask");
    let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, (3, 7))).unwrap();
    let zero = b.constant(DType::F32, 0.0).unwrap();
    let y = b.scalar(ScalarFn::Gt, &[x, zero]).unwrap();
    b.output("y", OutputRole::User, y);
    let graph = b.finish();
    let types = vec![graph.ty(graph.inputs[0].value).clone()];
    let plan = inductor::compile::inductor(&graph, &types, &inductor::config::Target::webgpu_default(), &Config::default()).unwrap();
    let output = plan.program.outputs[0].buffer;
    assert_eq!(plan.program.buffers[output.0 as usize].storage, inductor::types::Storage::Packed);
    everywhere(&graph, &vec![("x".into(), numbers(&[3, 7]))]);
}

/// The middle rows of a buffer are overwritten by each step; the rest stays.
#[test]
fn one_write_through_a_view() {
    let traced = trace("window", |t: &Trace| {
        let x = t.input("x", DType::F32, (2, 3));
        let window = t.buffer("window", DType::F32, (4, 3), Initializer::Constant(7.0));
        let new = window.slice(0, 0, 1).concat(&[&x, &window.slice(0, 3, 4)], 0);
        t.update_buffer("window", &new);
        Ok(vec![("sum", window.sum_all())])
    })
    .unwrap();
    for device in devices() {
        let step = runtime::compile(&traced, &device, &Config::default()).unwrap();
        let mut state = step.init(0).unwrap();
        let sums: Vec<f32> = [1.0f32, 2.0, 3.0]
            .map(|k| step.run(&mut state, [&HostTensor::f32(&[2, 3], &[k; 6])]).unwrap().output("sum").unwrap().to_f32()[0])
            .to_vec();
        assert_eq!(sums, [84.0, 48.0, 54.0], "{}", device.describe());
    }
}

#[test]
fn one_compilation_serves_three_batch_sizes() {
    let symbolic = models::mlp(Dim::symbol("batch", 1, 64), &[13, 17, 5]).unwrap();
    for device in devices() {
        let step = runtime::compile_train(&symbolic, &device, optim::AdamW::new(1e-2), &Config::default()).unwrap();
        let mut state = step.init(3).unwrap();
        for batch in [3usize, 8, 5] {
            let y = HostTensor::i32(&[batch], &(0..batch as i32).map(|i| i % 5).collect::<Vec<_>>());
            let x = numbers(&[batch, 13]);
            let fixed =
                runtime::compile_train(&models::mlp(batch, &[13, 17, 5]).unwrap(), &device, optim::AdamW::new(1e-2), &Config::default()).unwrap();
            let mut own = fixed.init(3).unwrap();
            let expected = fixed.run(&mut own, [&x, &y]).unwrap().loss().unwrap();
            let mut fresh = step.init(3).unwrap();
            let first = step.run(&mut fresh, [&x, &y]).unwrap().loss().unwrap();
            assert!((first - expected).abs() <= 1e-5 * expected.abs(), "{}: batch {batch}: {first} against {expected}", device.describe());
            step.run(&mut state, [&x, &y]).unwrap().loss().unwrap();
        }
    }
}
