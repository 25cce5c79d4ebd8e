//! From a nest with integer sizes to what a block executes: levels, phases, layout, steps, registers.
//!
//! A phase is what happens between two reductions: values of its rows first, then the columns, a chunk at a time. When all
//! columns of a row fit a block (the kernel is *resident*), element values live on from phase to phase; else each phase
//! computes those it needs again.

use super::access::{Access, Level};
use super::lanes::Lane;
use super::registers::allocate;
use crate::loop_ir::facts::{depths, needed, stored};
use crate::loop_ir::{BufferId, Combiner, IndexExpr, Instr, Nest, Number, Val};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim};

/// Lanes of a block, about: four or so registers of it fit the first level of cache.
const LANES: i64 = 1024;
/// A row of at most this many columns stays in registers from phase to phase.
const RESIDENT: i64 = 4096;

/// Where a step finds an operand.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// The same for the whole nest: a register of its own set.
    Uniform(usize),
    /// A lane for each row.
    Row(usize),
    /// A lane for each element.
    Elem(usize),
    /// A row value that an element step reads: the first register, unless the block has both several rows and several
    /// columns, then the second, into which it was spread.
    Spread(usize, usize),
}

/// An operand.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    /// Where it is.
    pub place: Place,
    /// Its dtype.
    pub dtype: DType,
}

/// What a step does.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Op {
    Const(Number),
    Index(Access),
    /// The mask, when there is one, is the last operand.
    Load {
        buffer: usize,
        access: Access,
        masked: bool,
    },
    Call(ScalarFn),
    Cast,
    Bitcast,
    /// The mask, when there is one, is the last operand.
    Bound {
        size: i64,
        code: u32,
        masked: bool,
    },
    /// A row value gets a lane for each element; when not `always`, only where a block has several rows and columns.
    Spread {
        always: bool,
    },
    Accumulate(Combiner, usize),
    Scan(Combiner, usize),
    /// The second register gets the columns the values came from.
    Sort {
        descending: bool,
        from: usize,
    },
}

/// One operation over all lanes of a block.
#[derive(Clone, Debug)]
pub struct Step {
    /// What.
    pub op: Op,
    /// Dtype of the result.
    pub dtype: DType,
    /// Operands; those of an index come first.
    pub args: Vec<Arg>,
    /// Register of the result.
    pub dst: usize,
}

/// A reduction of the kernel.
#[derive(Clone, Debug)]
pub struct Reduction {
    /// How it combines.
    pub combiner: Combiner,
    /// Dtype of what is combined.
    pub dtype: DType,
    /// Result number, dtype and register of each result.
    pub results: Vec<(usize, DType, usize)>,
}

/// Steps between two reductions.
#[derive(Clone, Debug, Default)]
pub struct Phase {
    /// Row values, once.
    pub before: Vec<Step>,
    /// Element values, for each chunk of columns.
    pub body: Vec<Step>,
    /// Scans whose carry starts over.
    pub scans: Vec<(usize, Combiner, DType)>,
    /// Reductions that are complete afterwards.
    pub ends: Vec<usize>,
}

/// A store.
#[derive(Clone, Debug)]
pub struct Store {
    /// Buffer written.
    pub buffer: usize,
    /// Index of the element; its operands are `args` but the last one or two.
    pub access: Access,
    /// Once per row or once per element.
    pub level: Level,
    /// Operands of the index, then the mask of an accumulating store, then the value.
    pub args: Vec<Arg>,
    /// What happens to the element that is there.
    pub effect: Effect,
}

/// What a store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Replaces the element.
    Replace,
    /// Replaces it in the first so many columns.
    ReplaceFirst(i64),
    /// Adds to it where the mask holds.
    AddWhere,
    /// Adds to it. Before the first row, the elements from 0 to this number are zero.
    AddFrom(i64),
}

/// An executable nest.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Number of rows.
    pub rows: i64,
    /// Number of columns.
    pub cols: i64,
    /// Whether neighboring lanes are neighboring columns, else neighboring rows.
    pub cols_inner: bool,
    /// Rows of a block.
    pub row_block: i64,
    /// Columns of a chunk.
    pub col_block: i64,
    /// Rows that one thread must take: those over which stores sum. A row block divides it.
    pub together: i64,
    /// Values that depend on nothing; step `i` fills register `i` of their own set.
    pub uniform: Vec<Step>,
    /// Phases in order.
    pub phases: Vec<Phase>,
    /// Stores of the last phase, for each chunk.
    pub elem_stores: Vec<Store>,
    /// Stores at the end of a row.
    pub row_stores: Vec<Store>,
    /// Reductions.
    pub reductions: Vec<Reduction>,
    /// Number of scans.
    pub scans: usize,
    /// Number of registers.
    pub regs: usize,
}

impl Kernel {
    /// Compiles a nest whose sizes are integers.
    pub fn new(nest: &Nest) -> Kernel {
        Builder::new(nest).build()
    }

    /// The same, but its one store adds where the value `mask` holds.
    pub fn accumulating(nest: &Nest, mask: Val) -> Kernel {
        Builder { accumulate: Some(mask), ..Builder::new(nest) }.build()
    }

    /// The same, but buffers from this one on differ from one range of rows to the next, so that no load of them is the same for all.
    pub fn with_tile(nest: &Nest, buffer: BufferId) -> Kernel {
        Builder { tile: Some(buffer), ..Builder::new(nest) }.build()
    }

    /// Steps that run for each lane, about: what decides whether threads pay.
    pub fn work_per_element(&self) -> i64 {
        let steps: usize = self.phases.iter().map(|p| p.body.len().max(1)).sum();
        steps as i64
    }
}

/// The statement and result number that a value names.
fn base(nest: &Nest, v: Val) -> (usize, usize) {
    match nest.stmt(v).instr {
        Instr::Proj(t, k) => (t.0 as usize, k as usize),
        _ => (v.0 as usize, 0),
    }
}

struct Builder<'a> {
    nest: &'a Nest,
    accumulate: Option<Val>,
    tile: Option<BufferId>,
    row_sizes: Vec<i64>,
    col_sizes: Vec<i64>,
    levels: Vec<Level>,
    /// Reductions that must be complete before the value can be computed.
    depth: Vec<usize>,
    needed: Vec<bool>,
    accesses: Vec<Option<Access>>,
    store_access: Vec<Access>,
    store_level: Vec<Level>,
    resident: bool,
    out: Kernel,
    /// Register of each result of each statement, as (virtual) register.
    places: Vec<[Option<Place>; 3]>,
    /// Spread registers of row values in the current phase.
    spreads: Vec<[Option<usize>; 3]>,
    /// Level of each virtual register.
    virtuals: Vec<Level>,
}

impl<'a> Builder<'a> {
    fn new(nest: &'a Nest) -> Builder<'a> {
        let sizes = |dims: &[Dim]| dims.iter().map(|d| d.as_int().expect("sizes are bound")).collect::<Vec<_>>();
        let (row_sizes, col_sizes) = (sizes(&nest.rows), sizes(&nest.cols));
        let n = nest.body.len();
        let cols = col_sizes.iter().product();
        let idle = cols == 0 && nest.works_per_element();
        let out = Kernel {
            rows: if idle { 0 } else { row_sizes.iter().product() },
            cols,
            cols_inner: false,
            row_block: 1,
            col_block: 1,
            together: 1,
            uniform: vec![],
            phases: vec![],
            elem_stores: vec![],
            row_stores: vec![],
            reductions: vec![],
            scans: 0,
            regs: 0,
        };
        Builder {
            nest,
            accumulate: None,
            tile: None,
            row_sizes,
            col_sizes,
            levels: vec![Level::Uniform; n],
            depth: depths(nest),
            needed: vec![false; n],
            accesses: vec![None; n],
            store_access: vec![],
            store_level: vec![],
            resident: true,
            out,
            places: vec![[None; 3]; n],
            spreads: vec![[None; 3]; n],
            virtuals: vec![],
        }
    }

    fn build(mut self) -> Kernel {
        self.analyze();
        // Values behind a store, and every check of an index.
        self.needed = needed(self.nest, self.accumulate.into_iter().chain(self.nest.writes.iter().flat_map(stored)).chain(self.nest.checks()));
        self.choose_blocks();
        self.emit_uniform();
        let last = self.depth.iter().zip(&self.needed).filter(|(_, n)| **n).map(|(d, _)| *d).max().unwrap_or(0);
        for phase in 0..=last {
            self.emit_phase(phase, phase == last);
        }
        self.emit_row_stores();
        allocate(&mut self.out, &self.virtuals);
        self.out
    }

    fn access(&self, e: &IndexExpr) -> Access {
        let level = |v: u32| self.levels[v as usize];
        Access::new(e, &self.row_sizes, &self.col_sizes, &e.values(), &level)
    }

    fn analyze(&mut self) {
        for (i, stmt) in self.nest.body.iter().enumerate() {
            let operands = stmt.instr.operands();
            let of_operands = operands.iter().map(|v| self.levels[v.0 as usize]).max().unwrap_or(Level::Uniform);
            self.levels[i] = match &stmt.instr {
                Instr::Index(e) | Instr::Load { index: e, .. } => {
                    let access = self.access(e);
                    let tile = matches!(&stmt.instr, Instr::Load { buffer, .. } if self.tile.is_some_and(|first| *buffer >= first));
                    let level = access.level().max(of_operands).max(if tile { Level::Row } else { Level::Uniform });
                    self.accesses[i] = Some(access);
                    level
                }
                Instr::Reduce(..) => Level::Row,
                Instr::Scan(..) | Instr::Sort { .. } => Level::Elem,
                _ => of_operands,
            };
        }
        for w in &self.nest.writes {
            let access = self.access(&w.index);
            let level = access.level().max(self.levels[w.value.0 as usize]).max(Level::Row);
            self.store_level.push(if self.accumulate.is_some() { Level::Row } else { level });
            self.store_access.push(access);
        }
    }

    fn choose_blocks(&mut self) {
        let (rows, cols) = (self.out.rows, self.out.cols);
        let has = |f: &dyn Fn(&Instr) -> bool| self.nest.body.iter().zip(&self.needed).any(|(s, n)| *n && f(&s.instr));
        let sorts = has(&|i| matches!(i, Instr::Sort { .. }));
        let scans = has(&|i| matches!(i, Instr::Scan(..)));
        self.out.cols_inner = sorts || scans || (cols > 1 && self.columns_are_contiguous());
        let phases = self.nest.body.iter().enumerate().filter(|(i, s)| self.needed[*i] && matches!(s.instr, Instr::Reduce(..)));
        let mut depths: Vec<usize> = phases.map(|(i, _)| self.depth[i]).collect();
        depths.sort_unstable();
        depths.dedup();
        let passes = depths.len() + self.store_level.contains(&Level::Elem) as usize;
        let resident = if passes > 1 { RESIDENT } else { LANES };
        if self.out.cols_inner {
            self.resident = sorts || cols <= resident;
            self.out.row_block = if self.resident { (LANES / cols.max(1)).max(1) } else { 1 };
            self.out.col_block = if self.resident { cols.max(1) } else { LANES };
        } else if cols <= 1 {
            self.out.row_block = LANES;
            self.out.col_block = 1;
        } else {
            // A few blocks at least, so that threads share them; whole cache lines each.
            let block = ((rows / 4 + 31) / 32 * 32).clamp(64, LANES / 2).min(rows.max(1));
            self.resident = cols * block <= resident;
            self.out.row_block = block;
            self.out.col_block = if self.resident { cols } else { (2 * LANES / block).max(16).min(cols) };
        }
        self.out.row_block = self.out.row_block.min(rows.max(1));
        if let Some(chunks) = self.nest.chunk_axes() {
            let together: i64 = self.row_sizes[chunks..].iter().product();
            self.out.together = together.max(1);
            self.out.row_block = (1..=self.out.row_block).rev().find(|n| self.out.together % n == 0).unwrap_or(1);
        }
    }

    /// Whether more element accesses are contiguous along columns than along rows.
    fn columns_are_contiguous(&self) -> bool {
        let loads = self.accesses.iter().enumerate().filter(|(i, _)| self.needed[*i] && self.levels[*i] == Level::Elem);
        let is_load = |i: usize| matches!(self.nest.body[i].instr, Instr::Load { .. });
        let loads = loads.filter(|(i, _)| is_load(*i)).filter_map(|(_, a)| a.as_ref());
        let stores = self.store_access.iter().zip(&self.store_level).filter(|(_, l)| **l == Level::Elem).map(|(a, _)| a);
        let mut balance = 0;
        for access in loads.chain(stores) {
            let (row, col) = (access.rows.inner_stride().abs() == 1, access.cols.inner_stride().abs() == 1);
            balance += col as i32 - row as i32;
        }
        balance >= 0 || self.out.rows < 8
    }

    fn register(&mut self, level: Level) -> usize {
        self.virtuals.push(level);
        self.virtuals.len() - 1
    }

    fn emit_uniform(&mut self) {
        for i in 0..self.nest.body.len() {
            if self.levels[i] == Level::Uniform && self.needed[i] && !matches!(self.nest.body[i].instr, Instr::Proj(..)) {
                let dst = self.out.uniform.len();
                let mut none = vec![];
                let step = self.step(i, dst, Level::Uniform, &mut none);
                self.out.uniform.push(step);
                self.places[i][0] = Some(Place::Uniform(dst));
            }
        }
    }

    fn emit_phase(&mut self, phase: usize, last: bool) {
        let mut out = Phase::default();
        self.spreads.iter_mut().for_each(|s| *s = [None; 3]);
        let body = &self.nest.body;
        for (i, stmt) in body.iter().enumerate() {
            let is_result = matches!(stmt.instr, Instr::Reduce(..) | Instr::Proj(..));
            if self.needed[i] && self.levels[i] == Level::Row && self.depth[i] == phase && !is_result {
                let dst = self.register(Level::Row);
                let step = self.step(i, dst, Level::Row, &mut out.before);
                out.before.push(step);
                self.places[i][0] = Some(Place::Row(dst));
            }
        }
        let wanted = self.elements_of(phase, last);
        for (i, stmt) in body.iter().enumerate() {
            if let Instr::Reduce(combiner, v) = &stmt.instr {
                if self.needed[i] && self.depth[i] == phase + 1 {
                    self.emit_reduce(i, *combiner, *v, &mut out);
                }
            } else if wanted[i] {
                let dst = self.register(Level::Elem);
                let step = self.step(i, dst, Level::Elem, &mut out.body);
                if let Op::Scan(combiner, k) = step.op {
                    out.scans.push((k, combiner, step.dtype));
                }
                self.places[i][0] = Some(Place::Elem(dst));
                if let Op::Sort { from, .. } = step.op {
                    self.places[i][1] = Some(Place::Elem(from));
                }
                out.body.push(step);
            }
        }
        if last {
            self.emit_elem_stores(&mut out.body);
        }
        self.out.phases.push(out);
    }

    /// Element values that this phase computes.
    fn elements_of(&self, phase: usize, last: bool) -> Vec<bool> {
        let body = &self.nest.body;
        let is_elem = |i: usize| self.needed[i] && self.levels[i] == Level::Elem && !matches!(body[i].instr, Instr::Proj(..));
        if self.resident {
            return (0..body.len()).map(|i| is_elem(i) && self.depth[i] == phase).collect();
        }
        let mut wanted = vec![false; body.len()];
        for (i, stmt) in body.iter().enumerate() {
            match stmt.instr {
                Instr::Reduce(_, v) if self.needed[i] && self.depth[i] == phase + 1 => wanted[v.0 as usize] = true,
                Instr::Bound { .. } if last => wanted[i] = true,
                _ => {}
            }
        }
        for (w, level) in self.nest.writes.iter().zip(&self.store_level) {
            if last && *level == Level::Elem {
                wanted[w.value.0 as usize] = true;
                w.index.values().into_iter().for_each(|v| wanted[v as usize] = true);
            }
        }
        for i in (0..body.len()).rev() {
            if wanted[i] && self.levels[i] == Level::Elem {
                body[i].instr.operands().iter().for_each(|v| wanted[v.0 as usize] = true);
            }
        }
        (0..body.len()).map(|i| wanted[i] && is_elem(i)).collect()
    }

    fn emit_reduce(&mut self, i: usize, combiner: Combiner, v: Val, out: &mut Phase) {
        let args = vec![self.full_argument(v, &mut out.body)];
        let reduction = self.out.reductions.len();
        let dtype = self.nest.dtype(v);
        out.body.push(Step { op: Op::Accumulate(combiner, reduction), dtype, args, dst: usize::MAX });
        let mut results = vec![];
        for k in 0..combiner.results() {
            let dst = self.register(Level::Row);
            self.places[i][k] = Some(Place::Row(dst));
            results.push((k, combiner.result_dtype(k, self.nest.body[i].dtype), dst));
        }
        self.out.reductions.push(Reduction { combiner, dtype, results });
        out.ends.push(reduction);
    }

    /// One step for statement `i`; what must be spread first goes to `before`.
    fn step(&mut self, i: usize, dst: usize, level: Level, before: &mut Vec<Step>) -> Step {
        let stmt = &self.nest.body[i];
        let dtype = stmt.dtype;
        let plain = |b: &mut Self, vals: &[Val], before: &mut Vec<Step>| vals.iter().map(|&v| b.argument(v, level, before)).collect::<Vec<_>>();
        let (op, args) = match &stmt.instr {
            Instr::Const(number) => (Op::Const(*number), vec![]),
            Instr::Index(e) => {
                let access = self.accesses[i].clone().expect("analyzed");
                let args = self.index_arguments(e, access.rest_level, level, before);
                (Op::Index(access), args)
            }
            Instr::Load { buffer, index, mask } => {
                let access = self.accesses[i].clone().expect("analyzed");
                let mut args = self.index_arguments(index, access.rest_level, level, before);
                args.extend(mask.map(|m| self.argument(m, level, before)));
                (Op::Load { buffer: buffer.0 as usize, access, masked: mask.is_some() }, args)
            }
            Instr::Call(f, vals) => (Op::Call(*f), plain(self, vals, before)),
            Instr::Cast(v) => (Op::Cast, plain(self, &[*v], before)),
            Instr::Bitcast(v) => (Op::Bitcast, plain(self, &[*v], before)),
            Instr::Bound { size, mask, code, .. } => {
                let op = Op::Bound { size: size.as_int().expect("sizes are bound"), code: *code, masked: mask.is_some() };
                (op, plain(self, &stmt.instr.operands(), before))
            }
            Instr::Scan(combiner, v) => {
                let args = vec![self.full_argument(*v, before)];
                self.out.scans += 1;
                (Op::Scan(*combiner, self.out.scans - 1), args)
            }
            Instr::Sort { key, descending } => {
                let args = vec![self.full_argument(*key, before)];
                (Op::Sort { descending: *descending, from: self.register(Level::Elem) }, args)
            }
            Instr::Reduce(..) | Instr::Proj(..) => unreachable!("results are placed where they are computed"),
            Instr::Contract { .. } => unreachable!("attention contracts in products"),
        };
        Step { op, dtype, args, dst }
    }

    fn place(&self, v: Val) -> Place {
        let (i, k) = base(self.nest, v);
        self.places[i][k].unwrap_or_else(|| panic!("interp: %{} is read before it is computed in {}", v.0, self.nest))
    }

    fn argument(&mut self, v: Val, level: Level, before: &mut Vec<Step>) -> Arg {
        let dtype = self.nest.dtype(v);
        let place = match (self.place(v), level) {
            (Place::Row(row), Level::Elem) => Place::Spread(row, self.spread(v, Place::Row(row), dtype, false, before)),
            (place, _) => place,
        };
        Arg { place, dtype }
    }

    /// An operand that must have a lane for each element.
    fn full_argument(&mut self, v: Val, before: &mut Vec<Step>) -> Arg {
        let dtype = self.nest.dtype(v);
        let place = match self.place(v) {
            Place::Elem(r) => Place::Elem(r),
            place => Place::Elem(self.spread(v, place, dtype, true, before)),
        };
        Arg { place, dtype }
    }

    fn spread(&mut self, v: Val, place: Place, dtype: DType, always: bool, before: &mut Vec<Step>) -> usize {
        let (i, k) = base(self.nest, v);
        if !always && let Some(dst) = self.spreads[i][k] {
            return dst;
        }
        let dst = self.register(Level::Elem);
        before.push(Step { op: Op::Spread { always }, dtype, args: vec![Arg { place, dtype }], dst });
        self.spreads[i][k] = Some(dst);
        dst
    }

    /// Operands of an index: a lane for each element only where the index needs that.
    fn index_arguments(&mut self, e: &IndexExpr, rest: Level, level: Level, before: &mut Vec<Step>) -> Vec<Arg> {
        let level = if rest == Level::Elem { level } else { level.min(Level::Row) };
        e.values().into_iter().map(|v| self.argument(Val(v), level, before)).collect()
    }

    fn store(&mut self, w: usize, level: Level, before: &mut Vec<Step>) -> Store {
        let write = &self.nest.writes[w];
        let access = self.store_access[w].clone();
        let mut args = self.index_arguments(&write.index, access.rest_level, level, before);
        args.extend(self.accumulate.map(|m| self.argument(m, level, before)));
        args.push(self.argument(write.value, level, before));
        let effect = match self.accumulate {
            Some(_) => Effect::AddWhere,
            None if write.fold => Effect::AddFrom(self.out.rows / self.out.together * self.out.cols),
            None => write.first.as_ref().map_or(Effect::Replace, |n| Effect::ReplaceFirst(n.as_int().expect("sizes are bound"))),
        };
        Store { buffer: write.buffer.0 as usize, access, level, args, effect }
    }

    fn emit_elem_stores(&mut self, body: &mut Vec<Step>) {
        for w in 0..self.nest.writes.len() {
            if self.store_level[w] == Level::Elem {
                let store = self.store(w, Level::Elem, body);
                self.out.elem_stores.push(store);
            }
        }
    }

    fn emit_row_stores(&mut self) {
        for w in 0..self.nest.writes.len() {
            if self.store_level[w] != Level::Elem {
                let mut none = vec![];
                let store = self.store(w, Level::Row, &mut none);
                self.out.row_stores.push(store);
            }
        }
    }
}

/// Lane type of an operand.
impl Arg {
    /// How its register holds it.
    pub fn lane(&self) -> Lane {
        Lane::of(self.dtype)
    }
}
