//! Runs kernels: blocks of rows, in parallel where that pays, each a sequence of steps over registers.

use super::access::{Access, Block, Iota, Level, Visit};
use super::calls;
use super::kernel::{Arg, Effect, Kernel, Op, Phase, Place, Step, Store};
use super::lanes::{Lane, Reg, Src, Value};
use super::raw::{Format, Line, Memory, lines};
use super::reduce::{self, Accumulator};
use crate::types::DType;
use bytemuck::{Pod, Zeroable};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Element steps below which one thread does everything.
pub const PARALLEL: i64 = 1 << 17;

/// Registers and accumulators of one thread.
#[derive(Default)]
pub struct Scratch {
    regs: Vec<Reg>,
    reductions: Vec<Accumulator>,
    scans: Vec<Accumulator>,
    /// Memory of a product's tile.
    pub tile: Vec<Line>,
}

/// Scratch of threads that are not running, and of products.
#[derive(Default)]
pub struct Pool {
    free: Mutex<Vec<Scratch>>,
    /// Memory of a product's packed operands.
    packs: Mutex<[Vec<Line>; 2]>,
}

impl Pool {
    /// Runs `f` with scratch of its own.
    pub fn with<R>(&self, f: impl FnOnce(&mut Scratch) -> R) -> R {
        let lock = || self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = lock().pop().unwrap_or_default();
        let out = f(&mut scratch);
        lock().push(scratch);
        out
    }

    /// Runs `f` with memory for two operands of so many bytes, which holds anything.
    pub fn with_packs<R>(&self, bytes: [usize; 2], f: impl FnOnce(&mut [Vec<Line>; 2]) -> R) -> R {
        let lock = || self.packs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut packs = std::mem::take(&mut *lock());
        for (pack, bytes) in packs.iter_mut().zip(bytes) {
            if pack.len() * size_of::<Line>() < bytes {
                *pack = lines(bytes, 0);
            }
        }
        let out = f(&mut packs);
        *lock() = packs;
        out
    }
}

/// What a kernel runs on.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Memory of each of the nest's buffers.
    pub memories: &'a [Memory<'a>],
    /// Lowest code of the checks that failed.
    pub status: &'a AtomicU32,
    /// Scratch.
    pub pool: &'a Pool,
}

/// Runs the whole kernel.
pub fn run(kernel: &Kernel, cx: &Context<'_>) {
    if kernel.rows == 0 {
        return;
    }
    let uniform = run_uniform(kernel, cx);
    for store in &kernel.elem_stores {
        if let Effect::AddFrom(n) = store.effect {
            cx.memories[store.buffer].fill(0, 1, n as usize, 0f32);
        }
    }
    // What one thread takes at least.
    let unit = kernel.row_block.max(kernel.together);
    let blocks = kernel.rows.div_euclid(unit) + (kernel.rows % unit != 0) as i64;
    let work = kernel.rows.saturating_mul(kernel.cols.max(1)).saturating_mul(kernel.work_per_element().max(4));
    let accumulates = kernel.row_stores.iter().any(|s| s.effect == Effect::AddWhere);
    if blocks == 1 || work < PARALLEL || accumulates {
        cx.pool.with(|scratch| run_rows(kernel, cx, &uniform, 0..kernel.rows, scratch));
        return;
    }
    let tasks = (work / (PARALLEL / 4)).clamp(1, blocks);
    crate::threads::for_each(tasks as usize, |t| {
        let t = t as i64;
        let row = |t: i64| (t * blocks / tasks * unit).min(kernel.rows);
        cx.pool.with(|scratch| run_rows(kernel, cx, &uniform, row(t)..row(t + 1), scratch));
    });
}

/// Values that depend on no axis.
pub fn run_uniform(kernel: &Kernel, cx: &Context<'_>) -> Vec<Reg> {
    let block = Block { row: 0, rows: 1, col: 0, cols: 1, cols_inner: false, all_cols: 1 };
    let mut out: Vec<Reg> = vec![];
    for step in &kernel.uniform {
        let mut dst = Reg::default();
        let frame = Frame { regs: &[], uniform: &out, block: &block, level: Level::Uniform };
        run_step(step, cx, &frame, &mut dst);
        out.push(dst);
    }
    out
}

/// Runs the blocks of a range of rows, one after the other.
pub fn run_rows(kernel: &Kernel, cx: &Context<'_>, uniform: &[Reg], rows: Range<i64>, scratch: &mut Scratch) {
    run_part(kernel, cx, uniform, rows, 0..kernel.cols, scratch);
}

/// The same for some of the columns, as if the nest had no others.
pub fn run_part(kernel: &Kernel, cx: &Context<'_>, uniform: &[Reg], rows: Range<i64>, cols: Range<i64>, scratch: &mut Scratch) {
    let at_least = |n: usize, have: usize| n.saturating_sub(have);
    scratch.regs.extend((0..at_least(kernel.regs, scratch.regs.len())).map(|_| Reg::default()));
    scratch.reductions.extend((0..at_least(kernel.reductions.len(), scratch.reductions.len())).map(|_| Accumulator::default()));
    scratch.scans.extend((0..at_least(kernel.scans, scratch.scans.len())).map(|_| Accumulator::default()));
    // Rows of a part of the columns do not continue one another: they run one by one.
    let is_part = kernel.cols_inner && cols != (0..kernel.cols);
    let most = if is_part { 1 } else { kernel.row_block };
    let mut row = rows.start;
    while row < rows.end {
        let n = most.min(rows.end - row) as usize;
        let block = Block { row, rows: n, col: 0, cols: 0, cols_inner: kernel.cols_inner, all_cols: kernel.cols };
        run_block(kernel, cx, uniform, block, &cols, scratch);
        row += n as i64;
    }
}

fn run_block(kernel: &Kernel, cx: &Context<'_>, uniform: &[Reg], rows: Block, cols: &Range<i64>, scratch: &mut Scratch) {
    for (p, phase) in kernel.phases.iter().enumerate() {
        let last = p + 1 == kernel.phases.len();
        run_steps(&phase.before, cx, uniform, &rows, Level::Row, scratch);
        if !phase.body.is_empty() || (last && !kernel.elem_stores.is_empty()) {
            start_phase(kernel, phase, rows.rows, scratch);
            let mut col = cols.start;
            while col < cols.end {
                let block = Block { col, cols: kernel.col_block.min(cols.end - col) as usize, ..rows };
                run_steps(&phase.body, cx, uniform, &block, Level::Elem, scratch);
                if last {
                    run_stores(&kernel.elem_stores, cx, uniform, &block, scratch);
                }
                col += block.cols as i64;
            }
        }
        for &r in &phase.ends {
            let reduction = &kernel.reductions[r];
            for &(k, dtype, dst) in &reduction.results {
                scratch.reductions[r].finish(reduction.combiner, k, dtype, &mut scratch.regs[dst]);
            }
        }
    }
    run_stores(&kernel.row_stores, cx, uniform, &rows, scratch);
}

fn start_phase(kernel: &Kernel, phase: &Phase, rows: usize, scratch: &mut Scratch) {
    for &r in &phase.ends {
        let reduction = &kernel.reductions[r];
        scratch.reductions[r].start(reduction.combiner, reduction.dtype, rows);
    }
    for &(k, combiner, dtype) in &phase.scans {
        scratch.scans[k].start(combiner, dtype, rows);
    }
}

fn run_stores(stores: &[Store], cx: &Context<'_>, uniform: &[Reg], block: &Block, scratch: &Scratch) {
    for s in stores {
        store(s, cx, &Frame { regs: &scratch.regs, uniform, block, level: s.level.max(Level::Row) });
    }
}

fn run_steps(steps: &[Step], cx: &Context<'_>, uniform: &[Reg], block: &Block, level: Level, scratch: &mut Scratch) {
    for step in steps {
        match step.op {
            Op::Accumulate(combiner, r) => {
                let frame = Frame { regs: &scratch.regs, uniform, block, level };
                scratch.reductions[r].add(combiner, frame.value(&step.args[0]), block);
                continue;
            }
            Op::Spread { always: false } if (block.cols_inner && block.rows == 1) || (!block.cols_inner && block.cols == 1) => continue,
            _ => {}
        }
        // The register is taken out while it is written: registers of operands are never the result's.
        let mut dst = std::mem::take(&mut scratch.regs[step.dst]);
        match step.op {
            Op::Scan(combiner, k) => {
                let frame = Frame { regs: &scratch.regs, uniform, block, level };
                scratch.scans[k].scan(combiner, step.dtype, frame.value(&step.args[0]), block, &mut dst);
            }
            Op::Sort { descending, from } => {
                let mut columns = std::mem::take(&mut scratch.regs[from]);
                let frame = Frame { regs: &scratch.regs, uniform, block, level };
                reduce::sort(frame.value(&step.args[0]), descending, block, &mut dst, &mut columns);
                scratch.regs[from] = columns;
            }
            _ => run_step(step, cx, &Frame { regs: &scratch.regs, uniform, block, level }, &mut dst),
        }
        scratch.regs[step.dst] = dst;
    }
}

/// Where a step reads its operands.
struct Frame<'a> {
    regs: &'a [Reg],
    uniform: &'a [Reg],
    block: &'a Block,
    level: Level,
}

impl<'a> Frame<'a> {
    #[inline]
    fn value(&self, arg: &Arg) -> Value<'a> {
        let (lane, block) = (arg.lane(), self.block);
        match arg.place {
            Place::Uniform(r) => Value::new(&self.uniform[r], lane, 1, true),
            Place::Row(r) => Value::new(&self.regs[r], lane, block.rows, false),
            Place::Elem(r) => Value::new(&self.regs[r], lane, block.rows * block.cols, false),
            Place::Spread(row, _) if block.cols_inner && block.rows == 1 => Value::new(&self.regs[row], lane, 1, true),
            Place::Spread(row, _) if !block.cols_inner && block.cols == 1 => Value::new(&self.regs[row], lane, block.rows, false),
            Place::Spread(_, elem) => Value::new(&self.regs[elem], lane, block.rows * block.cols, false),
        }
    }

    /// Integer operands as i64 lanes, for indices; `wide` holds those that are converted.
    fn integers<'b>(&self, args: &[Arg], wide: &'b mut Vec<Vec<i64>>) -> Vec<Src<'b, i64>>
    where
        'a: 'b,
    {
        for arg in args {
            wide.push(match self.value(arg) {
                Value::I32(Src::All(x)) => x.iter().map(|&x| x as i64).collect(),
                Value::Bool(Src::All(x)) => x.iter().map(|&x| x as i64).collect(),
                _ => vec![],
            });
        }
        let wide: &'b [Vec<i64>] = wide;
        args.iter()
            .zip(wide)
            .map(|(arg, wide)| match self.value(arg) {
                Value::I64(x) => x,
                value @ (Value::I32(Src::One(_)) | Value::Bool(Src::One(_))) => Src::One(value.int(0)),
                _ => Src::All(wide),
            })
            .collect()
    }

    fn visit(&self, access: &Access, args: &[Arg], visitor: &mut impl Visit) {
        if access.rest.is_empty() {
            return access.visit(self.level, self.block, &[], visitor);
        }
        let mut wide = vec![];
        let operands = self.integers(args, &mut wide);
        access.visit(self.level, self.block, &operands, visitor);
    }
}

fn run_step(step: &Step, cx: &Context<'_>, frame: &Frame<'_>, dst: &mut Reg) {
    let n = frame.block.lanes(frame.level);
    match &step.op {
        Op::Const(number) => match Lane::of(step.dtype) {
            Lane::F32 => calls::fill(dst, n, |_| number.as_f64() as f32),
            Lane::F64 => calls::fill(dst, n, |_| number.as_f64()),
            Lane::I32 => calls::fill(dst, n, |_| number.as_i64() as i32),
            Lane::I64 => calls::fill(dst, n, |_| number.as_i64()),
            Lane::Bool => calls::fill(dst, n, |_| (number.as_i64() != 0) as u8),
        },
        Op::Index(access) => index(step, access, frame, dst, n),
        Op::Load { buffer, access, masked } => load(step, &cx.memories[*buffer], access, *masked, frame, dst, n),
        Op::Call(f) => {
            let mut values = [Value::Bool(Src::One(0)); 3];
            for (v, arg) in values.iter_mut().zip(&step.args) {
                *v = frame.value(arg);
            }
            let dtype = step.args.last().map_or(step.dtype, |a| a.dtype);
            calls::call(*f, dtype, dst, n, &values[..step.args.len()]);
        }
        Op::Cast => calls::cast(step.dtype, dst, n, frame.value(&step.args[0])),
        Op::Bitcast => calls::bitcast(step.args[0].dtype, step.dtype, dst, n, frame.value(&step.args[0])),
        Op::Bound { size, code, masked } => {
            let mask = if *masked { frame.value(&step.args[1]) } else { Value::Bool(Src::One(1)) };
            if bound(frame.value(&step.args[0]), mask, *size, dst, n) {
                cx.status.fetch_min(*code, Ordering::Relaxed);
            }
        }
        Op::Spread { .. } => spread(frame.value(&step.args[0]), frame.block, dst),
        Op::Accumulate(..) | Op::Scan(..) | Op::Sort { .. } => unreachable!("handled with their state"),
    }
}

fn index(step: &Step, access: &Access, frame: &Frame<'_>, dst: &mut Reg, n: usize) {
    let dtype = step.dtype;
    match Lane::of(dtype) {
        Lane::F32 if dtype == DType::F32 => frame.visit(access, &step.args, &mut Iota { out: dst.lanes_mut(n), convert: |e| e as f32 }),
        Lane::F32 => frame.visit(access, &step.args, &mut Iota { out: dst.lanes_mut(n), convert: |e| dtype.round(e as f64) as f32 }),
        Lane::F64 => frame.visit(access, &step.args, &mut Iota { out: dst.lanes_mut(n), convert: |e| e as f64 }),
        Lane::I32 => frame.visit(access, &step.args, &mut Iota { out: dst.lanes_mut(n), convert: |e| e as i32 }),
        Lane::I64 => frame.visit(access, &step.args, &mut Iota { out: dst.lanes_mut(n), convert: |e| dtype.wrap(e) }),
        Lane::Bool => frame.visit(access, &step.args, &mut Iota { out: dst.lanes_mut(n), convert: |e| (e != 0) as u8 }),
    }
}

/// Clamps; gives whether anything lies outside where the mask holds.
fn bound(x: Value<'_>, mask: Value<'_>, size: i64, dst: &mut Reg, n: usize) -> bool {
    let Value::Bool(mask) = mask else { unreachable!("masks are bools") };
    let top = (size - 1).max(0);
    let outside = |inside: &dyn Fn(usize) -> bool| (0..n).any(|i| !inside(i) && mask.at(i) != 0);
    match x {
        Value::I32(x) => {
            let top = top.min(i32::MAX as i64) as i32;
            calls::map(dst, n, x, |x: i32| x.clamp(0, top));
            outside(&|i| x.at(i) >= 0 && (x.at(i) as i64) < size)
        }
        Value::I64(x) => {
            calls::map(dst, n, x, |x: i64| x.clamp(0, top));
            outside(&|i| x.at(i) >= 0 && x.at(i) < size)
        }
        _ => unreachable!("bounds are of integers"),
    }
}

fn spread(x: Value<'_>, block: &Block, dst: &mut Reg) {
    fn lanes<T: Pod>(x: Src<'_, T>, block: &Block, dst: &mut Reg) {
        let out = dst.lanes_mut::<T>(block.rows * block.cols);
        match x {
            Src::One(x) => out.fill(x),
            Src::All(x) if block.cols_inner => {
                for (row, &x) in out.chunks_exact_mut(block.cols.max(1)).zip(x) {
                    row.fill(x);
                }
            }
            Src::All(x) => {
                for column in out.chunks_exact_mut(block.rows) {
                    column.copy_from_slice(&x[..block.rows]);
                }
            }
        }
    }
    match x {
        Value::F32(x) => lanes(x, block, dst),
        Value::F64(x) => lanes(x, block, dst),
        Value::I32(x) => lanes(x, block, dst),
        Value::I64(x) => lanes(x, block, dst),
        Value::Bool(x) => lanes(x, block, dst),
    }
}

/// Reads elements into lanes.
struct Read<'a, T, U, F: Fn(T) -> U> {
    memory: &'a Memory<'a>,
    out: &'a mut [U],
    convert: F,
    element: std::marker::PhantomData<T>,
}

impl<T: Pod, U: Copy, F: Fn(T) -> U> Visit for Read<'_, T, U, F> {
    #[inline(always)]
    fn run(&mut self, lane: usize, element: i64, stride: i64, n: usize) {
        self.memory.read::<T, U>(element, stride, &mut self.out[lane..lane + n], &self.convert);
    }
    fn gather(&mut self, lane: usize, elements: &[i64], offset: i64) {
        for (o, e) in self.out[lane..].iter_mut().zip(elements) {
            *o = (self.convert)(self.memory.get(e + offset));
        }
    }
}

/// Reads only where a mask holds.
struct ReadMasked<'a, T, U, F: Fn(T) -> U> {
    read: Read<'a, T, U, F>,
    mask: &'a [u8],
}

impl<T: Pod, U: Zeroable + Copy, F: Fn(T) -> U> Visit for ReadMasked<'_, T, U, F> {
    fn run(&mut self, lane: usize, element: i64, stride: i64, n: usize) {
        let mask = &self.mask[lane..lane + n];
        // Masks of borders come in stretches: read each stretch at once.
        let mut i = 0;
        while i < n {
            let on = mask[i] != 0;
            let end = i + mask[i..].iter().take_while(|&&m| (m != 0) == on).count();
            if on {
                self.read.run(lane + i, element + i as i64 * stride, stride, end - i);
            } else {
                self.read.out[lane + i..lane + end].fill(U::zeroed());
            }
            i = end;
        }
    }
    fn gather(&mut self, lane: usize, elements: &[i64], offset: i64) {
        for (i, e) in elements.iter().enumerate() {
            let on = self.mask[lane + i] != 0;
            self.read.out[lane + i] = if on { (self.read.convert)(self.read.memory.get(e + offset)) } else { U::zeroed() };
        }
    }
}

fn load(step: &Step, memory: &Memory<'_>, access: &Access, masked: bool, frame: &Frame<'_>, dst: &mut Reg, n: usize) {
    let mask = masked.then(|| frame.value(step.args.last().expect("a masked load has a mask")));
    let request = Request { step, memory, access, mask, frame };
    match (Lane::of(step.dtype), memory.format) {
        (Lane::F32, Format::F32) => request.read(dst.lanes_mut(n), |x: f32| x),
        (Lane::F32, Format::F16) => request.read(dst.lanes_mut(n), |x: u16| half::f16::from_bits(x).to_f32()),
        (Lane::F32, Format::BF16) => request.read(dst.lanes_mut(n), |x: u16| f32::from_bits((x as u32) << 16)),
        (Lane::F64, Format::F64) => request.read(dst.lanes_mut(n), |x: f64| x),
        (Lane::I32, Format::I32) => request.read(dst.lanes_mut(n), |x: i32| x),
        (Lane::I64, Format::I64) => request.read(dst.lanes_mut(n), |x: i64| x),
        (Lane::I64, Format::I32) => request.read(dst.lanes_mut(n), |x: i32| x as i64),
        (Lane::I64, Format::U32) => request.read(dst.lanes_mut(n), |x: u32| x as i64),
        (Lane::I64, Format::U8) => request.read(dst.lanes_mut(n), |x: u8| x as i64),
        (Lane::I64, Format::I8) => request.read(dst.lanes_mut(n), |x: i8| x as i64),
        (Lane::I64, Format::I16) => request.read(dst.lanes_mut(n), |x: i16| x as i64),
        (Lane::Bool, Format::U8) => request.read(dst.lanes_mut(n), |x: u8| (x != 0) as u8),
        (Lane::Bool, Format::U32) => request.read(dst.lanes_mut(n), |x: u32| (x != 0) as u8),
        (lane, format) => panic!("interp: {format:?} elements do not fill {lane:?} lanes"),
    }
}

struct Request<'a> {
    step: &'a Step,
    memory: &'a Memory<'a>,
    access: &'a Access,
    mask: Option<Value<'a>>,
    frame: &'a Frame<'a>,
}

impl Request<'_> {
    #[inline(always)]
    fn read<T: Pod, U: Pod>(&self, out: &mut [U], convert: impl Fn(T) -> U) {
        let mask = match self.mask {
            None | Some(Value::Bool(Src::One(1..))) => None,
            Some(Value::Bool(Src::All(mask))) => Some(mask),
            _ => return out.fill(U::zeroed()),
        };
        let mut read = Read { memory: self.memory, out, convert, element: std::marker::PhantomData };
        match mask {
            None => self.frame.visit(self.access, &self.step.args, &mut read),
            Some(mask) => self.frame.visit(self.access, &self.step.args, &mut ReadMasked { read, mask }),
        }
    }
}

/// Writes lanes to elements.
struct Put<'a, T, U, F: Fn(T) -> U> {
    memory: &'a Memory<'a>,
    values: Src<'a, T>,
    convert: F,
    /// Columns of a row, and how many of them are written, where that is not all.
    first: Option<(usize, usize)>,
    element: std::marker::PhantomData<U>,
}

impl<T: Pod, U: Pod, F: Fn(T) -> U> Put<'_, T, U, F> {
    fn set(&self, lane: usize, element: i64) {
        if self.first.is_none_or(|(columns, first)| lane % columns < first) {
            self.memory.set(element, (self.convert)(self.values.at(lane)));
        }
    }
}

impl<T: Pod, U: Pod, F: Fn(T) -> U> Visit for Put<'_, T, U, F> {
    #[inline(always)]
    fn run(&mut self, lane: usize, element: i64, stride: i64, n: usize) {
        match self.values {
            _ if self.first.is_some() => (0..n).for_each(|i| self.set(lane + i, element + i as i64 * stride)),
            Src::All(x) => self.memory.write(element, stride, &x[lane..lane + n], &self.convert),
            Src::One(x) => self.memory.fill(element, stride, n, (self.convert)(x)),
        }
    }
    fn gather(&mut self, lane: usize, elements: &[i64], offset: i64) {
        elements.iter().enumerate().for_each(|(i, e)| self.set(lane + i, e + offset));
    }
}

/// Adds lanes to elements where a mask holds.
struct Add<'a, T, F: Fn(T, T) -> T> {
    memory: &'a Memory<'a>,
    values: Src<'a, T>,
    mask: Src<'a, u8>,
    add: F,
}

impl<T: Pod, F: Fn(T, T) -> T> Visit for Add<'_, T, F> {
    fn run(&mut self, lane: usize, element: i64, stride: i64, n: usize) {
        for i in 0..n {
            self.gather(lane + i, &[element + i as i64 * stride], 0);
        }
    }
    fn gather(&mut self, lane: usize, elements: &[i64], offset: i64) {
        for (i, e) in elements.iter().enumerate() {
            if self.mask.at(lane + i) != 0 {
                self.memory.set(e + offset, (self.add)(self.memory.get(e + offset), self.values.at(lane + i)));
            }
        }
    }
}

fn store(s: &Store, cx: &Context<'_>, frame: &Frame<'_>) {
    let memory = &cx.memories[s.buffer];
    let arg = s.args.last().expect("a store has a value");
    let value = frame.value(arg);
    if !matches!(s.effect, Effect::Replace | Effect::ReplaceFirst(_)) {
        let mask = match s.effect {
            Effect::AddWhere => frame.value(&s.args[s.args.len() - 2]),
            _ => Value::Bool(Src::One(1)),
        };
        let Value::Bool(mask) = mask else { unreachable!("masks are bools") };
        return match value {
            Value::F32(values) => frame.visit(&s.access, &s.args, &mut Add { memory, values, mask, add: |a: f32, b| a + b }),
            Value::F64(values) => frame.visit(&s.access, &s.args, &mut Add { memory, values, mask, add: |a: f64, b| a + b }),
            Value::I32(values) => frame.visit(&s.access, &s.args, &mut Add { memory, values, mask, add: i32::wrapping_add }),
            Value::I64(values) => frame.visit(&s.access, &s.args, &mut Add { memory, values, mask, add: i64::wrapping_add }),
            Value::Bool(_) => unreachable!("bools are not summed"),
        };
    }
    let dtype = arg.dtype;
    match (value, memory.format) {
        (Value::F32(x), Format::F32) if dtype == DType::F32 => put(s, memory, frame, x, |x| x),
        (Value::F32(x), Format::F32) => put(s, memory, frame, x, |x| dtype.round(x as f64) as f32),
        (Value::F32(x), Format::F16) => put(s, memory, frame, x, |x| half::f16::from_f32(x).to_bits()),
        (Value::F32(x), Format::BF16) => put(s, memory, frame, x, |x| half::bf16::from_f32(x).to_bits()),
        (Value::F64(x), Format::F64) => put(s, memory, frame, x, |x| x),
        (Value::I32(x), Format::I32) => put(s, memory, frame, x, |x| x),
        (Value::I64(x), Format::I64) => put(s, memory, frame, x, |x| x),
        (Value::I64(x), Format::I32) => put(s, memory, frame, x, |x| x as i32),
        (Value::I64(x), Format::U32) => put(s, memory, frame, x, |x| x as u32),
        (Value::I64(x), Format::U8) => put(s, memory, frame, x, |x| x as u8),
        (Value::I64(x), Format::I8) => put(s, memory, frame, x, |x| x as i8),
        (Value::I64(x), Format::I16) => put(s, memory, frame, x, |x| x as i16),
        (Value::Bool(x), Format::U8) => put(s, memory, frame, x, |x| x),
        (Value::Bool(x), Format::U32) => put(s, memory, frame, x, |x| x as u32),
        (_, format) => panic!("interp: a value of {dtype} is not stored as {format:?}"),
    }
}

#[inline(always)]
fn put<T: Pod, U: Pod>(s: &Store, memory: &Memory<'_>, frame: &Frame<'_>, values: Src<'_, T>, convert: impl Fn(T) -> U) {
    let first = match s.effect {
        Effect::ReplaceFirst(n) => Some((frame.block.cols, n as usize)),
        _ => None,
    };
    frame.visit(&s.access, &s.args, &mut Put { memory, values, convert, first, element: std::marker::PhantomData });
}
