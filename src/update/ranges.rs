//! Numbers that no optimizer means are refused.

use crate::config::{Optimizer, OptimizerKind};

/// A setting by its name, its value, whether that is sound, and what would be.
type Setting = (&'static str, f64, bool, &'static str);

/// Refuses an optimizer, or one of its groups, with a number out of range.
pub(super) fn check(optimizer: &Optimizer) -> Result<(), String> {
    check_one(optimizer)?;
    for group in &optimizer.groups {
        let Some(own) = &group.optimizer else { continue };
        let said = |message: String| format!("group {}: {message}", group.pattern);
        check_one(own).map_err(said)?;
        let whole = Optimizer { accumulate: 1, average: None, clip_value: None, clip_norm: None, groups: vec![], ..own.clone() };
        if whole != *own || !own.name.is_empty() || own.step_per_parameter {
            let message = "clipping, accumulation, averages, names and counters are settings of the whole optimizer";
            return Err(said(message.into()));
        }
        if optimizer.lr == 0.0 && own.lr != 0.0 {
            return Err(said("its learning rate changes in proportion to that of the whole, which is 0".into()));
        }
    }
    Ok(())
}

fn check_one(optimizer: &Optimizer) -> Result<(), String> {
    let mut settings = vec![not_negative("the learning rate", optimizer.lr), not_negative("weight decay", optimizer.weight_decay)];
    settings.extend(optimizer.clip_norm.map(|norm| ("the norm to clip to", norm, norm >= 0.0, "not negative")));
    settings.extend(optimizer.clip_value.map(|value| ("the value to clip to", value, value >= 0.0, "not negative")));
    settings.extend(optimizer.average.map(|decay| below_one("the decay of averages", decay)));
    settings.push(("the number of accumulated steps", optimizer.accumulate as f64, optimizer.accumulate > 0, "at least 1"));
    settings.extend(of_kind(&optimizer.kind));
    match settings.into_iter().find(|(_, _, is_sound, _)| !is_sound) {
        Some((what, x, _, wanted)) => Err(format!("{what} is {x}, and must be {wanted}")),
        None => Ok(()),
    }
}

fn not_negative(what: &'static str, x: f64) -> Setting {
    (what, x, x.is_finite() && x >= 0.0, "finite and not negative")
}

fn below_one(what: &'static str, x: f64) -> Setting {
    (what, x, (0.0..1.0).contains(&x), "in 0..1")
}

fn moments(beta1: f64, beta2: f64, eps: f64) -> Vec<Setting> {
    vec![below_one("the first beta", beta1), below_one("the second beta", beta2), not_negative("eps", eps)]
}

fn of_kind(kind: &OptimizerKind) -> Vec<Setting> {
    use OptimizerKind as K;
    match *kind {
        K::Sgd { momentum, dampening, nesterov } => {
            let looks_back = !nesterov || (momentum > 0.0 && dampening == 0.0);
            let wanted = "positive, without dampening, where it looks ahead (nesterov)";
            vec![
                not_negative("momentum", momentum),
                ("dampening", dampening, dampening.is_finite(), "finite"),
                ("momentum", momentum, looks_back, wanted),
            ]
        }
        K::Adam { beta1, beta2, eps, .. } | K::Adamax { beta1, beta2, eps } | K::Lamb { beta1, beta2, eps } => moments(beta1, beta2, eps),
        K::NAdam { beta1, beta2, eps, momentum_decay } => {
            [moments(beta1, beta2, eps), vec![not_negative("the decay of momentum", momentum_decay)]].concat()
        }
        K::RAdam { beta1, beta2, eps } => {
            [moments(beta1, beta2, eps), vec![("the second beta", beta2, beta2 >= 0.6, "at least 0.6, below which nothing is rectified")]].concat()
        }
        K::RmsProp { alpha, eps, momentum, .. } => {
            vec![below_one("alpha", alpha), not_negative("eps", eps), not_negative("momentum", momentum)]
        }
        K::Adagrad { lr_decay, initial, eps } => {
            vec![not_negative("the decay of the rate", lr_decay), not_negative("the initial sum", initial), not_negative("eps", eps)]
        }
        K::Adadelta { rho, eps } => vec![below_one("rho", rho), not_negative("eps", eps)],
        K::Adafactor { beta2_decay, eps1, eps2, clip } => {
            let mut settings =
                vec![("the decay of the second beta", beta2_decay, beta2_decay.is_finite() && beta2_decay <= 0.0, "finite and not positive")];
            settings.extend(eps1.map(|eps| not_negative("the first eps", eps)));
            settings.extend([not_negative("the second eps", eps2), ("the largest update", clip, clip >= 1.0, "at least 1")]);
            settings
        }
        K::Lion { beta1, beta2 } => vec![below_one("the first beta", beta1), below_one("the second beta", beta2)],
        K::Muon { momentum, eps, coefficients, iterations, .. } => {
            let mut settings = vec![below_one("momentum", momentum), not_negative("eps", eps)];
            settings.extend(coefficients.map(|c| ("a coefficient", c, c.is_finite(), "finite")));
            settings.push(("the number of iterations", iterations as f64, iterations < 100, "below 100"));
            settings
        }
    }
}
