//! The scale of the loss in mixed precision: gradients are of the scaled loss, and an update divides by the scale.

use super::{Built, Parameter};
use crate::config::LossScale;
use crate::graph::{Builder, Graph, InputRole, OutputRole, Value, ValueMap};
use crate::ops::ReduceKind;
use crate::scalar::ScalarFn;
use crate::types::{DType, Provenance, TensorType};

/// The state of a loss scale. All of it starts at zero: no scale yet stands for the first one.
const SCALE: &str = "optimizer.loss_scale.scale";
/// Steps in a row with finite gradients.
const STREAK: &str = "optimizer.loss_scale.streak";
/// Updates that were skipped.
const SKIPPED: &str = "optimizer.loss_scale.skipped";

/// Where the scale stays, so that neither it nor its inverse leaves the normal numbers of f32.
const BOUNDS: (f64, f64) = (1.0 / (1u64 << 40) as f64, (1u64 << 40) as f64);

fn state(b: &mut Builder, name: &str) -> Built {
    b.input(name, InputRole::Optimizer, TensorType::new(DType::F32, ()))
}

/// The scale as it is in the state, and that of this step.
fn scale(b: &mut Builder, settings: &LossScale) -> Built<[Value; 2]> {
    let (old, zero, initial) = (state(b, SCALE)?, b.constant(DType::F32, 0.0)?, b.constant(DType::F32, settings.initial)?);
    let begun = b.scalar(ScalarFn::Gt, &[old, zero])?;
    Ok([old, b.where_(begun, old, initial)?])
}

/// The joint graph with the cotangent of its loss times the scale: its gradients are those of the scaled loss.
pub(crate) fn scale_loss(joint: &Graph, settings: &LossScale) -> Built<Graph> {
    let (mut b, mut map) = (Builder::new(&joint.name), ValueMap::default());
    b.copy_inputs(joint, &mut map)?;
    let [_, scale] = scale(&mut b, settings)?;
    for seed in joint.inputs.iter().filter(|i| i.role == InputRole::Cotangent) {
        let unit = map[&seed.value];
        let scale = b.cast(scale, b.dtype(unit))?;
        map.insert(seed.value, b.mul(unit, scale)?);
    }
    for id in joint.ids() {
        b.copy_node(joint, id, &mut map)?;
    }
    for output in &joint.outputs {
        b.output(&output.name, output.role.clone(), map[&output.value]);
    }
    Ok(b.finish())
}

/// The scale as an update sees it.
pub(super) struct Scaling<'a> {
    settings: &'a LossScale,
    old: Value,
    scale: Value,
    inverse: Value,
    /// Updates before this one that were skipped.
    pub skipped: Value,
}

impl Scaling<'_> {
    pub fn new<'a>(b: &mut Builder, settings: &'a LossScale) -> Built<Scaling<'a>> {
        b.provenance = Provenance::default();
        let ([old, scale], one) = (scale(b, settings)?, b.constant(DType::F32, 1.0)?);
        let inverse = b.div(one, scale)?;
        Ok(Scaling { settings, old, scale, inverse, skipped: state(b, SKIPPED)? })
    }

    /// The gradient of the loss itself, in the dtype of the parameter's arithmetic.
    pub fn unscale(&self, b: &mut Builder, p: &mut Parameter<'_>) -> Built<()> {
        b.provenance = Provenance::new(vec![], vec![p.name.to_string()]);
        let dtype = p.ty.dtype.accumulator();
        let (gradient, inverse) = (b.cast(p.gradient, dtype)?, b.cast(self.inverse, dtype)?);
        p.gradient = b.mul(gradient, inverse)?;
        Ok(())
    }

    /// Where a gradient of an update is not finite, no parameter is updated, and the scale is halved.
    pub fn skip_infinite(&self, b: &mut Builder, trained: &mut [Parameter<'_>]) -> Built<()> {
        let mut faults = b.constant(DType::F32, 0.0)?;
        for p in trained.iter() {
            let fault = not_finite(b, p)?;
            faults = b.add(faults, fault)?;
        }
        b.provenance = Provenance::default();
        let zero = b.constant(DType::F32, 0.0)?;
        let finite = b.scalar(ScalarFn::Eq, &[faults, zero])?;
        // All parameters accumulate alike.
        let due = trained.first().and_then(|p| p.applies);
        self.keep(b, finite, due)?;
        for p in trained {
            // Nothing is kept of it, so that its product does not wait for all others in what follows it.
            let none = b.constant(b.dtype(p.gradient), 0.0)?;
            p.gradient = b.where_(finite, p.gradient, none)?;
            p.applies = Some(match p.applies {
                Some(applies) => b.scalar(ScalarFn::LogicalAnd, &[applies, finite])?,
                None => finite,
            });
        }
        Ok(())
    }

    /// The state behind this step, which stays where no update is due.
    fn keep(&self, b: &mut Builder, finite: Value, due: Option<Value>) -> Built<()> {
        let number = |b: &mut Builder, x: f64| b.constant(DType::F32, x);
        let (zero, one, interval) = (number(b, 0.0)?, number(b, 1.0)?, number(b, f64::from(self.settings.growth_interval))?);
        let streak = state(b, STREAK)?;
        let longer = b.add(streak, one)?;
        let grows = b.scalar(ScalarFn::Ge, &[longer, interval])?;
        let (doubled, halved) = (b.scale(self.scale, 2.0)?, b.scale(self.scale, 0.5)?);
        let next = b.where_(grows, doubled, self.scale)?;
        let next = b.where_(finite, next, halved)?;
        let (least, most) = (number(b, BOUNDS.0)?, number(b, BOUNDS.1)?);
        let next = b.scalar(ScalarFn::Clamp, &[next, least, most])?;
        let streak_after = b.where_(grows, zero, longer)?;
        let streak_after = b.where_(finite, streak_after, zero)?;
        let once_more = b.add(self.skipped, one)?;
        let skipped = b.where_(finite, self.skipped, once_more)?;
        for (name, old, new) in [(SCALE, self.old, next), (STREAK, streak, streak_after), (SKIPPED, self.skipped, skipped)] {
            let new = due.map_or(Ok(new), |due| b.where_(due, new, old))?;
            b.output(&format!("new.{name}"), OutputRole::NewValue(name.into()), new);
        }
        Ok(())
    }
}

/// One where a gradient has an element that is not finite, else zero.
fn not_finite(b: &mut Builder, p: &Parameter<'_>) -> Built {
    b.provenance = Provenance::new(vec![], vec![p.name.to_string()]);
    let (nan, inf) = (b.scalar(ScalarFn::IsNan, &[p.gradient])?, b.scalar(ScalarFn::IsInf, &[p.gradient])?);
    let bad = b.scalar(ScalarFn::LogicalOr, &[nan, inf])?;
    let bad = b.cast(bad, DType::F32)?;
    let dims: Vec<usize> = (0..p.ty.shape.rank()).collect();
    if dims.is_empty() { Ok(bad) } else { b.reduce(ReduceKind::Max, bad, &dims, false) }
}
