//! Metrics of predictions, on the host. Scores are `[n, classes]` or `[n]`, labels integers `[n]`; definitions are those of
//! scikit-learn.

use crate::error::{Error, Result};
use crate::types::HostTensor;

/// A mean over batches of different sizes.
///
/// ```
/// use inductor::train::metrics::Mean;
/// let mut loss = Mean::default();
/// loss.add(1.0, 3);
/// loss.add(5.0, 1);
/// assert_eq!(loss.value(), 2.0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    /// Adds the mean of so many more.
    pub fn add(&mut self, mean: f64, count: u64) {
        self.sum += mean * count as f64;
        self.count += count;
    }

    /// The mean of all; NaN of nothing.
    pub fn value(&self) -> f64 {
        self.sum / self.count as f64
    }
}

/// The share of rows whose label has the largest score (the first of equal ones).
///
/// ```
/// use inductor::{HostTensor, train::metrics::accuracy};
/// let scores = HostTensor::f32(&[2, 3], &[0.1, 0.7, 0.2, 0.5, 0.3, 0.2]);
/// assert_eq!(accuracy(&scores, &HostTensor::i32(&[2], &[1, 2]))?, 0.5);
/// # Ok::<(), inductor::Error>(())
/// ```
pub fn accuracy(scores: &HostTensor, labels: &HostTensor) -> Result<f64> {
    top_k(scores, labels, 1)
}

/// The share of rows whose label is among the `k` largest scores; of equal ones, those before it count as larger.
///
/// ```
/// use inductor::{HostTensor, train::metrics::top_k};
/// let scores = HostTensor::f32(&[2, 3], &[0.1, 0.7, 0.2, 0.5, 0.3, 0.2]);
/// assert_eq!(top_k(&scores, &HostTensor::i32(&[2], &[2, 2]), 2)?, 0.5);
/// # Ok::<(), inductor::Error>(())
/// ```
pub fn top_k(scores: &HostTensor, labels: &HostTensor, k: usize) -> Result<f64> {
    let (rows, labels) = rows(scores, labels)?;
    let is_hit = |(row, label): (&[f64], &usize)| {
        let own = row[*label];
        let ahead = row.iter().enumerate().filter(|&(at, x)| *x > own || (*x == own && at < *label)).count();
        ahead < k && !own.is_nan()
    };
    Ok(share(rows.iter().map(Vec::as_slice).zip(&labels).filter(|&pair| is_hit(pair)).count(), labels.len()))
}

/// Counts of true and predicted classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    /// `counts[label][prediction]`.
    pub counts: Vec<Vec<u64>>,
}

impl Confusion {
    /// For so many classes.
    pub fn new(classes: usize) -> Confusion {
        Confusion { counts: vec![vec![0; classes]; classes] }
    }

    /// Adds predicted classes with their labels.
    pub fn add(&mut self, predictions: &HostTensor, labels: &HostTensor) -> Result<()> {
        let classes = self.counts.len();
        let (predictions, labels) = (classes_of(predictions, classes)?, classes_of(labels, classes)?);
        same_length(predictions.len(), labels.len())?;
        labels.into_iter().zip(predictions).for_each(|(label, prediction)| self.counts[label][prediction] += 1);
        Ok(())
    }

    /// The share that is right.
    pub fn accuracy(&self) -> f64 {
        let right: u64 = (0..self.counts.len()).map(|k| self.counts[k][k]).sum();
        share(right as usize, self.counts.iter().flatten().sum::<u64>() as usize)
    }

    /// Of what is predicted as a class, the share that is of it; 0 where nothing is.
    pub fn precision(&self, class: usize) -> f64 {
        ratio(self.counts[class][class], self.counts.iter().map(|row| row[class]).sum())
    }

    /// Of a class, the share that is predicted as such; 0 where there is none.
    pub fn recall(&self, class: usize) -> f64 {
        ratio(self.counts[class][class], self.counts[class].iter().sum())
    }

    /// The harmonic mean of precision and recall; 0 where both are.
    pub fn f1(&self, class: usize) -> f64 {
        let (right, predicted) = (self.counts[class][class], self.counts.iter().map(|row| row[class]).sum::<u64>());
        ratio(2 * right, predicted + self.counts[class].iter().sum::<u64>())
    }

    /// The mean of the classes' F1 that occur, as labels or predictions.
    pub fn macro_f1(&self) -> f64 {
        let occurs = |k: &usize| self.counts[*k].iter().sum::<u64>() + self.counts.iter().map(|row| row[*k]).sum::<u64>() > 0;
        let classes: Vec<usize> = (0..self.counts.len()).filter(occurs).collect();
        classes.iter().map(|&k| self.f1(k)).sum::<f64>() / classes.len() as f64
    }
}

/// The area under the curve of true over false positives: the chance that a positive example has a higher score than a negative one,
/// equal ones counting half. An error where there are no examples of one kind.
///
/// ```
/// use inductor::{HostTensor, train::metrics::auc};
/// let (scores, labels) = (HostTensor::f32(&[4], &[0.1, 0.4, 0.35, 0.8]), HostTensor::i32(&[4], &[0, 0, 1, 1]));
/// assert_eq!(auc(&scores, &labels)?, 0.75);
/// # Ok::<(), inductor::Error>(())
/// ```
pub fn auc(scores: &HostTensor, labels: &HostTensor) -> Result<f64> {
    let (scores, labels) = (scores.to_f64(), classes_of(labels, 2)?);
    same_length(scores.len(), labels.len())?;
    if scores.iter().any(|x| x.is_nan()) {
        return Err(Error::Input("auc: a score is NaN".into()));
    }
    let positives = labels.iter().sum::<usize>() as f64;
    let negatives = labels.len() as f64 - positives;
    if positives == 0.0 || negatives == 0.0 {
        return Err(Error::Input("auc: all labels are equal".into()));
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let (mut sum, mut before) = (0.0, 0.0);
    for equal in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        // Ranks from 1; equal scores share their mean.
        let rank = before + (equal.len() as f64 + 1.0) / 2.0;
        sum += rank * equal.iter().filter(|&&k| labels[k] == 1).count() as f64;
        before += equal.len() as f64;
    }
    Ok((sum - positives * (positives + 1.0) / 2.0) / (positives * negatives))
}

/// How many equally likely tokens a mean cross entropy (in nats) stands for.
///
/// ```
/// use inductor::train::metrics::perplexity;
/// assert!((perplexity((50f64).ln()) - 50.0).abs() < 1e-9);
/// ```
pub fn perplexity(cross_entropy: f64) -> f64 {
    libm::exp(cross_entropy)
}

/// The share of the targets' variance that predictions explain; below zero where their mean would do better.
///
/// ```
/// use inductor::{HostTensor, train::metrics::r2};
/// let (found, wanted) = (HostTensor::f32(&[4], &[2.5, 0.0, 2.0, 8.0]), HostTensor::f32(&[4], &[3.0, -0.5, 2.0, 7.0]));
/// assert!((r2(&found, &wanted)? - 0.9486081).abs() < 1e-6);
/// # Ok::<(), inductor::Error>(())
/// ```
pub fn r2(predictions: &HostTensor, targets: &HostTensor) -> Result<f64> {
    let (found, wanted) = (predictions.to_f64(), targets.to_f64());
    same_length(found.len(), wanted.len())?;
    let mean = wanted.iter().sum::<f64>() / wanted.len() as f64;
    let total: f64 = wanted.iter().map(|y| (y - mean) * (y - mean)).sum();
    let left: f64 = found.iter().zip(&wanted).map(|(x, y)| (x - y) * (x - y)).sum();
    if total == 0.0 {
        return Err(Error::Input("r2: all targets are equal".into()));
    }
    Ok(1.0 - left / total)
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn same_length(a: usize, b: usize) -> Result<()> {
    if a == b && a > 0 { Ok(()) } else { Err(Error::Input(format!("metrics: {a} predictions and {b} labels"))) }
}

fn classes_of(tensor: &HostTensor, classes: usize) -> Result<Vec<usize>> {
    if !tensor.dtype().is_int() && tensor.dtype() != crate::types::DType::Bool {
        return Err(Error::Input(format!("metrics: classes are integers, not {}", tensor.ty())));
    }
    let inside = |x: i64| usize::try_from(x).ok().filter(|&x| x < classes);
    tensor.to_i64().into_iter().map(|x| inside(x).ok_or_else(|| Error::Input(format!("metrics: {x} is none of {classes} classes")))).collect()
}

/// Scores of each row, and labels.
fn rows(scores: &HostTensor, labels: &HostTensor) -> Result<(Vec<Vec<f64>>, Vec<usize>)> {
    let &[n, classes] = scores.shape() else {
        return Err(Error::Input(format!("metrics: scores are [n, classes], not {}", scores.ty())));
    };
    let labels = classes_of(labels, classes)?;
    same_length(n, labels.len())?;
    Ok((scores.to_f64().chunks(classes.max(1)).map(<[f64]>::to_vec).collect(), labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(x: &[i32]) -> HostTensor {
        HostTensor::i32(&[x.len()], x)
    }

    #[test]
    fn shares_of_the_largest_scores() {
        let scores = HostTensor::f32(&[3, 4], &[0.1, 0.4, 0.4, 0.1, 0.3, 0.2, 0.1, 0.4, f32::NAN, 0.0, 0.5, 0.5]);
        let found = |k: usize| top_k(&scores, &labels(&[2, 0, 0]), k).unwrap();
        assert_eq!([found(1), found(2), found(4)], [0.0, 2.0 / 3.0, 2.0 / 3.0]);
        assert!(top_k(&scores, &labels(&[4, 0, 0]), 1).unwrap_err().to_string().contains("4 is none of 4 classes"));
        assert!(accuracy(&scores, &labels(&[1])).unwrap_err().to_string().contains("3 predictions and 1 labels"));
    }

    /// By hand: labels 0 0 1 1 2, predictions 0 1 1 1 0.
    #[test]
    fn f1_of_classes() {
        let mut counts = Confusion::new(4);
        counts.add(&labels(&[0, 1]), &labels(&[0, 0])).unwrap();
        counts.add(&labels(&[1, 1, 0]), &labels(&[1, 1, 2])).unwrap();
        assert_eq!((counts.accuracy(), counts.precision(1), counts.recall(1)), (0.6, 2.0 / 3.0, 1.0));
        assert_eq!([counts.f1(0), counts.f1(1), counts.f1(2), counts.f1(3)], [0.5, 0.8, 0.0, 0.0]);
        assert!((counts.macro_f1() - 1.3 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn areas_with_equal_scores() {
        let scores = HostTensor::f32(&[6], &[0.5, 0.5, 0.2, 0.9, 0.5, 0.1]);
        // Pairs (positive, negative): 0.5 against 0.5, 0.5, 0.1 gives 0.5 + 0.5 + 1; 0.2 gives 0 + 0 + 1; 0.9 gives 3: 6 of 9.
        let found = auc(&scores, &labels(&[1, 0, 1, 1, 0, 0])).unwrap();
        assert!((found - 6.0 / 9.0).abs() < 1e-12, "{found}");
        assert!(auc(&scores, &labels(&[1; 6])).is_err());
        assert!((perplexity(0.0) - 1.0).abs() < 1e-12);
        assert!(r2(&scores, &HostTensor::f32(&[6], &[1.0; 6])).is_err());
    }
}
