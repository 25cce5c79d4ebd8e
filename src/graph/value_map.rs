//! What stands for the values of a graph: when it is rebuilt, other values.

use super::Value;
use rustc_hash::FxHashMap;
use std::ops::Index;

/// Nodes of a page.
const PAGE: usize = 128;

/// What stands for each value of a graph: by default a value of another graph. Passes ask for every operand of every node, so that first results, which most values
/// are, lie in the order of their nodes; pages without any take no memory.
#[derive(Clone, Debug)]
pub struct ValueMap<T = Value> {
    pages: Vec<Option<Box<[Option<T>; PAGE]>>>,
    others: FxHashMap<Value, T>,
}

impl<T> Default for ValueMap<T> {
    fn default() -> ValueMap<T> {
        ValueMap { pages: vec![], others: FxHashMap::default() }
    }
}

impl<T> ValueMap<T> {
    /// What stands for a value.
    pub fn get(&self, v: &Value) -> Option<&T> {
        if v.result > 0 {
            return self.others.get(v);
        }
        let at = v.node.0 as usize;
        self.pages.get(at / PAGE)?.as_ref()?[at % PAGE].as_ref()
    }

    /// Whether anything stands for a value.
    pub fn contains_key(&self, v: &Value) -> bool {
        self.get(v).is_some()
    }

    /// `to` stands for `v` from now on; gives what stood for it.
    pub fn insert(&mut self, v: Value, to: T) -> Option<T> {
        if v.result > 0 {
            return self.others.insert(v, to);
        }
        let at = v.node.0 as usize;
        if self.pages.len() <= at / PAGE {
            self.pages.resize_with(at / PAGE + 1, || None);
        }
        self.pages[at / PAGE].get_or_insert_with(|| Box::new([const { None }; PAGE]))[at % PAGE].replace(to)
    }

    /// Forgets what stands for a value, and gives it.
    pub fn remove(&mut self, v: &Value) -> Option<T> {
        if v.result > 0 {
            return self.others.remove(v);
        }
        let at = v.node.0 as usize;
        self.pages.get_mut(at / PAGE)?.as_mut()?[at % PAGE].take()
    }
}

impl<T> Index<&Value> for ValueMap<T> {
    type Output = T;

    fn index(&self, v: &Value) -> &T {
        self.get(v).expect("the value is mapped")
    }
}

impl<T> Extend<(Value, T)> for ValueMap<T> {
    fn extend<I: IntoIterator<Item = (Value, T)>>(&mut self, pairs: I) {
        for (v, to) in pairs {
            self.insert(v, to);
        }
    }
}

impl<T> FromIterator<(Value, T)> for ValueMap<T> {
    fn from_iter<I: IntoIterator<Item = (Value, T)>>(pairs: I) -> ValueMap<T> {
        let mut map = ValueMap::default();
        map.extend(pairs);
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::NodeId;

    #[test]
    fn values_far_apart_and_further_results_are_kept() {
        let value = |node: u32, result: u32| Value { node: NodeId(node), result };
        let keys = [value(3, 0), value(3, 1), value(70_000, 0), value(127, 0), value(128, 0)];
        let mut map: ValueMap = keys.iter().enumerate().map(|(i, &v)| (v, value(i as u32, 0))).collect();
        for (i, v) in keys.iter().enumerate() {
            assert_eq!(map[v], value(i as u32, 0));
        }
        assert!(!map.contains_key(&value(4, 0)) && !map.contains_key(&value(70_000, 1)) && !map.contains_key(&value(1 << 30, 0)));
        assert_eq!((map.insert(keys[0], keys[1]), map.remove(&keys[1]), map.remove(&keys[0])), (Some(value(0, 0)), Some(value(1, 0)), Some(keys[1])));
        assert!(!map.contains_key(&keys[0]) && map.contains_key(&keys[2]));
    }
}
