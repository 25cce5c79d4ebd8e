"""Numbers of PyTorch for tests/programs: python make.py > losses.json (torch 2.11 and transformers 5, CPU)."""
import copy, json, math, torch, torch.nn as nn, torch.nn.functional as F
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

STEPS = 50

def noise(name, n):
    seed = sum((i + 1) * b for i, b in enumerate(name.encode())) % 9973
    at = [math.sin(12.9898 * (i + 1) + 78.233 * seed) * 43758.5453 for i in range(n)]
    return torch.tensor([2 * (x - math.floor(x)) - 1 for x in at], dtype=torch.float64)

def floats(name, *shape):
    return noise(name, math.prod(shape)).float().reshape(shape)

def classes(name, count, *shape):
    return (0.5 * (noise(name, math.prod(shape)) + 1) * count).long().reshape(shape)

def weight(name, shape):
    x, n = noise(name, math.prod(shape)), math.prod(shape)
    if len(shape) < 2:
        x = 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
    else:
        x = x / math.sqrt(n / shape[0])
    return x.float().reshape(shape)

def begin(model):
    for name, p in model.named_parameters():
        p.data = weight(name, p.shape)
    return model.train()

def fit(model, optimizer, loss, clip=lambda p: None):
    begin(model)
    optimizer, found = optimizer(model.parameters()), []
    for k in range(STEPS):
        optimizer.zero_grad()
        out = loss(model, k)
        out.backward()
        clip(model.parameters())
        optimizer.step()
        found.append(out.item())
    return found

def adam(lr, **rest):
    return lambda p: torch.optim.Adam(p, lr=lr, **rest)

def adamw(lr):
    return lambda p: torch.optim.AdamW(p, lr=lr)

def sgd(lr, **rest):
    return lambda p: torch.optim.SGD(p, lr=lr, **rest)

class N(nn.Module):
    """A module of those named modules, and what it computes with them."""
    def __init__(self, call, **parts):
        super().__init__()
        self.call = call
        for name, part in parts.items():
            setattr(self, name, part)
    def forward(self, *x):
        return self.call(self, *x)

def mlp(*sizes):
    layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes, sizes[1:]))
    def call(m, x):
        for i, layer in enumerate(m.layers):
            x = layer(x) if i + 1 == len(m.layers) else layer(x).relu()
        return x
    return N(call, layers=layers)

PROGRAMS = {}

def program(f):
    PROGRAMS[f.__name__] = f
    return f

def conv_block(i, o, stride=1):
    return N(lambda m, x: m.norm(m.conv(x)).relu(), conv=nn.Conv2d(i, o, 3, stride, 1, bias=False), norm=nn.BatchNorm2d(o))

def residual(i, o, stride):
    parts = dict(a=conv_block(i, o, stride), b=nn.Conv2d(o, o, 3, 1, 1, bias=False), norm=nn.BatchNorm2d(o))
    if stride > 1:
        parts["shortcut"] = nn.Conv2d(i, o, 1, stride, bias=False)
    return N(lambda m, x: (m.norm(m.b(m.a(x))) + (m.shortcut(x) if stride > 1 else x)).relu(), **parts)

@program
def resnet():
    model = begin(N(lambda m, x: m.fc(m.two(m.one(m.stem(x))).mean((2, 3))), stem=conv_block(3, 8), one=residual(8, 8, 1), two=residual(8, 16, 2), fc=nn.Linear(16, 10)))
    # Weight decay is for what has two dimensions and more.
    rest = [p for n, p in model.named_parameters() if not n.startswith("fc")]
    groups = [dict(params=[p for p in rest if p.dim() > 1], weight_decay=5e-4, nesterov=True), dict(params=[p for p in rest if p.dim() == 1], nesterov=True), dict(params=model.fc.parameters(), lr=0.01)]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    schedule, found = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS // 2), []
    for k in range(STEPS):
        loss = F.cross_entropy(model(floats(f"x{k}", 8, 3, 8, 8)), classes(f"y{k}", 10, 8))
        (loss / 2).backward()
        found.append(loss.item())
        if k % 2 == 1:
            clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return found

@program
def unet():
    block = lambda i, o: N(lambda m, x: F.silu(m.norm(m.conv(x))), conv=nn.Conv2d(i, o, 3, padding=1), norm=nn.GroupNorm(4, o))
    def call(m, x):
        wide = m.down(x)
        up = m.up(m.middle(F.max_pool2d(wide, 2)))
        return m.head(m.merge(torch.cat([up, wide], 1)))
    mask = classes("mask", 2, 2, 1, 8, 8).float()
    def loss(m, k):
        logits = m(floats(f"x{k % 5}", 2, 1, 8, 8))
        p = logits.sigmoid().flatten(1)
        t = mask.flatten(1)
        dice = 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
        return F.binary_cross_entropy_with_logits(logits, mask) + dice.mean()
    return fit(N(call, down=block(1, 8), middle=block(8, 16), up=nn.ConvTranspose2d(16, 8, 2, 2), merge=block(16, 8), head=nn.Conv2d(8, 1, 1)), adamw(1e-3), loss)

@program
def siamese():
    model = N(lambda m, x: m.fc(F.avg_pool2d(m.conv(x).relu(), 2).flatten(1)), conv=nn.Conv2d(1, 4, 3), fc=nn.Linear(16, 8))
    same = torch.tensor([1., -1, 1, 1, -1, -1])
    return fit(model, sgd(0.05), lambda m, k: F.cosine_embedding_loss(m(floats(f"a{k}", 6, 1, 6, 6)), m(floats(f"b{k}", 6, 1, 6, 6)), same, 0.2))

@program
def lstm():
    model = N(lambda m, x: m.head(m.lstm(m.embed(x))[0]), embed=nn.Embedding(20, 16), lstm=nn.LSTM(16, 16, 2, batch_first=True), head=nn.Linear(16, 20))
    loss = lambda m, k: F.cross_entropy(m(classes(f"x{k % 4}", 20, 4, 12)).flatten(0, 1), classes(f"y{k % 4}", 20, 4, 12).flatten())
    return fit(model, adam(1e-2), loss, lambda p: clip_grad_norm_(p, 1.0))

VOCAB, CONTEXT = 17, 16

def gpt():
    def attend(m, x):
        q, k, v = (part.unflatten(-1, (4, 4)).transpose(1, 2) for part in m.qkv(x).chunk(3, -1))
        return m.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
    def block():
        attn = N(attend, qkv=nn.Linear(16, 48), proj=nn.Linear(16, 16))
        feed = N(lambda m, x: m.proj(F.gelu(m.fc(x))), fc=nn.Linear(16, 64), proj=nn.Linear(64, 16))
        def call(m, x):
            x = x + m.attn(m.ln_1(x))
            return x + m.mlp(m.ln_2(x))
        return N(call, ln_1=nn.LayerNorm(16), attn=attn, ln_2=nn.LayerNorm(16), mlp=feed)
    def call(m, x):
        h = m.wte(x) + m.wpe(torch.arange(x.shape[1]))
        for b in m.blocks:
            h = b(h)
        return m.head(m.norm(h))
    return N(call, wte=nn.Embedding(VOCAB, 16), wpe=nn.Embedding(CONTEXT, 16), blocks=nn.ModuleList([block(), block()]), norm=nn.LayerNorm(16), head=nn.Linear(16, VOCAB))

def gpt_losses(model):
    loss = lambda m, k: F.cross_entropy(m(classes(f"x{k % 4}", VOCAB, 3, CONTEXT)).flatten(0, 1), classes(f"y{k % 4}", VOCAB, 3, CONTEXT).flatten())
    return fit(model, adamw(3e-3), loss)

@program
def checkpoints():
    return gpt_losses(gpt())

@program
def generation():
    model, found = gpt(), []
    gpt_losses(model)
    x = classes("x0", VOCAB, 1, 4)
    with torch.no_grad():
        for _ in range(4, CONTEXT):
            score, best = model(x)[:, -1].log_softmax(-1).max(-1)
            found += [best.item(), score.item()]
            x = torch.cat([x, best[None]], 1)
    return found

@program
def llama():
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(vocab_size=23, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16, rms_norm_eps=1e-6, tie_word_embeddings=False)
    model = LlamaForCausalLM(config).float()
    for name, p in model.named_parameters():
        p.data = weight(name.removeprefix("model."), p.shape).bfloat16().float()
    optimizer, found = adamw(1e-3)(model.parameters()), []
    for k in range(STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(classes(f"x{k % 4}", 23, 2, 10)).logits.flatten(0, 1), classes(f"y{k % 4}", 23, 2, 10).flatten())
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found

@program
def lora():
    def adapted(i, o):
        m = nn.Linear(i, o)
        m.weight.requires_grad_(False), m.bias.requires_grad_(False)
        m.lora_a, m.lora_b = nn.Parameter(torch.zeros(2, i)), nn.Parameter(torch.zeros(o, 2))
        m.forward = lambda x: F.linear(x, m.weight, m.bias) + 2 * F.linear(F.linear(x, m.lora_a), m.lora_b)
        return m
    model = N(lambda m, x: m.two(F.gelu(m.one(x))), one=adapted(6, 16), two=adapted(16, 5))
    optimizer = lambda p: torch.optim.AdamW([q for q in p if q.requires_grad], lr=1e-2)
    return fit(model, optimizer, lambda m, k: F.cross_entropy(m(floats(f"x{k}", 8, 6)), classes(f"y{k}", 5, 8)))

@program
def sizes():
    def call(m, x):
        h = m.one(x).tanh()
        return m.two((h * m.score(h).softmax(1)).sum(1))
    model = N(call, one=nn.Linear(4, 12), score=nn.Linear(12, 1), two=nn.Linear(12, 2))
    return fit(model, sgd(0.1, momentum=0.9), lambda m, k: F.mse_loss(m(floats(f"x{k}", 1 + k % 5, 2 + k % 3, 4)), floats(f"y{k}", 1 + k % 5, 2)))

@program
def folds():
    x, y, found = floats("folds.x", 20, 3), floats("folds.y", 20, 1), []
    for fold in range(5):
        own = slice(4 * fold, 4 * fold + 4)
        rest = [i for i in range(20) if not 4 * fold <= i < 4 * fold + 4]
        model = begin(mlp(3, 16, 1))
        optimizer = adam(1e-2)(model.parameters())
        for k in range(STEPS // 5):
            rows = rest[k % 4 * 4:k % 4 * 4 + 4]
            loss = F.mse_loss(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        found.append(F.mse_loss(model(x[own]), y[own]).item())
    return found

@program
def averages():
    x, y, model = floats("train.x", 8, 3), floats("train.y", 8, 1), begin(mlp(3, 16, 1))
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer, found, best, since = adam(3e-2)(model.parameters()), [], math.inf, 0
    for k in range(STEPS):
        rows = slice(k % 2 * 4, k % 2 * 4 + 4)
        optimizer.zero_grad()
        F.mse_loss(model(x[rows]), y[rows]).backward()
        optimizer.step()
        average.update_parameters(model)
        if k % 5 == 4:
            found.append(F.mse_loss(average(floats("own.x", 8, 3)), floats("own.y", 8, 1)).item())
            best, since = (found[-1], 0) if found[-1] < best else (best, since + 1)
            if since == 2:
                break
    return found

@program
def vae():
    def loss(m, k):
        x, noise = floats(f"x{k % 3}", 8, 20), floats(f"noise{k}", 8, 3)
        mean, log_var = m.code(m.encoder(x).relu()).chunk(2, -1)
        logits = m.out(m.decoder(mean + (0.5 * log_var).exp() * noise).relu())
        seen = F.binary_cross_entropy_with_logits(logits, 0.5 * (x + 1), reduction="sum") / 8
        return seen - 0.5 * (1 + log_var - mean ** 2 - log_var.exp()).sum() / 8
    return fit(N(None, encoder=nn.Linear(20, 16), code=nn.Linear(16, 6), decoder=nn.Linear(3, 16), out=nn.Linear(16, 20)), adam(3e-3), loss)

@program
def gan():
    model = begin(N(None, generator=mlp(4, 16, 2), critic=mlp(2, 16, 1)))
    of = lambda part: torch.optim.Adam(part.parameters(), lr=2e-3, betas=(0.5, 0.999))
    critic, generator, found = of(model.critic), of(model.generator), []
    is_ = lambda x, real: F.binary_cross_entropy_with_logits(x, torch.full_like(x, real))
    for k in range(STEPS):
        real, noise = floats(f"real{k}", 8, 2), floats(f"noise{k}", 8, 4)
        model.zero_grad()
        loss = is_(model.critic(real), 1.) + is_(model.critic(model.generator(noise).detach()), 0.)
        loss.backward()
        critic.step()
        found.append(loss.item())
        model.zero_grad()
        loss = is_(model.critic(model.generator(noise)), 1.)
        loss.backward()
        generator.step()
        found.append(loss.item())
    return found

@program
def spectral():
    model = N(lambda m, x: m.two(F.leaky_relu(m.one(x), 0.2)), one=nn.utils.spectral_norm(nn.Linear(4, 12)), two=nn.utils.spectral_norm(nn.Linear(12, 1)))
    for name, b in model.named_buffers():
        b.data = F.normalize(floats(name, *b.shape), dim=0)
    return fit(model, lambda p: torch.optim.RMSprop(p, lr=1e-3), lambda m, k: F.softplus(m(floats(f"made{k}", 8, 4))).mean() + F.softplus(-m(floats(f"real{k}", 8, 4))).mean())

@program
def pinn():
    def loss(m, k):
        x = floats(f"x{k}", 16, 1).requires_grad_()
        first, = torch.autograd.grad(m(x).sum(), x, create_graph=True)
        second, = torch.autograd.grad(first.sum(), x, create_graph=True)
        ends = m(torch.tensor([[-1.], [1.]]))
        return (second + math.pi ** 2 * torch.sin(math.pi * x)).square().mean() + 10 * ends.square().mean()
    model = N(lambda m, x: m.out(m.two(m.one(x).tanh()).tanh()), one=nn.Linear(1, 12), two=nn.Linear(12, 12), out=nn.Linear(12, 1))
    return fit(model, adam(2e-3), loss)

@program
def hessian():
    plain = lambda m, k: (m(floats(f"x{k % 4}", 8, 3)) - floats(f"y{k % 4}", 8, 1)).square().mean()
    def loss(m, k):
        out, wrt = plain(m, k), list(m.parameters())
        gradient = torch.autograd.grad(out, wrt, create_graph=True)
        products = torch.autograd.grad(sum((g * g.detach()).sum() for g in gradient), wrt, create_graph=True)
        return out + 0.05 * sum((h * g).sum() for h, g in zip(products, gradient))
    return fit(N(lambda m, x: m.two(m.one(x).tanh()), one=nn.Linear(3, 6), two=nn.Linear(6, 1)), sgd(0.05), loss)

@program
def examples_apart():
    model, found = begin(mlp(3, 8, 1)), []
    parameters = list(model.parameters())
    optimizer = sgd(0.2)(parameters)
    for k in range(STEPS):
        x, y = floats(f"x{k}", 8, 3), floats(f"y{k}", 8, 1)
        found.append(F.mse_loss(model(x), y).item())
        for p in parameters:
            p.grad = torch.zeros_like(p)
        for i in range(8):
            gradient = torch.autograd.grad(F.mse_loss(model(x[i]), y[i]), parameters)
            norm = sum(g.square().sum() for g in gradient).sqrt()
            for p, g in zip(parameters, gradient):
                p.grad += g * min(1.0, 0.5 / norm) / 8
        optimizer.step()
    return found

@program
def own_loss():
    def loss(m, k):
        out = m(floats(f"x{k}", 8, 3)).squeeze(-1)
        out = out + ((out * 8).round() / 8 - out).detach()
        error, weights = floats(f"y{k}", 8) - out, floats(f"w{k}", 8).abs()
        size = error.cosh().log()
        return (torch.where(error > 0, 0.9 * size, 0.4 * size) * weights).sum() / weights.sum()
    return fit(mlp(3, 16, 1), sgd(0.1), loss)

@program
def gradients():
    found, model = [], mlp(3, 12, 2)
    def clip(parameters):
        parameters = list(parameters)
        norms.append([p.grad.norm().item() for p in parameters])
        clip_grad_value_(parameters, 0.05)
    norms = []
    losses = fit(model, sgd(0.1, momentum=0.9), lambda m, k: F.smooth_l1_loss(m(floats(f"x{k}", 8, 3)), floats(f"y{k}", 8, 2), beta=0.5), clip)
    return [x for loss, each in zip(losses, norms) for x in [loss, *each]]

@program
def speech():
    def call(m, x, heard):
        h = F.gelu(m.conv(x.mT)).mT
        h = nn.utils.rnn.pack_padded_sequence(h, heard, batch_first=True, enforce_sorted=False)
        h, _ = nn.utils.rnn.pad_packed_sequence(m.rnn(h)[0], batch_first=True, total_length=12)
        return m.out(h).log_softmax(-1).transpose(0, 1)
    def loss(m, k):
        heard, said = torch.tensor([12, 9, 7 + k % 3]), torch.tensor([3, 1 + k % 3, 2])
        return F.ctc_loss(m(floats(f"x{k}", 3, 12, 4), heard), classes(f"y{k}", 5, 3, 3) + 1, heard, said, 0, zero_infinity=True)
    model = N(call, conv=nn.Conv1d(4, 5, 3, padding=1), rnn=nn.GRU(5, 4, bidirectional=True, batch_first=True), out=nn.Linear(8, 6))
    return fit(model, adam(1e-2), loss, lambda p: clip_grad_norm_(p, 1.0))

@program
def tags():
    def loss(m, k):
        x, own = floats(f"x{k}", 3, 6, 4), classes(f"t{k}", 5, 3, 6)
        mask = torch.tensor([[j < 2 + (i + k) % 5 for j in range(6)] for i in range(3)])
        scores = m.emit(x)
        every = scores[:, 0]
        for j in range(1, 6):
            every = torch.where(mask[:, j : j + 1], (every[:, :, None] + m.moves).logsumexp(1) + scores[:, j], every)
        moved = (m.moves[own[:, :-1], own[:, 1:]] * mask[:, 1:]).sum(1)
        return (every.logsumexp(-1) - (scores.gather(-1, own[:, :, None])[:, :, 0] * mask).sum(1) - moved).mean()
    return fit(N(None, emit=nn.Linear(4, 5), moves=nn.Parameter(torch.zeros(5, 5))), adam(1e-2), loss)

@program
def equilibrium():
    def loss(m, k):
        driven = m.drive(floats(f"x{k}", 4, 3))
        step = lambda z: (m.step(z) * 0.5 + driven).tanh()
        with torch.no_grad():
            z, trips = torch.zeros(4, 5), 0
            while (step(z) - z).abs().amax() > 1e-6 and trips < 100:
                z, trips = step(z), trips + 1
        return F.mse_loss(m.out(step(z)), floats(f"y{k}", 4, 2))
    return fit(N(None, drive=nn.Linear(3, 5), step=nn.Linear(5, 5, bias=False), out=nn.Linear(5, 2)), sgd(0.1), loss)

if __name__ == "__main__":
    torch.set_num_threads(1)
    shown = {name: [float(f"{x:.8g}") for x in f()] for name, f in ((n, PROGRAMS[n]) for n in PROGRAMS)}
    print("{\n" + ",\n".join(f" {json.dumps(n)}: {json.dumps(x)}" for n, x in shown.items()) + "\n}")
