//! Infinities, NaN, signed zeros, subnormals and the ends of integer types, through every row of the scalar table: as loaded
//! operands, as literal ones on either side, as one value twice, and through compositions that compilers like to simplify. The
//! interpreter and the adapter are held against the graph evaluation.
//!
//! WGSL lets a device flush subnormals to zero, before an operation and after it: either is right here. All else is exact in
//! kind: NaN is NaN, infinities and zeros have their sign.

mod support;

use inductor::graph::{Builder, Graph, InputRole, OutputRole, Value};
use inductor::scalar::{ScalarFn, TABLE};
use inductor::types::{DType, HostTensor, IntoShape, TensorType};
use inductor::{Config, Device, Traced, compile, eval, ops::Precision, ops::ReduceKind};
use support::layers::{ADAPTERS, LAYERS, Layer, Named, What};

const FLOATS: [f64; 15] =
    [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1e-40, -1e-40, f32::MAX as f64, f32::MIN as f64, 1.0, -1.0, 0.5, 2.0, -3.0, 2.5];
const INTS: [i64; 16] = [0, 1, -1, 2, -2, 7, -7, 31, 32, 63, 64, 255, i32::MIN as i64, i32::MAX as i64, i64::MIN, i64::MAX];

/// Special values of a type, each once.
fn specials(dtype: DType) -> Vec<f64> {
    let mut out: Vec<f64> = vec![];
    let wanted: Vec<f64> = match dtype {
        d if d.is_float() => FLOATS.iter().map(|&x| if x.abs() == f32::MAX as f64 { x.signum() * largest(d) } else { d.round(x) }).collect(),
        DType::Bool => vec![0.0, 1.0],
        // Numbers of 64 bits travel as f64 here: the ends of the type are the powers of two next to them.
        d => INTS.iter().map(|&n| d.wrap(n) as f64).collect(),
    };
    for x in wanted {
        if !out.iter().any(|y| y.to_bits() == x.to_bits()) {
            out.push(x);
        }
    }
    out
}

fn largest(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 65504.0,
        DType::BF16 => f32::from_bits(0x7f7f_0000) as f64,
        DType::F64 => f64::MAX,
        _ => f32::MAX as f64,
    }
}

/// Those that are spelled as literals.
fn literals(dtype: DType) -> Vec<f64> {
    let chosen: &[f64] = if dtype.is_float() { &[f64::NAN, f64::INFINITY, 0.0, -0.0, 1.0, -3.0] } else { &[0.0, 1.0, 7.0, -1.0, i32::MIN as f64] };
    specials(dtype).into_iter().filter(|x| chosen.iter().any(|y| x.to_bits() == y.to_bits())).collect()
}

/// Values of two operands in every combination, of a third in another order.
fn columns(values: &[f64]) -> [Vec<f64>; 3] {
    let n = values.len();
    let pair = |k: usize| (values[k / n], values[k % n]);
    let of = |f: &dyn Fn(usize) -> f64| (0..n * n).map(f).collect::<Vec<f64>>();
    [of(&|k| pair(k).0), of(&|k| pair(k).1), of(&|k| values[(k + k / n * 5) % n])]
}

fn tensor(dtype: DType, x: &[f64]) -> HostTensor {
    if dtype.is_float() {
        HostTensor::from_f64(dtype, &[x.len()], x)
    } else {
        HostTensor::from_i64(dtype, &[x.len()], &x.iter().map(|&v| v as i64).collect::<Vec<_>>())
    }
}

/// A program under construction, with three operands of one type and a condition.
struct Program {
    b: Builder,
    operands: Vec<Value>,
    condition: Value,
    inputs: Named,
}

fn vector(dtype: DType, n: usize) -> TensorType {
    TensorType { dtype, shape: [n as i64].into_shape() }
}

impl Program {
    fn new(dtype: DType, values: &[f64]) -> Program {
        let columns = columns(values);
        let mut b = Builder::new("specials");
        let (mut operands, mut inputs) = (vec![], vec![]);
        for (name, column) in ["x", "y", "z"].into_iter().zip(&columns) {
            operands.push(b.input(name, InputRole::Input, vector(dtype, column.len())).unwrap());
            inputs.push((name.to_string(), tensor(dtype, column)));
        }
        let flags: Vec<f64> = (0..columns[0].len()).map(|k| (k % 3 == 0) as u8 as f64).collect();
        let condition = b.input("c", InputRole::Input, vector(DType::Bool, flags.len())).unwrap();
        inputs.push(("c".into(), tensor(DType::Bool, &flags)));
        Program { b, operands, condition, inputs }
    }

    fn constant(&mut self, x: f64) -> Value {
        let v = self.operands[0];
        let (dtype, shape) = (self.b.dtype(v), self.b.shape(v).clone());
        self.b.full(dtype, x, shape).unwrap()
    }

    /// A function of data operands; the condition of `where` is added.
    fn call(&mut self, f: ScalarFn, data: &[Value]) -> Result<Value, String> {
        let mut operands = data.to_vec();
        if f == ScalarFn::Where {
            operands.insert(0, self.condition);
        }
        self.b.scalar(f, &operands)
    }

    fn output(&mut self, name: String, v: Value) {
        self.b.output(&name, OutputRole::User, v);
    }
}

/// Data operands of a function, without the condition of `where`.
fn data_operands(f: ScalarFn) -> usize {
    f.row().arity - (f == ScalarFn::Where) as usize
}

/// Everything that is asked of a function on a type: loaded operands, one value twice, a literal at each place.
fn of_function(f: ScalarFn, dtype: DType) -> Option<(Graph, Named)> {
    let (values, literals) = (specials(dtype), literals(dtype));
    let mut p = Program::new(dtype, &values);
    let arity = data_operands(f);
    let loaded: Vec<Value> = p.operands[..arity].to_vec();
    let y = p.call(f, &loaded).ok()?;
    p.output("loaded".into(), y);
    if arity > 1 {
        let y = p.call(f, &vec![loaded[0]; arity]).ok()?;
        p.output("same".into(), y);
        for (k, &value) in (0..arity).flat_map(|k| literals.iter().map(move |v| (k, v))) {
            let mut operands = loaded.clone();
            operands[k] = p.constant(value);
            let y = p.call(f, &operands).ok()?;
            p.output(format!("operand {k} is {value:?}"), y);
        }
    }
    Some((p.b.finish(), p.inputs))
}

/// A number as subnormals flushed to zero leave it.
fn flushed(dtype: DType, x: f64) -> f64 {
    let smallest = match dtype {
        DType::F16 => 6.104e-5,
        DType::F64 => f64::MIN_POSITIVE,
        _ => f32::MIN_POSITIVE as f64,
    };
    if dtype.is_float() && x.abs() < smallest { 0f64.copysign(x) } else { x }
}

fn evaluate(graph: &Graph, inputs: &Named) -> Vec<HostTensor> {
    let tensors: Vec<HostTensor> = graph.inputs.iter().map(|i| inputs.iter().find(|(n, _)| *n == i.name).unwrap().1.clone()).collect();
    eval::evaluate(graph, &tensors, Precision::Working).unwrap()
}

/// Whether a number is what was expected: in kind and sign exactly, in value nearly.
fn is_right(got: f64, expected: f64, tolerance: f64) -> bool {
    if expected.is_nan() || expected.is_infinite() || got.is_nan() || got.is_infinite() {
        return (got.is_nan() && expected.is_nan()) || got == expected;
    }
    if expected == 0.0 || got == 0.0 {
        return got == expected && got.is_sign_negative() == expected.is_sign_negative();
    }
    (got - expected).abs() <= tolerance * expected.abs()
}

/// Holds a layer against the graph evaluation; gives each output's first difference.
fn differences(layer: &Layer, graph: &Graph, inputs: &Named, tolerance: f64) -> Vec<String> {
    let got = match (layer.1)(graph, What::Forward, inputs) {
        Ok(got) => got,
        Err(e) if e.contains("unsupported") || e.contains("lacks") || e.contains("not available on GPUs") => return vec![],
        Err(e) => return vec![format!("{}: {e}", layer.0)],
    };
    let plain = evaluate(graph, inputs);
    let flush = |t: &HostTensor| {
        if t.dtype().is_float() {
            HostTensor::from_f64(t.dtype(), t.shape(), &t.to_f64().iter().map(|&x| flushed(t.dtype(), x)).collect::<Vec<_>>())
        } else {
            t.clone()
        }
    };
    let without = evaluate(graph, &inputs.iter().map(|(n, t)| (n.clone(), flush(t))).collect());
    let mut out = vec![];
    for (k, output) in graph.outputs.iter().enumerate() {
        let t = &got.iter().find(|(n, _)| *n == output.name).unwrap().1;
        assert_eq!(t.dtype(), plain[k].dtype());
        let dtype = t.dtype();
        let of = |t: &HostTensor| -> Vec<f64> { if dtype.is_float() { t.to_f64() } else { t.to_i64().iter().map(|&n| n as f64).collect() } };
        let (x, a, b) = (of(t), of(&plain[k]), of(&without[k]));
        let right = |i: usize| {
            [a[i], b[i]].into_iter().any(|e| is_right(x[i], e, tolerance) || (dtype.is_float() && is_right(x[i], flushed(dtype, e), tolerance)))
        };
        if let Some(i) = (0..x.len()).find(|&i| !right(i)) {
            let at: Vec<String> = inputs.iter().map(|(n, t)| format!("{n} = {:?}", t.to_f64()[i.min(t.numel() - 1)])).collect();
            let wrong = (0..x.len()).filter(|&i| !right(i)).count();
            out.push(format!("{}: {}: element {i} is {:?}, expected {:?} ({wrong} wrong; {})", layer.0, output.name, x[i], a[i], at.join(", ")));
        }
    }
    out
}

/// The interpreter's program, and the adapter where there is one.
fn layers() -> Vec<&'static Layer> {
    LAYERS.iter().filter(|l| l.0 == "program").chain(&ADAPTERS[..1]).collect()
}

fn report(faults: Vec<String>) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

fn check_functions(dtypes: &[DType]) {
    let mut faults = vec![];
    for row in TABLE {
        for &dtype in dtypes.iter().filter(|&&d| row.domain.admits(d)) {
            let Some((graph, inputs)) = of_function(row.op, dtype) else { continue };
            let tolerance = match dtype {
                DType::F64 => 1e-9,
                DType::F16 => 2e-3,
                DType::BF16 => 2e-2,
                _ => 1e-4,
            };
            for layer in layers() {
                faults.extend(differences(layer, &graph, &inputs, tolerance).into_iter().map(|d| format!("{} of {dtype}: {d}", row.name)));
            }
        }
    }
    report(faults);
}

#[test]
fn functions_of_floats() {
    check_functions(&[DType::F32]);
}

#[test]
fn functions_of_halves() {
    check_functions(&[DType::F16, DType::BF16]);
}

#[test]
fn functions_of_doubles() {
    check_functions(&[DType::F64]);
}

#[test]
fn functions_of_integers() {
    check_functions(&[DType::I32, DType::U32, DType::U8, DType::I8, DType::I16, DType::Bool]);
}

#[test]
fn functions_of_wide_integers() {
    check_functions(&[DType::I64]);
}

/// Whatever the adapter at hand does, both spellings are right.
#[test]
fn wide_comparisons_by_words() {
    let layer: Layer = ("adapter comparing words", support::layers::comparing_words);
    let mut faults = vec![];
    for row in TABLE.iter().filter(|r| r.domain.admits(DType::I64)) {
        let Some((graph, inputs)) = of_function(row.op, DType::I64) else { continue };
        faults.extend(differences(&layer, &graph, &inputs, 0.0).into_iter().map(|d| format!("{}: {d}", row.name)));
    }
    report(faults);
}

#[test]
fn wide_comparisons_are_spelled_as_the_device_needs() {
    let text = |narrow: bool, i64_comparisons: bool| {
        let mut b = Builder::new("compared");
        let dtype = if narrow { DType::I32 } else { DType::I64 };
        let x = b.input("x", InputRole::Input, vector(dtype, 64)).unwrap();
        let x = b.cast(x, DType::I64).unwrap();
        let k = b.full(DType::I64, 3.0, [64i64]).unwrap();
        let y = b.scalar(ScalarFn::Le, &[x, k]).unwrap();
        b.output("y", OutputRole::User, y);
        let mut target = inductor::config::Target::h100();
        target.caps.i64_comparisons = i64_comparisons;
        let plan = inductor::compile::inductor(&b.finish(), &[vector(dtype, 64)], &target, &Config::default()).unwrap();
        plan.code[0].variants[0].wgsl.clone()
    };
    assert!(text(false, true).contains(" <= 3li") && !text(false, true).contains("less_l"));
    assert!(text(false, false).contains("(!less_l(") && !text(false, false).contains(" <= 3li"));
    // What comes from 32 bits is compared in 32 bits.
    assert!(!text(true, true).contains("i64") && !text(true, false).contains("i64"));
}

/// Literals that drivers fold are hidden from them, and the same value twice; other arithmetic stays as it is.
#[test]
fn what_drivers_fold_is_hidden() {
    let text = |literal: Option<f64>, f: ScalarFn| {
        let mut b = Builder::new("folded");
        let x = b.input("x", InputRole::Input, vector(DType::F32, 64)).unwrap();
        let y = match literal {
            Some(k) => b.full(DType::F32, k, [64i64]).unwrap(),
            None => x,
        };
        let z = b.scalar(f, &[x, y]).unwrap();
        b.output("z", OutputRole::User, z);
        let types = [vector(DType::F32, 64)];
        let plan = inductor::compile::inductor(&b.finish(), &types, &inductor::config::Target::h100(), &Config::default()).unwrap();
        plan.code[0].variants[0].wgsl.clone()
    };
    for (literal, f) in
        [(Some(0.0), ScalarFn::Mul), (Some(f64::INFINITY), ScalarFn::Sub), (Some(0.0), ScalarFn::Div), (None, ScalarFn::Div), (None, ScalarFn::Sub)]
    {
        let wgsl = text(literal, f);
        assert!(wgsl.contains("opaque_zero = wid.z;"), "{literal:?} {f:?}:\n{wgsl}");
    }
    for (literal, f) in [(Some(2.5), ScalarFn::Mul), (Some(1.5), ScalarFn::Add), (None, ScalarFn::Mul), (None, ScalarFn::Add)] {
        assert!(!text(literal, f).contains("opaque"), "{literal:?} {f:?}");
    }
}

const DTYPES: [DType; 11] =
    [DType::F32, DType::F16, DType::BF16, DType::F64, DType::I32, DType::I64, DType::U32, DType::U8, DType::I8, DType::I16, DType::Bool];

#[test]
fn conversions() {
    let mut faults = vec![];
    for from in DTYPES {
        let mut p = Program::new(from, &specials(from));
        let x = p.operands[0];
        for to in DTYPES {
            let y = p.b.cast(x, to).unwrap();
            p.output(format!("{from} to {to}"), y);
            for back in [DType::F32, DType::I64, DType::U8] {
                // A negative float has no value among unsigned integers, and a chain of conversions may be shortened.
                if back == DType::U8 && to.is_float() {
                    continue;
                }
                let z = p.b.cast(y, back).unwrap();
                p.output(format!("{from} to {to} to {back}"), z);
            }
        }
        let (graph, inputs) = (p.b.finish(), p.inputs);
        for layer in layers() {
            faults.extend(differences(layer, &graph, &inputs, 1e-6));
        }
    }
    report(faults);
}

/// Without subnormals; products and quotients of these are exact, so that fused arithmetic gives the same.
const EXACT: [f64; 11] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1.0, -1.0, 2.0, -4.0, 1.2676506002282294e30, -7.888609052210118e-31];

/// Cheap functions of cheap functions, as compilers like to simplify: all inner ones, each under some of the outer ones.
#[test]
fn compositions() {
    let cheap: Vec<ScalarFn> =
        TABLE.iter().filter(|r| r.cost == 1 && !r.predicate && r.domain.admits(DType::F32) && r.op != ScalarFn::Clamp).map(|r| r.op).collect();
    assert!(cheap.len() >= 15);
    let (mut faults, mut turn) = (vec![], 0);
    for &inner in &cheap {
        for literal in [0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NAN] {
            let mut p = Program::new(DType::F32, &EXACT);
            let (x, y) = (p.operands[0], p.operands[1]);
            let k = p.constant(literal);
            // Adding a literal zero may be left out, which keeps a minus zero.
            let outer_literal = if literal == 0.0 { p.constant(1.0) } else { k };
            let pairs = if data_operands(inner) == 1 { vec![vec![x]] } else { vec![vec![x, y], vec![x, x], vec![x, k], vec![k, x]] };
            for data in pairs {
                let v = p.call(inner, &data).unwrap();
                for _ in 0..5 {
                    turn += 1;
                    let outer = cheap[turn % cheap.len()];
                    let data = if data_operands(outer) == 1 {
                        vec![v]
                    } else {
                        [vec![v, x], vec![x, v], vec![v, v], vec![v, outer_literal]][turn / 7 % 4].clone()
                    };
                    let w = p.call(outer, &data).unwrap();
                    p.output(format!("{turn}: {} of {} with {literal:?}", outer.name(), inner.name()), w);
                }
                for f in [ScalarFn::Lt, ScalarFn::Le, ScalarFn::Eq, ScalarFn::Ne] {
                    let flag = p.b.scalar(f, &[v, x]).unwrap();
                    let not = p.b.scalar(ScalarFn::LogicalNot, &[flag]).unwrap();
                    turn += 1;
                    p.output(format!("{turn}: not {} of {} with {literal:?}", f.name(), inner.name()), not);
                }
            }
            let (graph, inputs) = (p.b.finish(), p.inputs);
            for layer in layers() {
                faults.extend(differences(layer, &graph, &inputs, 1e-4));
            }
        }
    }
    report(faults);
}

/// Reductions of rows with special values, of lengths at which kernels change their form.
#[test]
fn reductions() {
    let values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1.0, -3.0, 2.5];
    let mut faults = vec![];
    for dtype in [DType::F32, DType::F16, DType::F64] {
        for (length, rows) in [(1usize, 8usize), (2, 64), (5, 60), (33, 40), (300, 24)] {
            // The first rows are all alike, the next have one special value, the last several.
            let at = |r: usize, c: usize| match r % 3 {
                0 => values[r / 3 % 8],
                1 if c == r % length => values[r / 3 % 8],
                1 => (c % 7) as f64 - 2.0,
                _ => values[(r * 5 + c * 3) % 8],
            };
            let data: Vec<f64> = (0..rows * length).map(|k| at(k / length, k % length)).collect();
            let mut b = Builder::new("reductions");
            let x = b.input("x", InputRole::Input, TensorType::new(dtype, [rows as i64, length as i64])).unwrap();
            let kinds = [ReduceKind::Sum, ReduceKind::Prod, ReduceKind::Max, ReduceKind::Min, ReduceKind::Argmax, ReduceKind::Argmin];
            for kind in kinds {
                let y = b.reduce(kind, x, &[1], false).unwrap();
                b.output(&format!("{kind:?}"), OutputRole::User, y);
            }
            let made = [
                ("mean", b.mean(x, &[1], false)),
                ("var", b.var(x, &[1], 1, false)),
                ("softmax", b.softmax(x, 1)),
                ("log_softmax", b.log_softmax(x, 1)),
                ("layer_norm", b.layer_norm(x, 1, None, None, 1e-5)),
                ("cumsum", b.cumsum(x, 1)),
            ];
            for (name, y) in made {
                b.output(name, OutputRole::User, y.unwrap());
            }
            let graph = b.finish();
            let inputs = vec![("x".to_string(), HostTensor::from_f64(dtype, &[rows, length], &data))];
            for layer in layers() {
                if let Err(e) = support::layers::check(layer, &graph, What::Forward, &inputs, 1e-3)
                    && !e.contains("unsupported")
                {
                    faults.push(format!("{dtype}[{rows}, {length}]: {e}"));
                }
            }
        }
    }
    report(faults);
}

/// Programs whose NaN and infinities arise between operations and in gradients.
#[test]
fn programs_that_give_nan() {
    let texts = [
        // The gradient of sqrt(0 * x) is 0 * infinity.
        "graph g\n %0 = input x : f32[4]\n %1 = full() {value=0.0, dtype=\"f32\", shape=[4]}\n %2 = mul(%1, %0)\n %3 = sqrt(%2)\n return %3 as y",
        "graph g\n %0 = input x : f32[4]\n %1 = sub(%0, %0)\n %2 = div(%0, %0)\n %3 = add(%1, %2)\n return %3 as y",
        "graph g\n %0 = input x : f32[4]\n %1 = reciprocal(%0)\n %2 = full() {value=0.0, dtype=\"f32\", shape=[4]}\n %3 = mul(%1, %2)\n return %3 as y",
    ];
    let inputs = vec![
        ("x".to_string(), HostTensor::f32(&[4], &[1.0, f32::INFINITY, 0.0, f32::NAN])),
        ("cotangent.y".to_string(), HostTensor::f32(&[4], &[1.0, 2.0, 0.5, 1.0])),
    ];
    let mut faults = vec![];
    for text in texts {
        let graph = inductor::graph::parse(text).unwrap();
        for layer in layers() {
            for what in [What::Forward, What::Gradients] {
                if let Err(e) = support::layers::check(layer, &graph, what, &inputs, 1e-6) {
                    faults.push(format!("{what:?}: {e}\n{text}"));
                }
            }
        }
    }
    for rows in [1i64, 4] {
        let mut b = Builder::new("one");
        let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, [rows, 1])).unwrap();
        let y = b.var(x, &[1], 1, false).unwrap();
        b.output("y", OutputRole::User, y);
        let graph = b.finish();
        let x: Vec<f32> = (0..rows).map(|k| k as f32 - 1.0).collect();
        let inputs = vec![("x".to_string(), HostTensor::f32(&[rows as usize, 1], &x))];
        for layer in layers() {
            faults.extend(differences(layer, &graph, &inputs, 1e-6));
        }
    }
    report(faults);
}

/// Functions of f64, which no adapter has built in beyond arithmetic, at numbers of every magnitude.
#[test]
fn functions_of_doubles_are_accurate() {
    let magnitude = |k: usize| [1e-9, 1e-4, 0.03, 0.4, 1.0, 3.0, 20.0, 600.0, 1e6, 1e15, 1e200][k % 11];
    let numbers: Vec<f64> = (0..2200).map(|k| magnitude(k) * (0.1 + (k * 7919 % 997) as f64 / 700.0) * if k % 2 == 0 { 1.0 } else { -1.0 }).collect();
    let others: Vec<f64> = (0..2200).map(|k| [0.3, -1.5, 7.0, 2.5, 1e3][k % 5] * (1.0 + (k * 31 % 89) as f64 / 100.0)).collect();
    let shape = [numbers.len() as i64];
    let mut faults = vec![];
    for row in TABLE.iter().filter(|r| r.domain.admits(DType::F64) && !r.predicate && data_operands(r.op) <= 2 && r.op != ScalarFn::Where) {
        let mut b = Builder::new(row.name);
        let x = b.input("x", InputRole::Input, TensorType::new(DType::F64, shape)).unwrap();
        let y = b.input("y", InputRole::Input, TensorType::new(DType::F64, shape)).unwrap();
        let operands = if row.arity == 1 { vec![x] } else { vec![x, y] };
        let result = b.scalar(row.op, &operands).unwrap();
        b.output("y", OutputRole::User, result);
        let graph = b.finish();
        let inputs = vec![("x".to_string(), tensor(DType::F64, &numbers)), ("y".to_string(), tensor(DType::F64, &others))];
        let tolerance = if row.op == ScalarFn::Pow { 1e-12 } else { 1e-14 };
        for layer in ADAPTERS {
            faults.extend(differences(layer, &graph, &inputs, tolerance).into_iter().map(|d| format!("{}: {d}", row.name)));
        }
    }
    report(faults);
}

/// With `emulate_precision_casts`, what follows a fused operation sees a half; without, the f32 that the half comes from.
#[test]
fn halves_are_rounded_between_fused_operations_when_asked() {
    for dtype in [DType::F16, DType::BF16] {
        let mut b = Builder::new("rounded");
        let x = b.input("x", InputRole::Input, vector(dtype, 256)).unwrap();
        let square = b.mul(x, x).unwrap();
        let sum = b.add(square, x).unwrap();
        let whole = b.scalar(ScalarFn::Floor, &[sum]).unwrap();
        let equal = b.scalar(ScalarFn::Eq, &[sum, whole]).unwrap();
        b.output("whole", OutputRole::User, whole);
        b.output("equal", OutputRole::User, equal);
        let total = b.reduce(ReduceKind::Sum, square, &[0], false).unwrap();
        let doubled = b.add(total, total).unwrap();
        b.output("doubled", OutputRole::User, doubled);
        let graph = b.finish();
        let x = HostTensor::from_f64(dtype, &[256], &(0..256).map(|k| 30.0 + k as f64 / 7.0).collect::<Vec<_>>());
        let expected = eval::evaluate(&graph, std::slice::from_ref(&x), Precision::Working).unwrap();
        let traced = Traced { graph, ..Traced::default() };
        let run = |device: &Device, emulate: bool| {
            let config = Config { emulate_precision_casts: emulate, ..Config::default() };
            let step = compile(&traced, device, &config).unwrap();
            let result = step.run(&mut step.init(0).unwrap(), [("x", &x)]).unwrap();
            ["whole", "equal"].map(|name| result.output(name).unwrap().to_f64())
        };
        let wanted = [expected[0].to_f64(), expected[1].to_f64()];
        for device in [Some(Device::cpu()), support::layers::software().cloned()].into_iter().flatten() {
            assert_eq!(run(&device, true), wanted, "{device:?} {dtype}");
            assert_ne!(run(&device, false)[1], wanted[1], "{device:?} {dtype}");
        }
    }
}
