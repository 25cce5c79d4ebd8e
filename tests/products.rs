//! Matrix products in every tile: by multiply-adds and by cooperative matrices, on the adapter against the reference.

mod kernels;
#[path = "kernels/units.rs"]
mod units;

use inductor::codegen::{Plan, generate};
use inductor::config::Target;
use inductor::forms::product::{Machine, Sizes};
use inductor::forms::{Form, Math, Operand, Tile, candidates};
use inductor::loop_ir::{Combiner, IndexExpr, Number, Tag, Triangle, flatten};
use inductor::ops::{Matmul, OpDef as _, TriangularMatmul};
use inductor::scalar::ScalarFn as F;
use inductor::types::{DType, Dim, HostTensor, MatmulPrecision, TensorType};
use kernels::{Case, random, ty};
use units::with_units;

/// `a[z, m, k] * b[z, k, n]` with a prologue on `a` and an epilogue of scale, bias and residual.
fn product(batch: usize, m: usize, n: usize, k: usize, swap: (bool, bool), rich: bool) -> Case {
    product_of(DType::F32, batch, m, n, k, swap, rich)
}

/// The same with operands of another float dtype.
fn product_of(dtype: DType, batch: usize, m: usize, n: usize, k: usize, swap: (bool, bool), rich: bool) -> Case {
    let a_shape = if swap.0 { [batch, k, m] } else { [batch, m, k] };
    let b_shape = if swap.1 { [batch, n, k] } else { [batch, k, n] };
    let mut inputs = vec![random(dtype, &a_shape, 1), random(dtype, &b_shape, 2)];
    if rich {
        inputs.extend([random(DType::F32, &[n], 3), random(DType::F32, &[batch, m, n], 4)]);
    }
    let name = format!("matmul {dtype} {batch}x{m}x{n}x{k} {swap:?} {rich}");
    let mut case = Case::new(name, inputs, vec![ty(DType::F32, &[batch, m, n])], |cx| {
        let (a, b) = (cx.operand(0), cx.operand(1));
        let y = cx.results[0].0;
        let extra = rich.then(|| (cx.operand(2), cx.operand(3)));
        let rows: Vec<Dim> = [batch, m, n].map(Dim::from).to_vec();
        cx.nest(&rows, &[k.into()], |body, r, c| {
            let a_at = if swap.0 { [&r[0], &c[0], &r[1]] } else { [&r[0], &r[1], &c[0]] }.map(Clone::clone);
            let b_at = if swap.1 { [&r[0], &r[2], &c[0]] } else { [&r[0], &c[0], &r[2]] }.map(Clone::clone);
            let (mut x, w) = (body.load(a.at(&a_at)), body.load(b.at(&b_at)));
            if rich {
                x = body.call(F::Relu, &[x]);
            }
            let (x, w) = (body.cast(x, DType::F32), body.cast(w, DType::F32));
            let p = body.call(F::Mul, &[x, w]);
            let dot = body.reduce(Combiner::Sum, p);
            body.tag = Tag::Matmul { a: x, b: w, dot, batch: 1, m: 1, triangle: Default::default(), precision: Default::default() };
            let mut out = dot;
            if let Some((bias, residual)) = &extra {
                let bias = body.load(bias.at(&r[2..]));
                let residual = body.load(residual.at(r));
                out = body.call(F::Add, &[out, bias]);
                out = body.call(F::Add, &[out, residual]);
            }
            body.write(y, flatten(r, &rows), out);
            Ok(())
        })
    });
    case.tolerance = 1e-5;
    case
}

#[test]
fn matmul_with_tails() {
    let all = [(false, false), (true, false), (false, true), (true, true)];
    for (m, n, k) in
        [(1, 1, 1), (16, 16, 8), (17, 33, 9), (64, 64, 16), (65, 63, 17), (33, 130, 40), (128, 128, 32), (132, 200, 52), (16, 64, 0), (40, 40, 3)]
    {
        for swap in all {
            product(1, m, n, k, swap, false).check();
            product(2, m, n, k, swap, true).check();
        }
    }
}

/// Where the result, and what is added to it, lies along the rows, the transposed product runs.
#[test]
fn results_along_rows() {
    for (m, n, k) in [(64usize, 33usize, 20usize), (17, 48, 9), (96, 64, 16)] {
        let inputs = [[m, k], [k, n], [n, m]].iter().zip(1..).map(|(shape, seed)| random(DType::F32, shape, seed)).collect();
        let sizes = [n, m].map(Dim::from);
        let mut case = Case::new(format!("transposed {m}x{n}x{k}"), inputs, vec![ty(DType::F32, &[n, m])], |cx| {
            let (a, b, added, y) = (cx.operand(0), cx.operand(1), cx.operand(2), cx.results[0].0);
            cx.nest(&[m.into(), n.into()], &[k.into()], |body, r, c| {
                let (x, w) = (body.load(a.at(&[r[0].clone(), c[0].clone()])), body.load(b.at(&[c[0].clone(), r[1].clone()])));
                let p = body.call(F::Mul, &[x, w]);
                let dot = body.reduce(Combiner::Sum, p);
                body.tag = Tag::Matmul { a: x, b: w, dot, batch: 0, m: 1, triangle: Default::default(), precision: Default::default() };
                let place = [r[1].clone(), r[0].clone()];
                let added = body.load(added.at(&place));
                let out = body.call(F::Add, &[dot, added]);
                body.write(y, flatten(&place, &sizes), out);
                Ok(())
            })
        });
        case.tolerance = 1e-5;
        case.check();
    }
}

/// Parts of a sum whose length is known at run time only, of which some start behind its end.
#[test]
fn parts_of_a_product_with_symbols() {
    let (m, k) = (Dim::symbol("m", 1, 512), Dim::symbol("k", 1, 512));
    let chunk = k.ceil_div(&Dim::int(64)) * Dim::int(16);
    for (rows, inner) in [(5i64, 7i64), (33, 100), (40, 64)] {
        let (a, b) = (TensorType::new(DType::F32, vec![m.clone(), k.clone()]), TensorType::new(DType::F32, vec![k.clone(), Dim::int(48)]));
        let sizes: Vec<Dim> = vec![4.into(), m.clone(), 48.into()];
        let y = TensorType::new(DType::F32, sizes.clone());
        let inputs = vec![random(DType::F32, &[rows as usize, inner as usize], 1), random(DType::F32, &[inner as usize, 48], 2)];
        let mut case = Case::symbolic("parts of m x k", inputs, vec![a, b], vec![y], &[(&m, rows), (&k, inner)], |cx| {
            let (a, b, y) = (cx.operand(0), cx.operand(1), cx.results[0].0);
            cx.nest(&sizes, std::slice::from_ref(&chunk), |body, r, c| {
                let at = r[0].times(&chunk).add(&c[0]);
                let (position, end) = (body.index(&at, DType::I32), body.index(&IndexExpr::constant(&k), DType::I32));
                let inside = body.call(F::Lt, &[position, end]);
                let x = body.load_if(a.at(&[r[1].clone(), at.clone()]), inside);
                let w = body.load_if(b.at(&[at.clone(), r[2].clone()]), inside);
                let [x, w] = [x, w].map(|v| body.value_or(Some(inside), v, Number::new(DType::F32, 0.0)));
                let p = body.call(F::Mul, &[x, w]);
                let dot = body.reduce(Combiner::Sum, p);
                body.tag = Tag::Matmul { a: x, b: w, dot, batch: 1, m: 1, triangle: Default::default(), precision: Default::default() };
                body.write(y, flatten(r, &sizes), dot);
                Ok(())
            })
        });
        case.tolerance = 1e-5;
        case.check();
    }
}

#[test]
fn matmul_with_symbols() {
    let (m, k) = (Dim::symbol("m", 1, 512), Dim::symbol("k", 1, 512));
    for (rows, inner) in [(5i64, 7i64), (64, 64), (70, 100)] {
        let (a, b) = (TensorType::new(DType::F32, vec![m.clone(), k.clone()]), TensorType::new(DType::F32, vec![k.clone(), Dim::int(48)]));
        let y = TensorType::new(DType::F32, vec![m.clone(), Dim::int(48)]);
        let inputs = vec![random(DType::F32, &[rows as usize, inner as usize], 1), random(DType::F32, &[inner as usize, 48], 2)];
        let sizes = [(&m, rows), (&k, inner)];
        let mut case = Case::symbolic("matmul m x k", inputs, vec![a, b], vec![y], &sizes, |cx| {
            inductor::ops::Matmul { transpose_a: false, transpose_b: false }.lower(cx)
        });
        case.tolerance = 1e-5;
        case.check();
    }
}

fn allow(case: &mut Case, admitted: MatmulPrecision) {
    for nest in &mut case.nests {
        if let Tag::Matmul { precision, .. } = &mut nest.tag {
            *precision = admitted;
        }
    }
}

/// Plans of a product in each tile of cooperative matrices that fits `bytes` of workgroup memory.
fn in_units(case: &Case, target: &Target, bytes: u32) -> Vec<Plan> {
    let units = |t: &Tile| matches!(t.math, Math::Cooperative(_)) && t.workers.is_none() && t.shared_bytes(4) <= bytes;
    in_tiles(case, target, |t| units(&t).then_some(t))
}

/// Plans of a product in the tiles that `choose` makes of those that the device can run.
fn in_tiles(case: &Case, target: &Target, choose: impl Fn(Tile) -> Option<Tile>) -> Vec<Plan> {
    let program = case.program_for(target);
    let operand = |b: &inductor::loop_ir::BufferId| {
        let placed = &program.buffers[b.0 as usize];
        Operand { dtype: placed.ty.dtype, storage: placed.storage, numel: placed.ty.numel() }
    };
    let operands: Vec<Operand> = program.commands[0].buffers.iter().map(operand).collect();
    let chosen = |form: Form| if let Form::Product(tile) = form { choose(tile).map(Form::Product) } else { None };
    let forms = candidates(&program.kernels[0], &operands, target).into_iter().filter_map(|(form, _)| chosen(form));
    let plan = |form: Form| {
        let mut program = program.clone();
        program.forms[0] = form;
        generate(program, target).unwrap_or_else(|e| panic!("{}: {e}", case.name))
    };
    forms.map(plan).collect()
}

/// The result of a product of two matrices in the first tile of cooperative matrices that the adapter has room for.
fn run_in_units(case: &Case, gpu: &kernels::device::Gpu) -> Vec<f64> {
    let plan = &in_units(case, &with_units(gpu), gpu.target.caps.max_workgroup_bytes)[0];
    let initial: Vec<Option<HostTensor>> = case.inputs.iter().cloned().map(Some).chain([None]).collect();
    let (slots, _, _) = gpu.run(plan, &initial, &case.bindings, 1);
    let result = &plan.program.buffers[2];
    let shape = result.ty.shape.as_ints().expect("sizes are known");
    kernels::device::decode(&slots[2], result, &shape).to_f64()
}

/// What an output of a product is, and what its error is held against.
#[derive(Default)]
struct Terms {
    sum: f64,
    /// Sums of squares of the left and of the right factors.
    left: f64,
    right: f64,
    /// Sum of the magnitudes of the right factors.
    own: f64,
}

impl Terms {
    fn of(pairs: impl Iterator<Item = (f64, f64)>) -> Terms {
        pairs.fold(Terms::default(), |t, (a, b)| Terms { sum: t.sum + a * b, left: t.left + a * a, right: t.right + b * b, own: t.own + b.abs() })
    }
}

/// What a precision promises of sums over random values.
fn promise(precision: MatmulPrecision) -> f64 {
    if precision == MatmulPrecision::Medium { 1e-3 } else { 1e-6 }
}

#[test]
fn products_by_matrix_units() {
    let shapes = [(33, 130, 40, (false, false)), (65, 63, 17, (true, false)), (64, 64, 64, (false, true)), (30, 36, 170, (true, true))];
    for (m, n, k, swap) in shapes {
        for precision in [MatmulPrecision::Medium, MatmulPrecision::High] {
            let mut case = product(2, m, n, k, swap, true);
            allow(&mut case, precision);
            case.tolerance = promise(precision);
            let native = in_units(&case, &Target::h100(), 48 << 10);
            assert_eq!(native.len(), 4, "{}", case.name);
            native.iter().for_each(kernels::validate);
            let Some(gpu) = kernels::device::gpu() else { continue };
            let plans = in_units(&case, &with_units(gpu), gpu.target.caps.max_workgroup_bytes);
            assert!(!plans.is_empty());
            case.compare_plan(gpu, &plans[0]);
        }
    }
}

/// Operands of f16 need no scales at any precision: their products are exact in f32.
#[test]
fn products_of_halves_by_matrix_units() {
    let shapes = [
        (33, 130, 40, (false, false)),
        (65, 63, 17, (true, false)),
        (64, 64, 64, (false, true)),
        (30, 36, 170, (true, true)),
        (40, 44, 96, (false, false)),
    ];
    for (m, n, k, swap) in shapes {
        let mut case = product_of(DType::F16, 2, m, n, k, swap, true);
        case.tolerance = 1e-5;
        let native = in_units(&case, &Target::h100(), 48 << 10);
        assert_eq!(native.len(), 6, "{}", case.name);
        assert!(native.iter().all(|plan| plan.code[0].variants[0].name.ends_with("-f16")));
        native.iter().for_each(kernels::validate);
        let Some(gpu) = kernels::device::gpu() else { continue };
        let plans = in_units(&case, &with_units(gpu), gpu.target.caps.max_workgroup_bytes);
        assert!(!plans.is_empty());
        plans.iter().rev().take(2).for_each(|plan| case.compare_plan(gpu, plan));
    }
}

/// Of tiles that do not share steps, those that took the least time on the reference card, or 3% more.
#[test]
fn tiles_of_halves_come_out_even() {
    let Target { caps, model } = Target::h100();
    let precision = MatmulPrecision::Highest;
    let machine = Machine { caps: &caps, model: &model, bytes: 4, loads: [0.0; 2], precision, halves: true, shares: false };
    let fastest = [
        ([4096, 2304, 768], [96, 128]),
        ([4096, 768, 768], [96, 128]),
        ([4096, 768, 3072], [96, 128]),
        ([16384, 384, 1536], [96, 128]),
        ([16384, 384, 384], [96, 128]),
        ([16384, 1536, 384], [128, 128]),
        ([16384, 1152, 384], [128, 128]),
        ([4096, 3072, 768], [128, 128]),
        ([4096, 4096, 4096], [128, 128]),
        ([1024, 1024, 1024], [64, 64]),
    ];
    for ([m, n, k], expected) in fastest {
        let [m, n, k] = [m, n, k].map(f64::from);
        let (tile, _) = machine.by_time(&Sizes { batch: 1.0, m, n, k, ..Sizes::default() })[0];
        assert_eq!([tile.bm, tile.bn], expected, "{m} x {n} x {k}");
    }
}

/// A product with zeros in place of a triangle, of which each tile leaves out as much as it can.
fn triangular(triangle: Triangle, [m, n, k]: [usize; 3]) -> Case {
    let inputs = vec![random(DType::F32, &[2, m, k], 1), random(DType::F32, &[2, k, n], 2)];
    let rows: Vec<Dim> = [2, m, n].map(Dim::from).to_vec();
    let mut case = Case::new(format!("{} {m}x{n}x{k}", triangle.name()), inputs, vec![ty(DType::F32, &[2, m, n])], |cx| {
        let (a, b, y) = (cx.operand(0), cx.operand(1), cx.results[0].0);
        cx.nest(&rows, &[k.into()], |body, r, c| {
            let (mut x, w) =
                (body.load(a.at(&[r[0].clone(), r[1].clone(), c[0].clone()])), body.load(b.at(&[r[0].clone(), c[0].clone(), r[2].clone()])));
            let [row, column, term] = [&r[1], &r[2], &c[0]].map(|at| body.index(at, DType::I32));
            let zero = body.constant(DType::F32, 0.0);
            let kept = match triangle {
                Triangle::TermsBefore => body.call(F::Ge, &[term, row]),
                Triangle::TermsAfter => body.call(F::Ge, &[row, term]),
                _ => body.call(F::Ge, &[row, column]),
            };
            if triangle != Triangle::Results {
                x = body.call(F::Where, &[kept, x, zero]);
            }
            let p = body.call(F::Mul, &[x, w]);
            let dot = body.reduce(Combiner::Sum, p);
            body.tag = Tag::Matmul { a: x, b: w, dot, batch: 1, m: 1, triangle, precision: Default::default() };
            let out = if triangle == Triangle::Results { body.call(F::Where, &[kept, dot, zero]) } else { dot };
            body.write(y, flatten(r, &rows), out);
            Ok(())
        })
    });
    case.tolerance = 1e-5;
    case
}

#[test]
fn triangles_are_left_out_by_every_tile() {
    let all = [Triangle::Results, Triangle::TermsBefore, Triangle::TermsAfter];
    for triangle in all {
        // Several rows of tiles; more rows than terms or columns, and fewer.
        for sizes in [[70, 70, 70], [130, 33, 40], [33, 130, 17], [64, 64, 128], [40, 9, 140]] {
            let mut case = triangular(triangle, sizes);
            allow(&mut case, MatmulPrecision::High);
            let native = in_tiles(&case, &Target::h100(), Some);
            assert!(native.iter().any(|plan| plan.code[0].variants[0].cooperative), "{}", case.name);
            native.iter().for_each(kernels::validate);
            let Some(gpu) = kernels::device::gpu() else { continue };
            let plain =
                |t: Tile| if let Math::Fma { halves, slices, .. } = t.math { Tile { math: Math::Fma { halves, unroll: 4, slices }, ..t } } else { t };
            let small = |t: Tile| (t.bm * t.bn <= 4096 && t.shared_bytes(4) <= gpu.target.caps.max_workgroup_bytes).then(|| plain(t));
            let plans = in_tiles(&case, &with_units(gpu), small);
            // A compiler for a processor takes long: every tile once, then the first.
            let tried = if sizes == [70; 3] { plans.len() } else { 1 };
            plans.iter().take(tried).for_each(|plan| case.compare_plan(gpu, plan));
        }
    }
}

/// The same of sizes that are known at run time only.
#[test]
fn triangles_of_symbolic_sizes() {
    let (t, s) = (Dim::symbol("t", 1, 512), Dim::symbol("s", 1, 512));
    for (of_result, transpose_a) in [(true, false), (false, false), (false, true)] {
        for (rows, columns) in [(5i64, 70i64), (64, 64), (70, 33), (130, 131)] {
            let op = TriangularMatmul { of_result, product: Matmul { transpose_a, transpose_b: of_result } };
            // Scores of rows with columns, or sums of what columns, or rows, hold.
            let (sizes, inner) = ([(&t, rows), (&s, columns)], (Dim::int(8), 8));
            let (a, b) = match (of_result, transpose_a) {
                (true, _) => ([(t.clone(), rows), inner.clone()], [(s.clone(), columns), inner]),
                (false, false) => ([(t.clone(), rows), (s.clone(), columns)], [(s.clone(), columns), inner]),
                (false, true) => ([(t.clone(), rows), (s.clone(), columns)], [(t.clone(), rows), inner]),
            };
            let ty = |[m, n]: &[(Dim, i64); 2]| TensorType::new(DType::F32, vec![Dim::int(2), m.0.clone(), n.0.clone()]);
            let types = vec![ty(&a), ty(&b)];
            let inputs = [a, b].iter().zip(1..).map(|([m, n], seed)| random(DType::F32, &[2, m.1 as usize, n.1 as usize], seed)).collect();
            let results = op.infer(&types).unwrap();
            let mut case = Case::symbolic("triangle of t x s", inputs, types, results, &sizes, |cx| op.lower(cx));
            case.tolerance = 1e-5;
            case.check();
        }
    }
}

/// Workgroups that share the steps of all tiles, fewer and more than there are tiles, some without any: twice, since counts must be zero again.
#[test]
fn tiles_that_workgroups_share() {
    let shapes =
        [(70, 65, 170, (false, false), 3), (40, 131, 33, (true, true), 7), (66, 36, 512, (false, true), 40), (130, 64, 16, (true, false), 2)];
    for (m, n, k, swap, workers) in shapes {
        let mut case = product(2, m, n, k, swap, true);
        case.tolerance = 1e-5;
        allow(&mut case, MatmulPrecision::High);
        let shared = |t: Tile| (t.workers.is_none() && t.slices() == 1).then_some(Tile { workers: Some(workers), ..t });
        let native = in_tiles(&case, &Target::h100(), shared);
        assert!(native.iter().any(|plan| plan.code[0].variants[0].cooperative), "{}", case.name);
        native.iter().for_each(kernels::validate);
        let Some(gpu) = kernels::device::gpu() else { continue };
        // Short shaders: a compiler for a processor takes long.
        let small = |t: Tile| (t.bm * t.bn <= 4096 && t.shared_bytes(4) <= gpu.target.caps.max_workgroup_bytes).then_some(t);
        let plain =
            |t: Tile| if let Math::Fma { halves, slices, .. } = t.math { Tile { math: Math::Fma { halves, unroll: 4, slices }, ..t } } else { t };
        for plan in in_tiles(&case, &with_units(gpu), |t| small(t).and_then(shared).map(plain)) {
            case.compare_runs(gpu, &plan, 2);
        }
    }
}

/// Blocks of 32 and of 64 rows, in every layout: terms of a step in a loop, and all spelled out where that is not too much for a processor's compiler.
#[test]
fn blocks_in_every_layout() {
    let Some(gpu) = kernels::device::gpu() else { return };
    for (rows, unroll, (m, n, k)) in [(32, 16, (128, 64, 48)), (32, 16, (65, 68, 50)), (64, 4, (130, 132, 36))] {
        for swap in [(false, false), (true, false), (false, true), (true, true)] {
            let mut case = product(1, m, n, k, swap, true);
            case.tolerance = 1e-5;
            let block = |t: Tile| match t.math {
                Math::Fma { halves, slices: 1, .. } if (t.wm, t.wn) == (rows, rows) && t.workers.is_none() => {
                    Some(Tile { math: Math::Fma { halves, unroll, slices: 1 }, ..t })
                }
                _ => None,
            };
            let fits = |t: Tile| block(t).filter(|t| t.shared_bytes(4) <= gpu.target.caps.max_workgroup_bytes);
            let plans = in_tiles(&case, &gpu.target, fits);
            assert!(!plans.is_empty(), "{}", case.name);
            case.compare_plan(gpu, &plans[0]);
        }
    }
}

/// Terms that slices of a workgroup share: fewer than a step of each, some slices without any, and sizes that divide by nothing.
#[test]
fn terms_that_slices_share() {
    let shapes = [
        (33, 70, 170, (false, false), 3),
        (40, 131, 33, (true, true), 2),
        (15, 36, 512, (false, true), 4),
        (64, 64, 7, (true, false), 4),
        (128, 32, 784, (false, false), 4),
    ];
    for (m, n, k, swap, slices) in shapes {
        let mut case = product(2, m, n, k, swap, true);
        case.tolerance = 1e-5;
        let target = kernels::device::gpu().map_or_else(Target::h100, |gpu| gpu.target.clone());
        let sliced = |t: Tile| {
            let t = Tile { math: Math::Fma { halves: 1, unroll: 4, slices }, workers: None, ..t };
            let fits = t.threads() <= 512 && t.shared_bytes(4) <= target.caps.max_workgroup_bytes;
            (fits && t.bm * t.bn <= 4096).then_some(t)
        };
        let mut plans = in_tiles(&case, &target, sliced);
        plans.dedup_by_key(|plan| plan.program.forms[0].clone());
        assert!(!plans.is_empty(), "{}", case.name);
        plans.iter().for_each(kernels::validate);
        let Some(gpu) = kernels::device::gpu() else { continue };
        plans.iter().for_each(|plan| case.compare_plan(gpu, plan));
    }
}

/// Rows of twelve orders of magnitude, terms that grow along a row by as many, and zeros: values within 2^16 of the largest are as exact as
/// f32, and smaller ones are off by 2^-37 of it at most.
#[test]
fn high_products_over_wide_ranges() {
    let Some(gpu) = kernels::device::gpu() else { return };
    let (m, n, k) = (36, 36, 200);
    let unit = |i: usize| ((i * 7919 + 13) % 1009) as f64 / 1009.0 - 0.5;
    let ten = |e: usize| 10f64.powi(-(e as i32));
    let rows: Vec<f64> = (0..m * k).map(|i| unit(i) * ten(i / k % 13)).collect();
    let growing: Vec<f64> = (0..m * k).map(|i| if i / k == 3 { 0.0 } else { unit(i) * ten(12 - i % k * 12 / k) }).collect();
    let y: Vec<f64> = (0..k * n).map(|i| unit(i + 5)).collect();
    for x in [rows, growing] {
        let mut case = product(1, m, n, k, (false, false), false);
        case.inputs = vec![HostTensor::from_f64(DType::F32, &[1, m, k], &x), HostTensor::from_f64(DType::F32, &[1, k, n], &y)];
        allow(&mut case, MatmulPrecision::High);
        let got = run_in_units(&case, gpu);
        let (x, y) = (case.inputs[0].to_f64(), case.inputs[1].to_f64());
        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let Terms { sum, left, right, own } = Terms::of((0..k).map(|t| (x[i * k + t], y[t * n + j])));
            // The largest value of the left operand is below one half.
            let allowed = 1e-6 * f64::sqrt(left * right) + 0.5 * 2f64.powi(-37) * own;
            assert!((got[i * n + j] - sum).abs() <= allowed, "row {i} column {j}: {} against {sum}", got[i * n + j]);
        }
    }
}

/// What is not finite stays so in its own row and column, and leaves the others alone.
#[test]
fn infinities_in_high_products() {
    let Some(gpu) = kernels::device::gpu() else { return };
    let (m, n, k) = (36, 36, 64);
    let mut case = product(1, m, n, k, (false, false), false);
    let mut x = case.inputs[0].to_f64();
    (x[2 * k + 5], x[7 * k + 9]) = (f64::INFINITY, f64::NAN);
    let clean = case.inputs[0].clone();
    allow(&mut case, MatmulPrecision::High);
    let expected = run_in_units(&case, gpu);
    case.inputs[0] = HostTensor::from_f64(DType::F32, clean.shape(), &x);
    for (i, (got, want)) in run_in_units(&case, gpu).into_iter().zip(expected).enumerate() {
        let row = i / n;
        assert!(if row == 2 || row == 7 { !got.is_finite() } else { got == want }, "element {i}: {got}, {want} without infinities");
    }
}

/// A step behind the first with values that f16 does not hold at the scales before it, beside NaN and infinities: rows without them are as
/// exact as elsewhere.
#[test]
fn large_values_behind_the_first_step() {
    let Some(gpu) = kernels::device::gpu() else { return };
    let (m, n, k) = (36, 36, 330);
    for precision in [MatmulPrecision::High, MatmulPrecision::Medium] {
        let mut case = product(1, m, n, k, (false, false), false);
        let mut x = case.inputs[0].to_f64();
        (x[2 * k + 70], x[7 * k + 71]) = (f64::INFINITY, f64::NAN);
        (x[3 * k + 72], x[4 * k + 150], x[6 * k + 329]) = (400.0, -2e3, 1e5);
        case.inputs[0] = HostTensor::from_f64(DType::F32, &[1, m, k], &x);
        allow(&mut case, precision);
        let got = run_in_units(&case, gpu);
        let (x, y) = (case.inputs[0].to_f64(), case.inputs[1].to_f64());
        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let Terms { sum, left, right, own } = Terms::of((0..k).map(|t| (x[i * k + t], y[t * n + j])));
            // Small values are off by 2^-37 of the largest.
            let allowed = promise(precision) * f64::sqrt(left * right) + 1e5 * 2f64.powi(-37) * own;
            let is_right = if i == 2 || i == 7 { !got[i * n + j].is_finite() } else { (got[i * n + j] - sum).abs() <= allowed };
            assert!(is_right, "{precision:?}, row {i} column {j}: {} against {sum}", got[i * n + j]);
        }
    }
}
