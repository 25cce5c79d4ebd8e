//! Shorthands for ops with attributes, so that front ends, derivatives and decompositions stay readable.

use super::{Builder, Value};
use crate::ops::{self, Built, Real};
use crate::types::Dim;

/// Operands of one concatenation; longer lists become trees, since a kernel binds a limited number of buffers.
const CONCAT_WIDTH: usize = 6;

/// Structure.
impl Builder {
    /// Elements `start, start + step, ...` below `end` of dimension `dim`; nothing when that is all of it.
    pub fn slice(&mut self, x: Value, dim: usize, start: impl Into<Dim>, end: impl Into<Dim>, step: i64) -> Built {
        let (start, end) = (start.into(), end.into());
        if start.is(0) && step == 1 && self.shape(x).0.get(dim) == Some(&end) {
            return Ok(x);
        }
        self.op(ops::Slice { dim: dim as u32, start, end, step }, &[x])
    }

    /// Element `at` of dimension `dim`, which is dropped.
    pub fn select(&mut self, x: Value, dim: usize, at: impl Into<Dim>) -> Built {
        let at = at.into();
        let end = at.clone() + Dim::int(1);
        let one = self.slice(x, dim, at, end, 1)?;
        self.squeeze(one, dim)
    }

    /// `value` added before and after each dimension; negative amounts crop. Crops alone are views.
    pub fn pad(&mut self, x: Value, low: &[Dim], high: &[Dim], value: f64) -> Built {
        let zero = Dim::int(0);
        let is_crop = low.iter().chain(high).all(|d| d.known_le(&zero));
        if !is_crop || low.len() != self.shape(x).rank() || high.len() != low.len() {
            let interior = vec![0; low.len()];
            return self.op(ops::Pad { low: low.to_vec(), high: high.to_vec(), interior, value: Real::new(value) }, &[x]);
        }
        let mut out = x;
        for (i, (lo, hi)) in low.iter().zip(high).enumerate() {
            let end = self.shape(out)[i].clone() + hi;
            out = self.slice(out, i, zero.clone() - lo, end, 1)?;
        }
        Ok(out)
    }

    /// The order of `dims` reversed.
    pub fn flip(&mut self, x: Value, dims: &[usize]) -> Built {
        if dims.is_empty() { Ok(x) } else { self.op(ops::Flip { dims: dims.iter().map(|&d| d as u32).collect() }, &[x]) }
    }

    /// The operands one after the other along `dim`.
    pub fn concat(&mut self, parts: &[Value], dim: usize) -> Built {
        if let [only] = parts {
            return Ok(*only);
        }
        if parts.len() > CONCAT_WIDTH {
            let joined: Vec<Value> = parts.chunks(CONCAT_WIDTH).map(|p| self.concat(p, dim)).collect::<Built<_>>()?;
            return self.concat(&joined, dim);
        }
        self.op(ops::Concat { dim: dim as u32 }, parts)
    }

    /// The operands along a new dimension `dim`.
    pub fn stack(&mut self, parts: &[Value], dim: usize) -> Built {
        let parts: Vec<Value> = parts.iter().map(|&x| self.unsqueeze(x, dim)).collect::<Built<_>>()?;
        self.concat(&parts, dim)
    }

    /// A new dimension of size one at `dim`.
    pub fn unsqueeze(&mut self, x: Value, dim: usize) -> Built {
        let mut shape = self.shape(x).clone();
        if dim > shape.rank() {
            return Err(format!("unsqueeze: dimension {dim} is out of range for {}", self.ty(x)));
        }
        shape.0.insert(dim, Dim::int(1));
        self.reshape(x, shape)
    }

    /// Without dimension `dim`, which has size one.
    pub fn squeeze(&mut self, x: Value, dim: usize) -> Built {
        let mut shape = self.shape(x).clone();
        if !shape.0.get(dim).is_some_and(|d| d.is(1)) {
            return Err(format!("squeeze: dimension {dim} of {} is not one", self.ty(x)));
        }
        shape.0.remove(dim);
        self.reshape(x, shape)
    }

    /// `x` read at `index` along `dim`; see [`ops::Gather`].
    pub fn gather(&mut self, x: Value, index: Value, dim: usize) -> Built {
        self.op(ops::Gather { dim: dim as u32 }, &[x, index])
    }

    /// Slices of `x` along `dim` chosen by an index of any rank.
    pub fn index_select(&mut self, x: Value, dim: usize, index: Value) -> Built {
        self.op(ops::IndexSelect { dim: dim as u32 }, &[x, index])
    }

    /// Rows of `weight` chosen by an index of any rank.
    pub fn embedding(&mut self, weight: Value, index: Value) -> Built {
        self.index_select(weight, 0, index)
    }

    /// `src` added into `base` at `index` along `dim`; see [`ops::ScatterAdd`].
    pub fn scatter_add(&mut self, base: Value, index: Value, src: Value, dim: usize) -> Built {
        self.op(ops::ScatterAdd { dim: dim as u32, checked: true }, &[base, index, src])
    }

    /// Slices of `src` added into `base` along `dim`; see [`ops::IndexAdd`].
    pub fn index_add(&mut self, base: Value, dim: usize, index: Value, src: Value) -> Built {
        self.op(ops::IndexAdd { dim: dim as u32, checked: true }, &[base, index, src])
    }
}
