//! Register allocation: a linear scan over the steps of a kernel.

use super::access::Level;
use super::kernel::{Kernel, Op, Place, Step, Store};

/// Gives virtual registers physical ones, which are used again after the last use. What a chunk reads from outside its
/// phase lives until the last chunk.
pub fn allocate(kernel: &mut Kernel, virtuals: &[Level]) {
    let n = virtuals.len();
    let mut life = Lives { first: vec![usize::MAX; n], last: vec![0; n] };
    let mut at = 0;
    let phases = kernel.phases.len();
    for (p, phase) in kernel.phases.iter().enumerate() {
        for step in &phase.before {
            at += 1;
            life.step(step, at, at, 0);
        }
        let start = at + 1;
        let stores: &[Store] = if p + 1 == phases { &kernel.elem_stores } else { &[] };
        let end = at + phase.body.len() + stores.len() + 1;
        for step in &phase.body {
            at += 1;
            life.step(step, at, end, start);
        }
        for store in stores {
            at += 1;
            store.args.iter().for_each(|a| life.read(a.place, at, end, start));
        }
        at = end + 1;
        for &r in &phase.ends {
            kernel.reductions[r].results.iter().for_each(|&(_, _, dst)| life.write(dst, at));
        }
    }
    at += 1;
    for store in &kernel.row_stores {
        store.args.iter().for_each(|a| life.read(a.place, at, at, 0));
    }
    let map = life.assign(virtuals, &mut kernel.regs);
    let rename = |r: &mut usize| *r = map.get(*r).copied().unwrap_or(*r);
    let steps = kernel.phases.iter_mut().flat_map(|p| p.before.iter_mut().chain(&mut p.body));
    for step in steps {
        rename(&mut step.dst);
        if let Op::Sort { from, .. } = &mut step.op {
            rename(from);
        }
        step.args.iter_mut().for_each(|a| rename_place(&mut a.place, &rename));
    }
    for store in kernel.elem_stores.iter_mut().chain(&mut kernel.row_stores) {
        store.args.iter_mut().for_each(|a| rename_place(&mut a.place, &rename));
    }
    for reduction in &mut kernel.reductions {
        reduction.results.iter_mut().for_each(|(_, _, dst)| rename(dst));
    }
}

fn rename_place(place: &mut Place, rename: &dyn Fn(&mut usize)) {
    match place {
        Place::Uniform(_) => {}
        Place::Row(r) | Place::Elem(r) => rename(r),
        Place::Spread(a, b) => {
            rename(a);
            rename(b);
        }
    }
}

/// Positions between which each virtual register holds something.
struct Lives {
    first: Vec<usize>,
    last: Vec<usize>,
}

impl Lives {
    fn write(&mut self, reg: usize, at: usize) {
        if reg < self.first.len() {
            self.first[reg] = self.first[reg].min(at);
            self.last[reg] = self.last[reg].max(at);
        }
    }

    fn read(&mut self, place: Place, at: usize, end: usize, start: usize) {
        let mut touch = |r: usize| self.last[r] = self.last[r].max(if self.first[r] < start { end } else { at });
        match place {
            Place::Uniform(_) => {}
            Place::Row(r) | Place::Elem(r) => touch(r),
            Place::Spread(a, b) => {
                touch(a);
                touch(b);
            }
        }
    }

    fn step(&mut self, step: &Step, at: usize, end: usize, start: usize) {
        step.args.iter().for_each(|a| self.read(a.place, at, end, start));
        self.write(step.dst, at);
        if let Op::Sort { from, .. } = step.op {
            self.write(from, at);
        }
    }

    /// Linear scan; row and element registers do not mix, since their sizes differ.
    fn assign(&self, levels: &[Level], count: &mut usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..levels.len()).filter(|&r| self.first[r] != usize::MAX).collect();
        order.sort_by_key(|&r| (self.first[r], r));
        let mut map = vec![0; levels.len()];
        let mut live: Vec<usize> = vec![];
        let mut free: Vec<(Level, usize)> = vec![];
        for r in order {
            live.retain(|&other| {
                let keep = self.last[other] >= self.first[r];
                if !keep {
                    free.push((levels[other], map[other]));
                }
                keep
            });
            let level = levels[r];
            map[r] = match free.iter().rposition(|(l, _)| *l == level) {
                Some(i) => free.remove(i).1,
                None => {
                    *count += 1;
                    *count - 1
                }
            };
            live.push(r);
        }
        map
    }
}
