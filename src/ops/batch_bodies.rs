//! Batching of ops that hold bodies: the bodies of a batch are batched as graphs.

use super::batch::{BatchContext, Batched, batch, in_front};
use super::{Built, Op, OpDef, ReduceKind, Scan, WhileLoop};
use crate::graph::{Builder, Graph, Value};
use crate::types::{Dim, Shape, TensorType};
use std::sync::Arc;

/// A body under construction whose inputs are those of another one, for a batch where `each` says so.
fn begin(body: &Graph, each: &[bool], size: &Dim) -> Built<(Builder, Vec<Batched>)> {
    let (mut b, mut inputs) = (Builder::new(&body.name), vec![]);
    for (input, &is_each) in body.inputs.iter().zip(each) {
        let ty = body.ty(input.value).clone();
        let ty = if is_each { TensorType { shape: in_front(size, &ty.shape), ..ty } } else { ty };
        let v = b.input(&input.name, input.role.clone(), ty)?;
        inputs.push(if is_each { Batched::Each(v) } else { Batched::Same(v) });
    }
    Ok((b, inputs))
}

/// What a body computes for a batch, each result with the examples in front.
fn results(b: &mut Builder, body: &Graph, inputs: &[Batched], size: &Dim) -> Built<Vec<Value>> {
    batch(b, body, inputs, size)?.into_iter().map(|y| y.each(b, size)).collect()
}

fn finish(mut b: Builder, like: &Graph, results: &[Value]) -> Arc<Graph> {
    for (output, &v) in like.outputs.iter().zip(results) {
        b.output(&output.name, output.role.clone(), v);
    }
    Arc::new(b.finish())
}

fn body_of_batch(body: &Graph, each: &[bool], size: &Dim) -> Built<Arc<Graph>> {
    let (mut b, inputs) = begin(body, each, size)?;
    let results = results(&mut b, body, &inputs, size)?;
    Ok(finish(b, body, &results))
}

/// `op`, which passes all operands but the first `own` to each of its bodies, whose results are its own.
pub(super) fn call(cx: &mut BatchContext<'_>, op: impl Into<Op>, own: usize) -> Built<Vec<Value>> {
    let each: Vec<bool> = (own..cx.operands.len()).map(|k| cx.is_each(k)).collect();
    let mut op = op.into();
    let bodies = op.subgraphs().iter().map(|body| body_of_batch(body, &each, cx.size)).collect::<Built<_>>()?;
    op.set_subgraphs(bodies);
    cx.b.node(op, &cx.values())
}

/// The trips of all examples at once: whatever is carried differs from example to example.
pub(super) fn scan(cx: &mut BatchContext<'_>, op: &Scan) -> Built<Vec<Value>> {
    let (carries, stacked) = (op.carries as usize, op.carries as usize + op.stacked as usize);
    let each: Vec<bool> = (0..cx.operands.len()).map(|k| k < carries || cx.is_each(k)).collect();
    let mut operands = vec![];
    for (k, &is_each) in each.iter().enumerate() {
        operands.push(match k {
            k if k < carries => cx.each(k)?,
            k if k < stacked && is_each => exchange_first(cx.b, cx.value(k))?,
            k => cx.value(k),
        });
    }
    let body = body_of_batch(&op.body, &each, cx.size)?;
    let mut results = cx.b.node(Scan { body, ..op.clone() }, &operands)?;
    for y in &mut results[carries..] {
        *y = exchange_first(cx.b, *y)?;
    }
    Ok(results)
}

/// Examples and trips exchanged.
fn exchange_first(b: &mut Builder, x: Value) -> Built {
    let order: Vec<usize> = [1, 0].into_iter().chain(2..b.shape(x).rank()).collect();
    b.permute(x, &order)
}

/// A loop that goes on while any example goes on; those that have ended keep their values.
pub(super) fn while_loop(cx: &mut BatchContext<'_>, op: &WhileLoop) -> Built<Vec<Value>> {
    let each = vec![true; cx.operands.len()];
    let (mut b, inputs) = begin(&op.condition, &each, cx.size)?;
    let goes_on = results(&mut b, &op.condition, &inputs, cx.size)?[0];
    let any = b.reduce(ReduceKind::Any, goes_on, &[0], false)?;
    let condition = finish(b, &op.condition, &[any]);
    let (mut b, inputs) = begin(&op.body, &each, cx.size)?;
    let goes_on = results(&mut b, &op.condition, &inputs, cx.size)?[0];
    let mut values = results(&mut b, &op.body, &inputs, cx.size)?;
    for (new, old) in values.iter_mut().zip(&inputs) {
        let ones = vec![Dim::int(1); b.shape(*new).rank() - 1];
        let goes_on = b.reshape(goes_on, in_front(cx.size, &Shape::new(ones)))?;
        *new = b.where_(goes_on, *new, old.value())?;
    }
    let body = finish(b, &op.body, &values);
    let operands: Vec<Value> = (0..cx.operands.len()).map(|k| cx.each(k)).collect::<Built<_>>()?;
    cx.b.node(WhileLoop { carries: op.carries, condition, body }, &operands)
}
