//! Profiles: a table for people, a trace for Perfetto and Chrome.

use super::Table;
use crate::runtime::Profile;
use serde_json::{Value, json};

/// The commands of a profile, the slowest first, at most `most` of them.
pub fn profile_text(profile: &Profile, most: usize) -> String {
    let total: f64 = profile.commands.iter().map(|c| c.us).sum();
    let mut commands: Vec<_> = profile.commands.iter().collect();
    commands.sort_by(|a, b| b.us.total_cmp(&a.us));
    let mut table = Table::new(&["us", "% of time", "MB", "GB/s", "% of copy", "command", "phase", "operators"]);
    for c in commands.iter().take(most) {
        let gbps = c.bytes as f64 / c.us.max(1e-3) / 1e3;
        table.row(&[
            format!("{:.1}", c.us),
            format!("{:.1}", 100.0 * c.us / total.max(1e-9)),
            format!("{:.1}", c.bytes as f64 / 1e6),
            format!("{gbps:.0}"),
            format!("{:.0}", 100.0 * gbps / profile.copy_gbps),
            c.command.to_string(),
            format!("{:?}", c.phase).to_lowercase(),
            c.label.clone(),
        ]);
    }
    let head = format!("{} on {}: {} commands, {total:.0} us, copy {:.0} GB/s", profile.name, profile.device, commands.len(), profile.copy_gbps);
    format!("{head}\n{table}")
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
