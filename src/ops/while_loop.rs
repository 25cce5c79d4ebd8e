//! A loop whose trips are known only while it runs.

use super::batch_bodies;
use super::run::run;
use super::scan_loop::{folded, is_key};
use super::subgraph::{call_types, check_predicate, list};
use super::{Array, BatchContext, Built, Class, Flow, Grads, OpDef, Precision, Sample, VjpContext};
use crate::graph::{Builder, Graph, InputRole, OutputRole, Value, map_dims};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, TensorType};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Trips after which the evaluation gives up.
const MAX_TRIPS: usize = 1 << 20;

/// `while condition(values..., constants...) { values... = body(values..., constants...) }`. Operands: `carries` values, then
/// constants; results are the last values. `condition` gives a 0-d bool, `body` the types of the values. A constant that is a key
/// reaches trip `i` as `fold_in(key, 0, i)`, as in a `scan`.
///
/// * Not differentiable: a gradient would need the values of all trips, whose number is not known. A `scan` has one.
/// * PyTorch: `torch.while_loop`; JAX: `lax.while_loop`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WhileLoop {
    /// Number of carried values; all operands where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carries: Option<u32>,
    /// Whether to go on.
    #[serde(skip)]
    pub condition: Arc<Graph>,
    /// One trip.
    #[serde(skip)]
    pub body: Arc<Graph>,
}

impl WhileLoop {
    /// Carried values of so many operands.
    pub fn carried(&self, operands: usize) -> usize {
        self.carries.map_or(operands, |n| (n as usize).min(operands))
    }
}

impl OpDef for WhileLoop {
    fn name(&self) -> &'static str {
        "while_loop"
    }
    fn class(&self) -> Class {
        Class::Subgraph
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        match &call_types("condition", &self.condition, operands)?[..] {
            [predicate] => check_predicate(predicate)?,
            other => return Err(format!("the condition gives {} values, expected one", other.len())),
        }
        let results = call_types("body", &self.body, operands)?;
        let carried = &operands[..self.carried(operands.len())];
        if results != carried {
            return Err(format!("the body takes {} and gives {}", list(carried), list(&results)));
        }
        Ok(results)
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let (carried, constants) = operands.split_at(self.carried(operands.len()));
        let mut values = carried.to_vec();
        for trip in 0..MAX_TRIPS {
            let mut arguments = values.clone();
            for (k, constant) in constants.iter().enumerate() {
                let key = is_key(&self.body, carried.len() + k);
                arguments.push(if key { folded(constant, trip as u32, precision)? } else { constant.clone() });
            }
            if run(&self.condition, &arguments, precision)?[0].ints()[0] == 0 {
                return Ok(values);
            }
            values = run(&self.body, &arguments, precision)?;
        }
        Err(format!("no end after {MAX_TRIPS} trips"))
    }
    fn vjp(&self, _cx: &mut VjpContext<'_>) -> Built<Grads> {
        Err("while_loop is not differentiable: its gradient needs the values of all trips, whose number is not known; scan has a fixed number".into())
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        batch_bodies::while_loop(cx, self)
    }
    fn flow(&self) -> Option<Flow> {
        Some(Flow::While(self.clone()))
    }
    fn subgraphs(&self) -> Vec<Arc<Graph>> {
        vec![self.condition.clone(), self.body.clone()]
    }
    fn set_subgraphs(&mut self, graphs: Vec<Arc<Graph>>) {
        if let [condition, body] = &graphs[..] {
            (self.condition, self.body) = (condition.clone(), body.clone());
        }
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.condition = Arc::new(map_dims(&self.condition, f));
        self.body = Arc::new(map_dims(&self.body, f));
    }
    fn samples(&self) -> Vec<Sample> {
        let (count, x) = (TensorType::new(DType::I32, ()), TensorType::new(DType::F32, (3,)));
        let mut c = Builder::new("condition");
        let mut b = Builder::new("body");
        let mut build = || {
            let n = c.input("n", InputRole::Input, count.clone())?;
            c.input("x", InputRole::Input, x.clone())?;
            let bound = c.constant(DType::I32, 5.0)?;
            let more = c.scalar(ScalarFn::Lt, &[n, bound])?;
            c.output("more", OutputRole::User, more);
            let (n, v) = (b.input("n", InputRole::Input, count.clone())?, b.input("x", InputRole::Input, x.clone())?);
            let one = b.constant(DType::I32, 1.0)?;
            let (n, v) = (b.add(n, one)?, b.scalar(ScalarFn::Sin, &[v])?);
            b.output("n", OutputRole::User, n);
            b.output("x", OutputRole::User, v);
            Ok::<_, String>(())
        };
        build().expect("the sample is well typed");
        let op = WhileLoop { carries: None, condition: Arc::new(c.finish()), body: Arc::new(b.finish()) };
        vec![Sample::new(op, vec![count, x])]
    }
}
