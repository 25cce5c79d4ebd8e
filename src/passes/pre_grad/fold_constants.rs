//! Evaluates what depends on constants alone.

use crate::ops::{Array, Class, Constant, Data, Op, OpDef, Precision};
use crate::rewrite::{Rewritten, Rule, Site};
use crate::types::{Shape, TensorType};

/// Larger results are left to be computed: a constant is memory, and memory is what kernels wait for.
const MAX_ELEMENTS: usize = 64;

/// Replaces ops on constants by their value: of any size where every element is the same number, else up to 64
/// elements.
///
/// ```text
/// %1 = full() {value=2.0, ...}
/// %2 = sqrt(%1)            ->     %1 = full() {value=1.4142135, ...}
/// %3 = mul(%0, %2)                %2 = mul(%0, %1)
/// ```
///
/// Values are those of the reference evaluation, rounded to their dtype. Random bits are not folded. Linear.
pub(in crate::passes) const RULES: &[Rule] = &[
    Rule { name: "view of a repeated number -> number", apply: uniform_view },
    Rule { name: "function of repeated numbers -> number", apply: uniform_pointwise },
    Rule { name: "op on small constants -> constant", apply: small_constants },
];

fn uniform_view(site: &mut Site<'_>) -> Rewritten {
    match site.op().is_view().then(|| site.uniform(0)).flatten() {
        Some(x) => site.replace_by_number(x),
        None => Ok(None),
    }
}

/// A cast or a scalar function of numbers, evaluated on one element.
fn uniform_pointwise(site: &mut Site<'_>) -> Rewritten {
    if !matches!(site.op(), Op::Pointwise(_) | Op::Cast(_)) {
        return Ok(None);
    }
    let Some(numbers) = (0..site.operands.len()).map(|k| site.uniform(k)).collect::<Option<Vec<f64>>>() else { return Ok(None) };
    let one = |ty: &TensorType| TensorType { dtype: ty.dtype, shape: Shape::scalar() };
    let operands: Vec<Array> = site.operands.iter().zip(numbers).map(|(&v, x)| number(&one(site.b.ty(v)), x)).collect();
    let result = site.op().eval(&operands, &[one(site.ty())], Precision::Working)?;
    match first_number(&result[0]) {
        Some(x) => site.replace_by_number(x),
        None => Ok(None),
    }
}

fn small_constants(site: &mut Site<'_>) -> Rewritten {
    let foldable = !matches!(site.op().class(), Class::Input | Class::Source | Class::Random | Class::Subgraph | Class::Composite);
    if !foldable || site.operands.is_empty() || site.node.types.len() != 1 || elements(site.ty()).is_none_or(|n| n > MAX_ELEMENTS) {
        return Ok(None);
    }
    let mut operands = vec![];
    for &v in site.operands {
        match constant(site, v) {
            Some(array) => operands.push(array),
            None => return Ok(None),
        }
    }
    // An error of the evaluation (an index out of range) is the user's to see when the program runs.
    let Ok(result) = site.op().eval(&operands, &site.node.types, Precision::Working) else { return Ok(None) };
    if !is_exact(&result[0]) {
        return Ok(None);
    }
    let same = first_number(&result[0]).filter(|x| all_equal(&result[0], *x));
    match same {
        Some(x) => site.replace_by_number(x),
        None => {
            let constant = Constant::from_host(&result[0].to_host());
            Ok(Some(vec![site.b.op(constant, &[])?]))
        }
    }
}

/// The elements of a `full` or `constant` that is not large.
fn constant(site: &Site<'_>, v: crate::graph::Value) -> Option<Array> {
    let ty = site.b.ty(v);
    let node = site.def(v);
    match &*node.op {
        Op::Full(_) | Op::Constant(_) if elements(ty)? <= 16 * MAX_ELEMENTS => node.op.eval(&[], &node.types, Precision::Working).ok()?.pop(),
        _ => None,
    }
}

fn elements(ty: &TensorType) -> Option<usize> {
    ty.numel().as_int().map(|n| n as usize)
}

fn number(ty: &TensorType, x: f64) -> Array {
    if ty.dtype.is_float() { Array::float(ty.dtype, vec![], vec![x]) } else { Array::int(ty.dtype, vec![], vec![x as i64]) }
}

/// Whether attributes can hold the elements: integers beyond 2^53 are not exact there, and stay computed.
fn is_exact(array: &Array) -> bool {
    match &array.data {
        Data::Float(_) => true,
        Data::Int(x) => x.iter().all(|n| n.unsigned_abs() <= 1 << 53),
    }
}

/// The first element, if an attribute can hold it.
fn first_number(array: &Array) -> Option<f64> {
    match &array.data {
        Data::Float(x) => x.first().copied(),
        Data::Int(x) => is_exact(array).then(|| x.first().map(|&n| n as f64)).flatten(),
    }
}

fn all_equal(array: &Array, x: f64) -> bool {
    match &array.data {
        Data::Float(data) => data.iter().all(|y| y.to_bits() == x.to_bits()),
        Data::Int(data) => data.iter().all(|&y| y as f64 == x),
    }
}
