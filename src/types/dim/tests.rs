//! What the algebra proves, and that it never lies.

use super::*;

#[test]
fn arithmetic_is_canonical() {
    let (b, t) = (Dim::symbol("b", 1, 64), Dim::symbol("t", 1, 1024));
    assert_eq!(b.clone() * &t, t.clone() * &b);
    assert_eq!((b.clone() + &t) * Dim::int(2), b.clone() * Dim::int(2) + t.clone() * Dim::int(2));
    assert_eq!(b.clone() - &b, Dim::int(0));
    assert_eq!((b.clone() * &t).try_div(&t), Some(b.clone()));
    assert_eq!((b.clone() * Dim::int(12)).try_div(&Dim::int(4)), Some(b.clone() * Dim::int(3)));
    assert_eq!((b.clone() + &Dim::int(1)).try_div(&t), None);
    assert!(b.known_le(&Dim::int(64)) && !b.known_le(&Dim::int(63)));
    assert_eq!((b * &t).range(), (1, 65536));
    let d = t.clone() * Dim::int(3) - Dim::int(2);
    assert_eq!(d.to_string(), "t*3 - 2");
    let json = serde_json::to_string(&d).unwrap();
    assert_eq!(json, "\"t{1..1024}*3 - 2\"");
    assert_eq!(serde_json::from_str::<Dim>(&json).unwrap(), d);
}

/// Numbers for the random expressions; the same ones in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// An expression as it is written, to be evaluated without any algebra.
#[derive(Debug)]
enum Written {
    Int(i64),
    Symbol(usize),
    Apply(&'static str, Box<Written>, Box<Written>),
}

const SYMBOLS: [(&str, i64, i64); 3] = [("a", 0, 7), ("b", 1, 6), ("c", 2, 9)];

fn random(draw: &mut Draw, depth: u32) -> Written {
    match draw.below(if depth == 0 { 2 } else { 8 }) {
        0 => Written::Int(draw.below(13) as i64 - 4),
        1 => Written::Symbol(draw.below(3) as usize),
        k => {
            let name = ["add", "sub", "mul", "div", "mod", "max"][k as usize - 2];
            let left = random(draw, depth - 1);
            // Divisors are positive: mostly constants, sometimes symbols.
            let right = match name {
                "div" | "mod" if draw.below(4) > 0 => Written::Int(1 + draw.below(6) as i64),
                "div" | "mod" => Written::Symbol(1 + draw.below(2) as usize),
                _ => random(draw, depth - 1),
            };
            Written::Apply(name, left.into(), right.into())
        }
    }
}

impl Written {
    fn value(&self, at: &[i64; 3]) -> i64 {
        match self {
            Written::Int(n) => *n,
            Written::Symbol(k) => at[*k],
            Written::Apply(name, x, y) => {
                let (x, y) = (x.value(at), y.value(at));
                match *name {
                    "add" => x + y,
                    "sub" => x - y,
                    "mul" => x * y,
                    "div" => x.div_euclid(y),
                    "mod" => x.rem_euclid(y),
                    _ => x.max(y),
                }
            }
        }
    }

    fn dim(&self) -> Dim {
        match self {
            Written::Int(n) => Dim::int(*n),
            Written::Symbol(k) => Dim::symbol(SYMBOLS[*k].0, SYMBOLS[*k].1, SYMBOLS[*k].2),
            Written::Apply(name, x, y) => {
                let (x, y) = (x.dim(), y.dim());
                match *name {
                    "add" => x + y,
                    "sub" => x - y,
                    "mul" => x * y,
                    "div" => x.floor_div(&y),
                    "mod" => x.modulo(&y),
                    _ => x.max_with(&y),
                }
            }
        }
    }
}

fn points() -> Vec<[i64; 3]> {
    let range = |k: usize| SYMBOLS[k].1..=SYMBOLS[k].2;
    range(0).flat_map(|a| range(1).flat_map(move |b| range(2).map(move |c| [a, b, c]))).collect()
}

fn bindings(at: &[i64; 3]) -> Bindings {
    SYMBOLS.iter().zip(at).map(|((name, ..), &n)| (name.to_string(), n)).collect()
}

#[test]
fn simplification_keeps_every_value_and_proofs_never_lie() {
    let (mut draw, points) = (Draw(7), points());
    let symbol = |name: &str| SYMBOLS.iter().find(|s| s.0 == name).map(|&(name, min, max)| Symbol { name: name.into(), min, max });
    for _ in 0..3000 {
        let (x, y) = (random(&mut draw, 3), random(&mut draw, 3));
        let (p, q) = (x.dim(), y.dim());
        let (low, high) = p.range();
        let (le, lt, eq) = (p.known_le(&q), p.known_lt(&q), p.known_eq(&q));
        let quotient = p.try_div(&q);
        assert_eq!(Dim::parse(&p.to_string(), &symbol), Ok(p.clone()), "{x:?}");
        for at in &points {
            let (a, b) = (x.value(at), y.value(at));
            assert_eq!(p.eval(&bindings(at)), Ok(a), "{x:?} as {p} at {at:?}");
            assert!(low <= a && a <= high, "{p} is {a} at {at:?}, outside of {low}..{high}");
            assert!(!(le && a > b || lt && a >= b || eq && a != b), "{p} against {q} at {at:?}: {le} {lt} {eq}");
            if let Some(quotient) = &quotient {
                assert_eq!(quotient.eval(&bindings(at)).map(|n| n * b), Ok(a), "({p}) / ({q}) is {quotient}");
            }
        }
    }
}

#[test]
fn what_programs_need_is_proven() {
    let int = Dim::int;
    let (n, m, one, two) = (Dim::symbol("n", 1, i32::MAX as i64), Dim::symbol("m", 1, i32::MAX as i64), int(1), int(2));
    let half = n.floor_div(&two);
    // Canonical forms.
    assert_eq!((n.clone() * &two + &one).floor_div(&two), n);
    assert_eq!((n.clone() * &two - &one).floor_div(&two), n.clone() - &one);
    assert_eq!((n.clone() * &m + &m - &one).floor_div(&m), n);
    assert_eq!((n.clone() * &int(4) + &int(3)).floor_div(&int(8)), half);
    assert_eq!(half.floor_div(&int(3)), n.floor_div(&int(6)));
    assert_eq!(n.modulo(&two) + half.clone() * &two, n);
    assert_eq!(((n.clone() + &one) * &m).try_div(&(n.clone() + &one)), Some(m.clone()));
    let stride_two = |x: &Dim| (x.clone() - &one).floor_div(&two) + &one;
    assert_eq!(stride_two(&stride_two(&n)), (n.clone() - &one).floor_div(&int(4)) + &one);
    assert_eq!(n.max_with(&m), m.max_with(&n));
    assert_eq!(n.min_with(&m) + n.max_with(&m), n.clone() + &m);
    // Bounds.
    assert!(half.known_le(&n) && half.known_lt(&n) && int(0).known_le(&half));
    assert!((half.clone() * &two).known_le(&n) && n.known_le(&(half.clone() * &two + &one)));
    assert!(n.known_le(&(n.clone() * &m)) && (n.clone() * &half).known_le(&(n.clone() * &n)));
    assert!(n.min_with(&m).known_le(&n) && n.min_with(&m).known_le(&m) && n.known_le(&n.max_with(&m)));
    assert!(n.modulo(&m).known_lt(&m) && int(0).known_le(&n.modulo(&m)));
    assert!(!n.known_le(&m) && !m.known_lt(&n));
    // Cases of remainders.
    assert!((half.clone() + n.ceil_div(&two)).known_eq(&n));
    assert!((n.floor_div(&int(3)) * &int(3) + n.modulo(&int(3))).known_eq(&n));
    assert!(!half.known_eq(&n.ceil_div(&two)));
}
