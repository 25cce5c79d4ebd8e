//! Shaders that any back end takes.

use inductor::codegen::Plan;

/// Every shader parses, validates and can be written by the portability back ends.
pub fn validate(plan: &Plan) {
    for code in &plan.code {
        for v in &code.variants {
            if let Err(e) = validate_text(&v.wgsl, v.cooperative) {
                panic!("{}: {e}\n{}", v.name, v.wgsl);
            }
        }
    }
}

/// Cooperative matrices are there in Vulkan only.
fn validate_text(wgsl: &str, cooperative: bool) -> Result<(), String> {
    use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|e| e.emit_to_string_with_path(wgsl, "kernel.wgsl"))?;
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
    validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    let info = validator.validate(&module).map_err(|e| e.emit_to_string(wgsl))?;
    let options = naga::back::spv::Options {
        lang_version: if cooperative { (1, 6) } else { (1, 4) },
        flags: naga::back::spv::WriterFlags::empty(),
        ..Default::default()
    };
    naga::back::spv::write_vec(&module, &info, &options, None).map_err(|e| format!("spirv: {e}"))?;
    if cooperative {
        return Ok(());
    }
    naga::back::wgsl::write_string(&module, &info, naga::back::wgsl::WriterFlags::empty()).map_err(|e| format!("wgsl: {e}"))?;
    let msl = naga::back::msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
    naga::back::msl::write_string(&module, &info, &msl, &Default::default()).map_err(|e| format!("msl: {e}"))?;
    let mut out = String::new();
    let hlsl = naga::back::hlsl::Options { shader_model: naga::back::hlsl::ShaderModel::V6_6, fake_missing_bindings: true, ..Default::default() };
    let pipeline = naga::back::hlsl::PipelineOptions::default();
    naga::back::hlsl::Writer::new(&mut out, &hlsl, &pipeline).write(&module, &info, None).map_err(|e| format!("hlsl: {e}"))?;
    Ok(())
}
