//! Shaders as SPIR-V in which the driver may not simplify floats.
//!
//! WGSL has no word for it, and without `NoContraction` some drivers compute `(x + 1) - x` as 1 whatever x is, and lose NaN and
//! infinities that way. The decoration also keeps products and sums apart, which costs adapters with fused ones some speed: it is
//! used only where the start-up probe finds that the driver needs it.

use naga::back::spv;
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

/// SPIR-V of a module whose entry point is `main`, bindings as they are.
pub(super) fn without_simplification(wgsl: &str) -> Result<Vec<u32>, String> {
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|e| e.emit_to_string(wgsl))?;
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
    validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    let info = validator.validate(&module).map_err(|e| e.emit_to_string(wgsl))?;
    let options = spv::Options {
        lang_version: (1, 3),
        flags: spv::WriterFlags::empty(),
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        bounds_check_policies: naga::proc::BoundsCheckPolicies::default(),
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..Default::default()
    };
    let words = spv::write_vec(&module, &info, &options, None).map_err(|e| e.to_string())?;
    decorate(&words).ok_or_else(|| "the SPIR-V of a module is cut short".into())
}

const HEADER: usize = 5;
const DECORATE: u32 = 71;
const MEMBER_DECORATE: u32 = 72;
const NO_CONTRACTION: u32 = 42;

/// Adds `NoContraction` to every float result.
fn decorate(words: &[u32]) -> Option<Vec<u32>> {
    let (mut added, mut last_decoration) = (vec![], HEADER);
    let mut at = HEADER;
    while at < words.len() {
        let (length, opcode) = ((words[at] >> 16) as usize, words[at] & 0xffff);
        let end = at.checked_add(length).filter(|&end| end > at && end <= words.len())?;
        if matches!(opcode, DECORATE | MEMBER_DECORATE) {
            last_decoration = end;
        } else if computes_floats(opcode) {
            added.extend([3 << 16 | DECORATE, *words.get(at + 2)?, NO_CONTRACTION]);
        }
        at = end;
    }
    Some([&words[..last_decoration], &added, &words[last_decoration..]].concat())
}

/// Extended instructions, arithmetic, products of vectors and matrices, comparisons and negation: all have a type and a result.
fn computes_floats(opcode: u32) -> bool {
    matches!(opcode, 12 | 127 | 129 | 131 | 133 | 136 | 140..=148 | 168 | 180..=191)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn float_results_are_decorated() {
        let wgsl = "@group(0) @binding(0) var<storage, read_write> x: array<f32>;
            @compute @workgroup_size(1) fn main() { x[0] = (x[1] + x[2]) - x[1] * sqrt(x[3]); }";
        let words = without_simplification(wgsl).unwrap();
        assert_eq!(words.windows(3).filter(|w| w[0] == 3 << 16 | DECORATE && w[2] == NO_CONTRACTION).count(), 4);
        assert!(without_simplification("fn main( {").is_err());
        assert_eq!(decorate(&[0, 0, 0, 0, 0, 0]), None);
    }
}
