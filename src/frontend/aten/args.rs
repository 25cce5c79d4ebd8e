//! Arguments of one call, resolved to values and sizes, and the rules by which PyTorch finds dtypes.

mod number;

pub use number::{Formula, Scalar, fraction};

use crate::graph::{Builder, InputRole, Value};
use crate::ops::FoldIn;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, Relation, Shape, TensorType};
use std::cell::RefCell;

/// A resolved argument.
#[derive(Clone, Debug)]
pub enum Arg {
    /// Not given, or None.
    None,
    /// A tensor.
    Tensor(Value),
    /// A list of tensors.
    Tensors(Vec<Value>),
    /// A list of tensors with gaps.
    OptionalTensors(Vec<Option<Value>>),
    /// A number.
    Scalar(Scalar),
    /// A list of integers or sizes.
    Dims(Vec<Dim>),
    /// A list of floats.
    Floats(Vec<f64>),
    /// Text.
    Text(String),
    /// A dtype.
    DType(DType),
    /// Something without meaning here: a device, a layout, a memory format.
    Other,
}

/// A tensor or a number, where an operator takes both.
#[derive(Clone, Debug)]
pub enum Operand {
    /// A tensor.
    Tensor(Value),
    /// A number.
    Scalar(Scalar),
}

/// Arguments that say where and how a result lies in memory, or how a kernel computes it, and nothing about its value.
const WITHOUT_VALUE: &[&str] = &[
    "allow_tf32",
    "benchmark",
    "compute_mode",
    "cudnn_enable",
    "cudnn_enabled",
    "deterministic",
    "device",
    "layout",
    "memory_format",
    "non_blocking",
    "pin_memory",
];

/// Arguments by the names of the operator's schema. A method without `_opt` or `_or` fails when the argument is missing.
///
/// It keeps account of what was read: an argument that is given and that no one has asked for is an attribute that the result
/// does not honor.
#[derive(Clone, Debug, Default)]
pub struct Args {
    list: Vec<(String, Arg)>,
    /// For each argument, whether it was read.
    read: RefCell<Vec<bool>>,
}

impl Args {
    /// Arguments in the order given.
    pub fn new(list: Vec<(String, Arg)>) -> Args {
        let read = RefCell::new(vec![false; list.len()]);
        Args { list, read }
    }

    /// One argument more.
    pub fn push(&mut self, name: &str, arg: Arg) {
        self.list.push((name.to_string(), arg));
        self.read.borrow_mut().push(false);
    }

    /// The argument of that name; absent when it is None.
    pub fn get(&self, name: &str) -> Option<&Arg> {
        let at = self.list.iter().position(|(n, _)| n == name)?;
        self.read.borrow_mut()[at] = true;
        Some(&self.list[at].1).filter(|a| !matches!(a, Arg::None))
    }

    /// All arguments, whatever they are called.
    pub fn values(&self) -> Vec<&Arg> {
        self.read.borrow_mut().fill(true);
        self.list.iter().map(|(_, arg)| arg).collect()
    }

    /// All arguments, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Arg> {
        self.list.iter_mut().map(|(_, arg)| arg)
    }

    /// All arguments with their names, to change them.
    pub fn named_mut(&mut self) -> impl Iterator<Item = (&str, &mut Arg)> {
        self.list.iter_mut().map(|(name, arg)| (name.as_str(), arg))
    }

    /// These arguments have no influence here, whatever they are.
    pub fn disregard(&self, names: &[&str]) {
        for name in names {
            self.get(name);
        }
    }

    /// Refuses any other value of a flag than this one.
    pub fn expect_bool(&self, name: &str, only: bool) -> Result<(), String> {
        if self.bool_or(name, only)? == only { Ok(()) } else { Err(format!("{name}={} is not supported", !only)) }
    }

    /// Refuses arguments that were given and not read.
    pub fn expect_all_read(&self) -> Result<(), String> {
        let read = self.read.borrow();
        let forgotten = self.list.iter().zip(&*read).find(|((name, arg), read)| {
            let says_nothing = matches!(arg, Arg::None | Arg::Other) || WITHOUT_VALUE.contains(&name.as_str());
            !**read && !says_nothing
        });
        match forgotten {
            Some(((name, _), _)) => Err(format!("its argument {name} is not supported")),
            None => Ok(()),
        }
    }

    /// Whether it is given and not None.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn need(&self, name: &str) -> Result<&Arg, String> {
        self.get(name).ok_or_else(|| format!("argument {name} is missing"))
    }

    /// A tensor.
    pub fn tensor(&self, name: &str) -> Result<Value, String> {
        match self.need(name)? {
            Arg::Tensor(v) => Ok(*v),
            other => Err(wrong(name, other, "a tensor")),
        }
    }

    /// A tensor, if it is given.
    pub fn tensor_opt(&self, name: &str) -> Result<Option<Value>, String> {
        if self.has(name) { self.tensor(name).map(Some) } else { Ok(None) }
    }

    /// A list of tensors.
    pub fn tensors(&self, name: &str) -> Result<Vec<Value>, String> {
        match self.need(name)? {
            Arg::Tensors(list) => Ok(list.clone()),
            Arg::OptionalTensors(list) => list.iter().map(|t| t.ok_or_else(|| format!("{name} has a gap"))).collect(),
            Arg::Dims(list) if list.is_empty() => Ok(vec![]),
            other => Err(wrong(name, other, "a list of tensors")),
        }
    }

    /// A list of tensors with gaps.
    pub fn optional_tensors(&self, name: &str) -> Result<Vec<Option<Value>>, String> {
        match self.need(name)? {
            Arg::Tensors(list) => Ok(list.iter().map(|v| Some(*v)).collect()),
            Arg::OptionalTensors(list) => Ok(list.clone()),
            other => Err(wrong(name, other, "a list of optional tensors")),
        }
    }

    /// A tensor or a number.
    pub fn operand(&self, name: &str) -> Result<Operand, String> {
        match self.need(name)? {
            Arg::Tensor(v) => Ok(Operand::Tensor(*v)),
            Arg::Scalar(s) => Ok(Operand::Scalar(s.clone())),
            other => Err(wrong(name, other, "a tensor or a number")),
        }
    }

    /// A number.
    pub fn scalar(&self, name: &str) -> Result<Scalar, String> {
        match self.need(name)? {
            Arg::Scalar(s) => Ok(s.clone()),
            other => Err(wrong(name, other, "a number")),
        }
    }

    /// A number, if it is given.
    pub fn scalar_opt(&self, name: &str) -> Result<Option<Scalar>, String> {
        if self.has(name) { self.scalar(name).map(Some) } else { Ok(None) }
    }

    /// A size, which may be symbolic.
    pub fn dim(&self, name: &str) -> Result<Dim, String> {
        match self.scalar(name)? {
            Scalar::Int(n) => Ok(n),
            other => Err(format!("{name} is {other:?}, not an integer")),
        }
    }

    /// A size, if it is given.
    pub fn dim_opt(&self, name: &str) -> Result<Option<Dim>, String> {
        if self.has(name) { self.dim(name).map(Some) } else { Ok(None) }
    }

    /// A constant integer.
    pub fn int(&self, name: &str) -> Result<i64, String> {
        let n = self.dim(name)?;
        n.as_int().ok_or_else(|| format!("{name} is {n}, which is not constant"))
    }

    /// A constant integer of a range, so that arithmetic with it does not overflow.
    pub fn int_in(&self, name: &str, default: i64, range: std::ops::RangeInclusive<i64>) -> Result<i64, String> {
        let n = self.int_or(name, default)?;
        if range.contains(&n) { Ok(n) } else { Err(format!("{name} is {n}, outside of {} to {}", range.start(), range.end())) }
    }

    /// A constant integer with a default.
    pub fn int_or(&self, name: &str, default: i64) -> Result<i64, String> {
        if self.has(name) { self.int(name) } else { Ok(default) }
    }

    /// A list of sizes. A single one is a list of one.
    pub fn dims(&self, name: &str) -> Result<Vec<Dim>, String> {
        match self.need(name)? {
            Arg::Dims(list) => Ok(list.clone()),
            Arg::Tensors(list) if list.is_empty() => Ok(vec![]),
            Arg::Scalar(Scalar::Int(n)) => Ok(vec![n.clone()]),
            other => Err(wrong(name, other, "a list of sizes")),
        }
    }

    /// A list of constant integers.
    pub fn ints(&self, name: &str) -> Result<Vec<i64>, String> {
        self.dims(name)?.iter().map(|d| d.as_int().ok_or_else(|| format!("{name} has {d}, which is not constant"))).collect()
    }

    /// A list of constant integers; empty when it is not given.
    pub fn ints_or_empty(&self, name: &str) -> Result<Vec<i64>, String> {
        if self.has(name) { self.ints(name) } else { Ok(vec![]) }
    }

    /// A constant float; integers convert.
    pub fn float(&self, name: &str) -> Result<f64, String> {
        let s = self.scalar(name)?;
        s.to_f64().ok_or_else(|| format!("{name} is {s:?}, which is not constant"))
    }

    /// A constant float with a default.
    pub fn float_or(&self, name: &str, default: f64) -> Result<f64, String> {
        if self.has(name) { self.float(name) } else { Ok(default) }
    }

    /// A list of floats, if it is given.
    pub fn floats_opt(&self, name: &str) -> Result<Option<Vec<f64>>, String> {
        match self.get(name) {
            None => Ok(None),
            Some(Arg::Floats(list)) => Ok(Some(list.clone())),
            Some(Arg::Dims(_)) => Ok(Some(self.ints(name)?.iter().map(|&n| n as f64).collect())),
            Some(Arg::Scalar(s)) => Ok(Some(vec![s.to_f64().ok_or_else(|| format!("{name} is not constant"))?])),
            Some(other) => Err(wrong(name, other, "a list of floats")),
        }
    }

    /// A bool with a default.
    pub fn bool_or(&self, name: &str, default: bool) -> Result<bool, String> {
        match self.get(name) {
            None => Ok(default),
            Some(Arg::Scalar(Scalar::Bool(Some(x)))) => Ok(*x),
            Some(Arg::Scalar(Scalar::Int(n))) if n.as_int().is_some() => Ok(!n.is(0)),
            Some(other) => Err(wrong(name, other, "a bool")),
        }
    }

    /// Text with a default.
    pub fn text_or<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str, String> {
        match self.get(name) {
            None => Ok(default),
            Some(Arg::Text(s)) => Ok(s),
            Some(other) => Err(wrong(name, other, "text")),
        }
    }

    /// A dtype, if it is given.
    pub fn dtype_opt(&self, name: &str) -> Result<Option<DType>, String> {
        match self.get(name) {
            None => Ok(None),
            Some(Arg::DType(d)) => Ok(Some(*d)),
            Some(other) => Err(wrong(name, other, "a dtype")),
        }
    }
}

fn wrong(name: &str, got: &Arg, expected: &str) -> String {
    format!("argument {name} is {got:?}, expected {expected}")
}

/// What rows of the registry build with: the graph's builder, random keys, and writes to arguments.
#[derive(Debug, Default)]
pub struct Cx {
    /// The graph.
    pub b: Builder,
    /// New values of tensor arguments, by the argument's name; the importer writes them through aliases.
    pub writes: Vec<(String, Value)>,
    /// The next stream of random numbers.
    pub streams: u32,
    /// Numbers of the example within functions that are being mapped, each of which draws by it.
    pub examples: Vec<Value>,
}

impl Cx {
    /// A context that builds a graph of that name.
    pub fn new(name: &str) -> Cx {
        Cx::over(Builder::assuming(name), 1)
    }

    /// A context that goes on with a graph that has drawn from so many streams.
    pub fn over(b: Builder, streams: u32) -> Cx {
        Cx { b, writes: vec![], streams, examples: vec![] }
    }

    /// The call writes `value` into its tensor argument of that name.
    pub fn write(&mut self, argument: &str, value: Value) {
        self.writes.push((argument.into(), value));
    }

    /// A fresh random key.
    pub fn key(&mut self) -> Result<Value, String> {
        let root = match self.b.graph().input("key").filter(|i| i.role == InputRole::Key).map(|i| i.value) {
            Some(root) => root,
            None => self.b.input("key", InputRole::Key, TensorType::new(DType::U32, 2))?,
        };
        let stream = self.streams;
        self.streams += 1;
        let mut key = self.b.fold_in(root, stream)?;
        for &example in &self.examples {
            key = self.b.op(FoldIn { stream: 0 }, &[key, example])?;
        }
        Ok(key)
    }

    /// A 0-d tensor of a number, converted to `dtype`.
    pub fn number(&mut self, scalar: &Scalar, dtype: DType) -> Result<Value, String> {
        match scalar {
            Scalar::Int(n) => match n.as_int() {
                Some(k) if k.unsigned_abs() > 1 << 53 && dtype == DType::I64 => self.large(k),
                Some(k) if dtype == DType::Bool => self.b.constant(dtype, (k != 0) as u8 as f64),
                Some(k) => self.b.constant(dtype, k as f64),
                None => self.b.size(n, dtype),
            },
            Scalar::Float(x) if dtype == DType::Bool => self.b.constant(dtype, (*x != 0.0) as u8 as f64),
            Scalar::Float(x) => self.b.constant(dtype, *x),
            Scalar::Quotient(x, y) => {
                let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
                let (x, y) = (self.b.size(x, wide)?, self.b.size(y, wide)?);
                let quotient = self.b.div(x, y)?;
                self.b.cast(quotient, dtype)
            }
            Scalar::Bool(Some(x)) => self.b.constant(dtype, *x as u8 as f64),
            Scalar::Formula(formula) => {
                let value = self.formula(formula, if dtype == DType::F64 { DType::F64 } else { DType::F32 })?;
                self.b.cast(value, dtype)
            }
            Scalar::Test(x, relation, y) => {
                let (x, y) = (self.b.size(x, DType::I32)?, self.b.size(y, DType::I32)?);
                let test = if *relation == Relation::Equal { F::Eq } else { F::Le };
                let holds = self.b.scalar(test, &[x, y])?;
                self.b.cast(holds, dtype)
            }
            Scalar::Bool(None) => Err("a number depends on sizes in a way that is not supported".into()),
        }
    }

    fn formula(&mut self, formula: &Formula, dtype: DType) -> Result<Value, String> {
        match formula {
            Formula::Number(number) => self.number(number, dtype),
            Formula::Apply(f, parts) => {
                let parts = parts.iter().map(|part| self.formula(part, dtype)).collect::<Result<Vec<_>, _>>()?;
                self.b.scalar(*f, &parts)
            }
        }
    }

    /// An integer that no f64 holds, from its halves.
    fn large(&mut self, k: i64) -> Result<Value, String> {
        let parts = [(k >> 32) as f64, 4_294_967_296.0, (k & 0xffff_ffff) as f64];
        let [high, factor, low] = parts.map(|x| self.b.constant(DType::I64, x));
        let high = self.b.mul(high?, factor?)?;
        self.b.add(high, low?)
    }

    /// The tensor in another dtype. A narrow integer is the lowest bits of a float's integer part, as in PyTorch; what no wide integer
    /// holds gives zero.
    pub fn convert(&mut self, x: Value, dtype: DType) -> Result<Value, String> {
        let from = self.b.dtype(x);
        if !from.is_float() || !matches!(dtype, DType::U8 | DType::I8 | DType::I16) {
            return self.b.cast(x, dtype);
        }
        let (wide, limit) = if from == DType::F64 { (DType::I64, 2f64.powi(63)) } else { (DType::I32, 2f64.powi(31)) };
        let (size, zero) = (self.b.scalar(F::Abs, &[x])?, self.b.constant(from, 0.0)?);
        // No half float is as large.
        let limit = self.b.constant(from, if from == DType::F16 { f64::INFINITY } else { limit })?;
        let fits = self.b.scalar(F::Lt, &[size, limit])?;
        let held = self.b.where_(fits, x, zero)?;
        let wide = self.b.cast(held, wide)?;
        self.b.cast(wide, dtype)
    }

    /// An operand as a tensor of `dtype`.
    pub fn as_tensor(&mut self, operand: &Operand, dtype: DType) -> Result<Value, String> {
        match operand {
            Operand::Tensor(v) => self.b.cast(*v, dtype),
            Operand::Scalar(s) => self.number(s, dtype),
        }
    }

    /// PyTorch's `result_type`: tensors with dimensions decide before 0-d tensors, and those before numbers, unless what comes
    /// later is of a higher category (bool, integer, float).
    pub fn result_type(&self, operands: &[&Operand]) -> DType {
        let mut tiers: [Option<DType>; 3] = [None; 3];
        for operand in operands {
            let (tier, dtype) = match operand {
                Operand::Tensor(v) => ((self.b.shape(*v).rank() == 0) as usize, self.b.dtype(*v)),
                Operand::Scalar(s) => (2, s.dtype()),
            };
            tiers[tier] = Some(tiers[tier].map_or(dtype, |d| promote(d, dtype)));
        }
        let [dims, zero, numbers] = tiers;
        combine(dims, combine(zero, numbers)).unwrap_or(DType::F32)
    }

    /// A float of the tensor's value: integers and bool become f32.
    pub fn widen_to_float(&mut self, x: Value) -> Result<Value, String> {
        if self.b.dtype(x).is_float() { Ok(x) } else { self.b.cast(x, DType::F32) }
    }

    /// A dimension number of a tensor, which may be negative; a 0-d tensor counts as one of rank one.
    pub fn dim(&self, x: Value, dim: i64) -> Result<usize, String> {
        dim_index(dim, self.b.shape(x).rank())
    }

    /// Dimension numbers; all of them for an empty list.
    pub fn dims_or_all(&self, x: Value, dims: &[i64]) -> Result<Vec<usize>, String> {
        let rank = self.b.shape(x).rank();
        if dims.is_empty() {
            return Ok((0..rank).collect());
        }
        let mut out: Vec<usize> = dims.iter().map(|&d| dim_index(d, rank)).collect::<Result<_, _>>()?;
        out.retain(|&d| d < rank);
        Ok(out)
    }

    /// The tensor, of rank one at least.
    pub fn at_least_1d(&mut self, x: Value) -> Result<Value, String> {
        if self.b.shape(x).rank() == 0 { self.b.reshape(x, [1i64]) } else { Ok(x) }
    }

    /// Refuses tensors of another rank than one of these.
    pub fn expect_rank(&self, x: Value, ranks: std::ops::RangeInclusive<usize>) -> Result<(), String> {
        let found = self.b.shape(x).rank();
        if ranks.contains(&found) { Ok(()) } else { Err(format!("{} has {found} dimensions", self.b.ty(x))) }
    }

    /// The shape of a value.
    pub fn shape(&self, x: Value) -> Shape {
        self.b.shape(x).clone()
    }
}

/// Resolves a possibly negative dimension number of a tensor of that rank; rank 0 counts as 1.
pub fn dim_index(dim: i64, rank: usize) -> Result<usize, String> {
    let rank = rank.max(1) as i64;
    if (-rank..rank).contains(&dim) { Ok(dim.rem_euclid(rank) as usize) } else { Err(format!("dimension {dim} is out of range for rank {rank}")) }
}

fn combine(higher: Option<DType>, lower: Option<DType>) -> Option<DType> {
    match (higher, lower) {
        (Some(h), Some(l)) if !h.is_float() && (h == DType::Bool || l.is_float()) => Some(promote(h, l)),
        (Some(h), _) => Some(h),
        (None, l) => l,
    }
}

/// PyTorch's `promote_types`.
pub fn promote(a: DType, b: DType) -> DType {
    use DType::*;
    let rank = |d: DType| match d {
        F64 => 3,
        F32 => 2,
        _ => 1,
    };
    match (a, b) {
        _ if a == b => a,
        _ if a.is_float() && b.is_float() => match rank(a).cmp(&rank(b)) {
            std::cmp::Ordering::Greater => a,
            std::cmp::Ordering::Less => b,
            std::cmp::Ordering::Equal => F32,
        },
        _ if a.is_float() => a,
        _ if b.is_float() => b,
        (Bool, d) | (d, Bool) => d,
        (I64, _) | (_, I64) | (U32, _) | (_, U32) => I64,
        (I32, _) | (_, I32) => I32,
        _ => I16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dtypes_promote_as_in_pytorch() {
        use DType::*;
        assert_eq!((promote(U8, I8), promote(F16, BF16), promote(I64, F16), promote(Bool, U8)), (I16, F32, F16, U8));
        let mut cx = Cx::new("g");
        let mut input =
            |name: &str, dtype, shape: &[i64]| Operand::Tensor(cx.b.input(name, InputRole::Input, TensorType::new(dtype, shape)).unwrap());
        let (h, d, i, flag) = (input("h", F16, &[2]), input("d", F64, &[]), input("i", I32, &[2]), input("flag", Bool, &[2]));
        let (int, float) = (Operand::Scalar(Scalar::Int(Dim::int(1))), Operand::Scalar(Scalar::Float(1.0)));
        let check = |operands: &[&Operand], expected| assert_eq!(cx.result_type(operands), expected);
        check(&[&h, &d], F16);
        check(&[&i, &d], F64);
        check(&[&i, &int], I32);
        check(&[&i, &float], F32);
        check(&[&flag, &int], I64);
        check(&[&h, &float], F16);
        check(&[&d, &float], F64);
    }

    #[test]
    fn arguments_that_nothing_reads_are_refused() {
        let number = Arg::Scalar(Scalar::Float(2.0));
        let list = [("alpha", number.clone()), ("beta", number), ("device", Arg::Other), ("weight", Arg::None)];
        let args = Args::new(list.into_iter().map(|(name, arg)| (name.to_string(), arg)).collect());
        assert_eq!(args.float("alpha"), Ok(2.0));
        assert_eq!(args.expect_all_read(), Err("its argument beta is not supported".into()));
        args.disregard(&["beta"]);
        assert_eq!(args.expect_all_read(), Ok(()));
        assert!(args.expect_bool("sparse", false).is_ok() && args.expect_bool("alpha", true).is_err());
    }

    #[test]
    fn dimensions_count_from_both_ends() {
        assert_eq!((dim_index(-1, 3), dim_index(0, 0), dim_index(-1, 0)), (Ok(2), Ok(0), Ok(0)));
        assert!(dim_index(3, 3).is_err() && dim_index(1, 0).is_err());
    }
}
