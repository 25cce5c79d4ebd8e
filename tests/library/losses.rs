//! Losses.

use super::{Case, input, table, wave};
use inductor::{CrossEntropy, DType, HostTensor, Reduction, Tensor, Trace, Triplet};

const ALL: [Reduction; 3] = [Reduction::Mean, Reduction::Sum, Reduction::None];

fn labels(t: &Trace) -> Tensor {
    table(t, &[1, 3, 0, 2, -100], &[5])
}

fn class_weights(t: &Trace) -> Tensor {
    let values: Vec<f64> = wave(7, &[4]).iter().map(|x| 0.5 + 0.4 * (*x as f32 as f64)).collect();
    t.constant(&HostTensor::from_f64(DType::F32, &[4], &values))
}

/// Targets of -1 and 1.
fn signs(t: &Trace) -> Tensor {
    let values: Vec<f64> = wave(9, &[3, 4]).iter().map(|&x| if x > 0.0 { 1.0 } else { -1.0 }).collect();
    t.constant(&HostTensor::from_f64(DType::F32, &[3, 4], &values))
}

fn inputs<const N: usize>(t: &Trace) -> [Tensor; N] {
    std::array::from_fn(|k| input(t, &((b'a' + k as u8) as char).to_string(), [3, 4]))
}

fn each(f: impl Fn(Reduction) -> Tensor) -> Vec<Tensor> {
    ALL.into_iter().map(f).collect()
}

fn ctc_labels(t: &Trace) -> Tensor {
    table(t, &[1, 2, 2, 1, 3, 1, 0, 0, 2, 2, 2, 2], &[3, 4])
}

pub const CASES: &[Case] = &[
    ("cross_entropy", |t| {
        let (x, y, l, w) = (input(t, "a", [5, 4]), input(t, "b", [5, 4]), labels(t), class_weights(t));
        let base = CrossEntropy::new().ignore_index(-100);
        let weighted = |r, s| x.cross_entropy_with(&l, base.clone().weight(&w).reduction(r).smoothing(s));
        let mut out: Vec<Tensor> = ALL.into_iter().flat_map(|r| [weighted(r, 0.0), weighted(r, 0.1)]).collect();
        out.push(x.cross_entropy_with(&l, base.clone()));
        out.push(x.cross_entropy(&y.softmax(1)));
        out.push(x.cross_entropy_with(&y.softmax(1), CrossEntropy::new().weight(&w).smoothing(0.2)));
        out
    }),
    ("cross_entropy_images", |t| {
        let (x, l) = (input(t, "a", [2, 4, 3]), table(t, &[0, 1, 3, 2, 2, 1], &[2, 3]));
        each(|r| x.cross_entropy_with(&l, CrossEntropy::new().dim(1).weight(&class_weights(t)).reduction(r)))
    }),
    ("nll", |t| {
        let (x, l) = (input(t, "a", [5, 4]), labels(t));
        let nll = each(|r| x.log_softmax(1).nll_loss(&l, Some(&class_weights(t)), -100, r));
        [nll, each(|r| x.multi_margin_loss(&l.clamp(0, 3), 1.0, r))].concat()
    }),
    ("mse_loss", |t| {
        let [x, y] = inputs(t);
        each(|r| x.mse_loss(&y, r))
    }),
    ("l1_loss", |t| {
        let [x, y] = inputs(t);
        each(|r| x.l1_loss(&y, r))
    }),
    ("smooth_l1_loss", |t| {
        let [x, y] = inputs(t);
        each(|r| x.smooth_l1_loss(&y, 0.5, r))
    }),
    ("huber_loss", |t| {
        let [x, y] = inputs(t);
        each(|r| x.huber_loss(&y, 0.5, r))
    }),
    ("binary_cross_entropy", |t| {
        let [x, y] = inputs(t);
        each(|r| x.binary_cross_entropy(&y.detach(), None, r))
    }),
    ("bce_with_logits", |t| {
        let ([x, y], w) = (inputs(t), class_weights(t));
        let y = y.detach().sigmoid();
        let mut out = each(|r| x.bce_with_logits(&y, Some(&w), Some(&(2.0 * &w)), r));
        out.push(x.binary_cross_entropy_with_logits(&y));
        out
    }),
    ("kl_div", |t| {
        let [x, y] = inputs(t);
        let mut out = each(|r| x.log_softmax(1).kl_div(&y.softmax(1), false, r));
        out.push(x.log_softmax(1).kl_div(&y.log_softmax(1), true, Reduction::Mean));
        out
    }),
    ("poisson_nll_loss", |t| {
        let [x, y] = inputs(t);
        each(|r| x.poisson_nll_loss(&y.detach(), r))
    }),
    ("gaussian_nll_loss", |t| {
        let [x, y, v] = inputs(t);
        each(|r| x.gaussian_nll_loss(&y.detach(), &v, r))
    }),
    ("margins", |t| {
        let ([x], s, r) = (inputs(t), signs(t), Reduction::Mean);
        vec![x.soft_margin_loss(&s, r), x.hinge_embedding_loss(&s, 1.0, r), x.hinge_loss(&s, r)]
    }),
    ("triplet", |t| {
        let ([x, y, z], s, mean) = (inputs(t), signs(t), Reduction::Mean);
        let mut out = each(|r| x.triplet_margin_loss(&y, &z, Triplet::default(), r));
        out.push(x.triplet_margin_loss(&y, &z, Triplet { margin: 0.5, swap: true, ..Triplet::default() }, mean));
        out.push(x.margin_ranking_loss(&y, &s, 0.3, mean));
        out.push(x.cosine_embedding_loss(&y, &s.select(1, 0), 0.1, mean));
        out
    }),
    ("focal", |t| {
        let ([x], target) = (inputs(t), (signs(t) + 1) / 2);
        each(|r| x.sigmoid_focal_loss(&target, 0.25, 2.0, r))
    }),
    ("dice", |t| {
        let [x] = inputs(t);
        vec![x.dice_loss(&((signs(t) + 1) / 2), 1.0)]
    }),
    ("ctc", |t| {
        let x = input(t, "a", [8, 3, 4]).log_softmax(2);
        let (steps, lengths) = (table(t, &[8, 6, 8], &[3]), table(t, &[4, 2, 1], &[3]));
        each(|r| x.ctc_loss(&ctc_labels(t), [&steps, &lengths], 0, r, false))
    }),
    ("ctc_too_long", |t| {
        let x = input(t, "a", [3, 3, 4]).log_softmax(2);
        let (steps, lengths) = (table(t, &[3, 3, 3], &[3]), table(t, &[4, 2, 0], &[3]));
        vec![x.ctc_loss(&ctc_labels(t), [&steps, &lengths], 0, Reduction::Sum, true)]
    }),
];
