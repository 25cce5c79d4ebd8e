//! The form of each kernel: the candidate of `forms` that promises the shortest time, for the formats and sizes of its buffers.

use super::program::{Dispatch, Program};
use crate::config::Target;
use crate::forms::contraction::{is_large, transposed};
use crate::forms::{Cost, Form, Operand, candidates, expand_online, keeping};
use crate::loop_ir::Nest;
use crate::types::Decision;

/// Gives every kernel its form, and its body the spelling that the form works on; the predicted nanoseconds of a step. The interpreter
/// needs no forms, and has no times.
pub fn choose_forms(program: &mut Program, target: &Target) -> f64 {
    if target.caps.is_cpu() {
        return 0.0;
    }
    let operands = operands(program);
    let chosen = program.kernels.iter().zip(&operands).map(|(nest, operands)| choose(nest, operands, target));
    let (kernels, forms): (Vec<Nest>, Vec<(Form, Cost)>) = chosen.unzip();
    let costs: Vec<f64> = forms.iter().map(|f| f.1.ns).collect();
    (program.kernels, program.forms) = (kernels, forms.into_iter().map(|f| f.0).collect());
    let total = program.commands.iter().map(|c| costs[c.kernel as usize]).sum();
    note_products_in_loops(program, &costs, total);
    total
}

/// The form of a nest with its price, and the nest as that form runs it.
fn choose(nest: &Nest, operands: &[Operand], target: &Target) -> (Nest, (Form, Cost)) {
    if let Some((expanded, sums)) = expand_online(nest) {
        let (form, cost) = best(&expanded, operands, target);
        if let Some(form) = keeping(&form, &expanded, sums) {
            return (expanded, (form, cost));
        }
    }
    let nest = transposed(nest).unwrap_or_else(|| nest.clone());
    let chosen = best(&nest, operands, target);
    (nest, chosen)
}

/// The form that was measured to be the fastest, else the one that promises to be.
fn best(nest: &Nest, operands: &[Operand], target: &Target) -> (Form, Cost) {
    let mut found = candidates(nest, operands, target);
    let tuning = &target.model.tuning;
    let measured = (!tuning.is_empty()).then(|| tuning.form(&hash(nest, operands))).flatten();
    let at = measured.and_then(|text| found.iter().position(|(form, _)| form_text(form) == text));
    found.swap_remove(at.unwrap_or(0))
}

/// A kernel by what it computes of which buffers, whatever it is called.
fn hash(nest: &Nest, operands: &[Operand]) -> String {
    let operands: Vec<String> = operands.iter().map(|o| format!("{:?}", o)).collect();
    let text = serde_json::to_string(&(&nest.rows, &nest.cols, &nest.inner, &nest.body, &nest.writes, &nest.tag, operands));
    blake3::hash(text.expect("the parts of a nest are plain data").as_bytes()).to_hex()[..32].to_string()
}

/// The form as a measurement keeps it.
pub fn form_text(form: &Form) -> String {
    format!("{form:?}")
}

/// The hash of each kernel, by which a measurement is kept.
pub fn kernel_hashes(program: &Program) -> Vec<String> {
    program.kernels.iter().zip(operands(program)).map(|(nest, operands)| hash(nest, &operands)).collect()
}

/// For each kernel the form that it has, and those that promise not to be much slower, where the kernel is a product.
pub fn alternatives(program: &Program, target: &Target) -> Vec<Vec<Form>> {
    const MOST: usize = 6;
    const SLOWER: f64 = 3.0;
    let of = |((nest, chosen), operands): ((&Nest, &Form), Vec<Operand>)| {
        let is_product = |form: &Form| matches!(form, Form::Product(_));
        let found = if is_product(chosen) { candidates(nest, &operands, target) } else { vec![] };
        let least = found.first().map_or(0.0, |(_, cost)| cost.ns);
        let others = found.into_iter().filter(|(form, cost)| is_product(form) && form != chosen && cost.ns <= SLOWER * least);
        std::iter::once(chosen.clone()).chain(others.map(|(form, _)| form)).take(MOST).collect()
    };
    program.kernels.iter().zip(&program.forms).zip(operands(program)).map(of).collect()
}

/// The buffers of each kernel as forms see them: those of its first command.
fn operands(program: &Program) -> Vec<Vec<Operand>> {
    let mut out: Vec<Vec<Operand>> = vec![vec![]; program.kernels.len()];
    for command in program.commands.iter().rev() {
        let of = |b: &crate::loop_ir::BufferId| {
            let placed = &program.buffers[b.0 as usize];
            Operand { dtype: placed.ty.dtype, storage: placed.storage, numel: placed.ty.numel() }
        };
        out[command.kernel as usize] = command.buffers.iter().map(of).collect();
    }
    out
}

/// Records products that no tile runs, with their share of the step's predicted time, and warns of them once.
fn note_products_in_loops(program: &mut Program, costs: &[f64], total: f64) {
    let looped = |c: &&Dispatch| is_large(&program.kernels[c.kernel as usize]) && !matches!(program.forms[c.kernel as usize], Form::Product(_));
    let share = |c: &Dispatch| 100.0 * costs[c.kernel as usize] / total.max(1.0);
    let found: Vec<(String, f64)> = program.commands.iter().filter(looped).map(|c| (c.label.clone(), share(c))).collect();
    if found.is_empty() {
        return;
    }
    let percent: f64 = found.iter().map(|f| f.1).sum();
    tracing::warn!(products = found.len(), percent_of_step = percent.round(), "products without a tiled form run as loops over their terms");
    program.decisions.extend(found.into_iter().map(|(subject, percent)| Decision {
        stage: "forms".into(),
        subject,
        verdict: "loop".into(),
        reason: format!("the product has no tiled form on this device; {percent:.0}% of the predicted time of a step"),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::graph::{Builder, InputRole, OutputRole};
    use crate::loop_ir::Phase;
    use crate::lower::lower;
    use crate::types::{DType, Storage, TensorType};

    /// Rows of an odd length in packed words: two invocations would share a word.
    #[test]
    fn products_without_tiles_are_noted_with_their_share() {
        let mut b = Builder::new("odd");
        let [x, y] = ["x", "y"].map(|name| b.input(name, InputRole::Input, TensorType::new(DType::F16, (33, 33))).unwrap());
        let z = b.matmul(x, y).unwrap();
        b.output("z", OutputRole::User, z);
        let lowered = lower(&[(Phase::Forward, &b.finish())], &Config::default()).unwrap();
        let target = Target::webgpu_default();
        let mut program = crate::schedule::schedule("odd", lowered, &target, &Config::default()).unwrap();
        let noted = |program: &Program| program.decisions.iter().filter(|d| d.stage == "forms").count();
        assert_eq!(noted(&program), 0, "stored as whole words");
        program.buffers.iter_mut().for_each(|b| b.storage = Storage::Packed);
        choose_forms(&mut program, &target);
        assert_eq!(noted(&program), 1);
    }
}
