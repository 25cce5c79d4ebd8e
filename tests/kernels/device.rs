//! Runs plans on a Vulkan adapter, one submission each, with host tensors in and out.

use inductor::codegen::{Binding, Plan};
use inductor::config::Target;
use inductor::schedule::PlacedBuffer;
use inductor::types::{Bindings, Cooperative, DType, DeviceCaps, DeviceModel, HostTensor, Storage};
use std::sync::OnceLock;
use wgpu::util::DeviceExt as _;

pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    pub target: Target,
}

/// The adapter, if there is one.
pub fn gpu() -> Option<&'static Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    GPU.get_or_init(open).as_ref()
}

fn open() -> Option<Gpu> {
    let mut id = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    id.backends = wgpu::Backends::VULKAN;
    id.flags = wgpu::InstanceFlags::empty();
    let instance = wgpu::Instance::new(id);
    let options = wgpu::RequestAdapterOptions { power_preference: wgpu::PowerPreference::HighPerformance, ..Default::default() };
    let adapter = pollster::block_on(instance.request_adapter(&options)).ok()?;
    let wanted = wgpu::Features::SHADER_F16
        | wgpu::Features::SHADER_INT64
        | wgpu::Features::SHADER_F64
        | wgpu::Features::SUBGROUP
        | wgpu::Features::TIMESTAMP_QUERY;
    let features = wanted & adapter.features();
    let limits = adapter.limits();
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_features: features,
        required_limits: limits.clone(),
        ..Default::default()
    }))
    .ok()?;
    let info = adapter.get_info();
    let caps = DeviceCaps {
        name: info.name.clone(),
        backend: "vulkan".into(),
        max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
        max_invocations: limits.max_compute_invocations_per_workgroup,
        max_workgroup_size: limits.max_compute_workgroup_size_x,
        max_groups: limits.max_compute_workgroups_per_dimension,
        subgroups: features.contains(wgpu::Features::SUBGROUP).then_some((info.subgroup_min_size, info.subgroup_max_size)),
        f16: features.contains(wgpu::Features::SHADER_F16),
        i64: features.contains(wgpu::Features::SHADER_INT64),
        // These modules are taken as they are: no assumption about the driver.
        i64_comparisons: false,
        f64: features.contains(wgpu::Features::SHADER_F64),
        exact_floats: true,
        converts_halves: false,
        memory_bytes: None,
        cooperative: Cooperative::Absent,
        shares_storage: true,
        max_steps: None,
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
    };
    let model = if info.device_type == wgpu::DeviceType::Cpu { DeviceModel::cpu() } else { DeviceModel::large_gpu() };
    eprintln!("adapter: {}", info.name);
    Some(Gpu { device, queue, target: Target { caps, model } })
}

/// Bytes of a tensor in a storage format, whole words.
pub fn encode(t: &HostTensor, storage: Storage) -> Vec<u8> {
    let mut bytes = match storage {
        Storage::Native | Storage::Packed => t.bytes().to_vec(),
        Storage::Word if t.dtype().is_float() => t.to_f32().iter().flat_map(|x| x.to_le_bytes()).collect(),
        Storage::Word | Storage::Narrow => t.to_i64().iter().flat_map(|&x| (x as u32).to_le_bytes()).collect(),
    };
    bytes.resize(bytes.len().next_multiple_of(4).max(4), 0);
    bytes
}

/// The tensor behind bytes.
pub fn decode(bytes: &[u8], b: &PlacedBuffer, shape: &[usize]) -> HostTensor {
    let n: usize = shape.iter().product();
    let dtype = b.ty.dtype;
    match b.storage {
        Storage::Native | Storage::Packed => HostTensor::from_bytes(dtype, shape.to_vec(), bytes[..n * dtype.size()].to_vec()).unwrap(),
        _ => {
            let words: Vec<u32> = bytes.chunks_exact(4).take(n).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
            if dtype.is_float() {
                HostTensor::from_f64(dtype, shape, &words.iter().map(|&w| f32::from_bits(w) as f64).collect::<Vec<_>>())
            } else if dtype == DType::U32 {
                HostTensor::from_i64(dtype, shape, &words.iter().map(|&w| w as i64).collect::<Vec<_>>())
            } else {
                HostTensor::from_i64(dtype, shape, &words.iter().map(|&w| w as i32 as i64).collect::<Vec<_>>())
            }
        }
    }
}

/// Sizes of a buffer.
pub fn shape_of(b: &PlacedBuffer, bindings: &Bindings) -> Vec<usize> {
    b.ty.shape.0.iter().map(|d| d.eval(bindings).unwrap() as usize).collect()
}

impl Gpu {
    /// Runs all commands. Slots start with `initial` (by buffer) or bytes of 0xcc. Gives the bytes of every slot and the
    /// status word.
    pub fn run(&self, plan: &Plan, initial: &[Option<HostTensor>], bindings: &Bindings, repeat: u32) -> (Vec<Vec<u8>>, u32, Vec<f64>) {
        let program = &plan.program;
        let slots: Vec<wgpu::Buffer> = (0..program.slots.len())
            .map(|s| {
                let size = program.slots[s].bytes.eval(bindings).unwrap().max(4) as usize;
                let mut bytes = vec![0xccu8; size];
                for (b, t) in program.buffers.iter().zip(initial) {
                    if b.slot.0 as usize == s
                        && let Some(t) = t
                    {
                        let e = encode(t, b.storage);
                        bytes[..e.len().min(size)].copy_from_slice(&e[..e.len().min(size)]);
                    }
                }
                self.buffer(&bytes, wgpu::BufferUsages::STORAGE)
            })
            .collect();
        let status = self.buffer(&[0; 4], wgpu::BufferUsages::STORAGE);
        let mut symbols: Vec<u32> = program.symbols.iter().map(|s| bindings[&*s.name] as u32).collect();
        symbols.resize(symbols.len().next_multiple_of(4).max(4), 0);
        let symbols = self.buffer(bytemuck::cast_slice(&symbols), wgpu::BufferUsages::UNIFORM);
        let mut pipelines = vec![];
        for code in &plan.code {
            pipelines.push(self.pipeline(&code.variants[0].wgsl));
        }
        let mut times = vec![];
        let bytes = plan.code.iter().map(|code| code.variants[0].scratch_bytes).max().unwrap_or(0).max(4);
        let scratch = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        for _ in 0..repeat {
            let start = std::time::Instant::now();
            let mut encoder = self.device.create_command_encoder(&Default::default());
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                for launch in &plan.launches {
                    let (c, buffers) = (launch.code.expect("kernels of tests are no control flow"), plan.buffers(launch));
                    let v = &plan.code[c as usize].variants[0];
                    let entries: Vec<wgpu::BindGroupEntry> = v
                        .bindings
                        .iter()
                        .enumerate()
                        .map(|(k, b)| wgpu::BindGroupEntry {
                            binding: k as u32,
                            resource: match b {
                                Binding::Read(n) | Binding::ReadWrite(n) => {
                                    slots[program.buffers[buffers[*n as usize].0 as usize].slot.0 as usize].as_entire_binding()
                                }
                                Binding::StatusRead | Binding::StatusWrite => status.as_entire_binding(),
                                Binding::Skip => panic!("kernels of tests are in no branch"),
                                Binding::Symbols => symbols.as_entire_binding(),
                                Binding::Scratch => scratch.as_entire_binding(),
                            },
                        })
                        .collect();
                    let pipeline = &pipelines[c as usize];
                    let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                        label: None,
                        layout: &pipeline.get_bind_group_layout(0),
                        entries: &entries,
                    });
                    pass.set_pipeline(pipeline);
                    pass.set_bind_group(0, &group, &[]);
                    let groups = v.groups.eval(bindings).unwrap() as u32;
                    let limit = plan.target.caps.max_groups;
                    let x = groups.min(limit);
                    if x > 0 {
                        pass.dispatch_workgroups(x, groups.div_ceil(x), 1);
                    }
                }
            }
            self.queue.submit([encoder.finish()]);
            self.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
            times.push(start.elapsed().as_secs_f64());
        }
        let out = slots.iter().map(|s| self.read(s)).collect();
        let status = u32::from_le_bytes(self.read(&status).try_into().unwrap());
        (out, status, times)
    }

    fn pipeline(&self, wgsl: &str) -> wgpu::ComputePipeline {
        let desc = wgpu::ShaderModuleDescriptor { label: None, source: wgpu::ShaderSource::Wgsl(wgsl.into()) };
        // The tests have no other way to see what generated code does without the checks that `runtime` turns off.
        #[allow(unsafe_code)]
        let module = unsafe { self.device.create_shader_module_trusted(desc, wgpu::ShaderRuntimeChecks::unchecked()) };
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions { constants: &[], zero_initialize_workgroup_memory: false },
            cache: None,
        })
    }

    fn buffer(&self, bytes: &[u8], usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let usage = usage | wgpu::BufferUsages::COPY_SRC;
        self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: None, contents: bytes, usage })
    }

    fn read(&self, buffer: &wgpu::Buffer) -> Vec<u8> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size: buffer.size(), usage, mapped_at_creation: false });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
        self.queue.submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |r| r.unwrap());
        self.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        staging.get_mapped_range(..).unwrap().to_vec()
    }
}
