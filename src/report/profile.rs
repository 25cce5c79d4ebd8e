//! Profiles: a table for people, a trace for Perfetto and Chrome.

use super::Table;
use crate::runtime::{Profile, ProfiledCommand};
use serde_json::{Value, json};

/// Launches of one shader.
struct Same<'a> {
    first: &'a ProfiledCommand,
    count: usize,
    us: f64,
    bytes: u64,
    flops: f64,
}

/// The kernels of a profile with the number of their launches, those that take most time first, at most `most` of them.
pub fn profile_text(profile: &Profile, most: usize) -> String {
    let total: f64 = profile.commands.iter().map(|c| c.us).sum();
    let mut table = Table::new(&["us", "% of time", "count", "us each", "GB/s", "% of copy", "TFLOPS", "% of peak", "first", "phase", "operators"]);
    for kernel in kernels(profile).iter().take(most) {
        let (gbps, tflops) = (kernel.bytes as f64 / kernel.us.max(1e-3) / 1e3, kernel.flops / kernel.us.max(1e-3) / 1e6);
        let arithmetic = |x: f64, digits: usize| if kernel.flops > 0.0 { format!("{x:.digits$}") } else { String::new() };
        table.row(&[
            format!("{:.1}", kernel.us),
            format!("{:.1}", 100.0 * kernel.us / total.max(1e-9)),
            kernel.count.to_string(),
            format!("{:.1}", kernel.us / kernel.count as f64),
            format!("{gbps:.0}"),
            format!("{:.0}", 100.0 * gbps / profile.copy_gbps),
            arithmetic(tflops, 1),
            arithmetic(1e5 * tflops / profile.peak_gflops.max(1) as f64, 0),
            kernel.first.command.to_string(),
            format!("{:?}", kernel.first.phase).to_lowercase(),
            kernel.first.label.clone(),
        ]);
    }
    let launches = profile.commands.len();
    let head = format!("{} on {}: {launches} commands, {total:.0} us, copy {:.0} GB/s", profile.name, profile.device, profile.copy_gbps);
    format!("{head}\n{table}")
}

/// Launches by shader, those that take most time together first.
fn kernels(profile: &Profile) -> Vec<Same<'_>> {
    let mut out: Vec<Same> = vec![];
    for c in &profile.commands {
        let at = out.iter().position(|k| k.first.shader == c.shader).unwrap_or_else(|| {
            out.push(Same { first: c, count: 0, us: 0.0, bytes: 0, flops: 0.0 });
            out.len() - 1
        });
        let kernel = &mut out[at];
        kernel.count += 1;
        kernel.us += c.us;
        kernel.bytes += c.bytes;
        kernel.flops += c.flops;
    }
    out.sort_by(|a, b| b.us.total_cmp(&a.us));
    out
}

/// Profiles in the trace event format that Perfetto and Chrome's tracing read: a process for each program, times in
/// microseconds.
pub fn chrome_trace(profiles: &[Profile]) -> String {
    let mut events: Vec<Value> = vec![];
    for (pid, profile) in profiles.iter().enumerate() {
        let name = format!("{} on {}", profile.name, profile.device);
        events.push(json!({"name": "process_name", "ph": "M", "pid": pid, "args": {"name": name}}));
        events.extend(profile.commands.iter().map(|c| {
            let args = json!({"command": c.command, "bytes": c.bytes, "gbps": c.bytes as f64 / c.us.max(1e-3) / 1e3});
            let phase = format!("{:?}", c.phase).to_lowercase();
            json!({"name": c.label, "cat": phase, "ph": "X", "ts": c.start_us, "dur": c.us, "pid": pid, "tid": 0, "args": args})
        }));
    }
    json!({"displayTimeUnit": "ns", "traceEvents": events}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loop_ir::Phase;

    #[test]
    fn equal_kernels_are_one_row_with_their_arithmetic() {
        let command = |command: usize, shader: u32, us: f64, flops: f64| {
            let label = format!("kernel {shader}");
            ProfiledCommand { command, phase: Phase::Forward, label, start_us: 0.0, us, bytes: 3000, flops, shader }
        };
        let commands = vec![command(0, 1, 10.0, 0.0), command(1, 0, 4.0, 2e8), command(2, 0, 6.0, 2e8), command(3, 2, 1.0, 0.0)];
        let profile = Profile { name: "p".into(), device: "d".into(), copy_gbps: 1.0, peak_gflops: 80_000, commands };
        let text = profile_text(&profile, 2);
        let rows: Vec<Vec<&str>> = text.lines().skip(2).map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(
            rows,
            [["10.0", "47.6", "1", "10.0", "0", "30", "0", "forward", "kernel", "1"].to_vec(), {
                ["10.0", "47.6", "2", "5.0", "1", "60", "40.0", "50", "1", "forward", "kernel", "0"].to_vec()
            }]
        );
    }
}
