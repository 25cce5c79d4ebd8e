//! Concrete sizes of symbols, from the shapes of actual inputs.

use super::{Bindings, Dim, Symbol, TensorType};

/// Values of all symbols in `types`, such that every type has the shape given for it. A symbol is solved from a size in
/// which it is the only unknown and occurs linearly; the error names the input (by position) or the symbol.
pub fn bind_symbols(types: &[&TensorType], shapes: &[&[usize]]) -> Result<Bindings, String> {
    let names: Vec<String> = (0..types.len()).map(|i| format!("input {i}")).collect();
    let names: Vec<&str> = names.iter().map(|n| &n[..]).collect();
    bind_named_symbols(&names, types, shapes)
}

/// As [`bind_symbols`], naming the inputs in errors.
pub fn bind_named_symbols(names: &[&str], types: &[&TensorType], shapes: &[&[usize]]) -> Result<Bindings, String> {
    if types.len() != shapes.len() || names.len() != types.len() {
        return Err(format!("expected {} inputs, got {}", types.len(), shapes.len()));
    }
    let mut sizes = vec![];
    for ((name, ty), shape) in names.iter().zip(types).zip(shapes) {
        let fits = ty.shape.rank() == shape.len() && ty.shape.0.iter().zip(*shape).all(|(d, &n)| d.as_int().is_none_or(|c| c == n as i64));
        if !fits {
            return Err(mismatch(name, ty, shape));
        }
        sizes.extend(ty.shape.0.iter().cloned().zip(shape.iter().map(|&n| n as i64)));
    }
    let bindings = solve(&sizes)?;
    for ((name, ty), shape) in names.iter().zip(types).zip(shapes) {
        for (dim, &n) in ty.shape.0.iter().zip(*shape) {
            if dim.eval(&bindings)? != n as i64 {
                let known: Vec<String> = symbols_of([dim]).iter().map(|s| format!("{} = {}", s.name, bindings[&*s.name])).collect();
                return Err(format!("{} where {}", mismatch(name, ty, shape), known.join(", ")));
            }
        }
    }
    Ok(bindings)
}

fn mismatch(name: &str, ty: &TensorType, shape: &[usize]) -> String {
    format!("{name}: expected {ty}, got {}{shape:?}", ty.dtype)
}

/// Solves sizes with one unknown until none is left; checks the declared ranges.
pub(super) fn solve(sizes: &[(Dim, i64)]) -> Result<Bindings, String> {
    let symbols = symbols_of(sizes.iter().map(|(d, _)| d));
    let mut bindings = Bindings::new();
    loop {
        let before = bindings.len();
        for (dim, n) in sizes {
            let unknown: Vec<Symbol> = symbols_of([dim]).into_iter().filter(|s| !bindings.contains_key(&*s.name)).collect();
            if let [symbol] = &unknown[..]
                && let Some(x) = solve_linear(dim, symbol, *n, &bindings)
            {
                bindings.insert(symbol.name.to_string(), x);
            }
        }
        if bindings.len() == symbols.len() {
            break;
        }
        if bindings.len() == before {
            let missing = symbols.iter().find(|s| !bindings.contains_key(&*s.name)).expect("one is missing");
            return Err(format!("symbol {} does not follow from the shapes of the inputs", missing.name));
        }
    }
    for s in &symbols {
        let n = bindings[&*s.name];
        if n < s.min || n > s.max {
            return Err(format!("{} = {n} is outside its declared range {}..{}", s.name, s.min, s.max));
        }
    }
    Ok(bindings)
}

/// The value of `symbol` for which `dim` is `n`, when `dim` is linear in it.
fn solve_linear(dim: &Dim, symbol: &Symbol, n: i64, bindings: &Bindings) -> Option<i64> {
    let mut trial = bindings.clone();
    let mut at = |x: i64| {
        trial.insert(symbol.name.to_string(), x);
        dim.eval(&trial).ok()
    };
    let (zero, one, two) = (at(0)?, at(1)?, at(2)?);
    let slope = one.checked_sub(zero)?;
    if two.checked_sub(one)? != slope || slope == 0 {
        return None;
    }
    let x = n.checked_sub(zero)?.checked_div_euclid(slope)?;
    (at(x)? == n).then_some(x)
}

fn symbols_of<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Vec<Symbol> {
    let mut symbols = vec![];
    for d in dims {
        d.collect_symbols(&mut symbols);
    }
    symbols
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::DType;

    #[test]
    fn symbols_are_solved_checked_and_named() {
        let (b, t) = (Dim::symbol("b", 1, 64), Dim::symbol("t", 2, 128));
        let x = TensorType::new(DType::F32, (b.clone() * &t, 3));
        let y = TensorType::new(DType::I32, (t.clone() * Dim::int(2) + Dim::int(1),));
        let bound = bind_symbols(&[&x, &y], &[&[12, 3], &[9]]).unwrap();
        assert_eq!((bound["b"], bound["t"]), (3, 4));
        let error = |shapes: &[&[usize]]| bind_named_symbols(&["x", "y"], &[&x, &y], shapes).unwrap_err();
        assert_eq!(error(&[&[12, 4], &[9]]), "x: expected f32[b*t, 3], got f32[12, 4]");
        assert_eq!(error(&[&[12, 3], &[8]]), "symbol b does not follow from the shapes of the inputs");
        assert_eq!(error(&[&[12, 3], &[3]]), "t = 1 is outside its declared range 2..128");
        assert_eq!(error(&[&[12], &[9]]), "x: expected f32[b*t, 3], got f32[12]");
        let z = TensorType::new(DType::F32, (b.clone(), b));
        assert_eq!(bind_symbols(&[&z], &[&[2, 3]]).unwrap_err(), "input 0: expected f32[b, b], got f32[2, 3] where b = 2");
    }
}
