//! The one way to copy statements: under other axes, with what earlier statements have become, under one more mask.

use super::facts::live;
use super::{BodyBuilder, IndexExpr, Instr, Nest, Tag, Val, Write};
use crate::types::{DType, Dim};
use std::convert::Infallible;

/// What axes and values of a nest become in the body that its statements are copied into.
#[derive(Clone, Debug)]
pub struct Rebase {
    /// Coordinates over the new axes; `None` keeps the axes.
    axes: Option<Vec<IndexExpr>>,
    /// What each value became; `None` where it was not copied.
    values: Vec<Option<Val>>,
    /// Under what loads and checks happen, beside their own masks.
    mask: Option<Val>,
}

impl Rebase {
    /// Axes at these coordinates, no values yet.
    pub fn new(axes: Vec<IndexExpr>) -> Rebase {
        Rebase { axes: Some(axes), values: vec![], mask: None }
    }

    /// Axes as they are, no values yet.
    pub fn in_place() -> Rebase {
        Rebase { axes: None, values: vec![], mask: None }
    }

    /// Loads and checks only where `mask` holds, too.
    pub fn under(self, mask: Option<Val>) -> Rebase {
        Rebase { mask, ..self }
    }

    /// What a value became.
    pub fn value(&self, v: Val) -> Val {
        self.values.get(v.0 as usize).copied().flatten().expect("a value is copied before it is used")
    }

    /// What a value became, if it was copied.
    pub fn copied(&self, v: Val) -> Option<Val> {
        self.values.get(v.0 as usize).copied().flatten()
    }

    /// `to` stands for `v` from now on.
    pub fn set(&mut self, v: Val, to: Val) {
        let at = v.0 as usize;
        if self.values.len() <= at {
            self.values.resize(at + 1, None);
        }
        self.values[at] = Some(to);
    }

    /// An index under the new axes and values.
    pub fn index(&self, e: &IndexExpr) -> IndexExpr {
        let value = |v: u32, size: &Dim| IndexExpr::value(self.value(Val(v)).0, size);
        match &self.axes {
            Some(axes) => e.substitute(&|a| axes[a.id as usize].clone(), &value),
            None if e.values().is_empty() => e.clone(),
            None => e.substitute(&|a| IndexExpr::axis(a.id, &a.size), &value),
        }
    }

    /// An operation under the new axes and values, but without the mask.
    pub fn instr(&self, instr: &Instr) -> Instr {
        instr.map(&|v| self.value(v), &|e| self.index(e))
    }

    /// A store under the new axes and values.
    pub fn write(&self, w: &Write) -> Write {
        Write { index: self.index(&w.index), value: self.value(w.value), ..w.clone() }
    }

    /// A tag under the new values.
    pub fn tag(&self, tag: Tag) -> Tag {
        tag.map(|v| self.value(v))
    }

    /// Copies one statement.
    pub fn copy(&mut self, b: &mut BodyBuilder, nest: &Nest, v: Val) -> Val {
        self.place(b, nest, v, self.instr(&nest.stmt(v).instr))
    }

    fn place(&mut self, b: &mut BodyBuilder, nest: &Nest, v: Val, mut instr: Instr) -> Val {
        if let (Instr::Load { mask, .. } | Instr::Bound { mask, .. }, Some(_)) = (&mut instr, self.mask) {
            *mask = b.both(*mask, self.mask);
        }
        let to = b.push(instr, nest.stmt(v).dtype);
        self.set(v, to);
        to
    }

    /// Copies statements in their order.
    pub fn copy_all(&mut self, b: &mut BodyBuilder, nest: &Nest, which: impl IntoIterator<Item = Val>) {
        let Ok(()) = self.inline(b, nest, which, |_, _, _| Ok::<_, Infallible>(None));
    }

    /// Copies statements in their order, but for those that `inline` has a value for: it sees each under the new axes and values,
    /// without the mask, and its dtype.
    pub fn inline<E>(
        &mut self,
        b: &mut BodyBuilder,
        nest: &Nest,
        which: impl IntoIterator<Item = Val>,
        mut inline: impl FnMut(&mut BodyBuilder, &Instr, DType) -> Result<Option<Val>, E>,
    ) -> Result<(), E> {
        for v in which {
            let instr = self.instr(&nest.stmt(v).instr);
            match inline(b, &instr, nest.stmt(v).dtype)? {
                Some(to) => self.set(v, to),
                None => drop(self.place(b, nest, v, instr)),
            }
        }
        Ok(())
    }

    /// The nest with its statements copied, over a domain of these rows and columns.
    pub fn nest(self, nest: &Nest, rows: &[Dim], cols: &[Dim]) -> Nest {
        let out = self.rebuilt(nest, nest.values());
        Nest { rows: rows.into(), cols: cols.into(), ..out }
    }

    /// The nest with this body, its writes and its tag, whose values have been copied.
    pub fn finish(self, mut b: BodyBuilder, nest: &Nest) -> Nest {
        b.writes = nest.writes.iter().map(|w| self.write(w)).collect();
        b.tag = self.tag(nest.tag);
        b.inner.clone_from(&nest.inner);
        b.replace(nest)
    }

    fn rebuilt(mut self, nest: &Nest, which: impl IntoIterator<Item = Val>) -> Nest {
        let mut b = BodyBuilder::with_capacity(nest.body.len());
        self.copy_all(&mut b, nest, which);
        self.finish(b, nest)
    }
}

/// Drops statements that no write, tag or check needs.
pub fn eliminate_dead(nest: &mut Nest) {
    let live = live(nest);
    if !live.iter().all(|l| *l) {
        *nest = Rebase::in_place().rebuilt(nest, nest.values().filter(|v| live[v.0 as usize]));
    }
}
