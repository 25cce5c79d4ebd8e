use crate::frontend::{AttentionOptions, Tensor, trace};
use crate::types::DType;

#[test]
fn every_method_records_its_op() {
    let traced = trace("all", |t| {
        let x = t.input("x", DType::F32, (2, 3, 4));
        let i = t.input("i", DType::I32, (2, 3, 4));
        let (w, key) = (t.input("w", DType::F32, 4), t.key());
        let (values, order) = x.sort(-1, true);
        let (top, _) = x.topk(2, 1);
        let attended = x.attention(&x, &x, &AttentionOptions { causal: true, dropout: Some((0.1, key.clone())), ..Default::default() });
        Ok(vec![
            x.gelu() + x.gelu_tanh() + x.silu() + x.softmax(0) + x.log_softmax(1),
            x.layer_norm(Some(&w), Some(&w), 1e-5) + x.layer_norm(None, None, 1e-5) + x.rms_norm(Some(&w), 1e-5) + x.rms_norm(None, 1e-5),
            x.mean([0, -1]) + x.var([0, 2]),
            x.dropout(0.3, &key) + key.uniform((2, 3, 4)) + key.random_bits((2, 3, 4)).cast(DType::F32),
            attended + values + order.cast(DType::F32) + x.cumsum(1),
            top + x.slice(1, 0, 2),
            x.cross_entropy(&i.select(-1, 0)) + x.mse(&x),
            i.one_hot(5, DType::F32).sum([-1]) + x.gather(2, &i) + x.scatter_add(2, &i, &x),
            x.index_select(1, &i).flatten(0, -1) + i.embedding(&w).sum_all(),
            x.concat(&[&x], 0).pad([0, 0, 0, 0, -2, 0], 0.0).flip([1]).tril(0) + x.triu(1),
            Tensor::stack(&[&x, &x, &x], 0),
            x.bitcast(DType::I32).bitcast(DType::F32),
        ])
    })
    .unwrap();
    assert_eq!(crate::graph::verify(&traced.graph), Vec::<String>::new());
    assert_eq!(traced.graph.outputs.len(), 12);
}

#[test]
fn mistakes_are_named() {
    let error = trace("wrong", |t| {
        let x = t.input("x", DType::F32, (2, 3));
        let (values, _) = x.sort(2, false);
        Ok(vec![
            values,
            x.softmax(5),
            x.cross_entropy(&x.sum(1)),
            x.attention(&x, &x.transpose(0, 1), &AttentionOptions::default()),
            x.chunk(2, 5).remove(0),
            x.bitcast(DType::I16),
        ])
    })
    .unwrap_err()
    .to_string();
    for part in [
        "sort: dimension 2 is out of range",
        "softmax: dimension 5",
        "cross_entropy:",
        "scaled_dot_product_attention:",
        "chunk: dimension 5",
        "bitcast:",
    ] {
        assert!(error.contains(part), "{part} is missing in {error}");
    }
    assert!(error.contains("6 faults"), "{error}");
}
