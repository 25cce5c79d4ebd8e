//! What integers are that are made of coordinates and constants alone: positions, and masks of them.

use super::uniform;
use crate::graph::{Graph, Value};
use crate::loop_ir::{IndexExpr, axes};
use crate::ops::{Op, OpDef};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim};

/// Nodes that are looked at for one answer: operands are shared, and visited once for each reader.
const MOST_VISITS: u32 = 4096;

/// Elements of a concatenated part whose numbers are compared one by one.
const SMALL: i64 = 4;

/// An axis that no tensor has.
const FREE: u32 = 1 << 20;

/// The integer at coordinates `at` of a tensor (0 or 1 of bools), as an expression of what they are expressions of. `None` where it
/// depends on inputs, or is not known to be one. Linear, up to a limit.
pub fn integer_at(graph: &Graph, v: Value, at: &[IndexExpr]) -> Option<IndexExpr> {
    Search { graph, visits: 0 }.at(v, at)
}

/// What is known of a condition over `[.., rows, columns]`: that it holds just where the column's number is at most the row's, or just where it is
/// larger. Seen through views; `None` where it is neither.
pub fn holds_up_to_row(graph: &Graph, condition: Value) -> Option<bool> {
    let at = axes(&graph.ty(condition).shape.0, 0);
    let [.., row, column] = &at[..] else { return None };
    let (f, difference) = compared_at(graph, condition, &at)?;
    match f {
        ScalarFn::Ge if difference == less(row, column) => Some(true),
        ScalarFn::Le if difference == less(column, row) => Some(true),
        ScalarFn::Lt if difference == less(row, column) => Some(false),
        ScalarFn::Gt if difference == less(column, row) => Some(false),
        _ => None,
    }
}

/// The comparison behind views, and its left integer less the right one.
fn compared_at(graph: &Graph, v: Value, at: &[IndexExpr]) -> Option<(ScalarFn, IndexExpr)> {
    let node = graph.def(v);
    match &*node.op {
        op if op.is_view() => {
            let below = node.operands[0];
            compared_at(graph, below, &op.view(&graph.ty(below).shape, &graph.ty(v).shape, at)?)
        }
        Op::Pointwise(op) => match node.operands[..] {
            [x, y] => Some((op.f, less(&integer_at(graph, x, at)?, &integer_at(graph, y, at)?))),
            _ => None,
        },
        _ => None,
    }
}

/// Whether an integer is less than zero always or never.
fn is_negative(e: &IndexExpr) -> Option<bool> {
    let (lo, hi) = e.bounds()?;
    if hi.range().1 < 0 { Some(true) } else { (lo.range().0 >= 0).then_some(false) }
}

/// Whether an integer is zero always or never.
fn is_zero(e: &IndexExpr) -> Option<bool> {
    if let Some(d) = e.as_constant() {
        return d.as_int().map(|d| d == 0);
    }
    let apart = is_negative(e) == Some(true) || is_negative(&e.times(&Dim::int(-1))) == Some(true);
    apart.then_some(false)
}

fn number(x: i64) -> IndexExpr {
    IndexExpr::constant(x)
}

fn less(x: &IndexExpr, y: &IndexExpr) -> IndexExpr {
    x.add(&y.times(&Dim::int(-1)))
}

struct Search<'g> {
    graph: &'g Graph,
    visits: u32,
}

impl Search<'_> {
    fn at(&mut self, v: Value, at: &[IndexExpr]) -> Option<IndexExpr> {
        self.visits += 1;
        let ty = self.graph.ty(v);
        if self.visits > MOST_VISITS {
            return None;
        }
        if let Some(x) = uniform(self.graph, v) {
            return (x.fract() == 0.0).then(|| number(x as i64)).filter(|x| fits(x, ty.dtype));
        }
        let node = self.graph.def(v);
        let shape = |k: usize| &self.graph.ty(node.operands[k]).shape;
        match &*node.op {
            op if op.is_view() => {
                let below = op.view(shape(0), &ty.shape, at)?;
                self.at(node.operands[0], &below)
            }
            // A tensor has fewer elements than its dtype has integers, but for halves.
            Op::Iota(op) => Some(at[op.dim as usize].clone()).filter(|_| !ty.dtype.is_half()),
            Op::Cast(_) => {
                let x = self.at(node.operands[0], at)?;
                let is_whole = ty.dtype != DType::Bool || self.graph.ty(node.operands[0]).dtype == DType::Bool;
                (is_whole && fits(&x, ty.dtype)).then_some(x)
            }
            Op::Pointwise(op) => self.function(op.f, &node.operands, at).filter(|x| fits(x, ty.dtype)),
            Op::CheckIndex(op) => self.at(node.operands[0], at).filter(|x| x.is_within(&op.size)),
            Op::IndexSelect(op) => {
                let (dim, rank) = (op.dim as usize, shape(1).rank());
                let index = self.at(node.operands[1], &at[dim..dim + rank])?;
                let size = &shape(0)[dim];
                let below = [&at[..dim], std::slice::from_ref(&index), &at[dim + rank..]].concat();
                if index.is_within(size) { self.at(node.operands[0], &below) } else { None }
            }
            Op::Concat(op) => self.concatenated(&node.operands, op.dim as usize, at),
            // A sum of zeros.
            Op::Cumsum(op) => {
                let mut any = at.to_vec();
                any[op.dim as usize] = IndexExpr::axis(FREE, &shape(0)[op.dim as usize]);
                self.at(node.operands[0], &any).filter(|x| is_zero(x) == Some(true))
            }
            _ => None,
        }
    }

    fn function(&mut self, f: ScalarFn, operands: &[Value], at: &[IndexExpr]) -> Option<IndexExpr> {
        let x = self.at(operands[0], at)?;
        if f == ScalarFn::Where {
            return self.at(operands[if x.as_constant()?.is(0) { 2 } else { 1 }], at);
        }
        let y = self.at(*operands.get(1)?, at)?;
        let truth = |t: bool| number(t as i64);
        match f {
            ScalarFn::Add => Some(x.add(&y)),
            ScalarFn::Sub => Some(less(&x, &y)),
            ScalarFn::Mul => x.as_constant().map(|d| y.times(d)).or_else(|| y.as_constant().map(|d| x.times(d))),
            ScalarFn::Lt => is_negative(&less(&x, &y)).map(truth),
            ScalarFn::Gt => is_negative(&less(&y, &x)).map(truth),
            ScalarFn::Le => is_negative(&less(&y, &x)).map(|t| truth(!t)),
            ScalarFn::Ge => is_negative(&less(&x, &y)).map(|t| truth(!t)),
            ScalarFn::Eq => is_zero(&less(&x, &y)).map(truth),
            ScalarFn::Ne => is_zero(&less(&x, &y)).map(|t| truth(!t)),
            _ => None,
        }
    }

    /// Parts that are one function of the whole's coordinate: that of the largest, which the others agree with element by element.
    fn concatenated(&mut self, parts: &[Value], dim: usize, at: &[IndexExpr]) -> Option<IndexExpr> {
        let sizes: Vec<Dim> = parts.iter().map(|p| self.graph.ty(*p).shape[dim].clone()).collect();
        let offsets: Vec<Dim> = (0..parts.len()).map(|k| sizes[..k].iter().fold(Dim::int(0), |sum, d| sum + d)).collect();
        let largest = (0..parts.len()).max_by_key(|&k| sizes[k].hint())?;
        let whole = sizes.iter().fold(Dim::int(0), |sum, d| sum + d);
        let with = |c: IndexExpr| [&at[..dim], &[c], &at[dim + 1..]].concat();
        let own = IndexExpr::axis(FREE, &whole).plus(&(Dim::int(0) - &offsets[largest]));
        let function = self.at(parts[largest], &with(own))?;
        let of = |c: &IndexExpr| {
            let place = |a: &crate::loop_ir::Axis| if a.id == FREE { c.clone() } else { IndexExpr::axis(a.id, &a.size) };
            function.substitute(&place, &IndexExpr::value)
        };
        for k in (0..parts.len()).filter(|&k| k != largest) {
            let size = sizes[k].as_int().filter(|&n| n <= SMALL)?;
            for c in 0..size {
                let here = self.at(parts[k], &with(number(c)))?;
                let place = IndexExpr::constant(offsets[k].clone() + Dim::int(c));
                if is_zero(&less(&here, &of(&place))) != Some(true) {
                    return None;
                }
            }
        }
        Some(of(&at[dim]))
    }
}

/// Whether a number is not rounded by its dtype. Those of i64 and f64 are sums and products of sizes.
fn fits(x: &IndexExpr, dtype: DType) -> bool {
    let within = |lo: i64, hi: i64| x.bounds().is_some_and(|(bottom, top)| bottom.range().0 >= lo && top.range().1 <= hi);
    match dtype {
        DType::I64 | DType::F64 => true,
        DType::F32 => within(-1 << 24, 1 << 24),
        DType::Bool => within(0, 1),
        _ => dtype.int_range().is_some_and(|(lo, hi)| within(lo, hi)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Builder;
    use crate::types::Shape;

    fn axis(id: u32, size: i64) -> IndexExpr {
        IndexExpr::axis(id, &Dim::int(size))
    }

    #[test]
    fn positions_through_tables_and_concatenations() {
        let mut b = Builder::new("positions");
        let counted = b.iota(DType::I64, 5, 0).unwrap();
        let rows = b.reshape(counted, (1, 5)).unwrap();
        let table = b.broadcast_to(rows, &Shape::new(vec![Dim::int(3), Dim::int(5)])).unwrap();
        let one = b.full(DType::I64, 1.0, (3, 1)).unwrap();
        let first = b.slice(table, 1, 0, 1, 1).unwrap();
        let before = b.sub(first, one).unwrap();
        let longer = b.concat(&[before, table], 1).unwrap();
        let [at, steps] = [axis(0, 3), axis(1, 6)];
        // -1, 0, 1, .. 4
        let expected = steps.plus(&Dim::int(-1));
        assert_eq!(integer_at(b.graph(), longer, &[at.clone(), steps.clone()]), Some(expected));
        let other = b.concat(&[one, table], 1).unwrap();
        assert_eq!(integer_at(b.graph(), other, &[at, steps]), None);
        let flat = b.reshape(table, 15).unwrap();
        let five = b.full(DType::I64, 5.0, 15).unwrap();
        let all = b.iota(DType::I64, 15, 0).unwrap();
        let beyond = b.add(all, five).unwrap();
        let chosen = b.index_select(flat, 0, all).unwrap();
        assert_eq!(integer_at(b.graph(), chosen, &[axis(0, 15)]), Some(axis(0, 15).modulo(&Dim::int(5))));
        let outside = b.index_select(flat, 0, beyond).unwrap();
        assert_eq!(integer_at(b.graph(), outside, &[axis(0, 15)]), None);
    }
}
