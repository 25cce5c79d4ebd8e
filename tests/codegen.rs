//! Generated kernels: validated under several capabilities and, where there is an adapter, run and compared.
#![allow(missing_docs)]

#[path = "kernels/mod.rs"]
mod kernels;

use inductor::codegen::generate;
use inductor::config::{Config, Mode, Target};
use inductor::loop_ir::{BodyBuilder, Combiner, IndexExpr, Val, flatten};
use inductor::ops::{NestBuilder, OpDef as _, OperandView};
use inductor::optim::AdamW;
use inductor::scalar::ScalarFn as F;
use inductor::schedule::Program;
use inductor::types::{DType, Dim, HostTensor, Storage, TensorType};
use inductor::{Initializer, trace};
use kernels::{Case, random, ty};
use std::collections::BTreeSet;

const EDGES: &[usize] = &[1, 2, 31, 32, 33, 63, 64, 65, 255, 256, 257, 1023, 1024, 1025, 4097];

fn row(cx: &NestBuilder, k: usize) -> (OperandView, Vec<Dim>) {
    let x = cx.operand(k);
    let sizes = x.ty.shape.0.to_vec();
    (x, sizes)
}

/// Every op's samples, lowered and run.
#[test]
fn samples_of_all_ops() {
    for (n, sample) in inductor::ops::samples().into_iter().enumerate() {
        let Ok(results) = sample.op.infer(&sample.operands) else { continue };
        let inputs: Vec<HostTensor> = sample
            .operands
            .iter()
            .enumerate()
            .map(|(k, t)| {
                let shape = t.shape.as_ints().unwrap();
                let count: usize = shape.iter().product();
                let mut r = kernels::Random(n as u64 * 31 + k as u64);
                if t.dtype.is_float() {
                    let x: Vec<f64> = (0..count).map(|_| if sample.positive { 0.1 + 1.9 * r.unit() } else { r.unit() * 4.0 - 2.0 }).collect();
                    HostTensor::from_f64(t.dtype, &shape, &x)
                } else {
                    let top = if t.dtype == DType::Bool { 2 } else { sample.index_below };
                    HostTensor::from_i64(t.dtype, &shape, &(0..count).map(|_| (r.next() % top as u64) as i64).collect::<Vec<_>>())
                }
            })
            .collect();
        let name = format!("{} {:?}", sample.op.name(), sample.op);
        let mut lowered = true;
        let mut case = Case::new(name, inputs, results, |cx| {
            lowered = sample.op.lower(cx).is_ok();
            Ok(())
        });
        if lowered {
            case.tolerance = 2e-5;
            if matches!(sample.op, inductor::ops::Op::Bitcast(_)) {
                // Bits of f64 fill all of an i64.
                for (storage, _) in case.storage.iter_mut().zip(&case.types).filter(|(_, ty)| ty.dtype == DType::I64) {
                    *storage = Storage::Native;
                }
            }
            case.check();
        }
    }
}

fn softmax(cx: &mut NestBuilder) -> Result<(), String> {
    let (x, sizes) = row(cx, 0);
    let (buffer, ty) = cx.results[0].clone();
    cx.nest(&sizes[..1], &sizes[1..], |b, r, c| {
        let at = [r, c].concat();
        let v = b.load(x.at(&at));
        let m = b.reduce(Combiner::Max, v);
        let d = b.call(F::Sub, &[v, m]);
        let e = b.call(F::Exp, &[d]);
        let s = b.reduce(Combiner::Sum, e);
        let y = b.call(F::Div, &[e, s]);
        b.write(buffer, flatten(&at, &ty.shape.0), y);
        Ok(())
    })
}

#[test]
fn softmax_of_every_width() {
    for &n in EDGES {
        for rows in [1, 3, 70] {
            if rows * n < 100_000 {
                Case::new(format!("softmax {rows}x{n}"), vec![random(DType::F32, &[rows, n], 1)], vec![ty(DType::F32, &[rows, n])], softmax).check();
            }
        }
    }
}

#[test]
fn softmax_keeps_infinities() {
    let inf = f32::INFINITY;
    let x = HostTensor::f32(&[4, 5], &[-inf, -inf, -inf, -inf, -inf, 1., 2., -inf, 3., 4., inf, 0., 0., 0., 0., f32::NAN, 1., 2., 3., 4.]);
    Case::new("softmax inf", vec![x], vec![ty(DType::F32, &[4, 5])], softmax).check();
}

fn layer_norm(cx: &mut NestBuilder) -> Result<(), String> {
    let (x, sizes) = row(cx, 0);
    let (g, h) = (cx.operand(1), cx.operand(2));
    let (y, mean, rstd) = (cx.results[0].0, cx.results[1].0, cx.results[2].0);
    cx.nest(&sizes[..1], &sizes[1..], |b, r, c| {
        let at = [r, c].concat();
        let v = b.load(x.at(&at));
        let mu = b.reduce(Combiner::Welford, v);
        let m2 = b.proj(mu, 1);
        let n = b.proj(mu, 2);
        let var = b.call(F::Div, &[m2, n]);
        let eps = b.constant(DType::F32, 1e-5);
        let var = b.call(F::Add, &[var, eps]);
        let rs = b.call(F::Rsqrt, &[var]);
        let d = b.call(F::Sub, &[v, mu]);
        let d = b.call(F::Mul, &[d, rs]);
        let (w, k) = (b.load(g.at(c)), b.load(h.at(c)));
        let d = b.call(F::Mul, &[d, w]);
        let d = b.call(F::Add, &[d, k]);
        b.write(y, flatten(&at, &sizes), d);
        b.write(mean, r[0].clone(), mu);
        b.write(rstd, r[0].clone(), rs);
        Ok(())
    })
}

#[test]
fn layer_norm_of_every_width() {
    for &n in EDGES {
        let f = |shape: &[usize], seed| random(DType::F32, shape, seed);
        let inputs = vec![f(&[5, n], 1), f(&[n], 2), f(&[n], 3)];
        let mut case =
            Case::new(format!("layer norm {n}"), inputs, vec![ty(DType::F32, &[5, n]), ty(DType::F32, &[5]), ty(DType::F32, &[5])], layer_norm);
        case.tolerance = if n < 3 { 1e-3 } else { 1e-5 };
        case.check();
    }
}

/// A matrix combined along its rows, or along its columns, in another dtype than its own.
fn combined(x: HostTensor, combiner: Combiner, wide: DType, transposed: bool) -> Case {
    let (dtype, sizes) = (x.dtype(), x.shape().to_vec());
    let (rows, n) = if transposed { (sizes[1], sizes[0]) } else { (sizes[0], sizes[1]) };
    let outputs = (0..combiner.results()).map(|k| ty(combiner.result_dtype(k, wide), &[rows])).collect();
    let mut case = Case::new(format!("{combiner:?} {dtype} {n} transposed {transposed}"), vec![x], outputs, |cx| {
        let (x, results) = (cx.operand(0), cx.results.clone());
        cx.nest(&[rows.into()], &[n.into()], |b, r, c| {
            let at = if transposed { [c, r].concat() } else { [r, c].concat() };
            let v = b.load(x.at(&at));
            let v = b.cast(v, wide);
            let s = b.reduce(combiner, v);
            for (k, (buffer, _)) in results.iter().enumerate() {
                let p = b.proj(s, k as u32);
                b.write(*buffer, r[0].clone(), p);
            }
            Ok(())
        })
    });
    case.tolerance = 1e-5;
    case
}

#[test]
fn every_combiner_at_every_size() {
    use Combiner::*;
    let all = [
        (Sum, DType::F32),
        (Prod, DType::F32),
        (Max, DType::F32),
        (Min, DType::F32),
        (ArgMax, DType::F32),
        (ArgMin, DType::F32),
        (Welford, DType::F32),
        (OnlineSoftmax, DType::F32),
        (Sum, DType::I32),
        (Max, DType::I32),
        (ArgMax, DType::I32),
        (Min, DType::U8),
        (Sum, DType::I8),
        (Max, DType::U32),
        (Any, DType::Bool),
        (All, DType::Bool),
        (Sum, DType::I64),
    ];
    for (combiner, dtype) in all {
        for &n in EDGES {
            for transposed in [false, true] {
                let rows = if n > 300 { 3 } else { 37 };
                let shape = if transposed { [n, rows] } else { [rows, n] };
                let mut x = random(dtype, &shape, n as u64);
                if combiner == Prod {
                    x = HostTensor::from_f64(dtype, &shape, &x.to_f64().iter().map(|v| 1.0 + v * 0.01).collect::<Vec<_>>());
                }
                combined(x, combiner, dtype, transposed).check();
            }
        }
    }
}

/// Columns of a matrix whose width divides by four: an invocation takes four of them, and writes elements beside the results.
#[test]
fn columns_taken_four_at_a_time() {
    use Combiner::{ArgMax, Max, Min, OnlineSoftmax, Sum, Welford};
    let all = [(Sum, DType::F32), (Max, DType::F32), (ArgMax, DType::F32), (Welford, DType::F32), (OnlineSoftmax, DType::F32), (Min, DType::I32)];
    for (combiner, dtype) in all {
        for (n, width) in [(1usize, 4usize), (2, 8), (7, 40), (33, 12), (64, 132), (257, 4), (1024, 260), (4097, 8)] {
            let shape = [n, width];
            let dims = shape.map(Dim::from);
            let mut outputs: Vec<TensorType> = (0..combiner.results()).map(|k| ty(combiner.result_dtype(k, dtype), &[width])).collect();
            outputs.push(ty(dtype, &shape));
            let inputs = vec![random(dtype, &shape, n as u64), random(dtype, &[width], 3)];
            let mut case = Case::new(format!("{combiner:?} {dtype} of {n} x {width}"), inputs, outputs, |cx| {
                let (x, bias, results) = (cx.operand(0), cx.operand(1), cx.results.clone());
                cx.nest(&dims[1..], &dims[..1], |b, r, c| {
                    let at = [c, r].concat();
                    let (v, bias) = (b.load(x.at(&at)), b.load(bias.at(r)));
                    let v = b.call(F::Add, &[v, bias]);
                    let s = b.reduce(combiner, v);
                    for (k, (buffer, _)) in results[..combiner.results()].iter().enumerate() {
                        let p = b.proj(s, k as u32);
                        b.write(*buffer, r[0].clone(), p);
                    }
                    b.write(results[combiner.results()].0, flatten(&at, &dims), v);
                    Ok(())
                })
            });
            case.tolerance = 1e-5;
            let large = kernels::targets().remove(1);
            let name = case.plan(&large).code[0].variants[0].name.clone();
            assert!(n == 1 || name.contains("x4-rows"), "{name}");
            case.check();
        }
    }
}

/// A sum of one chosen element of each column, beside the sum of all.
#[test]
fn chosen_elements_of_neighboring_columns() {
    for (n, width) in [(3usize, 8usize), (7, 12), (65, 40), (1000, 4)] {
        let dims = [n, width].map(Dim::from);
        let chosen: Vec<i64> = (0..width as i64).map(|k| k * 5 % n as i64).collect();
        let inputs = vec![random(DType::F32, &[n, width], 1), HostTensor::from_i64(DType::I32, &[width], &chosen)];
        let outputs = vec![ty(DType::F32, &[width]); 2];
        let mut case = Case::new(format!("chosen of {n} x {width}"), inputs, outputs, |cx| {
            let (x, at, y, z) = (cx.operand(0), cx.operand(1), cx.results[0].0, cx.results[1].0);
            cx.nest(&dims[1..], &dims[..1], |b, r, c| {
                let (v, at) = (b.load(x.at(&[c, r].concat())), b.load(at.at(r)));
                let (column, zero) = (b.index(&c[0], DType::I32), b.constant(DType::F32, 0.0));
                let here = b.call(F::Eq, &[column, at]);
                let only = b.call(F::Where, &[here, v, zero]);
                let (one, all) = (b.reduce(Combiner::Sum, only), b.reduce(Combiner::Sum, v));
                b.write(y, r[0].clone(), one);
                b.write(z, r[0].clone(), all);
                Ok(())
            })
        });
        case.tolerance = 1e-5;
        case.check();
    }
}

/// Half floats, in their own format where the device has it and packed in words, reduced along rows and along columns in f32.
#[test]
fn every_combiner_of_half_floats() {
    use Combiner::{ArgMax, ArgMin, Max, Min, OnlineSoftmax, Sum, Welford};
    for dtype in [DType::F16, DType::BF16] {
        let all = [Sum, Max, Min, ArgMax, ArgMin, Welford, OnlineSoftmax];
        for combiner in all.into_iter().filter(|c| dtype == DType::F16 || *c == Sum) {
            for n in [1usize, 2, 31, 32, 33, 64, 65, 257, 1024, 1025, 4097] {
                for transposed in [false, true] {
                    let rows = if n > 300 { 3 } else { 38 };
                    let shape = if transposed { [n, rows] } else { [rows, n] };
                    let mut case = combined(random(dtype, &shape, n as u64), combiner, DType::F32, transposed);
                    case.check();
                    if rows * n % 2 == 0 {
                        case.storage[0] = Storage::Packed;
                        case.check();
                    }
                }
            }
        }
    }
}

/// Maximum and sum of exponentials alone, whose exponentials may be as rough as the built-in is.
#[test]
fn softmax_statistics_of_every_width() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for &n in EDGES {
        for rows in [1usize, 5] {
            let mut x = random(DType::F32, &[rows, n], 3).to_f64();
            if rows == 5 {
                // All minus infinity; one of them; one plus infinity; a NaN at the end; far apart.
                x[..n].fill(-inf as f64);
                x[n] = -inf as f64;
                x[2 * n + n / 2] = inf as f64;
                x[4 * n - 1] = nan as f64;
                x[4 * n..].iter_mut().for_each(|x| *x *= 60.0);
            }
            let x = HostTensor::from_f64(DType::F32, &[rows, n], &x);
            let outputs = vec![ty(DType::F32, &[rows]), ty(DType::F32, &[rows])];
            let mut case = Case::new(format!("softmax statistics {rows}x{n}"), vec![x], outputs, |cx| {
                let (x, sizes) = row(cx, 0);
                let (max, sum) = (cx.results[0].0, cx.results[1].0);
                cx.nest(&sizes[..1], &sizes[1..], |b, r, c| {
                    let v = b.load(x.at(&[r, c].concat()));
                    let m = b.reduce(Combiner::OnlineSoftmax, v);
                    let s = b.proj(m, 1);
                    b.write(max, r[0].clone(), m);
                    b.write(sum, r[0].clone(), s);
                    Ok(())
                })
            });
            case.tolerance = 4e-6;
            case.check();
        }
    }
}

/// A norm's kernel along rows takes over sums along columns, of its own result and of another operand.
#[test]
fn sums_over_rows_beside_reductions_of_rows() {
    use inductor::fusion::{Limits, fuse};
    for (chunks, length, cols) in [(3usize, 4usize, 64usize), (2, 5, 257), (1, 7, 33), (5, 2, 1024), (70, 3, 40), (2, 3, 4095)] {
        let (rows, shape) = (chunks * length, [chunks * length, cols]);
        let inputs = vec![random(DType::F32, &shape, 1), random(DType::F32, &shape, 2)];
        let outputs = vec![ty(DType::F32, &shape), ty(DType::F32, &[chunks, cols]), ty(DType::F32, &[chunks, cols])];
        let mut case = Case::new(format!("norm and sums {rows}x{cols}"), inputs, outputs, |cx| {
            let (x, g) = (cx.operand(0), cx.operand(1));
            let (y, first, second) = (cx.results[0].clone(), cx.results[1].0, cx.results[2].0);
            let sizes = x.ty.shape.0.clone();
            cx.nest(&sizes[..1], &sizes[1..], |b, r, c| {
                let at = [r, c].concat();
                let v = b.load(x.at(&at));
                let square = b.call(F::Mul, &[v, v]);
                let sum = b.reduce(Combiner::Sum, square);
                let root = b.call(F::Sqrt, &[sum]);
                let z = b.call(F::Div, &[v, root]);
                b.write(y.0, flatten(&at, &sizes), z);
                Ok(())
            })?;
            let result = OperandView::of(y.0, y.1.clone());
            let parts = [Dim::int(chunks as i64), sizes[1].clone()];
            cx.nest(&parts, &[Dim::int(length as i64)], |b, r, c| {
                let at = [r[0].times(&Dim::int(length as i64)).add(&c[0]), r[1].clone()];
                let (z, g) = (b.load(result.at(&at)), b.load(g.at(&at)));
                let product = b.call(F::Mul, &[z, g]);
                let (product, plain) = (b.reduce(Combiner::Sum, product), b.reduce(Combiner::Sum, g));
                b.write(first, flatten(r, &parts), product);
                b.write(second, flatten(r, &parts), plain);
                Ok(())
            })
        });
        let limits = Limits { lanes: 1, held_columns: 4096, buffers: 8, statements: 300, rows: 1 };
        let fused = fuse(&case.nests[0], &case.nests[1], &|_| true, &limits).unwrap_or_else(|why| panic!("{}: {why}", case.name));
        assert_eq!(inductor::loop_ir::verify(&fused), Vec::<String>::new(), "{fused}");
        assert_eq!(fused.writes.iter().filter(|w| w.fold).count(), 2, "{fused}");
        let memory = |nests: &[inductor::loop_ir::Nest]| {
            use inductor::loop_ir::naive::{Memory, run};
            let mut buffers: Vec<Memory> = case.types.iter().map(|t| Memory::zeros(t.dtype, t.numel().as_int().unwrap() as usize)).collect();
            for (buffer, input) in buffers.iter_mut().zip(&case.inputs) {
                *buffer = Memory::from_f64(DType::F32, &input.to_f64());
            }
            nests.iter().for_each(|n| assert_eq!(run(n, &mut buffers, &case.bindings), Ok(None)));
            buffers
        };
        assert_eq!(memory(&case.nests), memory(std::slice::from_ref(&fused)), "{fused}");
        case.nests = vec![fused];
        case.check();
    }
}

#[test]
fn extremes_with_nan_and_ties() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let n = 70;
    let mut data = vec![0f32; 6 * n];
    data[n..2 * n].fill(-inf);
    data[2 * n..3 * n].fill(inf);
    (3 * n..4 * n).for_each(|i| data[i] = (i % 7) as f32);
    data[3 * n + 40] = nan;
    data[3 * n + 60] = nan;
    data[4 * n..5 * n].fill(nan);
    (5 * n..6 * n).for_each(|i| data[i] = -((i % 9) as f32));
    for combiner in [Combiner::Max, Combiner::Min, Combiner::ArgMax, Combiner::ArgMin, Combiner::OnlineSoftmax, Combiner::Sum] {
        let outputs = (0..combiner.results()).map(|k| ty(combiner.result_dtype(k, DType::F32), &[6])).collect();
        Case::new(format!("{combiner:?} extremes"), vec![HostTensor::f32(&[6, n], &data)], outputs, |cx| {
            let x = cx.operand(0);
            let results = cx.results.clone();
            cx.nest(&[6.into()], &[n.into()], |b, r, c| {
                let v = b.load(x.at(&[r, c].concat()));
                let s = b.reduce(combiner, v);
                for (k, (buffer, _)) in results.iter().enumerate() {
                    let p = b.proj(s, k as u32);
                    b.write(*buffer, r[0].clone(), p);
                }
                Ok(())
            })
        })
        .check();
    }
}

fn unary(name: &str, x: HostTensor, out: DType, f: impl Fn(&mut BodyBuilder, Val) -> Val) -> Case {
    let y = TensorType { dtype: out, shape: x.ty().shape };
    Case::new(name, vec![x], vec![y], |cx| {
        let x = cx.operand(0);
        cx.pointwise(0, |b, at| {
            let v = b.load(x.at(at));
            Ok(f(b, v))
        })
    })
}

#[test]
fn packed_stores_and_loads() {
    for dtype in [DType::Bool, DType::U8, DType::I8, DType::I16, DType::F16, DType::BF16] {
        for n in [1usize, 2, 3, 4, 5, 7, 8, 63, 64, 65, 1023] {
            let x = random(DType::F32, &[n], 3);
            let mut case = unary(&format!("pack {dtype} {n}"), x, dtype, |b, v| {
                let k = b.constant(DType::F32, 50.0);
                let v = b.call(F::Mul, &[v, k]);
                b.cast(v, dtype)
            });
            case.storage[1] = Storage::Packed;
            case.check();
            let mut case = unary(&format!("unpack {dtype} {n}"), random(dtype, &[n], 4), DType::F32, |b, v| b.cast(v, DType::F32));
            case.storage[0] = Storage::Packed;
            case.check();
        }
        // A packed tensor read transposed and written packed.
        let mut case = Case::new(format!("transpose {dtype}"), vec![random(dtype, &[12, 10], 5)], vec![ty(dtype, &[10, 12])], |cx| {
            let x = cx.operand(0);
            cx.pointwise(0, |b, at| Ok(b.load(x.at(&[at[1].clone(), at[0].clone()]))))
        });
        case.storage = vec![Storage::Packed, Storage::Packed];
        case.check();
        // Comparison with the row's mean, written packed from a reduction.
        for n in [8usize, 64, 260, 1024] {
            let mut case = Case::new(format!("row mask {dtype} {n}"), vec![random(DType::F32, &[3, n], 6)], vec![ty(dtype, &[3, n])], |cx| {
                let x = cx.operand(0);
                let buffer = cx.results[0].0;
                cx.nest(&[3.into()], &[n.into()], |b, r, c| {
                    let at = [r, c].concat();
                    let v = b.load(x.at(&at));
                    let m = b.reduce(Combiner::Max, v);
                    let half = b.constant(DType::F32, 0.5);
                    let m = b.call(F::Mul, &[m, half]);
                    let big = b.call(F::Gt, &[v, m]);
                    let big = b.cast(big, dtype);
                    b.write(buffer, flatten(&at, &[3.into(), n.into()]), big);
                    Ok(())
                })
            });
            case.storage[1] = Storage::Packed;
            case.check();
        }
    }
}

#[test]
fn rounding_to_half_types() {
    let mut x = vec![0.0f32, -0.0, 1.0, 65504.0, 65519.9, 65520.0, 1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    let mut r = kernels::Random(5);
    for _ in 0..2000 {
        let e = (r.unit() * 60.0 - 40.0).exp2();
        x.push(((r.unit() * 2.0 - 1.0) * e) as f32);
    }
    for k in 0..2100u32 {
        // Halves between neighbors, and the border to subnormals.
        x.push(f32::from_bits(0x3f80_0000 + k * 0x1000));
        x.push(f32::from_bits(0x3380_0000 + k * 0x0800));
    }
    let n = x.len();
    for dtype in [DType::F16, DType::BF16] {
        for storage in [Storage::Word, Storage::Packed, Storage::Native] {
            if storage == Storage::Native && (dtype != DType::F16 || kernels::device::gpu().is_none_or(|g| !g.target.caps.f16)) {
                continue;
            }
            let mut case = unary(&format!("round {dtype} {storage:?}"), HostTensor::f32(&[n], &x), dtype, |b, v| b.cast(v, dtype));
            case.storage[1] = storage;
            let Some(gpu) = kernels::device::gpu() else { continue };
            let plan = case.plan(&gpu.target);
            kernels::validate(&plan);
            let (got, _, _) = gpu.run(&plan, &[Some(case.inputs[0].clone()), None], &case.bindings, 1);
            let got = kernels::device::decode(&got[1], &plan.program.buffers[1], &[n]).to_f64();
            for i in 0..n {
                let want = dtype.round(x[i] as f64);
                assert!(got[i] == want || got[i].is_nan() && want.is_nan(), "{dtype} {storage:?}: {:e} gave {:e}, not {want:e}", x[i], got[i]);
            }
        }
    }
}

#[test]
fn casts() {
    let x: Vec<f32> = vec![0.0, -0.0, 0.4, -0.6, 1.5, -1.5, 127.9, 128.0, -129.0, 255.9, 300.0, 70000.0, 3e9, -3e9, 5e9, 1e20, -1e20, f32::NAN];
    let x: Vec<f32> = x.into_iter().chain([f32::INFINITY, f32::NEG_INFINITY, 2147483520.0, 4294967040.0, 1e-40]).collect();
    for to in [DType::I32, DType::U32, DType::U8, DType::I8, DType::I16, DType::Bool, DType::F16, DType::F32] {
        unary(&format!("cast f32 to {to}"), HostTensor::f32(&[x.len()], &x), to, |b, v| b.cast(v, to)).check();
    }
    let n: Vec<i64> = vec![0, 1, -1, 127, 128, 255, 256, -128, -129, 40000, 70000, i32::MAX as i64, i32::MIN as i64];
    for from in [DType::I32, DType::U32, DType::I8, DType::U8, DType::I16, DType::Bool] {
        let t = HostTensor::from_i64(from, &[n.len()], &n);
        for to in [DType::I32, DType::U32, DType::U8, DType::I8, DType::I16, DType::Bool, DType::F32] {
            unary(&format!("cast {from} to {to}"), t.clone(), to, |b, v| b.cast(v, to)).check();
        }
    }
}

#[test]
fn symbolic_sizes() {
    let (b, n) = (Dim::symbol("b", 1, 1000), Dim::symbol("n", 1, 5000));
    for (rows, cols) in [(1i64, 1i64), (3, 70), (65, 257), (2, 4097)] {
        let shape = [rows as usize, cols as usize];
        let t = TensorType::new(DType::F32, vec![b.clone(), n.clone()]);
        let sizes = [(&b, rows), (&n, cols)];
        Case::symbolic("softmax b x n", vec![random(DType::F32, &shape, 1)], vec![t.clone()], vec![t.clone()], &sizes, softmax).check();
        let swapped = TensorType::new(DType::F32, vec![n.clone(), b.clone()]);
        Case::symbolic("transpose b x n", vec![random(DType::F32, &shape, 1)], vec![t.clone()], vec![swapped], &sizes, |cx| {
            let x = cx.operand(0);
            cx.pointwise(0, |b, at| Ok(b.load(x.at(&[at[1].clone(), at[0].clone()]))))
        })
        .check();
        let mut case = unary("packed symbolic", random(DType::F32, &shape, 1), DType::Bool, |b, v| {
            let z = b.constant(DType::F32, 0.0);
            b.call(F::Gt, &[v, z])
        });
        case.storage[1] = Storage::Packed;
        case.check();
    }
}

#[test]
fn in_place_updates() {
    // y overwrites x's slot.
    for n in [7usize, 64, 1000] {
        let mut case = unary("in place", random(DType::F32, &[n], 1), DType::F32, |b, v| b.call(F::Exp, &[v]));
        case.slots = vec![0, 0];
        case.check();
    }
    for n in [5usize, 64, 257, 4097] {
        let mut case = Case::new(format!("softmax in place {n}"), vec![random(DType::F32, &[9, n], 1)], vec![ty(DType::F32, &[9, n])], softmax);
        case.slots = vec![0, 0];
        case.check();
    }
}

/// Slots that a form does not stand are refused, and so is a program without forms.
#[test]
fn forms_that_cannot_overwrite_what_they_read_say_so() {
    let transposed = |cx: &mut NestBuilder| {
        let (x, sizes) = row(cx, 0);
        let (y, ty) = cx.results[0].clone();
        cx.nest(&sizes, &[], |b, r, _| {
            let v = b.load(x.at(&[r[1].clone(), r[0].clone()]));
            b.write(y, flatten(r, &ty.shape.0), v);
            Ok(())
        })
    };
    let mut case = Case::new("transposed", vec![random(DType::F32, &[64, 64], 1)], vec![ty(DType::F32, &[64, 64])], transposed);
    let target = Target::h100();
    let names = |case: &Case| case.plan(&target).code[0].variants[0].name.clone();
    assert_eq!(names(&case), "tile-32x32-transposed");
    assert!(generate(case.program(), &target).unwrap_err().to_string().contains("no forms"));
    case.slots = vec![0, 0];
    let error = generate(case.program_for(&target), &target).unwrap_err().to_string();
    assert!(error.contains("slots of their own"), "{error}");
}

#[test]
fn gathers_set_the_status_word() {
    let table = random(DType::F32, &[10, 8], 1);
    let index = HostTensor::i32(&[6], &[0, 9, 3, -1, 10, 5]);
    let case = Case::new("gather", vec![table, index], vec![ty(DType::F32, &[6, 8])], |cx| {
        let (t, i) = (cx.operand(0), cx.operand(1));
        cx.pointwise(0, |b, at| {
            let k = b.load(i.at(&at[..1]));
            let k = b.bound(k, &10.into(), None, 7);
            Ok(b.load(t.at(&[k, at[1].clone()])))
        })
    });
    case.check();
    if let Some(gpu) = kernels::device::gpu() {
        let mut initial: Vec<Option<HostTensor>> = case.inputs.iter().cloned().map(Some).collect();
        initial.push(None);
        let (_, status, _) = gpu.run(&case.plan(&gpu.target), &initial, &case.bindings, 1);
        assert_eq!(status, 7);
    }
}

#[test]
fn masked_loads_and_windows() {
    // A padded convolution-like window sum: x[i + k - 2] for k in 0..5 where inside.
    let n = 50usize;
    Case::new("window", vec![random(DType::F32, &[n], 1)], vec![ty(DType::F32, &[n])], |cx| {
        let x = cx.operand(0);
        let y = cx.results[0].0;
        cx.nest(&[n.into()], &[5.into()], |b, r, c| {
            let at = r[0].add(&c[0]).plus(&Dim::int(-2));
            let i = b.index(&at, DType::I32);
            let (zero, size) = (b.constant(DType::I32, 0.0), b.constant(DType::I32, n as f64));
            let (lo, hi) = (b.call(F::Ge, &[i, zero]), b.call(F::Lt, &[i, size]));
            let inside = b.call(F::LogicalAnd, &[lo, hi]);
            let v = b.load_if(x.at(&[at]), inside);
            let s = b.reduce(Combiner::Sum, v);
            b.write(y, r[0].clone(), s);
            Ok(())
        })
    })
    .check();
}

/// Prefixes of rows and of columns, of every kind, with and without packed storage and in place.
#[test]
fn prefixes_of_every_width() {
    use Combiner::{All, Any, Max, Min, Prod, Sum};
    let all = [
        (Sum, DType::F32),
        (Prod, DType::F32),
        (Max, DType::F32),
        (Min, DType::F32),
        (Sum, DType::I32),
        (Max, DType::I32),
        (Sum, DType::I8),
        (Min, DType::U8),
        (Any, DType::Bool),
        (All, DType::Bool),
        (Sum, DType::I64),
        (Sum, DType::F16),
    ];
    let plain = [(Sum, DType::F32)].map(|k| (k, EDGES.to_vec())).into_iter();
    let others = all[1..].iter().map(|&k| (k, vec![2, 33, 256, 4097]));
    for ((combiner, dtype), sizes) in plain.chain(others) {
        for n in sizes.into_iter().chain([1000]) {
            for transposed in [false, true] {
                let rows = if n > 300 { 3 } else { 37 };
                let shape = if transposed { [n, rows] } else { [rows, n] };
                let dims = shape.map(Dim::from);
                let x = random(dtype, &shape, n as u64).to_f64();
                let spread = |v: f64| match (combiner, dtype) {
                    (Prod, _) => 1.0 + v * 0.01,
                    (_, DType::F16) => v * 0.05,
                    _ => v,
                };
                let mut x: Vec<f64> = x.into_iter().map(spread).collect();
                if combiner == Max && dtype == DType::F32 {
                    x.iter_mut().skip(n / 2).step_by(3 * n).for_each(|v| *v = f64::NAN);
                }
                let x = HostTensor::from_f64(dtype, &shape, &x);
                let mut case = Case::new(format!("scan {combiner:?} {dtype} {n} transposed {transposed}"), vec![x], vec![ty(dtype, &shape)], |cx| {
                    let (x, y) = (cx.operand(0), cx.results[0].0);
                    cx.nest(&[rows.into()], &[n.into()], |b, r, c| {
                        let at = if transposed { [c, r].concat() } else { [r, c].concat() };
                        let v = b.load(x.at(&at));
                        let wide = b.cast(v, if dtype == DType::F16 { DType::F32 } else { dtype });
                        let s = b.scan(combiner, wide);
                        let s = b.cast(s, dtype);
                        b.write(y, flatten(&at, &dims), s);
                        Ok(())
                    })
                });
                case.tolerance = 1e-5;
                case.check();
                if dtype == DType::F16 && !transposed && n % 2 == 0 {
                    case.storage = vec![Storage::Packed; 2];
                    case.check();
                }
                if (combiner, dtype) == (Sum, DType::F32) {
                    case.slots = vec![0, 0];
                    case.check();
                }
            }
        }
    }
}

/// Products whose parts leave the range of f32 where the whole does not: behind a zero, and small before large.
#[test]
fn products_of_parts_out_of_range() {
    for n in [16usize, 200, 5000] {
        let mut rows = [vec![1e20; n], vec![1.0; n], vec![1.0; n]];
        rows[0][0] = 0.0;
        (rows[1][0], rows[1][4], rows[1][5]) = (1e-30, 1e20, 1e20);
        (rows[2][0], rows[2][n / 2], rows[2][n / 2 + 1]) = (1e30, 1e-25, 1e-25);
        let shape = [3, n];
        let x = HostTensor::from_f64(DType::F32, &shape, &rows.concat());
        let mut case = Case::new(format!("products of {n}"), vec![x], vec![ty(DType::F32, &shape)], |cx| {
            let (x, sizes) = row(cx, 0);
            let y = cx.results[0].0;
            cx.nest(&sizes[..1], &sizes[1..], |b, r, c| {
                let at = [r, c].concat();
                let v = b.load(x.at(&at));
                let s = b.scan(Combiner::Prod, v);
                b.write(y, flatten(&at, &sizes), s);
                Ok(())
            })
        });
        case.tolerance = 1e-5;
        case.check();
    }
}

/// A prefix of a prefix, less the mean of the row, beside the largest prefix: three passes over a row.
#[test]
fn prefixes_beside_reductions() {
    let build = |cx: &mut NestBuilder| {
        let (x, sizes) = row(cx, 0);
        let (y, top) = (cx.results[0].0, cx.results[1].0);
        cx.nest(&sizes[..1], &sizes[1..], |b, r, c| {
            let v = b.load(x.at(&[r, c].concat()));
            let mean = b.reduce(Combiner::Max, v);
            let centered = b.call(F::Sub, &[v, mean]);
            let s = b.scan(Combiner::Sum, centered);
            let low = b.scan(Combiner::Min, s);
            let largest = b.reduce(Combiner::Max, low);
            let z = b.call(F::Sub, &[s, largest]);
            b.write(y, flatten(&[r, c].concat(), &sizes), z);
            b.write(top, r[0].clone(), largest);
            Ok(())
        })
    };
    for &n in EDGES {
        for rows in [1, 5] {
            let shape = [rows, n];
            let outputs = vec![ty(DType::F32, &shape), ty(DType::F32, &[rows])];
            let mut case = Case::new(format!("prefixes and extremes {rows}x{n}"), vec![random(DType::F32, &shape, 7)], outputs, build);
            case.tolerance = 1e-5;
            case.check();
        }
    }
    let (b, n) = (Dim::symbol("b", 1, 1000), Dim::symbol("n", 1, 5000));
    let t = TensorType::new(DType::F32, vec![b.clone(), n.clone()]);
    for (rows, cols) in [(1i64, 1i64), (3, 70), (65, 257), (2, 4097)] {
        let outputs = vec![t.clone(), TensorType::new(DType::F32, vec![b.clone()])];
        let inputs = vec![random(DType::F32, &[rows as usize, cols as usize], 1)];
        let mut case = Case::symbolic("prefixes of b x n", inputs, vec![t.clone()], outputs, &[(&b, rows), (&n, cols)], build);
        case.tolerance = 1e-5;
        case.check();
    }
}

#[test]
fn scans_of_every_combiner() {
    for n in [1usize, 2, 33, 257] {
        for combiner in [Combiner::Sum, Combiner::Max, Combiner::Prod] {
            let x = random(DType::F32, &[4, n], 1);
            let x = HostTensor::from_f64(DType::F32, &[4, n], &x.to_f64().iter().map(|v| 1.0 + v * 0.01).collect::<Vec<_>>());
            let mut case = Case::new(format!("scan {combiner:?} {n}"), vec![x], vec![ty(DType::F32, &[4, n])], |cx| {
                let x = cx.operand(0);
                let y = cx.results[0].0;
                cx.nest(&[4.into()], &[n.into()], |b, r, c| {
                    let at = [r, c].concat();
                    let v = b.load(x.at(&at));
                    let s = b.scan(combiner, v);
                    b.write(y, flatten(&at, &[4.into(), n.into()]), s);
                    Ok(())
                })
            });
            case.tolerance = 1e-5;
            case.check();
        }
    }
}

/// Values and columns of rows in order.
fn sorted(name: &str, x: HostTensor, descending: bool) -> Case {
    let ty = x.ty();
    let index = TensorType { dtype: DType::I32, shape: ty.shape.clone() };
    Case::new(format!("{name} {} {descending}", ty), vec![x], vec![ty.clone(), index], |cx| inductor::ops::Sort { dim: 1, descending }.lower(cx))
}

/// Random numbers with ties and with whatever is special about the dtype.
fn special(dtype: DType, rows: usize, n: usize) -> HostTensor {
    let mut x = random(dtype, &[rows, n], n as u64).to_f64();
    // Storage of i64 is narrow.
    let range = if dtype == DType::I64 { DType::I32 } else { dtype }.int_range();
    let (low, high) = range.map_or((f64::NEG_INFINITY, f64::INFINITY), |(a, b)| (a as f64, b as f64));
    for (i, v) in x.iter_mut().enumerate() {
        *v = match i % 13 {
            1 | 5 => 1.0,
            2 => low,
            3 if dtype.is_float() => f64::NAN,
            4 => high,
            6 => 0.0,
            7 if dtype.is_float() => -0.0,
            _ => *v,
        };
    }
    HostTensor::from_f64(dtype, &[rows, n], &x)
}

#[test]
fn sorts_of_every_length() {
    for n in [1usize, 2, 3, 5, 8, 9, 31, 63, 64, 65, 127, 257, 1000, 2048, 2049, 4097] {
        let rows = if n < 300 { 37 } else { 3 };
        sorted("sort", special(DType::F32, rows, n), n % 2 == 0).check();
        sorted("sort", special(DType::I32, rows, n), n % 2 == 1).check();
    }
    // Rows of unknown length, which a workgroup may hold or not.
    let op = inductor::ops::Sort { dim: 1, descending: true };
    for most in [512, 5000] {
        let (m, n) = (Dim::symbol("m", 1, 512), Dim::symbol("n", 1, most));
        for (rows, length) in [(3i64, 1i64), (70, 5), (2, 512)] {
            let x = TensorType::new(DType::F32, vec![m.clone(), n.clone()]);
            let index = TensorType { dtype: DType::I32, shape: x.shape.clone() };
            let inputs = vec![special(DType::F32, rows as usize, length as usize)];
            Case::symbolic("sort m x n", inputs, vec![x.clone()], vec![x, index], &[(&m, rows), (&n, length)], |cx| op.lower(cx)).check();
        }
    }
}

/// The first elements of sorted rows: held by invocations, or what a network sorts, or counted.
#[test]
fn sorts_of_which_the_head_is_written() {
    let mut cases = vec![];
    for (n, k) in
        [(1usize, 1i64), (5, 2), (127, 3), (128, 1), (129, 8), (300, 16), (300, 17), (1000, 5), (1024, 8), (4097, 16), (9001, 2), (2500, 40)]
    {
        let rows = if n < 300 { 37 } else { 3 };
        cases.push((special(DType::F32, rows, n), k, true));
        cases.push((special(DType::I32, rows, n), k, false));
    }
    for dtype in [DType::F16, DType::I64, DType::U8, DType::Bool] {
        cases.push((special(dtype, 3, 700), 7, dtype != DType::I64));
    }
    for (x, k, descending) in cases {
        let ty = TensorType::new(x.dtype(), vec![x.ty().shape[0].clone(), Dim::int(k)]);
        let index = TensorType { dtype: DType::I32, shape: ty.shape.clone() };
        let op = inductor::ops::TopK { k: Dim::int(k), dim: 1, descending };
        Case::new(format!("first {k} of {} {descending}", x.ty()), vec![x], vec![ty, index], |cx| op.lower(cx)).check();
    }
    // Rows of unknown length.
    let (m, n) = (Dim::symbol("m", 1, 512), Dim::symbol("n", 4, 4096));
    for (rows, length) in [(3i64, 4i64), (5, 129), (1, 1024)] {
        let x = TensorType::new(DType::F32, vec![m.clone(), n.clone()]);
        let y = TensorType::new(DType::F32, vec![m.clone(), Dim::int(4)]);
        let index = TensorType { dtype: DType::I32, shape: y.shape.clone() };
        let op = inductor::ops::TopK { k: Dim::int(4), dim: 1, descending: true };
        let inputs = vec![special(DType::F32, rows as usize, length as usize)];
        Case::symbolic("first 4 of m x n", inputs, vec![x], vec![y, index], &[(&m, rows), (&n, length)], |cx| op.lower(cx)).check();
    }
}

/// A subgroup takes a row and reads it once: nothing waits.
#[test]
fn the_head_of_many_rows_needs_no_barrier() {
    let op = inductor::ops::TopK { k: Dim::int(8), dim: 1, descending: true };
    let x = TensorType::new(DType::F32, (65536, 4096));
    let (values, index) = (TensorType::new(DType::F32, (65536, 8)), TensorType::new(DType::I32, (65536, 8)));
    let case = Case::symbolic("topk", vec![], vec![x], vec![values, index], &[], |cx| op.lower(cx));
    let plan = case.plan(&kernels::targets()[1]);
    let variant = &plan.code[0].variants[0];
    assert_eq!(variant.name, "first-2x32x8");
    assert!(!variant.wgsl.contains("workgroupBarrier"), "{}", variant.wgsl);
}

#[test]
fn sorts_of_every_dtype() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::I64, DType::I32, DType::I16, DType::I8, DType::U32, DType::U8, DType::Bool] {
        for n in [9usize, 300] {
            for descending in [false, true] {
                sorted("sort", special(dtype, 3, n), descending).check();
            }
        }
    }
}

/// Pointwise kernels, rows in registers, rows in loops and columns, of several sizes, in one launch: those with workgroups of one
/// size run together, with workgroup memory of their own.
#[test]
fn independent_kernels_in_one_launch() {
    let shapes = [[1usize, 1], [3, 5], [7, 64], [2, 257], [64, 33], [5, 1025], [1, 4097], [300, 4]];
    let inputs: Vec<HostTensor> = shapes.iter().enumerate().map(|(k, s)| random(DType::F32, s, k as u64)).collect();
    let whole = shapes.iter().map(|s| ty(DType::F32, s));
    let rows = shapes.iter().map(|s| ty(DType::F32, &s[..1]));
    let columns = shapes.iter().map(|s| ty(DType::F32, &s[1..]));
    let outputs: Vec<TensorType> = whole.chain(rows).chain(columns).collect();
    let mut case = Case::new("together", inputs, outputs, |cx| {
        for k in 0..shapes.len() {
            let (x, sizes) = row(cx, k);
            let [y, sums, tops] = [k, k + shapes.len(), k + 2 * shapes.len()].map(|r| cx.results[r].0);
            cx.nest(&sizes, &[], |b, r, _| {
                let v = b.load(x.at(r));
                let v = b.call(F::Sin, &[v]);
                b.write(y, flatten(r, &sizes), v);
                Ok(())
            })?;
            cx.nest(&sizes[..1], &sizes[1..], |b, r, c| {
                let v = b.load(x.at(&[r, c].concat()));
                let s = b.reduce(Combiner::Sum, v);
                b.write(sums, r[0].clone(), s);
                Ok(())
            })?;
            cx.nest(&sizes[1..], &sizes[..1], |b, r, c| {
                let v = b.load(x.at(&[c, r].concat()));
                let s = b.reduce(Combiner::Max, v);
                b.write(tops, r[0].clone(), s);
                Ok(())
            })?;
        }
        Ok(())
    });
    case.together = true;
    case.tolerance = 1e-5;
    let large = kernels::targets().remove(1);
    let plan = case.plan(&large);
    let mut commands: Vec<u32> = plan.launches.iter().flat_map(|l| l.commands.iter().copied()).collect();
    commands.sort_unstable();
    assert_eq!(commands, (0..3 * shapes.len() as u32).collect::<Vec<_>>());
    assert!(plan.launches.len() <= 12, "{:?}", plan.launches);
    assert!(plan.code.iter().any(|c| c.variants[0].wgsl.contains("var<workgroup> part") && c.variants[0].name.contains("together")));
    case.check();
}

/// The update of parameters that only a sum connects.
fn program(parameters: usize, target: &Target) -> Program {
    let traced = trace("adamw", |t| {
        let term = |i: usize| {
            let shape = if i.is_multiple_of(2) { vec![8.into(), 16.into()] } else { vec![Dim::from(10 + i)] };
            let p = t.parameter(&format!("p{i}"), DType::F32, shape.clone(), Initializer::Ones);
            let g = t.buffer(&format!("g{i}"), DType::F32, shape, Initializer::Ones);
            (p * g).sum_all()
        };
        Ok((1..parameters).fold(term(0), |sum, i| sum + term(i)))
    });
    let optimizer = AdamW::new(1e-3).betas(0.9, 0.99).weight_decay(0.1);
    let config = Config { mode: Mode::Train(optimizer.into()), ..Config::default() };
    inductor::compile::inductor(&traced.unwrap().graph, &[], target, &config).unwrap().program
}

/// What one kernel of a launch writes, no other touches: by buffer and by slot.
fn assert_independent(program: &Program) {
    for run in program.runs() {
        for a in run.clone() {
            let command = &program.commands[a];
            let nest = &program.kernels[command.kernel as usize];
            let slot = |b: &inductor::loop_ir::BufferId| program.buffers[b.0 as usize].slot;
            let written: BTreeSet<_> = nest.writes.iter().map(|w| slot(&command.buffers[w.buffer.0 as usize])).collect();
            for b in run.clone().filter(|b| *b != a) {
                assert!(!program.commands[b].buffers.iter().any(|b| written.contains(&slot(b))), "{a} and {b}");
            }
        }
    }
}

#[test]
fn updates_of_many_parameters_share_launches() {
    let large = program(20, &Target::h100());
    assert_independent(&large);
    assert!(large.runs().len() * 3 <= large.commands.len(), "{:?}", large.together);
    // Eight bindings hold one update.
    let small = program(20, &Target::webgpu_default());
    assert_independent(&small);
    assert_eq!(small.together.iter().sum::<u32>() as usize, small.commands.len());
    assert!(program(20, &Target::cpu()).together.is_empty());
}

/// Functions of the scalar table against f64, at values that matter.
#[test]
fn scalar_functions_are_accurate() {
    let Some(gpu) = kernels::device::gpu() else {
        eprintln!("skipped: no adapter");
        return;
    };
    let mut points: Vec<f32> =
        vec![0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-30, -1e-30, 1e30, -1e30];
    let mut r = kernels::Random(11);
    for _ in 0..1500 {
        points.push((r.unit() * 2.0 - 1.0) as f32);
        points.push((r.unit() * 20.0 - 10.0) as f32);
        points.push((r.unit() * 200.0 - 100.0) as f32);
        points.push(1.0 + (r.unit() as f32 - 0.5) * 1e-3);
        let scale = (r.unit() * 60.0 - 30.0).exp2();
        points.push(((r.unit() * 2.0 - 1.0) * scale) as f32);
    }
    points.truncate(7000);
    let n = points.len();
    let second: Vec<f32> = (0..n).map(|i| points[(i * 37 + 11) % n]).collect();
    let third: Vec<f32> = (0..n).map(|i| points[(i * 53 + 5) % n]).collect();
    let mut worst: Vec<(String, f64)> = vec![];
    for f in F::ALL.iter().filter(|f| f.row().domain.admits(DType::F32) && **f != F::Where) {
        let arity = f.row().arity;
        let inputs: Vec<HostTensor> = [&points, &second, &third][..arity].iter().map(|x| HostTensor::f32(&[n], x)).collect();
        let out = f.result(DType::F32);
        let case = Case::new(f.name(), inputs, vec![ty(out, &[n])], |cx| {
            let operands = cx.operands.clone();
            cx.pointwise(0, |b, at| {
                let args: Vec<Val> = operands.iter().map(|o| b.load(o.at(at))).collect();
                Ok(b.call(*f, &args))
            })
        });
        let plan = case.plan(&gpu.target);
        kernels::validate(&plan);
        let mut initial: Vec<Option<HostTensor>> = case.inputs.iter().cloned().map(Some).collect();
        initial.push(None);
        let (got, _, _) = gpu.run(&plan, &initial, &case.bindings, 1);
        let got = kernels::device::decode(&got[arity], &plan.program.buffers[arity], &[n]).to_f64();
        let mut bad = 0.0f64;
        for i in 0..n {
            let args = [points[i] as f64, second[i] as f64, third[i] as f64];
            let want = (f.row().eval_f64)(&args[..arity]);
            let want32 = want as f32 as f64;
            let same = got[i] == want || got[i] == want32 || got[i].is_nan() && want.is_nan();
            if same || (want.abs() < 1.2e-38 && got[i].abs() < 1.2e-38) {
                continue;
            }
            // Floor of a quotient may step where the quotient is rounded.
            if *f == F::FloorDiv && (got[i] - want).abs() <= 1.0f64.max(want.abs() * 2e-7) {
                continue;
            }
            let error = (got[i] - want).abs() / want.abs();
            let within = |bound: f64| error <= bound;
            if !within(f.row().floor) && !within(bad) {
                eprintln!("{}({:?}) = {} on the device, {} exactly, error {error:e}", f.name(), &args[..arity], got[i], want);
            }
            bad = if error.is_nan() { f64::INFINITY } else { bad.max(error) };
        }
        worst.push((f.name().to_string(), bad));
    }
    for (name, error) in &worst {
        eprintln!("{name:12} {error:.1e}");
    }
    let failed: Vec<_> = worst.iter().filter(|(name, e)| *e > F::parse(name).unwrap().row().floor).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn integer_functions_are_exact() {
    let Some(gpu) = kernels::device::gpu() else { return };
    let points: Vec<i64> = vec![0, 1, -1, 2, 3, -3, 7, -7, 31, 32, 33, 64, 100, -100, 65535, 65536, i32::MAX as i64, i32::MIN as i64, 12345678];
    for dtype in [DType::I32, DType::U32, DType::U8, DType::I8, DType::I16, DType::Bool] {
        let mut pairs = vec![];
        for &x in &points {
            for &y in &points {
                pairs.push((dtype.wrap(x), dtype.wrap(y)));
            }
        }
        let n = pairs.len();
        for f in F::ALL.iter().filter(|f| f.row().domain.admits(dtype) && f.row().eval_i64.is_some() && !matches!(f, F::Where | F::Philox)) {
            let arity = f.row().arity;
            let tensors = [
                HostTensor::from_i64(dtype, &[n], &pairs.iter().map(|p| p.0).collect::<Vec<_>>()),
                HostTensor::from_i64(dtype, &[n], &pairs.iter().map(|p| p.1).collect::<Vec<_>>()),
                HostTensor::from_i64(dtype, &[n], &pairs.iter().rev().map(|p| p.0 / 2).collect::<Vec<_>>()),
            ];
            let case = Case::new(format!("{} {dtype}", f.name()), tensors[..arity].to_vec(), vec![ty(f.result(dtype), &[n])], |cx| {
                let operands = cx.operands.clone();
                cx.pointwise(0, |b, at| {
                    let args: Vec<Val> = operands.iter().map(|o| b.load(o.at(at))).collect();
                    Ok(b.call(*f, &args))
                })
            });
            let plan = case.plan(&gpu.target);
            let mut initial: Vec<Option<HostTensor>> = case.inputs.iter().cloned().map(Some).collect();
            initial.push(None);
            let (got, _, _) = gpu.run(&plan, &initial, &case.bindings, 1);
            let got = kernels::device::decode(&got[arity], &plan.program.buffers[arity], &[n]).to_i64();
            let columns: Vec<Vec<i64>> = tensors.iter().map(|t| t.to_i64()).collect();
            for i in 0..n {
                let args: Vec<i64> = columns[..arity].iter().map(|c| c[i]).collect();
                if *f == F::Pow && (args[1] > 64 || args[1] < 0) {
                    continue;
                }
                let want = f.eval_int(dtype, &args).unwrap();
                assert_eq!(got[i], want, "{}{args:?} of {dtype}", f.name());
            }
        }
    }
}

#[test]
fn philox_on_the_device() {
    let keys = HostTensor::from_i64(DType::U32, &[2], &[0x1234_5678, 0xdead_beef]);
    Case::new("philox", vec![keys], vec![ty(DType::U32, &[1000])], |cx| {
        let k = cx.operand(0);
        cx.pointwise(0, |b, at| {
            let (k0, k1) = (b.load(k.at(&[IndexExpr::zero()])), b.load(k.at(&[IndexExpr::constant(1)])));
            let i = b.index(&at[0], DType::U32);
            Ok(b.call(F::Philox, &[k0, k1, i]))
        })
    })
    .check();
}
