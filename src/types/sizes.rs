//! The sizes of a shape.

use super::Dim;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Sizes that copies share until one of them is changed. A program has many values and few shapes: what is asked of all its values, stage after
/// stage, finds their sizes in a cache.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Dim>", into = "Vec<Dim>")]
pub struct Sizes(Option<Arc<Vec<Dim>>>);

static NONE: Vec<Dim> = Vec::new();

impl PartialEq for Sizes {
    fn eq(&self, other: &Sizes) -> bool {
        let are_one = matches!((&self.0, &other.0), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
        are_one || **self == **other
    }
}

impl Eq for Sizes {}

impl PartialOrd for Sizes {
    fn partial_cmp(&self, other: &Sizes) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sizes {
    fn cmp(&self, other: &Sizes) -> Ordering {
        (**self).cmp(other)
    }
}

impl Hash for Sizes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl<T: AsRef<[Dim]>> PartialEq<T> for Sizes {
    fn eq(&self, other: &T) -> bool {
        self[..] == *other.as_ref()
    }
}

impl fmt::Debug for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl Deref for Sizes {
    type Target = Vec<Dim>;

    fn deref(&self) -> &Vec<Dim> {
        self.0.as_deref().unwrap_or(&NONE)
    }
}

impl DerefMut for Sizes {
    fn deref_mut(&mut self) -> &mut Vec<Dim> {
        Arc::make_mut(self.0.get_or_insert_default())
    }
}

impl From<Vec<Dim>> for Sizes {
    fn from(sizes: Vec<Dim>) -> Sizes {
        Sizes((!sizes.is_empty()).then(|| Arc::new(sizes)))
    }
}

impl From<Sizes> for Vec<Dim> {
    fn from(sizes: Sizes) -> Vec<Dim> {
        sizes.0.map(Arc::unwrap_or_clone).unwrap_or_default()
    }
}

impl From<&[Dim]> for Sizes {
    fn from(sizes: &[Dim]) -> Sizes {
        Sizes::from(sizes.to_vec())
    }
}

impl FromIterator<Dim> for Sizes {
    fn from_iter<I: IntoIterator<Item = Dim>>(sizes: I) -> Sizes {
        Sizes::from(Vec::from_iter(sizes))
    }
}

impl IntoIterator for Sizes {
    type Item = Dim;
    type IntoIter = std::vec::IntoIter<Dim>;

    fn into_iter(self) -> Self::IntoIter {
        Vec::from(self).into_iter()
    }
}

impl<'a> IntoIterator for &'a Sizes {
    type Item = &'a Dim;
    type IntoIter = std::slice::Iter<'a, Dim>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_share_until_one_is_changed() {
        let sizes = Sizes::from(vec![Dim::int(2), Dim::int(3)]);
        let mut copy = sizes.clone();
        assert!(std::ptr::eq(&*sizes, &*copy));
        copy.remove(0);
        assert_eq!((sizes, &copy), (Sizes::from(vec![Dim::int(2), Dim::int(3)]), &Sizes::from(vec![Dim::int(3)])));
        copy.remove(0);
        assert_eq!(copy, Sizes::default());
    }
}
