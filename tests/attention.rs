//! Attention in blocks: validated under several capabilities and, where there is an adapter, run and compared in f64.
#![allow(missing_docs)]

#[path = "kernels/mod.rs"]
mod kernels;
#[path = "kernels/units.rs"]
mod units;

use inductor::codegen::{Plan, generate};
use inductor::config::Target;
use inductor::forms::{Form, candidates};
use inductor::loop_ir::Tag;
use inductor::ops::{Array, AttentionOperand, FusedAttention, FusedAttentionGrad, Op, OpDef as _, Real, ScaledDotProductAttention};
use inductor::types::{DType, Dim, HostTensor, MatmulPrecision, TensorType};
use kernels::{Case, random, ty};
use units::with_units;

/// Attention of t rows and s columns with features d and e, or one of its gradients.
fn attention(of: Option<AttentionOperand>, attention: &ScaledDotProductAttention, sizes: [usize; 4], mask: Option<DType>) -> Case {
    attention_of(DType::F32, of, attention, sizes, mask)
}

/// The same with operands of another float dtype.
fn attention_of(dtype: DType, of: Option<AttentionOperand>, attention: &ScaledDotProductAttention, sizes: [usize; 4], mask: Option<DType>) -> Case {
    let [t, s, d, e] = sizes;
    let mut inputs = vec![random(dtype, &[2, t, d], 1), random(dtype, &[2, s, d], 2), random(dtype, &[2, s, e], 3)];
    inputs.extend(mask.map(|dtype| random(dtype, &[t, s], 4)));
    if attention.dropout.get() != 0.0 {
        inputs.push(HostTensor::from_i64(DType::U32, &[2], &[7, 9]));
    }
    if of.is_some() {
        // Logarithms above the scores, so that weights are in the range of halves.
        let logs: Vec<f64> = random(DType::F32, &[2, t], 6).to_f64().iter().map(|x| x + 9.0).collect();
        inputs.extend([random(dtype, &[2, t, e], 5), HostTensor::from_f64(DType::F32, &[2, t], &logs), random(DType::F32, &[2, t], 7)]);
    }
    let types: Vec<TensorType> = inputs.iter().map(|x| ty(x.dtype(), x.shape())).collect();
    let op: Op = match of {
        None => FusedAttention { attention: attention.clone(), stores_weights: false }.into(),
        Some(of) => FusedAttentionGrad { of, attention: attention.clone() }.into(),
    };
    let results = op.infer(&types).unwrap();
    let mut case = Case::new(format!("{op:?} {dtype} {sizes:?} {mask:?}"), inputs, results, |cx| op.lower(cx));
    case.tolerance = 2e-5;
    case
}

#[test]
fn attention_in_blocks() {
    for of in [None].into_iter().chain(GRADIENTS) {
        for (k, sizes) in [[1, 1, 1, 1], [70, 131, 5, 3], [3, 5, 80, 48], [4, 3, 130, 256]].into_iter().enumerate() {
            attention(of, &plain(k % 2 == 1, 0.0), sizes, None).check();
        }
        attention(of, &plain(true, 0.25), [37, 70, 7, 4], None).check();
        attention(of, &plain(true, 0.0), [70, 33, 4, 8], Some(DType::F32)).check();
        attention(of, &plain(false, 0.0), [70, 36, 4, 5], Some(DType::Bool)).check();
    }
}

/// Lengths that are known at run time only.
#[test]
fn attention_of_symbolic_lengths() {
    let (t, s) = (Dim::symbol("t", 1, 512), Dim::symbol("s", 1, 512));
    for (rows, columns) in [(5i64, 70i64), (64, 64), (70, 33)] {
        let of = |n: &Dim, features: i64| TensorType::new(DType::F32, vec![Dim::int(2), n.clone(), Dim::int(features)]);
        let types = vec![of(&t, 8), of(&s, 8), of(&s, 4)];
        let inputs = [(rows, 8), (columns, 8), (columns, 4)].map(|(n, features)| random(DType::F32, &[2, n as usize, features], n as u64)).to_vec();
        let op = FusedAttention { attention: ScaledDotProductAttention { causal: true, ..Default::default() }, stores_weights: false };
        let results = op.infer(&types).unwrap();
        let mut case = Case::symbolic("attention t x s", inputs, types, results, &[(&t, rows), (&s, columns)], |cx| op.lower(cx));
        case.tolerance = 2e-5;
        case.check();
        admit(&mut case, MatmulPrecision::High);
        if let Some(gpu) = kernels::device::gpu() {
            case.compare_plan(gpu, &emulated(&case, gpu));
        }
    }
}

/// Attention of f16 by matrix units: in every block that the reference card can run, and emulated on the adapter.
#[test]
fn attention_by_matrix_units() {
    for of in [None].into_iter().chain(GRADIENTS) {
        // A compiler for a processor takes long for many fragments.
        for (attention, sizes, mask, small) in [
            (plain(false, 0.0), [37, 50, 16, 16], None, true),
            (plain(true, 0.25), [20, 35, 23, 40], None, true),
            (plain(false, 0.0), [18, 36, 4, 5], Some(DType::Bool), true),
            (plain(true, 0.0), [130, 96, 64, 64], None, false),
            (plain(true, 0.0), [70, 33, 16, 130], Some(DType::F16), false),
        ] {
            let mut case = attention_of(DType::F16, of, &attention, sizes, mask);
            // Weights and results are rounded to f16.
            case.tolerance = 4e-3;
            let native = by_units(&case, &Target::h100());
            assert!(!native.is_empty(), "{}", case.name);
            native.iter().for_each(kernels::validate);
            let Some(gpu) = kernels::device::gpu().filter(|_| small) else { continue };
            case.compare_plan(gpu, &emulated(&case, gpu));
        }
    }
}

/// The same of f32 in a precision below the highest.
fn admit(case: &mut Case, admitted: MatmulPrecision) {
    for nest in &mut case.nests {
        let Tag::Attention { precision, .. } = &mut nest.tag else { panic!("attention has its tag") };
        *precision = admitted;
    }
    case.name += admitted.name();
}

/// What a plan writes, each buffer with what is exact.
fn written(case: &Case, gpu: &kernels::device::Gpu, plan: &Plan) -> Vec<(Vec<f64>, Vec<f64>)> {
    let mut initial: Vec<Option<HostTensor>> = case.inputs.iter().cloned().map(Some).collect();
    initial.resize(case.types.len(), None);
    let (got, _, _) = gpu.run(plan, &initial, &case.bindings, 1);
    let of_zeros = |ty: &TensorType| Array::from_host(&HostTensor::zeros(ty.dtype, &ty.shape.as_ints().unwrap()));
    let mut expected: Vec<Array> = case.inputs.iter().map(Array::from_host).collect();
    expected.extend(case.types[expected.len()..].iter().map(of_zeros));
    case.nests.iter().for_each(|nest| kernels::reference::execute(nest, &mut expected, &case.bindings));
    let buffers = case.nests.iter().flat_map(|nest| nest.writes.iter().map(|w| w.buffer.0 as usize));
    let of_buffer = |b: usize| {
        let placed = &plan.program.buffers[b];
        let values = kernels::device::decode(&got[placed.slot.0 as usize], placed, &placed.ty.shape.as_ints().unwrap());
        (values.to_f64(), expected[b].floats())
    };
    buffers.map(of_buffer).collect()
}

/// The largest relative Frobenius error of what a plan writes. That of a logarithm is of what it is the logarithm of.
fn error_of(case: &Case, gpu: &kernels::device::Gpu, plan: &Plan) -> f64 {
    let error = |(k, (got, expected)): (usize, (Vec<f64>, Vec<f64>))| {
        let (error, norm) = got.iter().zip(&expected).fold((0.0, 0.0), |(e, n), (x, y)| (e + (x - y) * (x - y), n + y * y));
        f64::sqrt(error / if k == 1 { expected.len() as f64 } else { norm })
    };
    // NaN is no small error.
    written(case, gpu, plan).into_iter().enumerate().map(error).fold(0.0, |worst, error| if error <= worst { worst } else { error })
}

/// The smallest blocks of matrix units, emulated: a compiler for a processor takes long for many fragments.
fn emulated(case: &Case, gpu: &kernels::device::Gpu) -> Plan {
    by_units(case, &with_units(gpu)).pop().expect("small blocks fit")
}

fn plain(causal: bool, dropout: f64) -> ScaledDotProductAttention {
    ScaledDotProductAttention { causal, scale: None, dropout: Real::new(dropout) }
}

const GRADIENTS: [Option<AttentionOperand>; 3] = [Some(AttentionOperand::Query), Some(AttentionOperand::Key), Some(AttentionOperand::Value)];

/// Attention of f32 by matrix units is valid, and as exact as its precision says.
fn check_scaled(of: Option<AttentionOperand>, attention: &ScaledDotProductAttention, sizes: [usize; 4], mask: Option<DType>, emulates: bool) {
    for (precision, bound) in [(MatmulPrecision::High, 1e-6), (MatmulPrecision::Medium, 2e-3)] {
        let mut case = attention_of(DType::F32, of, attention, sizes, mask);
        admit(&mut case, precision);
        let native = by_units(&case, &Target::h100());
        kernels::validate(native.first().unwrap_or_else(|| panic!("{} has no blocks", case.name)));
        let Some(gpu) = kernels::device::gpu().filter(|_| emulates) else { continue };
        let error = error_of(&case, gpu, &emulated(&case, gpu));
        assert!(error <= bound, "{}: {error:e}", case.name);
    }
}

/// Attention of f32 by matrix units, in one term of f16 or in two.
#[test]
fn attention_of_f32_by_matrix_units() {
    for of in [None].into_iter().chain(GRADIENTS) {
        check_scaled(of, &plain(false, 0.0), [37, 50, 16, 16], None, true);
        check_scaled(of, &plain(true, 0.25), [20, 35, 23, 40], None, true);
        check_scaled(of, &plain(false, 0.0), [18, 36, 4, 5], Some(DType::Bool), true);
        check_scaled(of, &plain(true, 0.0), [130, 96, 64, 64], None, false);
        check_scaled(of, &plain(true, 0.0), [70, 33, 16, 130], Some(DType::F32), false);
    }
}

/// Sizes of heads up to the largest, of one row and of many.
#[test]
fn attention_of_f32_with_heads_of_any_size() {
    for (rows, features) in [(1, 48), (17, 80), (33, 96), (9, 128), (1000, 256), (4097, 64)] {
        for of in [None].into_iter().chain(GRADIENTS) {
            let emulates = rows < 100 && (of.is_none() || features == 48);
            check_scaled(of, &plain(true, 0.0), [rows, rows, features, features], None, emulates);
        }
    }
}

/// An operand with its elements changed.
fn change(case: &mut Case, input: usize, to: impl Fn(usize, f64) -> f64) {
    let x = &case.inputs[input];
    let values: Vec<f64> = x.to_f64().iter().enumerate().map(|(i, x)| to(i, *x)).collect();
    case.inputs[input] = HostTensor::from_f64(x.dtype(), x.shape(), &values);
}

/// Operands far outside of the range of f16 lose nothing.
#[test]
fn scales_bring_any_operands_into_range() {
    let Some(gpu) = kernels::device::gpu() else { return };
    for factors in [[1e20, 1e-20, 1e20, 1e-20], [1e-20, 1e20, 1e-20, 1e20]] {
        for of in [None].into_iter().chain(GRADIENTS) {
            let mut case = attention(of, &plain(false, 0.0), [18, 36, 16, 16], None);
            let inputs = if of.is_some() { 4 } else { 3 };
            (0..inputs).for_each(|k| change(&mut case, k, |_, x| x * factors[k]));
            // Rows of queries have scales of their own.
            change(&mut case, 0, |i, x| if i / 16 % 2 == 1 { x * 1e-14 } else { x });
            admit(&mut case, MatmulPrecision::High);
            let error = error_of(&case, gpu, &emulated(&case, gpu));
            assert!(error <= 1e-6, "{} {factors:?}: {error:e}", case.name);
        }
    }
}

/// Scores of 1e4 are as exact as by multiply-adds, also where their maximum comes late.
#[test]
fn large_scores_are_as_exact_as_by_multiply_adds() {
    let Some(gpu) = kernels::device::gpu() else { return };
    for scale in [3.0, 600.0] {
        let of = ScaledDotProductAttention { scale: Some(Real::new(scale)), ..plain(false, 0.0) };
        let mut case = attention(None, &of, [18, 70, 16, 16], None);
        change(&mut case, 1, |i, x| x * (i / 16 % 70 + 1) as f64 / 70.0);
        let plain = error_of(&case, gpu, &case.plan(&with_units(gpu)));
        admit(&mut case, MatmulPrecision::High);
        let error = error_of(&case, gpu, &emulated(&case, gpu));
        assert!(error <= 2.0 * plain + 1e-6, "{}: {error:e}, by multiply-adds {plain:e}", case.name);
    }
}

/// What is not finite, and rows that see nothing, give what the scalar form gives.
#[test]
fn what_is_not_finite_is_as_by_multiply_adds() {
    let Some(gpu) = kernels::device::gpu() else { return };
    for of in [None].into_iter().chain(GRADIENTS) {
        for (input, x) in [(0, f64::INFINITY), (1, f64::NEG_INFINITY), (2, f64::INFINITY), (2, f64::NAN), (4, f64::INFINITY), (3, 0.0)] {
            let mut case = attention(of, &plain(false, 0.0), [18, 36, 16, 16], Some(DType::Bool));
            if input >= case.inputs.len() {
                continue;
            }
            change(&mut case, input, |i, old| if i == 100 { x } else { old });
            change(&mut case, 3, |i, seen| if i / 36 == 5 { 0.0 } else { seen });
            let expected = written(&case, gpu, &case.plan(&with_units(gpu)));
            admit(&mut case, MatmulPrecision::High);
            let got = written(&case, gpu, &emulated(&case, gpu));
            for ((got, _), (expected, _)) in got.iter().zip(&expected) {
                let top = expected.iter().filter(|x| x.is_finite()).fold(0f64, |m, x| m.max(x.abs()));
                let same = |(x, y): (&f64, &f64)| x == y || x.is_nan() && y.is_nan() || (x - y).abs() <= 1e-5 * top;
                let differs = got.iter().zip(expected).position(|pair| !same(pair));
                assert!(differs.is_none(), "{} with {x} in {input}: {differs:?}\n{got:?}\n{expected:?}", case.name);
            }
        }
    }
}

/// Plans in each of the blocks of matrix units that a device can run.
fn by_units(case: &Case, target: &Target) -> Vec<Plan> {
    let program = case.program_for(target);
    let found = candidates(&program.kernels[0], &[], target).into_iter().map(|(form, _)| form);
    let plan = |form: Form| {
        let mut program = program.clone();
        program.forms[0] = form;
        generate(program, target).unwrap_or_else(|e| panic!("{}: {e}", case.name))
    };
    found.filter(|form| matches!(form, Form::Attention(blocks) if blocks.units.is_some())).map(plan).collect()
}
