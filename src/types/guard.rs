//! What a program assumes about the sizes of its inputs.

use super::bind::solve;
use super::{Dim, Shape};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How two sizes relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// They are equal.
    Equal,
    /// The first is at most the second.
    AtMost,
}

/// A dimension of an input, from which a symbol follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Name of the input.
    pub input: String,
    /// The dimension.
    pub dim: u32,
    /// Its size: an expression over that symbol alone.
    pub size: Dim,
}

/// A relation of sizes that some operator needs and nothing proves. The types of the program's inputs imply it, so that an
/// executor that does not know guards refuses the same inputs; guards say why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Guard {
    /// One size.
    pub left: Dim,
    /// How they relate.
    pub relation: Relation,
    /// The other size.
    pub right: Dim,
    /// Where the symbols of both sides come from, in the order of the inputs.
    pub places: Vec<Place>,
    /// The operator that needs it, with its source line.
    pub needed_by: String,
}

impl Guard {
    /// Checks the shapes of the inputs of these names; shapes that have no such dimension are not looked at.
    pub fn check(&self, names: &[&str], shapes: &[&[usize]]) -> Result<(), String> {
        let mut sizes = vec![];
        for place in &self.places {
            let shape = names.iter().position(|n| *n == place.input).and_then(|at| shapes.get(at));
            let Some(&n) = shape.and_then(|shape| shape.get(place.dim as usize)) else { return Ok(()) };
            sizes.push((place.size.clone(), n as i64));
        }
        let bindings = solve(&sizes)?;
        let (left, right) = (self.left.eval(&bindings)?, self.right.eval(&bindings)?);
        let holds = match self.relation {
            Relation::Equal => left == right,
            Relation::AtMost => left <= right,
        };
        if holds { Ok(()) } else { Err(self.message(&sizes, left, right)) }
    }

    /// `input a has size 5 in dimension 0, but input b has size 4 in dimension 0: the program needs them equal (add at model.rs:3)`
    fn message(&self, sizes: &[(Dim, i64)], left: i64, right: i64) -> String {
        let found = |(place, (_, n)): (&Place, &(Dim, i64))| format!("input {} has size {n} in dimension {}", place.input, place.dim);
        let found: Vec<String> = self.places.iter().zip(sizes).map(found).collect();
        let is_plain = self.relation == Relation::Equal && sizes.len() == 2 && sizes.iter().all(|(d, _)| *d == self.left || *d == self.right);
        let needed = if is_plain { "them equal".into() } else { format!("{}, which is {left} {} {right}", self.claim(), self.sign()) };
        format!("{}: the program needs {needed} ({})", found.join(", but "), self.needed_by)
    }

    fn claim(&self) -> String {
        format!("{} {} {}", self.left, self.sign(), self.right)
    }

    fn sign(&self) -> &'static str {
        match self.relation {
            Relation::Equal => "==",
            Relation::AtMost => "<=",
        }
    }
}

/// `s0 == s1, where x[0] is s0 and y[0] is s1 (add at model.rs:3)`
impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places: Vec<String> = self.places.iter().map(|p| format!("{}[{}] is {}", p.input, p.dim, p.size)).collect();
        write!(f, "{}, where {} ({})", self.claim(), places.join(" and "), self.needed_by)
    }
}

/// Checks all guards; the error names the inputs of the first that fails.
pub fn check_guards(guards: &[Guard], names: &[&str], shapes: &[&[usize]]) -> Result<(), String> {
    guards.iter().try_for_each(|guard| guard.check(names, shapes))
}

/// Sizes of the same dimension of both lists, from the last one on.
pub fn paired(a: &[Dim], b: &[Dim]) -> Vec<(Dim, Dim)> {
    a.iter().rev().zip(b.iter().rev()).map(|(x, y)| (x.clone(), y.clone())).collect()
}

/// Sizes of the same dimension of shapes of one rank, besides one dimension.
pub fn paired_besides(a: &Shape, b: &Shape, dim: u32) -> Vec<(Dim, Dim)> {
    let (dim, rank) = (dim as usize, a.rank());
    let beside = (0..rank).filter(|&i| i != dim && b.rank() == rank);
    beside.map(|i| (a[i].clone(), b[i].clone())).collect()
}

/// Pairs of sizes that must be equal for both shapes to broadcast against one another.
pub fn broadcast_pairs(a: &Shape, b: &Shape) -> Vec<(Dim, Dim)> {
    let mut pairs = paired(&a.0, &b.0);
    pairs.retain(|(x, y)| !x.is(1) && !y.is(1));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_inputs_are_named() {
        let (n, m) = (Dim::symbol("n", 2, 64), Dim::symbol("m", 2, 64));
        let place = |input: &str, dim, size: &Dim| Place { input: input.into(), dim, size: size.clone() };
        let equal = Guard {
            left: m.clone(),
            relation: Relation::Equal,
            right: n.clone(),
            places: vec![place("ids", 0, &n), place("labels", 1, &m)],
            needed_by: "add at model.rs:3".into(),
        };
        let names = ["ids", "labels"];
        assert_eq!(equal.check(&names, &[&[5], &[2, 5]]), Ok(()));
        assert_eq!(
            equal.check(&names, &[&[5], &[2, 4]]).unwrap_err(),
            "input ids has size 5 in dimension 0, but input labels has size 4 in dimension 1: the program needs them equal (add at model.rs:3)"
        );
        assert_eq!(equal.check(&names, &[&[5], &[2, 65]]).unwrap_err(), "m = 65 is outside its declared range 2..64");
        assert_eq!(equal.to_string(), "m == n, where ids[0] is n and labels[1] is m (add at model.rs:3)");
        let shifted = Guard { right: n.clone() - Dim::int(1), relation: Relation::AtMost, ..equal };
        assert_eq!(shifted.check(&names, &[&[5], &[2, 3]]), Ok(()));
        assert_eq!(
            shifted.check(&names, &[&[5], &[2, 5]]).unwrap_err(),
            "input ids has size 5 in dimension 0, but input labels has size 5 in dimension 1: the program needs m <= n - 1, which is 5 <= 4 \
             (add at model.rs:3)"
        );
        let text = serde_json::to_string(&shifted).unwrap();
        assert_eq!(serde_json::from_str::<Guard>(&text).unwrap(), shifted);
    }
}
