//! Layers, whose parameters have PyTorch's names.

use super::{Case, input, table};
use inductor::nn::{self, Conv, Embedding, Linear, Lora, Multihead, Recurrent, TransformerLayer};
use inductor::{Tensor, Trace};

fn transformer(norm_first: bool) -> TransformerLayer {
    TransformerLayer { feed_forward: 12, dropout: 0.0, gelu: norm_first, norm_first, ..TransformerLayer::new(2) }
}

fn encoder(t: &Trace, norm_first: bool) -> Vec<Tensor> {
    vec![nn::transformer_encoder(&t.path("e"), &input(t, "a", [2, 4, 8]), 2, true, &transformer(norm_first))]
}

fn decoder(t: &Trace, norm_first: bool) -> Vec<Tensor> {
    let config = TransformerLayer { causal: true, ..transformer(norm_first) };
    vec![nn::transformer_decoder(&t.path("d"), &input(t, "a", [2, 4, 8]), &input(t, "b", [2, 3, 8]), 2, false, &config)]
}

pub const CASES: &[Case] = &[
    ("linear", |t| vec![nn::linear(&t.path("fc"), &input(t, "a", [3, 4]), 5)]),
    ("batch_norm", |t| vec![nn::batch_norm(&t.path("bn"), &input(t, "a", [4, 3, 5]), Default::default())]),
    ("group_norm", |t| {
        let x = input(t, "a", [2, 6, 5]);
        vec![nn::group_norm(&t.path("gn"), &x, 3), nn::instance_norm(&t.path("inorm"), &x, true)]
    }),
    ("rms_norm", |t| {
        let x = input(t, "a", [2, 6]);
        vec![nn::rms_norm(&t.path("rms"), &x), nn::layer_norm(&t.path("ln"), &x, Default::default())]
    }),
    ("conv_layers", |t| {
        let x = input(t, "a", [2, 4, 6, 5]);
        vec![
            nn::conv2d(&t.path("c"), &x, Conv::new(6, 3).stride(2).padding(1).groups(2)),
            nn::conv_transpose2d(&t.path("ct"), &x, Conv::new(2, [3, 2]).stride(2).padding(1).output_padding(1)),
            nn::conv1d(&t.path("c1"), &x.select(2, 0), Conv::new(3, 3).same()),
        ]
    }),
    ("lstm", |t| {
        let (x, h, c) = (input(t, "a", [5, 2, 3]), input(t, "b", [4, 2, 4]), input(t, "c", [4, 2, 4]));
        let layer = Recurrent::new(4).layers(2).bidirectional();
        let (y, _) = nn::lstm(&t.path("rnn"), &x, None, layer.clone());
        let (_, (h, c)) = nn::lstm(&t.path("rnn"), &x, Some((&h, &c)), layer);
        vec![y, h, c]
    }),
    ("gru", |t| {
        let (y, h) = nn::gru(&t.path("rnn"), &input(t, "a", [2, 5, 3]), None, Recurrent::new(4).layers(2).batch_first());
        vec![y, h]
    }),
    ("rnn", |t| {
        let layer = Recurrent::new(4).relu().bidirectional().bias(false);
        let (y, h) = nn::rnn(&t.path("rnn"), &input(t, "a", [5, 2, 3]), None, layer);
        vec![y, h]
    }),
    ("packed_sequences", |t| {
        let (x, lengths) = (input(t, "a", [3, 5, 3]), table(t, &[2, 5, 1], &[3]));
        let layer = || Recurrent::new(4).lengths(&lengths);
        let (y, (h, c)) = nn::lstm(&t.path("rnn"), &x, None, layer().layers(2).bidirectional().batch_first());
        let x = x.transpose(0, 1);
        let (z, g) = nn::gru(&t.path("gru"), &x, None, layer().bias(false));
        let (p, e) = nn::rnn(&t.path("plain"), &x, None, layer().bidirectional());
        vec![y, h, c, z, g, p, e]
    }),
    ("cells", |t| {
        let (x, h, c) = (input(t, "a", [2, 3]), input(t, "b", [2, 4]), input(t, "c", [2, 4]));
        let (next, cell) = nn::lstm_cell(&t.path("lstm"), &x, (&h, &c));
        vec![next, cell, nn::gru_cell(&t.path("gru"), &x, &h), nn::rnn_cell(&t.path("rnn"), &x, &h)]
    }),
    ("embedding", |t| {
        let index = table(t, &[0, 2, 1, 0, 1, 1, 0, 2, 2, 0, 0, 1], &[3, 4]);
        vec![nn::embedding(&t.path("e"), &index, Embedding::new(5, 3))]
    }),
    ("multihead_attention", |t| {
        let (q, k) = (input(t, "a", [2, 3, 8]), input(t, "b", [2, 5, 8]));
        let causal = Multihead { causal: true, ..Multihead::new(2) };
        let t = t.path("attn");
        vec![nn::multihead_attention(&t, &q, &k, &k, &Multihead::new(2)), nn::multihead_attention(&t, &q, &q, &q, &causal)]
    }),
    ("encoder_False", |t| encoder(t, false)),
    ("encoder_True", |t| encoder(t, true)),
    ("decoder_False", |t| decoder(t, false)),
    ("decoder_True", |t| decoder(t, true)),
    ("weight_norm", |t| vec![nn::linear(&t.path("fc"), &input(t, "a", [3, 4]), Linear::new(5).weight_norm())]),
    ("spectral_norm", |t| vec![nn::linear(&t.path("fc"), &input(t, "a", [3, 4]), Linear::new(5).spectral_norm())]),
    ("spectral_norm_transposed", |t| vec![nn::conv_transpose2d(&t.path("up"), &input(t, "a", [1, 2, 3, 3]), Conv::new(3, 2).spectral_norm())]),
    ("lora", |t| vec![nn::linear(&t.path("fc"), &input(t, "a", [3, 4]), Linear::new(5).lora(Lora { rank: 2, alpha: 8.0 }))]),
];
