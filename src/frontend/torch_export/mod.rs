//! Programs that `torch.export.save` wrote, as graphs that train and run.
//!
//! * Comes in: a `.pt2` file, which is untrusted.
//! * Goes out: [`Imported`]: the graph with roles (parameters, buffers, inputs, new values of what the program writes), module
//!   paths and source lines as provenance, and the tensors that the file holds.
//! * Invariants: nothing is half imported, operators that are lacking come back in one error that lists all of them; every
//!   value has the dtype and shape that the program declares for it; a hostile file is an error, never a panic, and needs no
//!   more memory than its own size warrants; pickles are never read.
//! * Writes in place become values (`alias.rs`): a write through a view is seen by everything that shares its storage, and a
//!   written buffer, parameter or input becomes an output of role `NewValue`, whether the file's signature lists it or not.
//! * Must not know: passes, kernels, devices.
//! * Add here: an operator in the front end's `aten/` (its page says how); a function on sizes in `symbols.rs`.

mod alias;
mod archive;
mod autocast;
mod control;
mod convert;
mod expr;
mod lstm_states;
mod regions;
mod schema;
mod statistics;
mod symbols;
mod weights;

use super::{Initializer, Traced};
use crate::error::{Error, Result};
use crate::graph::{InputRole, OutputRole, Value};
use crate::ops;
use crate::types::{DType, HostTensor, TensorType};
use alias::StorageId;
use archive::{Archive, Source};
use convert::Converter;
use schema::{Argument, InputSpec, OutputSpec, Program, Range};
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use weights::Weights;

/// Constants of up to this many elements are part of the graph; larger ones are buffers.
const SMALL: usize = 1024;

/// An imported program.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The graph. User inputs are named as the program names them, outputs `output.0`, `output.1`, ...; a program whose only
    /// output is a 0-d float has it as its loss. A state that is made for it begins with the imported tensors.
    pub traced: Traced,
    /// Tensors of parameters and buffers, by input name.
    pub tensors: Vec<(String, HostTensor)>,
    /// Further names of tied tensors, with the name of the input that stands for them.
    pub tied: Vec<(String, String)>,
    /// Buffers that a state dict does not hold: non-persistent ones and constants.
    pub unsaved: Vec<String>,
}

/// Reads a program and its tensors from a file.
pub fn load(path: impl AsRef<Path>) -> Result<Imported> {
    let path = path.as_ref();
    let file = std::fs::File::open(path).map_err(|e| Error::file(path, e))?;
    import(Box::new(file)).map_err(|what| Error::Import(format!("{}: {what}", path.display())))
}

/// Reads a program and its tensors from bytes.
pub fn load_bytes(bytes: Vec<u8>) -> Result<Imported> {
    import(Box::new(std::io::Cursor::new(bytes))).map_err(Error::Import)
}

impl Imported {
    /// The imported tensors of a state dict, by name, tied ones under each of their names.
    pub fn state_dict(&self, current: &dyn Fn(&str) -> Result<HostTensor>) -> Result<Vec<(String, HostTensor)>> {
        let mut out = vec![];
        for (name, _) in self.tensors.iter().filter(|(n, _)| !self.unsaved.contains(n)) {
            let tensor = current(name)?;
            let others = self.tied.iter().filter(|(_, of)| of == name).map(|(other, _)| (other.clone(), tensor.clone()));
            out.extend(others);
            out.push((name.clone(), tensor));
        }
        Ok(out)
    }
}

/// Operators check what they are given. Where one does not, its panic stops here: who opens a file has made no mistake.
fn import(source: Box<dyn Source>) -> Result<Imported, String> {
    catch_unwind(AssertUnwindSafe(|| read(source))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
        Err(format!("the program is unsound: {}", text.unwrap_or_default()))
    })
}

fn read(source: Box<dyn Source>) -> Result<Imported, String> {
    let mut archive = Archive::open(source)?;
    let program: Program = archive.read_json("models/model.json")?;
    if program.schema_version.major != 8 {
        let (major, minor) = (program.schema_version.major, program.schema_version.minor);
        return Err(format!("its schema is version {major}.{minor}, expected 8; export it with PyTorch 2.6 or later"));
    }
    if let Some(what) = convert::missing(&program.graph_module.graph) {
        return Err(what);
    }
    let mut weights = Weights::open(&mut archive)?;
    let declared = &program.range_constraints;
    match with_sizes_of_one(declared) {
        Some(wider) => build(&program, &wider, &mut archive, &mut weights).or_else(|_| build(&program, declared, &mut archive, &mut weights)),
        None => build(&program, declared, &mut archive, &mut weights),
    }
}

/// The ranges with sizes from one on where the program declares two and more, if it does anywhere: PyTorch writes 2 for what it has
/// not looked at, and runs such a program at a size of one. Not every program allows it; windows of two elements do not.
fn with_sizes_of_one(declared: &BTreeMap<String, Range>) -> Option<BTreeMap<String, Range>> {
    let mut wider = declared.clone();
    let lowest = wider.values_mut().filter_map(|range| range.min_val.as_mut()).filter(|min| **min == 2);
    (lowest.map(|min| *min = 1).count() > 0).then_some(wider)
}

/// The program with symbols within these ranges.
fn build(program: &Program, ranges: &BTreeMap<String, Range>, archive: &mut Archive, weights: &mut Weights) -> Result<Imported, String> {
    let mut importer = Importer {
        program,
        converter: Converter::new("exported", ranges, archive.len()),
        storages: vec![],
        result: Imported { traced: Traced::default(), tensors: vec![], tied: vec![], unsaved: vec![] },
        identities: HashMap::new(),
    };
    importer.inputs(archive, weights)?;
    importer.converter.run(&program.graph_module.graph)?;
    importer.outputs()?;
    let mut result = importer.result;
    result.traced.graph = importer.converter.cx.b.finish();
    let start = |(name, tensor): &(String, HostTensor)| (name.clone(), Initializer::Tensor(tensor.clone()));
    result.traced.initializers = result.tensors.iter().map(start).collect();
    Ok(result)
}

/// State of one import.
struct Importer<'a> {
    program: &'a Program,
    converter: Converter<'a>,
    /// Input name, name in the exported graph, storage and first value of everything that may be written.
    storages: Vec<(String, String, StorageId, Value)>,
    result: Imported,
    /// Name in the exported graph and input name by identity of the data: what ties tensors.
    identities: HashMap<String, (String, String)>,
}

impl Importer<'_> {
    fn inputs(&mut self, archive: &mut Archive, weights: &mut Weights) -> Result<(), String> {
        let graph = &self.program.graph_module.graph;
        let signature = &self.program.graph_module.signature;
        if signature.input_specs.len() != graph.inputs.len() {
            return Err(format!("the signature has {} inputs, the graph {}", signature.input_specs.len(), graph.inputs.len()));
        }
        for (spec, input) in signature.input_specs.iter().zip(&graph.inputs) {
            match spec {
                InputSpec::UserInput { arg: Argument::Tensor(name) } => self.user_input(name)?,
                InputSpec::UserInput { arg } => self.user_number(arg, input)?,
                InputSpec::Parameter { arg, parameter_name } => {
                    let role = if weights.is_frozen(parameter_name) { InputRole::Buffer } else { InputRole::Parameter };
                    self.state(archive, weights, &arg.name, parameter_name, role)?;
                }
                InputSpec::Buffer { arg, buffer_name } => self.state(archive, weights, &arg.name, buffer_name, InputRole::Buffer)?,
                InputSpec::TensorConstant { arg, tensor_constant_name } => self.constant(archive, weights, &arg.name, tensor_constant_name)?,
                InputSpec::Token { arg } => self.converter.declare_nothing(&arg.name)?,
                InputSpec::CustomObj { arg } => return Err(format!("{} is an object of a custom class, which is not supported", arg.name)),
                InputSpec::ConstantInput { name } => self.converter.declare_nothing(name)?,
            }
        }
        Ok(())
    }

    fn user_input(&mut self, name: &str) -> Result<(), String> {
        let meta = self.program.graph_module.graph.tensor_values.get(name).ok_or_else(|| format!("{name} has no type"))?;
        let ty = TensorType { dtype: weights::dtype(meta.dtype)?, shape: self.converter.shape(meta).map_err(|e| format!("{name}: {e}"))? };
        self.declare(name, name, InputRole::Input, ty)
    }

    /// A user input that is no tensor has its value baked into the program.
    fn user_number(&mut self, arg: &Argument, input: &Argument) -> Result<(), String> {
        match (arg, input) {
            (Argument::Sym(_), _) => Err("a symbolic number as an input is not supported; pass a tensor".into()),
            _ => Ok(()),
        }
    }

    fn declare(&mut self, exported: &str, name: &str, role: InputRole, ty: TensorType) -> Result<(), String> {
        let value = self.converter.cx.b.input(name, role, ty)?;
        if let Some(meta) = self.program.graph_module.graph.tensor_values.get(exported) {
            self.converter.check_type(exported, value, meta)?;
        }
        let storage = self.converter.declare(exported, value)?;
        self.storages.push((name.to_string(), exported.to_string(), storage, value));
        Ok(())
    }

    fn state(&mut self, archive: &mut Archive, weights: &mut Weights, exported: &str, name: &str, role: InputRole) -> Result<(), String> {
        let identity = weights.identity(name).ok_or_else(|| format!("{name} has no data in the archive"))?;
        if let Some((first, input)) = self.identities.get(&identity).cloned() {
            self.result.tied.push((name.to_string(), input));
            return self.converter.declare_tied(exported, &first);
        }
        self.identities.insert(identity, (exported.to_string(), name.to_string()));
        let tensor = weights.load(archive, name)?;
        if !weights.is_saved(name) {
            self.result.unsaved.push(name.to_string());
        }
        self.declare(exported, name, role, tensor.ty())?;
        self.result.tensors.push((name.to_string(), tensor));
        Ok(())
    }

    fn constant(&mut self, archive: &mut Archive, weights: &mut Weights, exported: &str, name: &str) -> Result<(), String> {
        let tensor = weights.load(archive, name)?;
        let exact = tensor.dtype() != DType::I64 || tensor.to_i64().iter().all(|n| n.unsigned_abs() <= 1 << 53);
        if tensor.numel() > SMALL || !exact {
            self.result.unsaved.push(name.to_string());
            self.declare(exported, name, InputRole::Buffer, tensor.ty())?;
            self.result.tensors.push((name.to_string(), tensor));
            return Ok(());
        }
        let value = self.converter.cx.b.op(ops::Constant::from_host(&tensor), &[])?;
        self.converter.declare(exported, value).map(|_| ())
    }

    fn outputs(&mut self) -> Result<(), String> {
        let specs = &self.program.graph_module.signature.output_specs;
        let user = specs.iter().filter(|s| matches!(s, OutputSpec::UserOutput { .. })).count();
        let (mut position, mut new_values) = (0, vec![]);
        for spec in specs {
            match spec {
                OutputSpec::UserOutput { arg: Argument::Tensor(name) } => {
                    let value = self.converter.tensor(name)?;
                    let ty = self.converter.cx.b.ty(value);
                    let is_loss = user == 1 && ty.dtype.is_float() && ty.shape.rank() == 0;
                    let role = if is_loss { OutputRole::Loss } else { OutputRole::User };
                    self.converter.cx.b.output(&format!("output.{position}"), role, value);
                    position += 1;
                }
                // Numbers and None are no tensors; PyTorch gives them back as they are.
                OutputSpec::UserOutput { .. } => position += 1,
                OutputSpec::LossOutput { arg } => {
                    let value = self.converter.tensor(&arg.name)?;
                    self.converter.cx.b.output(&format!("output.{position}"), OutputRole::Loss, value);
                    position += 1;
                }
                OutputSpec::BufferMutation { arg, buffer_name: name }
                | OutputSpec::ParameterMutation { arg, parameter_name: name }
                | OutputSpec::UserInputMutation { arg, user_input_name: name } => {
                    let value = self.converter.tensor(&arg.name)?;
                    let tied = self.result.tied.iter().find(|(n, _)| n == name).map(|(_, of)| of.clone());
                    let name = tied.unwrap_or_else(|| name.clone());
                    let known = self.storages.iter().find(|(input, exported, ..)| *input == name || *exported == name);
                    let (input, ..) = known.ok_or_else(|| format!("{name} is written, but no input"))?;
                    new_values.push((input.clone(), value));
                }
                OutputSpec::Token {} => {}
                OutputSpec::GradientToParameter {} | OutputSpec::GradientToUserInput {} => {
                    return Err("the program was exported with its backward; export the forward, the gradients are computed here".into());
                }
            }
        }
        self.new_values(new_values)
    }

    /// Outputs for what is written: as the signature says, and what else was written in place.
    fn new_values(&mut self, listed: Vec<(String, Value)>) -> Result<(), String> {
        for (input, _, storage, first) in self.storages.clone() {
            let written = self.converter.storages.is_written(storage).then(|| self.converter.storages.value(storage));
            let value = listed.iter().find(|(name, _)| *name == input).map(|(_, v)| *v).or(written);
            let Some(value) = value.filter(|&v| v != first) else { continue };
            let b = &mut self.converter.cx.b;
            // Running statistics of half floats are computed in f32.
            let value = b.cast(value, b.dtype(first))?;
            if b.ty(value) != b.ty(first) {
                return Err(format!("{input} is {}, its new value {}", b.ty(first), b.ty(value)));
            }
            b.output(&format!("new.{input}"), OutputRole::NewValue(input), value);
        }
        Ok(())
    }
}
