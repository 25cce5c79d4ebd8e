//! Mixed precision: losses follow f32, and a step whose gradients are not finite changes nothing but the scale.

use super::wave;
use inductor::config::{LossScale, MixedPrecision};
use inductor::{Config, DType, Device, HostTensor, State, Step, Traced, compile_train, nn, optim, trace};

fn mixed(mixed_precision: MixedPrecision) -> Config {
    Config { mixed_precision: Some(mixed_precision), ..Config::default() }
}

/// Two layers and attention between them.
fn network() -> Traced {
    trace("network", |t| {
        let (x, labels) = (t.input("x", DType::F32, (16, 12)), t.input("labels", DType::I32, 16));
        let hidden = nn::linear(&t.path("first"), &x, 32).gelu();
        let rows = hidden.reshape((2, 8, 32));
        let mixed = rows.attention(&rows, &rows, &Default::default()).reshape((16, 32)) + &hidden;
        Ok(nn::linear(&t.path("second"), &mixed, 7).cross_entropy(&labels))
    })
    .unwrap()
}

fn batch() -> [HostTensor; 2] {
    let labels: Vec<i64> = (0..16).map(|i| i * 5 % 7).collect();
    [HostTensor::from_f64(DType::F32, &[16, 12], &wave(3, &[16, 12])), HostTensor::from_i64(DType::I32, &[16], &labels)]
}

fn losses(device: &Device, config: &Config, steps: usize) -> (Vec<f64>, State, Step) {
    let step = compile_train(&network(), device, optim::AdamW::new(1e-2), config).unwrap();
    let mut state = step.init(5).unwrap();
    let losses = (0..steps).map(|_| step.run(&mut state, &batch()[..]).unwrap().loss().unwrap().into()).collect();
    (losses, state, step)
}

#[test]
fn losses_follow_those_of_f32() {
    let devices = [Some(Device::cpu()), Device::software().ok()];
    for device in devices.into_iter().flatten() {
        let (expected, ..) = losses(&device, &Config::default(), 40);
        for (precision, tolerance) in [(MixedPrecision::f16(), 0.01), (MixedPrecision::bf16(), 0.03)] {
            let (found, state, _) = losses(&device, &mixed(precision), 40);
            for (step, (a, b)) in found.iter().zip(&expected).enumerate() {
                assert!((a - b).abs() <= tolerance * b.max(0.1), "{precision:?} step {step}: {a}, of f32 {b}");
            }
            let masters = state.get("first.weight").unwrap();
            assert_eq!(masters.dtype(), DType::F32);
        }
        assert!(expected[39] < 0.6 * expected[0]);
    }
}

/// A scale that overflows halves is halved until it does not; meanwhile nothing else changes, and the updates are counted without those steps.
#[test]
fn steps_that_overflow_change_nothing_but_the_scale() {
    let scale = LossScale { initial: 16777216.0, growth_interval: 3 };
    let config = mixed(MixedPrecision { loss_scale: Some(scale), ..MixedPrecision::f16() });
    let (_, mut state, step) = losses(&Device::cpu(), &config, 0);
    let first = state.get("second.weight").unwrap().to_f64();
    let (mut skipped, mut scales) = (0, vec![]);
    for _ in 0..16 {
        let before = state.get("second.weight").unwrap().to_f64();
        step.run(&mut state, &batch()[..]).unwrap().wait().unwrap();
        let after = state.get("second.weight").unwrap().to_f64();
        assert!(after.iter().all(|x| x.is_finite()));
        let number = |name: &str| state.get(&format!("optimizer.loss_scale.{name}")).unwrap().to_f64()[0];
        if number("skipped") as usize > skipped {
            skipped += 1;
            assert_eq!(after, before);
            assert_eq!(number("streak"), 0.0);
        } else {
            assert_ne!(after, before);
        }
        scales.push(number("scale"));
    }
    assert!((2..12).contains(&skipped), "{scales:?}");
    assert!(scales[0] == 8388608.0 && scales.windows(2).any(|w| w[1] == 2.0 * w[0]), "{scales:?}");
    // The first update moves each weight by the rate, whatever the number of steps before it: it is Adam's first.
    let (_, mut other, plain) = losses(&Device::cpu(), &Config::default(), 0);
    plain.run(&mut other, &batch()[..]).unwrap().wait().unwrap();
    let (_, mut state, step) = losses(&Device::cpu(), &config, 0);
    while state.get("second.weight").unwrap().to_f64() == first {
        step.run(&mut state, &batch()[..]).unwrap().wait().unwrap();
    }
    let (found, expected) = (state.get("second.weight").unwrap().to_f64(), other.get("second.weight").unwrap().to_f64());
    let far = found.iter().zip(&expected).filter(|(a, b)| (*a - *b).abs() > 2e-3).count();
    assert!(far <= found.len() / 50, "{far} of {} weights are elsewhere", found.len());
}

/// Gradients of several steps that are added up are dropped together where one of them is not finite.
#[test]
fn accumulation_skips_as_a_whole() {
    let scale = LossScale { initial: 16777216.0, growth_interval: 1000 };
    let config = mixed(MixedPrecision { loss_scale: Some(scale), ..MixedPrecision::f16() });
    let optimizer = optim::AdamW::new(1e-2).accumulate(2);
    let step = compile_train(&network(), &Device::cpu(), optimizer, &config).unwrap();
    let mut state = step.init(5).unwrap();
    for k in 0..24 {
        let before = state.get("second.weight").unwrap().to_f64();
        step.run(&mut state, &batch()[..]).unwrap().wait().unwrap();
        let after = state.get("second.weight").unwrap().to_f64();
        assert!(k % 2 == 1 || after == before, "step {k} is no update");
        let sum = state.get("optimizer.second.weight.grad_sum").unwrap().to_f64();
        assert!(k % 2 == 0 || sum.iter().all(|x| *x == 0.0), "step {k} leaves {sum:?}");
    }
    let skipped = state.get("optimizer.loss_scale.skipped").unwrap().to_f64()[0];
    assert!((2.0..10.0).contains(&skipped), "{skipped} updates were skipped");
}

#[test]
fn what_mixed_precision_cannot_be_is_refused() {
    let refused = |config: &Config| compile_train(&network(), &Device::cpu(), optim::Sgd::new(0.1), config).err().expect("it is refused").to_string();
    let of = |mixed_precision| mixed(mixed_precision);
    assert!(refused(&of(MixedPrecision { dtype: DType::F32, loss_scale: None })).contains("f16 or bf16, not in f32"));
    let odd = LossScale { initial: 1000.0, ..LossScale::default() };
    assert!(refused(&of(MixedPrecision { loss_scale: Some(odd), ..MixedPrecision::f16() })).contains("a power of two"));
    assert!(refused(&Config { check_gradients: true, ..of(MixedPrecision::f16()) }).contains("choose one"));
}
