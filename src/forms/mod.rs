//! What a workgroup can do with a nest: forms of kernels as data, and what they cost.
//!
//! * Comes in: a nest in its final domain, how its buffers lie in memory, a [`Target`].
//! * Goes out: [`candidates`]: the [`Form`]s that can run the nest, each with its predicted [`Cost`], best first. `schedule`
//!   chooses, `codegen` spells, and whoever prices a fusion asks the same numbers.
//! * Invariants: there is always a form, the generic one at its true price; a form is legal whatever slots its buffers get, or says
//!   in [`Form::needs_distinct_slots`] that it is not; the same nest, buffers and target give the same bytes.
//! * A threshold is a row or a constant of its form's file, with its reason or measurement beside it.
//! * Must not know: WGSL, slots, the order of kernels, graphs.
//! * Add here: a form is a file with its parameters and candidates, a variant of [`Form`], an arm of [`candidates`], and its
//!   spelling in `codegen/forms/`.

pub mod attention;
pub mod contraction;
mod cost;
mod lanes;
mod map;
pub mod merged;
mod online;
pub mod parts;
pub mod product;
mod rows;
mod sort;
mod transpose;
mod triangle;

pub use attention::Blocks;
pub use cost::{Cost, Work};
pub use lanes::{Lane, fits_vectors, flat_lanes, owns_words, restrict_to_vectors};
pub use map::Map;
pub use online::{ExpSum, expand_online, keeping};
pub use product::{Math, Terms, Tile};
pub use rows::{COLUMN, Gather, HELD_COLUMNS, ROW, STEP, Team, chunks, gathered, lane, lazy_source, row_axes, scans, subgroup};
pub use sort::{Network, SORTED_HEAD, Sort, sorted_elements, sorts};
pub use transpose::Transpose;

use crate::config::Target;
use crate::loop_ir::{Instr, Nest};
use crate::types::{DType, Dim, Storage, per_word};
use serde::{Deserialize, Serialize};

/// How a workgroup runs a nest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Form {
    /// An invocation for each element, or for a few neighbors.
    Map(Map),
    /// Square tiles through workgroup memory, where reads and writes run along different axes.
    Transpose(Transpose),
    /// A team of invocations for each row, with reductions or scans.
    Rows(Team),
    /// Tiles of a matrix product, whose operands pass through workgroup memory.
    Product(Tile),
    /// Blocks of rows and columns of attention, with an online softmax between two products.
    Attention(Blocks),
    /// Rows sorted by a workgroup that holds them, or the part of them that is written.
    Network(Network),
    /// Rows sorted by counting, an invocation for each element.
    Rank,
}

/// A buffer of a nest as a form sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Operand {
    /// Element type.
    pub dtype: DType,
    /// Element format.
    pub storage: Storage,
    /// Number of elements.
    pub numel: Dim,
}

impl Operand {
    /// Elements in one word or array element.
    pub fn per_word(&self) -> u32 {
        if self.storage == Storage::Packed { per_word(self.dtype) } else { 1 }
    }

    /// Whether vectors of four elements are accessed at once: of words, or of native f16.
    pub fn has_vectors(&self) -> bool {
        match self.storage {
            Storage::Native => self.dtype.size() == 4 || self.dtype == DType::F16,
            Storage::Word | Storage::Narrow => true,
            Storage::Packed => false,
        }
    }
}

/// Forms that can run a nest, with their predicted times, best first. Never empty.
pub fn candidates(nest: &Nest, operands: &[Operand], target: &Target) -> Vec<(Form, Cost)> {
    if nest.attention_features().is_some() {
        return attention::candidates(nest, target);
    }
    // Loops over the terms take longer than any tile where tiles serve.
    let tiles = contraction::candidates(nest, operands, target);
    let mut found: Vec<(Form, Cost)> = tiles.into_iter().chain(ranked(of_any_nest(nest, operands, target))).collect();
    if let Some(most) = target.caps.max_steps {
        let columns = nest.col_count().hint().max(0) as u64;
        found.sort_by_key(|(form, _)| form.steps(nest, columns) > most as u64);
    }
    found
}

/// Forms of a nest whatever it computes, in the order of the tables.
fn of_any_nest(nest: &Nest, operands: &[Operand], target: &Target) -> Vec<(Form, Cost)> {
    let has = |test: fn(&Instr) -> bool| nest.body.iter().any(|s| test(&s.instr));
    if has(|i| matches!(i, Instr::Sort { .. })) {
        sort::candidates(nest, operands, target)
    } else if has(|i| matches!(i, Instr::Reduce(..) | Instr::Scan(..))) {
        rows::candidates(nest, operands, target)
    } else {
        let transposed = transpose::candidate(nest, operands, target);
        transposed.into_iter().chain(map::candidates(nest, operands, target)).collect()
    }
}

/// How many times as long as the shortest a predicted time may be and still tell nothing: a model of a few figures is no better.
const NOTICEABLE: f64 = 2.0;

/// By predicted time. Where predictions hardly differ, the order of the tables, which were measured, decides.
fn ranked(mut found: Vec<(Form, Cost)>) -> Vec<(Form, Cost)> {
    let mut out = Vec::with_capacity(found.len());
    while !found.is_empty() {
        let least = found.iter().map(|(_, cost)| cost.ns).fold(f64::INFINITY, f64::min);
        let first = found.iter().position(|(_, cost)| cost.ns <= least * NOTICEABLE).unwrap_or(0);
        out.push(found.remove(first));
    }
    out
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Form::Product(tile) => tile.fmt(f),
            other => write!(f, "{other:?}"),
        }
    }
}

impl Form {
    /// What matrix units multiply in it, if they do.
    pub fn units(&self) -> Option<Terms> {
        match self {
            Form::Product(Tile { math: Math::Cooperative(terms), .. }) => Some(*terms),
            Form::Attention(blocks) => blocks.units,
            _ => None,
        }
    }

    /// Bytes of memory that workgroups share.
    pub fn scratch_bytes(&self) -> u64 {
        if let Form::Product(tile) = self { tile.scratch_bytes() } else { 0 }
    }

    /// Steps of loops that an invocation takes where the nest has so many columns; loops that do not go over columns are short.
    pub fn steps(&self, nest: &Nest, columns: u64) -> u64 {
        match self {
            Form::Rows(team) => rows::steps(nest, team, columns),
            Form::Product(tile) => tile.steps(columns),
            Form::Rank => columns,
            Form::Map(_) | Form::Transpose(_) | Form::Attention(_) | Form::Network(_) => 0,
        }
    }

    /// Whether no buffer that is written may share its slot with another that is read.
    pub fn needs_distinct_slots(&self) -> bool {
        match self {
            Form::Map(_) | Form::Product(_) | Form::Rows(_) => false,
            Form::Attention(_) | Form::Transpose(_) | Form::Network(_) | Form::Rank => true,
        }
    }
}

/// Whether a buffer that is written is also read.
fn is_in_place(nest: &Nest) -> bool {
    let reads = nest.reads();
    nest.writes.iter().any(|w| reads.contains(&w.buffer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loop_ir::naive::{self, Memory};
    use crate::loop_ir::{BufferId, Combiner, IndexExpr, Stmt, Tag, Val, Write, flatten, verify};
    use crate::types::{Bindings, Sizes};

    /// One load over rows x columns, `rest` behind it, and one write of the last value: of each row, or of each element.
    fn nest(rows: &[i64], cols: &[i64], load: impl Fn(&[IndexExpr]) -> IndexExpr, rest: Vec<Instr>, of_rows: bool) -> Nest {
        let dims = |sizes: &[i64]| sizes.iter().map(|&n| Dim::int(n)).collect::<Sizes>();
        let mut nest = Nest {
            label: "test".into(),
            rows: dims(rows),
            cols: dims(cols),
            inner: Sizes::default(),
            body: vec![],
            writes: vec![],
            tag: Tag::Loop,
            provenance: Default::default(),
        };
        let axes = [nest.row_axes(), nest.col_axes()].concat();
        let first = Instr::Load { buffer: BufferId(0), index: load(&axes), mask: None };
        nest.body = [first].into_iter().chain(rest).map(|instr| Stmt { instr, dtype: DType::F32 }).collect();
        let (axes, sizes) = match of_rows {
            true => (nest.row_axes(), nest.rows.to_vec()),
            false => (axes, nest.sizes()),
        };
        let last = Val(nest.body.len() as u32 - 1);
        nest.writes = vec![Write::new(BufferId(1), flatten(&axes, &sizes), last)];
        assert_eq!(verify(&nest), Vec::<String>::new());
        nest
    }

    fn floats(sizes: &[i64]) -> Vec<Operand> {
        sizes.iter().map(|&n| Operand { dtype: DType::F32, storage: Storage::Native, numel: Dim::int(n) }).collect()
    }

    fn along(rows: i64, cols: i64, rest: Vec<Instr>, of_rows: bool) -> Nest {
        nest(&[rows], &[cols], |a| a[0].times(&Dim::int(cols)).add(&a[1]), rest, of_rows)
    }

    #[test]
    fn a_transposed_copy_passes_through_tiles() {
        let n = 4096;
        let copy = nest(&[n, n], &[], |a| a[1].times(&Dim::int(n)).add(&a[0]), vec![], true);
        let found = candidates(&copy, &floats(&[n * n, n * n]), &Target::h100());
        let Form::Transpose(form) = &found[0].0 else { panic!("{found:?}") };
        assert_eq!((form.across, form.along, &form.staged[..]), (0, 1, &[0][..]));
        // Each of its elements moves a sector by itself otherwise.
        assert!(matches!(found[1].0, Form::Map(_)) && found[1].1.ns > 4.0 * found[0].1.ns, "{found:?}");
        let in_place = copy.map_buffers(&|_| BufferId(0));
        assert!(candidates(&in_place, &floats(&[n * n]), &Target::h100()).iter().all(|(form, _)| !form.needs_distinct_slots()));
    }

    #[test]
    fn a_row_for_each_invocation_is_the_last_resort_of_long_rows() {
        let sum = along(512, 8192, vec![Instr::Reduce(Combiner::Sum, Val(0))], true);
        for target in [Target::h100(), Target::webgpu_default()] {
            let found = candidates(&sum, &floats(&[512 * 8192, 512]), &target);
            let [(Form::Rows(team), near), (Form::Rows(alone), far)] = &found[..] else { panic!("{found:?}") };
            assert!(team.threads >= 64 && alone.threads == 1 && far.ns > 2.0 * near.ns, "{found:?}");
            assert_eq!(team.subgroup.is_some(), target.caps.subgroups.is_some());
        }
    }

    #[test]
    fn rows_are_sorted_by_counting_where_no_workgroup_holds_them() {
        let sort = || vec![Instr::Sort { key: Val(0), descending: false }];
        let held = along(64, 1000, sort(), false);
        let found = candidates(&held, &floats(&[64_000, 64_000]), &Target::webgpu_default());
        assert!(matches!(found[0].0, Form::Network(n) if n.each * n.threads == 1024) && found[1].0 == Form::Rank, "{found:?}");
        let long = along(1, 1 << 20, sort(), false);
        assert_eq!(candidates(&long, &floats(&[1 << 20, 1 << 20]), &Target::webgpu_default()).len(), 1);
    }

    #[test]
    fn an_expanded_online_softmax_gives_the_same_statistics() {
        let online = along(3, 7, vec![Instr::Reduce(Combiner::OnlineSoftmax, Val(0)), Instr::Proj(Val(1), 1)], true);
        let (expanded, sums) = expand_online(&online).unwrap();
        assert_eq!((verify(&expanded), sums.len()), (vec![], 1));
        let data: Vec<f64> = (0..21).map(|k| if k >= 14 { f64::NEG_INFINITY } else { (k * 5 % 9) as f64 - 3.0 }).collect();
        let run = |nest: &Nest| {
            let mut memory = [Memory::from_f64(DType::F32, &data), Memory::zeros(DType::F32, 3)];
            naive::run(nest, &mut memory, &Bindings::new()).unwrap();
            memory[1].to_f64()
        };
        let (a, b) = (run(&online), run(&expanded));
        assert!(a[..2].iter().zip(&b[..2]).all(|(a, b)| (a - b).abs() < 1e-6 * a) && a[2].is_nan() && b[2].is_nan(), "{a:?} {b:?}");
    }
}
