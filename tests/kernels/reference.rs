//! Nests executed one point at a time in f64 and i64: the expectation of every kernel test.

use inductor::loop_ir::{Combiner, IndexExpr, Instr, Nest, Val};
use inductor::ops::{Array, Data};
use inductor::types::{Bindings, DType};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    F(f64),
    I(i64),
}

impl Scalar {
    fn f(self) -> f64 {
        match self {
            Scalar::F(x) => x,
            Scalar::I(n) => n as f64,
        }
    }
    fn i(self) -> i64 {
        match self {
            Scalar::F(x) => x as i64,
            Scalar::I(n) => n,
        }
    }
}

fn get(a: &Array, at: i64) -> Scalar {
    match &a.data {
        Data::Float(x) => Scalar::F(x[at as usize]),
        Data::Int(x) => Scalar::I(x[at as usize]),
    }
}

fn put(a: &mut Array, at: i64, v: Scalar) {
    match &mut a.data {
        Data::Float(x) => x[at as usize] = a.dtype.round(v.f()),
        Data::Int(x) => x[at as usize] = a.dtype.wrap(v.i()),
    }
}

fn cast(x: Scalar, to: DType) -> Scalar {
    match (x, to) {
        (_, DType::Bool) => Scalar::I((x.f() != 0.0) as i64),
        (x, to) if to.is_float() => Scalar::F(to.round(x.f())),
        (Scalar::F(x), to) => {
            let (lo, hi) = to.int_range().unwrap();
            Scalar::I((x as i64).clamp(lo, hi))
        }
        (Scalar::I(n), to) => Scalar::I(to.wrap(n)),
    }
}

struct Row<'a> {
    nest: &'a Nest,
    bindings: &'a Bindings,
    buffers: &'a [Array],
    cols: Vec<Vec<i64>>,
    row: Vec<i64>,
    /// values[v][c] for every column.
    values: Vec<Vec<Vec<Scalar>>>,
}

impl Row<'_> {
    fn index(&self, e: &IndexExpr, c: usize) -> i64 {
        let mut axes = self.row.clone();
        axes.extend(&self.cols[c]);
        e.eval(&axes, &|v| self.values[v as usize][c][0].i(), self.bindings).unwrap()
    }

    fn at(&self, v: Val, c: usize) -> Scalar {
        self.values[v.0 as usize][c][0]
    }

    /// An operand of a contraction at a column and a place along inner axes: a load, perhaps converted.
    fn inner(&self, v: Val, c: usize, inner: &[i64]) -> Scalar {
        match &self.nest.stmt(v).instr {
            Instr::Load { buffer, index, mask: None } => {
                let axes = [&self.row, &self.cols[c], inner].concat();
                get(&self.buffers[buffer.0 as usize], index.eval(&axes, &|v| self.values[v as usize][c][0].i(), self.bindings).unwrap())
            }
            Instr::Cast(x) => cast(self.inner(*x, c, inner), self.nest.dtype(v)),
            other => unreachable!("{other} is no operand of a contraction"),
        }
    }

    fn contract(&self, a: Val, b: Val, over: u32, c: usize) -> Scalar {
        let size = self.nest.inner[over as usize].eval(self.bindings).unwrap();
        let product = |k: i64| {
            let inner: Vec<i64> = (0..self.nest.inner.len()).map(|i| if i == over as usize { k } else { 0 }).collect();
            self.inner(a, c, &inner).f() * self.inner(b, c, &inner).f()
        };
        Scalar::F((0..size).map(product).sum())
    }

    fn statement(&mut self, k: usize) {
        let nest = self.nest;
        if nest.inner_level()[k] {
            self.values.push(vec![]);
            return;
        }
        let stmt = &nest.body[k];
        let dtype = nest.dtype(Val(k as u32));
        let n = self.cols.len();
        let each = |this: &Row, f: &dyn Fn(&Row, usize) -> Scalar| (0..n).map(|c| vec![f(this, c)]).collect::<Vec<_>>();
        let out: Vec<Vec<Scalar>> = match &stmt.instr {
            Instr::Const(x) => vec![vec![if dtype.is_float() { Scalar::F(x.as_f64()) } else { Scalar::I(x.as_i64()) }]; n],
            Instr::Index(e) => each(self, &|r, c| cast(Scalar::I(r.index(e, c)), dtype)),
            Instr::Load { buffer, index, mask } => each(self, &|r, c| match mask {
                Some(m) if r.at(*m, c).i() == 0 => {
                    if dtype.is_float() {
                        Scalar::F(0.0)
                    } else {
                        Scalar::I(0)
                    }
                }
                _ => get(&r.buffers[buffer.0 as usize], r.index(index, c)),
            }),
            Instr::Call(f, args) => {
                let of = nest.dtype(*args.last().unwrap());
                each(self, &|r, c| {
                    let x: Vec<Scalar> = args.iter().map(|&a| r.at(a, c)).collect();
                    if of.is_float() {
                        let y = (f.row().eval_f64)(&x.iter().map(|s| s.f()).collect::<Vec<_>>());
                        if dtype.is_float() { Scalar::F(y) } else { Scalar::I(y as i64) }
                    } else {
                        Scalar::I(f.eval_int(of, &x.iter().map(|s| s.i()).collect::<Vec<_>>()).unwrap())
                    }
                })
            }
            Instr::Cast(v) => each(self, &|r, c| cast(r.at(*v, c), dtype)),
            Instr::Bitcast(v) if dtype.is_float() => each(self, &|r, c| Scalar::F(dtype.of_bits(r.at(*v, c).i()))),
            Instr::Bitcast(v) => each(self, &|r, c| Scalar::I(nest.dtype(*v).bits(r.at(*v, c).f()))),
            Instr::Contract { a, b, over } => each(self, &|r, c| r.contract(*a, *b, *over, c)),
            Instr::Bound { index, size, .. } => {
                let size = size.eval(self.bindings).unwrap();
                each(self, &|r, c| Scalar::I(r.at(*index, c).i().clamp(0, size - 1)))
            }
            Instr::Reduce(combiner, v) => {
                let of = nest.dtype(*v);
                let xs: Vec<Scalar> = (0..n).map(|c| self.at(*v, c)).collect();
                vec![reduce(*combiner, of, &xs); n]
            }
            Instr::Scan(combiner, v) => {
                let of = nest.dtype(*v);
                let xs: Vec<Scalar> = (0..n).map(|c| self.at(*v, c)).collect();
                (0..n).map(|c| vec![reduce(*combiner, of, &xs[..=c])[0]]).collect()
            }
            Instr::Sort { key, descending } => {
                let keys: Vec<f64> = (0..n).map(|c| self.at(*key, c).f()).collect();
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by(|&i, &j| {
                    let (x, y) = (keys[i], keys[j]);
                    let up = x.is_nan().cmp(&y.is_nan()).then(x.partial_cmp(&y).unwrap_or(std::cmp::Ordering::Equal));
                    if *descending { up.reverse() } else { up }
                });
                order.iter().map(|&c| vec![self.at(*key, c), Scalar::I(c as i64)]).collect()
            }
            Instr::Proj(v, p) => (0..n).map(|c| vec![self.values[v.0 as usize][c][*p as usize]]).collect(),
        };
        self.values.push(out);
    }
}

fn reduce(combiner: Combiner, dtype: DType, xs: &[Scalar]) -> Vec<Scalar> {
    let float = dtype.is_float();
    let f = |x: f64| if float { Scalar::F(x) } else { Scalar::I(x as i64) };
    let fold_f = |start: f64, g: &dyn Fn(f64, f64) -> f64| xs.iter().fold(start, |a, x| g(a, x.f()));
    let nan_max = |a: f64, b: f64| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) };
    let arg = |better: &dyn Fn(f64, f64) -> bool| {
        let mut best = 0;
        for (i, x) in xs.iter().enumerate() {
            let (v, w) = (x.f(), xs[best].f());
            if !w.is_nan() && (v.is_nan() || better(v, w)) {
                best = i;
            }
        }
        vec![xs[best], Scalar::I(best as i64)]
    };
    match combiner {
        Combiner::Sum if float => vec![Scalar::F(fold_f(0.0, &|a, b| a + b))],
        Combiner::Sum => vec![Scalar::I(dtype.wrap(xs.iter().fold(0i64, |a, x| a.wrapping_add(x.i()))))],
        Combiner::Prod if float => vec![Scalar::F(fold_f(1.0, &|a, b| a * b))],
        Combiner::Prod => vec![Scalar::I(dtype.wrap(xs.iter().fold(1i64, |a, x| a.wrapping_mul(x.i()))))],
        Combiner::Max if float => vec![Scalar::F(fold_f(f64::NEG_INFINITY, &nan_max))],
        Combiner::Min if float => vec![Scalar::F(-xs.iter().fold(f64::NEG_INFINITY, |a, x| nan_max(a, -x.f())))],
        Combiner::Max => vec![Scalar::I(xs.iter().map(|x| x.i()).max().unwrap_or(dtype.int_range().unwrap().0))],
        Combiner::Min => vec![Scalar::I(xs.iter().map(|x| x.i()).min().unwrap_or(dtype.int_range().unwrap().1))],
        Combiner::Any => vec![Scalar::I(xs.iter().any(|x| x.i() != 0) as i64)],
        Combiner::All => vec![Scalar::I(xs.iter().all(|x| x.i() != 0) as i64)],
        Combiner::ArgMax => arg(&|a, b| a > b),
        Combiner::ArgMin => arg(&|a, b| a < b),
        Combiner::Welford => {
            let n = xs.len() as f64;
            let mean = if n > 0.0 { xs.iter().map(|x| x.f()).sum::<f64>() / n } else { 0.0 };
            vec![f(mean), f(xs.iter().map(|x| (x.f() - mean).powi(2)).sum()), f(n)]
        }
        Combiner::OnlineSoftmax => {
            let m = fold_f(f64::NEG_INFINITY, &nan_max);
            vec![f(m), f(xs.iter().map(|x| (x.f() - m).exp()).sum())]
        }
    }
}

fn coordinates(sizes: &[i64]) -> Vec<Vec<i64>> {
    let total: i64 = sizes.iter().product();
    (0..total)
        .map(|mut flat| {
            let mut at = vec![0; sizes.len()];
            for (i, &n) in sizes.iter().enumerate().rev() {
                at[i] = flat % n;
                flat /= n;
            }
            at
        })
        .collect()
}

/// Runs a nest on its buffers.
pub fn execute(nest: &Nest, buffers: &mut [Array], bindings: &Bindings) {
    let sizes = |dims: &[inductor::types::Dim]| dims.iter().map(|d| d.eval(bindings).unwrap()).collect::<Vec<i64>>();
    let level = nest.element_level();
    let mut stores: Vec<(usize, i64, Scalar)> = vec![];
    for row in coordinates(&sizes(&nest.rows)) {
        let mut r = Row { nest, bindings, buffers, cols: coordinates(&sizes(&nest.cols)), row, values: vec![] };
        let empty = r.cols.is_empty();
        if empty {
            // Row-level values of a row without columns.
            r.cols = vec![vec![0; nest.cols.len()]];
        }
        for (k, is_element) in level.iter().enumerate() {
            if empty && let Instr::Reduce(c, v) = nest.body[k].instr {
                r.values.push(vec![reduce(c, nest.dtype(v), &[])]);
            } else if empty && *is_element {
                r.values.push(vec![vec![Scalar::I(0); 3]]);
            } else {
                r.statement(k);
            }
        }
        for w in &nest.writes {
            let element = nest.is_element_write(w, &level);
            let n = if !element {
                1
            } else if empty {
                0
            } else {
                r.cols.len().min(w.first.as_ref().map_or(usize::MAX, |n| n.eval(bindings).unwrap() as usize))
            };
            for c in 0..n {
                stores.push((w.buffer.0 as usize, r.index(&w.index, c), r.at(w.value, c)));
            }
        }
    }
    let mut sums: BTreeMap<(usize, i64), f64> = BTreeMap::new();
    for (b, at, v) in stores {
        if nest.writes.iter().any(|w| w.fold && w.buffer.0 as usize == b) {
            *sums.entry((b, at)).or_default() += v.f();
        } else {
            put(&mut buffers[b], at, v);
        }
    }
    for ((b, at), sum) in sums {
        put(&mut buffers[b], at, Scalar::F(sum));
    }
}
