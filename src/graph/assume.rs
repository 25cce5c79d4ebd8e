//! Sizes that a program needs equal and that nothing proves equal: recorded as guards, unified from there on.

use super::{Builder, map_dims};
use crate::types::{Dim, Guard, Place, Relation, Symbol, solve_for_symbols};

/// Symbols that stand no longer for themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct Unified {
    /// What each symbol is, over symbols that stay. A symbol with a narrower range is listed, too.
    values: Vec<(Symbol, Dim)>,
    /// Symbols made so far: each with what it stands for, over symbols that inputs had.
    made: Vec<(Symbol, Dim)>,
    /// Where the symbols of inputs were that made symbols have replaced.
    left: Vec<Found>,
}

impl Unified {
    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub(super) fn resolve(&self, size: &Dim) -> Dim {
        if self.values.is_empty() || size.as_int().is_some() {
            return size.clone();
        }
        size.substitute(&|s| self.values.iter().find(|(symbol, _)| symbol == s).map(|(_, value)| value.clone()))
    }

    fn is_made(&self, symbol: &Symbol) -> bool {
        self.made.iter().any(|(made, _)| made == symbol)
    }

    /// The size in symbols that inputs have or had.
    fn in_inputs(&self, size: &Dim) -> Dim {
        size.substitute(&|s| self.made.iter().find(|(made, _)| made == s).map(|(_, value)| value.clone()))
    }

    fn insert(&mut self, symbol: Symbol, value: Dim) {
        let replace = |d: &Dim| d.substitute(&|s| (*s == symbol).then(|| value.clone()));
        self.values.iter_mut().for_each(|(_, old)| *old = replace(old));
        self.values.push((symbol, value));
    }
}

impl Builder {
    /// As [`Builder::new`], for a front end: sizes that operators need equal may become equal, which leaves guards.
    pub fn assuming(name: &str) -> Builder {
        let mut b = Builder::new(name);
        b.assumes = true;
        b
    }

    /// The graph assumes what another one assumed that has the same inputs.
    pub fn assume_guards(&mut self, guards: &[Guard]) {
        self.graph.guards.extend(guards.iter().cloned());
    }

    /// The size in the symbols that the graph has now.
    pub fn resolve(&self, size: &Dim) -> Dim {
        self.unified.resolve(size)
    }

    /// Makes both sizes equal, if they are not known to be and this builder assumes: records a guard and replaces a symbol
    /// everywhere. What cannot be equal, or does not follow from the sizes of inputs, stays for the operator to refuse.
    pub fn assume_equal(&mut self, a: &Dim, b: &Dim, needed_by: &str) {
        let (a, b) = (self.resolve(a), self.resolve(b));
        if !self.assumes || a.as_int().is_some() || b.as_int().is_some() || a.known_eq(&b) {
            return;
        }
        // The smaller of two sizes is one of them where that is not the larger.
        if let Some((x, y)) = (a.clone() - &b).zero_where_at_most() {
            return self.assume_at_most(&x, &y, needed_by);
        }
        let places = self.places();
        // A made symbol gives way before all others: it is what a size has more than another one.
        let made = |s: &Symbol| self.unified.is_made(s).then_some((usize::MAX, 0));
        let position = |s: &Symbol| places.iter().find(|p| p.symbol == *s).map(|p| p.position).or_else(|| made(s));
        for (symbol, value) in solve_for_symbols(&(a - &b), &position).unwrap_or_default() {
            let left = Dim::symbol(&symbol.name, symbol.min, symbol.max);
            let (symbol_range, value_range) = ((symbol.min, symbol.max), value.range());
            if value_range.1 < symbol_range.0 || symbol_range.1 < value_range.0 {
                return;
            }
            if !self.guard(left, Relation::Equal, value.clone(), &places, needed_by) {
                return;
            }
            self.narrow(&value, symbol_range);
            let value = self.resolve(&value);
            self.replace(symbol, value);
        }
    }

    /// Makes the first size at most the second: a symbol takes a narrower range, or what it is more than others becomes a symbol
    /// of its own.
    pub fn assume_at_most(&mut self, a: &Dim, b: &Dim, needed_by: &str) {
        let (a, b) = (self.resolve(a), self.resolve(b));
        if !self.assumes || a.known_le(&b) {
            return;
        }
        let gap = b.clone() - &a;
        let mut symbols = vec![];
        gap.collect_symbols(&mut symbols);
        let bound = |s: &Symbol| gap.solved_for(s).map(|(bound, rises)| (s.clone(), bound, rises));
        let mut bounds: Vec<(Symbol, Dim, bool)> = symbols.iter().filter_map(bound).collect();
        bounds.retain(|(_, bound, rises)| *rises || bound.as_int().is_some());
        // What a size has more than another one grows first: what it is more than stays as it is.
        bounds.sort_by_key(|(symbol, _, rises)| (!rises, !self.unified.is_made(symbol)));
        let Some((symbol, bound, rises)) = bounds.into_iter().next() else { return };
        let (low, high) = bound.range();
        let is_empty = if rises { low > symbol.max } else { high < symbol.min };
        let places = self.places();
        if is_empty || !self.guard(a, Relation::AtMost, b, &places, needed_by) {
            return;
        }
        let value = match bound.as_int() {
            Some(n) if rises => Dim::symbol(&symbol.name, symbol.min.max(n), symbol.max),
            Some(n) => Dim::symbol(&symbol.name, symbol.min, symbol.max.min(n)),
            None => {
                let rest = Symbol { name: format!("{}.{}", symbol.name, self.unified.made.len() + 1).into(), min: 0, max: symbol.max };
                let own = Dim::symbol(&symbol.name, symbol.min, symbol.max);
                let bound = bound.max_with(&Dim::int(symbol.min));
                let meaning = self.unified.in_inputs(&(own - &bound));
                self.unified.made.push((rest.clone(), meaning));
                self.unified.left.extend(places.into_iter().filter(|p| p.symbol == symbol));
                bound + Dim::symbol(&rest.name, rest.min, rest.max)
            }
        };
        self.replace(symbol, value);
    }

    /// Records a guard, unless some symbol in it does not follow from an input.
    fn guard(&mut self, left: Dim, relation: Relation, right: Dim, places: &[Found], needed_by: &str) -> bool {
        let (left, right) = (self.unified.in_inputs(&left), self.unified.in_inputs(&right));
        let mut symbols = vec![];
        left.collect_symbols(&mut symbols);
        right.collect_symbols(&mut symbols);
        let place = |s: &Symbol| places.iter().chain(&self.unified.left).find(|p| p.symbol == *s);
        let found: Option<Vec<&Found>> = symbols.iter().map(place).collect();
        let Some(mut found) = found else { return false };
        found.sort_by_key(|p| p.position);
        let location = self.provenance.line().map(|at| format!(" at {at}")).unwrap_or_default();
        let places = found.into_iter().map(|p| p.place.clone()).collect();
        self.graph.guards.push(Guard { left, relation, right, places, needed_by: format!("{needed_by}{location}") });
        true
    }

    /// Narrows the range of the only symbol in `value`, when that is linear in it, so that `value` stays within `range`.
    fn narrow(&mut self, value: &Dim, range: (i64, i64)) {
        let mut symbols = vec![];
        value.collect_symbols(&mut symbols);
        let [symbol] = &symbols[..] else { return };
        let at = |n: i64| value.substitute(&|_| Some(Dim::int(n))).as_int();
        let (Some(offset), Some(one)) = (at(0), at(1)) else { return };
        if one - offset == 1 && value.solved_for(symbol).is_some() {
            let (min, max) = (symbol.min.max(range.0.saturating_sub(offset)), symbol.max.min(range.1.saturating_sub(offset)));
            if min <= max && (min, max) != (symbol.min, symbol.max) {
                self.replace(symbol.clone(), Dim::symbol(&symbol.name, min, max));
            }
        }
    }

    /// `symbol` is `value` from now on, in everything that is built already.
    fn replace(&mut self, symbol: Symbol, value: Dim) {
        self.unified.insert(symbol, value);
        let unified = self.unified.clone();
        self.graph = map_dims(&self.graph, &|d| unified.resolve(d));
        self.index_anew();
    }

    /// The first dimension of an input from which each symbol follows: one that holds no other.
    fn places(&self) -> Vec<Found> {
        let mut out: Vec<Found> = vec![];
        for (k, input) in self.graph.inputs.iter().enumerate() {
            for (dim, size) in self.graph.ty(input.value).shape.0.iter().enumerate() {
                let mut symbols = vec![];
                size.collect_symbols(&mut symbols);
                let [symbol] = &symbols[..] else { continue };
                if out.iter().all(|p| p.symbol != *symbol) {
                    let place = Place { input: input.name.clone(), dim: dim as u32, size: size.clone() };
                    out.push(Found { symbol: symbol.clone(), position: (k, dim), place });
                }
            }
        }
        out
    }
}

/// A symbol and where it is read off.
#[derive(Clone, Debug)]
struct Found {
    symbol: Symbol,
    position: (usize, usize),
    place: Place,
}

#[cfg(test)]
mod tests {
    use super::super::{Graph, InputRole, OutputRole, Value, parse, print, verify};
    use super::*;
    use crate::eval::evaluate;
    use crate::ops::{self, Precision, ReduceKind};
    use crate::scalar::ScalarFn;
    use crate::types::{DType, HostTensor, TensorType};

    fn symbol(name: &str) -> Dim {
        Dim::symbol(name, 2, 64)
    }

    /// A builder that assumes, with two inputs of these shapes.
    fn with_inputs<const N: usize, const M: usize>(x: [Dim; N], y: [Dim; M]) -> (Builder, Value, Value) {
        let mut b = Builder::assuming("g");
        let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, x)).unwrap();
        let y = b.input("y", InputRole::Input, TensorType::new(DType::F32, y)).unwrap();
        (b, x, y)
    }

    /// The finished graph, sound and the same after printing and parsing.
    fn finish(mut b: Builder, result: Value) -> Graph {
        b.output("result", OutputRole::User, result);
        let g = b.finish();
        assert_eq!(verify(&g), Vec::<String>::new());
        assert_eq!(parse(&print(&g)).unwrap(), g);
        g
    }

    fn claims(g: &Graph) -> Vec<String> {
        g.guards.iter().map(|guard| guard.to_string()).collect()
    }

    fn error(g: &Graph, x: &[usize], y: &[usize]) -> String {
        evaluate(g, &[HostTensor::zeros(DType::F32, x), HostTensor::zeros(DType::F32, y)], Precision::Working).unwrap_err().to_string()
    }

    #[test]
    fn an_operator_that_needs_equal_sizes_makes_them_so() {
        let (n, m) = (symbol("n"), symbol("m"));
        let (mut b, x, y) = with_inputs([n.clone(), Dim::int(3)], [m, Dim::int(3)]);
        let (before_x, before_y) = (b.reduce(ReduceKind::Sum, x, &[1], false).unwrap(), b.reduce(ReduceKind::Sum, y, &[1], false).unwrap());
        let sum = b.add(x, y).unwrap();
        let total = b.reduce(ReduceKind::Sum, sum, &[1], false).unwrap();
        let (total, before) = (b.add(total, before_x).unwrap(), b.mul(before_x, before_y).unwrap());
        let result = b.add(total, before).unwrap();
        let g = finish(b, result);
        assert_eq!(claims(&g), ["m == n, where x[0] is n and y[0] is m (add)"]);
        assert_eq!(g.ty(g.inputs[1].value).shape[0], n);
        let expected = "input: input x has size 5 in dimension 0, but input y has size 4 in dimension 0: the program needs them equal (add)";
        assert_eq!(error(&g, &[5, 3], &[4, 3]), expected);
    }

    #[test]
    fn sources_that_become_equal_are_one_node() {
        let (n, m) = (symbol("n"), symbol("m"));
        let (mut b, x, y) = with_inputs([n.clone()], [m.clone()]);
        let (i, k) = (b.iota(DType::F32, [n], 0).unwrap(), b.iota(DType::F32, [m], 0).unwrap());
        let (x, y) = (b.mul(x, i).unwrap(), b.mul(y, k).unwrap());
        let result = b.add(x, y).unwrap();
        assert_eq!(finish(b, result).nodes.iter().filter(|node| matches!(*node.op, ops::Op::Iota(_))).count(), 1);
    }

    #[test]
    fn products_are_compared_factor_by_factor() {
        let [a, t, c, u] = ["a", "t", "c", "u"].map(symbol);
        let one = Dim::int(1);
        let (mut b, x, y) = with_inputs([a.clone(), t.clone()], [c.clone(), u.clone()]);
        let x = b.slice(x, 1, Dim::int(0), t.clone() - &one, 1).unwrap();
        let x = b.reshape(x, [a * (t - &one)]).unwrap();
        let y = b.slice(y, 1, one.clone(), u.clone(), 1).unwrap();
        let y = b.reshape(y, [c * (u - &one)]).unwrap();
        let result = b.mul(x, y).unwrap();
        let g = finish(b, result);
        assert_eq!(claims(&g), ["c == a, where x[0] is a and y[0] is c (mul)", "u == t, where x[1] is t and y[1] is u (mul)"]);
    }

    #[test]
    fn shifted_sizes_narrow_the_range() {
        let (n, m) = (symbol("n"), symbol("m"));
        let (mut b, x, y) = with_inputs([n.clone()], [m]);
        let x = b.slice(x, 0, Dim::int(1), n, 1).unwrap();
        let result = b.add(x, y).unwrap();
        let g = finish(b, result);
        assert_eq!(claims(&g), ["m == n - 1, where x[0] is n and y[0] is m (add)"]);
        assert_eq!(g.ty(g.inputs[0].value).shape[0].range(), (3, 64));
        assert!(error(&g, &[5], &[5]).contains("the program needs m == n - 1, which is 5 == 4 (add)"));
    }

    #[test]
    fn a_size_that_is_at_most_another_leaves_a_rest() {
        let (n, m) = (symbol("n"), symbol("m"));
        let (mut b, x, y) = with_inputs([n.clone()], [m.clone()]);
        b.assume_at_most(&m, &n, "assertion");
        let x = b.slice(x, 0, Dim::int(0), b.resolve(&m), 1).unwrap();
        let result = b.add(x, y).unwrap();
        let g = finish(b, result);
        assert!(error(&g, &[4], &[5]).contains("the program needs m <= n, which is 5 <= 4 (assertion)"));
        assert!(evaluate(&g, &[HostTensor::zeros(DType::F32, &[5]), HostTensor::zeros(DType::F32, &[4])], Precision::Working).is_ok());
    }

    #[test]
    fn a_size_may_be_more_than_two_others() {
        let (n, m, k) = (symbol("n"), symbol("m"), symbol("k"));
        let (mut b, x, y) = with_inputs([n], [m.clone()]);
        let z = b.input("z", InputRole::Input, TensorType::new(DType::F32, [k.clone()])).unwrap();
        let mut total = b.constant(DType::F32, 0.0).unwrap();
        for (part, size) in [(y, m), (z, k)] {
            let head = b.slice(x, 0, Dim::int(0), size, 1).unwrap();
            let product = b.mul(head, part).unwrap();
            let sum = b.reduce(ReduceKind::Sum, product, &[0], false).unwrap();
            total = b.add(total, sum).unwrap();
        }
        let g = finish(b, total);
        assert_eq!(claims(&g).len(), 2);
        let run = |sizes: [usize; 3]| evaluate(&g, &sizes.map(|n| HostTensor::zeros(DType::F32, &[n])), Precision::Working);
        assert!(run([9, 8, 2]).is_ok() && run([9, 2, 8]).is_ok() && run([9, 9, 9]).is_ok());
        assert!(run([7, 8, 2]).is_err() && run([7, 2, 8]).is_err());
    }

    #[test]
    fn the_smaller_of_two_sizes_is_the_one_that_is_needed() {
        let (n, m) = (symbol("n"), symbol("m"));
        for (wanted, claim) in
            [(m.clone(), "m <= n, where x[0] is n and y[0] is m (add)"), (n.clone(), "n <= m, where x[0] is n and y[0] is m (add)")]
        {
            let (mut b, x, y) = with_inputs([n.clone()], [m.clone()]);
            let head = b.slice(x, 0, Dim::int(0), n.min_with(&m), 1).unwrap();
            let other = if wanted == m { y } else { x };
            let result = b.add(head, other).unwrap();
            assert_eq!(claims(&finish(b, result)), [claim]);
        }
    }

    #[test]
    fn a_slice_ends_inside() {
        let (n, m) = (symbol("n"), symbol("m"));
        let (mut b, x, y) = with_inputs([n], [m.clone()]);
        let x = b.slice(x, 0, Dim::int(0), m, 1).unwrap();
        let result = b.add(x, y).unwrap();
        let g = finish(b, result);
        assert_eq!(claims(&g), ["m <= n, where x[0] is n and y[0] is m (slice)"]);
        assert!(error(&g, &[4], &[5]).contains("the program needs m <= n, which is 5 <= 4 (slice)"));
    }

    #[test]
    fn an_index_may_be_smaller_than_what_it_indexes() {
        let (n, m) = (symbol("n"), symbol("m"));
        let (mut b, x, y) = with_inputs([n.clone(), Dim::int(3)], [m, Dim::int(3)]);
        let index = b.cast(y, DType::I32).unwrap();
        let gathered = b.op(ops::Gather { dim: 1 }, &[x, index]).unwrap();
        let g = finish(b.clone(), gathered);
        assert_eq!(claims(&g), ["m <= n, where x[0] is n and y[0] is m (gather)"]);
        assert!(evaluate(&g, &[HostTensor::zeros(DType::F32, &[5, 3]), HostTensor::zeros(DType::F32, &[4, 3])], Precision::Working).is_ok());
        assert!(error(&g, &[4, 3], &[5, 3]).contains("the program needs m <= n, which is 5 <= 4 (gather)"));
        // What needs more finds the rest to be nothing.
        let sum = b.add(gathered, x).unwrap();
        let g = finish(b, sum);
        assert_eq!(g.ty(g.inputs[0].value).shape[0], g.ty(g.inputs[1].value).shape[0]);
        assert_eq!(claims(&g)[1], "-m + n == 0, where x[0] is n and y[0] is m (add)");
        assert!(error(&g, &[5, 3], &[4, 3]).contains("the program needs -m + n == 0, which is 1 == 0 (add)"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let n = symbol("n");
        let (mut b, x, y) = with_inputs([n.clone()], [n.clone() + Dim::int(1)]);
        assert_eq!(b.add(x, y).unwrap_err(), "add: shapes do not broadcast: [n] and [n + 1]: f32[n] x f32[n + 1]");
        let (mut b, x, y) = with_inputs([n.clone()], [Dim::int(8)]);
        assert!(b.scalar(ScalarFn::Add, &[x, y]).is_err(), "a declared size does not become a constant");
        let (mut b, x, y) = with_inputs([n], [Dim::symbol("far", 100, 200)]);
        assert!(b.add(x, y).is_err() && b.graph().guards.is_empty());
        let mut plain = Builder::new("g");
        let x = plain.input("x", InputRole::Input, TensorType::new(DType::F32, [symbol("n")])).unwrap();
        let y = plain.input("y", InputRole::Input, TensorType::new(DType::F32, [symbol("m")])).unwrap();
        assert!(plain.add(x, y).is_err(), "only front ends assume");
        assert!(plain.slice(x, 0, Dim::int(0), symbol("m"), 1).is_err());
    }
}
