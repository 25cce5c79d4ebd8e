"""Values of PyTorch for tests/library.rs: python make.py > values.json (torch 2.11, CPU)."""
import json, math, torch, torch.nn as nn, torch.nn.functional as F

# Of the kernels of attention, only this one has a derivative of its gradient.
torch.backends.cuda.enable_flash_sdp(False)

def wave(seed, shape):
    n = math.prod(shape)
    x = torch.sin(1.3 * torch.arange(n, dtype=torch.float64) + 0.7 * seed + 0.3)
    return x.reshape(shape).float()

def named(name):
    return sum(name.encode()) % 97

CASES = {}

def case(name, *shapes, positive=False):
    """A function of inputs a, b, ... of those shapes, maybe with a module whose parameters are set by name."""
    def add(build):
        CASES[name] = (shapes, positive, build)
        return build
    return add

def run(shapes, positive, build):
    torch.manual_seed(0)
    inputs = [wave(k + 1, s) for k, s in enumerate(shapes)]
    if positive:
        inputs = [0.5 + 0.4 * x for x in inputs]
    inputs = [x.requires_grad_() for x in inputs]
    made = build(*inputs)
    params = {}
    if isinstance(made, tuple) and isinstance(made[0], nn.Module):
        module, call = made
        module.train()
        for name, p in module.named_parameters():
            p.data = 0.5 * wave(named(name), p.shape)
            params[name] = p
        made = call(module)
    outs = made if isinstance(made, (list, tuple)) else [made]
    loss = 0.0
    for k, out in enumerate(outs):
        out = out.float()
        loss = loss + (out * wave(50 + k, out.shape)).sum()
    record = {"loss": float(loss)}
    if loss.requires_grad:
        loss.backward()
        tensors = dict(zip("abcdef", inputs)) | params
        record["grads"] = {n: [float(f"{v:.7g}") for v in x.grad.flatten()[:40].tolist()] for n, x in tensors.items() if x.grad is not None}
    return record

# Methods.
one = lambda name, f, shape=(2, 3, 4), positive=False: case(name, shape, positive=positive)(f)
for f in "softplus selu hardswish hardsigmoid mish logsigmoid softsign tanhshrink relu6 gelu silu".split():
    one(f, lambda x, f=f: getattr(F, f)(3 * x))
one("igamma", lambda x: [torch.special.gammainc(torch.full_like(x, 2.5), x), torch.special.gammaincc(torch.full_like(x, 0.5), x)], positive=True)
one("frexp", lambda x: [*torch.frexp(3 * x), torch.nextafter(x.detach(), torch.full_like(x, 2.0))])
one("bincount", lambda x: [x.sum(), torch.bincount(torch.tensor([1, 0, 2, 1, 4]), minlength=6)])
one("leaky_relu", lambda x: F.leaky_relu(x, 0.2))
one("elu", lambda x: F.elu(x, 0.7)); one("celu", lambda x: F.celu(x, 0.7)); one("glu", lambda x: F.glu(x, -1))
one("hardtanh", lambda x: F.hardtanh(x, -0.4, 0.6)); one("hardshrink", lambda x: F.hardshrink(x, 0.4)); one("softshrink", lambda x: F.softshrink(x, 0.4))
one("threshold", lambda x: F.threshold(x, 0.1, 0.7))
case("prelu", (2, 3, 4), (3,))(lambda x, w: F.prelu(x, w))
for f in "log10 lgamma digamma logit asinh erfc erfinv".split():
    one(f, lambda x, f=f: getattr(torch, f)(x), positive=True)
one("acosh", lambda x: torch.acosh(x + 1.5), positive=True); one("atanh", torch.atanh, positive=True)
one("std", lambda x: x.std(1)); one("var", lambda x: x.var()); one("var_with", lambda x: x.var((0, 2), correction=0, keepdim=True))
one("logsumexp", lambda x: x.logsumexp((0, 1))); one("norm", lambda x: x.norm()); one("norm_with", lambda x: torch.linalg.vector_norm(x, 3, (1, 2)))
one("amax", lambda x: x.amax((0, -1))); one("prod", lambda x: x.prod(1)); one("mean_keepdim", lambda x: x.mean(-1, True))
one("nansum", lambda x: torch.where(x > 0.9, float("nan"), x).nansum(1)); one("argmax", lambda x: [x.argmax(1), x.argmin(), x.argmax(-1, True)])
one("max_with_indices", lambda x: list(x.max(1))); one("median", lambda x: list(x.median(1))); one("kthvalue", lambda x: list(x.kthvalue(2, -1)))
one("split", lambda x: list(x.split(3, -1)) + list(x.chunk(2, 1)) + list(x.split([1, 2], 1)) + list(x.unbind(0)))
one("repeat", lambda x: [x.repeat(2, 1, 3, 1), x.tile(2, 1), x.repeat_interleave(3, 1)])
one("roll", lambda x: [x.roll((1, -2), (0, 2)), x.roll(5), x.rot90(1, (1, 2)), x.flip((0, 1))])
one("diagonal", lambda x: [x.diagonal(1, 1, 2), x[0, 0].diag(), x[0].diag(-1), torch.diag_embed(x), x[0].trace()])
one("movedim", lambda x: [x.movedim((0, 1), (2, 0)), x.mT, x[0].t(), x.unflatten(-1, (2, 2)), x.unsqueeze(0).expand(3, -1, -1, -1)])
one("unfold", lambda x: x.unfold(2, 3, 1))
case("pad", (1, 2, 5, 6))(lambda x: [F.pad(x, (1, 2, 0, 1), value=0.5), F.pad(x, (1, 2, 2, 1), "reflect"), F.pad(x, (1, 0, 0, 2), "replicate"), F.pad(x, (2, 1, 1, 0), "circular"), F.pad(x, (-1, 1))])
one("select", lambda x: [x.select(1, -1), x.narrow(2, 1, 2), x[:, :, 1::2]])
case("products", (2, 3, 4), (4,), (3,))(lambda x, v, w: [x @ v, w @ x, v @ v, torch.outer(v, w), torch.einsum("bij,j,i->b", x, v, w), torch.tensordot(x, v, ([2], [0])), torch.kron(v, w)])
case("distances", (4, 3), (5, 3))(lambda x, y: [torch.cdist(x, y), torch.linalg.cross(x, y[:4]), F.cosine_similarity(x, y[:4]), F.pairwise_distance(x, y[:4]), F.normalize(x, dim=1)])
case("bilinear", (2, 3), (2, 4), (5, 3, 4), (5,))(lambda x, y, w, b: F.bilinear(x, y, w, b))
I = torch.tensor([[0, 2, 1, 0], [1, 1, 0, 2], [2, 0, 0, 1]])
case("gather", (3, 4), (3, 4))(lambda x, s: [x.gather(0, I), x.take_along_dim(I[:, :1], 1), x.take(I), x.scatter(0, I, 0.5), x.scatter_add(0, I, s), x.scatter_reduce(0, I, s, "amax"), x.index_add(0, I[:, 1], s), x.index_copy(0, torch.tensor([2, 0]), s[:2]), x.index_fill(1, torch.tensor([0, 3]), 2.0)])
case("index", (3, 4), (3,))(lambda x, s: [x[I[:, 0], I[:, 1]], x.index_put((I[:, 0], I[:, 1]), s), x.masked_scatter(x > 0.2, s.repeat(4)), x.slice_scatter(s.reshape(3, 1), 1, 1, 2), x.select_scatter(s, 1, -1)])
case("ordering", (3, 5))(lambda x: list(x.sort(1)) + list(x.topk(2, 0)) + [x.cumsum(1), x.cumprod(0), x.logcumsumexp(1), x.diff(), x.argsort(0, True)] + list(x.cummax(1)) + list(x.cummin(0)))
case("searchsorted", (3, 5), (3, 2))(lambda x, v: [torch.searchsorted(x.sort(1)[0], v), torch.bucketize(v, torch.tensor([-0.5, 0.0, 0.5]), right=True), torch.isin(I, torch.tensor([0, 2]))])
one("special", lambda x: [torch.special.entr(x), torch.special.ndtr(x), torch.special.ndtri(x), torch.special.log_ndtr(-9 * x), torch.i0(x), torch.special.xlogy(x, x.flip(-1)), torch.special.xlog1py(x, x.flip(-1)), torch.logaddexp2(x, x.flip(-1)), torch.ldexp(x, torch.tensor(3.0)), torch.logit(x, 0.3), torch.heaviside(x.detach() - 0.5, x.detach()), x.signbit(), (x / 0).isposinf(), (-x / 0).isneginf()], positive=True)
one("statistics", lambda x: [*torch.var_mean(x, (0, -1)), *torch.std_mean(x, 1), x.amin((0, 2)), x.amax((0, 2)), torch.baddbmm(x[:, :1], x.mT[:, 1:2], x, beta=0.5, alpha=2), torch.addmv(x[0, :, 0], x[1], x[0, 0], beta=3)])
one("places", lambda x: [x[..., -3:-1], x.narrow(-1, -2, 2), x.sum((0, 2)), x[:, -3:].permute((-1, 0, 1)), torch.zeros(0, 3, requires_grad=True).logsumexp(0).exp() + x.sum(), (x > 0).sum(-1), (x > 0).cumsum(1)])
case("pointwise", (2, 3), (2, 3), (2, 3))(lambda x, y, z: [x.lerp(y, z), x.lerp(y, 0.3), x.addcmul(y, z, value=0.5), x.addcdiv(y, z + 3, value=0.5), torch.logaddexp(x, y), torch.hypot(x, y), torch.copysign(x, y), torch.fmax(x, y), x.clamp(-0.3, 0.5), x.nan_to_num(), x.frac(), torch.where(x > y, x, 2.0), x.masked_fill(x > 0, 3.0)])
case("convolutions", (2, 4, 7), (6, 2, 3), (4, 3, 3))(lambda x, w, v: [F.conv1d(x, w, stride=2, padding=1, groups=2), F.conv1d(x, w, padding="same", dilation=2, groups=2), F.conv_transpose1d(x, v, stride=2, padding=1, output_padding=1)])
case("convolutions2d", (1, 4, 5, 6), (2, 4, 3, 2), (4, 3, 2, 3))(lambda x, w, v: [F.conv2d(x, w, stride=(2, 1), padding=(1, 0), dilation=(1, 2)), F.conv_transpose2d(x, v, stride=2, dilation=(2, 1))])
case("convolutions3d", (1, 2, 4, 4, 3), (2, 2, 2, 2, 2), (2, 1, 2, 2, 2))(lambda x, w, v: [F.conv3d(x, w, padding=1), F.conv_transpose3d(x, v, stride=2)])
case("pools", (1, 2, 7, 6))(lambda x: [F.max_pool2d(x, 2), F.max_pool2d(x, 3, 2, 1, ceil_mode=True), F.avg_pool2d(x, (2, 3), padding=1), F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), F.max_pool1d(x[0], 3, 1), F.avg_pool1d(x[0], 2), F.adaptive_avg_pool2d(x, (3, 2)), F.adaptive_max_pool2d(x, 2), F.adaptive_avg_pool1d(x[0], 4)])
case("resampling", (1, 4, 3, 4))(lambda x: [F.interpolate(x, (5, 7), mode="bilinear"), F.interpolate(x, (5, 7), mode="bilinear", align_corners=True), F.interpolate(x, scale_factor=2), F.interpolate(x, (5, 6), mode="bicubic"), F.interpolate(x, (5, 6), mode="nearest-exact"), F.pixel_shuffle(x, 2), F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2), F.unfold(x, (2, 2), padding=1), F.fold(F.unfold(x, (2, 2)), (3, 4), (2, 2))])
case("norms", (2, 6, 3), (6,), (6,))(lambda x, w, b: [F.group_norm(x, 3, w, b), F.instance_norm(x), x.renorm(2, 0, 1.5)])
case("attention", (2, 4, 3, 6), (2, 2, 5, 6), (2, 2, 5, 6))(lambda q, k, v: [F.scaled_dot_product_attention(q, k, v, enable_gqa=True), F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(3, 5).tril(1).bool(), enable_gqa=True)])

# Losses.
L = torch.tensor([1, 3, 0, 2, -100])
W = 0.5 + 0.4 * wave(7, (4,))
R = ["mean", "sum", "none"]
S = torch.where(wave(9, (3, 4)) > 0, 1.0, -1.0)
case("cross_entropy", (5, 4), (5, 4))(lambda x, y: [F.cross_entropy(x, L, W, reduction=r, label_smoothing=s) for r in R for s in (0.0, 0.1)] + [F.cross_entropy(x, L), F.cross_entropy(x, y.softmax(1)), F.cross_entropy(x, y.softmax(1), W, label_smoothing=0.2)])
case("cross_entropy_images", (2, 4, 3))(lambda x: [F.cross_entropy(x, torch.tensor([[0, 1, 3], [2, 2, 1]]), W, reduction=r) for r in R])
case("nll", (5, 4))(lambda x: [F.nll_loss(x.log_softmax(1), L, W, reduction=r) for r in R] + [F.multi_margin_loss(x, L.clamp(0, 3), reduction=r) for r in R])
pair = lambda f: lambda x, y: [f(x, y, reduction=r) for r in R]
case("mse_loss", (3, 4), (3, 4))(pair(F.mse_loss)); case("l1_loss", (3, 4), (3, 4))(pair(F.l1_loss))
case("smooth_l1_loss", (3, 4), (3, 4))(lambda x, y: [F.smooth_l1_loss(x, y, reduction=r, beta=0.5) for r in R])
case("huber_loss", (3, 4), (3, 4))(lambda x, y: [F.huber_loss(x, y, reduction=r, delta=0.5) for r in R])
case("binary_cross_entropy", (3, 4), (3, 4), positive=True)(lambda x, y: [F.binary_cross_entropy(x, y.detach(), reduction=r) for r in R])
case("bce_with_logits", (3, 4), (3, 4))(lambda x, y: [F.binary_cross_entropy_with_logits(x, y.detach().sigmoid(), weight=W, pos_weight=2 * W, reduction=r) for r in R] + [F.binary_cross_entropy_with_logits(x, y.detach().sigmoid())])
case("kl_div", (3, 4), (3, 4))(lambda x, y: [F.kl_div(x.log_softmax(1), y.softmax(1), reduction=r) for r in ("mean", "sum", "none")] + [F.kl_div(x.log_softmax(1), y.log_softmax(1), log_target=True)])
case("poisson_nll_loss", (3, 4), (3, 4), positive=True)(lambda x, y: [F.poisson_nll_loss(x, y.detach(), reduction=r) for r in R])
case("gaussian_nll_loss", (3, 4), (3, 4), (3, 4), positive=True)(lambda x, y, v: [F.gaussian_nll_loss(x, y.detach(), v, reduction=r) for r in R])
case("margins", (3, 4))(lambda x: [F.soft_margin_loss(x, S), F.hinge_embedding_loss(x, S), (1 - x * S).clamp(min=0).mean()])
case("triplet", (3, 4), (3, 4), (3, 4))(lambda x, y, z: [F.triplet_margin_loss(x, y, z, reduction=r) for r in R] + [F.triplet_margin_loss(x, y, z, margin=0.5, swap=True), F.margin_ranking_loss(x, y, S, margin=0.3), F.cosine_embedding_loss(x, y, S[:, 0], margin=0.1)])
def focal(x, y, r):
    p, ce = x.sigmoid(), F.binary_cross_entropy_with_logits(x, y, reduction="none")
    loss = (0.25 * y + 0.75 * (1 - y)) * (1 - (p * y + (1 - p) * (1 - y))) ** 2 * ce
    return {"mean": loss.mean(), "sum": loss.sum(), "none": loss}[r]
T = (S + 1) / 2
case("focal", (3, 4))(lambda x: [focal(x, T, r) for r in R])
case("dice", (3, 4), positive=True)(lambda x: (1 - (2 * (x * T).sum(1) + 1) / (x.sum(1) + T.sum(1) + 1)).mean())
CL = torch.tensor([[1, 2, 2, 1], [3, 1, 0, 0], [2, 2, 2, 2]])
case("ctc", (8, 3, 4))(lambda x: [F.ctc_loss(3 * x.log_softmax(2) / 3, CL, torch.tensor([8, 6, 8]), torch.tensor([4, 2, 1]), reduction=r) for r in R])
case("ctc_too_long", (3, 3, 4))(lambda x: F.ctc_loss(x.log_softmax(2), CL, torch.tensor([3, 3, 3]), torch.tensor([4, 2, 0]), reduction="sum", zero_infinity=True))

# Layers; parameters have the names of the module.
class Named(nn.Module):
    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
N = Named
case("linear", (3, 4))(lambda x: (N(fc=nn.Linear(4, 5)), lambda m: m.fc(x)))
case("batch_norm", (4, 3, 5))(lambda x: (N(bn=nn.BatchNorm1d(3)), lambda m: m.bn(x)))
case("group_norm", (2, 6, 5))(lambda x: (N(gn=nn.GroupNorm(3, 6), inorm=nn.InstanceNorm1d(6, affine=True)), lambda m: [m.gn(x), m.inorm(x)]))
case("rms_norm", (2, 6))(lambda x: (N(rms=nn.RMSNorm(6, eps=1e-5), ln=nn.LayerNorm(6)), lambda m: [m.rms(x), m.ln(x)]))
case("conv_layers", (2, 4, 6, 5))(lambda x: (N(c=nn.Conv2d(4, 6, 3, 2, 1, groups=2), ct=nn.ConvTranspose2d(4, 2, (3, 2), 2, 1, 1), c1=nn.Conv1d(4, 3, 3, padding="same")), lambda m: [m.c(x), m.ct(x), m.c1(x[:, :, 0])]))
case("lstm", (5, 2, 3), (4, 2, 4), (4, 2, 4))(lambda x, h, c: (N(rnn=nn.LSTM(3, 4, 2, bidirectional=True)), lambda m: [m.rnn(x)[0], m.rnn(x, (h, c))[1][0], m.rnn(x, (h, c))[1][1]]))
case("gru", (2, 5, 3))(lambda x: (N(rnn=nn.GRU(3, 4, 2, batch_first=True)), lambda m: list(m.rnn(x))))
case("rnn", (5, 2, 3))(lambda x: (N(rnn=nn.RNN(3, 4, nonlinearity="relu", bidirectional=True, bias=False)), lambda m: list(m.rnn(x))))
def packed(x):
    m, lengths = N(rnn=nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True), gru=nn.GRU(3, 4, bias=False), plain=nn.RNN(3, 4, bidirectional=True)), torch.tensor([2, 5, 1])
    def call(m):
        pack = lambda x, first: nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=False)
        padded = lambda y, first: nn.utils.rnn.pad_packed_sequence(y, batch_first=first)[0]
        y, (h, c) = m.rnn(pack(x, True))
        z, g = m.gru(pack(x.transpose(0, 1), False))
        p, e = m.plain(pack(x.transpose(0, 1), False))
        return [padded(y, True), h, c, padded(z, False), g, padded(p, False), e]
    return m, call
case("packed_sequences", (3, 5, 3))(packed)
case("cells", (2, 3), (2, 4), (2, 4))(lambda x, h, c: (N(lstm=nn.LSTMCell(3, 4), gru=nn.GRUCell(3, 4), rnn=nn.RNNCell(3, 4)), lambda m: list(m.lstm(x, (h, c))) + [m.gru(x, h), m.rnn(x, h)]))
case("embedding")(lambda: (N(e=nn.Embedding(5, 3)), lambda m: m.e(I)))
case("multihead_attention", (2, 3, 8), (2, 5, 8))(lambda q, k: (N(attn=nn.MultiheadAttention(8, 2, batch_first=True)), lambda m: [m.attn(q, k, k)[0], m.attn(q, q, q, attn_mask=torch.ones(3, 3).triu(1).bool())[0]]))
for first in (False, True):
    layer = lambda kind: kind(8, 2, 12, 0.0, "gelu" if first else "relu", batch_first=True, norm_first=first)
    case(f"encoder_{first}", (2, 4, 8))(lambda x, layer=layer, first=first: (N(e=nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu" if first else "relu", batch_first=True, norm_first=first), 2, nn.LayerNorm(8), enable_nested_tensor=False)), lambda m: m.e(x)))
    case(f"decoder_{first}", (2, 4, 8), (2, 3, 8))(lambda x, y, first=first: (N(d=nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 12, 0.0, "gelu" if first else "relu", batch_first=True, norm_first=first), 2)), lambda m: m.d(x, y, tgt_mask=torch.full((4, 4), -math.inf).triu(1))))
import warnings; warnings.simplefilter("ignore")
case("weight_norm", (3, 4))(lambda x: (N(fc=nn.utils.weight_norm(nn.Linear(4, 5))), lambda m: m.fc(x)))
def spectral(x):
    m = N(fc=nn.utils.spectral_norm(nn.Linear(4, 5)))
    m.fc.weight_u = F.normalize(wave(named("fc.weight_u"), (5,)), dim=0); m.fc.weight_v = F.normalize(wave(named("fc.weight_v"), (4,)), dim=0)
    return m, lambda m: m.fc(x)
case("spectral_norm", (3, 4))(spectral)
def spectral_transposed(x):
    m = N(up=nn.utils.spectral_norm(nn.ConvTranspose2d(2, 3, 2)))
    m.up.weight_u, m.up.weight_v = F.normalize(wave(named("up.weight_u"), (3,)), dim=0), F.normalize(wave(named("up.weight_v"), (8,)), dim=0)
    return m, lambda m: m.up(x)
case("spectral_norm_transposed", (1, 2, 3, 3))(spectral_transposed)
case("lora", (3, 4))(lambda x: x.sum() * 0 + F.linear(x, 0.5 * wave(named("fc.weight"), (5, 4)), 0.5 * wave(named("fc.bias"), (5,))) + 4 * F.linear(F.linear(x, 0.5 * wave(named("fc.lora_a"), (2, 4))), 0.5 * wave(named("fc.lora_b"), (5, 2))))

# Derivatives inside the program.
def g(y, *of):
    return torch.autograd.grad(y.sum(), of, create_graph=True, materialize_grads=True)
mlp = lambda i, o: N(l1=nn.Linear(i, 8), l2=nn.Linear(8, o))
case("gradient_penalty", (5, 4))(lambda x: (mlp(4, 1), lambda m: (g(m.l2(m.l1(x).tanh()), x)[0].norm(dim=1) - 1) ** 2))
def pinn(m, x):
    u = m.l2(m.l1(x).tanh())
    first = g(u, x)[0]
    return [g(first[:, 0], x)[0][:, 0] + first[:, 1] - u[:, 0]]
case("pinn", (5, 2))(lambda x: (mlp(2, 1), lambda m: pinn(m, x)))
case("hvp", (6,), (6,))(lambda x, v: torch.autograd.grad((g((x.sin() * x.cumsum(0)), x)[0] * v).sum(), x, create_graph=True)[0])
case("jvp", (3, 4), (3, 4), (4, 5))(lambda x, v, w: torch.func.jvp(lambda x: (x.exp() @ w).softmax(-1), (x,), (v,))[1])
case("second_order_activations", (3, 5))(lambda x: [g(getattr(F, f)(2 * x), x)[0] for f in "hardswish softplus mish elu selu gelu silu logsigmoid leaky_relu relu softsign tanh".split()])
def parts(x, w, k):
    y = F.layer_norm(x @ w, (6,)).log_softmax(-1) + F.cross_entropy(x @ w, torch.tensor([1, 0, 5])) + x.std() + x.logsumexp(1).unsqueeze(1) + x.norm(dim=1, keepdim=True)
    z = F.avg_pool1d(F.max_pool1d(F.conv1d(x.unsqueeze(0).sin(), k, padding=1), 2), 2)
    q = x.reshape(1, 1, 3, 4)
    return [g(y * y, x)[0], *g(z * z, x, k), g(F.scaled_dot_product_attention(q, q.sin(), q, is_causal=True) ** 2, x)[0], g(F.binary_cross_entropy_with_logits(x, x.detach().sigmoid()) * F.mse_loss(x, x.cos()), x)[0]]
case("second_order_parts", (3, 4), (4, 6), (2, 3, 3))(parts)
case("second_order_entropy", (3, 4))(lambda x: g(F.binary_cross_entropy(x.sigmoid(), (2 * x).sigmoid().detach()), x)[0])
case("second_order_lstm", (4, 2, 3))(lambda x: (N(rnn=nn.LSTM(3, 4)), lambda m: g(m.rnn(x)[0] ** 2, x)[0]))

# Functions mapped over examples.
vmap, ce = torch.func.vmap, F.cross_entropy
def examples(x):
    labels = torch.tensor([1, 0, 0, 1])
    def of(m):
        loss = lambda p, x, y: ce(torch.func.functional_call(m, p, x), y)
        return list(vmap(torch.func.grad(loss), (None, 0, 0))(dict(m.named_parameters()), x, labels).values())
    return MLP(), of
class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.l1, self.l2 = nn.Linear(3, 8), nn.Linear(8, 2)
    def forward(self, x):
        return self.l2(self.l1(x).tanh())
case("vmap_gradients", (4, 3))(examples)
case("vmap_of_gradients_of_gradients", (5, 3))(lambda x: (MLP(), lambda m: vmap(lambda x: torch.func.hessian(lambda x: m(x)[0])(x).diagonal().sum())(x)))
case("vmap_hessian", (4,), (4, 4))(lambda x, w: torch.func.hessian(lambda x: ((w @ x.sin()) * x.exp()).sum())(x))
soft = lambda w: lambda x: (w @ x.tanh()).softmax(-1)
case("vmap_jacobians", (3,), (5, 3))(lambda x, w: [torch.func.jacfwd(soft(w))(x), torch.func.jacrev(soft(w))(x)])
def convolved(k, d, x):
    y = F.max_pool2d(F.conv2d(x.unsqueeze(0), k, padding=1).relu(), 2)
    return F.conv2d(y, d, groups=4).square().sum()
case("vmap_convolution_gradients", (3, 2, 6, 5), (4, 2, 3, 3), (4, 1, 2, 2))(lambda x, k, d: list(vmap(torch.func.grad(convolved, (0, 1, 2)), (None, None, 0))(k, d, x)))
case("vmap_ensemble", (5, 3), (4, 6, 3), (4, 6), (4, 6), (4, 6), (4, 2, 1, 2))(lambda x, w, b, g, h, k: vmap(lambda w, b, g, h, k: F.conv1d(F.layer_norm(F.gelu(F.linear(x, w, b)), (6,), g, h).unsqueeze(1), k))(w, b, g, h, k))
case("vmap_attention", (3, 2, 4, 5), (2, 6, 5), (3, 4, 6))(lambda q, k, m: torch.stack([F.scaled_dot_product_attention(q[i], k, k.sin(), attn_mask=m[i]) for i in range(3)]))
case("vmap_nested", (4, 3), (5, 3))(lambda x, y: vmap(lambda x: vmap(lambda y: ((x - y) * x.sigmoid()).logsumexp(0))(y))(x))
case("vmap_dims", (3, 4), (5, 3), (2, 4, 5))(lambda x, w, y: list(vmap(lambda w, x, y: (y * (w @ x), w @ x), (None, 1, -2), (1, -1))(w, x, y)))
def orders(x):
    i = torch.tensor([[0, 4], [2, 1], [3, 3]])
    of = lambda x, i: (x.sort(1, descending=True)[0].cumsum(0), x.index_select(1, i).prod(1) + x.topk(2, -1)[0].sum(-1), F.embedding(i, x.T).flip(0))
    parts = [torch.stack(p) for p in zip(*[of(x[e], i[e]) for e in range(3)])]
    added = [x.index_select(2, j).index_add(2, j % 2, x[0].index_select(1, j).expand(3, 4, 2)) for j in i]
    return parts + [torch.stack(added)]
case("vmap_orders", (3, 4, 5))(orders)

print("{\n" + ",\n".join(f" {json.dumps(n)}: {json.dumps(run(*c))}" for n, c in CASES.items()) + "\n}")
