//! Programs by hand against an executor that knows nothing but the definition.

use super::Interpreter;
use super::definition::{compare, numbers, program, run_and_compare};
use crate::loop_ir::{BufferId, Combiner, IndexExpr, Instr, Nest, Number, Stmt, Tag, Val, Write, axes, flatten, unflatten};
use crate::scalar::ScalarFn as F;
use crate::schedule::buffer_bytes;
use crate::types::{Bindings, DType, Dim, HostTensor, Provenance, Shape, Storage, TensorType};
use std::sync::Arc;

/// A nest under construction.
struct Make {
    nest: Nest,
}

impl Make {
    fn new(rows: &[Dim], cols: &[Dim]) -> Make {
        let nest = Nest {
            label: "test".into(),
            rows: rows.into(),
            cols: cols.into(),
            inner: Default::default(),
            body: vec![],
            writes: vec![],
            tag: Tag::Loop,
            provenance: Provenance::default(),
        };
        Make { nest }
    }
    fn push(&mut self, instr: Instr, dtype: DType) -> Val {
        self.nest.body.push(Stmt { instr, dtype });
        Val(self.nest.body.len() as u32 - 1)
    }
    fn load(&mut self, buffer: u32, index: IndexExpr, dtype: DType) -> Val {
        self.push(Instr::Load { buffer: BufferId(buffer), index, mask: None }, dtype)
    }
    fn load_if(&mut self, buffer: u32, index: IndexExpr, mask: Val, dtype: DType) -> Val {
        self.push(Instr::Load { buffer: BufferId(buffer), index, mask: Some(mask) }, dtype)
    }
    fn constant(&mut self, x: f64, dtype: DType) -> Val {
        self.push(Instr::Const(Number::new(dtype, x)), dtype)
    }
    fn call(&mut self, f: F, args: &[Val]) -> Val {
        let dtype = f.result(self.nest.dtype(*args.last().unwrap()));
        self.push(Instr::Call(f, args.to_vec()), dtype)
    }
    fn reduce(&mut self, combiner: Combiner, v: Val) -> Val {
        let dtype = self.nest.dtype(v);
        self.push(Instr::Reduce(combiner, v), dtype)
    }
    fn result(&mut self, v: Val, k: u32) -> Val {
        let out = self.push(Instr::Proj(v, k), DType::F32);
        let dtype = self.nest.dtype(out);
        self.nest.body.last_mut().unwrap().dtype = dtype;
        out
    }
    fn cast(&mut self, v: Val, dtype: DType) -> Val {
        self.push(Instr::Cast(v), dtype)
    }
    fn write(&mut self, buffer: u32, index: IndexExpr, value: Val) {
        self.nest.writes.push(Write::new(BufferId(buffer), index, value));
    }
    fn row(&self) -> Vec<IndexExpr> {
        self.nest.row_axes()
    }
    fn col(&self) -> Vec<IndexExpr> {
        self.nest.col_axes()
    }
}

fn dims(sizes: &[i64]) -> Vec<Dim> {
    sizes.iter().map(|&n| Dim::int(n)).collect()
}

fn ty(dtype: DType, shape: &[i64]) -> TensorType {
    TensorType::new(dtype, shape)
}

const EDGES: &[i64] = &[0, 1, 2, 31, 32, 33, 63, 64, 65, 255, 256, 257, 1023, 1024, 1025, 4097];
const NONE: Bindings = Bindings::new();

#[test]
fn pointwise_of_every_dtype_at_edge_sizes() {
    for &n in EDGES {
        for dtype in DType::ALL {
            let mut m = Make::new(&dims(&[n]), &[]);
            let at = m.row()[0].clone();
            let x = m.load(0, at.clone(), dtype);
            let y = m.load(1, at.clone(), dtype);
            let f = if dtype == DType::Bool { F::LogicalXor } else { F::Add };
            let z = m.call(f, &[x, y]);
            m.write(2, at, z);
            let t = ty(dtype, &[n]);
            let data: Vec<Vec<f64>> = (0..3).map(|s| numbers(dtype, n as usize, s, true)).collect();
            compare(&[m.nest], &[t.clone(), t.clone(), t], &data, &NONE, vec![], 0.0);
        }
    }
}

#[test]
fn views_broadcasts_and_splits() {
    // out[i, j] = x[j, i] + bias[j] + y[(i * 12 + j) as (.., 4)] * iota
    for (a, b) in [(1, 12), (5, 12), (64, 36), (130, 24)] {
        let mut m = Make::new(&dims(&[a, b]), &[]);
        let r = m.row();
        let x = m.load(0, flatten(&[r[1].clone(), r[0].clone()], &dims(&[b, a])), DType::F32);
        let bias = m.load(1, r[1].clone(), DType::F32);
        let flat = flatten(&r, &dims(&[a, b]));
        let parts = unflatten(&flat, &dims(&[a * b / 4, 4]));
        let y = m.load(2, flatten(&[parts[1].clone(), parts[0].clone()], &dims(&[4, a * b / 4])), DType::F32);
        let seven = flat.div(&Dim::int(7)).add(&flat.modulo(&Dim::int(5)));
        let odd = m.push(Instr::Index(seven), DType::F32);
        let s = m.call(F::Add, &[x, bias]);
        let t = m.call(F::Mul, &[y, odd]);
        let z = m.call(F::Add, &[s, t]);
        m.write(3, flat, z);
        let buffers = [ty(DType::F32, &[b, a]), ty(DType::F32, &[b]), ty(DType::F32, &[a * b]), ty(DType::F32, &[a, b])];
        let data: Vec<Vec<f64>> = (0..4).map(|s| numbers(DType::F32, (a * b) as usize, s, false)).collect();
        compare(&[m.nest], &buffers, &data, &NONE, vec![], 1e-6);
    }
}

#[test]
fn masked_loads_read_nothing_outside() {
    // A pad of two on the left and three on the right.
    for n in [1, 7, 100, 3000] {
        let mut m = Make::new(&dims(&[3, n + 5]), &[]);
        let r = m.row();
        let col = m.push(Instr::Index(r[1].clone()), DType::I32);
        let (lo, hi) = (m.constant(2.0, DType::I32), m.constant((n + 2) as f64, DType::I32));
        let (ge, lt) = (m.call(F::Ge, &[col, lo]), m.call(F::Lt, &[col, hi]));
        let mask = m.call(F::LogicalAnd, &[ge, lt]);
        let x = m.load_if(0, r[0].times(&Dim::int(n)).add(&r[1]).plus(&Dim::int(-2)), mask, DType::F32);
        m.write(1, flatten(&r, &dims(&[3, n + 5])), x);
        let data = vec![numbers(DType::F32, 3 * n as usize, 1, true), vec![9.0; 3 * (n as usize + 5)]];
        compare(&[m.nest], &[ty(DType::F32, &[3, n]), ty(DType::F32, &[3, n + 5])], &data, &NONE, vec![], 0.0);
    }
}

#[test]
fn reductions_of_every_combiner_along_both_directions() {
    use Combiner::*;
    for &n in EDGES {
        for rows in [1, 3, 40] {
            for transposed in [false, true] {
                for (combiner, dtype) in [
                    (Sum, DType::F32),
                    (Sum, DType::F64),
                    (Sum, DType::I32),
                    (Prod, DType::I64),
                    (Max, DType::F32),
                    (Min, DType::F32),
                    (Max, DType::I32),
                    (Min, DType::U8),
                    (Any, DType::Bool),
                    (All, DType::Bool),
                    (ArgMax, DType::F32),
                    (ArgMin, DType::F32),
                    (ArgMax, DType::I32),
                    (Welford, DType::F32),
                    (OnlineSoftmax, DType::F32),
                ] {
                    let mut m = Make::new(&dims(&[rows]), &dims(&[n]));
                    let (r, c) = (m.row()[0].clone(), m.col()[0].clone());
                    let at = if transposed { c.times(&Dim::int(rows)).add(&r) } else { r.times(&Dim::int(n)).add(&c) };
                    let x = m.load(0, at, dtype);
                    let first = m.reduce(combiner, x);
                    let mut buffers = vec![ty(dtype, &[rows, n])];
                    let wild = !matches!(combiner, Sum | Welford);
                    let mut data = vec![numbers(dtype, (rows * n) as usize, n as u64, wild && n > 0)];
                    if combiner == OnlineSoftmax && rows > 1 && !transposed {
                        data[0][..n as usize].fill(f64::NEG_INFINITY);
                    }
                    for k in 0..combiner.results() as u32 {
                        let v = if k == 0 { first } else { m.result(first, k) };
                        m.write(k + 1, r.clone(), v);
                        buffers.push(ty(combiner.result_dtype(k as usize, dtype), &[rows]));
                        data.push(vec![0.0; rows as usize]);
                    }
                    compare(&[m.nest], &buffers, &data, &NONE, vec![], 1e-6);
                }
            }
        }
    }
}

/// `y = (x - mean) * rsqrt(var + eps) * w + b` with its statistics stored, as a fused kernel would have it.
fn layer_norm(rows: &Dim, cols: &Dim) -> (Nest, Vec<TensorType>) {
    let mut m = Make::new(std::slice::from_ref(rows), std::slice::from_ref(cols));
    let (r, c) = (m.row(), m.col());
    let flat = flatten(&[axes(std::slice::from_ref(rows), 0), axes(std::slice::from_ref(cols), 1)].concat(), &[rows.clone(), cols.clone()]);
    let x = m.load(0, flat.clone(), DType::F32);
    let mean = m.reduce(Combiner::Welford, x);
    let (m2, count) = (m.result(mean, 1), m.result(mean, 2));
    let var = m.call(F::Div, &[m2, count]);
    let eps = m.constant(1e-5, DType::F32);
    let var = m.call(F::Add, &[var, eps]);
    let rstd = m.call(F::Rsqrt, &[var]);
    let centered = m.call(F::Sub, &[x, mean]);
    let scaled = m.call(F::Mul, &[centered, rstd]);
    let zero = IndexExpr::zero();
    let c0 = c.first().cloned().unwrap_or(zero.clone());
    let (w, b) = (m.load(1, c0.clone(), DType::F32), m.load(2, c0, DType::F32));
    let y = m.call(F::Mul, &[scaled, w]);
    let y = m.call(F::Add, &[y, b]);
    m.write(3, flat, y);
    m.write(4, r.first().cloned().unwrap_or(zero), rstd);
    let t = |d: &[&Dim]| TensorType { dtype: DType::F32, shape: Shape::new(d.iter().map(|d| (*d).clone()).collect()) };
    (m.nest, vec![t(&[rows, cols]), t(&[cols]), t(&[cols]), t(&[rows, cols]), t(&[rows])])
}

#[test]
fn fused_norm_at_edge_sizes() {
    for &cols in &EDGES[1..] {
        for rows in [1, 5, 300] {
            let (nest, buffers) = layer_norm(&Dim::int(rows), &Dim::int(cols));
            let data: Vec<Vec<f64>> = (0..5).map(|s| numbers(DType::F32, (rows * cols) as usize + 1, s, false)).collect();
            let data: Vec<Vec<f64>> = data
                .into_iter()
                .map(|mut d| {
                    d.resize(d.len().max(5000), 0.5);
                    d
                })
                .collect();
            compare(&[nest], &buffers, &data, &NONE, vec![], 3e-6);
        }
    }
}

#[test]
fn one_program_runs_at_three_sizes() {
    let (b, t) = (Dim::symbol("b", 1, 64), Dim::symbol("t", 1, 6000));
    let (nest, buffers) = layer_norm(&(b.clone() * Dim::int(3)), &t);
    let mut symbols = vec![];
    (b * t).collect_symbols(&mut symbols);
    let text = nest.to_string();
    let mut interpreter = Interpreter::new(Arc::new(program(vec![nest.clone()], &buffers, symbols))).unwrap();
    assert!(interpreter.run().is_err());
    for (b, t) in [(2, 17), (7, 64), (1, 5003), (2, 17)] {
        let bindings: Bindings = [("b".to_string(), b), ("t".to_string(), t)].into();
        let data: Vec<Vec<f64>> = (0..5).map(|s| numbers(DType::F32, 20000, s + b as u64, false)).collect();
        run_and_compare(&mut interpreter, std::slice::from_ref(&nest), &buffers, &data, &bindings, 3e-6, &text);
    }
    assert!(interpreter.bind(&[("b".to_string(), 0), ("t".to_string(), 1)].into()).is_err());
}

/// Causal softmax with a row maximum that other rows do not share, all minus infinities included.
#[test]
fn softmax_with_a_mask() {
    for (rows, cols) in [(4, 4), (16, 16), (7, 33), (3, 5000)] {
        let mut m = Make::new(&dims(&[rows]), &dims(&[cols]));
        let (r, c) = (m.row()[0].clone(), m.col()[0].clone());
        let flat = r.times(&Dim::int(cols)).add(&c);
        let x = m.load(0, flat.clone(), DType::F32);
        let (i, j) = (m.push(Instr::Index(r.clone()), DType::I32), m.push(Instr::Index(c), DType::I32));
        let seen = m.call(F::Le, &[j, i]);
        let low = m.constant(f64::NEG_INFINITY, DType::F32);
        let x = m.call(F::Where, &[seen, x, low]);
        let max = m.reduce(Combiner::OnlineSoftmax, x);
        let sum = m.result(max, 1);
        let d = m.call(F::Sub, &[x, max]);
        let e = m.call(F::Exp, &[d]);
        let p = m.call(F::Div, &[e, sum]);
        let total = m.reduce(Combiner::Sum, p);
        m.write(1, flat, p);
        m.write(2, r, total);
        let mut data = vec![numbers(DType::F32, (rows * cols) as usize, 3, false), vec![0.0; (rows * cols) as usize], vec![0.0; rows as usize]];
        data[0][cols as usize..2 * cols as usize].fill(f64::NEG_INFINITY);
        let t = ty(DType::F32, &[rows, cols]);
        compare(&[m.nest], &[t.clone(), t, ty(DType::F32, &[rows])], &data, &NONE, vec![], 1e-6);
    }
}

#[test]
fn gathers_clamp_and_set_the_status() {
    for (tokens, width, vocabulary) in [(1, 1, 3), (70, 16, 5), (300, 40, 7)] {
        for (row_level, bad) in [(false, false), (true, false), (false, true), (true, true)] {
            // Row-level: one gathered row of the table for each row of the nest, summed too.
            let (rows, cols) = if row_level { (vec![tokens], vec![width]) } else { (vec![tokens, width], vec![]) };
            let mut m = Make::new(&dims(&rows), &dims(&cols));
            let at: Vec<IndexExpr> = m.row().into_iter().chain(m.col()).collect();
            let token = m.load(0, at[0].clone(), DType::I64);
            let size = Dim::int(vocabulary);
            let token = m.push(Instr::Bound { index: token, size: size.clone(), mask: None, code: 2 }, DType::I64);
            let row = IndexExpr::value(token.0, &size);
            let x = m.load(1, row.times(&Dim::int(width)).add(&at[1]), DType::F32);
            m.write(2, flatten(&at, &dims(&[tokens, width])), x);
            let sum = if row_level { m.reduce(Combiner::Sum, x) } else { m.constant(0.0, DType::F32) };
            if row_level {
                m.write(3, at[0].clone(), sum);
            }
            let mut ids = numbers(DType::I64, tokens as usize, 5, false).iter().map(|x| x % vocabulary as f64).collect::<Vec<_>>();
            if bad {
                ids[tokens as usize / 2] = -3.0;
            }
            let buffers =
                [ty(DType::I64, &[tokens]), ty(DType::F32, &[vocabulary, width]), ty(DType::F32, &[tokens, width]), ty(DType::F32, &[tokens])];
            let data = vec![
                ids,
                numbers(DType::F32, (vocabulary * width) as usize, 6, true),
                vec![0.0; (tokens * width) as usize],
                vec![0.0; tokens as usize],
            ];
            compare(&[m.nest], &buffers, &data, &NONE, vec![], 1e-6);
        }
    }
}

#[test]
fn guarded_dispatches_are_skipped_once_the_status_is_set() {
    let mut check = Make::new(&dims(&[3]), &[]);
    let at = check.row()[0].clone();
    let i = check.load(0, at.clone(), DType::I32);
    let i = check.push(Instr::Bound { index: i, size: Dim::int(4), mask: None, code: 3 }, DType::I32);
    check.write(1, at, i);
    let mut update = Make::new(&dims(&[3]), &[]);
    let at = update.row()[0].clone();
    let x = update.load(2, at.clone(), DType::F32);
    let two = update.constant(2.0, DType::F32);
    let y = update.call(F::Mul, &[x, two]);
    update.write(2, at, y);
    let buffers = [ty(DType::I32, &[3]), ty(DType::I32, &[3]), ty(DType::F32, &[3])];
    let mut p = program(vec![check.nest, update.nest], &buffers, vec![]);
    p.commands[1].guarded = true;
    let mut interpreter = Interpreter::new(Arc::new(p)).unwrap();
    let set = |it: &mut Interpreter, ids: &[i32]| {
        it.write(BufferId(0), &HostTensor::i32(&[3], ids)).unwrap();
        it.write(BufferId(2), &HostTensor::f32(&[3], &[1.0, 2.0, 3.0])).unwrap();
        it.run().unwrap()
    };
    assert_eq!(set(&mut interpreter, &[0, 9, 1]), 3);
    assert_eq!(interpreter.read(BufferId(1)).unwrap().to_i64(), [0, 3, 1]);
    assert_eq!(interpreter.read(BufferId(2)).unwrap().to_f32(), [1.0, 2.0, 3.0]);
    assert_eq!(set(&mut interpreter, &[0, 2, 1]), 0);
    assert_eq!(interpreter.read(BufferId(2)).unwrap().to_f32(), [2.0, 4.0, 6.0]);
    interpreter.poison_temporaries();
    assert!(interpreter.read(BufferId(2)).unwrap().to_f32().iter().all(|x| x.is_nan()));
    assert!(interpreter.write(BufferId(2), &HostTensor::f32(&[2], &[1.0, 2.0])).is_err());
    assert!(interpreter.write(BufferId(2), &HostTensor::i32(&[3], &[1, 2, 3])).is_err());
}

#[test]
fn scans_and_sorts() {
    for (rows, cols) in [(1, 1), (5, 7), (3, 64), (2, 5000), (200, 3)] {
        for (dtype, descending) in [(DType::F32, false), (DType::F32, true), (DType::I32, true), (DType::U8, false), (DType::F64, false)] {
            for combiner in [Combiner::Sum, Combiner::Max, Combiner::Min] {
                let mut m = Make::new(&dims(&[rows]), &dims(&[cols]));
                let flat = flatten(&[m.row(), m.col()].concat(), &dims(&[rows, cols]));
                let x = m.load(0, flat.clone(), dtype);
                let scanned = m.push(Instr::Scan(combiner, x), dtype);
                m.write(1, flat.clone(), scanned);
                if cols < 1000 {
                    let sorted = m.push(Instr::Sort { key: x, descending }, dtype);
                    let from = m.push(Instr::Proj(sorted, 1), DType::I32);
                    m.write(2, flat.clone(), sorted);
                    m.write(3, flat, from);
                }
                let t = ty(dtype, &[rows, cols]);
                let n = (rows * cols) as usize;
                let wild = combiner != Combiner::Sum;
                let data: Vec<Vec<f64>> = vec![numbers(dtype, n, 2, wild), vec![0.0; n], vec![0.0; n], vec![0.0; n]];
                compare(&[m.nest], &[t.clone(), t.clone(), t, ty(DType::I32, &[rows, cols])], &data, &NONE, vec![], 1e-6);
            }
        }
    }
}

struct ProductCase {
    batch: i64,
    m: i64,
    n: i64,
    k: i64,
    transpose_a: bool,
    transpose_b: bool,
    dtype: DType,
    prologue: bool,
    epilogue: bool,
}

fn product_nest(p: &ProductCase) -> (Nest, Vec<TensorType>) {
    let mut b = Make::new(&dims(&[p.batch, p.m, p.n]), &dims(&[p.k]));
    let (r, k) = (b.row(), b.col()[0].clone());
    let at = |x: &IndexExpr, y: &IndexExpr, swap: bool, n: i64, m: i64| {
        let (coords, shape) = if swap { ([y, x], [m, n]) } else { ([x, y], [n, m]) };
        flatten(&[r[0].clone(), coords[0].clone(), coords[1].clone()], &dims(&[p.batch, shape[0], shape[1]]))
    };
    let accumulator = if p.dtype.is_float() { p.dtype.accumulator() } else { p.dtype };
    let mut x = b.load(0, at(&r[1], &k, p.transpose_a, p.m, p.k), p.dtype);
    let mut y = b.load(1, at(&k, &r[2], p.transpose_b, p.k, p.n), p.dtype);
    if accumulator != p.dtype {
        (x, y) = (b.cast(x, accumulator), b.cast(y, accumulator));
    }
    if p.prologue {
        x = b.call(F::Abs, &[x]);
        let bias = b.load(2, r[2].clone(), accumulator);
        y = b.call(F::Add, &[y, bias]);
    }
    let product = b.call(F::Mul, &[x, y]);
    let dot = b.reduce(Combiner::Sum, product);
    b.nest.tag = Tag::Matmul { a: x, b: y, dot, batch: 1, m: 1, triangle: Default::default(), precision: Default::default() };
    let out = flatten(&r, &dims(&[p.batch, p.m, p.n]));
    let mut z = dot;
    if p.epilogue {
        let bias = b.load(2, r[2].clone(), accumulator);
        z = b.call(F::Add, &[z, bias]);
        z = b.call(F::Maximum, &[z, bias]);
        let old = b.load(4, out.clone(), accumulator);
        let sum = b.call(F::Add, &[z, old]);
        b.write(4, out.clone(), sum);
    }
    if accumulator != p.dtype {
        z = b.cast(z, p.dtype);
    }
    b.write(3, out, z);
    let t = |dtype, shape: &[i64]| ty(dtype, shape);
    let buffers = vec![
        t(p.dtype, &[p.batch * p.m * p.k]),
        t(p.dtype, &[p.batch * p.k * p.n]),
        t(accumulator, &[p.n]),
        t(p.dtype, &[p.batch, p.m, p.n]),
        t(accumulator, &[p.batch, p.m, p.n]),
    ];
    (b.nest, buffers)
}

#[test]
fn products_with_prologue_and_epilogue() {
    let sizes =
        [(1, 1, 1, 1), (1, 2, 3, 0), (2, 5, 7, 3), (3, 33, 17, 65), (1, 70, 1, 20), (2, 1, 40, 9), (1, 18, 1100, 3), (0, 3, 4, 5), (9, 16, 16, 8)];
    for (batch, m, n, k) in sizes {
        for (transpose_a, transpose_b) in [(false, false), (true, false), (false, true), (true, true)] {
            for dtype in [DType::F32, DType::F16, DType::F64, DType::I32] {
                for (prologue, epilogue) in [(false, false), (true, false), (false, true), (true, true)] {
                    let p = ProductCase { batch, m, n, k, transpose_a, transpose_b, dtype, prologue, epilogue };
                    let (nest, buffers) = product_nest(&p);
                    let data: Vec<Vec<f64>> =
                        buffers.iter().enumerate().map(|(s, b)| numbers(b.dtype, b.numel().as_int().unwrap() as usize, s as u64, false)).collect();
                    let tolerance = if dtype == DType::F16 { 1e-3 } else { 2e-6 };
                    compare(&[nest], &buffers, &data, &NONE, vec![], tolerance);
                }
            }
        }
    }
}

#[test]
fn scatter_sums_with_an_epilogue() {
    for (vocabulary, width, tokens) in [(1, 1, 1), (5, 3, 0), (7, 16, 40), (300, 8, 1000)] {
        for dtype in [DType::F32, DType::I32] {
            let mut m = Make::new(&dims(&[vocabulary, width]), &dims(&[tokens]));
            let (r, c) = (m.row(), m.col()[0].clone());
            let index = m.load(0, c.clone(), DType::I32);
            let source = m.load(1, c.times(&Dim::int(width)).add(&r[1]), dtype);
            let row = m.push(Instr::Index(r[0].clone()), DType::I32);
            let here = m.call(F::Eq, &[index, row]);
            let zero = m.constant(0.0, dtype);
            let part = m.call(F::Where, &[here, source, zero]);
            let sum = m.reduce(Combiner::Sum, part);
            m.nest.tag = Tag::ScatterSum { index, axis: 0, source, sum };
            let out = flatten(&r, &dims(&[vocabulary, width]));
            let old = m.load(2, out.clone(), dtype);
            let y = m.call(F::Sub, &[old, sum]);
            m.write(2, out, y);
            // Indices that nobody matches are dropped.
            let ids = numbers(DType::I32, tokens as usize, 4, false).iter().map(|x| x * 2.0 - 1.0).collect();
            let n = (vocabulary * width) as usize;
            let buffers = [ty(DType::I32, &[tokens]), ty(dtype, &[tokens, width]), ty(dtype, &[vocabulary, width])];
            let data = vec![ids, numbers(dtype, (tokens * width) as usize, 5, false), numbers(dtype, n, 6, false)];
            compare(&[m.nest], &buffers, &data, &NONE, vec![], 1e-5);
        }
    }
}

#[test]
fn packed_word_and_narrow_storage() {
    for (dtype, storage) in [
        (DType::I64, Storage::Narrow),
        (DType::Bool, Storage::Word),
        (DType::Bool, Storage::Packed),
        (DType::F16, Storage::Word),
        (DType::F16, Storage::Packed),
        (DType::BF16, Storage::Word),
        (DType::U8, Storage::Word),
        (DType::I8, Storage::Packed),
        (DType::I16, Storage::Word),
    ] {
        let n = 37;
        let mut m = Make::new(&dims(&[n]), &[]);
        let at = m.row()[0].clone();
        let x = m.load(0, at.clone(), dtype);
        m.write(1, at.subtract_from(&Dim::int(n - 1)), x);
        let t = ty(dtype, &[n]);
        let mut p = program(vec![m.nest], &[t.clone(), t.clone()], vec![]);
        for (b, s) in p.buffers.iter_mut().zip(&mut p.slots) {
            b.storage = storage;
            s.bytes = buffer_bytes(&t, storage);
        }
        let mut interpreter = Interpreter::new(Arc::new(p)).unwrap();
        let data = HostTensor::from_f64(dtype, &[n as usize], &numbers(dtype, n as usize, 8, false));
        interpreter.write(BufferId(0), &data).unwrap();
        interpreter.run().unwrap();
        let mut want = data.to_f64();
        want.reverse();
        assert_eq!(interpreter.read(BufferId(1)).unwrap().to_f64(), want, "{dtype} {storage:?}");
        if storage == Storage::Narrow {
            let wide = HostTensor::from_i64(dtype, &[n as usize], &vec![1 << 40; n as usize]);
            assert!(interpreter.write(BufferId(0), &wide).is_err());
        }
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    let (nest, buffers) = layer_norm(&Dim::int(700), &Dim::int(300));
    let case =
        ProductCase { batch: 2, m: 200, n: 300, k: 130, transpose_a: false, transpose_b: true, dtype: DType::F32, prologue: true, epilogue: true };
    for (nest, buffers) in [(nest, buffers), product_nest(&case)] {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut interpreter = Interpreter::new(Arc::new(program(vec![nest.clone()], &buffers, vec![]))).unwrap();
                for (i, b) in buffers.iter().enumerate() {
                    let shape = b.shape.as_ints().unwrap();
                    let data = numbers(b.dtype, shape.iter().product(), i as u64, false);
                    interpreter.write(BufferId(i as u32), &HostTensor::from_f64(b.dtype, &shape, &data)).unwrap();
                }
                interpreter.run().unwrap();
                (0..buffers.len()).map(|i| interpreter.read(BufferId(i as u32)).unwrap().bytes().to_vec()).collect::<Vec<_>>()
            })
        };
        assert!(run(1) == run(5), "{nest}");
    }
}

#[test]
fn sums_over_the_rows_of_chunks() {
    for (chunks, length, cols) in [(3, 4, 33), (1, 7, 64), (40, 64, 130), (2, 1500, 3), (5, 1, 40)] {
        let mut m = Make::new(&dims(&[chunks, length]), &dims(&[cols]));
        let at = [m.row(), m.col()].concat();
        let v = m.load(0, flatten(&at, &dims(&[chunks, length, cols])), DType::F32);
        let top = m.reduce(Combiner::Max, v);
        let d = m.call(F::Sub, &[v, top]);
        m.write(1, flatten(&at, &dims(&[chunks, length, cols])), d);
        m.write(2, flatten(&[at[0].clone(), at[2].clone()], &dims(&[chunks, cols])), d);
        m.nest.writes[1].fold = length > 1;
        let f32_of = |n: i64| TensorType::new(DType::F32, n);
        let buffers = [f32_of(chunks * length * cols), f32_of(chunks * length * cols), f32_of(chunks * cols)];
        let contents: Vec<Vec<f64>> = buffers.iter().map(|b| numbers(DType::F32, b.numel().as_int().unwrap() as usize, 5, false)).collect();
        compare(&[m.nest], &buffers, &contents, &Bindings::new(), vec![], 1e-5);
    }
}
