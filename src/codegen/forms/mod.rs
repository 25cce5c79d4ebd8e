//! The spelling of each form of kernel.

mod map;
mod network;
mod rank;
mod rows;
mod transpose;

use super::text::module::Shader;
use super::text::unit::Unit;
use crate::forms::Form;

/// The kernel in its form.
pub fn spell(unit: &Unit) -> Result<Shader, String> {
    if unit.form.needs_distinct_slots(unit.nest) && unit.is_in_place() {
        return Err("this form of kernel cannot overwrite what it reads; its buffers need slots of their own".into());
    }
    match unit.form {
        Form::Map(map) => map::spell(unit, map),
        Form::Transpose(transpose) => transpose::spell(unit, transpose),
        Form::Rows(team) => rows::spell(unit, team),
        Form::Network(network) => network::spell(unit, network),
        Form::Rank => rank::spell(unit),
    }
}
