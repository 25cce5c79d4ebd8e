use inductor::types::*;
use inductor::*;
fn main() -> Result<()> {
    let arg = |k: usize, d: &str| std::env::args().nth(k).unwrap_or(d.into());
    let (name, model, steps) = (arg(1, "cpu"), arg(2, "mlp"), arg(3, "5").parse::<usize>().unwrap());
    let fuse = arg(4, "fuse") == "fuse";
    let device = runtime::Device::from_name(&name)?;
    println!("{}", device.describe());
    use frontend::models::{self, GptConfig};
    let tiny = GptConfig { layers: 2, width: 32, heads: 4, context: 16, batch: 3, ..GptConfig::small(65) };
    let cfg = match model.as_str() {
        "tiny" => tiny,
        "small" => GptConfig::small(65),
        "nanogpt" => GptConfig::nanogpt(),
        _ => GptConfig::gpt2(),
    };
    let (traced, x, y) = if model == "mlp" {
        let x: Vec<f32> = (0..8 * 13).map(|i| ((i * 7919 % 101) as f32 / 50.0) - 1.0).collect();
        let y: Vec<i32> = (0..8).map(|i| i % 5).collect();
        (models::mlp(8, &[13, 17, 5])?, HostTensor::f32(&[8, 13], &x), HostTensor::i32(&[8], &y))
    } else {
        let (b, t, v) = (cfg.batch as usize, cfg.context as usize, cfg.vocab as i64);
        let ids: Vec<i32> = (0..b * t + 1).map(|i| ((i as i64 * 7919 + (i as i64 / 7) * 31) % v) as i32).collect();
        (models::gpt(&cfg)?, HostTensor::i32(&[b, t], &ids[..b * t]), HostTensor::i32(&[b, t], &ids[1..]))
    };
    let t0 = std::time::Instant::now();
    let config = config::Config { fuse, dump: Some("/tmp/dump".into()), ..Default::default() };
    let step = runtime::compile_train(&traced, &device, frontend::optim::AdamW::new(1e-3), &config)?;
    for (n, ms) in step.explain().compile_ms {
        println!("  {n} {ms:.1} ms");
    }
    let mut state = step.init(1)?;
    let mut last = std::time::Instant::now();
    for i in 1..=steps {
        let loss = step.run(&mut state, [&x, &y])?.loss()?;
        println!("step {i} loss {loss} {:.1} ms", last.elapsed().as_secs_f64() * 1e3);
        if i == 1 {
            println!("first step {:.2} s", t0.elapsed().as_secs_f64());
        }
        last = std::time::Instant::now();
    }
    println!("launches {} peak {} kernels {}", step.launches() / steps as u64, step.peak_bytes(), step.plan().program.kernels.len());
    Ok(())
}
