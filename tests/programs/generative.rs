//! Programs that make things.

use super::{STEPS, begin, fit, floats};
use inductor::nn::{self, Linear};
use inductor::optim::{Adam, RmsProp};
use inductor::{Config, DType, Device, Reduction, Result, Tensor, Trace, compile_train, trace};

/// A variational autoencoder, whose noise comes from outside, since PyTorch draws another.
pub fn vae(device: &Device) -> Result<Vec<f64>> {
    let traced = trace("vae", |t| {
        let (x, noise) = (t.input("x", DType::F32, (8, 20)), t.input("noise", DType::F32, (8, 3)));
        let h = nn::linear(&t.path("encoder"), &x, 16).relu();
        let code = nn::linear(&t.path("code"), &h, 6).chunk(2, -1);
        let (mean, log_var) = (&code[0], &code[1]);
        let z = mean + (0.5 * log_var).exp() * noise;
        let logits = nn::linear(&t.path("out"), &nn::linear(&t.path("decoder"), &z, 16).relu(), 20);
        let seen = logits.bce_with_logits(&(0.5 * (x + 1.0)), None, None, Reduction::Sum) / 8.0;
        Ok(seen - 0.5 * (1.0 + log_var - mean.square() - log_var.exp()).sum(()) / 8.0)
    })?;
    fit(device, &traced, Adam::new(3e-3), |k| [floats(&format!("x{}", k % 3), &[8, 20]), floats(&format!("noise{k}"), &[8, 3])])
}

/// A generator and a critic with an optimizer each, on one state.
pub fn gan(device: &Device) -> Result<Vec<f64>> {
    let made = |t: &Trace| nn::mlp(&t.path("generator"), &t.input("noise", DType::F32, (8, 4)), &[16, 2]);
    let score = |t: &Trace, x: &Tensor| nn::mlp(&t.path("critic"), x, &[16, 1]);
    let is = |x: &Tensor, real: f64| x.binary_cross_entropy_with_logits(&x.full_like(real));
    let critic = trace("critic", |t| {
        let real = t.input("real", DType::F32, (8, 2));
        Ok(is(&score(t, &real), 1.0) + is(&score(t, &made(t).detach()), 0.0))
    })?;
    let generator = trace("generator", |t| {
        t.frozen("critic");
        Ok(is(&score(t, &made(t)), 1.0))
    })?;
    let adam = || Adam::new(2e-3).betas(0.5, 0.999);
    let [critic, generator] =
        [compile_train(&critic, device, adam(), &Config::default())?, compile_train(&generator, device, adam(), &Config::default())?];
    let mut state = begin(&generator)?;
    let mut found = vec![];
    for k in 0..STEPS {
        let (real, noise) = (floats(&format!("real{k}"), &[8, 2]), floats(&format!("noise{k}"), &[8, 4]));
        found.push(critic.run(&mut state, [("real", &real), ("noise", &noise)])?.loss()? as f64);
        found.push(generator.run(&mut state, [noise])?.loss()? as f64);
    }
    Ok(found)
}

/// A critic with spectral norms.
pub fn spectral(device: &Device) -> Result<Vec<f64>> {
    let traced = trace("spectral", |t| {
        let score = |x: &Tensor| {
            let h = nn::linear(&t.path("one"), x, Linear::new(12).spectral_norm()).leaky_relu(0.2);
            nn::linear(&t.path("two"), &h, Linear::new(1).spectral_norm())
        };
        let (real, made) = (t.input("real", DType::F32, (8, 4)), t.input("made", DType::F32, (8, 4)));
        Ok(score(&made).softplus().mean(()) + (-score(&real)).softplus().mean(()))
    })?;
    let step = compile_train(&traced, device, RmsProp::new(1e-3), &Config::default())?;
    let mut state = begin(&step)?;
    for name in state.names().iter().filter(|name| name.ends_with("_u") || name.ends_with("_v")) {
        let n = state.get(name)?.numel();
        state.set(name, floats(name, &[n]))?;
    }
    let inputs = |k: u64| ["real", "made"].map(|name| floats(&format!("{name}{k}"), &[8, 4]));
    super::losses(&step, &mut state, inputs)
}
