//! Nests with a tag: matrix products through the `gemm` crates, and sums into computed places.
//!
//! Both become several kernels around a scratch buffer. A product: prologues that pack operands which are not plain matrices
//! in memory, the product tile by tile, and the epilogue, a pointwise kernel over the tile's rows while the tile is in cache.
//! A scatter sum: a kernel over columns and the other rows that adds into a zeroed buffer in order, and the epilogue.

use super::access::{Bound, Walk};
use super::attention::Attention;
use super::exec::{self, Context, PARALLEL};
use super::kernel::Kernel;
use super::lanes::{Lane, Reg};
use super::patch::{Patch, axis_count, axis_size, linear};
use super::raw::{Format, Line, Matrix, Memory, Scalar, lines, product};
use crate::loop_ir::facts::{needed_before, stored};
use crate::loop_ir::{BodyBuilder, BufferId, Element, IndexExpr, Instr, Nest, Number, Rebase, Tag, Val, attention, flatten};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim};

/// Elements of a product's tile, about: half of a second-level cache.
const TILE: i64 = 1 << 17;
/// Columns of a tile at most.
const TILE_COLUMNS: i64 = 1024;

/// An executable nest of any tag.
pub enum Executable {
    /// Blocks of steps.
    Loop(Kernel),
    /// A product.
    Product(Box<Product>),
    /// A sum into computed places.
    Scatter(Box<Scatter>),
    /// Attention.
    Attention(Box<Attention>),
}

/// Compiles a nest that was bound. A tag whose body has grown out of the shape that is fast here runs as it stands.
pub fn compile(nest: &Nest, bound: &Bound) -> Executable {
    let special = match nest.tag {
        Tag::Loop | Tag::Segments { .. } | Tag::Control { .. } => None,
        tag @ Tag::Matmul { .. } => Product::new(bound, tag).map(|p| Executable::Product(Box::new(p))),
        tag @ Tag::ScatterSum { .. } => Scatter::new(bound, tag).map(|s| Executable::Scatter(Box::new(s))),
        Tag::Attention { .. } => {
            let parts = attention(nest).unwrap_or_else(|e| panic!("interp: unsound attention: {e}\n{nest}"));
            let attention = Attention::new(bound, &parts).expect("operands of sound attention are matrices");
            Some(Executable::Attention(Box::new(attention)))
        }
    };
    special.unwrap_or_else(|| Executable::Loop(Kernel::new(&bound.nest)))
}

impl Executable {
    /// Runs on the dispatch's memories.
    pub fn run(&self, cx: &Context<'_>) {
        match self {
            Executable::Loop(kernel) => exec::run(kernel, cx),
            Executable::Product(product) => product.run(cx),
            Executable::Scatter(scatter) => scatter.run(cx),
            Executable::Attention(attention) => attention.run(cx),
        }
    }
}

/// A matrix operand: plain in memory, or packed by a kernel first.
pub(super) struct Operand {
    buffer: usize,
    offset: i64,
    /// Linear over the batch.
    batch: Walk,
    row_stride: i64,
    col_stride: i64,
    /// Fills buffer `buffer` with this many elements.
    pack: Option<(Pack, i64)>,
}

/// How an operand gets to where a product reads it.
enum Pack {
    /// A load within bounds, copied.
    Patch(Patch),
    /// Anything, computed.
    Kernel(Kernel),
}

/// `dot` for every (batch, m, n), then the epilogue.
pub struct Product {
    batch: i64,
    m: i64,
    n: i64,
    k: i64,
    lane: Lane,
    a: Operand,
    b: Operand,
    /// The result when nothing but a store of `dot` follows: buffer and where it lies.
    direct: Option<Operand>,
    /// Buffers of the nest; scratch buffers are numbered from here: packed a, packed b, the tile.
    buffers: usize,
    epilogue: Kernel,
}

impl Product {
    fn new(bound: &Bound, tag: Tag) -> Option<Product> {
        let Tag::Matmul { a, b, dot, .. } = tag else { return None };
        let nest = &bound.nest;
        let lane = Lane::of(nest.dtype(dot));
        if !matches!(lane, Lane::F32 | Lane::F64) {
            return None;
        }
        let domain = Domain::of(bound, tag)?;
        let buffers = buffer_count(nest);
        let scratch = |k: usize| BufferId((buffers + k) as u32);
        let epilogue = epilogue(nest, dot, scratch(2), &domain.rows())?;
        let left = Operand::new(nest, a, lane, &domain, &domain.m, &domain.k, scratch(0))?;
        let right = Operand::new(nest, b, lane, &domain, &domain.k, &domain.n, scratch(1))?;
        if !runs_all_checks(nest, &[cone(nest, &[a], None)?, cone(nest, &[b], None)?]) {
            return None;
        }
        let direct = direct_store(nest, dot, lane, &domain);
        let size = |axes: &[usize]| domain_size(nest, axes);
        Some(Product {
            batch: size(&domain.batch),
            m: size(&domain.m),
            n: size(&domain.n),
            k: size(&domain.k),
            lane,
            a: left,
            b: right,
            direct,
            buffers,
            epilogue: Kernel::with_tile(&epilogue, scratch(2)),
        })
    }

    fn run(&self, cx: &Context<'_>) {
        match self.lane {
            Lane::F64 => self.run_as::<f64>(cx, Format::F64),
            _ => self.run_as::<f32>(cx, Format::F32),
        }
    }

    fn run_as<T: Scalar>(&self, cx: &Context<'_>, format: Format) {
        if self.batch * self.m * self.n == 0 {
            return;
        }
        cx.pool.with_packs([&self.a, &self.b].map(|o| o.scratch_bytes(format)), |[first, second]| {
            let mut memories = cx.memories.to_vec();
            memories.resize(self.buffers, cx.memories[0]);
            memories.extend([Memory::new(first, format), Memory::new(second, format)]);
            let cx = Context { memories: &memories, ..*cx };
            [&self.a, &self.b].into_iter().for_each(|operand| operand.fill(&cx));
            self.run_tiles::<T>(&cx, format);
        });
    }

    fn run_tiles<T: Scalar>(&self, cx: &Context<'_>, format: Format) {
        let uniform = exec::run_uniform(&self.epilogue, cx);
        let tiles = self.tiles();
        let run = |tile: &Tile| self.run_tile::<T>(tile, cx, &uniform, format);
        let work = self.batch * self.m * self.n * (self.k / 8 + 8);
        if work < PARALLEL || tiles.len() == 1 {
            tiles.iter().for_each(run);
        } else {
            crate::threads::for_each(tiles.len(), |t| run(&tiles[t]));
        }
    }

    /// A partition that depends on the sizes alone, so that results do not depend on the number of threads.
    fn tiles(&self) -> Vec<Tile> {
        let up = |n: i64, by: i64| (n + by - 1) / by;
        let columns = if self.n <= TILE_COLUMNS { self.n } else { up(up(self.n, up(self.n, TILE_COLUMNS)), 16) * 16 };
        let mut rows = (TILE / columns).max(16);
        if self.batch < 8 {
            // Enough tiles for a few threads, few enough that packing the right operand again for each does not count.
            rows = rows.min((self.m * self.batch / 4).max(32));
        }
        let rows = (up(rows, 8) * 8).min(self.m);
        let mut out = vec![];
        for batch in 0..self.batch {
            for col in (0..self.n).step_by(columns as usize) {
                for row in (0..self.m).step_by(rows as usize) {
                    out.push(Tile { batch, row, rows: rows.min(self.m - row), col, cols: columns.min(self.n - col) });
                }
            }
        }
        out
    }

    fn run_tile<T: Scalar>(&self, t: &Tile, cx: &Context<'_>, uniform: &[Reg], format: Format) {
        let a = self.a.at(cx, t.batch, t.row, 0);
        let b = self.b.at(cx, t.batch, 0, t.col);
        let (m, n, k) = (t.rows as usize, t.cols as usize, self.k as usize);
        if let Some(direct) = &self.direct
            && cx.memories[direct.buffer].format == format
        {
            return product::<T>(m, n, k, direct.at(cx, t.batch, t.row, t.col), a, b);
        }
        cx.pool.with(|scratch| {
            let mut tile = std::mem::take(&mut scratch.tile);
            let bytes = m * n * format.size();
            if tile.len() * 64 < bytes {
                tile = lines(bytes, 0);
            }
            let memory = Memory::new(&mut tile, format);
            product::<T>(m, n, k, Matrix { memory, offset: 0, row_stride: t.cols, col_stride: 1 }, a, b);
            let mut memories = cx.memories.to_vec();
            memories.push(memory);
            let start = |row: i64| (t.batch * self.m + t.row + row) * self.n + t.col;
            let whole = t.cols == self.n;
            // Rows of the domain that are neighbors in the tile: all of it, or one row of the matrix at a time.
            let (steps, len) = if whole { (1, t.rows * self.n) } else { (t.rows, t.cols) };
            for step in 0..steps {
                let first = start(step);
                memories[self.buffers + 2] = memory.with_origin(first - step * t.cols);
                let cx = Context { memories: &memories, ..*cx };
                exec::run_rows(&self.epilogue, &cx, uniform, first..first + len, scratch);
            }
            scratch.tile = tile;
        });
    }
}

/// A part of one matrix of the batch.
struct Tile {
    batch: i64,
    row: i64,
    rows: i64,
    col: i64,
    cols: i64,
}

/// Axes of a product by what they are for.
pub(super) struct Domain {
    pub batch: Vec<usize>,
    pub m: Vec<usize>,
    pub n: Vec<usize>,
    pub k: Vec<usize>,
}

/// Columns from which on a matrix is worth a product of its own.
const WIDE: i64 = 64;

impl Domain {
    /// Outer axes of columns that the result does not continue are further matrices, as long as each is wide enough.
    fn of(bound: &Bound, tag: Tag) -> Option<Domain> {
        let Tag::Matmul { batch, m, .. } = tag else { return None };
        let nest = &bound.nest;
        let start = |axis: u32| bound.axes.get(axis as usize).map(|range| range.start);
        let (first, rows) = (start(batch)?, nest.rows.len());
        let mut domain = Domain {
            batch: (0..first).collect(),
            m: (first..start(batch + m)?).collect(),
            n: (start(batch + m)?..rows).collect(),
            k: (rows..rows + nest.cols.len()).collect(),
        };
        let Some((_, strides)) = nest.writes.first().and_then(|w| linear(&w.index, rows + nest.cols.len())) else { return Some(domain) };
        while walk(nest, &domain.n, &strides).single().is_none() && domain_size(nest, &domain.n[1..]) >= WIDE {
            let outer = domain.n.remove(0);
            domain.batch.push(outer);
        }
        Some(domain)
    }

    /// Axes of the rows in the order of the product.
    fn rows(&self) -> Vec<usize> {
        [&self.batch[..], &self.m, &self.n].concat()
    }
}

pub(super) fn domain_size(nest: &Nest, axes: &[usize]) -> i64 {
    axes.iter().map(|&i| axis_size(nest, i)).product()
}

fn walk(nest: &Nest, axes: &[usize], strides: &[i64]) -> Walk {
    Walk::new(axes.iter().map(|&i| (axis_size(nest, i), strides[i])))
}

pub(super) fn buffer_count(nest: &Nest) -> usize {
    nest.reads().into_iter().chain(nest.writes.iter().map(|w| w.buffer)).map(|b| b.0 as usize + 1).max().unwrap_or(0)
}

/// Whether elements lie in memory as a product takes them.
fn is_stored_as(dtype: DType, lane: Lane) -> bool {
    matches!((lane, dtype), (Lane::F32, DType::F32) | (Lane::F64, DType::F64))
}

impl Operand {
    /// The matrix `v` over `rows` x `cols` axes.
    pub fn new(nest: &Nest, v: Val, lane: Lane, domain: &Domain, rows: &[usize], cols: &[usize], scratch: BufferId) -> Option<Operand> {
        Operand::plain(nest, v, lane, domain, rows, cols).or_else(|| Operand::packed(nest, v, lane, domain, rows, cols, scratch))
    }

    fn plain(nest: &Nest, v: Val, lane: Lane, domain: &Domain, rows: &[usize], cols: &[usize]) -> Option<Operand> {
        let stmt = nest.stmt(v);
        let Instr::Load { buffer, index, mask: None } = &stmt.instr else { return None };
        if !is_stored_as(stmt.dtype, lane) {
            return None;
        }
        Operand::of_index(nest, buffer.0 as usize, index, domain, rows, cols)
    }

    fn of_index(nest: &Nest, buffer: usize, index: &IndexExpr, domain: &Domain, rows: &[usize], cols: &[usize]) -> Option<Operand> {
        let (offset, strides) = linear(index, axis_count(nest))?;
        let (_, row_stride) = walk(nest, rows, &strides).single()?;
        let (_, col_stride) = walk(nest, cols, &strides).single()?;
        let mut others = [&domain.m, &domain.n, &domain.k].into_iter().filter(|r| *r != rows && *r != cols).flatten();
        let elsewhere = others.any(|&i| strides[i] != 0);
        (!elsewhere).then(|| Operand { buffer, offset, batch: walk(nest, &domain.batch, &strides), row_stride, col_stride, pack: None })
    }

    /// Computes the operand into scratch: batch axes that it depends on, then whichever order reads memory in order.
    fn packed(nest: &Nest, v: Val, lane: Lane, domain: &Domain, rows: &[usize], cols: &[usize], scratch: BufferId) -> Option<Operand> {
        let cone = cone(nest, &[v], None)?;
        let uses = |i: usize| cone.iter().any(|&v| nest.stmt(v).instr.index().is_some_and(|e| e.uses_axis(|a| a as usize == i)));
        let foreign = |r: &Vec<usize>| r != rows && r != cols && r.iter().copied().any(uses);
        if [&domain.m, &domain.n, &domain.k].into_iter().any(foreign) {
            return None;
        }
        let contiguous = |r: &[usize]| {
            let first = cone.iter().find_map(|&v| match (&nest.stmt(v).instr, r.last()) {
                (Instr::Load { index, .. }, Some(&last)) => Some(index.linear_coefficient(last as u32)),
                _ => None,
            });
            first.flatten().is_some_and(|k| k.is(1))
        };
        let batch: Vec<usize> = domain.batch.iter().copied().filter(|&i| uses(i)).collect();
        let order = |swap: bool| if swap { [&batch[..], cols, rows].concat() } else { [&batch[..], rows, cols].concat() };
        let patch = |swap: bool| Patch::new(nest, v, &order(swap)).map(|patch| (swap, patch));
        let patches = [false, true].into_iter().filter(|_| is_stored_as(nest.dtype(v), lane)).filter_map(patch);
        let patch = patches.min_by(|(_, a), (_, b)| a.cost().total_cmp(&b.cost()));
        let (swap, pack) = match patch {
            Some((swap, patch)) => (swap, Pack::Patch(patch)),
            None => {
                let swap = !rows.is_empty() && contiguous(rows) && (cols.is_empty() || !contiguous(cols));
                let mut part = Part::of(nest, &order(swap));
                part.to.copy_all(&mut part.body, nest, cone);
                part.body.write(scratch, part.place(), part.to.value(v));
                (swap, Pack::Kernel(Kernel::new(&part.nest(nest))))
            }
        };
        let (matrix, stride) = (domain_size(nest, rows) * domain_size(nest, cols), domain_size(nest, if swap { rows } else { cols }));
        let mut strides = vec![0; axis_count(nest)];
        let mut elements = matrix;
        for &i in batch.iter().rev() {
            strides[i] = elements;
            elements *= axis_size(nest, i);
        }
        let (row_stride, col_stride) = if swap { (1, stride) } else { (stride, 1) };
        Some(Operand {
            buffer: scratch.0 as usize,
            offset: 0,
            batch: walk(nest, &domain.batch, &strides),
            row_stride,
            col_stride,
            pack: Some((pack, elements)),
        })
    }

    pub fn scratch(&self, format: Format) -> Vec<Line> {
        lines(self.scratch_bytes(format), 0)
    }

    fn scratch_bytes(&self, format: Format) -> usize {
        self.pack.as_ref().map_or(0, |(_, n)| *n as usize * format.size())
    }

    /// Fills its scratch, where it has some.
    pub fn fill(&self, cx: &Context<'_>) {
        let to = &cx.memories[self.buffer];
        match &self.pack {
            Some((Pack::Patch(patch), _)) if to.format == Format::F64 => patch.copy::<f64>(cx, to),
            Some((Pack::Patch(patch), _)) => patch.copy::<f32>(cx, to),
            Some((Pack::Kernel(kernel), _)) => exec::run(kernel, cx),
            None => {}
        }
    }

    pub fn at<'a>(&self, cx: &Context<'a>, batch: i64, row: i64, col: i64) -> Matrix<'a> {
        let offset = self.offset + self.batch.offset(batch) + row * self.row_stride + col * self.col_stride;
        Matrix { memory: cx.memories[self.buffer], offset, row_stride: self.row_stride, col_stride: self.col_stride }
    }
}

/// Where the product lies when the nest stores `dot` itself, and nothing else, as a matrix.
fn direct_store(nest: &Nest, dot: Val, lane: Lane, domain: &Domain) -> Option<Operand> {
    let [write] = &nest.writes[..] else { return None };
    let is_dot = write.value == dot && matches!((lane, nest.dtype(dot)), (Lane::F32, DType::F32) | (Lane::F64, DType::F64));
    (is_dot && nest.checks().next().is_none())
        .then(|| Operand::of_index(nest, write.buffer.0 as usize, &write.index, domain, &domain.m, &domain.n))
        .flatten()
}

/// Statements that `roots` need, in order, not looking behind `stop`; `None` when a reduction, scan or sort is among them.
fn cone(nest: &Nest, roots: &[Val], stop: Option<Val>) -> Option<Vec<Val>> {
    let needed = needed_before(nest, roots.iter().copied(), stop);
    let cone: Vec<Val> = nest.values().filter(|v| needed[v.0 as usize]).collect();
    let works = |v: &Val| matches!(nest.stmt(*v).instr, Instr::Reduce(..) | Instr::Scan(..) | Instr::Sort { .. } | Instr::Proj(..));
    (!cone.iter().any(|v| stop != Some(*v) && works(v))).then_some(cone)
}

/// Whether every check is among statements that run for each element, or the epilogue's: it runs those of rows.
fn runs_all_checks(nest: &Nest, elements: &[Vec<Val>]) -> bool {
    let level = nest.element_level();
    nest.checks().all(|v| !level[v.0 as usize] || elements.iter().any(|cone| cone.contains(&v)))
}

/// A nest over some axes of another, in that order, under construction.
pub(super) struct Part {
    pub rows: Vec<Dim>,
    pub body: BodyBuilder,
    pub to: Rebase,
}

impl Part {
    /// Without statements; no statement that is copied may use another axis.
    pub fn of(nest: &Nest, axes: &[usize]) -> Part {
        let rows: Vec<Dim> = axes.iter().map(|&i| Dim::int(axis_size(nest, i))).collect();
        let mut at = vec![IndexExpr::zero(); axis_count(nest)];
        axes.iter().enumerate().for_each(|(new, &old)| at[old] = IndexExpr::axis(new as u32, &rows[new]));
        Part { rows, body: BodyBuilder::default(), to: Rebase::new(at) }
    }

    /// The number of a row.
    pub fn place(&self) -> IndexExpr {
        flatten(&crate::loop_ir::axes(&self.rows, 0), &self.rows)
    }

    pub fn nest(self, nest: &Nest) -> Nest {
        self.body.nest(nest.label.clone(), self.rows, vec![], nest.provenance.clone())
    }
}

/// Everything after `dot` as a pointwise nest over the rows in that order, with `dot` loaded from `scratch` at the row's number.
fn epilogue(nest: &Nest, dot: Val, scratch: BufferId, rows: &[usize]) -> Option<Nest> {
    let levels = nest.element_level();
    let mut roots: Vec<Val> = nest.writes.iter().flat_map(stored).collect();
    roots.extend(nest.checks().filter(|v| !levels[v.0 as usize]));
    let statements = cone(nest, &roots, Some(dot))?;
    let first_col = nest.rows.len() as u32;
    let over_columns = statements.iter().any(|v| levels[v.0 as usize]) || nest.writes.iter().any(|w| w.index.uses_axis(|a| a >= first_col));
    if over_columns {
        return None;
    }
    let mut part = Part::of(nest, rows);
    let index = part.place();
    part.to.set(dot, part.body.load(Element { buffer: scratch, index, dtype: nest.dtype(dot) }));
    part.to.copy_all(&mut part.body, nest, statements.into_iter().filter(|v| *v != dot));
    part.body.writes = nest.writes.iter().map(|w| part.to.write(w)).collect();
    Some(part.nest(nest))
}

/// `sum[.., index, ..] += source`, then the epilogue.
pub struct Scatter {
    lane: Lane,
    elements: i64,
    buffers: usize,
    add: Kernel,
    epilogue: Kernel,
}

impl Scatter {
    fn new(bound: &Bound, tag: Tag) -> Option<Scatter> {
        let Tag::ScatterSum { index, axis, source, sum } = tag else { return None };
        let nest = &bound.nest;
        let lane = Lane::of(nest.dtype(sum));
        if lane == Lane::Bool || Lane::of(nest.dtype(source)) != lane {
            return None;
        }
        let buffers = buffer_count(nest);
        let scratch = BufferId(buffers as u32);
        let epilogue = epilogue(nest, sum, scratch, &(0..nest.rows.len()).collect::<Vec<_>>())?;
        let statements = cone(nest, &[index, source], None)?;
        if !runs_all_checks(nest, std::slice::from_ref(&statements)) {
            return None;
        }
        let place = bound.axes[axis as usize].clone();
        let uses_place = |e: &IndexExpr| e.uses_axis(|a| place.contains(&(a as usize)));
        if statements.iter().any(|v| nest.stmt(*v).instr.index().is_some_and(uses_place)) {
            return None;
        }
        let rows = nest.rows.len();
        let others: Vec<usize> = (0..rows).filter(|i| !place.contains(i)).collect();
        let axes: Vec<usize> = (rows..rows + nest.cols.len()).chain(others).collect();
        let mut add = Part::of(nest, &axes);
        add.to.copy_all(&mut add.body, nest, statements);
        let target = flatten(&nest.row_axes(), &nest.rows);
        let (_, strides) = linear(&target, rows)?;
        let size: i64 = place.clone().map(|i| axis_size(nest, i)).product();
        let stride: i64 = (place.end..rows).map(|i| axis_size(nest, i)).product();
        let mut at = IndexExpr::value(add.to.value(index).0, &Dim::int(size.max(1))).times(&Dim::int(stride));
        for (new, &old) in axes.iter().enumerate().filter(|(_, old)| **old < rows) {
            at = at.add(&IndexExpr::axis(new as u32, &Dim::int(axis_size(nest, old))).times(&Dim::int(strides[old])));
        }
        let inside = inside(&mut add.body, add.to.value(index), size);
        add.body.write(scratch, at, add.to.value(source));
        Some(Scatter {
            lane,
            elements: (0..rows).map(|i| axis_size(nest, i)).product(),
            buffers,
            add: Kernel::accumulating(&add.nest(nest), inside),
            epilogue: Kernel::new(&epilogue),
        })
    }

    fn run(&self, cx: &Context<'_>) {
        let format = match self.lane {
            Lane::F32 => Format::F32,
            Lane::F64 => Format::F64,
            Lane::I32 => Format::I32,
            Lane::I64 | Lane::Bool => Format::I64,
        };
        let mut sums = lines(self.elements as usize * format.size(), 0);
        let mut memories = cx.memories.to_vec();
        memories.push(Memory::new(&mut sums, format));
        debug_assert_eq!(memories.len(), self.buffers + 1);
        let cx = Context { memories: &memories, ..*cx };
        exec::run(&self.add, &cx);
        exec::run(&self.epilogue, &cx);
    }
}

/// `0 <= index && index < size`.
fn inside(b: &mut BodyBuilder, index: Val, size: i64) -> Val {
    let dtype = b.dtype(index);
    let (zero, end) = (b.number(dtype, Number::Int(0)), b.number(dtype, Number::Int(size)));
    let (above, below) = (b.call(ScalarFn::Ge, &[index, zero]), b.call(ScalarFn::Lt, &[index, end]));
    b.call(ScalarFn::LogicalAnd, &[above, below])
}
