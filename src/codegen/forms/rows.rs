//! Nests with reductions or scans: rows across workgroups, columns in loops or across the invocations of a workgroup.
//!
//! A workgroup takes `rows` rows and gives `threads` invocations to each. The body runs in passes: pass `p` computes the
//! reductions whose arguments need the results of passes before `p`. Each invocation combines its columns alone, then the
//! invocations of a row combine through workgroup memory, in a tree with the same shape on every device. When a row fits
//! the registers of its invocations, elements are loaded once and kept across passes; otherwise every pass reloads them.

mod exchange;
mod scan;
mod team;

use crate::codegen::text::combine::Accumulator;
use crate::codegen::text::emit::{Block, Emitter, Ex};
use crate::codegen::text::module::{Geometry, Shader, assemble};
use crate::codegen::text::unit::Unit;
use crate::codegen::text::vector;
use crate::forms::{COLUMN, Gather, Lane, ROW, STEP, Team, chunks, gathered, lane, lazy_source, row_axes, scans};
use crate::loop_ir::facts::{depths, write_depth};
use crate::loop_ir::{Combiner, IndexExpr, Instr, Tag, Val, Write, flatten, unflatten};
use crate::types::Dim;
use exchange::Reduction;
use team::Rows;

/// The kernel of a nest with reductions or scans.
pub fn spell(unit: &Unit, team: &Team) -> Result<Shader, String> {
    let nest = unit.nest;
    let groups = nest.col_count().ceil_div(&Dim::int(team.lanes as i64));
    let mut k = Rows {
        em: Emitter::new(unit),
        nest,
        team: team.clone(),
        active: vec![],
        row_active: None,
        groups,
        base: 0,
        sums: vec![],
        pending: vec![],
        shared: vec![],
    };
    debug_assert!(team.rough.is_empty() || team.across == 1, "rough sums are of one row");
    k.em.across = team.across;
    k.em.rough_exp = team.rough.iter().map(|r| r.exp).collect();
    k.em.subgroup = team.subgroup;
    k.prologue();
    k.lanes();
    if team.lanes * team.across == 4 {
        let sets: Vec<Vec<usize>> = (0..k.sets()).map(|e| k.lane_set(e)).collect();
        vector::mark(&mut k.em, &sets);
    }
    k.open_chunk()?;
    let depth = depths(nest);
    let element: Vec<_> = nest.writes.iter().filter(|w| nest.is_element_write(w, &unit.level)).collect();
    let last_reduction = nest.body.iter().enumerate().filter(|(_, s)| matches!(s.instr, Instr::Reduce(..))).map(|(i, _)| depth[i]).max();
    let write_pass = element.iter().map(|w| write_depth(w, &depth)).max().map(|d| {
        // Values stored in place may still be read by later passes.
        if unit.is_in_place() { d.max(last_reduction.unwrap_or(1) - 1) } else { d }
    });
    let (row_checks, checks): (Vec<Val>, Vec<Val>) = nest.checks().partition(|v| !unit.level[v.0 as usize]);
    let last_check = checks.iter().map(|v| depth[v.0 as usize] + 1).max();
    let end = last_reduction.unwrap_or(0).max(write_pass.map_or(0, |p| p + 1)).max(last_check.unwrap_or(0));
    for pass in 0..end {
        let reductions: Vec<u32> = (0..nest.body.len() as u32)
            .filter(|&i| matches!(nest.body[i as usize].instr, Instr::Reduce(..)) && depth[i as usize] == pass + 1)
            .collect();
        // The last pass makes the checks that no pass needed.
        let all = 0..k.active.len();
        k.pending = checks.iter().copied().filter(|v| pass + 1 == end && !k.em.is_checked(*v, all.clone())).collect();
        k.pass(&reductions, if write_pass == Some(pass) { &element } else { &[] })?;
    }
    k.em.check(&row_checks, 0..team.across as usize)?;
    k.row_writes()?;
    k.close_chunk()?;
    let bytes: u32 = k.shared.iter().map(|(_, bytes)| bytes).sum();
    let name = match (team.threads, team.rows_first) {
        (t, true) if team.across > 1 => format!("{}x{}-rows-across-{t}", team.rows, team.across),
        (1, _) => format!("row-per-invocation-{}", team.rows),
        (t, true) => format!("{}-rows-across-{t}", team.rows),
        (t, false) if team.kept > 0 => format!("{}-rows-of-{t}x{}-in-registers", team.rows, team.lanes * team.kept),
        (t, false) => format!("{}-rows-of-{t}", team.rows),
    };
    let row_groups = chunks(nest).0.ceil_div(&Dim::int((team.rows * team.across) as i64));
    assemble(k.em, Geometry { name, threads: team.rows * team.threads, groups: row_groups, shared_bytes: bytes })
}

impl Rows<'_, '_> {
    /// Finds the invocation's row and its place among the invocations of the row.
    fn prologue(&mut self) {
        let Team { rows, threads, rows_first, .. } = self.team;
        let em = &mut self.em;
        if threads == 1 {
            em.line("let ty = lid;");
        } else if rows == 1 {
            em.line("let tx = lid;");
        } else if rows_first {
            em.line(format!("let tx = lid / {rows}u;"));
            em.line(format!("let ty = lid % {rows}u;"));
        } else {
            em.line(format!("let tx = lid % {threads}u;"));
            em.line(format!("let ty = lid / {threads}u;"));
        }
        let count = chunks(self.nest).0.ceil_div(&Dim::int(self.team.across as i64));
        if rows == 1 {
            em.axes.insert(ROW, Ex::global("group"));
            return;
        }
        em.line(format!("let row = group * {rows}u + ty;"));
        em.axes.insert(ROW, Ex::global("row"));
        if count.try_div(&Dim::int(rows as i64)).is_some() {
            return;
        }
        let bound = em.size(&count);
        if threads == 1 {
            em.leave_if(&format!("row >= {}", bound.text));
        } else {
            // Barriers are ahead: invocations behind the last row repeat it and store nothing.
            em.line(format!("let r = min(row, {} - 1u);", bound.text));
            em.axes.insert(ROW, Ex::global("r"));
            self.row_active = Some(format!("row < {}", bound.text));
        }
    }

    /// Declares the sums over rows and opens the loop over the rows of a chunk, where there are such sums.
    fn open_chunk(&mut self) -> Result<(), String> {
        for w in self.nest.writes.iter().filter(|w| w.fold) {
            let names: Vec<String> = (0..self.active.len()).map(|_| self.em.fresh("s")).collect();
            if self.team.kept == 0 {
                return Err("a workgroup does not hold the sums over rows".into());
            }
            names.iter().for_each(|name| self.em.line(format!("var {name} = 0.0f;")));
            self.sums.push((w.clone(), names));
        }
        if self.sums.is_empty() {
            return Ok(());
        }
        self.em.open(Block::Uniform);
        self.base = self.em.depth();
        self.em.axes.insert(STEP, Ex { text: "m".into(), depth: self.base });
        Ok(())
    }

    /// Closes that loop and stores the sums.
    fn close_chunk(&mut self) -> Result<(), String> {
        if self.sums.is_empty() {
            return Ok(());
        }
        // The next row writes into the workgroup memory that this one reads.
        if self.team.threads > 1 {
            self.em.barrier();
        }
        let length = self.em.size(&chunks(self.nest).1);
        self.em.close(&format!("for (var m = 0u; m < {}; m++)", length.text));
        self.base = 0;
        let tests: Vec<Option<String>> = self.active.iter().map(|a| both(a.as_deref(), self.row_active.as_deref())).collect();
        for (w, names) in std::mem::take(&mut self.sums) {
            for (lane, name) in names.iter().enumerate() {
                self.em.set_computed(w.value.0, lane, &Ex::global(name.clone()));
            }
            for set in 0..self.sets() {
                let lanes = self.lane_set(set);
                let stores = self.em.stores(&w, &lanes, &|l| tests[l].clone())?;
                stores.into_iter().for_each(|s| self.em.line(s));
            }
        }
        Ok(())
    }

    /// Adds the values of the columns at hand to a sum over rows.
    fn add_to_sums(&mut self, w: &Write) -> Result<(), String> {
        let names = self.sums.iter().find(|(own, _)| own == w).map(|(_, names)| names.clone()).unwrap_or_default();
        for (lane, name) in names.iter().enumerate() {
            let x = self.em.value(w.value, lane)?;
            // Columns behind the last are never stored.
            self.em.line(format!("{name} = {name} + {};", x.text));
        }
        Ok(())
    }

    fn lanes(&mut self) {
        let Team { threads, lanes, kept, across, .. } = self.team;
        for e in 0..self.sets() as u32 {
            let id = COLUMN + e;
            let mut active = None;
            if kept > 0 {
                let count = self.groups.as_int().expect("rows of a known length are kept");
                let place = if e == 0 { "tx".to_string() } else { format!("tx + {}u", e * threads) };
                let place = if threads == 1 { format!("{e}u") } else { place };
                let name = self.em.fresh("c");
                if count >= ((e + 1) * threads) as i64 {
                    self.em.line(format!("let {name} = {place};"));
                } else {
                    self.em.line(format!("let {name} = min({place}, {}u);", count - 1));
                    active = Some(format!("{place} < {count}u"));
                }
                self.em.axes.insert(id, Ex::global(name));
            } else if self.in_step() && !self.whole_steps() {
                let count = self.em.size(&self.groups.clone());
                active = Some(format!("c + tx + {}u < {}", e * threads, count.text));
            }
            for l in 0..lanes * across {
                self.em.lanes.push(lane(self.nest, &self.team, id, l / across, l % across));
                self.active.push(active.clone());
            }
        }
    }

    /// One pass over the columns: these reductions, then these element-level writes.
    fn pass(&mut self, reductions: &[u32], writes: &[&Write]) -> Result<(), String> {
        let nest = self.nest;
        let mut accumulators = vec![];
        for &i in reductions {
            let Instr::Reduce(combiner, arg) = nest.body[i as usize].instr else { continue };
            if let Some(gather) = gathered(self.nest, i) {
                self.gather(i, &gather)?;
                continue;
            }
            for row in 0..self.team.across as usize {
                let acc = Accumulator::new(&mut self.em, combiner, nest.dtype(arg))?.of_many(&mut self.em);
                acc.declare(&mut self.em);
                accumulators.push(Reduction { stmt: i, arg, acc, row });
            }
        }
        if accumulators.is_empty() && writes.is_empty() && self.pending.is_empty() {
            return Ok(());
        }
        let gathers = || (0..nest.body.len() as u32).any(|i| gathered(nest, i).is_some());
        if !writes.is_empty() && self.em.unit.is_in_place() && self.team.threads > 1 && gathers() {
            // A column that was taken at its place may be overwritten from here on.
            self.em.storage_barrier();
        }
        if self.team.kept > 0 {
            self.columns(&accumulators, writes)?;
        } else {
            self.column_loop(&accumulators, writes)?;
        }
        for Reduction { acc, .. } in &accumulators {
            acc.close(&mut self.em).into_iter().for_each(|l| self.em.line(l));
        }
        if !accumulators.is_empty() {
            self.combine(&accumulators);
        }
        Ok(())
    }

    /// The loop over columns, several groups a step; where those do not come out even, a second loop takes the rest one by one.
    fn column_loop(&mut self, accumulators: &[Reduction], writes: &[&Write]) -> Result<(), String> {
        let count = self.em.size(&self.groups);
        let (start, end) = self.column_range(&count.text)?;
        let Team { threads, unroll, lanes, across, .. } = self.team;
        if unroll == 1 || self.in_step() || self.whole_steps() {
            self.column_steps(accumulators, writes, "c", &count.text)?;
            self.em.close(&format!("for (var c = {start}; c < {end}; c += {}u)", threads * unroll));
            return Ok(());
        }
        let c = self.em.fresh("c");
        self.em.line(format!("var {c} = {start};"));
        self.column_steps(accumulators, writes, &c, &count.text)?;
        self.em.close(&format!("for (; {c} + {}u < {end}; {c} += {}u)", threads * (unroll - 1), threads * unroll));
        self.team.unroll = 1;
        let rest = self.active.split_off((lanes * across) as usize);
        self.column_steps(accumulators, writes, &c, &count.text)?;
        self.em.close(&format!("for (; {c} < {end}; {c} += {threads}u)"));
        self.active.extend(rest);
        self.team.unroll = unroll;
        Ok(())
    }

    /// The inside of that loop, in which `c` is the first group of columns of a step.
    fn column_steps(&mut self, accumulators: &[Reduction], writes: &[&Write], c: &str, count: &str) -> Result<(), String> {
        let single = self.groups.is(1) && self.team.threads == 1;
        self.em.open(if self.in_step() { Block::Uniform } else { Block::Divergent });
        let depth = self.em.depth();
        self.em.loop_depth = Some(depth);
        for e in 0..self.team.unroll {
            let text = match e {
                _ if single => "0u".to_string(),
                _ if self.in_step() => {
                    let (name, place) = (self.em.fresh("c"), format!("{c} + tx + {}u", e * self.team.threads));
                    let place = if self.whole_steps() { place } else { format!("min({place}, {count} - 1u)") };
                    self.em.line(format!("let {name} = {place};"));
                    name
                }
                0 => c.to_string(),
                e => {
                    let name = self.em.fresh("c");
                    self.em.line(format!("let {name} = {c} + {}u;", e * self.team.threads));
                    name
                }
            };
            self.em.axes.insert(COLUMN + e, Ex { text, depth });
        }
        self.columns(accumulators, writes)?;
        self.em.loop_depth = None;
        Ok(())
    }

    /// First column of an invocation, and where its row ends.
    fn column_range(&mut self, count: &str) -> Result<(String, String), String> {
        if let Tag::Segments { start, end } = self.nest.tag
            && self.team.threads == 1
            && self.team.lanes == 1
            && self.team.unroll == 1
        {
            let (start, end) = (self.em.value(start, 0)?, self.em.value(end, 0)?);
            return Ok((format!("u32(max({}, 0i))", start.text), format!("min(u32(max({}, 0i)), {count})", end.text)));
        }
        let first = if self.team.threads == 1 || self.in_step() { "0u" } else { "tx" };
        Ok((first.into(), count.into()))
    }

    /// Whether the invocations of a row go through the loop over columns together, because they scan.
    fn in_step(&self) -> bool {
        self.team.threads > 1 && scans(self.nest)
    }

    /// Whether no step of the loop goes beyond the last column.
    fn whole_steps(&self) -> bool {
        self.groups.try_div(&Dim::int((self.team.threads * self.team.unroll) as i64)).is_some()
    }

    /// The columns that are at hand: all lanes of one step of the loop, or everything in registers.
    fn columns(&mut self, accumulators: &[Reduction], writes: &[&Write]) -> Result<(), String> {
        self.prefetch(accumulators)?;
        if self.in_step() {
            let arguments: Vec<Val> = accumulators.iter().map(|r| r.arg).chain(self.pending.iter().copied()).collect();
            self.scans(&arguments, writes)?;
        }
        for r in accumulators.iter().filter(|r| r.acc.takes_several()) {
            self.add_sets(r)?;
        }
        for lane in 0..self.active.len() {
            let row = lane % self.team.across as usize;
            for r in accumulators.iter().filter(|r| r.row == row) {
                self.add_lane(r, lane)?;
            }
        }
        let pending = std::mem::take(&mut self.pending);
        self.em.check(&pending, 0..self.active.len())?;
        self.pending = pending;
        let mut stores = vec![];
        for w in writes {
            if w.fold {
                self.add_to_sums(w)?;
                continue;
            }
            for set in 0..self.sets() {
                let tests: Vec<Option<String>> = self.active.iter().map(|a| both(a.as_deref(), self.row_active.as_deref())).collect();
                let lanes = self.lane_set(set);
                stores.extend(self.em.stores(w, &lanes, &|l| tests[l].clone())?);
            }
        }
        for s in stores {
            self.em.line(s);
        }
        Ok(())
    }

    /// The result of a sum of one column: that column's element, or zero when there is no such column.
    fn gather(&mut self, i: u32, gather: &Gather) -> Result<(), String> {
        let lane = self.em.lanes.len();
        let id = COLUMN + lane as u32;
        let count = self.nest.col_count();
        let size = self.em.size(&count);
        let kind = self.em.unit.kind(self.nest.dtype(gather.at))?;
        let at = self.em.value(gather.at, 0)?;
        let at = self.em.bind(Ex { text: kind.to_index(&at.text), depth: at.depth }, "x");
        let place = Ex { text: format!("min({}, {} - 1u)", at.text, size.text), depth: at.depth };
        let place = self.em.bind(place, "x");
        self.em.axes.insert(id, place);
        let mut axes = row_axes(self.nest, 1, 0);
        axes.extend(unflatten(&IndexExpr::axis(id, &count), &self.nest.cols));
        self.em.lanes.push(Lane::at(axes));
        // What earlier passes found holds for the new lane too.
        for v in 0..self.nest.body.len() as u32 {
            if !self.em.unit.level[v as usize]
                && let Some(known) = self.em.computed(v, 0)
            {
                self.em.set_computed(v, lane, &known);
            }
        }
        let x = self.em.value(gather.source, lane)?;
        let kind = self.em.unit.kind(self.nest.dtype(gather.source))?;
        let text = format!("select({}, {}, {} < {})", kind.zero(), x.text, at.text, size.text);
        let result = self.em.bind(Ex { text, depth: x.depth }, "r");
        self.set_result(i, 0, 0, &result);
        Ok(())
    }

    /// Starts all loads of the columns at hand before anything waits for the first.
    fn prefetch(&mut self, accumulators: &[Reduction]) -> Result<(), String> {
        let nest = self.nest;
        if self.sets() == 1 || (accumulators.is_empty() && !scans(self.nest)) {
            return Ok(());
        }
        for (v, stmt) in nest.body.iter().enumerate() {
            let Instr::Load { index, mask: None, .. } = &stmt.instr else { continue };
            if self.em.unit.level[v] && index.values().is_empty() {
                for lane in 0..self.active.len() {
                    self.em.value(Val(v as u32), lane)?;
                }
            }
        }
        Ok(())
    }

    /// Adds an element to a reduction that takes elements one by one.
    fn add_lane(&mut self, Reduction { stmt, arg, acc, .. }: &Reduction, lane: usize) -> Result<(), String> {
        if let Some((condition, source)) = lazy_source(self.nest, &self.nest.body[*stmt as usize].instr)
            && self.active[lane].is_none()
        {
            return self.add_where(acc, condition, source, lane);
        }
        let column = match acc.combiner {
            _ if acc.takes_several() => return Ok(()),
            Combiner::ArgMax | Combiner::ArgMin => {
                let flat = flatten(&self.nest.col_axes(), &self.nest.cols);
                let at = self.em.in_lane(&flat, lane);
                self.em.index(&at, lane)?.text
            }
            _ => String::new(),
        };
        let x = self.em.value(*arg, lane)?;
        let lines = acc.add(&mut self.em, &x.text, &column);
        self.guarded(self.active[lane].clone(), lines);
        Ok(())
    }

    /// Adds elements to a reduction that takes several, as many at once as share a condition.
    fn add_sets(&mut self, Reduction { arg, acc, row, .. }: &Reduction) -> Result<(), String> {
        let across = self.team.across as usize;
        let sets: Vec<Vec<usize>> = match self.active.iter().all(Option::is_none) {
            true => vec![(0..self.active.len()).collect()],
            false => (0..self.sets()).map(|e| self.lane_set(e)).collect(),
        };
        for set in sets {
            let own = set.iter().filter(|&&l| l % across == *row);
            let values = own.map(|&l| self.em.value(*arg, l).map(|e| e.text)).collect::<Result<Vec<_>, _>>()?;
            let lines = acc.add_all(&mut self.em, &values);
            self.guarded(self.active[set[0]].clone(), lines);
        }
        Ok(())
    }

    fn add_where(&mut self, acc: &Accumulator, condition: Val, source: Val, lane: usize) -> Result<(), String> {
        let test = self.em.value(condition, lane)?;
        self.em.open(Block::Branch);
        let x = self.em.value(source, lane)?;
        for line in acc.add(&mut self.em, &x.text, "") {
            self.em.line(line);
        }
        self.em.close(&format!("if ({})", test.text));
        Ok(())
    }

    fn guarded(&mut self, test: Option<String>, lines: Vec<String>) {
        match test {
            Some(test) => {
                self.em.open(Block::Divergent);
                for line in lines {
                    self.em.line(line);
                }
                self.em.close(&format!("if ({test})"));
            }
            None => lines.into_iter().for_each(|l| self.em.line(l)),
        }
    }

    /// Row-level writes, once per row.
    fn row_writes(&mut self) -> Result<(), String> {
        let unit = self.em.unit;
        let writes: Vec<_> = self.nest.writes.iter().filter(|w| !self.nest.is_element_write(w, &unit.level)).collect();
        let first = (self.team.threads > 1).then(|| "tx == 0u".to_string());
        let test = both(first.as_deref(), self.row_active.as_deref());
        let mut stores = vec![];
        for w in writes {
            if unit.buffers[w.buffer.0 as usize].format.per_word > 1 {
                let b = &unit.buffers[w.buffer.0 as usize];
                return Err(format!("{}: a packed write once per row does not own whole words; word storage is needed", b.name));
            }
            let lanes: Vec<usize> = (0..self.team.across as usize).collect();
            stores.extend(self.em.stores(w, &lanes, &|_| test.clone())?);
        }
        if !stores.is_empty() && unit.is_in_place() && self.team.threads > 1 {
            // Other invocations of the row may still read what is overwritten here.
            self.em.storage_barrier();
        }
        for s in stores {
            self.em.line(s);
        }
        Ok(())
    }
}

fn both(a: Option<&str>, b: Option<&str>) -> Option<String> {
    match (a, b) {
        (Some(a), Some(b)) => Some(format!("{a} && {b}")),
        (Some(a), None) | (None, Some(a)) => Some(a.to_string()),
        (None, None) => None,
    }
}
