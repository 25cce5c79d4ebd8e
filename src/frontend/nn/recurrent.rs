//! Recurrent layers, with the names and the order of gates of PyTorch. Short sequences are unrolled; long ones, and
//! those of symbolic length, are loops in the program.

use super::basic::features;
use crate::frontend::{Initializer, Tensor, Trace};
use crate::types::{DType, Dim, Shape, TensorType};

/// Settings of [`lstm`], [`gru`] and [`rnn`].
#[derive(Clone, Debug)]
pub struct Recurrent {
    hidden: usize,
    layers: usize,
    bidirectional: bool,
    dropout: f64,
    bias: bool,
    batch_first: bool,
    relu: bool,
    lengths: Option<Tensor>,
}

impl Recurrent {
    /// One layer of that width over `[time, batch, features]`, in one direction, with biases.
    pub fn new(hidden: usize) -> Recurrent {
        Recurrent { hidden, layers: 1, bidirectional: false, dropout: 0.0, bias: true, batch_first: false, relu: false, lengths: None }
    }

    /// So many layers, each over the outputs of the one before.
    pub fn layers(mut self, layers: usize) -> Recurrent {
        self.layers = layers;
        self
    }

    /// Each layer runs both ways, and gives both outputs one behind the other.
    pub fn bidirectional(mut self) -> Recurrent {
        self.bidirectional = true;
        self
    }

    /// In training, dropout between layers.
    pub fn dropout(mut self, p: f64) -> Recurrent {
        self.dropout = p;
        self
    }

    /// With or without biases.
    pub fn bias(mut self, bias: bool) -> Recurrent {
        self.bias = bias;
        self
    }

    /// Over `[batch, time, features]`. States stay `[layers * directions, batch, hidden]`.
    pub fn batch_first(mut self) -> Recurrent {
        self.batch_first = true;
        self
    }

    /// Of [`rnn`]: rectifiers instead of the hyperbolic tangent.
    pub fn relu(mut self) -> Recurrent {
        self.relu = true;
        self
    }

    /// Sequences that end earlier than their tensor: how many elements each one has, integers of shape `[batch]`. Outputs behind the
    /// end are zero, last states are those at the end, and the other direction begins there, as of PyTorch's packed sequences.
    ///
    /// ```
    /// # use inductor::{DType, Device, HostTensor, nn};
    /// let y = Device::cpu().compute([&HostTensor::i32(&[2], &[3, 1])], |t, [lengths]| {
    ///     let x = t.ones(DType::F32, (2, 3, 4)); // [batch, time, features]
    ///     let layer = nn::Recurrent::new(1).batch_first().bidirectional().lengths(&lengths);
    ///     nn::gru(&t.path("gru"), &x, None, layer).0.ne(0.0).any(-1)
    /// })?;
    /// assert_eq!(y.to_string(), "[[ True  True  True]\n [ True False False]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pub fn lengths(mut self, lengths: &Tensor) -> Recurrent {
        self.lengths = Some(lengths.clone());
        self
    }

    fn directions(&self) -> usize {
        1 + self.bidirectional as usize
    }
}

/// Long short-term memory: all outputs, and the last hidden and cell states. States start at zero where none are given. Parameters are
/// `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0` and so on, with `_reverse` for the other direction.
///
/// ```
/// use inductor::{DType, nn, trace};
/// let traced = trace("tagger", |t| {
///     let x = t.input("x", DType::F32, (8, 20, 32)); // [batch, time, features]
///     let (y, _state) = nn::lstm(&t.path("lstm"), &x, None, nn::Recurrent::new(64).batch_first().bidirectional());
///     Ok(nn::linear(&t.path("head"), &y, 5).mean(()))
/// })?;
/// assert_eq!(traced.initializers[0].0, "lstm.weight_ih_l0");
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn lstm(t: &Trace, x: &Tensor, state: Option<(&Tensor, &Tensor)>, layer: Recurrent) -> (Tensor, (Tensor, Tensor)) {
    let states = state.map(|(h, c)| vec![h.clone(), c.clone()]);
    let mut out = run(t, x, states, &layer, "lstm.input", 4).into_iter();
    let mut next = || out.next().expect("an LSTM gives three results");
    (next(), (next(), next()))
}

/// Gated recurrent units: all outputs, and the last hidden state, which starts at zero where none is given.
///
/// ```
/// # use inductor::{DType, nn, trace};
/// trace("layer", |t| {
///     let x = t.input("x", DType::F32, (20, 8, 32)); // [time, batch, features]
///     let (y, last) = nn::gru(&t.path("gru"), &x, None, nn::Recurrent::new(64).layers(2));
///     assert_eq!(y.ty().to_string(), "f32[20, 8, 64]");
///     assert_eq!(last.ty().to_string(), "f32[2, 8, 64]");
///     Ok(y)
/// })?;
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn gru(t: &Trace, x: &Tensor, state: Option<&Tensor>, layer: Recurrent) -> (Tensor, Tensor) {
    let mut out = run(t, x, state.map(|h| vec![h.clone()]), &layer, "gru.input", 3);
    let last = out.swap_remove(1);
    (out.swap_remove(0), last)
}

/// The plain recurrent net `tanh(W x + b + U h + c)`: all outputs, and the last hidden state, which starts at zero where none is given.
///
/// ```
/// # use inductor::{DType, nn, trace};
/// trace("layer", |t| {
///     let x = t.input("x", DType::F32, (20, 8, 32));
///     let (y, last) = nn::rnn(&t.path("rnn"), &x, None, nn::Recurrent::new(64).relu());
///     assert_eq!(y.ty().to_string(), "f32[20, 8, 64]");
///     assert_eq!(last.ty().to_string(), "f32[1, 8, 64]");
///     Ok(y)
/// })?;
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn rnn(t: &Trace, x: &Tensor, state: Option<&Tensor>, layer: Recurrent) -> (Tensor, Tensor) {
    let row = if layer.relu { "rnn_relu.input" } else { "rnn_tanh.input" };
    let mut out = run(t, x, state.map(|h| vec![h.clone()]), &layer, row, 1);
    let last = out.swap_remove(1);
    (out.swap_remove(0), last)
}

#[track_caller]
fn run(t: &Trace, x: &Tensor, states: Option<Vec<Tensor>>, layer: &Recurrent, row: &'static str, gates: i64) -> Vec<Tensor> {
    let _scope = t.enter();
    let (name, count) = (row.trim_end_matches(".input"), if gates == 4 { 3 } else { 2 });
    let inputs = match features(x, name) {
        Ok(inputs) => inputs,
        Err(poison) => return vec![poison; count],
    };
    if x.rank() != 3 || layer.hidden == 0 || layer.layers == 0 {
        return vec![x.fail(name, format!("{} is not [time, batch, features], or there is no layer", x.ty())); count];
    }
    let batch = x.size(if layer.batch_first { 0 } else { 1 });
    let state = TensorType::new(x.dtype(), [(layer.layers * layer.directions()).into(), batch.clone(), layer.hidden.into()]);
    let given = states.iter().flatten().map(|given| (given.ty(), &state));
    let of_batch = TensorType::new(DType::I32, batch);
    let lengths = layer.lengths.iter().map(|given| (given.ty(), &of_batch));
    if let Some((given, wanted)) = given.chain(lengths).find(|(given, wanted)| !fits(&given.shape, &wanted.shape)) {
        return vec![x.fail(name, format!("expected {wanted}, got {given}: {}", x.ty())); count];
    }
    let states = states.unwrap_or_else(|| vec![t.zeros(state.dtype, state.shape); count - 1]);
    let params = params(t, x, layer, inputs, gates);
    if let Some(lengths) = &layer.lengths {
        let cell = match (gates, layer.relu) {
            (4, _) => "lstm_cell.default",
            (3, _) => "gru_cell.default",
            (_, true) => "rnn_relu_cell.default",
            (_, false) => "rnn_tanh_cell.default",
        };
        return of_lengths(t, x, &states, lengths, layer, &params, cell);
    }
    let call = x.call_as(row, "input");
    let call = if gates == 4 { call.with("hx", &states[..]) } else { call.with("hx", &states[0]) };
    let call = call.with("params", &params[..]).with("has_biases", layer.bias).with("num_layers", layer.layers as i64);
    // Dropout is an op that inference leaves out.
    let call = call.with("dropout", layer.dropout).with("train", t.recorder.training && layer.dropout > 0.0);
    call.with("bidirectional", layer.bidirectional).with("batch_first", layer.batch_first).many(count)
}

/// Whether a shape may be the one that is wanted: sizes that are not known yet are compared later.
fn fits(given: &Shape, wanted: &Shape) -> bool {
    let same = |(a, b): (&Dim, &Dim)| a.as_int().zip(b.as_int()).is_none_or(|(a, b)| a == b);
    given.rank() == wanted.rank() && given.0.iter().zip(&wanted.0).all(same)
}

/// The layers over sequences of these lengths: loops that hand on the state of a sequence that has ended.
#[track_caller]
fn of_lengths(t: &Trace, x: &Tensor, states: &[Tensor], lengths: &Tensor, layer: &Recurrent, params: &[Tensor], cell: &'static str) -> Vec<Tensor> {
    let mut x = if layer.batch_first { x.transpose(0, 1) } else { x.clone() };
    if !lengths.dtype().is_int() {
        return vec![
            x.fail(cell.trim_end_matches("_cell.default"), format!("lengths are integers of shape [batch]: {}", lengths.ty()));
            1 + states.len()
        ];
    }
    let inside = t.iota(lengths.dtype(), x.size(0)).unsqueeze(-1).lt(lengths).unsqueeze(-1);
    let each = params.len() / (layer.layers * layer.directions());
    let mut last = vec![vec![]; states.len()];
    for (k, params) in params.chunks(each * layer.directions()).enumerate() {
        let mut both = vec![];
        for (way, params) in params.chunks(each).enumerate() {
            let at = k * layer.directions() + way;
            let start: Vec<Tensor> = states.iter().map(|state| state.select(0, at)).collect();
            let trip = |before: Vec<Tensor>, (x, inside): (Tensor, Tensor)| {
                let after = next_state(&x, &before, params, cell);
                let kept: Vec<Tensor> = after.iter().zip(&before).map(|(after, before)| inside.where_(after, before)).collect();
                let y = inside.where_(&kept[0], 0.0);
                (kept, y)
            };
            let (end, y) = if way == 0 { t.scan(trip, start, (&x, &inside)) } else { t.reverse_scan(trip, start, (&x, &inside)) };
            last.iter_mut().zip(end).for_each(|(last, end)| last.push(end));
            both.push(y);
        }
        x = Tensor::cat(&both, -1);
        if k + 1 < layer.layers {
            x = super::dropout(t, &x, layer.dropout);
        }
    }
    let y = if layer.batch_first { x.transpose(0, 1) } else { x };
    [y].into_iter().chain(last.iter().map(|states| Tensor::stack(states, 0))).collect()
}

/// The state behind one element.
fn next_state(x: &Tensor, state: &[Tensor], params: &[Tensor], cell: &'static str) -> Vec<Tensor> {
    let call = x.call_as(cell, "input").with("w_ih", &params[0]).with("w_hh", &params[1]);
    let call = if state.len() > 1 { call.with("hx", state) } else { call.with("hx", &state[0]) };
    call.with("b_ih", params.get(2)).with("b_hh", params.get(3)).many(state.len())
}

#[track_caller]
fn params(t: &Trace, x: &Tensor, layer: &Recurrent, inputs: i64, gates: i64) -> Vec<Tensor> {
    let hidden = layer.hidden as i64;
    let bound = 1.0 / (hidden as f64).sqrt();
    let init = Initializer::Uniform { low: -bound, high: bound };
    let mut out = vec![];
    for k in 0..layer.layers {
        let inputs = if k == 0 { inputs } else { hidden * layer.directions() as i64 };
        for suffix in ["", "_reverse"].iter().take(layer.directions()) {
            for (name, columns) in [("weight_ih", inputs), ("weight_hh", hidden)] {
                out.push(t.parameter(&format!("{name}_l{k}{suffix}"), x.dtype(), [gates * hidden, columns], init.clone()));
            }
            for name in ["bias_ih", "bias_hh"].iter().filter(|_| layer.bias) {
                out.push(t.parameter(&format!("{name}_l{k}{suffix}"), x.dtype(), gates * hidden, init.clone()));
            }
        }
    }
    out
}

/// One step of an LSTM over `[batch, features]`: the hidden and cell states, `[batch, hidden]`, which follow.
///
/// ```
/// # use inductor::{DType, nn, trace};
/// trace("layer", |t| {
///     let (x, zeros) = (t.input("x", DType::F32, (8, 32)), t.zeros(DType::F32, (8, 64)));
///     let (y, cell) = nn::lstm_cell(&t.path("cell"), &x, (&zeros, &zeros));
///     assert_eq!(y.ty().to_string(), "f32[8, 64]");
///     assert_eq!(cell.ty().to_string(), "f32[8, 64]");
///     Ok(y)
/// })?;
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn lstm_cell(t: &Trace, x: &Tensor, state: (&Tensor, &Tensor)) -> (Tensor, Tensor) {
    match cell(t, x, state.0, 4, "lstm_cell") {
        Ok(p) => {
            let call = x.call_as("lstm_cell.default", "input").with("hx", &[state.0, state.1][..]).with("w_ih", &p[0]).with("w_hh", &p[1]);
            call.with("b_ih", &p[2]).with("b_hh", &p[3]).pair()
        }
        Err(poison) => (poison.clone(), poison),
    }
}

/// One step of gated recurrent units over `[batch, features]`: the state, `[batch, hidden]`, which follows.
///
/// ```
/// # use inductor::{DType, nn, trace};
/// trace("layer", |t| {
///     let x = t.input("x", DType::F32, (8, 32));
///     let y = nn::gru_cell(&t.path("cell"), &x, &t.zeros(DType::F32, (8, 64)));
///     assert_eq!(y.ty().to_string(), "f32[8, 64]");
///     Ok(y)
/// })?;
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn gru_cell(t: &Trace, x: &Tensor, state: &Tensor) -> Tensor {
    match cell(t, x, state, 3, "gru_cell") {
        Ok(p) => {
            let call = x.call_as("gru_cell.default", "input").with("hx", state).with("w_ih", &p[0]).with("w_hh", &p[1]);
            call.with("b_ih", &p[2]).with("b_hh", &p[3]).one()
        }
        Err(poison) => poison,
    }
}

/// One step of the plain recurrent net over `[batch, features]`: the state, `[batch, hidden]`, which follows.
#[track_caller]
pub fn rnn_cell(t: &Trace, x: &Tensor, state: &Tensor) -> Tensor {
    match cell(t, x, state, 1, "rnn_cell") {
        Ok(p) => (x.linear(&p[0], Some(&p[2])) + state.linear(&p[1], Some(&p[3]))).tanh(),
        Err(poison) => poison,
    }
}

/// `weight_ih`, `weight_hh`, `bias_ih` and `bias_hh`.
#[track_caller]
fn cell(t: &Trace, x: &Tensor, state: &Tensor, gates: i64, name: &str) -> Result<[Tensor; 4], Tensor> {
    let _scope = t.enter();
    let (inputs, hidden) = (features(x, name)?, features(state, name)?);
    let bound = 1.0 / (hidden.max(1) as f64).sqrt();
    let init = || Initializer::Uniform { low: -bound, high: bound };
    let rows = gates * hidden;
    let weight_ih = t.parameter("weight_ih", x.dtype(), [rows, inputs], init());
    let weight_hh = t.parameter("weight_hh", x.dtype(), [rows, hidden], init());
    let bias_ih = t.parameter("bias_ih", x.dtype(), rows, init());
    Ok([weight_ih, weight_hh, bias_ih, t.parameter("bias_hh", x.dtype(), rows, init())])
}
