//! Random programs: every layer of execution agrees with the graph evaluation; planted faults are caught.
//!
//! A program is a list of small numbers that [`build`] reads as ops on values that exist already, so that removing numbers
//! (shrinking) still gives a program. A failing program is saved with its inputs as a test under `tests/filetests/run/`.

mod support;

use inductor::graph::{Builder, Graph, InputRole, OutputRole, Value, print};
use inductor::loop_ir::{Combiner, Instr, Number};
use inductor::ops::{Op, OpDef, ReduceKind};
use inductor::scalar::{Domain, Grad, ScalarFn};
use inductor::types::{DType, HostTensor, TensorType};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use std::cell::RefCell;
use std::collections::BTreeMap;
use support::cases::{self, passes_keep_values};
use support::layers::{self, LAYERS, Named, What};

/// One step: which op, and three choices.
type Step = (u16, u16, u16, u16);

/// Sizes dimensions are drawn from: primes, one, and the edges of packs and blocks.
const SIZES: [i64; 6] = [1, 2, 3, 5, 7, 4];
/// Sizes at the borders of forms of kernels, which one dimension of an input may have.
const BORDERS: [i64; 6] = [31, 33, 63, 65, 257, 1025];
/// Elements of a value at most.
const MOST: i64 = 4200;
struct Program {
    b: Builder,
    values: Vec<Value>,
}

impl Program {
    fn pick(&self, choice: u16, ok: impl Fn(&TensorType) -> bool) -> Option<Value> {
        let fitting: Vec<Value> = self.values.iter().copied().filter(|&v| ok(self.b.ty(v))).collect();
        (!fitting.is_empty()).then(|| fitting[fitting.len() - 1 - (choice as usize * 7 / 5) % fitting.len()])
    }

    fn add(&mut self, v: Result<Value, String>) -> Option<()> {
        let v = v.ok()?;
        let numel = self.b.ty(v).numel().as_int()?;
        (numel <= MOST).then(|| self.values.push(v))
    }

    /// One op; `None` when the choices fit nothing.
    fn step(&mut self, (kind, x, y, z): Step) -> Option<()> {
        let float = |t: &TensorType| t.dtype.is_float();
        let any = |_: &TensorType| true;
        match kind % 20 {
            0..=2 => self.unary(x, y),
            3..=5 => self.binary(x, y, z),
            6 => {
                let v = self.pick(x, |t| t.shape.rank() > 0 && t.dtype != DType::Bool)?;
                let kinds = [ReduceKind::Sum, ReduceKind::Max, ReduceKind::Min, ReduceKind::Argmax, ReduceKind::Prod];
                let dim = y as usize % self.b.shape(v).rank();
                let r = self.b.reduce(kinds[z as usize % if float(self.b.ty(v)) { 4 } else { 3 }], v, &[dim], z % 2 == 0);
                self.add(r)
            }
            7 => {
                let v = self.pick(x, any)?;
                let mut order: Vec<usize> = (0..self.b.shape(v).rank()).collect();
                if order.is_empty() {
                    return None;
                }
                let n = order.len();
                order.rotate_left(y as usize % n);
                if z % 2 == 0 {
                    order.reverse();
                }
                let r = self.b.permute(v, &order);
                self.add(r)
            }
            8 => {
                let v = self.pick(x, any)?;
                let dims = self.b.shape(v).as_ints()?;
                let mut flat: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
                if y % 2 == 0 && flat.len() >= 2 {
                    let last = flat.pop()?;
                    *flat.last_mut()? *= last;
                } else {
                    flat.insert(z as usize % (flat.len() + 1), 1);
                }
                let r = self.b.reshape(v, flat);
                self.add(r)
            }
            9 => {
                let v = self.pick(x, |t| t.shape.rank() > 0)?;
                let dim = y as usize % self.b.shape(v).rank();
                let size = self.b.shape(v)[dim].as_int()?;
                let start = z as i64 % (size + 1);
                let r = self.b.slice(v, dim, start, size, 1 + (z as i64 / 8) % 2);
                self.add(r)
            }
            10 => {
                let v = self.pick(x, |t| float(t) && t.shape.rank() > 0)?;
                let last = self.b.shape(v).rank() - 1;
                let r = match y % 6 {
                    0 => self.b.softmax(v, last),
                    1 => self.b.layer_norm(v, 1, None, None, 1e-5),
                    2 => self.b.rms_norm(v, 1, None, 1e-5),
                    3 => self.b.gelu(v, z % 2 == 0),
                    4 => self.b.log_softmax(v, z as usize % (last + 1)),
                    _ => self.b.mean(v, &[z as usize % (last + 1)], true),
                };
                self.add(r)
            }
            11 | 12 => {
                let p = self.pick(x, |t| t.dtype == DType::F32 && t.shape.rank() >= 2)?;
                let shape = self.b.shape(p).clone();
                let rank = shape.rank();
                let q = self.pick(y, |t| t.dtype == DType::F32 && t.shape.rank() == rank && t.shape.0[..rank - 2] == shape.0[..rank - 2])?;
                let (m, other) = (self.b.shape(p).clone(), self.b.shape(q).clone());
                let fits = |ta: bool, tb: bool| {
                    let ka = &m[if ta { rank - 2 } else { rank - 1 }];
                    let kb = &other[if tb { rank - 1 } else { rank - 2 }];
                    ka == kb
                };
                let (transpose_a, transpose_b) =
                    [(false, false), (true, false), (false, true), (true, true)].into_iter().find(|&(a, b)| fits(a, b))?;
                let r = self.b.op(inductor::ops::Matmul { transpose_a, transpose_b }, &[p, q]);
                self.add(r)
            }
            13 => {
                let v = self.pick(x, |t| t.shape.rank() > 0)?;
                let dim = y as usize % self.b.shape(v).rank();
                let r = match z % 4 {
                    0 => self.b.flip(v, &[dim]),
                    1 => self.b.concat(&[v, v], dim),
                    2 if self.b.dtype(v).is_float() => self.b.cumsum(v, dim),
                    _ => {
                        let rank = self.b.shape(v).rank();
                        let mut low: Vec<inductor::types::Dim> = vec![0.into(); rank];
                        let mut high = low.clone();
                        low[dim] = 2.into();
                        high[dim] = 1.into();
                        self.b.pad(v, &low, &high, 1.0)
                    }
                };
                self.add(r)
            }
            14 => {
                let v = self.pick(x, any)?;
                let to = [DType::F32, DType::I32, DType::F16, DType::Bool, DType::U8, DType::BF16, DType::I64, DType::F64][y as usize % 8];
                if float(self.b.ty(v)) && !to.is_float() && to != DType::Bool {
                    return None;
                }
                let r = self.b.cast(v, to);
                self.add(r)
            }
            16 => self.convolution(x, y, z),
            17 => self.gather_under_a_mask(x, y, z),
            18 => self.with_number(x, y, z),
            _ => {
                let v = self.pick(x, |t| float(t) && t.shape.rank() > 0 && !t.numel().is(0))?;
                let dim = y as usize % self.b.shape(v).rank();
                let size = self.b.shape(v)[dim].as_int()?;
                let index: Vec<f64> = (0..4).map(|i| ((i * 3 + z as i64) % size) as f64).collect();
                let index = self.b.op(inductor::ops::Constant::from_host(&HostTensor::from_f64(DType::I32, &[4], &index)), &[]).ok()?;
                let r = self.b.index_select(v, dim, index);
                self.add(r)
            }
        }
    }

    /// A convolution along the last dimension, strided, padded, dilated, in groups, or its transpose; with a constant weight.
    fn convolution(&mut self, x: u16, y: u16, z: u16) -> Option<()> {
        let v = self.pick(x, |t| t.dtype == DType::F32 && t.shape.rank() == 3 && !t.numel().is(0))?;
        let dims = self.b.shape(v).as_ints()?;
        let (channels, n) = (dims[1] as i64, dims[2] as i64);
        let groups = if y.is_multiple_of(3) { channels } else { 1 };
        let (kernel, outer) = (1 + y as i64 / 3 % 3, 1 + z as i64 % 3);
        let window =
            inductor::ops::Window { stride: vec![1 + z as u32 / 3 % 3], padding: vec![z as u32 / 9 % 2], dilation: vec![1 + z as u32 / 18 % 2] };
        let weight = |shape: [i64; 3]| {
            let data: Vec<f64> = (0..shape.iter().product()).map(|i: i64| ((i * 7 + z as i64) % 11) as f64 * 0.2 - 1.0).collect();
            inductor::ops::Constant::from_host(&HostTensor::from_f64(DType::F32, &shape.map(|n| n as usize), &data))
        };
        let r = if (z / 36).is_multiple_of(2) {
            let w = self.b.op(weight([groups * outer, channels / groups, kernel]), &[]).ok()?;
            self.b.op(inductor::ops::Convolution { window: window.into(), groups: groups as u32 }, &[v, w])
        } else {
            let size = (n - 1) * window.stride[0] as i64 + window.dilation[0] as i64 * (kernel - 1) + 1 - 2 * window.padding[0] as i64;
            let w = self.b.op(weight([channels, outer, kernel]), &[]).ok()?;
            self.b.op(inductor::ops::ConvolutionInput { window: window.into(), groups: groups as u32, size: vec![size.into()] }, &[v, w])
        };
        self.add(r)
    }

    /// Elements at computed places, behind a border or beside something else, where the places are not valid.
    fn gather_under_a_mask(&mut self, x: u16, y: u16, z: u16) -> Option<()> {
        let v = self.pick(x, |t| t.shape.rank() > 0 && !t.numel().is(0))?;
        let (rank, dim) = (self.b.shape(v).rank(), y as usize % self.b.shape(v).rank());
        let size = self.b.shape(v)[dim].as_int()?;
        let dtype = if z.is_multiple_of(2) { DType::I32 } else { DType::I64 };
        let index = self.b.iota(dtype, size, 0).ok()?;
        let index = match z / 2 % 3 {
            0 => index,
            _ => {
                let last = self.b.constant(dtype, (size - 1) as f64).ok()?;
                self.b.sub(last, index).ok()?
            }
        };
        let taken = self.b.index_select(v, dim, index).ok()?;
        let r = if (z / 6).is_multiple_of(2) {
            let mut low: Vec<inductor::types::Dim> = vec![0.into(); rank];
            let mut high = low.clone();
            (low[dim], high[dim]) = ((1 + z as i64 % 3).into(), (z as i64 % 2).into());
            self.b.pad(taken, &low, &high, 0.0)
        } else {
            self.b.concat(&[v, taken, v], dim)
        };
        self.add(r)
    }

    /// An operation with a number that rules look for.
    fn with_number(&mut self, x: u16, y: u16, z: u16) -> Option<()> {
        let v = self.pick(x, |t| t.dtype != DType::Bool)?;
        let number: f64 = [0.0, -0.0, 1.0, -1.0, 2.0][y as usize % 5];
        let c = self.b.constant(self.b.dtype(v), if self.b.dtype(v) == DType::U8 { number.abs() } else { number }).ok()?;
        let f = [ScalarFn::Add, ScalarFn::Sub, ScalarFn::Mul, ScalarFn::Maximum][z as usize % 4];
        let r = if (z / 4).is_multiple_of(2) { self.b.scalar(f, &[v, c]) } else { self.b.scalar(f, &[c, v]) };
        self.add(r)
    }

    fn unary(&mut self, x: u16, y: u16) -> Option<()> {
        let smooth = [
            ScalarFn::Neg,
            ScalarFn::Tanh,
            ScalarFn::Sigmoid,
            ScalarFn::Sin,
            ScalarFn::Cos,
            ScalarFn::Relu,
            ScalarFn::Abs,
            ScalarFn::Erf,
            ScalarFn::Atan,
            ScalarFn::LogicalNot,
            ScalarFn::BitwiseNot,
            ScalarFn::IsNan,
            ScalarFn::Floor,
        ];
        let f = smooth[y as usize % smooth.len()];
        let v = self.pick(x, |t| f.row().domain.admits(t.dtype))?;
        let r = self.b.scalar(f, &[v]);
        self.add(r)
    }

    fn binary(&mut self, x: u16, y: u16, z: u16) -> Option<()> {
        let safe = [
            ScalarFn::Add,
            ScalarFn::Sub,
            ScalarFn::Mul,
            ScalarFn::Maximum,
            ScalarFn::Minimum,
            ScalarFn::Lt,
            ScalarFn::Ge,
            ScalarFn::Eq,
            ScalarFn::LogicalAnd,
            ScalarFn::LogicalXor,
            ScalarFn::Where,
            ScalarFn::BitwiseXor,
        ];
        let f = safe[z as usize % safe.len()];
        let p =
            self.pick(x, |t| f.row().domain.admits(t.dtype) && t.dtype != DType::Bool || f.row().domain == Domain::Bool && t.dtype == DType::Bool)?;
        let (dtype, shape) = (self.b.dtype(p), self.b.shape(p).clone());
        let q = self.pick(y, |t| t.dtype == dtype && inductor::types::broadcast_shapes(&t.shape, &shape).is_ok())?;
        let r = if f == ScalarFn::Where {
            let c = self.pick(z / 16, |t| t.dtype == DType::Bool && inductor::types::broadcast_shapes(&t.shape, &shape).is_ok())?;
            self.b.where_(c, p, q)
        } else {
            self.b.scalar(f, &[p, q])
        };
        self.add(r)
    }
}

/// The program of a list of choices: two to four inputs, then steps; outputs are the last values, floats first.
fn build(inputs: &[(u16, u16, u16)], steps: &[Step], gradients: bool) -> Option<Graph> {
    let mut p = Program { b: Builder::new("random"), values: vec![] };
    for (i, &(kind, x, y)) in inputs.iter().enumerate() {
        let size = |k: u16| SIZES[k as usize % SIZES.len()];
        let shape = match kind % 4 {
            0 => vec![size(x)],
            1 | 2 => vec![size(x), size(y)],
            _ => vec![size(x), size(y), size(x / 8)],
        };
        let mut shape: Vec<i64> = shape;
        if kind / 32 % 4 == 0 {
            // One dimension at a border, the others small.
            let at = x as usize % shape.len();
            shape.iter_mut().for_each(|n| *n = (*n).min(2));
            shape[at] = BORDERS[y as usize / 8 % BORDERS.len()];
        }
        let dtype = match (i, kind / 4 % 8) {
            (0, _) | (_, 0..=2) => DType::F32,
            (_, 3) => DType::I32,
            (_, 4) => DType::I64,
            (_, 5) => DType::BF16,
            _ => DType::F16,
        };
        let v = p.b.input(&format!("x{i}"), InputRole::Input, TensorType::new(dtype, shape)).ok()?;
        p.values.push(v);
    }
    for &step in steps {
        let _ = p.step(step);
    }
    let mut outputs: Vec<Value> = p.values.iter().rev().copied().filter(|&v| !gradients || p.b.dtype(v) == DType::F32).take(3).collect();
    outputs.dedup();
    for (k, v) in outputs.iter().enumerate() {
        p.b.output(&format!("y{k}"), OutputRole::User, *v);
    }
    (!outputs.is_empty()).then(|| p.b.finish())
}

/// Numbers of the type; with `special` every fifth float is NaN, infinite, a zero of either sign or below the normal range.
fn values(ty: &TensorType, seed: u64, special: bool) -> HostTensor {
    let shape = ty.shape.as_ints().expect("constant sizes");
    let numel: usize = shape.iter().product();
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    if ty.dtype.is_float() {
        const SPECIAL: [f64; 8] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1e-40, -1e-10, -1e-60];
        let mut number = || {
            let x = next();
            if special && x < 0.2 { SPECIAL[(x * 40.0) as usize] } else { x * 3.0 - 1.5 }
        };
        HostTensor::from_f64(ty.dtype, &shape, &(0..numel).map(|_| number()).collect::<Vec<_>>())
    } else {
        HostTensor::from_i64(ty.dtype, &shape, &(0..numel).map(|_| (next() * 9.0) as i64 - 4).collect::<Vec<_>>())
    }
}

fn inputs_of(graph: &Graph, what: What, special: bool) -> Named {
    let mut out: Named = graph.inputs.iter().enumerate().map(|(i, x)| (x.name.clone(), values(graph.ty(x.value), i as u64 + 1, special))).collect();
    if what == What::Gradients {
        out.extend(graph.outputs.iter().enumerate().map(|(i, o)| (format!("cotangent.{}", o.name), values(graph.ty(o.value), i as u64 + 77, false))));
    }
    out
}

fn runner(cases: u32, seed: u8) -> TestRunner {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    println!("{cases} programs from seed {seed}");
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]))
}

/// What a program is drawn from: inputs, steps, whether gradients are wanted, and of what kind values are.
type Draw = (Vec<(u16, u16, u16)>, Vec<Step>, (bool, u8));

fn strategy() -> impl Strategy<Value = Draw> {
    let step = (any::<u16>(), any::<u16>(), any::<u16>(), any::<u16>());
    let input = (any::<u16>(), any::<u16>(), any::<u16>());
    (prop::collection::vec(input, 2..4), prop::collection::vec(step, 5..60), (any::<bool>(), any::<u8>()))
}

/// Whether every op on the way has a derivative.
fn differentiable(graph: &Graph) -> bool {
    graph.nodes.iter().all(|n| match &*n.op {
        Op::Pointwise(p) => !matches!(p.f.row().grad, Grad::NotDifferentiable) || !n.types[0].dtype.is_float(),
        _ => true,
    })
}

fn run(cases: u32, seed: u8, layers: &[layers::Layer]) {
    let coverage: RefCell<BTreeMap<String, u32>> = RefCell::default();
    let checked = RefCell::new((0u32, 0u32));
    let result = runner(cases, seed).run(&strategy(), |(inputs, steps, (wants, kind))| {
        let Some(graph) = build(&inputs, &steps, wants) else { return Ok(()) };
        let what = if wants && differentiable(&graph) { What::Gradients } else { What::Forward };
        for n in &graph.nodes {
            *coverage.borrow_mut().entry(format!("{} {}", n.op.name(), n.types[0].dtype)).or_default() += 1;
        }
        checked.borrow_mut().0 += 1;
        checked.borrow_mut().1 += (what == What::Gradients) as u32;
        check(&graph, what, kind, layers).map_err(|(_, e)| TestCaseError::fail(format!("{what:?}: {e}\n{}", print(&graph))))
    });
    println!("{} programs, {} with gradients", checked.borrow().0, checked.borrow().1);
    println!("coverage: {:?}", coverage.borrow());
    if let Err(e) = result {
        panic!("seed {seed}: {e}{}", saved(&e, seed, layers));
    }
}

/// Holds the passes and the layers against the evaluation; gives the inputs on which something differs, and what.
fn check(graph: &Graph, what: What, kind: u8, layers: &[layers::Layer]) -> Result<(), (Named, String)> {
    let unusual = inputs_of(graph, What::Forward, true);
    passes_keep_values(graph, &unusual).map_err(|e| (unusual, e))?;
    // Elements beside a convolution's input count as zeros, whatever the weight, and gradients of special values are their own
    // subject: programs with special values have neither.
    let special = kind.is_multiple_of(4) && what == What::Forward && !graph.nodes.iter().any(|n| n.op.name().starts_with("convolution"));
    let data = inputs_of(graph, what, special);
    let differing = layers.iter().find_map(|layer| layers::check(layer, graph, what, &data, 4e-6).err());
    differing.map_or(Ok(()), |e| Err((data, e)))
}

/// Saves the smallest failing program, and says where.
fn saved(e: &TestError<Draw>, seed: u8, layers: &[layers::Layer]) -> String {
    let TestError::Fail(_, (inputs, steps, (wants, kind))) = e else { return String::new() };
    let Some(graph) = build(inputs, steps, *wants) else { return String::new() };
    let what = if *wants && differentiable(&graph) { What::Gradients } else { What::Forward };
    let Err((data, _)) = check(&graph, what, *kind, layers) else { return String::new() };
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/filetests/run/random_{seed}.ir"));
    std::fs::write(&file, cases::file(&graph, what, &data)).expect("room for the program");
    format!("\nsaved as {}", file.display())
}

/// Values as rules look at them: what each op makes of an input of `dtype`, by number.
fn producer(b: &mut Builder, k: usize, dtype: DType, from: DType) -> Result<Value, String> {
    let x = b.input("x", InputRole::Input, TensorType::new(from, (4, 4)))?;
    let of = |b: &mut Builder, f: ScalarFn, args: &[Value]| b.scalar(f, args);
    match k {
        0 => b.cast(x, dtype),
        1 => {
            let wide = b.cast(x, DType::F32)?;
            b.cast(wide, dtype)
        }
        2 => b.full(dtype, -1e-10, (4, 4)),
        3 => b.full(dtype, 1.0 + 1e-9, (4, 4)),
        _ => {
            let x = b.cast(x, dtype)?;
            match k {
                4 => of(b, ScalarFn::Exp, &[x]),
                5 => of(b, ScalarFn::Abs, &[x]),
                6 => of(b, ScalarFn::Relu, &[x]),
                7 => of(b, ScalarFn::Mul, &[x, x]),
                8 => of(b, ScalarFn::Neg, &[x]),
                9 => of(b, ScalarFn::Add, &[x, x]),
                10 => of(b, ScalarFn::Sigmoid, &[x]),
                11 => b.reduce(ReduceKind::Sum, x, &[1], true),
                12 => b.reduce(ReduceKind::Sum, x, &[], true),
                13 => b.matmul(x, x),
                14 => b.permute(x, &[1, 0]),
                _ => {
                    let y = of(b, ScalarFn::Abs, &[x])?;
                    of(b, ScalarFn::Maximum, &[x, y])
                }
            }
        }
    }
}

/// Every identity of rules on every kind of value, of every dtype, with special values: nothing changes, bit for bit.
#[test]
fn rules_keep_special_values_of_every_dtype() {
    let floats = [DType::F32, DType::F64, DType::F16, DType::BF16];
    let ints = [DType::I32, DType::I64, DType::I16, DType::I8, DType::U8];
    let numbers = [(ScalarFn::Add, 0.0), (ScalarFn::Add, -0.0), (ScalarFn::Sub, 0.0), (ScalarFn::Sub, -0.0), (ScalarFn::Mul, 1.0)];
    let numbers = [&numbers[..], &[(ScalarFn::Div, 1.0), (ScalarFn::Pow, 1.0), (ScalarFn::Mul, 0.0), (ScalarFn::Maximum, -0.0)]].concat();
    let mut seen = 0;
    for dtype in floats.into_iter().chain(ints) {
        for from in floats.into_iter().chain(ints) {
            for k in 0..16 {
                for (f, number) in &numbers {
                    let graph = |first: bool| -> Result<Graph, String> {
                        let mut b = Builder::new("rule");
                        let x = producer(&mut b, k, dtype, from)?;
                        let c = b.constant(dtype, *number)?;
                        let y = b.scalar(*f, &if first { [c, x] } else { [x, c] })?;
                        let y = b.cast(y, DType::F64)?;
                        b.output("y", OutputRole::User, y);
                        Ok(b.finish())
                    };
                    // What an op does not take is no graph.
                    for graph in [graph(false), graph(true)].into_iter().flatten() {
                        seen += 1;
                        let data = inputs_of(&graph, What::Forward, true);
                        passes_keep_values(&graph, &data).unwrap_or_else(|e| panic!("{dtype} from {from}, producer {k}: {e}\n{}", print(&graph)));
                    }
                }
            }
        }
    }
    assert!(seen > 10_000, "{seen} graphs");
}

/// A number from the environment, for longer runs and other programs.
fn setting(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

#[test]
fn random_programs_agree_on_every_layer() {
    run(setting("RANDOM_CASES", 500), setting("RANDOM_SEED", 7) as u8, LAYERS);
}

#[test]
fn random_programs_agree_on_the_adapter() {
    if layers::software().is_some() {
        run(setting("RANDOM_CASES", 400) / 10, setting("RANDOM_SEED", 11) as u8, layers::ADAPTERS);
    }
}

/// Plants a fault into a program and expects the comparison to see it.
fn planted(name: &str, spoil: impl Fn(&mut inductor::schedule::Program) -> bool) {
    let mut caught = 0;
    let mut planted = 0;
    for seed in 0..40u16 {
        let steps: Vec<Step> = (0..20u16).map(|i| (seed * 31 + i * 7, seed * 3 + i * 5, i * 11 + seed, seed + i * 13)).collect();
        let Some(graph) = build(&[(1, 3, 4), (6, 3, 4)], &steps, false) else { continue };
        let data = inputs_of(&graph, What::Forward, false);
        let types: Vec<TensorType> = graph.inputs.iter().map(|i| graph.ty(i.value).clone()).collect();
        let plan = inductor::compile::inductor(&graph, &types, &inductor::config::Target::cpu(), &inductor::config::Config::default()).unwrap();
        let good = layers::run_program(plan.program.clone(), &data).unwrap();
        let mut program = plan.program;
        if !spoil(&mut program) {
            continue;
        }
        planted += 1;
        caught += match layers::run_program(program, &data) {
            Ok(bad) => (bad != good) as u32,
            Err(_) => 1,
        };
    }
    assert!(planted >= 5, "{name}: only {planted} programs had a place for the fault");
    // A fault may fall on a value that does not reach an output, or that it does not change.
    assert!(caught * 3 >= planted, "{name}: caught {caught} of {planted}");
}

#[test]
fn planted_faults_are_caught() {
    planted("wrong constant", |p| {
        p.kernels.iter_mut().flat_map(|k| &mut k.body).any(|s| match &mut s.instr {
            Instr::Const(n) if s.dtype == DType::F32 => {
                *n = Number::new(DType::F32, n.as_f64() + 1.0);
                true
            }
            _ => false,
        })
    });
    planted("wrong combiner", |p| {
        p.kernels.iter_mut().flat_map(|k| &mut k.body).any(|s| match &mut s.instr {
            Instr::Reduce(c @ Combiner::Sum, _) => {
                *c = Combiner::Prod;
                true
            }
            _ => false,
        })
    });
    planted("wrong index", |p| {
        p.kernels.iter_mut().flat_map(|k| &mut k.body).any(|s| match &mut s.instr {
            Instr::Load { index, .. } if index.terms.len() > 1 => {
                index.terms.remove(0);
                true
            }
            _ => false,
        })
    });
    planted("shared slot", |p| {
        let temporaries: Vec<usize> =
            (0..p.buffers.len()).filter(|&b| p.commands.iter().any(|c| c.buffers.iter().any(|x| x.0 as usize == b))).collect();
        let Some(command) = p.commands.iter().find(|c| c.buffers.len() >= 2) else { return false };
        let (a, b) = (command.buffers[0].0 as usize, command.buffers[command.buffers.len() - 1].0 as usize);
        if a == b || !temporaries.contains(&a) {
            return false;
        }
        p.buffers[b].slot = p.buffers[a].slot;
        p.slots[p.buffers[a].slot.0 as usize].bytes = inductor::types::Dim::int(1 << 16);
        true
    });
}
