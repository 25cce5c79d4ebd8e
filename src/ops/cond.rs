//! A choice between two bodies.

use super::batch_bodies;
use super::run::run;
use super::subgraph::{call_types, check_predicate, list, sample_body, sample_types};
use super::{Array, BatchContext, Built, Class, Flow, Grads, OpDef, Precision, Sample, VjpContext, float_positions};
use crate::graph::{Builder, Graph, Value, map_dims};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, TensorType};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// `out... = if predicate { then_body(operands...) } else { else_body(operands...) }`. Operands: a 0-d bool, then the
/// operands of both bodies, whose signatures are equal. Only the body that is taken runs: nothing of the other is computed, checked
/// or passed to a gradient.
///
/// * Gradient: `cond` over the bodies' gradients, of the same operands and the cotangents.
/// * PyTorch: `torch.cond`; JAX: `lax.cond`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cond {
    /// Taken when the predicate holds.
    #[serde(skip)]
    pub then_body: Arc<Graph>,
    /// Taken otherwise.
    #[serde(skip)]
    pub else_body: Arc<Graph>,
}

impl Cond {
    /// The branch that is taken gives its gradients; of operands that it does not read, zeros.
    fn gradients(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let floats = float_positions(&self.then_body);
        let wanted = |k: &usize| cx.wanted[k + 1];
        let kept: Vec<usize> = floats.iter().copied().filter(wanted).collect();
        let mut bodies = vec![];
        for body in [&self.then_body, &self.else_body] {
            let mut gradients = (cx.pull_back)(body)?;
            let mut at = floats.iter();
            gradients.outputs.retain(|_| at.next().is_some_and(&wanted));
            bodies.push(Arc::new(gradients));
        }
        let [then_body, else_body] = [bodies.remove(0), bodies.remove(0)];
        let mut operands = cx.operands.to_vec();
        operands.extend(cx.float_cotangents()?);
        let results = cx.b.node(Cond { then_body, else_body }, &operands)?;
        let mut out = vec![None; cx.operands.len()];
        kept.into_iter().zip(results).for_each(|(k, g)| out[k + 1] = Some(g));
        Ok(out)
    }
}

impl OpDef for Cond {
    fn name(&self) -> &'static str {
        "cond"
    }
    fn class(&self) -> Class {
        Class::Subgraph
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let Some((predicate, rest)) = operands.split_first() else { return Err("takes a predicate".into()) };
        check_predicate(predicate)?;
        let (yes, no) = (call_types("then body", &self.then_body, rest)?, call_types("else body", &self.else_body, rest)?);
        if yes != no {
            return Err(format!("the branches give different types: {} and {}", list(&yes), list(&no)));
        }
        Ok(yes)
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let body = if operands[0].ints()[0] != 0 { &self.then_body } else { &self.else_body };
        Ok(run(body, &operands[1..], precision)?)
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        self.gradients(cx)
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        let mut build = || {
            let yes = b.inline(&self.then_body, &operands[1..])?;
            let no = b.inline(&self.else_body, &operands[1..])?;
            yes.into_iter().zip(no).map(|(x, y)| if x == y { Ok(x) } else { b.where_(operands[0], x, y) }).collect()
        };
        Some(build())
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        if cx.is_each(0) { cx.decomposed(self) } else { batch_bodies::call(cx, self.clone(), 1) }
    }
    fn flow(&self) -> Option<Flow> {
        Some(Flow::Cond(self.clone()))
    }
    fn subgraphs(&self) -> Vec<Arc<Graph>> {
        vec![self.then_body.clone(), self.else_body.clone()]
    }
    fn set_subgraphs(&mut self, graphs: Vec<Arc<Graph>>) {
        if let [yes, no] = &graphs[..] {
            (self.then_body, self.else_body) = (yes.clone(), no.clone());
        }
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.then_body = Arc::new(map_dims(&self.then_body, f));
        self.else_body = Arc::new(map_dims(&self.else_body, f));
    }
    fn samples(&self) -> Vec<Sample> {
        let op = Cond { then_body: Arc::new(sample_body(ScalarFn::Sin)), else_body: Arc::new(sample_body(ScalarFn::Cos)) };
        let mut operands = vec![TensorType::new(DType::Bool, ())];
        operands.extend(sample_types());
        vec![Sample::new(op, operands)]
    }
}
