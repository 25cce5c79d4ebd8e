//! The spelling of each form of kernel.

mod attention;
mod map;
mod network;
mod product;
mod rank;
mod rows;
mod transpose;

use super::plan::Variant;
use super::text::module::Shader;
use super::text::unit::Unit;
use crate::forms::Form;

/// The module of a kernel that has a launch for itself.
pub fn module(unit: &Unit) -> Result<Variant, String> {
    match unit.form {
        Form::Product(tile) => product::spell_product(unit, *tile),
        Form::Attention(blocks) => attention::spell_attention(unit, *blocks),
        _ => Ok(spell(unit)?.variant(unit)),
    }
}

/// A kernel's module as a driver compiles it quickly, where that is another one: the same launch and bindings, and the same sums in the same
/// order, so the same numbers to the bit.
pub fn draft(unit: Unit) -> Result<Option<Variant>, String> {
    let form = match unit.form {
        Form::Product(tile) => tile.draft().filter(|_| product::is_fused(&unit)).map(Form::Product),
        Form::Attention(blocks) => blocks.draft().map(Form::Attention),
        _ => None,
    };
    form.map(|form| module(&Unit { form: &form, ..unit })).transpose()
}

/// The function body of a kernel, which may share its launch with others.
pub fn spell(unit: &Unit) -> Result<Shader, String> {
    if unit.form.needs_distinct_slots() && unit.is_in_place() {
        return Err("this form of kernel cannot overwrite what it reads; its buffers need slots of their own".into());
    }
    match unit.form {
        Form::Map(map) => map::spell(unit, map),
        Form::Transpose(transpose) => transpose::spell(unit, transpose),
        Form::Product(_) | Form::Attention(_) => Err("products and attention have launches of their own".into()),
        Form::Rows(team) => rows::spell(unit, team),
        Form::Network(network) => network::spell(unit, network),
        Form::Rank => rank::spell(unit),
    }
}
