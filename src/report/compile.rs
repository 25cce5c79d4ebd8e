//! The compile suite: how long each stage takes as programs grow.

use super::Table;
use serde::Serialize;

/// One program of the compile suite.
#[derive(Clone, Debug, Serialize)]
pub struct CompileRow {
    /// The suite, `compile`.
    pub suite: String,
    /// What was compiled.
    pub name: String,
    /// Nodes of the joint graph of forward and backward, after its passes.
    pub joint_nodes: usize,
    /// Loop nests before fusion, the update's included.
    pub nests: usize,
    /// Dispatches after it.
    pub kernels: usize,
    /// Milliseconds of `schedule` alone, the median of several.
    pub schedule_ms: f64,
    /// Milliseconds of each stage in order, the least of several turns.
    pub stage_ms: Vec<(String, f64)>,
}

impl CompileRow {
    fn total_ms(&self) -> f64 {
        self.stage_ms.iter().map(|s| s.1).sum()
    }

    /// A stage's milliseconds, its share of all stages, and how many times faster than linear it grew from the first program on.
    fn stage(&self, at: usize, first: &CompileRow) -> [String; 3] {
        let ms = |row: &CompileRow| row.stage_ms.get(at).map_or_else(|| row.total_ms(), |s| s.1);
        let size = |row: &CompileRow| row.joint_nodes.max(1) as f64;
        let (share, growth) = (100.0 * ms(self) / self.total_ms(), (ms(self) / ms(first)) / (size(self) / size(first)));
        [format!("{:.1}", ms(self)), format!("{share:.0}%"), format!("{growth:.2}")]
    }
}

/// Rows of the compile suite as two tables: of the programs, and of the stages of each.
pub fn compile_text(rows: &[CompileRow]) -> String {
    let mut table = Table::new(&["suite", "name", "joint nodes", "nests", "kernels", "schedule ms", "us per node", "all stages ms"]);
    for r in rows {
        let per_node = 1e3 * r.schedule_ms / r.joint_nodes.max(1) as f64;
        let counts = [r.joint_nodes, r.nests, r.kernels].map(|n| n.to_string());
        let times = [format!("{:.1}", r.schedule_ms), format!("{per_node:.1}"), format!("{:.0}", r.total_ms())];
        table.row(&[[r.suite.clone(), r.name.clone()].as_slice(), &counts, &times].concat());
    }
    format!("{table}\n{}", stages(rows))
}

/// Each stage with its milliseconds, its share, and its growth beside that of a stage which is linear.
fn stages(rows: &[CompileRow]) -> Table {
    let header: Vec<String> = rows.iter().flat_map(|r| [format!("{} nodes ms", r.joint_nodes), "share".into(), "x linear".into()]).collect();
    let mut table = Table::new(&[&["stage"], header.iter().map(String::as_str).collect::<Vec<_>>().as_slice()].concat());
    let Some(first) = rows.first() else { return table };
    let names = first.stage_ms.iter().map(|s| s.0.as_str()).chain(["all"]);
    for (at, name) in names.enumerate() {
        let cells = rows.iter().flat_map(|r| r.stage(at, first));
        table.row(&[name.to_string()].into_iter().chain(cells).collect::<Vec<_>>());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(joint_nodes: usize, stage_ms: &[(&str, f64)]) -> CompileRow {
        let stage_ms = stage_ms.iter().map(|(name, ms)| (name.to_string(), *ms)).collect();
        CompileRow { suite: "compile".into(), name: "gpt".into(), joint_nodes, nests: 3, kernels: 2, schedule_ms: 1.0, stage_ms }
    }

    #[test]
    fn stages_show_growth_and_share() {
        let text = compile_text(&[row(10, &[("lower", 1.0), ("schedule", 3.0)]), row(40, &[("lower", 8.0), ("schedule", 12.0)])]);
        let lines: Vec<String> = text.lines().skip(4).map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[0], "stage 10 nodes ms share x linear 40 nodes ms share x linear");
        assert_eq!(lines[1..], ["lower 1.0 25% 1.00 8.0 40% 2.00", "schedule 3.0 75% 1.00 12.0 60% 1.00", "all 4.0 100% 1.00 20.0 100% 1.25"]);
    }
}
