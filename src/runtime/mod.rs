//! Adapters, buffers, pipelines, running a plan. The only room that names `wgpu`.
