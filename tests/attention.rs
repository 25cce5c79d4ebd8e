//! Attention in blocks: validated under several capabilities and, where there is an adapter, run and compared in f64.
#![allow(missing_docs)]

#[path = "kernels/mod.rs"]
mod kernels;
#[path = "kernels/units.rs"]
mod units;

use inductor::codegen::{Plan, generate};
use inductor::config::Target;
use inductor::forms::{Form, candidates};
use inductor::ops::{AttentionOperand, FusedAttention, FusedAttentionGrad, Op, OpDef as _, Real, ScaledDotProductAttention};
use inductor::types::{DType, Dim, HostTensor, TensorType};
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
        None => FusedAttention { attention: attention.clone() }.into(),
        Some(of) => FusedAttentionGrad { of, attention: attention.clone() }.into(),
    };
    let results = op.infer(&types).unwrap();
    let mut case = Case::new(format!("{op:?} {dtype} {sizes:?} {mask:?}"), inputs, results, |cx| op.lower(cx));
    case.tolerance = 2e-5;
    case
}

#[test]
fn attention_in_blocks() {
    let plain = |causal: bool, dropout: f64| ScaledDotProductAttention { causal, scale: None, dropout: Real::new(dropout) };
    let gradients = [AttentionOperand::Query, AttentionOperand::Key, AttentionOperand::Value].map(Some);
    for of in [None].into_iter().chain(gradients) {
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
        let op = FusedAttention { attention: ScaledDotProductAttention { causal: true, ..Default::default() } };
        let results = op.infer(&types).unwrap();
        let mut case = Case::symbolic("attention t x s", inputs, types, results, &[(&t, rows), (&s, columns)], |cx| op.lower(cx));
        case.tolerance = 2e-5;
        case.check();
    }
}

/// Attention of f16 by matrix units: in every block that the reference card can run, and emulated on the adapter.
#[test]
fn attention_by_matrix_units() {
    let plain = |causal: bool, dropout: f64| ScaledDotProductAttention { causal, scale: None, dropout: Real::new(dropout) };
    let gradients = [AttentionOperand::Query, AttentionOperand::Key, AttentionOperand::Value].map(Some);
    for of in [None].into_iter().chain(gradients) {
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
            let plans = by_units(&case, &with_units(gpu));
            case.compare_plan(gpu, plans.last().expect("small blocks fit"));
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
    found.filter(|form| matches!(form, Form::Attention(blocks) if blocks.units)).map(plan).collect()
}
