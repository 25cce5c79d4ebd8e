//! Index expressions with all sizes known: which elements the lanes of a block touch, as runs of constant stride.

use super::lanes::Src;
use crate::loop_ir::{IndexExpr, Instr, Nest, Term};
use crate::types::{Bindings, Dim, Sizes};

/// Axes of a domain, merged where an access sees them as one.
#[derive(Clone, Debug, PartialEq)]
pub struct Walk {
    /// Sizes, outermost first; at least one.
    sizes: Vec<i64>,
    /// Elements between neighbors along each axis.
    strides: Vec<i64>,
}

const MAX_AXES: usize = 24;

impl Walk {
    /// A walk over axes of these sizes.
    pub fn new(axes: impl Iterator<Item = (i64, i64)>) -> Walk {
        let (mut sizes, mut strides): (Vec<i64>, Vec<i64>) = (vec![], vec![]);
        for (size, stride) in axes.filter(|&(size, _)| size != 1) {
            match (sizes.last_mut(), strides.last_mut()) {
                (Some(n), Some(s)) if *s == stride * size => (*n, *s) = (*n * size, stride),
                _ => {
                    sizes.push(size);
                    strides.push(stride);
                }
            }
        }
        if sizes.is_empty() {
            (sizes, strides) = (vec![1], vec![0]);
        }
        assert!(sizes.len() <= MAX_AXES, "interp: a nest has more than {MAX_AXES} axes");
        Walk { sizes, strides }
    }

    /// Size and stride when all axes merged into one.
    pub fn single(&self) -> Option<(i64, i64)> {
        (self.sizes.len() == 1).then(|| (self.sizes[0], self.strides[0]))
    }

    /// Distance between neighbors along the innermost axis.
    pub fn inner_stride(&self) -> i64 {
        *self.strides.last().expect("a walk has an axis")
    }

    /// Element at position `at` of the walk.
    pub fn offset(&self, mut at: i64) -> i64 {
        let mut out = 0;
        for (&n, &s) in self.sizes.iter().zip(&self.strides).rev() {
            out += at % n.max(1) * s;
            at /= n.max(1);
        }
        out
    }

    /// Calls `run(lane, element, stride, count)` for positions `start..start + len`, cut where the stride changes.
    #[inline(always)]
    pub fn runs(&self, start: i64, len: usize, offset: i64, mut run: impl FnMut(usize, i64, i64, usize)) {
        let inner = self.sizes.len() - 1;
        let (size, stride) = (self.sizes[inner], self.strides[inner]);
        if inner == 0 {
            return run(0, offset + start * stride, stride, len);
        }
        let mut at = [0i64; MAX_AXES];
        let (mut rest, mut base) = (start, offset);
        for i in (0..=inner).rev() {
            at[i] = rest % self.sizes[i];
            rest /= self.sizes[i];
            if i < inner {
                base += at[i] * self.strides[i];
            }
        }
        let (mut lane, mut first) = (0, at[inner]);
        while lane < len {
            let n = ((size - first) as usize).min(len - lane);
            run(lane, base + first * stride, stride, n);
            lane += n;
            first = 0;
            for i in (0..inner).rev() {
                at[i] += 1;
                base += self.strides[i];
                if at[i] < self.sizes[i] {
                    break;
                }
                base -= at[i] * self.strides[i];
                at[i] = 0;
            }
        }
    }
}

/// How much of the domain a value depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing: one number for the whole nest.
    Uniform,
    /// Row axes.
    Row,
    /// Column axes too.
    Elem,
}

/// A part of an index that is not linear in the axes.
#[derive(Clone, Debug)]
pub enum Part {
    /// Operand `k` of the statement.
    Value(usize),
    /// Floor division.
    Div(Box<Access>, i64),
    /// Remainder.
    Mod(Box<Access>, i64),
}

/// An index: a constant, a linear part over rows and columns, and the rest.
#[derive(Clone, Debug)]
pub struct Access {
    /// Constant part.
    pub offset: i64,
    /// Linear part over the row axes.
    pub rows: Walk,
    /// Linear part over the column axes.
    pub cols: Walk,
    /// Linear part over rows, then columns.
    pub all: Walk,
    /// Other parts with their coefficients.
    pub rest: Vec<(i64, Part)>,
    /// What those depend on.
    pub rest_level: Level,
}

/// Where a block lies: rows `row..row + rows`, columns `col..col + cols`.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// First row.
    pub row: i64,
    /// Number of rows.
    pub rows: usize,
    /// First column.
    pub col: i64,
    /// Number of columns.
    pub cols: usize,
    /// Whether neighboring lanes are neighboring columns, else neighboring rows.
    pub cols_inner: bool,
    /// Columns of the whole nest.
    pub all_cols: i64,
}

impl Block {
    /// Number of lanes of a value of that level.
    pub fn lanes(&self, level: Level) -> usize {
        match level {
            Level::Uniform => 1,
            Level::Row => self.rows,
            Level::Elem => self.rows * self.cols,
        }
    }
}

/// What is done with the elements that an access visits.
pub trait Visit {
    /// Lanes `lane..lane + n` are elements `element`, `element + stride`, ...
    fn run(&mut self, lane: usize, element: i64, stride: i64, n: usize);
    /// Lane `lane + i` is element `elements[i] + offset`.
    fn gather(&mut self, lane: usize, elements: &[i64], offset: i64);
}

impl Access {
    /// From an expression with integer sizes. `values` gives the operand number of an SSA value, `level` what it depends on.
    pub fn new(e: &IndexExpr, rows: &[i64], cols: &[i64], values: &[u32], level: &dyn Fn(u32) -> Level) -> Access {
        let int = |d: &Dim| d.as_int().expect("sizes are bound");
        let mut strides = vec![0i64; rows.len() + cols.len()];
        let (mut rest, mut rest_level) = (vec![], Level::Uniform);
        let mut part_level = |l: Level| rest_level = rest_level.max(l);
        for (term, k) in &e.terms {
            let nested = |inner: &IndexExpr| Box::new(Access::new(inner, rows, cols, values, level));
            match term {
                Term::Axis(a) => strides[a.id as usize] += int(k),
                Term::Value { value, .. } => {
                    part_level(level(*value));
                    rest.push((int(k), Part::Value(values.iter().position(|v| v == value).expect("index values are operands"))));
                }
                Term::Div(inner, d) => {
                    let inner = nested(inner);
                    part_level(inner.level());
                    rest.push((int(k), Part::Div(inner, int(d))));
                }
                Term::Mod(inner, d) => {
                    let inner = nested(inner);
                    part_level(inner.level());
                    rest.push((int(k), Part::Mod(inner, int(d))));
                }
            }
        }
        let axes: Vec<(i64, i64)> = rows.iter().chain(cols).copied().zip(strides).collect();
        let (r, c) = axes.split_at(rows.len());
        Access {
            offset: int(&e.offset),
            rows: Walk::new(r.iter().copied()),
            cols: Walk::new(c.iter().copied()),
            all: Walk::new(axes.iter().copied()),
            rest,
            rest_level,
        }
    }

    /// What the index depends on.
    pub fn level(&self) -> Level {
        let still = |w: &Walk| w.single().is_some_and(|(_, stride)| stride == 0);
        let linear = match (still(&self.rows), still(&self.cols)) {
            (_, false) => Level::Elem,
            (false, true) => Level::Row,
            _ => Level::Uniform,
        };
        linear.max(self.rest_level)
    }

    /// Visits the elements of all lanes of a value of `level`. `operands` are the values the index reads, for each lane when
    /// the rest of the index is element-level, else for each row.
    #[inline(always)]
    pub fn visit(&self, level: Level, block: &Block, operands: &[Src<'_, i64>], visitor: &mut impl Visit) {
        if level != Level::Elem {
            let n = block.lanes(level);
            if self.rest.is_empty() {
                return self.rows.runs(block.row, n, self.offset, |lane, at, stride, n| visitor.run(lane, at, stride, n));
            }
            return visitor.gather(0, &self.elements(level, block, operands), 0);
        }
        if self.rest.is_empty() {
            if block.cols_inner {
                let start = block.row * block.all_cols + block.col;
                return self.all.runs(start, block.rows * block.cols, self.offset, |lane, at, stride, n| visitor.run(lane, at, stride, n));
            }
            for c in 0..block.cols {
                let offset = self.offset + self.cols.offset(block.col + c as i64);
                self.rows.runs(block.row, block.rows, offset, |lane, at, stride, n| visitor.run(c * block.rows + lane, at, stride, n));
            }
            return;
        }
        if self.rest_level == Level::Elem {
            return visitor.gather(0, &self.elements(level, block, operands), 0);
        }
        let base = self.elements(Level::Row, block, operands);
        if block.cols_inner {
            for (r, &offset) in base.iter().enumerate() {
                self.cols.runs(block.col, block.cols, offset, |lane, at, stride, n| visitor.run(r * block.cols + lane, at, stride, n));
            }
        } else {
            for c in 0..block.cols {
                visitor.gather(c * block.rows, &base, self.cols.offset(block.col + c as i64));
            }
        }
    }

    /// The index of every lane; at row level without the columns' part.
    fn elements(&self, level: Level, block: &Block, operands: &[Src<'_, i64>]) -> Vec<i64> {
        let n = block.lanes(level);
        let mut out = vec![0i64; n];
        let linear = Access { rest: vec![], ..self.clone() };
        linear.visit(level, block, operands, &mut Iota { out: &mut out, convert: |e| e });
        for (k, part) in &self.rest {
            let mut add = |x: &dyn Fn(usize) -> i64| out.iter_mut().enumerate().for_each(|(i, o)| *o += k * x(i));
            match part {
                Part::Value(v) => match operands[*v] {
                    Src::All(x) => out.iter_mut().zip(x).for_each(|(o, x)| *o = o.wrapping_add(k.wrapping_mul(*x))),
                    Src::One(x) => add(&|_| x),
                },
                Part::Div(inner, d) => {
                    let x = inner.elements(level, block, operands);
                    divide(&x, *d, |q, _| q).iter().zip(out.iter_mut()).for_each(|(q, o)| *o = o.wrapping_add(k.wrapping_mul(*q)));
                }
                Part::Mod(inner, d) => {
                    let x = inner.elements(level, block, operands);
                    divide(&x, *d, |_, r| r).iter().zip(out.iter_mut()).for_each(|(r, o)| *o = o.wrapping_add(k.wrapping_mul(*r)));
                }
            }
        }
        out
    }
}

/// Quotients or remainders of non-negative numbers, in 32 bits where they fit, because that is several times faster.
fn divide(x: &[i64], d: i64, pick: impl Fn(i64, i64) -> i64) -> Vec<i64> {
    if d <= u32::MAX as i64 && x.iter().all(|&v| (0..=u32::MAX as i64).contains(&v)) {
        let d = d as u32;
        return x.iter().map(|&v| pick((v as u32 / d) as i64, (v as u32 % d) as i64)).collect();
    }
    x.iter().map(|v| pick(v.div_euclid(d), v.rem_euclid(d))).collect()
}

/// Puts down the elements' numbers themselves.
pub struct Iota<'a, T, F: Fn(i64) -> T> {
    /// A lane each.
    pub out: &'a mut [T],
    /// What is put down for a number.
    pub convert: F,
}

impl<T, F: Fn(i64) -> T> Visit for Iota<'_, T, F> {
    fn run(&mut self, lane: usize, element: i64, stride: i64, n: usize) {
        // An addition a lane: a 64-bit multiplication has no vector form on most processors.
        let mut e = element;
        for o in &mut self.out[lane..lane + n] {
            *o = (self.convert)(e);
            e = e.wrapping_add(stride);
        }
    }
    fn gather(&mut self, lane: usize, elements: &[i64], offset: i64) {
        for (o, e) in self.out[lane..].iter_mut().zip(elements) {
            *o = (self.convert)(e.wrapping_add(offset));
        }
    }
}

/// A nest with integer sizes whose divisions by axes were turned into axes of their own wherever sizes divide.
pub struct Bound {
    /// The nest.
    pub nest: Nest,
    /// For each axis of the original nest, its axes in this one.
    pub axes: Vec<std::ops::Range<usize>>,
}

/// Puts numbers for symbols, then splits every axis `i` of which the body uses `i / d` or `i mod d` into `(i / d, i mod d)`
/// when `d` divides its size: the row-major order of points stays, and the index becomes linear.
pub fn bind_nest(nest: &Nest, bindings: &Bindings) -> Result<Bound, String> {
    let eval = |d: &Dim| d.eval(bindings);
    let sizes: Vec<i64> = nest.rows.iter().chain(&nest.cols).chain(&nest.inner).map(eval).collect::<Result<_, _>>()?;
    if sizes.iter().try_fold(1i64, |n, &d| n.checked_mul(d)).is_none() {
        return Err(format!("a kernel over {sizes:?} has more elements than 64 bits count"));
    }
    let wide = sizes.iter().filter(|&&n| n != 1).count();
    if wide > MAX_AXES {
        return Err(format!("a kernel over {wide} dimensions is not supported, {MAX_AXES} are"));
    }
    let mut parts: Vec<Vec<i64>> = sizes.iter().map(|&n| vec![n]).collect();
    loop {
        let bound = rebuild(nest, bindings, &parts)?;
        match find_split(&bound.nest) {
            Some((axis, d)) if parts.iter().flatten().filter(|&&n| n != 1).count() < MAX_AXES => {
                let original = bound.axes.iter().position(|r| r.contains(&axis)).expect("axes cover the domain");
                let at = axis - bound.axes[original].start;
                let n = parts[original][at];
                parts[original].splice(at..=at, [n / d, d]);
            }
            _ => return Ok(bound),
        }
    }
}

fn find_split(nest: &Nest) -> Option<(usize, i64)> {
    let mut found = None;
    let mut look = |e: &IndexExpr| {
        e.visit(&mut |t| {
            if let Term::Div(inner, d) | Term::Mod(inner, d) = t
                && let [(Term::Axis(a), k)] = &inner.terms[..]
                && k.is(1)
                && inner.offset.is(0)
                && let (Some(n), Some(d)) = (a.size.as_int(), d.as_int())
                && d > 1
                && n > d
                && n % d == 0
                && found.is_none()
            {
                found = Some((a.id as usize, d));
            }
        });
    };
    for stmt in &nest.body {
        if let Instr::Index(e) | Instr::Load { index: e, .. } = &stmt.instr {
            look(e);
        }
    }
    nest.writes.iter().for_each(|w| look(&w.index));
    found
}

fn rebuild(nest: &Nest, bindings: &Bindings, parts: &[Vec<i64>]) -> Result<Bound, String> {
    let (mut axes, mut coordinates, mut next) = (vec![], vec![], 0u32);
    for part in parts {
        let mut e = IndexExpr::zero();
        for (i, &n) in part.iter().enumerate() {
            e = e.times(&Dim::int(n)).add(&IndexExpr::axis(next + i as u32, &Dim::int(n)));
        }
        coordinates.push(e);
        axes.push(next as usize..next as usize + part.len());
        next += part.len() as u32;
    }
    let index = |e: &IndexExpr| bind_index(e, bindings, &coordinates);
    let mut out = nest.clone();
    let dims = |range: &[Vec<i64>]| -> Sizes { range.iter().flatten().map(|&n| Dim::int(n)).collect() };
    let (rows, rest) = parts.split_at(nest.rows.len());
    let (cols, inner) = rest.split_at(nest.cols.len());
    (out.rows, out.cols, out.inner) = (dims(rows), dims(cols), dims(inner));
    for stmt in &mut out.body {
        match &mut stmt.instr {
            Instr::Index(e) | Instr::Load { index: e, .. } => *e = index(e)?,
            Instr::Bound { size, .. } => *size = Dim::int(size.eval(bindings)?),
            _ => {}
        }
    }
    for w in &mut out.writes {
        w.index = index(&w.index)?;
        w.first = w.first.as_ref().map(|n| n.eval(bindings)).transpose()?.map(Dim::int);
    }
    Ok(Bound { nest: out, axes })
}

fn bind_index(e: &IndexExpr, bindings: &Bindings, axes: &[IndexExpr]) -> Result<IndexExpr, String> {
    let int = |d: &Dim| Ok::<_, String>(Dim::int(d.eval(bindings)?));
    // Divisors are sizes; a zero one occurs only where the domain is empty.
    let divisor = |d: &Dim| Ok::<_, String>(Dim::int(d.eval(bindings)?.max(1)));
    let mut out = IndexExpr::constant(int(&e.offset)?);
    for (term, k) in &e.terms {
        let x = match term {
            Term::Axis(a) => axes[a.id as usize].clone(),
            Term::Value { value, size } => IndexExpr::value(*value, &int(size)?),
            Term::Div(inner, d) => bind_index(inner, bindings, axes)?.div(&divisor(d)?),
            Term::Mod(inner, d) => bind_index(inner, bindings, axes)?.modulo(&divisor(d)?),
        };
        out = out.add(&x.times(&int(k)?));
    }
    Ok(out)
}
