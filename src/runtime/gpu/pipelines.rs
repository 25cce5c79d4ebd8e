//! Shaders to pipelines: in parallel, each distinct shader once per device, driver blobs on disk.

use super::super::counters::{Counted, count};
use super::cache::BlobFile;
use super::device::{GpuDevice, lock};
use super::spirv;
use crate::codegen::{Binding, KernelCode, Variant};
use crate::error::{Error, Result};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

/// Who compiles.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub threads: usize,
    /// Set by who does not want it any more: what a driver has begun it ends.
    pub cancelled: &'a AtomicBool,
}

/// A kernel ready to be dispatched.
#[derive(Clone)]
pub(super) struct Prepared {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
    /// Which of the kernel's variants it is.
    pub variant: usize,
}

/// Stack of a compiling thread: front ends recurse over expressions.
pub(super) const STACK: usize = 16 << 20;

/// Compiles the first variant of each kernel that the driver takes, until it is cancelled.
pub(super) fn prepare(gpu: &GpuDevice, code: &[&KernelCode], disk: Option<&DiskCache>, work: Work) -> Result<Vec<Prepared>> {
    let span = tracing::info_span!("pipelines", kernels = code.len());
    let _entered = span.enter();
    let began = Instant::now();
    // The longest first: one that starts when the others are done is waited for alone.
    let mut order: Vec<usize> = (0..code.len()).collect();
    order.sort_by_key(|&k| std::cmp::Reverse(code[k].variants.first().map_or(0, |v| v.wgsl.len())));
    let prepared = work.done(&order, |k| prepare_kernel(gpu, code[k], disk))?;
    tracing::info!(ms = began.elapsed().as_secs_f64() * 1e3, "pipelines are ready");
    Ok(prepared)
}

impl Work<'_> {
    /// What `f` gives for the numbers of `order`, which are all below its length; begun in that order, and given in theirs. Threads are its own:
    /// those of the pool may be waiting for what is compiled here.
    pub fn done<T: Send>(self, order: &[usize], f: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
        let results: Vec<Mutex<Option<Result<T>>>> = order.iter().map(|_| Mutex::new(None)).collect();
        let next = AtomicUsize::new(0);
        let worker = || {
            while let Some(&k) = order.get(next.fetch_add(1, Ordering::Relaxed)).filter(|_| !self.cancelled.load(Ordering::Relaxed)) {
                *lock(&results[k]) = Some(f(k));
            }
        };
        let started = std::thread::scope(|scope| {
            let start = |k: usize| {
                let started = std::thread::Builder::new().name(format!("pipelines-{k}")).stack_size(STACK).spawn_scoped(scope, worker);
                started.inspect_err(|error| tracing::debug!(%error, "a compiling thread could not be started")).is_ok()
            };
            (0..self.threads.min(order.len())).take_while(|&k| start(k)).count()
        });
        // Without threads this one compiles, on what stack it has.
        if started == 0 {
            worker();
        }
        let result = |(k, slot): (usize, Mutex<Option<Result<T>>>)| {
            let done = slot.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
            done.unwrap_or_else(|| Err(Error::Device(format!("kernel {k}: the shader compiler did not finish"))))
        };
        results.into_iter().enumerate().map(result).collect()
    }
}

fn prepare_kernel(gpu: &GpuDevice, kernel: &KernelCode, disk: Option<&DiskCache>) -> Result<Prepared> {
    let mut refused = vec![];
    for (k, variant) in kernel.variants.iter().enumerate() {
        match prepare_variant(gpu, variant, disk) {
            Ok((pipeline, layout)) => return Ok(Prepared { pipeline, layout, variant: k }),
            Err(error) => {
                tracing::warn!(variant = %variant.name, %error, "the driver refused a kernel variant");
                refused.push(format!("{}: {error}", variant.name));
            }
        }
    }
    Err(Error::Device(format!("no variant of a kernel compiles: {}", refused.join("; "))))
}

fn prepare_variant(gpu: &GpuDevice, variant: &Variant, disk: Option<&DiskCache>) -> Result<(wgpu::ComputePipeline, wgpu::BindGroupLayout)> {
    let (group, layout) = layouts(gpu, &variant.bindings)?;
    let key = key_of(gpu, variant);
    if let Some(pipeline) = lock(&gpu.pipelines).get(&key) {
        return Ok((pipeline.clone(), group));
    }
    #[cfg(test)]
    gpu.injected.compilation()?;
    let began = Instant::now();
    // A panic of the shader front end must not take the process down.
    let built = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        // What is handed over is SPIR-V 1.3, which has no cooperative matrices: their shaders go as they are.
        let words =
            if gpu.is_exact() && !variant.cooperative { Some(spirv::without_simplification(&variant.wgsl).map_err(Error::Device)?) } else { None };
        gpu.guarded("compiling a shader", || compile(gpu, variant, words, &layout, disk.map(|d| &d.cache)))
    }));
    let pipeline = built.unwrap_or_else(|_| Err(Error::Device("the shader compiler panicked".into())))?;
    tracing::debug!(variant = %variant.name, characters = variant.wgsl.len(), ms = began.elapsed().as_secs_f64() * 1e3, "compiled a pipeline");
    count(Counted::Pipeline);
    lock(&gpu.pipelines).insert(key, pipeline.clone());
    Ok((pipeline, group))
}

/// The module of a variant, from its SPIR-V where that is given.
#[allow(unsafe_code)]
fn module(gpu: &GpuDevice, variant: &Variant, words: Option<Vec<u32>>) -> wgpu::ShaderModule {
    let label = Some(&*variant.name);
    let Some(words) = words else {
        let descriptor = wgpu::ShaderModuleDescriptor { label, source: wgpu::ShaderSource::Wgsl((&*variant.wgsl).into()) };
        // SAFETY: generated kernels stay in bounds and end their loops: every index is a function of the domain, or clamped by
        // a bound statement, and tests run every kernel with these checks on and off.
        return unsafe { gpu.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
    };
    let main = wgpu::PassthroughShaderEntryPoint { name: "main".into(), workgroup_size: (variant.workgroup[0], 1, 1) };
    let descriptor =
        wgpu::ShaderModuleDescriptorPassthrough { label, entry_points: vec![main].into(), spirv: Some(words.into()), ..Default::default() };
    // SAFETY: the words are what the front end itself makes of the validated shader, with decorations that change no access; the
    // bindings of variants are numbered from zero without gaps, as such modules need.
    unsafe { gpu.device.create_shader_module_passthrough(descriptor) }
}

fn compile(
    gpu: &GpuDevice,
    variant: &Variant,
    words: Option<Vec<u32>>,
    layout: &wgpu::PipelineLayout,
    cache: Option<&wgpu::PipelineCache>,
) -> wgpu::ComputePipeline {
    let module = module(gpu, variant, words);
    gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(&variant.name),
        layout: Some(layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions { constants: &[], zero_initialize_workgroup_memory: false },
        cache,
    })
}

fn key_of(gpu: &GpuDevice, variant: &Variant) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    hash.update(variant.wgsl.as_bytes());
    hash.update(&[gpu.is_exact() as u8]);
    hash.update(&variant.bindings.iter().map(kind_of).collect::<Vec<u8>>());
    *hash.finalize().as_bytes()
}

/// Read-only storage, read-write storage, uniform.
fn kind_of(binding: &Binding) -> u8 {
    match binding {
        Binding::Read(_) | Binding::StatusRead | Binding::Skip => 0,
        Binding::ReadWrite(_) | Binding::StatusWrite | Binding::Scratch => 1,
        Binding::Symbols => 2,
    }
}

fn layouts(gpu: &GpuDevice, bindings: &[Binding]) -> Result<(wgpu::BindGroupLayout, wgpu::PipelineLayout)> {
    let kinds: Vec<u8> = bindings.iter().map(kind_of).collect();
    let mut known = lock(&gpu.layouts);
    if let Some(found) = known.get(&kinds) {
        return Ok(found.clone());
    }
    let entries: Vec<wgpu::BindGroupLayoutEntry> = kinds.iter().enumerate().map(|(k, &kind)| layout_entry(k as u32, kind)).collect();
    let made = gpu.guarded("creating a bind group layout", || {
        let group = gpu.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
        let layout = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&group)],
            immediate_size: 0,
        });
        (group, layout)
    })?;
    known.insert(kinds, made.clone());
    Ok(made)
}

fn layout_entry(binding: u32, kind: u8) -> wgpu::BindGroupLayoutEntry {
    let ty = match kind {
        0 => wgpu::BufferBindingType::Storage { read_only: true },
        1 => wgpu::BufferBindingType::Storage { read_only: false },
        _ => wgpu::BufferBindingType::Uniform,
    };
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    }
}

/// The driver's own cache, filled from and written to disk.
pub(super) struct DiskCache {
    cache: wgpu::PipelineCache,
    whole: BlobFile,
    drafts: BlobFile,
    found: Option<Kept>,
}

/// Which pipelines of a plan are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kept {
    /// Drafts, and those that have none.
    Drafts,
    /// All.
    Whole,
}

impl DiskCache {
    /// Nothing when the adapter has no pipeline cache, or there is no folder.
    #[allow(unsafe_code)]
    pub fn open(gpu: &GpuDevice, code: &[KernelCode]) -> Option<DiskCache> {
        let folder = gpu.cache_dir.as_ref().filter(|_| gpu.features.contains(wgpu::Features::PIPELINE_CACHE))?;
        let adapter = wgpu::util::pipeline_cache_key(&gpu.info)?;
        let file = |kept: Kept| {
            let mut hash = blake3::Hasher::new();
            // Another driver would refuse what this one gave.
            hash.update(gpu.key().as_bytes());
            hash.update(&[kept as u8]);
            for variant in first_variants(code) {
                hash.update(&key_of(gpu, variant));
            }
            BlobFile::new(folder, &adapter, &hash.finalize())
        };
        let (whole, drafts) = (file(Kept::Whole), file(Kept::Drafts));
        let load = |file: &BlobFile, kept: Kept| file.load().map(|data| (data, kept));
        let (data, found) = load(&whole, Kept::Whole).or_else(|| load(&drafts, Kept::Drafts)).unzip();
        let descriptor = wgpu::PipelineCacheDescriptor { label: None, data: data.as_deref(), fallback: true };
        // SAFETY: the data is what the same adapter gave, by the file's name, and its hash has been checked.
        let cache = gpu.guarded("opening a pipeline cache", || unsafe { gpu.device.create_pipeline_cache(&descriptor) }).ok()?;
        Some(DiskCache { cache, whole, drafts, found })
    }

    /// Whether every pipeline of the plan was on disk.
    pub fn is_whole(&self) -> bool {
        self.found == Some(Kept::Whole)
    }

    /// Keeps what was compiled, where it is more than was found.
    pub fn save(&self, kept: Kept) {
        if self.found >= Some(kept) {
            return;
        }
        let Some(data) = self.cache.get_data() else { return };
        match kept {
            Kept::Drafts => self.drafts.store(&data),
            Kept::Whole => {
                self.whole.store(&data);
                self.drafts.remove();
            }
        }
    }
}

/// Whether this process has compiled all of them.
pub(super) fn are_known(gpu: &GpuDevice, code: &[KernelCode]) -> bool {
    let known = lock(&gpu.pipelines);
    first_variants(code).all(|variant| known.contains_key(&key_of(gpu, variant)))
}

fn first_variants(code: &[KernelCode]) -> impl Iterator<Item = &Variant> {
    code.iter().filter_map(|kernel| kernel.variants.first())
}
