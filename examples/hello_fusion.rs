//! Ten lines of a program, and the one kernel it became. Needs no GPU: the kernel is generated for given capabilities, and the
//! program runs on the CPU interpreter.
//!
//! ```sh
//! cargo run --example hello_fusion
//! ```

use anyhow::Result;
use inductor::config::Target;
use inductor::types::TensorType;
use inductor::{Config, DType, Device, HostTensor, Trace, compile, trace};

fn main() -> Result<()> {
    // The program: a softmax over rows of a gated input.
    let traced = trace("hello", |t: &Trace| {
        let x = t.input("x", DType::F32, (4, 7));
        let scale = t.input("scale", DType::F32, 7);
        let gated = (&x * &scale + 0.5).relu() * &x;
        Ok(gated.softmax(-1) * 2.0)
    })?;
    println!("--- graph\n{}", inductor::graph::print(&traced.graph));

    // Compiled for any WebGPU implementation.
    let types: Vec<TensorType> = traced.graph.inputs.iter().map(|i| traced.graph.ty(i.value).clone()).collect();
    let plan = inductor::compile::inductor(&traced.graph, &types, &Target::webgpu_default(), &Config::default())?;
    println!("--- {} operators became {} kernel", traced.graph.nodes.len() - traced.graph.inputs.len(), plan.program.commands.len());
    for code in &plan.code {
        println!("{}", code.variants[0].wgsl);
    }

    // And run, here by the interpreter.
    let step = compile(&traced, &Device::cpu(), &Config::default())?;
    let x: Vec<f32> = (0..28).map(|i| (i as f32 * 0.7).sin()).collect();
    let inputs = [HostTensor::f32(&[4, 7], &x), HostTensor::f32(&[7], &[1.5; 7])];
    let y = step.run(&mut step.init(0)?, inputs)?.output("output")?;
    println!("--- first row of the result: {:.4?}", &y.to_f32()[..7]);
    Ok(())
}
