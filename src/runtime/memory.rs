//! How much memory of the host there is, and whether a program fits: what would take more is refused before it takes any.

use crate::error::{Error, Result};
use crate::loop_ir::BufferId;
use crate::schedule::Program;
use crate::types::{Bindings, TensorType};
use std::path::{Path, PathBuf};

/// Below this nobody asks: reading the limits would take longer than what it saves.
const SMALL: u64 = 64 << 20;

/// Bytes that this process may still take, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Available {
    /// How many.
    pub bytes: u64,
    /// The machine, or the limit that is closest.
    pub source: &'static str,
}

/// The least of what the machine, its control groups and the process's own limits leave; `None` where the system says nothing.
pub fn available() -> Option<Available> {
    let machine = read("/proc/meminfo").and_then(|t| Some(1024 * number_after(&t, "MemAvailable:")?));
    let process = read("/proc/self/limits").zip(read("/proc/self/status")).and_then(|(limits, status)| address_space_left(&limits, &status));
    let group = read("/proc/self/cgroup").and_then(|t| group_left(&t, Path::new("/sys/fs/cgroup")));
    let sources = [("of the machine", machine), ("of the control group", group), ("of the process", process)];
    let least = sources.into_iter().filter_map(|(source, bytes)| Some(Available { bytes: bytes?, source }));
    least.min_by_key(|a| a.bytes)
}

/// An error unless so many more bytes fit. `what` begins the message.
pub fn admit(bytes: u64, what: impl FnOnce() -> String) -> Result<()> {
    let limit = if bytes < SMALL { None } else { available() };
    match limit.filter(|limit| bytes > limit.bytes) {
        Some(limit) => Err(Error::Platform(format!(
            "{}: {bytes} bytes ({}) of memory are needed, and {} bytes ({}) {} are available",
            what(),
            in_gib(bytes),
            limit.bytes,
            in_gib(limit.bytes),
            limit.source
        ))),
        None => Ok(()),
    }
}

/// An error unless the program fits into the host's memory at these sizes, `held` bytes of which it has already: its slots, and the
/// copies that the host has of state and outputs.
pub(super) fn admit_program(program: &Program, bindings: &Bindings, held: u64) -> Result<()> {
    let peak = predicted_peak(program, bindings);
    admit(peak.saturating_sub(held), || format!("{}; `Config::memory_budget` trains in less", program.appetite(peak, bindings)))
}

/// An error unless the program fits into a device that has so many bytes.
#[cfg(feature = "gpu")]
pub(super) fn admit_on(program: &Program, bindings: &Bindings, name: &str, memory: Option<u64>) -> Result<()> {
    let peak = program.peak_bytes().eval(bindings).map_or(u64::MAX, |n| n.max(0) as u64);
    match memory.filter(|&memory| peak > memory) {
        Some(memory) => Err(Error::Platform(format!("{}; {name} has {memory} bytes", program.appetite(peak, bindings)))),
        None => Ok(()),
    }
}

/// Bytes of all slots, and of the copies of state and outputs.
pub(super) fn predicted_peak(program: &Program, bindings: &Bindings) -> u64 {
    let slots = program.slots.iter().map(|s| s.bytes.eval(bindings).map_or(u64::MAX, |n| n.max(0) as u64));
    let copies = program.inputs.iter().map(|i| i.buffer).chain(program.outputs.iter().map(|o| o.buffer));
    let copied = |b: BufferId| host_bytes(&program.buffers[b.0 as usize].ty, bindings);
    slots.chain(copies.map(copied)).fold(0, u64::saturating_add)
}

/// Bytes of a tensor on the host. What overflows is as much as there can be.
fn host_bytes(ty: &TensorType, bindings: &Bindings) -> u64 {
    let sizes = ty.shape.0.iter().map(|d| d.eval(bindings).ok().and_then(|n| u64::try_from(n).ok()).unwrap_or(u64::MAX));
    sizes.fold(ty.dtype.size() as u64, u64::saturating_mul)
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn in_gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64)
}

/// The number behind a key of a table.
fn number_after(table: &str, key: &str) -> Option<u64> {
    table.lines().find_map(|l| l.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}

/// What `ulimit -v` leaves.
fn address_space_left(limits: &str, status: &str) -> Option<u64> {
    let limit = number_after(limits, "Max address space")?;
    Some(limit.saturating_sub(1024 * number_after(status, "VmSize:")?))
}

/// What the control groups around this process leave: of version 2, which are one tree, or of version 1, whose memory has a tree
/// of its own.
fn group_left(groups: &str, root: &Path) -> Option<u64> {
    let lines = groups.lines().filter_map(|l| l.split_once(':').and_then(|(_, rest)| rest.split_once(':')));
    let left = lines.filter_map(|(controllers, path)| {
        let path = path.trim_start_matches('/');
        match controllers {
            "" => least_along(root, path, &["memory.max", "memory.current"], "inactive_file"),
            _ if controllers.split(',').any(|c| c == "memory") => {
                least_along(&root.join("memory"), path, &["memory.limit_in_bytes", "memory.usage_in_bytes"], "total_inactive_file")
            }
            _ => None,
        }
    });
    left.min()
}

/// The least that a group and the groups around it leave. In a container the path may be one of outside, where the root is ours.
fn least_along(root: &Path, path: &str, [limit, usage]: &[&str; 2], cache: &str) -> Option<u64> {
    let left = |group: PathBuf| {
        let number = |file: &str| read(group.join(file))?.trim().parse::<u64>().ok();
        let used = number(usage)?;
        // Pages of files that nobody uses give way.
        let reclaimable = read(group.join("memory.stat")).and_then(|t| number_after(&t, &format!("{cache} "))).unwrap_or(0);
        Some(number(limit)?.saturating_sub(used.saturating_sub(reclaimable)))
    };
    Path::new(path).ancestors().filter_map(|group| left(root.join(group))).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: PathBuf, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn limits_of_both_versions_of_control_groups() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        write(at("a/memory.max"), "1000\n");
        write(at("a/memory.current"), "700\n");
        write(at("a/memory.stat"), "anon 5\ninactive_file 200\n");
        write(at("a/b/memory.max"), "max\n");
        write(at("a/b/memory.current"), "100\n");
        assert_eq!(group_left("0::/a/b\n", folder.path()), Some(500));
        assert_eq!(group_left("0::/\n", folder.path()), None);
        write(at("memory/c/memory.limit_in_bytes"), "900");
        write(at("memory/c/memory.usage_in_bytes"), "300");
        write(at("memory/c/memory.stat"), "inactive_file 1\ntotal_inactive_file 50\n");
        assert_eq!(group_left("5:cpu:/x\n4:memory:/c\n0::/\n", folder.path()), Some(650));
    }

    #[test]
    fn limits_of_the_process() {
        let limits = "Limit   Soft Limit  Hard Limit  Units\nMax address space         4194304              unlimited            bytes\n";
        assert_eq!(address_space_left(limits, "Name:\tx\nVmSize:\t    1024 kB\n"), Some(3 << 20));
        assert_eq!(address_space_left(&limits.replace("4194304", "unlimited"), "VmSize: 1 kB\n"), None);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        admit(1 << 20, || unreachable!("a little always fits")).unwrap();
        if available().is_some() {
            let error = admit(u64::MAX, || "x takes".into()).unwrap_err().to_string();
            assert!(error.contains("x takes:") && error.contains("are available"), "{error}");
        }
    }
}
