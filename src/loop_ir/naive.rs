//! Executes a nest as it stands, element by element: the definition of what a nest means, obvious and slow.
//!
//! Floats are f64 rounded after every operation to the dtype they are computed in (f32 for the half floats), and to their
//! own dtype where they are stored or cast.

use super::facts::needed;
use super::{Combiner, IndexExpr, Instr, Merge, Nest, Number, Part, Val, Write};
use crate::scalar::ScalarFn;
use crate::types::{Bindings, DType, Dim};
use std::cmp::Ordering;

/// The elements of a buffer: floats as [`Number::Float`], integers and bool as [`Number::Int`].
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    /// Element type.
    pub dtype: DType,
    /// Elements in row-major order.
    pub elements: Vec<Number>,
}

impl Memory {
    /// All zeros.
    pub fn zeros(dtype: DType, len: usize) -> Memory {
        Memory { dtype, elements: vec![Number::new(dtype, 0.0); len] }
    }

    /// From numbers, rounded or wrapped to the dtype.
    pub fn from_f64(dtype: DType, data: &[f64]) -> Memory {
        Memory { dtype, elements: data.iter().map(|&x| Number::new(dtype, x)).collect() }
    }

    /// From integers, wrapped to the dtype.
    pub fn from_i64(dtype: DType, data: &[i64]) -> Memory {
        let number = |&x: &i64| if dtype.is_float() { Number::new(dtype, x as f64) } else { Number::Int(dtype.wrap(x)) };
        Memory { dtype, elements: data.iter().map(number).collect() }
    }

    /// As floats.
    pub fn to_f64(&self) -> Vec<f64> {
        self.elements.iter().map(|x| x.as_f64()).collect()
    }
}

/// Runs `nest` over `buffers`, indexed by `BufferId`. Gives the code of the first bound that was violated.
pub fn run(nest: &Nest, buffers: &mut [Memory], bindings: &Bindings) -> Result<Option<u32>, String> {
    let sizes = |dims: &[Dim]| dims.iter().map(|d| d.eval(bindings)).collect::<Result<Vec<i64>, String>>();
    let (rows, cols) = (sizes(&nest.rows)?, sizes(&nest.cols)?);
    let (level, inner) = (nest.element_level(), nest.inner_level());
    let mut status = None;
    for row in points(&rows) {
        let places: Vec<Vec<i64>> = points(&cols).into_iter().map(|col| [row.clone(), col].concat()).collect();
        let mut frame = Frame { nest, bindings, row: row.clone(), places, values: vec![], status: None };
        for (i, is_element) in level.iter().enumerate() {
            if inner[i] {
                frame.values.push(vec![vec![Number::Int(0)]]);
                continue;
            }
            let value = frame.statement(Val(i as u32), *is_element, buffers).map_err(|e| format!("%{i} of {}: {e}", nest.label))?;
            frame.values.push(value);
        }
        for write in &nest.writes {
            let is_element = nest.is_element_write(write, &level);
            frame.write(write, is_element, buffers).map_err(|e| format!("write of %{} of {}: {e}", write.value.0, nest.label))?;
        }
        status = status.or(frame.status);
    }
    Ok(status)
}

/// All coordinates of a domain in row-major order; one without axes.
pub(super) fn points(sizes: &[i64]) -> Vec<Vec<i64>> {
    let mut out = vec![vec![]];
    for &n in sizes {
        out = out.into_iter().flat_map(|at: Vec<i64>| (0..n).map(move |i| [at.clone(), vec![i]].concat())).collect();
    }
    out
}

/// Results of a statement: for each result, one number per column, or a single one when it is row-level.
type Results = Vec<Vec<Number>>;

/// One row in execution.
struct Frame<'a> {
    nest: &'a Nest,
    bindings: &'a Bindings,
    /// The row's axes.
    row: Vec<i64>,
    /// All axes at each column.
    places: Vec<Vec<i64>>,
    values: Vec<Results>,
    status: Option<u32>,
}

impl Frame<'_> {
    fn statement(&mut self, v: Val, is_element: bool, buffers: &[Memory]) -> Result<Results, String> {
        let stmt = self.nest.stmt(v);
        match &stmt.instr {
            Instr::Proj(t, k) => Ok(vec![self.values[t.0 as usize][*k as usize].clone()]),
            Instr::Reduce(c, x) => {
                let column = self.column(*x);
                let states = column.iter().enumerate().map(|(i, &x)| lift(*c, x, i, stmt.dtype));
                Ok(states
                    .reduce(|a, b| combine(*c, &a, &b, stmt.dtype))
                    .map(|state| finish(*c, state))
                    .unwrap_or_else(|| nothing(*c, stmt.dtype))
                    .into_iter()
                    .map(|x| vec![x])
                    .collect())
            }
            Instr::Scan(c, x) => {
                let mut state: Option<Vec<Number>> = None;
                let mut out = vec![];
                for (i, x) in self.column(*x).into_iter().enumerate() {
                    let next = lift(*c, x, i, stmt.dtype);
                    let combined = state.map_or(next.clone(), |s| combine(*c, &s, &next, stmt.dtype));
                    out.push(combined[0]);
                    state = Some(combined);
                }
                Ok(vec![out])
            }
            Instr::Sort { key, descending } => {
                let keys = self.column(*key);
                let mut order: Vec<usize> = (0..keys.len()).collect();
                order.sort_by(|&a, &b| if *descending { compare(keys[b], keys[a]) } else { compare(keys[a], keys[b]) });
                Ok(vec![order.iter().map(|&i| keys[i]).collect(), order.iter().map(|&i| Number::Int(i as i64)).collect()])
            }
            _ => {
                let columns = if is_element { self.places.len() } else { 1 };
                Ok(vec![(0..columns).map(|c| self.scalar(v, is_element.then_some(c), buffers)).collect::<Result<_, _>>()?])
            }
        }
    }

    /// A value of the row at each column.
    fn column(&self, v: Val) -> Vec<Number> {
        let values = &self.values[v.0 as usize][0];
        match self.nest.element_level()[v.0 as usize] {
            true => values.clone(),
            false => vec![values[0]; self.places.len()],
        }
    }

    /// A value at a column, or at the row.
    fn at(&self, v: Val, column: Option<usize>) -> Number {
        let values = &self.values[v.0 as usize][0];
        if values.len() == 1 { values[0] } else { values[column.expect("an element-level value is read at a column")] }
    }

    fn index(&self, e: &IndexExpr, column: Option<usize>) -> Result<i64, String> {
        let axes = column.map_or(&self.row, |c| &self.places[c]);
        e.eval(axes, &|v| self.at(Val(v), column).as_i64(), self.bindings)
    }

    /// A statement that works element by element.
    fn scalar(&mut self, v: Val, column: Option<usize>, buffers: &[Memory]) -> Result<Number, String> {
        let stmt = self.nest.stmt(v);
        match &stmt.instr {
            Instr::Const(n) => Ok(*n),
            Instr::Index(e) => Ok(integer(stmt.dtype, self.index(e, column)?)),
            Instr::Load { mask: Some(m), .. } if self.at(*m, column).as_i64() == 0 => Ok(Number::new(stmt.dtype, 0.0)),
            Instr::Load { buffer, index, .. } => {
                let at = self.index(index, column)?;
                let memory = &buffers[buffer.0 as usize].elements;
                usize::try_from(at).ok().and_then(|i| memory.get(i)).copied().ok_or_else(|| format!("element {at} of {} is read", memory.len()))
            }
            Instr::Call(f, args) => {
                let dtype = self.nest.dtype(*args.last().expect("no function without operands"));
                let args: Vec<Number> = args.iter().map(|&a| self.at(a, column)).collect();
                call(*f, dtype, stmt.dtype, &args)
            }
            Instr::Cast(x) => Ok(cast(self.at(*x, column), stmt.dtype)),
            Instr::Bitcast(x) => Ok(bitcast(self.at(*x, column), self.nest.dtype(*x), stmt.dtype)),
            Instr::Contract { a, b, over } => self.contract(v, [*a, *b], *over, column.unwrap_or(0), buffers),
            Instr::Bound { index, size, mask, code } => {
                let (i, n) = (self.at(*index, column).as_i64(), size.eval(self.bindings)?);
                if !(0..n).contains(&i) && mask.is_none_or(|m| self.at(m, column).as_i64() != 0) {
                    self.status.get_or_insert(*code);
                }
                Ok(integer(stmt.dtype, i.clamp(0, (n - 1).max(0))))
            }
            other => Err(format!("{other} is no scalar operation")),
        }
    }

    /// The sum of `a * b` over an inner axis at a column.
    fn contract(&self, v: Val, [a, b]: [Val; 2], over: u32, column: usize, buffers: &[Memory]) -> Result<Number, String> {
        let (inner, needed) = (self.nest.inner_level(), needed(self.nest, [a, b]));
        let size = self.nest.inner[over as usize].eval(self.bindings)?;
        let dtype = self.nest.dtype(v);
        let place = self.places[column].len();
        let row = [self.places[column].clone(), vec![0; self.nest.inner.len()]].concat();
        let values = (0..v.0).map(|i| vec![vec![self.at(Val(i), Some(column))]]).collect();
        let mut term = Frame { nest: self.nest, bindings: self.bindings, row, places: vec![], values, status: None };
        let varying: Vec<Val> = (0..v.0).filter(|i| inner[*i as usize] && needed[*i as usize]).map(Val).collect();
        let mut sum = 0.0;
        for k in 0..size {
            term.row[place + over as usize] = k;
            for &i in &varying {
                let value = term.scalar(i, None, buffers)?;
                term.values[i.0 as usize] = vec![vec![value]];
            }
            let product = term.at(a, None).as_f64() * term.at(b, None).as_f64();
            sum = float(dtype, sum + float(dtype, product).as_f64()).as_f64();
        }
        Ok(float(dtype, sum))
    }

    fn write(&self, write: &Write, is_element: bool, buffers: &mut [Memory]) -> Result<(), String> {
        let count = match &write.first {
            Some(first) => self.places.len().min(first.eval(self.bindings)?.max(0) as usize),
            None => self.places.len(),
        };
        let columns = if is_element { (0..count).map(Some).collect() } else { vec![None] };
        let memory = &mut buffers[write.buffer.0 as usize];
        // The first row of a chunk replaces what was there, the others add.
        let chunks = self.nest.chunk_axes().filter(|_| write.fold).unwrap_or(self.row.len());
        let adds = self.row[chunks..].iter().any(|i| *i != 0);
        for column in columns {
            let (at, value) = (self.index(&write.index, column)?, cast(self.at(write.value, column), memory.dtype));
            let len = memory.elements.len();
            let place = usize::try_from(at).ok().and_then(|i| memory.elements.get_mut(i));
            let place = place.ok_or_else(|| format!("element {at} of {len} is written"))?;
            *place = if adds { combine(Combiner::Sum, &[*place], &[value], memory.dtype)[0] } else { value };
        }
        Ok(())
    }
}

/// What a call or a conversion gives for these operands; `None` for other instructions and for functions that do not take them.
pub fn fold(nest: &Nest, v: Val, args: &[Number]) -> Option<Number> {
    match &nest.stmt(v).instr {
        Instr::Call(f, operands) => call(*f, nest.dtype(*operands.last()?), nest.dtype(v), args).ok(),
        Instr::Cast(_) => Some(cast(args[0], nest.dtype(v))),
        Instr::Bitcast(x) => Some(bitcast(args[0], nest.dtype(*x), nest.dtype(v))),
        _ => None,
    }
}

fn float(dtype: DType, x: f64) -> Number {
    Number::Float(dtype.accumulator().round(x).to_bits())
}

fn integer(dtype: DType, x: i64) -> Number {
    if dtype.is_float() { float(dtype, x as f64) } else { Number::Int(dtype.wrap(x)) }
}

fn call(f: ScalarFn, operand: DType, result: DType, args: &[Number]) -> Result<Number, String> {
    if operand.is_float() {
        let args: Vec<f64> = args.iter().map(|x| x.as_f64()).collect();
        let x = (f.row().eval_f64)(&args);
        return Ok(if result.is_float() { float(result, x) } else { Number::Int(x as i64) });
    }
    let args: Vec<i64> = args.iter().map(|x| x.as_i64()).collect();
    f.eval_int(operand, &args).map(Number::Int).ok_or_else(|| format!("{} takes floats only", f.name()))
}

/// Floats to integers truncate and saturate, NaN is zero; integers wrap; anything to bool is `!= 0`.
fn cast(x: Number, dtype: DType) -> Number {
    match x {
        _ if dtype.is_float() => Number::Float(dtype.round(x.as_f64()).to_bits()),
        Number::Float(_) if dtype == DType::Bool => Number::Int((x.as_f64() != 0.0) as i64),
        Number::Float(_) => {
            let (lo, hi) = dtype.int_range().expect("an integer dtype");
            Number::Int((x.as_f64() as i64).clamp(lo, hi))
        }
        Number::Int(i) => Number::Int(dtype.wrap(i)),
    }
}

fn bitcast(x: Number, from: DType, to: DType) -> Number {
    if to.is_float() { Number::Float(to.of_bits(x.as_i64()).to_bits()) } else { Number::Int(from.bits(x.as_f64())) }
}

/// NaN is larger than everything; zeros are equal.
fn compare(a: Number, b: Number) -> Ordering {
    match (a, b) {
        (Number::Int(a), Number::Int(b)) => a.cmp(&b),
        _ => {
            let (a, b) = (a.as_f64(), b.as_f64());
            a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
        }
    }
}

/// The state of one column.
fn lift(c: Combiner, x: Number, column: usize, dtype: DType) -> Vec<Number> {
    let part = |p: &Part| match p {
        Part::Column => Number::Int(column as i64),
        Part::Zero => float(dtype, 0.0),
        Part::One => float(dtype, 1.0),
    };
    [x].into_iter().chain(c.row().parts.iter().map(part)).collect()
}

/// The state of no column.
fn nothing(c: Combiner, dtype: DType) -> Vec<Number> {
    let part = |p: &Part| if *p == Part::Column { Number::Int(0) } else { float(dtype, 0.0) };
    [c.identity(dtype)].into_iter().chain(c.row().parts.iter().map(part)).collect()
}

/// Both states together; `a` is of earlier columns.
fn combine(c: Combiner, a: &[Number], b: &[Number], dtype: DType) -> Vec<Number> {
    match c.row().merge {
        Merge::Function(f) => vec![call(f, dtype, dtype, &[a[0], b[0]]).expect("combiners take every dtype they are used with")],
        Merge::Winner { order, .. } => {
            let (x, y) = (a[0].as_f64(), b[0].as_f64());
            (if !x.is_nan() && (y.is_nan() || compare(b[0], a[0]) == order) { b } else { a }).to_vec()
        }
        Merge::State { both, .. } => {
            let floats = |state: &[Number]| state.iter().map(|n| n.as_f64()).collect::<Vec<_>>();
            both(&floats(a), &floats(b)).into_iter().map(|x| float(dtype, x)).collect()
        }
    }
}

/// The results, from the state of all columns.
fn finish(c: Combiner, state: Vec<Number>) -> Vec<Number> {
    let Merge::State { finish, .. } = c.row().merge else { return state };
    let mut floats: Vec<f64> = state.iter().map(|n| n.as_f64()).collect();
    finish(&mut floats);
    floats.into_iter().map(|x| Number::Float(x.to_bits())).collect()
}
