//! One parameter as its algorithm sees it.

use super::Built;
use crate::graph::{Builder, InputRole, OutputRole, Value};
use crate::ops::ReduceKind;
use crate::scalar::{Expr, ScalarFn};
use crate::types::{DType, Shape, TensorType};

/// A parameter with its gradient and the host's numbers, all in the dtype of its arithmetic, and the door to its state.
pub(super) struct Slot<'a> {
    pub b: &'a mut Builder,
    /// What the names of its state begin with.
    pub state: String,
    pub ty: TensorType,
    /// Value before the step.
    pub value: Value,
    /// The same, less what decoupled decay takes.
    pub p: Value,
    /// Gradient, clipped.
    pub g: Value,
    pub lr: Value,
    /// The number of this update, from 1.
    pub step: Value,
    /// Whether this step updates: the others of an accumulation leave everything as it is.
    pub applies: Option<Value>,
}

impl Slot<'_> {
    /// A formula over values.
    pub fn expr<const N: usize>(&mut self, args: [Value; N], formula: impl FnOnce([Expr; N]) -> Expr) -> Built {
        let formula = formula(std::array::from_fn(Expr::Arg));
        self.b.expr(&formula, &args, args[0])
    }

    /// State of the parameter's shape before this step.
    pub fn old(&mut self, kind: &str) -> Built {
        self.old_of(kind, self.ty.shape.clone())
    }

    /// State of another shape before this step.
    pub fn old_of(&mut self, kind: &str, shape: Shape) -> Built {
        let name = format!("{}.{kind}", self.state);
        self.b.input(&name, InputRole::Optimizer, TensorType { dtype: self.dtype(), shape })
    }

    /// Its value after this step.
    pub fn keep(&mut self, kind: &str, old: Value, new: Value) -> Built<()> {
        let name = format!("{}.{kind}", self.state);
        let new = self.if_applies(new, old)?;
        self.b.output(&format!("new.{name}"), OutputRole::NewValue(name), new);
        Ok(())
    }

    pub fn if_applies(&mut self, new: Value, old: Value) -> Built {
        match self.applies {
            Some(applies) => self.b.where_(applies, new, old),
            None => Ok(new),
        }
    }

    /// `keep * state + take * x`, as the new value of the state of that name.
    pub fn moment(&mut self, kind: &str, (keep, take): (f64, f64), x: Value) -> Built {
        let old = self.old(kind)?;
        let kept = self.b.scale(old, keep)?;
        let taken = if take == 1.0 { x } else { self.b.scale(x, take)? };
        let new = self.b.add(kept, taken)?;
        self.keep(kind, old, new)?;
        Ok(new)
    }

    /// The exponential moving average `keep * state + (1 - keep) * x`.
    pub fn average(&mut self, kind: &str, keep: f64, x: Value) -> Built {
        self.moment(kind, (keep, 1.0 - keep), x)
    }

    /// `x * x`.
    pub fn square(&mut self, x: Value) -> Built {
        self.b.mul(x, x)
    }

    /// `1 - beta^step`, without the cancellation that subtracting from one has at the first steps.
    pub fn bias_correction(&mut self, beta: f64) -> Built {
        if beta == 0.0 {
            return self.b.constant(self.dtype(), 1.0);
        }
        let exponent = self.b.scale(self.step, beta.ln())?;
        let lost = self.b.scalar(ScalarFn::Expm1, &[exponent])?;
        self.b.neg(lost)
    }

    /// The norm over all elements.
    pub fn norm(&mut self, x: Value) -> Built {
        let square = self.square(x)?;
        let sum = self.sum(square)?;
        self.b.scalar(ScalarFn::Sqrt, &[sum])
    }

    /// The root of the mean square over all elements.
    pub fn rms(&mut self, x: Value) -> Built {
        let square = self.square(x)?;
        let sum = self.sum(square)?;
        let count = self.sizes()?.iter().product::<i64>() as f64;
        let mean = self.b.scale(sum, 1.0 / count)?;
        self.b.scalar(ScalarFn::Sqrt, &[mean])
    }

    fn sum(&mut self, x: Value) -> Built {
        let dims: Vec<usize> = (0..self.b.shape(x).rank()).collect();
        if dims.is_empty() { Ok(x) } else { self.b.reduce(ReduceKind::Sum, x, &dims, false) }
    }

    /// `p * (1 - lr * decay)`, before the update.
    pub fn shrink(&mut self, decay: f64) -> Built<()> {
        let lost = self.b.scale(self.lr, decay)?;
        let one = self.b.constant(self.dtype(), 1.0)?;
        let kept = self.b.sub(one, lost)?;
        self.p = self.b.mul(self.p, kept)?;
        Ok(())
    }

    /// Adds `decay * p` to the gradient.
    pub fn pull(&mut self, decay: f64) -> Built<()> {
        let pull = self.b.scale(self.p, decay)?;
        self.g = self.b.add(self.g, pull)?;
        Ok(())
    }

    /// The constant sizes of the parameter.
    pub fn sizes(&self) -> Built<Vec<i64>> {
        let sizes = self.ty.shape.as_ints().ok_or_else(|| format!("{} is {}; the sizes of state are constants", self.state, self.ty))?;
        Ok(sizes.into_iter().map(|n| n as i64).collect())
    }

    pub fn dtype(&self) -> DType {
        self.ty.dtype.accumulator()
    }
}
