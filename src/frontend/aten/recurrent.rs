//! Recurrent nets: short sequences unrolled over time, as the decomposed programs have them, long ones as a loop in the program.
//!
//! Weights may be of a lower precision than inputs and states, as automatic casts make them: then products are of theirs, and what is
//! made of a product and a state is of the state's.

use super::args::{Args, Cx, Operand};
use super::{Row, pure};
use crate::frontend::region::{self, Scanned};
use crate::graph::Value;
use crate::scalar::ScalarFn as F;
use crate::types::{Shape, TensorType};

type Built = Result<Vec<Value>, String>;

/// Sequences of more steps are loops: the graph of each step would take longer to compile than fusing across steps gains.
const UNROLLED: i64 = 64;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["lstm.input"], |cx, a| run(cx, a, Cell::Lstm)),
    pure(&["gru.input"], |cx, a| run(cx, a, Cell::Gru)),
    pure(&["rnn_tanh.input"], |cx, a| run(cx, a, Cell::Plain(F::Tanh))),
    pure(&["rnn_relu.input"], |cx, a| run(cx, a, Cell::Plain(F::Relu))),
    pure(&["lstm_cell.default"], |cx, a| once(cx, a, Cell::Lstm)),
    pure(&["gru_cell.default"], |cx, a| once(cx, a, Cell::Gru)),
    pure(&["rnn_tanh_cell.default"], |cx, a| once(cx, a, Cell::Plain(F::Tanh))),
    pure(&["rnn_relu_cell.default"], |cx, a| once(cx, a, Cell::Plain(F::Relu))),
];

#[derive(Clone, Copy, PartialEq)]
enum Cell {
    /// Gates in the order input, forget, cell, output.
    Lstm,
    /// Gates in the order reset, update, new.
    Gru,
    /// One activation.
    Plain(F),
}

/// Weights of one direction of one layer.
struct Weights {
    input: Value,
    hidden: Value,
    biases: Option<(Value, Value)>,
    projection: Option<Value>,
}

/// Hidden state, and the cell state of an LSTM.
#[derive(Clone, Copy)]
struct State {
    hidden: Value,
    cell: Option<Value>,
}

fn run(cx: &mut Cx, a: &Args, cell: Cell) -> Built {
    let x = a.tensor("input")?;
    let states = if cell == Cell::Lstm { a.tensors("hx")? } else { vec![a.tensor("hx")?] };
    let (layers, directions) = (a.int("num_layers")?, 1 + a.bool_or("bidirectional", false)? as i64);
    let (batch_first, dropout) = (a.bool_or("batch_first", false)?, a.float_or("dropout", 0.0)?);
    let train = a.bool_or("train", false)?;
    let params = a.tensors("params")?;
    let weights = group(&params, a.bool_or("has_biases", true)?, layers.checked_mul(directions).ok_or("too many layers")?)?;
    // A sequence without a batch takes a batch of one.
    let is_single = cx.b.shape(x).rank() == 2;
    let mut x = if is_single { cx.b.unsqueeze(x, if batch_first { 0 } else { 1 })? } else { x };
    let states: Vec<Value> = states.into_iter().map(|s| if is_single { cx.b.unsqueeze(s, 1) } else { Ok(s) }).collect::<Result<_, _>>()?;
    if batch_first {
        x = cx.b.permute(x, &[1, 0, 2])?;
    }
    let (mut hidden, mut cells) = (vec![], vec![]);
    for layer in 0..layers {
        let mut outputs = vec![];
        for direction in 0..directions {
            let k = layer * directions + direction;
            let start = State {
                hidden: cx.b.select(*states.first().ok_or("it has no state")?, 0, k)?,
                cell: states.get(1).map(|&c| cx.b.select(c, 0, k)).transpose()?,
            };
            let (sequence, end) = direction_of(cx, x, &weights[k as usize], start, cell, direction == 1)?;
            outputs.push(sequence);
            hidden.push(end.hidden);
            cells.extend(end.cell);
        }
        x = cx.b.concat(&outputs, 2)?;
        if train && dropout > 0.0 && layer + 1 < layers {
            let key = cx.key()?;
            x = cx.b.dropout(x, key, dropout)?;
        }
    }
    if batch_first {
        x = cx.b.permute(x, &[1, 0, 2])?;
    }
    let mut out = vec![x, cx.b.stack(&hidden, 0)?];
    if !cells.is_empty() {
        out.push(cx.b.stack(&cells, 0)?);
    }
    if is_single {
        out[0] = cx.b.squeeze(out[0], if batch_first { 0 } else { 1 })?;
        for state in &mut out[1..] {
            *state = cx.b.squeeze(*state, 1)?;
        }
    }
    Ok(out)
}

/// One step of one cell.
fn once(cx: &mut Cx, a: &Args, cell: Cell) -> Built {
    let states = if cell == Cell::Lstm { a.tensors("hx")? } else { vec![a.tensor("hx")?] };
    let state = State { hidden: *states.first().ok_or("it has no state")?, cell: states.get(1).copied() };
    let (x, of_input, of_hidden) = (a.tensor("input")?, a.tensor_opt("b_ih")?, a.tensor_opt("b_hh")?);
    let from_input = linear(cx, x, a.tensor("w_ih")?, of_input)?;
    let from_hidden = linear(cx, state.hidden, a.tensor("w_hh")?, of_hidden)?;
    let next = step_of(cx, from_input, from_hidden, state, cell)?;
    Ok([next.hidden].into_iter().chain(next.cell).collect())
}

/// Weights by layer and direction: two matrices, two biases if there are any, and a projection if there is one.
fn group(params: &[Value], has_biases: bool, count: i64) -> Result<Vec<Weights>, String> {
    let each = usize::try_from(count).ok().filter(|&n| n > 0 && params.len().is_multiple_of(n)).map(|n| params.len() / n);
    let plain = if has_biases { 4 } else { 2 };
    let each =
        each.filter(|&n| n == plain || n == plain + 1).ok_or_else(|| format!("{} weights do not fit {count} layers and directions", params.len()))?;
    let one =
        |p: &[Value]| Weights { input: p[0], hidden: p[1], biases: has_biases.then(|| (p[2], p[3])), projection: (each > plain).then(|| p[plain]) };
    Ok(params.chunks_exact(each).map(one).collect())
}

/// One direction over the whole sequence `[time, batch, features]`: all outputs, and the last state.
fn direction_of(cx: &mut Cx, x: Value, w: &Weights, start: State, cell: Cell, reverse: bool) -> Result<(Value, State), String> {
    // The inputs' part of all steps is one product.
    let inputs = linear(cx, x, w.input, w.biases.map(|b| b.0))?;
    let start = State { hidden: as_after_a_step(cx, w, start.hidden, cell)?, ..start };
    let steps = match cx.b.shape(x)[0].as_int() {
        Some(0) => return Err("a sequence of 0 steps is not supported".into()),
        Some(steps) if steps <= UNROLLED => steps,
        _ => return looped(cx, inputs, w, start, cell, reverse),
    };
    let (mut state, mut outputs) = (start, vec![]);
    for step in 0..steps {
        let at = if reverse { steps - 1 - step } else { step };
        let from_input = cx.b.select(inputs, 0, at)?;
        state = next_state(cx, from_input, w, state, cell)?;
        outputs.push(state.hidden);
    }
    if reverse {
        outputs.reverse();
    }
    Ok((cx.b.stack(&outputs, 0)?, state))
}

/// The same as a loop.
fn looped(cx: &mut Cx, inputs: Value, w: &Weights, start: State, cell: Cell, reverse: bool) -> Result<(Value, State), String> {
    let init: Vec<Value> = [start.hidden].into_iter().chain(start.cell).collect();
    let ty = cx.b.ty(inputs).clone();
    let slice = TensorType { dtype: ty.dtype, shape: Shape::new(ty.shape.0[1..].to_vec()) };
    let types: Vec<TensorType> = init.iter().map(|v| cx.b.ty(*v).clone()).chain([slice]).collect();
    let first = cx.b.graph().nodes.len();
    let arguments: Vec<Value> = types.into_iter().map(|ty| cx.b.placeholder(ty)).collect();
    let before = State { hidden: arguments[0], cell: start.cell.map(|_| arguments[1]) };
    let after = next_state(cx, arguments[init.len()], w, before, cell)?;
    let results: Vec<Value> = [after.hidden].into_iter().chain(after.cell).chain([after.hidden]).collect();
    let of = Scanned { length: ty.shape[0].clone(), reverse, init: &init, xs: &[inputs] };
    let out = region::scan(&mut cx.b, first, of, &arguments, &results)?;
    Ok((out[init.len()], State { hidden: out[0], cell: start.cell.map(|_| out[1]) }))
}

/// The state after one step.
fn next_state(cx: &mut Cx, from_input: Value, w: &Weights, state: State, cell: Cell) -> Result<State, String> {
    let from_hidden = linear(cx, state.hidden, w.hidden, w.biases.map(|b| b.1))?;
    let mut next = step_of(cx, from_input, from_hidden, state, cell)?;
    if let Some(projection) = w.projection {
        next.hidden = linear(cx, next.hidden, projection, None)?;
    }
    Ok(next)
}

/// The product in the dtype of the weights.
fn linear(cx: &mut Cx, x: Value, weight: Value, bias: Option<Value>) -> Result<Value, String> {
    let x = cx.b.cast(x, cx.b.dtype(weight))?;
    cx.b.linear(x, weight, bias)
}

/// The hidden state in front of the first step, of the dtype that it has behind one: of the weights, where products alone make it.
fn as_after_a_step(cx: &mut Cx, w: &Weights, hidden: Value, cell: Cell) -> Result<Value, String> {
    if w.projection.is_some() || matches!(cell, Cell::Plain(_)) { cx.b.cast(hidden, cx.b.dtype(w.hidden)) } else { Ok(hidden) }
}

/// A function of two values in the wider of their dtypes.
fn wider(cx: &mut Cx, f: F, x: Value, y: Value) -> Result<Value, String> {
    let dtype = cx.result_type(&[&Operand::Tensor(x), &Operand::Tensor(y)]);
    let (x, y) = (cx.b.cast(x, dtype)?, cx.b.cast(y, dtype)?);
    cx.b.scalar(f, &[x, y])
}

fn step_of(cx: &mut Cx, from_input: Value, from_hidden: Value, state: State, cell: Cell) -> Result<State, String> {
    match cell {
        Cell::Plain(f) => {
            let sum = cx.b.add(from_input, from_hidden)?;
            Ok(State { hidden: cx.b.scalar(f, &[sum])?, cell: None })
        }
        Cell::Lstm => {
            let sum = cx.b.add(from_input, from_hidden)?;
            let gates = parts(cx, sum, 4)?;
            let [input, forget, output] = [gates[0], gates[1], gates[3]].map(|g| cx.b.scalar(F::Sigmoid, &[g]));
            let candidate = cx.b.scalar(F::Tanh, &[gates[2]])?;
            let kept = wider(cx, F::Mul, forget?, state.cell.ok_or("an LSTM has a cell state")?)?;
            let added = cx.b.mul(input?, candidate)?;
            let cell = wider(cx, F::Add, kept, added)?;
            let bounded = cx.b.scalar(F::Tanh, &[cell])?;
            Ok(State { hidden: wider(cx, F::Mul, output?, bounded)?, cell: Some(cell) })
        }
        Cell::Gru => {
            let (i, h) = (parts(cx, from_input, 3)?, parts(cx, from_hidden, 3)?);
            let (reset, update) = (cx.b.add(i[0], h[0])?, cx.b.add(i[1], h[1])?);
            let (reset, update) = (cx.b.scalar(F::Sigmoid, &[reset])?, cx.b.scalar(F::Sigmoid, &[update])?);
            let gated = cx.b.mul(reset, h[2])?;
            let new = cx.b.add(i[2], gated)?;
            let new = cx.b.scalar(F::Tanh, &[new])?;
            // (1 - update) new + update hidden
            let difference = wider(cx, F::Sub, state.hidden, new)?;
            let moved = wider(cx, F::Mul, update, difference)?;
            Ok(State { hidden: wider(cx, F::Add, new, moved)?, cell: None })
        }
    }
}

/// Equal parts of the last dimension.
fn parts(cx: &mut Cx, x: Value, count: i64) -> Built {
    let shape = cx.shape(x);
    let last = shape.rank() - 1;
    let size = shape[last].as_int().filter(|n| n % count == 0).ok_or("gates are no equal parts")? / count;
    (0..count).map(|k| cx.b.slice(x, last, k * size, (k + 1) * size, 1)).collect()
}
