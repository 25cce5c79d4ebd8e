//! Control flow: blocks of nests that are repeated, or skipped.
//!
//! | op | first | then |
//! | --- | --- | --- |
//! | `cond` | `skip[k]` = another branch is taken | once: each branch, skipped by its word |
//! | `scan` | carries = their starting values, `trip = 0` | `length` times: a trip |
//! | `while_loop` | the same | until `skip`: the condition; `skip` = it does not hold; a trip, skipped by the word |
//!
//! Carried values live in the buffers of the results, and are to a trip what state is to a step: it reads what they were, and new
//! values are committed behind everything that reads the old. A trip takes its slices of stacked operands by loads at a place that
//! depends on `trip`, which fuse into whoever reads them, and writes its slices of stacked results in the same way. So nothing in a
//! trip depends on its number but through memory, and the same commands run again.
//!
//! A block that may be skipped has an input `skip`; every command of it looks at that word, and those of blocks within it do, too.
//! What computes a word is never skipped: it holds where the word around it holds.

use super::{Border, Lowered, Lowering};
use crate::error::Error;
use crate::graph::{Graph, InputRole, OutputRole, ValueMap};
use crate::loop_ir::{BodyBuilder, BufferId, IndexExpr, Phase, Tag, Val, flatten};
use crate::ops::{Cond, Flow, FoldIn, NestBuilder, OpDef, OperandView, Scan, WhileLoop};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, Provenance, TensorType};

/// Blocks of commands, of which the first runs once and the others as often as `repeat` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Control {
    /// How often the blocks behind the first run.
    pub repeat: Repeat,
    /// The blocks, in order.
    pub blocks: Vec<Block>,
}

/// How often blocks run, in turn.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Repeat {
    /// So many times.
    Times(Dim),
    /// Until this word is not zero behind the last of them.
    Until(BufferId),
}

/// A block with buffers of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Its nests.
    pub lowered: Lowered,
    /// Which of its buffers are buffers of what is around it: its own, the other.
    pub border: Vec<(BufferId, BufferId)>,
}

/// A buffer of the lowering around a block.
type Outer = (BufferId, TensorType);

const WORD: DType = DType::U32;

impl Lowering {
    /// The nest that stands for control flow, and its blocks.
    pub(super) fn control(
        &mut self,
        phase: Phase,
        name: &'static str,
        flow: Flow,
        provenance: &Provenance,
        operands: Vec<OperandView>,
        results: Vec<OperandView>,
    ) -> Result<(), Error> {
        let operands = operands.iter().map(|view| self.whole(phase, view, provenance)).collect::<Result<Vec<Outer>, Error>>()?;
        let results: Vec<Outer> = results.into_iter().map(|v| (v.buffer, v.ty.clone())).collect();
        let mut blocks = Blocks { phase, provenance, operands: &operands, results: &results, words: vec![], blocks: vec![], around: self };
        let repeat = match &flow {
            Flow::Cond(cond) => blocks.cond(cond)?,
            Flow::Scan(scan) => blocks.scan(scan)?,
            Flow::While(looped) => blocks.while_loop(looped)?,
        };
        let Blocks { words, blocks, .. } = blocks;
        let tag = Tag::Control { number: self.out.controls.len() as u32 };
        self.out.controls.push(Control { repeat, blocks });
        let written: Vec<Outer> = results.iter().chain(&words).cloned().collect();
        let emit = |cx: &mut NestBuilder<'_>| stand_for(cx, &operands, &written, tag);
        self.append(phase, false, name, provenance, vec![], vec![], emit).map_err(Error::compile)
    }

    /// A buffer that holds exactly the view's elements.
    fn whole(&mut self, phase: Phase, view: &OperandView, provenance: &Provenance) -> Result<Outer, Error> {
        if view.is_whole() {
            return Ok((view.buffer, view.ty.clone()));
        }
        let copy = self.buffer("operand", &view.ty);
        self.copy(phase, false, view, copy.buffer, provenance)?;
        Ok((copy.buffer, copy.ty.clone()))
    }

    /// The values of a body's outputs.
    fn body(&mut self, phase: Phase, body: &Graph, operands: Vec<OperandView>) -> Result<Vec<OperandView>, Error> {
        let mut views: ValueMap<OperandView> = body.inputs.iter().map(|i| i.value).zip(operands).collect();
        for id in body.ids() {
            self.node(phase, body, id, &mut views)?;
        }
        Ok(body.outputs.iter().map(|o| views[&o.value].clone()).collect())
    }
}

/// Reads every operand and writes every result, to those who ask what depends on what. Nobody runs it.
fn stand_for(cx: &mut NestBuilder<'_>, operands: &[Outer], written: &[Outer], tag: Tag) -> Result<(), String> {
    cx.nest(&[], &[], |b, _, _| {
        for (buffer, ty) in operands {
            b.load(OperandView::of(*buffer, ty.clone()).at(&vec![IndexExpr::zero(); ty.shape.rank()]));
        }
        for (buffer, ty) in written {
            let nothing = b.constant(ty.dtype, 0.0);
            b.write(*buffer, IndexExpr::zero(), nothing);
        }
        b.tag = tag;
        Ok(())
    })
}

/// The blocks of one op in the making.
struct Blocks<'a> {
    around: &'a mut Lowering,
    phase: Phase,
    provenance: &'a Provenance,
    operands: &'a [Outer],
    results: &'a [Outer],
    /// Words that blocks count and decide by.
    words: Vec<Outer>,
    blocks: Vec<Block>,
}

impl Blocks<'_> {
    fn word(&mut self, name: &str, dtype: DType) -> Outer {
        let view = self.around.buffer(name, &TensorType::new(dtype, ()));
        self.words.push((view.buffer, view.ty.clone()));
        (view.buffer, view.ty.clone())
    }

    /// The word that skips what is around.
    fn skip_around(&self) -> Option<Outer> {
        self.around.out.skip.map(|word| (word, TensorType::new(WORD, ())))
    }

    /// A block that runs where what is around it does, and where `skip` is zero, if one is given.
    fn inner(&self, skip: Option<&Outer>) -> Inner {
        let mut inner = self.unskipped();
        if let Some(word) = skip.cloned().or_else(|| self.skip_around()) {
            inner.lowering.out.skip = Some(inner.input(&word, InputRole::Input).buffer);
        }
        inner
    }

    /// A block that always runs.
    fn unskipped(&self) -> Inner {
        let mut lowering = Lowering::new(self.around.rounds, self.around.admitted);
        lowering.out.is_block = true;
        Inner { lowering, border: vec![], phase: self.phase, provenance: self.provenance.clone() }
    }

    fn push(&mut self, inner: Inner) -> Result<(), Error> {
        self.blocks.push(Block { lowered: inner.lowering.finish()?, border: inner.border });
        Ok(())
    }

    fn cond(&mut self, cond: &Cond) -> Result<Repeat, Error> {
        let skips = [self.word("skip.then", WORD), self.word("skip.else", WORD)];
        let predicate = self.operands[0].clone();
        self.decide(&predicate, &[(&skips[0], false), (&skips[1], true)])?;
        for (body, skip) in [&cond.then_body, &cond.else_body].into_iter().zip(&skips) {
            let mut inner = self.inner(Some(skip));
            let operands = self.operands[1..].iter().map(|o| inner.input(o, InputRole::Input)).collect();
            let values = inner.lowering.body(self.phase, body, operands)?;
            for (value, result) in values.iter().zip(self.results) {
                inner.output(value, result)?;
            }
            self.push(inner)?;
        }
        Ok(Repeat::Times(Dim::int(1)))
    }

    /// Words that are not zero where the predicate is as given, or what is around is skipped.
    fn decide(&mut self, predicate: &Outer, words: &[(&Outer, bool)]) -> Result<(), Error> {
        let mut inner = self.unskipped();
        let predicate = inner.input(predicate, InputRole::Input);
        let around = self.skip_around().map(|word| inner.input(&word, InputRole::Input));
        for (word, skipped_if) in words {
            inner.compute(word, |b| {
                let holds = b.load(predicate.at(&[]));
                let mut skipped = if *skipped_if { holds } else { b.call(ScalarFn::LogicalNot, &[holds]) };
                if let Some(word) = &around {
                    let outer = b.load(word.at(&[]));
                    let outer = b.cast(outer, DType::Bool);
                    skipped = b.call(ScalarFn::LogicalOr, &[outer, skipped]);
                }
                b.cast(skipped, WORD)
            })?;
        }
        self.push(inner)
    }

    /// The starting values of what is carried, and the first trip's number.
    fn begin(&mut self, carries: usize, trip: &Outer) -> Result<(), Error> {
        let mut inner = self.inner(None);
        for (start, result) in self.operands.iter().zip(self.results).take(carries) {
            let start = inner.input(start, InputRole::Input);
            inner.output(&start, result)?;
        }
        inner.compute(trip, |b| b.constant(DType::I32, 0.0))?;
        self.push(inner)
    }

    fn scan(&mut self, scan: &Scan) -> Result<Repeat, Error> {
        let trip = self.word("trip", DType::I32);
        let carries = scan.carries as usize;
        self.begin(carries, &trip)?;
        let mut inner = self.inner(None);
        let number = inner.input(&trip, InputRole::Buffer);
        let index = if scan.reverse { inner.counted_from_the_end(&number, &scan.length)? } else { number.clone() };
        let mut operands: Vec<OperandView> = self.results[..carries].iter().map(|carry| inner.input(carry, InputRole::Buffer)).collect();
        let split = scan.split(self.operands).map_err(Error::compile)?;
        for stacked in split.stacked {
            let whole = inner.input(stacked, InputRole::Input);
            operands.push(inner.slice(&whole, &index, &scan.length)?);
        }
        inner.constants(split.constants, &scan.body, &index, &mut operands)?;
        let mut values = inner.lowering.body(self.phase, &scan.body, operands)?;
        let slices = values.split_off(carries);
        for (slice, stacked) in slices.iter().zip(&self.results[carries..]) {
            inner.store_slice(slice, stacked, &index, &scan.length)?;
        }
        inner.commit(&values, &self.results[..carries], &number)?;
        self.push(inner)?;
        Ok(Repeat::Times(scan.length.clone()))
    }

    fn while_loop(&mut self, looped: &WhileLoop) -> Result<Repeat, Error> {
        let (trip, go, skip) = (self.word("trip", DType::I32), self.word("condition", DType::Bool), self.word("skip", WORD));
        let carries = looped.carried(self.operands.len());
        self.begin(carries, &trip)?;
        let mut inner = self.inner(None);
        let (_, operands) = self.trip_operands(&mut inner, looped, carries, &trip, InputRole::Input)?;
        let condition = inner.lowering.body(self.phase, &looped.condition, operands)?;
        inner.output(&condition[0], &go)?;
        self.push(inner)?;
        self.decide(&go, &[(&skip, false)])?;
        let mut inner = self.inner(Some(&skip));
        let (number, operands) = self.trip_operands(&mut inner, looped, carries, &trip, InputRole::Buffer)?;
        let values = inner.lowering.body(self.phase, &looped.body, operands)?;
        inner.commit(&values, self.results, &number)?;
        self.push(inner)?;
        Ok(Repeat::Until(skip.0))
    }

    /// The trip's number, and what condition and body of a `while_loop` take.
    fn trip_operands(
        &self,
        inner: &mut Inner,
        looped: &WhileLoop,
        carries: usize,
        trip: &Outer,
        role: InputRole,
    ) -> Result<(OperandView, Vec<OperandView>), Error> {
        let number = inner.input(trip, role.clone());
        let mut operands: Vec<OperandView> = self.results.iter().map(|carry| inner.input(carry, role.clone())).collect();
        inner.constants(&self.operands[carries..], &looped.body, &number, &mut operands)?;
        Ok((number, operands))
    }
}

/// A block in the making.
struct Inner {
    lowering: Lowering,
    border: Vec<(BufferId, BufferId)>,
    phase: Phase,
    provenance: Provenance,
}

impl Inner {
    /// A buffer of what is around, as an input of the block.
    fn input(&mut self, outer: &Outer, role: InputRole) -> OperandView {
        let name = format!("operand.{}", self.border.len());
        let view = self.lowering.buffer(&name, &outer.1);
        self.lowering.taken.insert(view.buffer);
        self.lowering.out.inputs.push(Border { name, role, buffer: view.buffer });
        self.border.push((view.buffer, outer.0));
        view
    }

    /// Gives a value to a buffer of what is around.
    fn output(&mut self, value: &OperandView, outer: &Outer) -> Result<(), Error> {
        let name = format!("result.{}", self.border.len());
        let buffer = self.lowering.owned(self.phase, &name, value, &self.provenance)?;
        self.place_output(name, buffer, outer);
        Ok(())
    }

    fn place_output(&mut self, name: String, buffer: BufferId, outer: &Outer) {
        self.lowering.out.outputs.push(Border { name, role: OutputRole::User, buffer });
        self.border.push((buffer, outer.0));
    }

    /// Computes a word of what is around.
    fn compute(&mut self, outer: &Outer, value: impl FnOnce(&mut BodyBuilder) -> Val) -> Result<(), Error> {
        let word = self.value("word", &outer.1, vec![], false, |cx| cx.pointwise(0, |b, _| Ok(value(b))))?;
        self.lowering.taken.insert(word.buffer);
        self.place_output(format!("word.{}", self.border.len()), word.buffer, outer);
        Ok(())
    }

    /// A value of a nest.
    fn value(
        &mut self,
        name: &'static str,
        ty: &TensorType,
        operands: Vec<OperandView>,
        commit: bool,
        emit: impl FnOnce(&mut NestBuilder<'_>) -> Result<(), String>,
    ) -> Result<OperandView, Error> {
        let view = self.lowering.buffer(name, ty);
        let results = vec![(view.buffer, ty.clone())];
        let (phase, provenance) = (self.phase, self.provenance.clone());
        self.lowering.append(phase, commit, name, &provenance, operands, results, emit).map_err(Error::compile)?;
        Ok(view)
    }

    /// The index of a trip of a loop that goes from the end.
    fn counted_from_the_end(&mut self, number: &OperandView, length: &Dim) -> Result<OperandView, Error> {
        let last = IndexExpr::zero().plus(&(length.clone() - Dim::int(1)));
        self.value("index", &number.ty, vec![number.clone()], false, |cx| {
            cx.pointwise(0, |b, _| {
                let (last, number) = (b.index(&last, DType::I32), b.load(number.at(&[])));
                Ok(b.call(ScalarFn::Sub, &[last, number]))
            })
        })
    }

    /// The slice of a trip.
    fn slice(&mut self, whole: &OperandView, index: &OperandView, length: &Dim) -> Result<OperandView, Error> {
        let ty = TensorType { dtype: whole.ty.dtype, shape: crate::types::Shape::new(whole.ty.shape.0[1..].to_vec()) };
        self.value("slice", &ty, vec![whole.clone(), index.clone()], false, |cx| {
            cx.pointwise(0, |b, at| {
                let place = [&[place(b, index, length)], at].concat();
                Ok(b.load(whole.at(&place)))
            })
        })
    }

    /// Writes the slice of a trip.
    fn store_slice(&mut self, slice: &OperandView, outer: &Outer, index: &OperandView, length: &Dim) -> Result<(), Error> {
        let stacked = self.input(outer, InputRole::Buffer);
        let (phase, provenance) = (self.phase, self.provenance.clone());
        let operands = vec![slice.clone(), index.clone()];
        let emit = |cx: &mut NestBuilder<'_>| {
            cx.nest(&slice.ty.shape.0, &[], |b, at, _| {
                let value = b.load(slice.at(at));
                let place = [&[place(b, index, length)], at].concat();
                b.write(stacked.buffer, flatten(&place, &stacked.ty.shape.0), value);
                Ok(())
            })
        };
        self.lowering.append(phase, true, "stack", &provenance, operands, vec![], emit).map_err(Error::compile)
    }

    /// What all trips share; a key is folded with the trip's index.
    fn constants(&mut self, constants: &[Outer], body: &Graph, index: &OperandView, operands: &mut Vec<OperandView>) -> Result<(), Error> {
        for outer in constants {
            let shared = self.input(outer, InputRole::Input);
            let is_key = body.inputs.get(operands.len()).is_some_and(|i| i.role == InputRole::Key);
            operands.push(match is_key {
                false => shared,
                true => {
                    let given = vec![shared.clone(), self.for_each_key(index, &shared.ty)?];
                    self.value("key", &shared.ty, given, false, |cx| FoldIn { stream: 0 }.lower(cx))?
                }
            });
        }
        Ok(())
    }

    /// The index of a trip, once for each key of a batch.
    fn for_each_key(&mut self, index: &OperandView, keys: &TensorType) -> Result<OperandView, Error> {
        let lead = crate::types::Shape::new(keys.shape.0[..keys.shape.rank() - 1].to_vec());
        if lead.rank() == 0 {
            return Ok(index.clone());
        }
        let ty = TensorType { dtype: index.ty.dtype, shape: lead };
        self.value("indices", &ty, vec![index.clone()], false, |cx| cx.pointwise(0, |b, _| Ok(b.load(index.at(&[])))))
    }

    /// New values of what is carried, and the next trip's number.
    fn commit(&mut self, values: &[OperandView], carries: &[Outer], number: &OperandView) -> Result<(), Error> {
        let next = self.value("next", &number.ty, vec![number.clone()], false, |cx| {
            cx.pointwise(0, |b, _| {
                let (number, one) = (b.load(number.at(&[])), b.constant(DType::I32, 1.0));
                Ok(b.call(ScalarFn::Add, &[number, one]))
            })
        })?;
        let own = |outer: &Outer| self.border.iter().find(|(_, o)| *o == outer.0).map(|(own, _)| *own).expect("carried values are inputs");
        let mut states: Vec<_> = carries.iter().map(own).zip(values.iter().cloned()).collect();
        states.push((number.buffer, next));
        self.lowering.states.extend(states.into_iter().map(|(buffer, view)| (buffer, view, self.provenance.clone())));
        Ok(())
    }
}

/// The index of a trip as a coordinate of what is stacked.
fn place(b: &mut BodyBuilder, index: &OperandView, length: &Dim) -> IndexExpr {
    let v = b.load(index.at(&[]));
    IndexExpr::value(v.0, length)
}
