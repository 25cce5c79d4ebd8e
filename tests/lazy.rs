//! Nothing starts before it is needed. A binary of its own, because the counters are those of the process.

use inductor::compile::inductor;
use inductor::config::Target;
use inductor::graph::InputRole;
use inductor::runtime::{Counters, counters};
use inductor::types::TensorType;
use inductor::{Config, DType, Device, Error, HostTensor, Initializer, compile, compile_train, optim, trace};

#[test]
fn nothing_starts_before_it_is_needed() {
    let traced = trace("lazy", |t| {
        let x = t.input("x", DType::F32, (4, 8));
        let y = t.input("y", DType::I32, 4);
        let w = t.parameter("w", DType::F32, (8, 3), Initializer::Ones);
        Ok(x.matmul(&w).cross_entropy(&y))
    })
    .unwrap();
    let graph = &traced.graph;
    let is_input = |role: &InputRole| *role == InputRole::Input;
    let examples: Vec<TensorType> = graph.inputs.iter().filter(|i| is_input(&i.role)).map(|i| graph.ty(i.value).clone()).collect();

    // Compiling for given capabilities needs no device, and a refused platform starts nothing.
    inductor(graph, &examples, &Target::webgpu_default(), &Config::default()).unwrap();
    let mut weak = Target::webgpu_default();
    weak.caps.max_storage_buffers = 2;
    assert!(matches!(inductor(graph, &examples, &weak, &Config::default()), Err(Error::Platform(_))));
    assert_eq!(counters(), Counters::default());

    // The interpreter needs nothing of the GPU.
    let device = Device::cpu();
    assert_eq!(counters(), Counters::default());
    let step = compile(&traced, &device, &Config::default()).unwrap();
    let mut state = step.init(1).unwrap();
    let inputs = [HostTensor::f32(&[4, 8], &[0.5; 32]), HostTensor::i32(&[4], &[0, 1, 2, 0])];
    step.run(&mut state, &inputs[..]).unwrap();
    assert_eq!(counters(), Counters { interpreters: 1, ..Counters::default() });

    // A device compiles equal kernels once.
    let Ok(device) = Device::software() else {
        eprintln!("1 part skipped: no software adapter");
        return;
    };
    let opened = counters();
    assert_eq!((opened.instances, opened.devices, opened.pipelines), (1, 1, 0));
    let train = || compile_train(&traced, &device, optim::Sgd::new(0.1), &Config::default()).unwrap();
    let _first = train();
    let made = counters().pipelines;
    assert!(made > 0);
    let _second = train();
    assert_eq!((counters().pipelines, counters().devices), (made, 1));
}
