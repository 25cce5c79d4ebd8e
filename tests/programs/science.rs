//! Programs with derivatives in their losses, and losses of one's own.

use super::{STEPS, begin, fit, floats};
use inductor::nn;
use inductor::optim::{Adam, Sgd};
use inductor::{Config, DType, Device, Gradients, HostTensor, Result, Tensor, Trace, compile_train, trace, vmap};

/// A net that solves `u'' = -pi^2 sin(pi x)` with zeros at both ends.
pub fn pinn(device: &Device) -> Result<Vec<f64>> {
    let pi = std::f64::consts::PI;
    let net =
        |t: &Trace, x: &Tensor| nn::linear(&t.path("out"), &nn::linear(&t.path("two"), &nn::linear(&t.path("one"), x, 12).tanh(), 12).tanh(), 1);
    let traced = trace("pinn", |t| {
        let x = t.input("x", DType::F32, (16, 1));
        let first = net(t, &x).grad(&[&x]).remove(0);
        let second = first.grad(&[&x]).remove(0);
        let ends = t.constant(&HostTensor::f32(&[2, 1], &[-1.0, 1.0]));
        let residual = second + pi * pi * (pi * x).sin();
        Ok(residual.square().mean(()) + 10.0 * net(t, &ends).square().mean(()))
    })?;
    fit(device, &traced, Adam::new(2e-3), |k| [floats(&format!("x{k}"), &[16, 1])])
}

/// Products of the Hessian of all parameters with the gradient: a penalty on sharp curvature along it.
pub fn hessian(device: &Device) -> Result<Vec<f64>> {
    let traced = trace("hessian", |t| {
        let (x, y) = (t.input("x", DType::F32, (8, 3)), t.input("y", DType::F32, (8, 1)));
        let loss = (nn::linear(&t.path("two"), &nn::linear(&t.path("one"), &x, 6).tanh(), 1) - y).square().mean(());
        let parameters = t.parameters();
        let wrt: Vec<&Tensor> = parameters.iter().map(|(_, parameter)| parameter).collect();
        let gradient = loss.grad(&wrt);
        let along = gradient.iter().map(|g| (g * g.detach()).sum(())).reduce(|a, b| a + b).unwrap();
        let products = along.grad(&wrt);
        let curvature = products.iter().zip(&gradient).map(|(h, g)| (h * g).sum(())).reduce(|a, b| a + b).unwrap();
        Ok((&loss + 0.05 * curvature, loss))
    })?;
    fit(device, &traced, Sgd::new(0.05), |k| [floats(&format!("x{}", k % 4), &[8, 3]), floats(&format!("y{}", k % 4), &[8, 1])])
}

/// The gradient of each example is made at most so long before the mean of them is followed, as private training does.
pub fn examples_apart(device: &Device) -> Result<Vec<f64>> {
    let traced = trace("examples_apart", |t| {
        let (x, y) = (t.input("x", DType::F32, (8, 3)), t.input("y", DType::F32, (8, 1)));
        let loss_of = |x: &Tensor, y: &Tensor| nn::mlp(t, x, &[8, 1]).mse(y);
        let (loss, parameters) = (loss_of(&x, &y), t.parameters());
        let wrt: Vec<&Tensor> = parameters.iter().map(|(_, parameter)| parameter).collect();
        let gradients: Vec<Tensor> = vmap((&x, &y), |(x, y)| loss_of(&x, &y).grad(&wrt)).into_iter().map(|g| g.flatten(1, -1)).collect();
        let squares = gradients.iter().map(|g| g.square().sum(1)).reduce(|a, b| a + b).unwrap();
        let shares = (0.5 / squares.sqrt()).clamp_max(1.0) / 8.0;
        // Its gradient is the mean.
        let followed = wrt.iter().zip(&gradients).map(|(p, g)| (p.flatten(0, -1) * shares.unsqueeze(0).matmul(g).squeeze(0).detach()).sum(()));
        Ok((followed.reduce(|a, b| a + b).unwrap(), loss))
    })?;
    let step = compile_train(&traced, device, Sgd::new(0.2), &Config::default())?;
    let mut state = begin(&step)?;
    let inputs = |k: u64| [floats(&format!("x{k}"), &[8, 3]), floats(&format!("y{k}"), &[8, 1])];
    (0..STEPS).map(|k| step.run(&mut state, inputs(k))?.output("output.1")?.item()).collect()
}

/// Errors count by sign and by example, large ones less; the outputs are rounded with a gradient as if they were not.
pub fn own_loss(device: &Device) -> Result<Vec<f64>> {
    let traced = trace("own_loss", |t| {
        let (x, y, weights) = (t.input("x", DType::F32, (8, 3)), t.input("y", DType::F32, 8), t.input("weights", DType::F32, 8));
        let out = nn::mlp(t, &x, &[16, 1]).squeeze(-1);
        let out = out.straight_through(&((&out * 8.0).round() / 8.0));
        let error = y - out;
        let size = error.cosh().log();
        let by_sign = error.gt(0.0).where_(0.9 * &size, 0.4 * &size);
        let weights = weights.abs();
        Ok((by_sign * &weights).sum(()) / weights.sum(()))
    })?;
    fit(device, &traced, Sgd::new(0.1), |k| [floats(&format!("x{k}"), &[8, 3]), floats(&format!("y{k}"), &[8]), floats(&format!("w{k}"), &[8])])
}

/// Norms of gradients, logged as the training goes.
pub fn gradients(device: &Device) -> Result<Vec<f64>> {
    let traced = trace("gradients", |t| {
        let (x, y) = (t.input("x", DType::F32, (8, 3)), t.input("y", DType::F32, (8, 2)));
        Ok(nn::mlp(t, &x, &[12, 2]).smooth_l1_loss(&y, 0.5, Default::default()))
    })?;
    let config = Config { gradients: Gradients::Norms, ..Config::default() };
    let step = compile_train(&traced, device, Sgd::new(0.1).momentum(0.9).clip_value(0.05), &config)?;
    let mut state = begin(&step)?;
    let mut found = vec![];
    for k in 0..STEPS {
        let result = step.run(&mut state, [floats(&format!("x{k}"), &[8, 3]), floats(&format!("y{k}"), &[8, 2])])?;
        found.push(result.loss()? as f64);
        found.extend(result.gradient_norms()?.into_iter().map(|(_, norm)| norm));
    }
    Ok(found)
}
