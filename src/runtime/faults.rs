//! What memory, drivers and compilers do to a run: each fault is injected, and each ends in a clear error or a run that goes on with the same
//! numbers.

#[cfg(test)]
mod tests {
    use super::super::device::Device;
    use super::super::gpu::GpuDevice;
    use super::super::state::State;
    use super::super::step::Step;
    use super::super::{compile, compile_train, fixtures};
    use crate::compile::Report;
    use crate::config::Config;
    use crate::error::{Error, Result};
    use crate::frontend::models::mlp;
    use crate::frontend::optim::AdamW;
    use crate::types::HostTensor;

    fn software() -> Option<Device> {
        Device::software().inspect_err(|error| eprintln!("software adapter: skipped, {error}")).ok()
    }

    fn gpu(device: &Device) -> &GpuDevice {
        device.gpu().expect("a software adapter is one")
    }

    /// So many rows that they go through a staging buffer of their own.
    const ROWS: usize = 4096;
    const STEPS: u64 = 5;

    fn batch(step: u64) -> [HostTensor; 2] {
        let of = |i: usize| ((i * 7 + step as usize * 11) % 17) as f32 / 8.0 - 1.0;
        let x: Vec<f32> = (0..ROWS * 64).map(of).collect();
        let y: Vec<i32> = (0..ROWS).map(|i| (i % 4) as i32).collect();
        [HostTensor::f32(&[ROWS, 64], &x), HostTensor::i32(&[ROWS], &y)]
    }

    fn build(device: &Device) -> Result<Step> {
        compile_train(&mlp(ROWS, &[64, 8, 4]).unwrap(), device, AdamW::new(1e-2), &Config::default())
    }

    /// Trains up to [`STEPS`]; each loss is read when the next step is queued.
    fn train(step: &Step, state: &mut State) -> Result<()> {
        let mut queued = None;
        while state.ledger.counts().steps < STEPS {
            let batch = batch(state.ledger.counts().steps);
            if let Some(earlier) = queued.replace(step.run(state, batch)?) {
                earlier.loss()?;
            }
        }
        state.step();
        Ok(())
    }

    fn weights(state: &State) -> Result<Vec<HostTensor>> {
        state.names().iter().map(|name| state.get(name)).collect()
    }

    fn whole_run(device: &Device) -> Result<Vec<HostTensor>> {
        let step = build(device)?;
        let mut state = step.init(1)?;
        train(&step, &mut state)?;
        weights(&state)
    }

    /// As a user would: what failed is tried once more.
    fn persistent_run(device: &Device, errors: &mut Vec<String>) -> Vec<HostTensor> {
        let mut again = |error: Error| errors.push(error.to_string());
        let step = build(device).inspect_err(|_| gpu(device).injected.disarm()).or_else(|e| {
            again(e);
            build(device)
        });
        let step = step.unwrap();
        let mut state = step.init(1).unwrap();
        if let Err(error) = train(&step, &mut state) {
            again(error);
            train(&step, &mut state).unwrap();
        }
        weights(&state)
            .or_else(|e| {
                again(e);
                weights(&state)
            })
            .unwrap()
    }

    #[test]
    fn memory_may_end_at_any_allocation() {
        let Some(device) = software() else { return };
        let expected = whole_run(&device).unwrap();
        for allocation in 0.. {
            gpu(&device).injected.fail_allocation(allocation);
            let mut errors = vec![];
            let found = persistent_run(&device, &mut errors);
            assert!(found == expected, "allocation {allocation}: the weights are others");
            if gpu(&device).injected.is_armed() {
                assert!(allocation > 10 && errors.is_empty(), "{allocation} allocations, {errors:?}");
                break;
            }
            assert!(errors.len() == 1 && errors[0].starts_with("device: ") && errors[0].contains("Out of Memory"), "{allocation}: {errors:?}");
        }
        gpu(&device).injected.disarm();
    }

    #[test]
    fn a_lost_device_is_opened_anew() {
        let Some(device) = software() else { return };
        let expected = whole_run(&device).unwrap();
        for submission in 0.. {
            let device = device.reopen().unwrap();
            let mut step = build(&device).unwrap();
            let mut state = step.init(1).unwrap();
            let mut snapshot = state.try_clone().unwrap();
            gpu(&device).injected.lose_device(submission);
            let mut losses = 0;
            while state.step() < STEPS {
                let batch = batch(state.step());
                let ran = step.run(&mut state, batch).and_then(|r| r.loss());
                match ran.and_then(|_| if state.step() == 2 { state.try_clone().map(Some) } else { Ok(None) }) {
                    Ok(Some(copy)) => snapshot = copy,
                    Ok(None) => {}
                    Err(Error::Lost(message)) => {
                        assert!(message.contains("destroyed") || message.contains("Destroyed"), "{message}");
                        // What the host has is still there, and nothing else.
                        let kept = state.get("layers.0.weight").ok();
                        assert!(kept.is_none_or(|w| w == snapshot.get("layers.0.weight").unwrap()), "submission {submission}: weights of nobody");
                        step = step.rebuild(&step.device().reopen().unwrap()).unwrap();
                        state = snapshot.try_clone().unwrap();
                        losses += 1;
                    }
                    Err(error) => panic!("submission {submission}: {error}"),
                }
            }
            gpu(&device).injected.disarm();
            assert!(weights(&state).unwrap() == expected, "submission {submission}: the weights are others");
            if losses == 0 {
                assert!(submission > 8, "the run has {submission} submissions only");
                break;
            }
            assert_eq!(losses, 1, "submission {submission}");
        }
    }

    #[test]
    fn shaders_that_do_not_compile_are_named() {
        let Some(device) = software() else { return };
        let step = |spoil: &dyn Fn(&mut crate::codegen::KernelCode)| {
            let mut plan = fixtures::training_plan(device.target());
            spoil(&mut plan.code[0]);
            Step::new(plan, Report::default(), &fixtures::traced(), &device, &fixtures::config())
        };
        let spoiled = |wgsl: &str| wgsl.replacen("fn main", "fn main main", 1);
        let error = step(&|code| code.variants.iter_mut().for_each(|v| v.wgsl = spoiled(&v.wgsl))).err().expect("refused").to_string();
        assert!(error.starts_with("device: no variant of a kernel compiles: "), "{error}");
        // A variant that the driver does not take leaves the next one.
        let step = step(&|code| {
            let mut first = code.variants[0].clone();
            first.wgsl = spoiled(&first.wgsl);
            code.variants.insert(0, first);
        });
        let (step, x) = (step.unwrap(), HostTensor::f32(&[4], &[1.0, 2.0, 3.0, 4.0]));
        let loss = step.run(&mut step.init(1).unwrap(), [&x, &HostTensor::i32(&[], &[0])]).unwrap().loss().unwrap();
        assert_eq!(loss, 10.0);
    }

    #[test]
    fn long_runs_do_not_grow() {
        let Some(device) = software() else { return };
        let (training, x) = (build_small(&device), HostTensor::f32(&[16, 8], &[0.5; 128]));
        let y = HostTensor::i32(&[16], &[1; 16]);
        let mut state = training.init(1).unwrap();
        let logits = crate::frontend::trace_eval("logits", |t| Ok(vec![("y", t.input("x", crate::types::DType::F32, (16, 8)).softmax(-1))])).unwrap();
        let inference = compile(&logits, &device, &Config::default()).unwrap();
        let other = inference.init(0).unwrap();
        let round = |state: &mut State, steps: usize| {
            for k in 0..steps {
                let result = training.run(state, [&x, &y]).unwrap();
                let inferred = inference.infer(&other, [&x]).unwrap();
                // Some are read, others dropped.
                if k % 3 == 0 {
                    result.loss().unwrap();
                    inferred.outputs().unwrap();
                }
            }
            assert!(state.step() > 0);
            drop(state.get("layers.0.weight").unwrap());
            gpu(&device).wait().unwrap();
            gpu(&device).allocated_bytes()
        };
        let early = round(&mut state, 100);
        assert_eq!(round(&mut state, 2000), early);
    }

    fn build_small(device: &Device) -> Step {
        compile_train(&mlp(16, &[8, 8, 4]).unwrap(), device, AdamW::new(1e-2), &Config::default()).unwrap()
    }
}
