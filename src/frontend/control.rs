//! Control flow in a recorded program: closures become bodies that stay loops and branches in the compiled step.

use super::region::{self, Scanned};
use super::tensor::Tensor;
use super::trace::Trace;
use super::vmap::Tensors;
use crate::types::{DType, Dim, Shape, TensorType};

/// Branches and loops. Bodies read whatever they like from around them; keys that a body asks for ([`Trace::key`]) differ from trip to
/// trip. What a body computes is read outside of it only where it is returned.
impl Trace {
    /// `then` where the predicate, a 0-d bool, holds, else `otherwise`; both give tensors of the same types. Only the branch that is
    /// taken runs: the other computes, checks and draws nothing. Differentiable. As `torch.cond` and `lax.cond`.
    ///
    /// ```
    /// use inductor::{Config, DType, Device, HostTensor, compile, trace_eval};
    /// let traced = trace_eval("branch", |t| {
    ///     let x = t.input("x", DType::F32, 3);
    ///     Ok(vec![t.cond(&x.sum_all().gt(0.0), || x.sin(), || x.exp())])
    /// })?;
    /// let step = compile(&traced, &Device::cpu(), &Config::default())?;
    /// let y = step.run(&mut step.init(0)?, [&HostTensor::f32(&[3], &[0.0, -1.0, 0.5])])?.outputs()?.remove(0).1;
    /// assert!((y.to_f32()[1] - (-1.0f32).exp()).abs() < 1e-6);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn cond<R: Tensors>(&self, predicate: &Tensor, then: impl FnOnce() -> R, otherwise: impl FnOnce() -> R) -> R::Owned {
        let start = self.nodes();
        let (then, otherwise) = (self.recorder.in_body(then), self.recorder.in_body(otherwise));
        let (yes, no) = (all_of(&then), all_of(&otherwise));
        if yes.len() != no.len() || yes.iter().zip(&no).any(|(a, b)| a.ty != b.ty) {
            let poisoned = yes.iter().chain(&no).chain([predicate]).any(Tensor::is_poisoned);
            if !poisoned {
                self.recorder.fault(format!("cond: the branches give different types: {} and {}", list(&yes), list(&no)));
            }
            return then.rebuild(&mut self.poisoned(types(&yes)).into_iter());
        }
        let operands: Vec<&Tensor> = [predicate].into_iter().chain(&yes).chain(&no).collect();
        let results = self.recorder.apply_many("cond", &operands, |b, v| {
            let (yes, no) = v[1..].split_at(yes.len());
            region::cond(b, start, v[0], yes, no)
        });
        then.rebuild(&mut self.results(results, types(&yes)).into_iter())
    }

    /// Runs `f(carry, slice) -> (carry, y)` over the slices of `xs` along dimension 0, in order: the last carry, and all `y` stacked
    /// along a new dimension 0. A loop in the compiled step, whose cost to compile does not grow with its trips. Differentiable: the
    /// carries of all trips are saved, and trips are computed again from them. As `lax.scan`.
    ///
    /// ```
    /// use inductor::{Config, DType, Device, HostTensor, compile, trace_eval};
    /// let traced = trace_eval("balance", |t| {
    ///     let xs = t.input("xs", DType::F32, 4);
    ///     let (last, all) = t.scan(|sum, x| (&sum * 0.5 + &x, sum), t.zeros(DType::F32, ()), xs);
    ///     Ok(vec![last, all])
    /// })?;
    /// let step = compile(&traced, &Device::cpu(), &Config::default())?;
    /// let y = step.run(&mut step.init(0)?, [&HostTensor::f32(&[4], &[1.0, 2.0, 4.0, 8.0])])?.outputs()?;
    /// assert_eq!((y[0].1.to_f32(), y[1].1.to_f32()), (vec![10.625], vec![0.0, 1.0, 2.5, 5.25]));
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn scan<C: Tensors<Owned = C>, X: Tensors, Y: Tensors>(&self, f: impl FnOnce(C, X::Owned) -> (C, Y), init: C, xs: X) -> (C, Y::Owned) {
        self.scan_along(f, init, xs, false)
    }

    /// As [`Trace::scan`], from the last slice to the first; each `y` is stacked in the place of its slice.
    #[track_caller]
    pub fn reverse_scan<C: Tensors<Owned = C>, X: Tensors, Y: Tensors>(
        &self,
        f: impl FnOnce(C, X::Owned) -> (C, Y),
        init: C,
        xs: X,
    ) -> (C, Y::Owned) {
        self.scan_along(f, init, xs, true)
    }

    /// `f` of each slice of `xs` along dimension 0, stacked along a new dimension 0: a scan without carry, which takes the memory of one
    /// slice at a time. As `lax.map`.
    ///
    /// ```
    /// use inductor::{DType, trace_eval};
    /// let traced = trace_eval("rows", |t| Ok(vec![t.map(|row| row.softmax(-1), t.input("x", DType::F32, (1000, 8)))]))?;
    /// assert_eq!(traced.graph.ty(traced.graph.outputs[0].value).to_string(), "f32[1000, 8]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn map<X: Tensors, Y: Tensors>(&self, f: impl FnOnce(X::Owned) -> Y, xs: X) -> Y::Owned {
        self.scan_along(|none: Vec<Tensor>, x| (none, f(x)), vec![], xs, false).1
    }

    /// `f(index, carry) -> carry` for each index of `0..trips`, an i32; the last carry. Differentiable. As `lax.fori_loop`.
    ///
    /// ```
    /// use inductor::{Config, DType, Device, compile, trace_eval};
    /// let traced = trace_eval("powers", |t| Ok(vec![t.fori_loop(10, |_, x| &x + &x, t.ones(DType::F32, ()))]))?;
    /// let step = compile(&traced, &Device::cpu(), &Config::default())?;
    /// assert_eq!(step.run(&mut step.init(0)?, ())?.outputs()?[0].1.to_f32(), [1024.0]);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn fori_loop<C: Tensors<Owned = C>>(&self, trips: impl Into<Dim>, f: impl FnOnce(Tensor, C) -> C, init: C) -> C {
        let counted = |mut carry: Vec<Tensor>, _: Vec<Tensor>| {
            let index = carry.remove(0);
            let next = &index + 1;
            ([vec![next], all_of(&f(index, init.rebuild(&mut carry.into_iter())))].concat(), vec![])
        };
        let first = [vec![self.zeros(DType::I32, ())], all_of(&init)].concat();
        let mut last = self.scanned(counted, first, vec![], trips.into(), false).0;
        last.remove(0);
        init.rebuild(&mut last.into_iter())
    }

    /// `body` again and again, as long as `condition`, a 0-d bool, holds; the last values. How many trips it takes is known only while it
    /// runs, so that it is not differentiable. As `torch.while_loop` and `lax.while_loop`.
    ///
    /// ```
    /// use inductor::{Config, DType, Device, HostTensor, compile, trace_eval};
    /// let traced = trace_eval("root", |t| {
    ///     let x = t.input("x", DType::F32, ());
    ///     Ok(vec![t.while_loop(|y| (&y * &y - &x).abs().gt(1e-3), |y| (&y + &x / &y) * 0.5, x.clone())])
    /// })?;
    /// let step = compile(&traced, &Device::cpu(), &Config::default())?;
    /// let y = step.run(&mut step.init(0)?, [&HostTensor::f32(&[], &[9.0])])?.outputs()?.remove(0).1;
    /// assert!((y.to_f32()[0] - 3.0).abs() < 1e-3);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn while_loop<C: Tensors<Owned = C>>(&self, condition: impl FnOnce(C) -> Tensor, body: impl FnOnce(C) -> C, init: C) -> C {
        let like = init;
        let init = all_of(&like);
        let (start, arguments) = (self.nodes(), self.placeholders(&types(&init)));
        let given = || like.rebuild(&mut arguments.iter().cloned());
        let holds = self.recorder.in_body(|| condition(given()));
        let next = all_of(&self.recorder.in_body(|| body(given())));
        if let Some(fault) = changed("while_loop", &init, &next) {
            self.recorder.fault(fault);
            return like.rebuild(&mut self.poisoned(types(&init)).into_iter());
        }
        let n = init.len();
        let operands: Vec<&Tensor> = init.iter().chain(&arguments).chain([&holds]).chain(&next).collect();
        let results =
            self.recorder.apply_many("while_loop", &operands, |b, v| region::while_loop(b, start, &v[..n], &v[n..2 * n], v[2 * n], &v[2 * n + 1..]));
        like.rebuild(&mut self.results(results, types(&init)).into_iter())
    }

    #[track_caller]
    fn scan_along<C: Tensors<Owned = C>, X: Tensors, Y: Tensors>(
        &self,
        f: impl FnOnce(C, X::Owned) -> (C, Y),
        init: C,
        xs: X,
        reverse: bool,
    ) -> (C, Y::Owned) {
        let (carries, slices) = (all_of(&init), all_of(&xs));
        let length = slices.first().and_then(|x| x.shape().0.first()).cloned();
        let sliced = |x: &Tensor| x.shape().0.first().is_some_and(|n| Some(n) == length.as_ref());
        if let Some(x) = slices.iter().find(|x| !sliced(x)) {
            x.report("scan", format!("{} is not sliced along a dimension 0 of the same size as the others", x.ty()));
        } else if slices.is_empty() {
            self.recorder.fault("scan: there is nothing to slice; fori_loop takes a number of trips".into());
        }
        let mut given = None;
        let listed = |carry: Vec<Tensor>, x: Vec<Tensor>| {
            let (carry, y) = f(init.rebuild(&mut carry.into_iter()), xs.rebuild(&mut x.into_iter()));
            (all_of(&carry), all_of(given.insert(y)))
        };
        let (last, ys) = self.scanned(listed, carries, slices, length.unwrap_or(Dim::int(1)), reverse);
        (init.rebuild(&mut last.into_iter()), given.expect("the body was recorded").rebuild(&mut ys.into_iter()))
    }

    #[track_caller]
    fn scanned(
        &self,
        f: impl FnOnce(Vec<Tensor>, Vec<Tensor>) -> (Vec<Tensor>, Vec<Tensor>),
        init: Vec<Tensor>,
        xs: Vec<Tensor>,
        length: Dim,
        reverse: bool,
    ) -> (Vec<Tensor>, Vec<Tensor>) {
        let slice = |x: &Tensor| TensorType { dtype: x.dtype(), shape: Shape::new(x.shape().0.iter().skip(1).cloned().collect()) };
        let taken: Vec<TensorType> = types(&init).into_iter().chain(xs.iter().map(slice)).collect();
        let (start, arguments) = (self.nodes(), self.placeholders(&taken));
        let (next, ys) = self.recorder.in_body(|| f(arguments[..init.len()].to_vec(), arguments[init.len()..].to_vec()));
        let stacked = |y: &Tensor| TensorType { dtype: y.dtype(), shape: Shape::new([std::slice::from_ref(&length), &y.shape().0[..]].concat()) };
        let expected: Vec<TensorType> = types(&init).into_iter().chain(ys.iter().map(stacked)).collect();
        if let Some(fault) = changed("scan", &init, &next) {
            self.recorder.fault(fault);
            return split(self.poisoned(expected), init.len());
        }
        let (carries, given) = (init.len(), init.len() + xs.len());
        let operands: Vec<&Tensor> = init.iter().chain(&xs).chain(&arguments).chain(&next).chain(&ys).collect();
        let results = self.recorder.apply_many("scan", &operands, |b, v| {
            let (arguments, results) = v[given..].split_at(given);
            let of = Scanned { length: length.clone(), reverse, init: &v[..carries], xs: &v[carries..given] };
            region::scan(b, start, of, arguments, results)
        });
        split(self.results(results, expected), carries)
    }

    /// How many nodes there are so far.
    fn nodes(&self) -> usize {
        self.recorder.builder.borrow().graph().nodes.len()
    }

    /// Values for a body's arguments.
    #[track_caller]
    fn placeholders(&self, types: &[TensorType]) -> Vec<Tensor> {
        let placed = self.recorder.apply_many("argument", &[], |b, _| Ok(types.iter().map(|ty| b.placeholder(ty.clone())).collect()));
        self.results(placed, types.to_vec())
    }

    /// Results, or poisoned tensors of these types.
    fn results(&self, results: Vec<Tensor>, types: Vec<TensorType>) -> Vec<Tensor> {
        if results.len() == types.len() { results } else { self.poisoned(types) }
    }

    fn poisoned(&self, types: Vec<TensorType>) -> Vec<Tensor> {
        types.into_iter().map(|ty| self.recorder.poison(ty)).collect()
    }
}

/// What is wrong with the next values of what is carried, unless a mistake was reported before.
fn changed(op: &str, before: &[Tensor], after: &[Tensor]) -> Option<String> {
    let same = before.len() == after.len() && before.iter().zip(after).all(|(a, b)| a.ty == b.ty);
    let poisoned = before.iter().chain(after).any(Tensor::is_poisoned);
    (!same && !poisoned).then(|| format!("{op}: the body takes {} and gives {}", list(before), list(after)))
}

fn split(mut all: Vec<Tensor>, at: usize) -> (Vec<Tensor>, Vec<Tensor>) {
    let rest = all.split_off(at);
    (all, rest)
}

/// All tensors of what a body takes or gives, in order.
fn all_of(tensors: &impl Tensors) -> Vec<Tensor> {
    let mut all = vec![];
    tensors.collect(&mut all);
    all
}

fn types(tensors: &[Tensor]) -> Vec<TensorType> {
    tensors.iter().map(|x| x.ty.clone()).collect()
}

fn list(tensors: &[Tensor]) -> String {
    format!("({})", tensors.iter().map(|x| x.ty.to_string()).collect::<Vec<_>>().join(", "))
}
