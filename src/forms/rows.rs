//! Nests with reductions or scans: a team of invocations for each row, and how rows and columns are laid over them.
//!
//! Short rows take an invocation each, longer ones a team of a power of two, the longest a loop of their team; where memory runs
//! along rows, neighboring invocations take neighboring rows. Rows that fit the registers of their team are read once.

use super::cost::count;
use super::lanes::{Lane, has_vectors};
use super::{Cost, ExpSum, Form, Operand, Work};
use crate::config::Target;
use crate::loop_ir::facts::{depths, rows_are_contiguous, scans_in_order, stepped, write_depth};
use crate::loop_ir::{Combiner, IndexExpr, Instr, Nest, Tag, Term, Val, flatten, unflatten};
use crate::scalar::ScalarFn;
use crate::types::{DeviceCaps, Dim};
use serde::{Deserialize, Serialize};

/// Kernel axis of rows.
pub const ROW: u32 = 0;
/// Kernel axis of the rows of a chunk, where there are sums over them.
pub const STEP: u32 = 1;
/// Kernel axis of the first group of columns.
pub const COLUMN: u32 = 2;

/// Columns whose sums over rows one invocation can hold.
pub const HELD_COLUMNS: u32 = 16;

/// How rows and columns are laid over workgroups and invocations.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Team {
    /// Rows of a workgroup.
    pub rows: u32,
    /// Invocations of a row, a power of two.
    pub threads: u32,
    /// Neighboring invocations take neighboring rows instead of neighboring columns.
    pub rows_first: bool,
    /// Consecutive columns that an invocation takes at once.
    pub lanes: u32,
    /// Groups of columns that an invocation keeps in registers; 0 loops over them.
    pub kept: u32,
    /// Groups of columns that a step of the loop takes.
    pub unroll: u32,
    /// Consecutive rows that an invocation takes at once, where rows are neighbors in memory; then it takes columns one by one.
    pub across: u32,
    /// Size of the subgroups by whose shuffles the team combines; through workgroup memory alone where there is none.
    pub subgroup: Option<u32>,
    /// Sums of exponentials below their maximum that need no more than the accuracy of the built-in.
    pub rough: Vec<ExpSum>,
}

impl Default for Team {
    /// A row and an invocation for each workgroup.
    fn default() -> Team {
        Team { rows: 1, threads: 1, rows_first: false, lanes: 1, kept: 0, unroll: 1, across: 1, subgroup: None, rough: vec![] }
    }
}

/// Invocations of a workgroup of this form, where the device allows it: larger ones wait longer at barriers.
const WORKGROUP: u32 = 256;
/// Rows of a workgroup where an invocation takes a row by itself: few, so that few rows spread over the device ...
const ROWS_ALONE: u32 = 64;
/// ... and many where there are more rows than this, since workgroups take time to start.
const MANY_ROWS: u64 = 4096;
/// Invocations that a team has at most, as long as rows are many.
const TEAM: u32 = 64;
/// Columns of a window that are spelled out.
const WINDOW: u64 = 32;
/// Registers of an invocation that may hold elements of a row between passes.
const REGISTERS: u32 = 96;
/// Groups of columns in registers: more of them make shaders long for what a wider team does as well.
const GROUPS_KEPT: u32 = 4;
/// Columns of an invocation that holds sums over rows, where the workgroup may be as large as that takes.
const COLUMNS_AT_HAND: u32 = 8;
/// Statements that a row kept in registers may be spelled in.
const STATEMENTS: u32 = 1600;
/// Statements that the steps of a loop that are spelled at once may have.
const STATEMENTS_UNROLLED: u32 = 200;
/// Statements of a body that is worth spelling for four lanes.
const STATEMENTS_IN_LANES: usize = 60;
/// Invocations of a device on which a workgroup of the largest size still leaves others to hide its barriers.
const LARGE_DEVICE: u32 = 1 << 16;
/// Invocations that many short rows have together when workgroups of 64 would not be started in time: 306 us for a million
/// rows of 31, 108 us with 256.
const INVOCATIONS_TO_START: u64 = 1 << 18;
/// Rows side by side that keep the device busy without sharing a row among invocations.
const ROWS_SIDE_BY_SIDE: u64 = 1 << 16;

/// Teams that can run the nest: the one that its sizes and its memory ask for, and a row for each invocation.
pub fn candidates(nest: &Nest, operands: &[Operand], target: &Target) -> Vec<(Form, Cost)> {
    let asked = Asked::of(nest, operands, target);
    let mut teams = vec![asked.team()];
    let alone = asked.alone();
    if nest.chunk_axes().is_none() && teams[0] != alone {
        teams.push(alone);
    }
    teams.extend(asked.within_steps(&teams));
    let priced = |team: Team| {
        let cost = price(nest, operands, &team, target);
        let subgroup = subgroup(&target.caps, team.rows, team.threads).filter(|_| !team.rows_first);
        (Form::Rows(Team { subgroup, ..team }), cost)
    };
    teams.into_iter().map(priced).collect()
}

/// The size of subgroups, when all have that size and `threads` invocations of each of `rows` rows lie in neighboring ones.
pub fn subgroup(caps: &DeviceCaps, rows: u32, threads: u32) -> Option<u32> {
    let (low, high) = caps.subgroups?;
    let fits = low == high && low.is_power_of_two() && low >= 4 && (rows * threads).is_multiple_of(low);
    (fits && threads > 1).then_some(low)
}

/// Rows that are kept are read once, others once in each pass.
fn price(nest: &Nest, operands: &[Operand], team: &Team, target: &Target) -> Cost {
    let (rows, cols) = (count(&nest.row_count()), count(&nest.col_count()));
    let axis = if team.rows_first { stepped(&nest.rows, 0) } else { stepped(&nest.cols, nest.rows.len()) };
    let passes = if team.kept > 0 { 1 } else { passes(nest) };
    let each = team.threads * team.lanes * team.kept.max(team.unroll);
    let parallel = rows * cols.min(each as f64);
    Work::of(nest, operands, axis, passes, parallel).on(&target.model)
}

/// Passes over the columns: each reduction of what another one gives takes one more, and so does what is stored of them.
fn passes(nest: &Nest) -> usize {
    let (depth, level) = (depths(nest), nest.element_level());
    let last = nest.writes.iter().filter(|w| nest.is_element_write(w, &level)).map(|w| write_depth(w, &depth) + 1).max();
    depth.iter().copied().max().max(last).unwrap_or(1).max(1)
}

/// Steps that an invocation of the team takes in loops over so many columns.
pub fn steps(nest: &Nest, team: &Team, columns: u64) -> u64 {
    let each = (team.threads * team.lanes * team.unroll).max(1) as u64;
    if team.kept > 0 { 0 } else { passes(nest) as u64 * columns.div_ceil(each) }
}

/// What the choice of a team looks at.
struct Asked<'a> {
    nest: &'a Nest,
    operands: &'a [Operand],
    target: &'a Target,
    /// Invocations of a workgroup.
    limit: u32,
    /// Rows, or chunks of them.
    rows: u64,
    /// Columns, and groups of as many as an invocation takes at once.
    columns: u64,
    groups: u64,
    lanes: u32,
    /// Sums that take one column, at a place that every invocation has to compare with its own.
    scatter: bool,
    /// Sums that take one column, all of them.
    lazy: bool,
    small_body: bool,
}

impl<'a> Asked<'a> {
    fn of(nest: &'a Nest, operands: &'a [Operand], target: &'a Target) -> Asked<'a> {
        let packed = nest.writes.iter().map(|w| operands[w.buffer.0 as usize].per_word()).max().unwrap_or(1);
        let cols = nest.col_count();
        let lazy: Vec<u32> = (0..nest.body.len() as u32).filter(|&i| lazy_source(nest, &nest.body[i as usize].instr).is_some()).collect();
        let scatter = lazy.iter().any(|&i| gathered(nest, i).is_none());
        let small_body = nest.body.len() <= STATEMENTS_IN_LANES;
        let by_four = cols.try_div(&Dim::int(4)).is_some() && !cols.is(0);
        let lanes = match packed {
            1 if by_four && !scatter && small_body => 4,
            width => width,
        };
        let columns = cols.as_int().unwrap_or(cols.range().1.min(1 << 20)).max(1) as u64;
        let rows = chunks(nest).0.as_int().unwrap_or(1 << 16).max(1) as u64;
        let limit = target.caps.max_invocations.min(WORKGROUP);
        let groups = columns.div_ceil(lanes as u64);
        Asked { nest, operands, target, limit, rows, columns, groups, lanes, scatter, lazy: !lazy.is_empty(), small_body }
    }

    /// The team by sizes and by which axis is contiguous in memory.
    fn team(&self) -> Team {
        let nest = self.nest;
        if matches!(nest.tag, Tag::Segments { .. }) {
            // Each row has columns of its own to loop over.
            return Team { rows: self.limit, rows_first: true, ..Team::default() };
        }
        if nest.chunk_axes().is_some() {
            return self.folding();
        }
        // A team whose invocations are not neighbors has no prefixes.
        if scans_in_order(nest) || (scans(nest) && rows_are_contiguous(nest)) {
            return Team { rows: ROWS_ALONE.min(self.limit), rows_first: true, lanes: self.lanes, ..Team::default() };
        }
        if self.columns <= WINDOW && !scans(nest) && self.are_windows() {
            return self.windows();
        }
        if rows_are_contiguous(nest) {
            return self.unrolled(self.side_by_side());
        }
        if self.groups < 4 || self.scatter {
            return self.alone();
        }
        self.unrolled(self.along_rows())
    }

    /// A row for each invocation, neighbors beside one another: what serves any nest without sums over rows.
    fn alone(&self) -> Team {
        let rows = if self.rows < MANY_ROWS { ROWS_ALONE } else { WORKGROUP };
        Team { rows: self.limit.min(rows), rows_first: true, lanes: self.lanes, ..Team::default() }
    }

    /// A team along the row, where all of these teams take more steps than loops may have. It reads memory in an order that is slower.
    fn within_steps(&self, teams: &[Team]) -> Option<Team> {
        let most = self.target.caps.max_steps? as u64;
        let serves = self.nest.chunk_axes().is_none() && !matches!(self.nest.tag, Tag::Segments { .. }) && !scans_in_order(self.nest);
        (serves && teams.iter().all(|t| steps(self.nest, t, self.columns) > most)).then(|| self.unrolled(self.along_rows()))
    }

    /// A window for each invocation, its elements spelled out: neighbors find what they share in the cache.
    fn windows(&self) -> Team {
        let alone = self.alone();
        let kept = self.kept(1);
        let statements = (self.nest.body.len() as u32 * self.lanes).saturating_mul(kept);
        let fits = self.nest.col_count().as_int().is_some_and(|n| n > 0) && statements <= STATEMENTS;
        if fits { Team { kept, ..alone } } else { self.unrolled(alone) }
    }

    /// Whether rows are windows that overlap or touch in memory: a sector holds elements of neighboring ones.
    fn are_windows(&self) -> bool {
        let nest = self.nest;
        let (Some(row), Some(col)) = (stepped(&nest.rows, 0), stepped(&nest.cols, nest.rows.len())) else { return false };
        let width = nest.sizes()[col as usize].hint();
        nest.body.iter().zip(nest.element_level()).any(|(stmt, element)| match &stmt.instr {
            Instr::Load { index, .. } if element => match (step(index, row), step(index, col)) {
                (Some(apart), Some(along)) => apart.max(along) <= NEAR && apart <= width * along,
                _ => false,
            },
            _ => false,
        })
    }

    /// Neighboring invocations on neighboring columns of a row.
    fn along_rows(&self) -> Team {
        let caps = &self.target.caps;
        // Few rows get more invocations each than many rows do.
        let most = if self.rows * (TEAM as u64) < self.target.model.parallel_lanes as u64 { WORKGROUP } else { TEAM };
        let mut threads = 4u32;
        while threads < most.min(self.limit) && (threads as u64) < self.groups {
            threads *= 2;
        }
        while threads < self.limit && self.groups > 4 * threads as u64 {
            threads *= 2;
        }
        let most = caps.max_invocations.min(caps.max_workgroup_size);
        // Rows that fit no workgroup of the usual size may fit the largest.
        let wider = (threads == self.limit && self.target.model.parallel_lanes >= LARGE_DEVICE).then_some([2, 4]).into_iter().flatten();
        let teams = std::iter::once(threads).chain(wider.map(|k| k * threads));
        let held = held_values(self.nest);
        let keeping = teams.into_iter().find(|&t| t <= most && self.keeps(t, held)).filter(|_| self.nest.col_count().as_int().is_some());
        let threads = keeping.unwrap_or(threads);
        let kept = keeping.map_or(0, |t| self.kept(t));
        // Many short rows would make more workgroups than are started in time.
        let workgroup = if threads <= 32 && self.rows * threads as u64 >= INVOCATIONS_TO_START { WORKGROUP.min(self.limit) } else { 64 };
        Team { rows: (workgroup / threads).max(1), threads, lanes: self.lanes, kept, ..Team::default() }
    }

    /// Groups of columns that each of so many invocations has.
    fn kept(&self, threads: u32) -> u32 {
        u32::try_from(self.groups.div_ceil(threads as u64)).unwrap_or(u32::MAX)
    }

    /// Whether so many invocations keep a row in registers, of which passes hand on so many values for each column.
    fn keeps(&self, threads: u32, held: u32) -> bool {
        let kept = self.kept(threads);
        if kept > GROUPS_KEPT {
            return false;
        }
        let columns = self.lanes * kept;
        // Totals of a scan meet in workgroup memory.
        let totals = !scans(self.nest) || threads * kept * 8 <= self.target.caps.max_workgroup_bytes / 2;
        totals && held * columns <= REGISTERS && self.nest.body.len() as u32 * columns <= STATEMENTS
    }

    /// Rows in registers, with sums over rows beside them. Where no workgroup holds those sums, nothing is kept, and there is no
    /// shader.
    fn folding(&self) -> Team {
        let caps = &self.target.caps;
        let most = caps.max_invocations.min(caps.max_workgroup_size);
        let fits = |limit: u32| move |threads: &u32| self.kept(*threads).saturating_mul(self.lanes) <= limit;
        let sizes = || (3..16).map(|k| 1u32 << k).filter(|t| *t <= most);
        match sizes().find(fits(COLUMNS_AT_HAND)).or_else(|| sizes().find(fits(HELD_COLUMNS))) {
            Some(threads) => Team { rows: (64 / threads).max(1), threads, lanes: self.lanes, kept: self.kept(threads), ..Team::default() },
            None => self.alone(),
        }
    }

    /// Neighboring invocations on neighboring rows, four rows each where those are vectors in memory; several invocations share a
    /// row when rows are few.
    fn side_by_side(&self) -> Team {
        if self.four_rows_are_vectors() && !self.lazy && self.small_body {
            return Team { across: 4, ..self.columns_in_turn(self.rows / 4, self.columns, 1) };
        }
        self.columns_in_turn(self.rows, self.groups, self.lanes)
    }

    fn columns_in_turn(&self, rows: u64, groups: u64, lanes: u32) -> Team {
        let side_by_side = rows.next_power_of_two().min(32) as u32;
        if rows >= ROWS_SIDE_BY_SIDE || groups < 8 {
            let workgroup = if rows < MANY_ROWS { ROWS_ALONE } else { WORKGROUP };
            return Team { rows: self.limit.min(workgroup), rows_first: true, lanes, ..Team::default() };
        }
        let mut threads = 8;
        while threads < self.limit / side_by_side && rows * (threads as u64) < ROWS_SIDE_BY_SIDE && (threads as u64) < groups {
            threads *= 2;
        }
        Team { rows: side_by_side.min(self.limit / threads), threads, rows_first: true, lanes, ..Team::default() }
    }

    /// Whether four neighboring rows are aligned vectors of something that is read or written.
    fn four_rows_are_vectors(&self) -> bool {
        let rows = chunks(self.nest).0;
        let divides = rows.range().0 > 0 && rows.try_div(&Dim::int(4)).is_some();
        if !divides || self.operands.iter().any(|b| b.per_word() > 1) {
            return false;
        }
        let team = Team { across: 4, ..Team::default() };
        let lanes: Vec<Lane> = (0..4).map(|r| lane(self.nest, &team, COLUMN, 0, r)).collect();
        has_vectors(self.nest, self.operands, &lanes, team.across)
    }

    /// Takes several groups of columns in a step of the loop, so that loads do not wait for one another.
    fn unrolled(&self, team: Team) -> Team {
        let step = (team.lanes * team.threads) as i64;
        let small = |n: &u32| self.nest.body.len() as u32 * team.lanes * team.across * n <= STATEMENTS_UNROLLED;
        let long = |n: &u32| self.nest.col_count().range().1 >= step * *n as i64;
        let one = team.kept > 0 || (scans(self.nest) && team.threads == 1);
        let unroll = if one { 1 } else { [4, 2].into_iter().find(|n| small(n) && long(n)).unwrap_or(1) };
        Team { unroll, ..team }
    }
}

/// Elements between neighboring windows of which a sector still holds several.
const NEAR: i64 = 4;

/// Elements that an index moves by with an axis, within a dimension.
fn step(index: &IndexExpr, axis: u32) -> Option<i64> {
    let of = |(t, k): &(Term, Dim)| match t {
        Term::Axis(a) if a.id == axis => k.as_int(),
        Term::Mod(e, _) => e.linear_coefficient(axis)?.as_int()?.checked_mul(k.as_int()?),
        _ => None,
    };
    index.terms.iter().filter_map(of).find(|step| *step > 0)
}

/// Chunks of rows that have a team of invocations each, and rows of a chunk: single rows, unless there are sums over rows.
pub fn chunks(nest: &Nest) -> (Dim, Dim) {
    let at = nest.chunk_axes().unwrap_or(nest.rows.len());
    let count = |sizes: &[Dim]| Dim::product(sizes);
    (count(&nest.rows[..at]), count(&nest.rows[at..]))
}

/// The row axes over the kernel's axes, in row `r` of the `across` that an invocation takes.
pub fn row_axes(nest: &Nest, across: u32, r: u32) -> Vec<IndexExpr> {
    let at = nest.chunk_axes().unwrap_or(nest.rows.len());
    let (teams, length) = chunks(nest);
    let n = Dim::int(across as i64);
    let team = IndexExpr::axis(ROW, &teams.ceil_div(&n)).times(&n).plus(&Dim::int(r as i64));
    let mut axes = unflatten(&team, &nest.rows[..at]);
    axes.extend(unflatten(&IndexExpr::axis(STEP, &length), &nest.rows[at..]));
    axes
}

/// Column `l` and row `r` of those that an invocation takes at once.
pub fn lane(nest: &Nest, team: &Team, id: u32, l: u32, r: u32) -> Lane {
    let n = Dim::int(team.lanes as i64);
    let groups = nest.col_count().ceil_div(&n);
    let col = IndexExpr::axis(id, &groups).times(&n).plus(&Dim::int(l as i64));
    let mut axes = row_axes(nest, team.across, r);
    axes.extend(unflatten(&col, &nest.cols));
    Lane::at(axes)
}

/// Values of one column that a pass takes from passes before it: what registers hold when a row is kept in them.
fn held_values(nest: &Nest) -> u32 {
    let (level, depth) = (nest.element_level(), depths(nest));
    let element = |v: &Val| level[v.0 as usize];
    let mut ends: Vec<(usize, Val)> = vec![];
    for stmt in &nest.body {
        if let Instr::Reduce(_, arg) = stmt.instr {
            ends.push((depth[arg.0 as usize], arg));
        }
    }
    ends.extend(nest.writes.iter().filter(|w| nest.is_element_write(w, &level)).map(|w| (usize::MAX, w.value)));
    ends.sort_by_key(|(pass, _)| *pass);
    let mut known: Vec<Option<usize>> = vec![None; nest.body.len()];
    let mut held = vec![false; nest.body.len()];
    for (pass, end) in ends {
        let mut open = vec![end];
        while let Some(v) = open.pop() {
            match known[v.0 as usize] {
                Some(before) => held[v.0 as usize] |= before < pass,
                None => {
                    known[v.0 as usize] = Some(pass);
                    open.extend(nest.stmt(v).instr.operands().into_iter().filter(element));
                }
            }
        }
    }
    held.iter().filter(|h| **h).count() as u32
}

/// Whether there are prefixes to compute.
pub fn scans(nest: &Nest) -> bool {
    nest.body.iter().any(|s| matches!(s.instr, Instr::Scan(..)))
}

/// `sum of where(c, x, 0)`: gives `c` and `x`, so that `x` is computed only where `c` holds.
pub fn lazy_source(nest: &Nest, instr: &Instr) -> Option<(Val, Val)> {
    let Instr::Reduce(Combiner::Sum, arg) = instr else { return None };
    let Instr::Call(ScalarFn::Where, args) = &nest.stmt(*arg).instr else { return None };
    let zero = matches!(&nest.stmt(args[2]).instr, Instr::Const(n) if n.as_f64() == 0.0);
    let compares = matches!(&nest.stmt(args[0]).instr, Instr::Call(ScalarFn::Eq, _));
    (zero && compares).then_some((args[0], args[1]))
}

/// A sum that takes one column: `sum of where(column == at, source, 0)`.
pub struct Gather {
    /// Number of the column.
    pub at: Val,
    /// What is taken there.
    pub source: Val,
}

/// Finds sums of one column whose number is known for the whole row. Where a row is overwritten in place, its team reads the column
/// before any of it stores.
pub fn gathered(nest: &Nest, i: u32) -> Option<Gather> {
    let (condition, source) = lazy_source(nest, &nest.body[i as usize].instr)?;
    let Instr::Call(ScalarFn::Eq, args) = &nest.stmt(condition).instr else { return None };
    let column = flatten(&nest.col_axes(), &nest.cols);
    let is_column = |v: Val| matches!(&nest.stmt(v).instr, Instr::Index(e) if *e == column);
    let at = match args[..] {
        [a, b] if is_column(a) => b,
        [a, b] if is_column(b) => a,
        _ => return None,
    };
    let known = !nest.element_level()[at.0 as usize] && nest.col_count().range().0 > 0;
    (known && !scans(nest)).then_some(Gather { at, source })
}
