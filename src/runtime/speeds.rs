//! What a device does: measured when somebody asks (`inductor doctor`), kept in the cache folder, an input of later compilations.
//!
//! Figures are rounded to powers of the square root of two, so that measuring again gives the same plans. Without a
//! measurement the named model of the adapter's kind holds: no compilation waits for one.

use super::gpu::cache::BlobFile;
use super::{Device, compile, copy_gbps};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::frontend::{Initializer, trace_eval};
use crate::types::{DType, DeviceModel};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Instant;

/// Bytes copied on GPUs: more than caches hold. Software adapters copy less.
const COPIED: usize = 256 << 20;
const COPIED_BY_SOFTWARE: usize = 4 << 20;
/// Launches that wait for one another.
const CHAIN: usize = 64;
/// Steps of that chain, of which the fastest counts.
const STEPS: usize = 20;

/// What is measured and kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Speeds {
    bandwidth_gbps: u32,
    launch_ns: u32,
}

impl Speeds {
    fn over(self, model: DeviceModel) -> DeviceModel {
        let Speeds { bandwidth_gbps, launch_ns } = self;
        DeviceModel { name: "measured".into(), bandwidth_gbps, launch_ns, ..model }
    }
}

impl Device {
    /// Measures the memory bandwidth and the time of a launch, and keeps them in the cache folder for devices opened later. Takes
    /// about a second. Errors: the interpreter, or a device without timestamps.
    pub fn measure(&self) -> Result<DeviceModel> {
        let Some(gpu) = self.gpu() else { return Err(Error::Platform("the interpreter has no launches to measure".into())) };
        let bytes = if self.is_software() { COPIED_BY_SOFTWARE } else { COPIED };
        let speeds = Speeds { bandwidth_gbps: coarse(copy_gbps(self, bytes)?), launch_ns: coarse(launch_ns(self)?) };
        if let Some(folder) = gpu.cache_folder() {
            let text = serde_json::to_vec(&speeds).map_err(|e| Error::Device(format!("writing a measurement: {e}")))?;
            file(folder, &gpu.key()).store(&text);
        }
        Ok(speeds.over(self.model().clone()))
    }
}

/// The model with what was measured on an adapter before, if anything.
pub(super) fn known(folder: Option<&Path>, adapter: &str, model: DeviceModel) -> DeviceModel {
    let kept: Option<Speeds> = folder.and_then(|f| serde_json::from_slice(&file(f, adapter).load()?).ok());
    kept.map_or(model.clone(), |speeds| speeds.over(model))
}

fn file(folder: &Path, adapter: &str) -> BlobFile {
    let key = blake3::hash(adapter.as_bytes()).to_hex();
    BlobFile::at(folder.join("speeds").join(format!("{}.json", &key[..32])))
}

/// Nanoseconds of one of several launches in a step that wait for one another, by the host's clock.
fn launch_ns(device: &Device) -> Result<f64> {
    let traced = trace_eval("launches", |t| {
        let x = t.parameter("x", DType::F32, 64, Initializer::Zeros);
        Ok(vec![("y", (0..CHAIN).fold(x, |x, _| x.sin()))])
    })?;
    let step = compile(&traced, device, &Config { fuse: false, ..Config::default() })?;
    let mut state = step.init(1)?;
    let mut fastest = f64::INFINITY;
    for _ in 0..STEPS {
        let started = Instant::now();
        let queued = (0..4).map(|_| step.run(&mut state, ())).collect::<Result<Vec<_>>>()?;
        for result in queued {
            result.wait()?;
        }
        fastest = fastest.min(started.elapsed().as_secs_f64() / (4 * CHAIN) as f64);
    }
    Ok(fastest * 1e9)
}

/// The nearest power of the square root of two.
fn coarse(x: f64) -> u32 {
    ((x.max(1.0).log2() * 2.0).round() / 2.0).exp2().round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_near_one_another_are_one() {
        assert_eq!([2900.0, 3010.0, 3200.0].map(coarse), [2896; 3]);
        assert_eq!([0.0, 1.0, 4000.0].map(coarse), [1, 1, 4096]);
    }

    #[test]
    fn a_measurement_is_known_to_devices_opened_later() {
        let folder = tempfile::tempdir().unwrap();
        let named = DeviceModel::large_gpu;
        assert_eq!(known(Some(folder.path()), "adapter", named()), named());
        let speeds = Speeds { bandwidth_gbps: 2048, launch_ns: 2896 };
        file(folder.path(), "adapter").store(&serde_json::to_vec(&speeds).unwrap());
        let measured = DeviceModel { name: "measured".into(), bandwidth_gbps: 2048, launch_ns: 2896, ..named() };
        assert_eq!(known(Some(folder.path()), "adapter", named()), measured);
        assert_eq!(known(Some(folder.path()), "another", named()), named());
        assert_eq!(known(None, "adapter", named()), named());
    }
}
