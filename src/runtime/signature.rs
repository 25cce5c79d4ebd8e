//! Arguments of a step: given by position or by name, checked in full before anything changes.

use crate::codegen::Plan;
use crate::config::{Config, Mode};
use crate::error::{Error, Result};
use crate::graph::InputRole;
use crate::loop_ir::BufferId;
use crate::schedule::InputCheck;
use crate::threads;
use crate::types::{Bindings, DType, Guard, HostTensor, TensorType, bind_named_symbols, check_guards};

/// Inputs of one step, by position (the order of the trace) or by name.
#[derive(Clone, Debug)]
pub enum Inputs {
    /// In the order of the program's inputs, cotangents last.
    Positional(Vec<HostTensor>),
    /// By name, in any order.
    Named(Vec<(String, HostTensor)>),
}

impl From<Vec<HostTensor>> for Inputs {
    fn from(tensors: Vec<HostTensor>) -> Inputs {
        Inputs::Positional(tensors)
    }
}
impl From<&[HostTensor]> for Inputs {
    fn from(tensors: &[HostTensor]) -> Inputs {
        Inputs::Positional(tensors.to_vec())
    }
}
impl From<&Vec<HostTensor>> for Inputs {
    fn from(tensors: &Vec<HostTensor>) -> Inputs {
        Inputs::Positional(tensors.clone())
    }
}
impl From<&[&HostTensor]> for Inputs {
    fn from(tensors: &[&HostTensor]) -> Inputs {
        Inputs::Positional(tensors.iter().map(|&t| t.clone()).collect())
    }
}
impl<const N: usize> From<[HostTensor; N]> for Inputs {
    fn from(tensors: [HostTensor; N]) -> Inputs {
        Inputs::Positional(tensors.into())
    }
}
impl<const N: usize> From<[&HostTensor; N]> for Inputs {
    fn from(tensors: [&HostTensor; N]) -> Inputs {
        Inputs::from(&tensors[..])
    }
}
impl From<()> for Inputs {
    fn from(_: ()) -> Inputs {
        Inputs::Positional(vec![])
    }
}
impl From<Vec<(String, HostTensor)>> for Inputs {
    fn from(tensors: Vec<(String, HostTensor)>) -> Inputs {
        Inputs::Named(tensors)
    }
}
impl From<&[(&str, &HostTensor)]> for Inputs {
    fn from(tensors: &[(&str, &HostTensor)]) -> Inputs {
        Inputs::Named(tensors.iter().map(|&(n, t)| (n.to_string(), t.clone())).collect())
    }
}
impl<const N: usize> From<[(&str, &HostTensor); N]> for Inputs {
    fn from(tensors: [(&str, &HostTensor); N]) -> Inputs {
        Inputs::from(&tensors[..])
    }
}

/// An input that the caller gives.
#[derive(Clone, Debug)]
struct Argument {
    name: String,
    ty: TensorType,
    buffer: BufferId,
    cotangent: bool,
}

/// What a step takes from its caller.
#[derive(Clone, Debug)]
pub(super) struct Signature {
    arguments: Vec<Argument>,
    refuse_empty: bool,
    refuse_non_finite: bool,
    indices: Vec<InputCheck>,
    guards: Vec<Guard>,
}

/// Checked arguments.
pub(super) struct Checked {
    pub feeds: Vec<(BufferId, HostTensor)>,
    pub bindings: Bindings,
}

impl Signature {
    pub fn new(plan: &Plan, config: &Config) -> Signature {
        let program = &plan.program;
        let given = |role: &InputRole| matches!(role, InputRole::Input | InputRole::Cotangent);
        let mut arguments: Vec<Argument> = program
            .inputs
            .iter()
            .filter(|i| given(&i.role))
            .map(|i| Argument {
                name: i.name.clone(),
                ty: program.buffers[i.buffer.0 as usize].ty.clone(),
                buffer: i.buffer,
                cotangent: i.role == InputRole::Cotangent,
            })
            .collect();
        arguments.sort_by_key(|a| a.cotangent);
        let training = matches!(config.mode, Mode::Train(_));
        let (refuse_empty, refuse_non_finite) = (training && !config.allow_empty, training && !config.allow_non_finite);
        Signature { arguments, refuse_empty, refuse_non_finite, indices: program.input_checks.clone(), guards: program.guards.clone() }
    }

    pub fn describe(&self) -> String {
        let list: Vec<String> = self.arguments.iter().map(|a| format!("{}: {}", a.name, a.ty)).collect();
        format!("({})", list.join(", "))
    }

    pub fn check(&self, inputs: Inputs) -> Result<Checked> {
        let tensors = self.in_order(inputs)?;
        let mut faults = vec![];
        for (argument, tensor) in self.arguments.iter().zip(&tensors) {
            if let Err(fault) = self.check_one(argument, tensor) {
                faults.push(fault);
            }
        }
        if !faults.is_empty() {
            return Err(Error::Input(faults.join("; ")));
        }
        let names: Vec<&str> = self.arguments.iter().map(|a| &*a.name).collect();
        let types: Vec<&TensorType> = self.arguments.iter().map(|a| &a.ty).collect();
        let shapes: Vec<&[usize]> = tensors.iter().map(|t| t.shape()).collect();
        check_guards(&self.guards, &names, &shapes).map_err(Error::Input)?;
        let bindings = bind_named_symbols(&names, &types, &shapes).map_err(Error::Input)?;
        let feeds: Vec<(BufferId, HostTensor)> = self.arguments.iter().zip(tensors).map(|(a, t)| (a.buffer, t)).collect();
        self.indices.iter().try_for_each(|check| check.check(&feeds, &bindings))?;
        Ok(Checked { feeds, bindings })
    }

    fn in_order(&self, inputs: Inputs) -> Result<Vec<HostTensor>> {
        let named = match inputs {
            Inputs::Positional(tensors) if tensors.len() == self.arguments.len() => return Ok(tensors),
            Inputs::Positional(tensors) => {
                return Err(Error::Input(format!("{} inputs expected, {} given: {}", self.arguments.len(), tensors.len(), self.describe())));
            }
            Inputs::Named(named) => named,
        };
        let mut slots: Vec<Option<HostTensor>> = vec![None; self.arguments.len()];
        let mut faults = vec![];
        for (name, tensor) in named {
            match self.arguments.iter().position(|a| a.name == name) {
                Some(at) if slots[at].is_some() => faults.push(format!("{name} is given twice")),
                Some(at) => slots[at] = Some(tensor),
                None => faults.push(format!("there is no input {name}")),
            }
        }
        for (argument, slot) in self.arguments.iter().zip(&slots) {
            if slot.is_none() {
                faults.push(format!("{} is missing", argument.name));
            }
        }
        if faults.is_empty() {
            Ok(slots.into_iter().flatten().collect())
        } else {
            Err(Error::Input(format!("{}: {}", faults.join("; "), self.describe())))
        }
    }

    fn check_one(&self, argument: &Argument, tensor: &HostTensor) -> Result<(), String> {
        if let Some(fault) = tensor.fault() {
            return Err(format!("{}: {fault}", argument.name));
        }
        let shown = || format!("{}: expected {}, got {}", argument.name, argument.ty, describe_type(tensor.dtype(), tensor.shape()));
        let fits = argument.ty.shape.rank() == tensor.shape().len()
            && argument.ty.shape.0.iter().zip(tensor.shape()).all(|(d, &n)| d.as_int().is_none_or(|d| d == n as i64));
        if argument.ty.dtype != tensor.dtype() || !fits {
            return Err(shown());
        }
        if self.refuse_empty && tensor.numel() == 0 {
            return Err(format!("{}: {} is empty, and a training step on no data is refused (Config::allow_empty)", argument.name, tensor.ty()));
        }
        if self.refuse_non_finite
            && let Some(at) = first_non_finite(tensor)
        {
            return Err(format!("{}: element {at} is not finite (Config::allow_non_finite)", argument.name));
        }
        Ok(())
    }
}

/// A concrete type, for messages.
pub(super) fn describe_type(dtype: DType, shape: &[usize]) -> String {
    format!("{dtype}{shape:?}")
}

/// The first element that is NaN or an infinity.
pub(super) fn first_non_finite(tensor: &HostTensor) -> Option<usize> {
    match tensor.dtype() {
        DType::F32 => first(tensor.bytes(), |c: [u8; 4]| carry(u32::from_le_bytes(c), 0x0080_0000)),
        DType::F64 => first(tensor.bytes(), |c: [u8; 8]| carry((u64::from_le_bytes(c) >> 32) as u32, 0x0010_0000)),
        DType::F16 => first(tensor.bytes(), |c: [u8; 2]| carry((u16::from_le_bytes(c) as u32) << 16, 0x0400_0000)),
        DType::BF16 => first(tensor.bytes(), |c: [u8; 2]| carry((u16::from_le_bytes(c) as u32) << 16, 0x0080_0000)),
        _ => None,
    }
}

/// Not zero where the exponent, whose last bit is given, is all ones: adding one to it carries into the sign.
fn carry(bits: u32, last: u32) -> u32 {
    const SIGN: u32 = 1 << 31;
    ((bits & (SIGN - last)) + last) & SIGN
}

/// The first element for which a test is not zero. Blocks are looked at by all threads, and by vectors: which element it is is asked only where
/// there is one.
fn first<const N: usize>(bytes: &[u8], test: impl Fn([u8; N]) -> u32 + Sync) -> Option<usize> {
    const BLOCK: usize = 1 << 18;
    let elements = bytes.as_chunks::<N>().0;
    let blocks: Vec<&[[u8; N]]> = elements.chunks(BLOCK).collect();
    let find = |k: usize| {
        let any = blocks[k].iter().fold(0, |any, &c| any | test(c));
        let position = if any == 0 { None } else { blocks[k].iter().position(|&c| test(c) != 0) };
        position.map(|at| k * BLOCK + at)
    };
    match blocks.len() {
        0 => None,
        1 => find(0),
        n => threads::collect(n, find).into_iter().flatten().next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Dim;

    fn signature(refuse: bool) -> Signature {
        let n = Dim::symbol("n", 1, 8);
        let argument = |name: &str, ty, k| Argument { name: name.into(), ty, buffer: BufferId(k), cotangent: false };
        let arguments = vec![argument("x", TensorType::new(DType::F32, (n.clone(), 2)), 0), argument("y", TensorType::new(DType::I32, n), 1)];
        Signature { arguments, refuse_empty: refuse, refuse_non_finite: refuse, indices: vec![], guards: vec![] }
    }

    fn fault(inputs: impl Into<Inputs>) -> String {
        signature(true).check(inputs.into()).err().expect("refused").to_string()
    }

    #[test]
    fn sizes_bind_symbols() {
        let (x, y) = (HostTensor::f32(&[3, 2], &[0.0; 6]), HostTensor::i32(&[3], &[1, 2, 3]));
        let checked = signature(true).check([("y", &y), ("x", &x)].into()).unwrap();
        assert_eq!(checked.bindings["n"], 3);
        assert_eq!(checked.feeds[0].1, x);
    }

    #[test]
    fn every_mistake_is_named() {
        let (x, y) = (HostTensor::f32(&[3, 2], &[0.0; 6]), HostTensor::i32(&[3], &[1, 2, 3]));
        assert!(fault([&x]).starts_with("input: 2 inputs expected, 1 given: (x: f32["));
        assert!(fault([("x", &x), ("z", &y)]).starts_with("input: there is no input z; y is missing"));
        assert!(fault([&y, &x]).contains("x: expected f32["));
        assert!(fault([&x, &HostTensor::i32(&[2], &[1, 2])]).contains("y: expected i32"));
        assert!(fault([&HostTensor::f32(&[3, 2], &[0.0, 0.0, f32::NAN, 0.0, 0.0, 0.0]), &y]).contains("x: element 2 is not finite"));
        assert!(fault([&HostTensor::f32(&[0, 2], &[]), &HostTensor::i32(&[0], &[])]).contains("is empty"));
        let mut long = vec![0.0; 1 << 20];
        (long[600_001], long[900_000]) = (f32::INFINITY, f32::NAN);
        assert_eq!(first_non_finite(&HostTensor::f32(&[1 << 20], &long)), Some(600_001));
        for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
            let at = |x: f64| first_non_finite(&HostTensor::from_f64(dtype, &[3], &[0.0, -1.5, x]));
            assert_eq!([f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(at), [Some(2); 3], "{dtype}");
            assert_eq!([60000.0, -60000.0, 1e-7, -0.0].map(at), [None; 4], "{dtype}");
        }
        let big = (HostTensor::f32(&[9, 2], &[0.0; 18]), HostTensor::i32(&[9], &[0; 9]));
        assert!(fault([&big.0, &big.1]).contains("outside its declared range"));
    }
}
