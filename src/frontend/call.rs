//! Calls of PyTorch's operators from methods of tensors: the rows that imported programs are built by.

use super::aten::args::{Arg, Args, Scalar};
use super::aten::row;
use super::recorder::Recorder;
use super::tensor::{Operand, Tensor};
use crate::graph::Value;
use crate::ops::Reduction;
use crate::types::{DType, Dim, Dims, Shape};
use std::borrow::Borrow;
use std::rc::Rc;

/// A call under construction: an operator with its overload, and arguments by the names of its schema.
pub(super) struct Call {
    recorder: Rc<Recorder>,
    name: &'static str,
    tensors: Vec<Tensor>,
    args: Vec<(&'static str, Given)>,
}

/// An argument. Tensors are numbered in the call's list until the call is built.
#[derive(Clone, Debug)]
pub(super) enum Given {
    Tensor(Tensor),
    Tensors(Vec<Tensor>),
    Plain(Arg),
}

impl Tensor {
    /// A call with this tensor as the argument `self`.
    pub(super) fn call(&self, name: &'static str) -> Call {
        self.call_as(name, "self")
    }

    /// A call with this tensor as the argument of that name.
    pub(super) fn call_as(&self, name: &'static str, argument: &'static str) -> Call {
        Call::new(&self.recorder, name).with(argument, self)
    }
}

impl Call {
    pub(super) fn new(recorder: &Rc<Recorder>, name: &'static str) -> Call {
        Call { recorder: recorder.clone(), name, tensors: vec![], args: vec![] }
    }

    /// With an argument.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<Given>) -> Call {
        let value = value.into();
        match &value {
            Given::Tensor(x) => self.tensors.push(x.clone()),
            Given::Tensors(list) => self.tensors.extend(list.iter().cloned()),
            Given::Plain(_) => {}
        }
        self.args.push((name, value));
        self
    }

    /// Records it, and gives its first result.
    #[track_caller]
    pub(super) fn one(self) -> Tensor {
        self.many(1).swap_remove(0)
    }

    /// Records it, and gives its only result as an index, i32.
    #[track_caller]
    pub(super) fn index(self) -> Tensor {
        self.one().as_index()
    }

    /// Records it, and gives its first two results.
    #[track_caller]
    pub(super) fn pair(self) -> (Tensor, Tensor) {
        let mut both = self.many(2);
        let second = both.swap_remove(1);
        (both.swap_remove(0), second)
    }

    /// Records it, and gives values with their indices, i32.
    #[track_caller]
    pub(super) fn indexed(self) -> (Tensor, Tensor) {
        let (values, indices) = self.pair();
        (values, indices.as_index())
    }

    /// Records it, and gives its results, which are so many.
    #[track_caller]
    pub(super) fn many(self, count: usize) -> Vec<Tensor> {
        let Call { recorder, name, tensors, args } = self;
        let op = name.split('.').next().unwrap_or(name);
        let operands: Vec<&Tensor> = tensors.iter().collect();
        let mut results = recorder.apply_rows(op, &operands, |cx, values| {
            let args = resolve(args, values);
            let row = row(name).ok_or("there is no such operator")?;
            let results = (row.build)(cx, &args)?;
            args.expect_all_read()?;
            if results.len() < count { Err(format!("it gives {} results", results.len())) } else { Ok(results) }
        });
        results.truncate(count);
        let guess = tensors.first().map_or_else(|| crate::types::TensorType::new(DType::F32, ()), |x| x.ty.clone());
        results.resize_with(count, || recorder.poison(guess.clone()));
        results
    }
}

/// The arguments, with the values of their tensors, which come in order.
fn resolve(args: Vec<(&'static str, Given)>, values: &[Value]) -> Args {
    let mut values = values.iter().copied();
    let mut next = || values.next().expect("a value for each tensor");
    let list = args.into_iter().map(|(name, given)| {
        let arg = match given {
            Given::Tensor(_) => Arg::Tensor(next()),
            Given::Tensors(list) => Arg::Tensors(list.iter().map(|_| next()).collect()),
            Given::Plain(arg) => arg,
        };
        (name.to_string(), arg)
    });
    Args::new(list.collect())
}

impl From<&Tensor> for Given {
    fn from(x: &Tensor) -> Given {
        Given::Tensor(x.clone())
    }
}
impl From<Operand> for Given {
    fn from(x: Operand) -> Given {
        match x {
            Operand::Tensor(x) => Given::Tensor(x),
            Operand::Number(x) => x.into(),
            Operand::Integer(n) => n.into(),
        }
    }
}
impl<T: Borrow<Tensor>> From<&[T]> for Given {
    fn from(list: &[T]) -> Given {
        Given::Tensors(list.iter().map(|x| x.borrow().clone()).collect())
    }
}
impl<T: Into<Given>> From<Option<T>> for Given {
    fn from(x: Option<T>) -> Given {
        x.map_or(Given::Plain(Arg::None), Into::into)
    }
}
impl From<Dims> for Given {
    fn from(dims: Dims) -> Given {
        match dims {
            Dims::All => Given::Plain(Arg::None),
            Dims::Of(list) => list.into(),
        }
    }
}
impl From<Reduction> for Given {
    fn from(reduction: Reduction) -> Given {
        let number = match reduction {
            Reduction::None => 0i64,
            Reduction::Mean => 1,
            Reduction::Sum => 2,
        };
        number.into()
    }
}

macro_rules! plain {
    ($($ty:ty: $x:ident => $arg:expr;)+) => {
        $(impl From<$ty> for Given {
            fn from($x: $ty) -> Given { Given::Plain($arg) }
        })+
    };
}
plain! {
    f64: x => Arg::Scalar(Scalar::Float(x));
    i64: n => Arg::Scalar(Scalar::Int(Dim::int(n)));
    Dim: n => Arg::Scalar(Scalar::Int(n));
    bool: x => Arg::Scalar(Scalar::Bool(Some(x)));
    DType: dtype => Arg::DType(dtype);
    &str: text => Arg::Text(text.into());
    Vec<i64>: list => Arg::Dims(list.into_iter().map(Dim::int).collect());
    Shape: shape => Arg::Dims(shape.0.to_vec());
}
