//! Functions mapped over examples: against PyTorch's `torch.func`, and what is drawn, shared and refused.

use super::{Case, input, table, wave};
use inductor::nn::{self, Attention};
use inductor::ops::OpDef;
use inductor::{
    AttentionOptions, Config, ConvOptions, DType, Device, Dim, Error, HostTensor, Initializer, Tensor, Trace, Vmap, compile, compile_train, optim,
    trace, vmap,
};

fn weights(t: &Trace) -> [Tensor; 4] {
    let parameter = |name: &str, shape: &[i64]| t.parameter(name, DType::F32, shape, Initializer::Ones);
    [parameter("l1.weight", &[8, 3]), parameter("l1.bias", &[8]), parameter("l2.weight", &[2, 8]), parameter("l2.bias", &[2])]
}

fn mlp([w1, b1, w2, b2]: &[Tensor; 4], x: &Tensor) -> Tensor {
    x.linear(w1, Some(b1)).tanh().linear(w2, Some(b2))
}

pub const CASES: &[Case] = &[
    ("vmap_gradients", |t| {
        let (x, w) = (input(t, "a", [4, 3]), weights(t));
        let labels = table(t, &[1, 0, 0, 1], &[4]);
        vmap((&x, &labels), |(x, label)| mlp(&w, &x).cross_entropy(&label).grad(&[&w[0], &w[1], &w[2], &w[3]]))
    }),
    ("vmap_of_gradients_of_gradients", |t| {
        let (x, w) = (input(t, "a", [5, 3]), weights(t));
        // The Laplacian of each example's first output.
        let laplacian = vmap(&x, |x| {
            let y = mlp(&w, &x).select(0, 0);
            let rows = vmap(t.eye(DType::F32, 3), |v| y.hvp(&x, &v));
            rows.diagonal(0, 0, 1).sum(())
        });
        vec![laplacian]
    }),
    ("vmap_hessian", |t| {
        let (x, w) = (input(t, "a", [4]), input(t, "b", [4, 4]));
        let y = (w.matmul(&x.sin()) * x.exp()).sum(());
        vec![vmap(t.eye(DType::F32, 4), |v| y.hvp(&x, &v))]
    }),
    ("vmap_jacobians", |t| {
        let (x, w) = (input(t, "a", [3]), input(t, "b", [5, 3]));
        let y = w.matmul(&x.tanh()).softmax(-1);
        let forward = Vmap::over(&t.eye(DType::F32, 3)).out_dims(&[-1]).map(|v| y.jvp(&[(&x, &v)]));
        vec![forward, vmap(t.eye(DType::F32, 5), |v| y.vjp(&v, &[&x]).remove(0))]
    }),
    ("vmap_convolution_gradients", |t| {
        let (x, k, d) = (input(t, "a", [3, 2, 6, 5]), input(t, "b", [4, 2, 3, 3]), input(t, "c", [4, 1, 2, 2]));
        vmap(&x, |x| {
            let y = x.unsqueeze(0).conv2d(&k, ConvOptions::new().padding(1)).relu().max_pool2d(2);
            y.conv2d(&d, ConvOptions::new().groups(4)).square().sum(()).grad(&[&k, &d, &x])
        })
    }),
    ("vmap_ensemble", |t| {
        let (x, w, b) = (input(t, "a", [5, 3]), input(t, "b", [4, 6, 3]), input(t, "c", [4, 6]));
        let (g, h) = (input(t, "d", [4, 6]), input(t, "e", [4, 6]));
        let k = input(t, "f", [4, 2, 1, 2]);
        let y = vmap((&w, &b, &g, &h, &k), |(w, b, g, h, k)| {
            x.linear(&w, Some(&b)).gelu().layer_norm(Some(&g), Some(&h), 1e-5).unsqueeze(1).conv1d(&k, ConvOptions::new())
        });
        vec![y]
    }),
    ("vmap_attention", |t| {
        let (q, k, mask) = (input(t, "a", [3, 2, 4, 5]), input(t, "b", [2, 6, 5]), input(t, "c", [3, 4, 6]));
        vec![vmap((&q, &mask), |(q, mask)| q.attention(&k, &k.sin(), &AttentionOptions { mask: Some(mask), ..Default::default() }))]
    }),
    ("vmap_nested", |t| {
        let (x, y) = (input(t, "a", [4, 3]), input(t, "b", [5, 3]));
        vec![vmap(&x, |x| vmap(&y, |y| ((&x - y) * x.sigmoid()).logsumexp(0)))]
    }),
    ("vmap_dims", |t| {
        let (x, w, y) = (input(t, "a", [3, 4]), input(t, "b", [5, 3]), input(t, "c", [2, 4, 5]));
        let (first, second) = Vmap::over((&w, &x, &y)).in_dims(&[None, Some(1), Some(-2)]).out_dims(&[1, -1]).map(|(w, x, y)| {
            let z = w.matmul(&x);
            (y * &z, z)
        });
        vec![first, second]
    }),
    ("vmap_orders", |t| {
        let (x, i) = (input(t, "a", [3, 4, 5]), table(t, &[0, 4, 2, 1, 3, 3], &[3, 2]));
        let [a, b, c] = vmap((&x, &i), |(x, i)| {
            let sorted = x.sort(1, true).0.cumsum(0);
            let picked = x.index_select(1, &i);
            [sorted, picked.prod(1) + x.topk(2, -1).0.sum(-1), i.embedding(&x.transpose(0, 1)).flip(0)]
        });
        vec![a, b, c, vmap(&i, |i| x.index_select(2, &i).index_add(2, &(&i % 2), &x.select(0, 0).index_select(1, &i).expand((3, 4, 2))))]
    }),
];

fn outputs(traced: &inductor::Traced, inputs: &[&HostTensor]) -> Vec<HostTensor> {
    let step = compile(traced, &Device::cpu(), &Config::default()).unwrap();
    let result = step.run(&mut step.init(3).unwrap(), inputs).unwrap();
    result.outputs().unwrap().into_iter().map(|(_, x)| x).collect()
}

fn faults(build: impl FnOnce(&Trace) -> Vec<Tensor>) -> Vec<String> {
    match trace("mapped", |t| Ok(build(t))) {
        Err(Error::Trace(faults)) => faults.into_iter().map(|f| f.message).collect(),
        other => panic!("expected faults, got {other:?}"),
    }
}

#[test]
fn examples_draw_numbers_of_their_own() {
    let traced = trace("draws", |t| {
        let x = t.parameter("x", DType::F32, (4, 64), Initializer::Ones);
        let outside = t.key();
        let own = vmap(&x, |x| x.dropout(0.5, &t.key()));
        let shared = vmap(&x, |x| x.dropout(0.5, &outside));
        let noise = vmap(&x, |x| vmap(&x, |x| x + t.rand(())));
        Ok(vec![own.sum(()), own, shared, noise])
    });
    let step = compile_train(&traced.unwrap(), &Device::cpu(), optim::Sgd::new(0.0), &Config::default()).unwrap();
    let result = step.run(&mut step.init(3).unwrap(), [] as [&HostTensor; 0]).unwrap();
    let found: Vec<HostTensor> = ["output.1", "output.2", "output.3"].map(|name| result.output(name).unwrap()).to_vec();
    let rows = |x: &HostTensor| x.to_f64().chunks(64).map(<[f64]>::to_vec).collect::<Vec<_>>();
    let (own, shared, noise) = (rows(&found[0]), rows(&found[1]), found[2].to_f64());
    assert!(own.iter().flatten().all(|x| *x == 0.0 || *x == 2.0));
    assert!((1..4).all(|e| own[e] != own[0]), "a key from inside is each example's own");
    assert!((1..4).all(|e| shared[e] == shared[0]), "a key from outside is one for all");
    assert!(shared[0] != own[0]);
    let distinct: std::collections::HashSet<u64> = noise.iter().map(|x| x.to_bits()).collect();
    assert!(distinct.len() > 250, "nested examples draw their own: {} of 256", distinct.len());
}

/// What a training program drops in a mapped function, it keeps when it is compiled for inference.
#[test]
fn dropout_of_examples_rests_in_inference() {
    let traced = trace("rest", |t| Ok(vec![vmap(t.input("x", DType::F32, (3, 8)), |x| x.dropout(0.5, &t.key()))])).unwrap();
    let x = HostTensor::from_f64(DType::F32, &[3, 8], &wave(1, &[3, 8]));
    assert_eq!(outputs(&traced, &[&x])[0].to_f64(), x.to_f64());
}

#[test]
fn the_number_of_examples_may_be_symbolic() {
    let batch = Dim::symbol("batch", 1, 64);
    let traced = trace("symbolic", |t| {
        let (x, y) = (t.input("x", DType::F32, (batch.clone(), 6, 8)), t.input("y", DType::I32, (batch.clone(), 6)));
        let norms = vmap((&x, &y), |(x, y)| {
            let h = nn::multi_head_attention(&t.path("attn"), &x.unsqueeze(0), &Attention::causal(2)).squeeze(0);
            let w = t.path("head").parameter("w", DType::F32, (5, 8), Initializer::Normal { std: 1.0 });
            h.linear(&w, None).cross_entropy(&y).grad(&[&w]).remove(0).square().sum(()).sqrt()
        });
        Ok(vec![norms])
    });
    let traced = traced.unwrap();
    let of = |e: std::ops::Range<usize>| {
        let x = HostTensor::from_f64(DType::F32, &[e.len(), 6, 8], &wave(2, &[4, 6, 8])[e.start * 48..e.end * 48]);
        let y = HostTensor::i32(&[e.len(), 6], &(e.start * 6..e.end * 6).map(|i| (i * 7 % 5) as i32).collect::<Vec<_>>());
        outputs(&traced, &[&x, &y])[0].to_f64()
    };
    let (all, alone) = (of(0..4), (0..4).flat_map(|e| of(e..e + 1)).collect::<Vec<_>>());
    assert!(all.iter().zip(&alone).all(|(a, b)| (a - b).abs() < 1e-5 && *a > 0.0), "{all:?} {alone:?}");
}

/// A program is trained through a mapped function.
#[test]
fn losses_of_examples_train() {
    let traced = trace("mapped", |t| {
        let (x, y) = (t.input("x", DType::F32, (16, 2)), t.input("y", DType::F32, (16, 1)));
        let losses = vmap((&x, &y), |(x, y)| nn::linear(&t.path("fc"), &x, 1).mse(&y));
        Ok(losses.mean_all())
    });
    let step = compile_train(&traced.unwrap(), &Device::cpu(), optim::Sgd::new(0.3), &Config::default()).unwrap();
    let x = HostTensor::from_f64(DType::F32, &[16, 2], &wave(1, &[16, 2]));
    let y: Vec<f64> = x.to_f64().chunks(2).map(|x| 2.0 * x[0] - x[1] + 0.5).collect();
    let y = HostTensor::from_f64(DType::F32, &[16, 1], &y);
    let mut state = step.init(1).unwrap();
    let losses: Vec<f32> = (0..60).map(|_| step.run(&mut state, [&x, &y]).unwrap().loss().unwrap()).collect();
    assert!(losses[59] < 1e-3 * losses[0], "{losses:?}");
}

#[test]
fn mistakes_come_back_from_the_trace() {
    let leaked = faults(|t| {
        let mut out = vec![];
        vmap(t.input("x", DType::F32, (3, 4)), |x| {
            out.push(x.exp());
            x
        });
        out
    });
    assert_eq!(
        leaked,
        ["a value from inside a mapped function, or a body of scan, map, cond or while_loop, is read outside of it: return it from there"]
    );
    let sizes = faults(|t| vec![vmap((&t.input("x", DType::F32, (3, 4)), &t.input("y", DType::F32, 4)), |(x, y)| x + y)]);
    assert_eq!(sizes, ["vmap: tensors have different numbers of examples, 3 and 4: f32[3, 4] x f32[4]"]);
    let scalar = faults(|t| vec![vmap(t.input("x", DType::F32, ()), |x| x)]);
    assert_eq!(scalar, ["vmap: dimension 0 is out of range for []: f32[]"]);
    let none = faults(|t| vec![vmap(t.input("x", DType::F32, (0, 3)), |x| x)]);
    assert_eq!(none, ["vmap: there is no example: f32[0, 3]"]);
    let unmapped = faults(|t| vec![Vmap::over(&t.input("x", DType::F32, 3)).in_dims(&[None]).map(|x| x)]);
    assert_eq!(unmapped, ["vmap: no tensor is mapped: f32[3]"]);
    let inside = faults(|t| vec![vmap(t.input("x", DType::F32, (3, 4)), |x| x.matmul(&x.unsqueeze(0)))]);
    assert_eq!(inside.len(), 1, "{inside:?}");
    assert!(inside[0].starts_with("matmul:"), "{inside:?}");
    let nothing: Vec<Tensor> = vec![];
    assert_eq!(faults(|t| vec![t.ones(DType::F32, ()), vmap(&nothing, |_| t.ones(DType::F32, 2)) + 1.0]), ["vmap: there is no tensor to map over"]);
}

/// A region whose values are computed again is mapped as what it is made of.
#[test]
fn regions_are_mapped() {
    let of = |is_region: bool| {
        let traced = trace("region", |t| {
            let (x, w) = (t.input("x", DType::F32, (5, 3)), weights(t));
            Ok(vmap(&x, |x| {
                let hidden = |x: &Tensor| mlp(&w, x).tanh() * t.rand(2);
                let y = if is_region { t.checkpoint(&x, hidden) } else { hidden(&x) };
                (y.clone(), y.square().sum(()).grad(&[&w[0]]).remove(0))
            }))
        });
        outputs(&traced.unwrap(), &[&HostTensor::from_f64(DType::F32, &[5, 3], &wave(1, &[5, 3]))])
    };
    let (region, plain) = (of(true), of(false));
    for (a, b) in region.iter().zip(&plain) {
        assert_eq!(a.shape(), b.shape());
        assert!(a.to_f64().iter().zip(b.to_f64()).all(|(a, b)| (a - b).abs() < 1e-6), "{a:?} {b:?}");
    }
}

/// Running statistics have one value, not one for each example.
#[test]
fn statistics_of_examples_are_refused() {
    let found = faults(|t| vec![vmap(t.input("x", DType::F32, (3, 4, 2)), |x| nn::batch_norm(&t.path("bn"), &x, nn::BatchNorm::default()))]);
    assert!(found.iter().any(|m| m.contains("a value from inside a mapped function")), "{found:?}");
}

/// Nothing of one example stays, and a mapped layer is one product.
#[test]
fn a_mapped_layer_is_one_product() {
    let traced = trace("rows", |t| {
        let (x, w) = (t.input("x", DType::F32, (16, 3)), t.parameter("w", DType::F32, (3, 5), Initializer::Ones));
        Ok(vec![vmap(&x, |x| x.unsqueeze(0).matmul(&w).squeeze(0))])
    });
    let graph = traced.unwrap().graph;
    let products: Vec<String> = graph.nodes.iter().filter(|n| n.op.name() == "matmul").map(|n| n.types[0].to_string()).collect();
    assert_eq!(products, ["f32[16, 5]"]);
}
