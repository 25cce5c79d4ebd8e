//! An executor of nests that knows nothing but the definition, and the comparison with it.

use super::Interpreter;
use crate::loop_ir::{BufferId, Combiner, IndexExpr, Instr, Nest, Phase, Val};
use crate::schedule::{Dispatch, PlacedBuffer, Program, Slot, SlotId, SlotKind, buffer_bytes};
use crate::types::{Bindings, DType, Dim, HostTensor, Storage, Symbol, TensorType};
use std::sync::Arc;

/// A program of these nests over these buffers, one slot each.
pub fn program(nests: Vec<Nest>, buffers: &[TensorType], symbols: Vec<Symbol>) -> Program {
    let placed = buffers.iter().enumerate().map(|(i, ty)| PlacedBuffer {
        name: format!("b{i}"),
        ty: ty.clone(),
        storage: Storage::Native,
        slot: SlotId(i as u32),
    });
    let dispatch = |k: usize| Dispatch {
        kernel: k as u32,
        buffers: (0..buffers.len() as u32).map(BufferId).collect(),
        phase: Phase::Forward,
        guarded: false,
        skip: None,
        label: String::new(),
    };
    Program {
        commands: (0..nests.len()).map(dispatch).collect(),
        kernels: nests,
        buffers: placed.collect(),
        slots: buffers.iter().map(|ty| Slot { bytes: buffer_bytes(ty, Storage::Native), kind: SlotKind::Temporary }).collect(),
        checks: vec!["first".into(), "second".into(), "third".into()],
        symbols,
        ..Program::default()
    }
}

/// A number of the definition: floats in f64, integers exactly.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Num {
    F(f64),
    I(i64),
}
use Num::{F as Fl, I};

impl Num {
    fn f(self) -> f64 {
        match self {
            Fl(x) => x,
            I(x) => x as f64,
        }
    }
    fn i(self) -> i64 {
        match self {
            Fl(x) => x as i64,
            I(x) => x,
        }
    }
}

fn num(dtype: DType, x: f64) -> Num {
    if dtype.is_float() { Fl(x) } else { I(x as i64) }
}

/// Runs one nest by its definition, row by row, in f64.
fn naive(nest: &Nest, memory: &mut [Vec<Num>], bindings: &Bindings) -> u32 {
    let size = |d: &Dim| d.eval(bindings).unwrap();
    let count = |d: &[Dim]| d.iter().map(size).product::<i64>();
    let coordinates = |mut flat: i64, d: &[Dim]| {
        let mut at = vec![0; d.len()];
        for (x, d) in at.iter_mut().zip(d).rev() {
            *x = flat % size(d).max(1);
            flat /= size(d).max(1);
        }
        at
    };
    let levels = nest.element_level();
    let mut status = u32::MAX;
    let mut stores = vec![];
    let cols = count(&nest.cols);
    for row in 0..count(&nest.rows) {
        let row_at = coordinates(row, &nest.rows);
        let at = |c: i64| row_at.iter().copied().chain(coordinates(c, &nest.cols)).collect::<Vec<i64>>();
        let mut values: Vec<Vec<Vec<Num>>> = vec![];
        for (i, stmt) in nest.body.iter().enumerate() {
            let points = if levels[i] { cols } else { 1 };
            let mut results: Vec<Vec<Num>> = vec![vec![]; 3];
            let base = |v: Val| match nest.stmt(v).instr {
                Instr::Proj(t, k) => (t.0 as usize, k as usize),
                _ => (v.0 as usize, 0),
            };
            let value = |v: Val, c: i64| {
                let (t, k) = base(v);
                let x: &Vec<Num> = &values[t][k];
                if levels[t] { x[c as usize] } else { x[0] }
            };
            match &stmt.instr {
                Instr::Reduce(combiner, v) => {
                    let x: Vec<Num> = (0..cols).map(|c| value(*v, c)).collect();
                    results = naive_reduce(*combiner, &x, stmt.dtype);
                }
                Instr::Scan(combiner, v) => {
                    let x: Vec<Num> = (0..cols).map(|c| value(*v, c)).collect();
                    results[0] = (0..x.len()).map(|c| naive_reduce(*combiner, &x[..=c], stmt.dtype)[0][0]).collect();
                }
                Instr::Sort { key, descending } => {
                    let mut x: Vec<(Num, i64)> = (0..cols).map(|c| (value(*key, c), c)).collect();
                    x.sort_by(|(a, _), (b, _)| {
                        let (a, b) = (a.f(), b.f());
                        let order = a.partial_cmp(&b).unwrap_or(a.is_nan().cmp(&b.is_nan()));
                        if *descending { order.reverse() } else { order }
                    });
                    results[0] = x.iter().map(|x| x.0).collect();
                    results[1] = x.iter().map(|x| I(x.1)).collect();
                }
                Instr::Proj(..) => {}
                _ => {
                    for c in 0..points {
                        let at = at(c);
                        let index = |e: &IndexExpr| e.eval(&at, &|v| value(Val(v), c).i(), bindings).unwrap();
                        results[0].push(match &stmt.instr {
                            Instr::Const(n) => {
                                if stmt.dtype.is_float() {
                                    Fl(n.as_f64())
                                } else {
                                    I(n.as_i64())
                                }
                            }
                            Instr::Index(e) => num(stmt.dtype, index(e) as f64),
                            Instr::Load { index: e, mask, buffer } => {
                                if mask.is_none_or(|m| value(m, c).i() != 0) {
                                    memory[buffer.0 as usize][index(e) as usize]
                                } else {
                                    num(stmt.dtype, 0.0)
                                }
                            }
                            Instr::Call(f, args) => {
                                let x: Vec<Num> = args.iter().map(|&v| value(v, c)).collect();
                                let operand = nest.dtype(*args.last().unwrap());
                                if operand.is_float() {
                                    let y = (f.row().eval_f64)(&x.iter().map(|x| x.f()).collect::<Vec<_>>());
                                    if f.row().predicate { I(y as i64) } else { Fl(y) }
                                } else {
                                    I(f.eval_int(operand, &x.iter().map(|x| x.i()).collect::<Vec<_>>()).unwrap())
                                }
                            }
                            Instr::Cast(v) => match (value(*v, c), stmt.dtype.int_range()) {
                                (x, None) => Fl(stmt.dtype.round(x.f())),
                                (Fl(x), Some(_)) if stmt.dtype == DType::Bool => I((x != 0.0) as i64),
                                (Fl(x), Some((lo, hi))) => I((x as i64).clamp(lo, hi)),
                                (I(x), _) => I(stmt.dtype.wrap(x)),
                            },
                            Instr::Bitcast(v) => match value(*v, c) {
                                I(x) => Fl(stmt.dtype.of_bits(x)),
                                x => I(nest.dtype(*v).bits(x.f())),
                            },
                            Instr::Bound { index: v, size: n, mask, code } => {
                                let x = value(*v, c).i();
                                if (x < 0 || x >= size(n)) && mask.is_none_or(|m| value(m, c).i() != 0) {
                                    status = status.min(*code);
                                }
                                I(x.clamp(0, size(n) - 1))
                            }
                            _ => unreachable!(),
                        });
                    }
                }
            }
            values.push(results);
        }
        for w in &nest.writes {
            let element = nest.is_element_write(w, &levels);
            for c in 0..if element { cols } else { 1 } {
                let at = at(c);
                let value = |v: Val| {
                    let (t, k) = match nest.stmt(v).instr {
                        Instr::Proj(t, k) => (t.0 as usize, k as usize),
                        _ => (v.0 as usize, 0),
                    };
                    if levels[t] { values[t][k][c as usize] } else { values[t][k][0] }
                };
                let index = w.index.eval(&at, &|v| value(Val(v)).i(), bindings).unwrap();
                stores.push((w.buffer.0 as usize, index as usize, value(w.value)));
            }
        }
    }
    let mut started = std::collections::BTreeSet::new();
    for (buffer, index, value) in stores {
        let folds = nest.writes.iter().any(|w| w.fold && w.buffer.0 as usize == buffer);
        let adds = folds && !started.insert((buffer, index));
        memory[buffer][index] = if adds { Fl(memory[buffer][index].f() + value.f()) } else { value };
    }
    status
}

fn naive_reduce(combiner: Combiner, x: &[Num], dtype: DType) -> Vec<Vec<Num>> {
    let float = dtype.is_float();
    let (lo, hi) = dtype.int_range().unwrap_or((0, 0));
    let fold = |start: f64, start_int: i64, f: &dyn Fn(f64, f64) -> f64, g: &dyn Fn(i64, i64) -> i64| {
        if float { Fl(x.iter().fold(start, |a, x| f(a, x.f()))) } else { I(x.iter().fold(start_int, |a, x| dtype.wrap(g(a, x.i())))) }
    };
    let max = |a: f64, b: f64| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) };
    let min = |a: f64, b: f64| if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) };
    let inf = f64::INFINITY;
    let one = |x: Num| vec![vec![x], vec![], vec![]];
    match combiner {
        Combiner::Sum => one(fold(0.0, 0, &|a, b| a + b, &i64::wrapping_add)),
        Combiner::Prod => one(fold(1.0, 1, &|a, b| a * b, &i64::wrapping_mul)),
        Combiner::Max => one(fold(-inf, lo, &max, &|a, b| a.max(b))),
        Combiner::Min => one(fold(inf, hi, &min, &|a, b| a.min(b))),
        Combiner::Any => one(fold(0.0, 0, &max, &|a, b| a | b)),
        Combiner::All => one(fold(0.0, 1, &max, &|a, b| a & b)),
        Combiner::ArgMax | Combiner::ArgMin => {
            let largest = combiner == Combiner::ArgMax;
            let mut best = fold(if largest { -inf } else { inf }, if largest { lo } else { hi }, &|a, _| a, &|a, _| a);
            let mut place = 0;
            for (c, &v) in x.iter().enumerate() {
                let (a, b) = (v.f(), best.f());
                let better = !b.is_nan() && (a.is_nan() || if largest { a > b } else { a < b });
                if c == 0 || better {
                    (best, place) = (v, c as i64);
                }
            }
            vec![vec![best], vec![I(place)], vec![]]
        }
        Combiner::Welford => {
            let n = x.len() as f64;
            let mean = if x.is_empty() { 0.0 } else { x.iter().map(|x| x.f()).sum::<f64>() / n };
            vec![vec![Fl(mean)], vec![Fl(x.iter().map(|x| (x.f() - mean) * (x.f() - mean)).sum())], vec![Fl(n)]]
        }
        Combiner::OnlineSoftmax => {
            let m = x.iter().fold(-inf, |a, x| max(a, x.f()));
            vec![vec![Fl(m)], vec![Fl(x.iter().map(|x| (x.f() - m).exp()).sum())], vec![]]
        }
    }
}

/// Numbers with every kind of value; `wild` adds NaN and infinities.
pub fn numbers(dtype: DType, n: usize, seed: u64, wild: bool) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let bits = (state >> 33) as u32;
            if dtype.is_float() {
                match bits % 97 {
                    0 if wild => f64::NAN,
                    1 if wild => f64::INFINITY,
                    2 if wild => f64::NEG_INFINITY,
                    _ => dtype.round((bits % 4096) as f64 / 1024.0 - 2.0),
                }
            } else if dtype == DType::Bool {
                (bits % 2) as f64
            } else {
                (bits % 5) as f64
            }
        })
        .collect()
}

/// Runs nests on the interpreter and by the definition, on the same memory, and compares every buffer.
pub fn compare(nests: &[Nest], buffers: &[TensorType], contents: &[Vec<f64>], bindings: &Bindings, symbols: Vec<Symbol>, tolerance: f64) {
    let text = nests.iter().map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
    let mut interpreter = Interpreter::new(Arc::new(program(nests.to_vec(), buffers, symbols))).unwrap();
    run_and_compare(&mut interpreter, nests, buffers, contents, bindings, tolerance, &text);
}

pub fn run_and_compare(
    interpreter: &mut Interpreter,
    nests: &[Nest],
    buffers: &[TensorType],
    contents: &[Vec<f64>],
    bindings: &Bindings,
    tolerance: f64,
    text: &str,
) {
    interpreter.bind(bindings).unwrap();
    let mut memory: Vec<Vec<Num>> = vec![];
    for (i, (ty, data)) in buffers.iter().zip(contents).enumerate() {
        let shape: Vec<usize> = ty.shape.0.iter().map(|d| d.eval(bindings).unwrap() as usize).collect();
        let numel = shape.iter().product::<usize>();
        let tensor = HostTensor::from_f64(ty.dtype, &shape, &data[..numel]);
        interpreter.write(BufferId(i as u32), &tensor).unwrap();
        memory.push(tensor.to_f64().into_iter().map(|x| num(ty.dtype, x)).collect());
    }
    let status = nests.iter().fold(u32::MAX, |s, n| s.min(naive(n, &mut memory, bindings)));
    assert_eq!(interpreter.run().unwrap(), if status == u32::MAX { 0 } else { status }, "status of\n{text}");
    for (i, ty) in buffers.iter().enumerate() {
        let got = interpreter.read(BufferId(i as u32)).unwrap().to_f64();
        let want: Vec<f64> = memory[i].iter().map(|x| ty.dtype.round(x.f())).collect();
        let scale = want.iter().filter(|x| x.is_finite()).fold(0.0f64, |m, x| m.max(x.abs()));
        for (e, (g, w)) in got.iter().zip(&want).enumerate() {
            let same = g == w || (g.is_nan() && w.is_nan()) || (ty.dtype.is_float() && (g - w).abs() <= tolerance * scale);
            assert!(same, "b{i}[{e}] of {ty} is {g}, expected {w} (bindings {bindings:?}) in\n{text}");
        }
    }
}
