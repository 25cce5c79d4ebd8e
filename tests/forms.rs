//! What every form of kernel must do whatever its body is: read operands through any index map, make every check, spell every
//! constant. On the adapter, where there is one, and on the interpreter.

mod kernels;

use inductor::interp::Interpreter;
use inductor::loop_ir::naive::{self, Memory};
use inductor::loop_ir::{BodyBuilder, BufferId, Combiner, IndexExpr, Tag, Val, flatten, unflatten};
use inductor::ops::OperandView;
use inductor::scalar::ScalarFn as F;
use inductor::types::{DType, Dim, HostTensor, Storage, TensorType};
use kernels::{Case, Random, random, ty};
use std::sync::Arc;

/// How many random cases to run: a few, or as many as `FORMS_CASES` says.
fn cases(few: u64) -> u64 {
    std::env::var("FORMS_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(few)
}

fn below(r: &mut Random, n: i64) -> i64 {
    (r.next() % n as u64) as i64
}

fn pick<T: Copy>(r: &mut Random, from: &[T]) -> T {
    from[below(r, from.len() as i64) as usize]
}

/// A condition under which an element exists.
enum Test {
    /// In `0..n`.
    Within(IndexExpr, i64),
    /// Zero.
    Zero(IndexExpr),
}

/// Where the elements of an operand lie.
struct Map {
    at: IndexExpr,
    numel: i64,
    tests: Vec<Test>,
}

impl Map {
    /// Some place for each point of these axes: permuted, flipped, strided, with offsets, repeated, divided, beyond the ends of a
    /// padded dimension, through windows and back, seen as a matrix of another shape.
    fn random(r: &mut Random, mut own: Vec<(IndexExpr, i64)>) -> Map {
        let (mut dims, mut tests): (Vec<(IndexExpr, i64)>, Vec<Test>) = (vec![], vec![]);
        if own.len() >= 2 && below(r, 2) == 0 {
            let k = own.remove(below(r, own.len() as i64) as usize);
            let m = own.remove(below(r, own.len() as i64) as usize);
            dims.push(window(r, m, k, &mut tests));
        }
        for (e, n) in own {
            let dim = Dim::int;
            let offset = below(r, 3);
            match below(r, 7) {
                0 => dims.push((e.subtract_from(&dim(n - 1)), n)),
                1 => dims.push((e.times(&dim(2)).plus(&dim(offset)), 2 * n + offset)),
                2 => {
                    let (at, size) = (e.plus(&dim(-offset)), (n - 2 * offset).max(1));
                    tests.push(Test::Within(at.clone(), size));
                    dims.push((at, size));
                }
                3 => {}
                4 => dims.push((e.div(&dim(2)), (n + 1) / 2)),
                5 => dims.push((e.modulo(&dim(3)), n.min(3))),
                _ => dims.push((e, n)),
            }
        }
        for i in (1..dims.len()).rev() {
            dims.swap(i, below(r, i as i64 + 1) as usize);
        }
        let (coordinates, shape): (Vec<IndexExpr>, Vec<Dim>) = dims.iter().map(|(e, n)| (e.clone(), Dim::int(*n))).unzip();
        let numel: i64 = dims.iter().map(|(_, n)| n).product();
        let flat = flatten(&coordinates, &shape);
        let at = match below(r, 2) {
            0 => transposed(r, &flat, numel),
            _ => flat,
        };
        Map { at, numel, tests }
    }

    fn load(&self, b: &mut BodyBuilder, x: &OperandView) -> Val {
        let mut mask = None;
        for test in &self.tests {
            let conditions = match test {
                Test::Within(e, n) => vec![compare(b, F::Ge, e, 0), compare(b, F::Lt, e, *n)],
                Test::Zero(e) => vec![compare(b, F::Eq, e, 0)],
            };
            for c in conditions {
                mask = Some(mask.map_or(c, |m| b.call(F::LogicalAnd, &[m, c])));
            }
        }
        match mask {
            Some(mask) => b.load_if(x.at(std::slice::from_ref(&self.at)), mask),
            None => b.load(x.at(std::slice::from_ref(&self.at))),
        }
    }
}

/// A dimension in which two axes meet: as a window and its kernel do, or the other way round, which divides by the stride.
fn window(r: &mut Random, m: (IndexExpr, i64), k: (IndexExpr, i64), tests: &mut Vec<Test>) -> (IndexExpr, i64) {
    let (stride, dilation, padding) = (1 + below(r, 3), 1 + below(r, 2), below(r, 3));
    let dim = Dim::int;
    if below(r, 2) == 0 {
        let at = m.0.times(&dim(stride)).add(&k.0.times(&dim(dilation))).plus(&dim(-padding));
        let size = ((m.1 - 1) * stride + (k.1 - 1) * dilation + 1 - 2 * padding).max(1);
        tests.push(Test::Within(at.clone(), size));
        return (at, size);
    }
    let shifted = m.0.add(&k.0.times(&dim(-dilation))).plus(&dim(padding));
    let (at, size) = (shifted.div(&dim(stride)), ((m.1 + 2 * padding) / stride).max(1));
    tests.push(Test::Within(at.clone(), size));
    tests.push(Test::Zero(shifted.modulo(&dim(stride))));
    (at, size)
}

/// The place in the transpose of the elements as a matrix, as tokens of an image are.
fn transposed(r: &mut Random, flat: &IndexExpr, numel: i64) -> IndexExpr {
    let divisors: Vec<i64> = (1..=numel).filter(|d| numel % d == 0).collect();
    let columns = Dim::int(pick(r, &divisors));
    let rows = Dim::int(numel).floor_div(&columns);
    let at = unflatten(flat, &[rows.clone(), columns.clone()]);
    flatten(&[at[1].clone(), at[0].clone()], &[columns, rows])
}

fn compare(b: &mut BodyBuilder, f: F, e: &IndexExpr, with: i64) -> Val {
    let (at, with) = (b.index(e, DType::I32), b.constant(DType::I32, with as f64));
    b.call(f, &[at, with])
}

/// Runs a case's program on the interpreter; the contents of the buffers and the status word.
fn interpret(case: &Case) -> (Vec<HostTensor>, u32) {
    let program = Arc::new(case.program());
    let mut interpreter = Interpreter::new(program.clone()).unwrap();
    interpreter.bind(&case.bindings).unwrap();
    for (i, input) in case.inputs.iter().enumerate() {
        interpreter.write(BufferId(i as u32), input).unwrap();
    }
    let status = interpreter.run().unwrap();
    let read = |i: u32| interpreter.read(BufferId(i)).unwrap();
    ((0..case.types.len() as u32).map(read).collect(), status)
}

/// Runs a case's nests as they stand.
fn define(case: &Case) -> (Vec<Memory>, u32) {
    let memory = |(i, ty): (usize, &TensorType)| match case.inputs.get(i) {
        Some(t) if ty.dtype.is_float() => Memory::from_f64(ty.dtype, &t.to_f64()),
        Some(t) => Memory::from_i64(ty.dtype, &t.to_i64()),
        None => Memory::zeros(ty.dtype, ty.numel().eval(&case.bindings).unwrap() as usize),
    };
    let mut memories: Vec<Memory> = case.types.iter().enumerate().map(memory).collect();
    let status = case.nests.iter().find_map(|nest| naive::run(nest, &mut memories, &case.bindings).unwrap());
    (memories, status.unwrap_or(0))
}

fn check_interpreter(case: &Case) {
    let (expected, got) = (define(case).0, interpret(case).0);
    for (b, (x, y)) in got.iter().zip(&expected).enumerate() {
        let (x, y) = (x.to_f64(), y.to_f64());
        let scale = y.iter().filter(|v| v.is_finite()).fold(0f64, |m, v| m.max(v.abs()));
        for i in 0..x.len() {
            let close = x[i] == y[i] || x[i].is_nan() && y[i].is_nan() || (x[i] - y[i]).abs() <= 1e-5 * scale;
            assert!(close, "{}: interpreter: buffer {b}: element {i} is {}, not {}\n{}", case.name, x[i], y[i], case.nests[0]);
        }
    }
}

/// A product whose operands are read through random maps.
fn product(seed: u64) -> Case {
    let r = &mut Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1);
    let edges = [1, 2, 3, 5, 7, 8, 16, 17, 31, 33, 65];
    let rows: Vec<i64> = vec![pick(r, &[1, 1, 2, 3]), pick(r, &edges), pick(r, &edges)];
    let cols: Vec<i64> = match below(r, 3) {
        0 => vec![pick(r, &[3, 4, 7, 17, 33])],
        1 => vec![pick(r, &[2, 5, 8]), 3],
        _ => vec![pick(r, &[1, 4, 5]), 2, 3],
    };
    let axis = |i: usize| {
        let n = rows.iter().chain(&cols).copied().nth(i).unwrap();
        (IndexExpr::axis(i as u32, &Dim::int(n)), n)
    };
    let k = || (3..3 + cols.len()).map(axis);
    let a = Map::random(r, [axis(0), axis(1)].into_iter().chain(k()).collect());
    let b = Map::random(r, [axis(0), axis(2)].into_iter().chain(k()).collect());
    let dtypes = [pick(r, &[DType::F32, DType::F32, DType::F16, DType::BF16]), pick(r, &[DType::F32, DType::F32, DType::F16, DType::BF16])];
    let inputs = vec![random(dtypes[0], &[a.numel as usize], seed), random(dtypes[1], &[b.numel as usize], seed + 1)];
    let swap = below(r, 2) == 0;
    let domain: Vec<Dim> = rows.iter().map(|&n| Dim::int(n)).collect();
    let columns: Vec<Dim> = cols.iter().map(|&n| Dim::int(n)).collect();
    let mut case = Case::new(format!("product {seed} {rows:?} {cols:?}"), inputs, vec![ty(DType::F32, &rows)], |cx| {
        let (x, w, y) = (cx.operand(0), cx.operand(1), cx.results[0].0);
        cx.nest(&domain, &columns, |body, at, _| {
            let (p, q) = (a.load(body, &x), b.load(body, &w));
            let (p, q) = (body.cast(p, DType::F32), body.cast(q, DType::F32));
            let terms = body.call(F::Mul, &[p, q]);
            let dot = body.reduce(Combiner::Sum, terms);
            body.tag = Tag::Matmul { a: p, b: q, dot, batch: 1, m: 1, triangle: Default::default(), precision: Default::default() };
            let to = match swap {
                true => flatten(&[at[0].clone(), at[2].clone(), at[1].clone()], &[domain[0].clone(), domain[2].clone(), domain[1].clone()]),
                false => flatten(at, &domain),
            };
            body.write(y, to, dot);
            Ok(())
        })
    });
    case.tolerance = 1e-5;
    for (dtype, storage) in dtypes.iter().zip(&mut case.storage).take(2) {
        if *dtype != DType::F32 && below(r, 2) == 0 {
            *storage = Storage::Packed;
        }
    }
    case
}

#[test]
fn products_read_their_operands_through_any_map() {
    for seed in 0..cases(60) {
        let case = product(seed);
        check_interpreter(&case);
        case.check();
    }
}

/// The status word that a case's kernels leave, by every executor.
fn statuses(case: &Case) -> Vec<(String, u32)> {
    let mut out = vec![("definition".to_string(), define(case).1), ("interpreter".into(), interpret(case).1)];
    for target in kernels::targets() {
        kernels::validate(&case.plan(&target));
    }
    if let Some(gpu) = kernels::device::gpu() {
        let mut initial: Vec<Option<HostTensor>> = case.inputs.iter().cloned().map(Some).collect();
        initial.resize(case.types.len(), None);
        let plain = inductor::types::DeviceCaps { subgroups: None, ..gpu.target.caps.clone() };
        let plain = inductor::config::Target { caps: plain, model: inductor::types::DeviceModel::large_gpu() };
        for target in [&gpu.target, &plain] {
            let plan = case.plan(target);
            let name = plan.code[0].variants[0].name.clone();
            out.push((name, gpu.run(&plan, &initial, &case.bindings, 1).1));
        }
    }
    out
}

/// What the nest around a check computes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Work {
    Map,
    Sum,
    Columns,
    Softmax,
    Scan,
    Product,
    Sort,
    Head,
    MatrixProduct,
    Scatter,
}

/// Which values a check is of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Level {
    Row,
    Element,
}

/// How many elements a check of that level looks at.
fn elements(work: Work, level: Level, (rows, cols): (i64, i64)) -> i64 {
    match (level, work) {
        (Level::Element, _) => rows * cols,
        (Level::Row, Work::Columns) => cols,
        (Level::Row, _) => rows,
    }
}

/// A nest that checks the elements of `ids`, of which one is out of range, where they are not masked; nothing uses what that gives.
fn checking(work: Work, level: Level, (rows, cols): (i64, i64), bad: i64, masked: Option<bool>) -> Case {
    let count = elements(work, level, (rows, cols));
    let mut ids = vec![3i64; count as usize];
    ids[bad as usize] = 9;
    // The mask is off at the bad one, or at every other.
    let on: Vec<i64> = (0..count).map(|i| ((i == bad) != (masked == Some(true))) as i64).collect();
    let inputs = vec![
        random(DType::F32, &[rows as usize, cols as usize], 1),
        HostTensor::from_i64(DType::I32, &[count as usize], &ids),
        HostTensor::from_i64(DType::I32, &[count as usize], &on),
    ];
    let (n, m) = (Dim::int(rows), Dim::int(cols));
    let name = format!("{work:?} {level:?} {rows}x{cols} bad {bad} masked {masked:?}");
    Case::new(name, inputs, vec![ty(DType::F32, &[rows, cols.max(rows)])], |cx| {
        let (x, ids, on, y) = (cx.operand(0), cx.operand(1), cx.operand(2), cx.results[0].0);
        let sizes = match work {
            Work::Map => (vec![n.clone(), m.clone()], vec![]),
            Work::Columns => (vec![m.clone()], vec![n.clone()]),
            Work::MatrixProduct => (vec![n.clone(), n.clone()], vec![m.clone()]),
            _ => (vec![n.clone()], vec![m.clone()]),
        };
        cx.nest(&sizes.0, &sizes.1, |b, r, c| {
            let (row, col) = match work {
                Work::Map => (r[0].clone(), r[1].clone()),
                Work::Columns => (c[0].clone(), r[0].clone()),
                _ => (r[0].clone(), c[0].clone()),
            };
            let own = if work == Work::Columns && level == Level::Row { &r[0] } else { &row };
            let at = if level == Level::Row { own.clone() } else { row.times(&m).add(&col) };
            let v = b.load(x.at(&[row.clone(), col.clone()]));
            let id = b.load(ids.at(std::slice::from_ref(&at)));
            let mask = masked.map(|_| {
                let (flag, zero) = (b.load(on.at(std::slice::from_ref(&at))), b.constant(DType::I32, 0.0));
                b.call(F::Ne, &[flag, zero])
            });
            let checked = b.bound(id, &Dim::int(7), mask, 5);
            if work == Work::MatrixProduct {
                // An operand that is computed from what is checked.
                let (number, none) = (b.index(&checked, DType::F32), b.constant(DType::F32, 0.0));
                let nothing = b.call(F::Mul, &[number, none]);
                let operand = b.call(F::Add, &[v, nothing]);
                let place = r[0].times(&Dim::int(rows.max(cols))).add(&r[1]);
                matrix_product(b, if level == Level::Element { operand } else { v }, &x, (y, place), r, &col);
            } else {
                finish(b, work, v, y, (&row, &col), &m);
            }
            Ok(())
        })
    })
}

fn matrix_product(b: &mut BodyBuilder, v: Val, x: &OperandView, (y, place): (BufferId, IndexExpr), r: &[IndexExpr], k: &IndexExpr) {
    let w = b.load(x.at(&[r[1].clone(), k.clone()]));
    let terms = b.call(F::Mul, &[v, w]);
    let dot = b.reduce(Combiner::Sum, terms);
    b.tag = Tag::Matmul { a: v, b: w, dot, batch: 0, m: 1, triangle: Default::default(), precision: Default::default() };
    b.write(y, place, dot);
}

/// The rest of the nest: reduces, sorts or copies, and stores.
fn finish(b: &mut BodyBuilder, work: Work, v: Val, y: BufferId, (row, col): (&IndexExpr, &IndexExpr), m: &Dim) {
    let each = row.times(m).add(col);
    match work {
        Work::Map => b.write(y, each, v),
        Work::Sum | Work::Columns => {
            let sum = b.reduce(Combiner::Sum, v);
            b.write(y, if work == Work::Sum { row } else { col }.clone(), sum);
        }
        Work::Softmax => {
            let max = b.reduce(Combiner::Max, v);
            let e = b.call(F::Sub, &[v, max]);
            let e = b.call(F::Exp, &[e]);
            let sum = b.reduce(Combiner::Sum, e);
            let out = b.call(F::Div, &[e, sum]);
            b.write(y, each, out);
        }
        Work::Scan | Work::Product => {
            let prefix = b.scan(if work == Work::Scan { Combiner::Sum } else { Combiner::Prod }, v);
            b.write(y, each, prefix);
        }
        Work::Sort => {
            let sorted = b.sort(v, false);
            b.write(y, each, sorted);
        }
        Work::Head => {
            let sorted = b.sort(v, true);
            b.write_first(y, row.times(&Dim::int(2)).add(col), sorted, &Dim::int(2));
        }
        Work::Scatter => {
            let (index, own) = (b.index(&col.modulo(&Dim::int(5)), DType::I32), b.index(row, DType::I32));
            let hit = b.call(F::Eq, &[index, own]);
            let zero = b.constant(DType::F32, 0.0);
            let term = b.call(F::Where, &[hit, v, zero]);
            let sum = b.reduce(Combiner::Sum, term);
            b.write(y, row.clone(), sum);
        }
        Work::MatrixProduct => unreachable!("has its own end"),
    }
}

/// A check is an effect: every form and executor makes it, masks included, although nothing uses what it gives.
#[test]
fn every_form_makes_every_check() {
    use Work::*;
    let sizes: &[(i64, i64)] = &[(1, 1), (3, 4), (5, 33), (40, 7), (2, 1025), (66, 64)];
    for work in [Map, Sum, Columns, Softmax, Scan, Product, Sort, Head, MatrixProduct, Scatter] {
        for level in [Level::Row, Level::Element] {
            for (k, &(rows, cols)) in sizes.iter().enumerate() {
                if work == Head && cols < 2 {
                    continue;
                }
                let count = elements(work, level, (rows, cols));
                let bad = [0, count - 1, count / 2][k % 3];
                for masked in [None, Some(true), Some(false)] {
                    let case = checking(work, level, (rows, cols), bad, masked);
                    let expected = if masked == Some(true) { 0 } else { 5 };
                    for (executor, status) in statuses(&case) {
                        assert_eq!(status, expected, "{} by {executor}\n{}", case.name, case.nests[0]);
                    }
                }
            }
        }
    }
}

/// Numbers known when a shader is written reach every cast as what they are.
#[test]
fn constants_of_every_dtype_through_every_cast() {
    let dtypes = [DType::F32, DType::F16, DType::BF16, DType::F64, DType::I64, DType::I32, DType::U32, DType::I16, DType::I8, DType::U8, DType::Bool];
    let device = kernels::device::gpu();
    for from in dtypes {
        for to in dtypes {
            let lacks = |d: DType| d == DType::F64 && !device.is_none_or(|g| g.target.caps.f64);
            if lacks(from) || lacks(to) {
                continue;
            }
            for x in [0.0, 1.0, -1.0, 3.0, -200.0, 300.5, 70000.0, f64::NAN, f64::INFINITY, -0.0] {
                let mut case = Case::new(format!("{x} as {from} to {to}"), vec![], vec![ty(to, &[3])], |cx| {
                    cx.pointwise(0, |b, _| {
                        let v = b.constant(from, if from.is_float() || x.is_finite() { x } else { 2.0 });
                        Ok(b.cast(v, to))
                    })
                });
                // Words of 32 bits hold numbers that are known to fit.
                if to == DType::I64 && device.is_none_or(|g| g.target.caps.i64) {
                    case.storage[0] = Storage::Native;
                } else if to == DType::I64 && !(i32::MIN as f64..=i32::MAX as f64).contains(&x) {
                    continue;
                }
                check_interpreter(&case);
                if let Some(gpu) = device {
                    // Metal has no doubles.
                    if ![from, to].contains(&DType::F64) {
                        kernels::validate(&case.plan(&gpu.target));
                    }
                    case.compare(gpu, &gpu.target);
                }
            }
        }
    }
}

/// Gathers at numbers of 64 bits, in range and not, beside indices that are loaded.
#[test]
fn constant_indices() {
    for (index, dtype, status) in [(2i64, DType::I64, 0), (2, DType::I32, 0), (-1, DType::I64, 7), (9, DType::I64, 7), (9, DType::U8, 7)] {
        let table = random(DType::F32, &[5, 8], 1);
        let places = HostTensor::from_i64(DType::I32, &[6], &[0, 1, 2, 3, 4, 0]);
        let case = Case::new(format!("gather at {index} of {dtype}"), vec![table, places], vec![ty(DType::F32, &[6, 8])], |cx| {
            let (t, places) = (cx.operand(0), cx.operand(1));
            cx.pointwise(0, |b, at| {
                let place = b.load(places.at(&at[..1]));
                b.bound(place, &5.into(), None, 3);
                let k = b.constant(dtype, index as f64);
                let k = b.bound(k, &5.into(), None, 7);
                Ok(b.load(t.at(&[k, at[1].clone()])))
            })
        });
        case.check();
        for (executor, found) in statuses(&case) {
            assert_eq!(found, status, "{} by {executor}", case.name);
        }
    }
}
