//! Convolution and pooling of images as methods of tensors.

use super::Tensor;
use crate::ops::{Convolution, MaxPool, Pool, Window};
use crate::types::Dim;

/// Windows over images `[n, channels, height, width]`.
impl Tensor {
    /// Convolution with `weight` of shape `[out, in, rows, columns]`, with zeros around the image.
    ///
    /// ```
    /// use inductor::{DType, trace};
    /// let traced = trace("edges", |t| {
    ///     let x = t.input("x", DType::F32, (8, 1, 28, 28));
    ///     let w = t.input("w", DType::F32, (4, 1, 3, 3));
    ///     Ok(vec![x.conv2d(&w, 1, 1).max_pool2d(2)])
    /// }).unwrap();
    /// let ty = traced.graph.ty(traced.graph.outputs[0].value);
    /// assert_eq!(ty.to_string(), "f32[8, 4, 14, 14]");
    /// ```
    #[track_caller]
    pub fn conv2d(&self, weight: &Tensor, stride: u32, padding: u32) -> Tensor {
        let window = Window { stride: vec![stride; 2], padding: vec![padding; 2], dilation: vec![1; 2] };
        self.recorder.apply("conv2d", &[self, weight], |b, v| b.op(Convolution { window, groups: 1 }, v))
    }

    /// The largest element of each square of `size`, which do not overlap.
    #[track_caller]
    pub fn max_pool2d(&self, size: u32) -> Tensor {
        let window = Window { stride: vec![size; 2], padding: vec![0; 2], dilation: vec![1; 2] };
        let pool = Pool { window, kernel: vec![Dim::int(size as i64); 2], ceil: false };
        let mut results = self.recorder.apply_many("max_pool2d", &[self], |b, v| b.node(MaxPool { pool }, v));
        if results.is_empty() { self.recorder.poison(self.ty.clone()) } else { results.swap_remove(0) }
    }
}

#[cfg(test)]
mod tests {
    use crate::frontend::trace;
    use crate::types::DType;

    #[test]
    fn mistakes_are_named() {
        let error = trace("wrong", |t| {
            let (x, w) = (t.input("x", DType::F32, (2, 3, 8, 8)), t.input("w", DType::F32, (4, 1, 3, 3)));
            Ok(vec![x.conv2d(&w, 1, 0), x.conv2d(&x, 0, 0), x.max_pool2d(9)])
        });
        let error = error.unwrap_err().to_string();
        for part in ["conv2d: convolution: the weight takes 1 channels", "stride and dilation are at least one", "max_pool2d:", "3 faults"] {
            assert!(error.contains(part), "{part} is missing in {error}");
        }
    }
}
