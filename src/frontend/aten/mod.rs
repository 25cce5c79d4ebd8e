//! The operators of PyTorch, by families: each row says how one operator, in all the overloads that share a schema, is built.
//!
//! How an operator is added: a row in the family's `ROWS`, and a function `(cx, args) -> Result<Vec<Value>, String>` that
//! reads its arguments by the names of the schema (`native_functions.yaml`; arguments left at their default are not in the
//! file, so give the default here) and builds over [`Cx::b`](args::Cx), with all results in order. Methods of tensors call rows by
//! name (`frontend/call.rs`). For imported programs the importer does the
//! rest: dtypes and shapes are compared with what the program declares, variants in place (`add_` for `add`) write the result
//! of the same row into their first argument, those with an argument `out` into that, and a row of effect [`Effect::View`] gives
//! results that share memory with its first tensor. An operator that writes other arguments calls `cx.write`. Integer results that PyTorch gives as i64 are cast
//! here. An argument that is given and not read is an error: a row honors each attribute, refuses it by name, or says why it has no
//! influence and calls `disregard`.
//!
//! A new family is a file with `ROWS` and a line in [`FAMILIES`].
//!
//! Where PyTorch and this importer differ on `shared/conformance`:
//!
//! * `as_strided_scatter`, gradient of its first tensor: PyTorch gives the cotangent to the elements that are overwritten and zero to
//!   the others, which is the wrong way round (finite differences agree with what is here).
//! * `topk` of integers with ties (`int32_0`): which of equal elements comes first is the order in which libstdc++'s
//!   `nth_element` or `partial_sort` leaves them, which PyTorch does not define. Here it is the first one. Values agree.
//! * `empty_like` and its like hold what memory held; here they hold zeros.
//! * Random draws differ: only their distribution agrees.
//! * An adapter may fold `x * 0` to zero although `x` is NaN (`addr` with `alpha=0`).
//!
//! Bessel's and Airy's functions of f64 have their full accuracy here; PyTorch's approximations of `bessel_j0`, `bessel_j1`, `bessel_y0`,
//! `bessel_y1` and `airy_ai` are off by up to 1e-5 of their size between 2 and 8.
//!
//! The last states of an LSTM have the shape that eager execution gives. What PyTorch declares, and what its decomposition computes,
//! has one dimension more; what a decomposed program goes on with follows, or is refused (`lstm_states.rs`).
//!
//! Where elements written at indices meet in one place (`index_put`, `scatter`, `max_unpool2d`), the last one stays and each gets the
//! cotangent of that place, as in PyTorch.
//!
//! Families of the extended scope that are not there: linear algebra beyond products and norms of vectors (decompositions,
//! solvers, determinants, matrix exponentials), results whose shape depends on the data (`nonzero`, `unique`, `masked_select`,
//! `bincount`, `repeat_interleave` by a tensor without `output_size`), `multinomial`, polynomials of a degree above 32 that is a
//! tensor, `histogramdd`, resampling with antialiasing, complex numbers and sparse tensors.

mod activations;
pub mod args;
mod batch_norm;
mod bessel;
mod bits;
mod compose;
mod conv;
mod creation;
mod differences;
mod einsum;
mod fits;
mod floats;
mod fractional;
mod gamma;
pub mod gradients;
mod grouped;
mod histogram;
mod incomplete_gamma;
mod index;
mod log_sums;
mod loss;
mod matmul;
mod norm;
mod opmath;
mod patches;
mod pointwise;
mod polynomials;
mod pool;
pub mod promotion;
mod quantize;
mod random;
mod recurrent;
mod reduce;
mod resample;
mod scan;
mod scatter;
mod segments;
mod sort;
mod special;
mod stack;
mod strided;
mod views;
mod windows;

use crate::graph::Value;
use args::{Args, Cx};
use std::collections::HashMap;
use std::sync::OnceLock;

/// What a row does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Gives new tensors.
    Pure,
    /// Its results are views of its first tensor.
    View,
    /// Its result is a view of its first tensor where strides allow, else a copy.
    ViewIfStrided,
    /// Its result shares memory with its first tensor in a way that no view says: it may be read until either is written. Its
    /// first tensor fills its memory from the first element on, row by row.
    Snapshot,
}

/// Builds the results of one call.
pub type Build = fn(&mut Cx, &Args) -> Result<Vec<Value>, String>;

/// One operator.
pub struct Row {
    /// Name and overload of every call that it stands for, such as `add.Tensor`.
    pub names: &'static [&'static str],
    /// What it does to memory.
    pub effect: Effect,
    /// How it is built.
    pub build: Build,
}

/// A row of an operator that gives new tensors.
pub const fn pure(names: &'static [&'static str], build: Build) -> Row {
    Row { names, effect: Effect::Pure, build }
}

/// A row of an operator that gives views.
pub const fn view(names: &'static [&'static str], build: Build) -> Row {
    Row { names, effect: Effect::View, build }
}

/// A row of an operator that gives a view where strides allow.
pub const fn view_if_strided(names: &'static [&'static str], build: Build) -> Row {
    Row { names, effect: Effect::ViewIfStrided, build }
}

/// A row of an operator whose result shares memory in a way that no view says.
pub const fn snapshot(names: &'static [&'static str], build: Build) -> Row {
    Row { names, effect: Effect::Snapshot, build }
}

/// All families.
const FAMILIES: &[&[Row]] = &[
    activations::ROWS,
    batch_norm::ROWS,
    bessel::ROWS,
    bits::ROWS,
    compose::ROWS,
    stack::ROWS,
    einsum::ROWS,
    floats::ROWS,
    fractional::ROWS,
    gamma::ROWS,
    grouped::ROWS,
    histogram::ROWS,
    incomplete_gamma::ROWS,
    conv::ROWS,
    pool::ROWS,
    resample::ROWS,
    scan::ROWS,
    scatter::ROWS,
    segments::ROWS,
    creation::ROWS,
    differences::ROWS,
    index::ROWS,
    log_sums::ROWS,
    loss::ROWS,
    matmul::ROWS,
    norm::ROWS,
    patches::ROWS,
    pointwise::ROWS,
    polynomials::ROWS,
    quantize::ROWS,
    random::ROWS,
    recurrent::ROWS,
    reduce::ROWS,
    sort::ROWS,
    special::ROWS,
    strided::ROWS,
    views::ROWS,
    windows::ROWS,
];

/// The row of that name and overload.
pub fn row(name: &str) -> Option<&'static Row> {
    static TABLE: OnceLock<HashMap<&'static str, &'static Row>> = OnceLock::new();
    let table = TABLE.get_or_init(|| FAMILIES.iter().copied().flatten().flat_map(|row| row.names.iter().map(move |&n| (n, row))).collect());
    table.get(name).copied()
}

/// What a call writes beside what its row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nothing: its results are new.
    Fresh,
    /// Its first argument, as in `add_`.
    InPlace,
    /// Its argument `out`.
    Out,
}

/// The row of a target such as `torch.ops.aten.add_.Tensor`, and where the call writes its result.
pub fn find(target: &str) -> Option<(&'static Row, Target)> {
    let operator = target.strip_prefix("torch.ops.")?;
    // The few primitives that decompositions leave are rows under their full name.
    let call = operator.strip_prefix("aten.").unwrap_or(operator);
    if let Some(row) = row(call) {
        return Some((row, Target::Fresh));
    }
    let (name, overload) = call.split_once('.')?;
    if overload == "out" || overload.ends_with("_out") {
        // `pow.Scalar_out` is `pow.Scalar`; which one `add.out` is, is nowhere said.
        let overloads = [overload.trim_end_matches("_out"), "default", "Tensor", "Tensor_Tensor"];
        return overloads.iter().find_map(|o| row(&format!("{name}.{o}"))).map(|row| (row, Target::Out));
    }
    // `__iand__` is `__and__` in place.
    let functional = match name.strip_prefix("__i").and_then(|n| n.strip_suffix("__")) {
        Some(inner) => format!("__{inner}__.{overload}"),
        None => format!("{}.{overload}", name.strip_suffix('_')?),
    };
    row(&functional).map(|row| (row, Target::InPlace))
}

/// Entries of a table that is computed at import, such as the windows of a pool: a program of few bytes may ask for any number.
const MAX_TABLE: i64 = 1 << 16;

/// `n`, when a table may have so many entries.
fn table_length(n: i64) -> Result<i64, String> {
    if (0..=MAX_TABLE).contains(&n) { Ok(n) } else { Err(format!("a table of {n} entries is too long, {MAX_TABLE} are possible")) }
}

/// The tensor's rank, when it has at least so many dimensions.
fn rank_of(cx: &Cx, x: Value, least: usize) -> Result<usize, String> {
    let rank = cx.b.shape(x).rank();
    if rank >= least { Ok(rank) } else { Err(format!("{} has {rank} dimensions, expected {least} or more", cx.b.ty(x))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_overload_has_one_row() {
        let mut names: Vec<&str> = FAMILIES.iter().copied().flatten().flat_map(|r| r.names).copied().collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        let call = |n: &&str| n.strip_prefix("prims.").or(n.strip_prefix("transformers.")).unwrap_or(n).split('.').count() == 2;
        assert!(names.iter().all(call), "name and overload");
    }

    #[test]
    fn variants_in_place_use_the_same_row() {
        assert!(find("torch.ops.aten.add.Tensor").is_some_and(|(_, target)| target == Target::Fresh));
        assert!(find("torch.ops.aten.add_.Tensor").is_some_and(|(_, target)| target == Target::InPlace));
        assert!(find("torch.ops.aten.__iand__.Tensor").is_some_and(|(_, target)| target == Target::InPlace));
        assert!(find("torch.ops.aten.add.out").is_some_and(|(_, target)| target == Target::Out));
        assert!(find("torch.ops.aten.no_such_operator.default").is_none());
    }
}
