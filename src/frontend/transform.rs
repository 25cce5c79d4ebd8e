//! Derivatives inside a program: gradients of what was recorded so far, as values like any other.

use super::tensor::Tensor;
use crate::autograd::gradients_within;
use crate::error::TraceFault;
use crate::graph::{Builder, Value};
use crate::types::DType;

/// Derivatives of recorded values with respect to recorded values: inputs, parameters, or anything computed from them.
impl Tensor {
    /// The gradients of the sum of this tensor's elements with respect to each of these tensors; zeros where it does not depend on
    /// one. They are part of the program, and may be differentiated again, by this method or by training.
    ///
    /// ```
    /// use inductor::{Config, DType, Device, HostTensor, compile, trace_eval};
    /// let traced = trace_eval("curvature", |t| {
    ///     let x = t.input("x", DType::F32, 3);
    ///     let first = x.sin().grad(&[&x]).remove(0); // cos(x)
    ///     Ok(vec![first.grad(&[&x]).remove(0)]) // -sin(x)
    /// })?;
    /// let step = compile(&traced, &Device::cpu(), &Config::default())?;
    /// let y = step.run(&mut step.init(0)?, [&HostTensor::f32(&[3], &[0.0, 0.5, 1.0])])?.outputs()?.remove(0).1;
    /// assert!(y.to_f32().iter().zip([0.0f32, 0.5, 1.0]).all(|(y, x)| (y + x.sin()).abs() < 1e-6));
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn grad(&self, wrt: &[&Tensor]) -> Vec<Tensor> {
        let ones = self.ones_like();
        self.vjp(&ones, wrt)
    }

    /// As [`Tensor::grad`], with a weight for each element: the vector-Jacobian product.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[1.0, 2.0, 3.0]);
    /// let weights = HostTensor::f32(&[3], &[1.0, 0.0, -1.0]);
    /// let y = Device::cpu().compute([&x, &weights], |_, [x, weights]| x.square().vjp(&weights, &[&x]).remove(0))?;
    /// assert_eq!(y.to_string(), "[ 2.  0. -6.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn vjp(&self, cotangent: &Tensor, wrt: &[&Tensor]) -> Vec<Tensor> {
        if cotangent.ty != self.ty || !self.dtype().is_float() {
            let fault = self.fail("vjp", format!("the cotangent of {} is {}", self.ty, cotangent.ty));
            return wrt.iter().map(|_| fault.clone()).collect();
        }
        let operands: Vec<&Tensor> = [self, cotangent].into_iter().chain(wrt.iter().copied()).collect();
        let grads = self.recorder.apply_many("grad", &operands, |b, v| gradients(b, &[(v[0], v[1])], &v[2..]));
        self.all_or_poison(grads, wrt)
    }

    /// How this tensor changes where each of these tensors changes along the direction with it: the Jacobian-vector product.
    ///
    /// ```
    /// use inductor::{DType, trace_eval};
    /// let traced = trace_eval("along", |t| {
    ///     let (x, v) = (t.input("x", DType::F32, (2, 3)), t.input("v", DType::F32, (2, 3)));
    ///     Ok(vec![x.exp().sum(-1).jvp(&[(&x, &v)])]) // sum(exp(x) * v)
    /// })?;
    /// assert_eq!(traced.graph.ty(traced.graph.outputs[0].value).to_string(), "f32[2]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn jvp(&self, directions: &[(&Tensor, &Tensor)]) -> Tensor {
        if let Some((x, v)) = directions.iter().find(|(x, v)| x.ty != v.ty) {
            return self.fail("jvp", format!("the direction of {} is {}", x.ty, v.ty));
        }
        let operands: Vec<&Tensor> = [self].into_iter().chain(directions.iter().flat_map(|(x, v)| [*x, *v])).collect();
        self.recorder.apply("jvp", &operands, |b, v| along(b, v[0], &v[1..]))
    }

    /// The product of the Hessian of this 0-d tensor with respect to `x` and a direction.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2], &[1.0, 2.0]);
    /// let v = HostTensor::f32(&[2], &[1.0, 2.0]);
    /// let y = Device::cpu().compute([&x, &v], |_, [x, v]| x.pow(3.0).sum(()).hvp(&x, &v))?;
    /// assert_eq!(y.to_string(), "[ 6. 24.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn hvp(&self, x: &Tensor, direction: &Tensor) -> Tensor {
        if self.rank() != 0 {
            return self.fail("hvp", format!("a Hessian is of a 0-d tensor: {}", self.ty));
        }
        let first = self.grad(&[x]).swap_remove(0);
        first.vjp(direction, &[x]).swap_remove(0)
    }

    /// Gradients, or a poisoned tensor for each.
    fn all_or_poison(&self, grads: Vec<Tensor>, wrt: &[&Tensor]) -> Vec<Tensor> {
        if grads.len() == wrt.len() { grads } else { wrt.iter().map(|x| self.recorder.poison(x.ty.clone())).collect() }
    }
}

/// The message with the line of the op that it is about.
fn shown((message, location): crate::autograd::Fault) -> String {
    match location {
        Some(_) => TraceFault { location, message }.to_string(),
        None => message,
    }
}

/// Gradients with respect to floats, zeros where nothing flows.
fn gradients(b: &mut Builder, of: &[(Value, Value)], wrt: &[Value]) -> Result<Vec<Value>, String> {
    if let Some(&v) = wrt.iter().find(|v| !b.dtype(**v).is_float()) {
        return Err(format!("there are no gradients with respect to {}", b.ty(v)));
    }
    let grads = gradients_within(b, of, wrt).map_err(shown)?;
    wrt.iter().zip(grads).map(|(&v, g)| g.map_or_else(|| b.full(b.dtype(v), 0.0, b.shape(v).clone()), Ok)).collect()
}

/// The derivative of `y` along directions, which follow their values: a vector-Jacobian product is linear in its cotangent, and its own
/// derivative with respect to that is the product with the Jacobian (Townsend, "A new trick for calculating Jacobian vector products",
/// 2017).
fn along(b: &mut Builder, y: Value, directions: &[Value]) -> Result<Value, String> {
    let (points, directions): (Vec<Value>, Vec<Value>) = directions.chunks_exact(2).map(|pair| (pair[0], pair[1])).unzip();
    let cotangent = probe(b, y)?;
    let grads = gradients(b, &[(y, cotangent)], &points)?;
    let of: Vec<(Value, Value)> = grads.into_iter().zip(directions).collect();
    Ok(gradients(b, &of, &[cotangent])?.swap_remove(0))
}

/// A cotangent that nothing else in the graph is: what comes of it depends on its place alone, not on its value.
fn probe(b: &mut Builder, y: Value) -> Result<Value, String> {
    let number = 1.0 + b.graph().nodes.len() as f64 / (1u64 << 40) as f64;
    let exact = b.constant(DType::F64, number)?;
    let number = b.cast(exact, b.dtype(y))?;
    let shape = b.shape(y).clone();
    b.broadcast_to(number, &shape)
}
