"""Writes expected.json: what PyTorch's optimizers, clipping, averages and schedules give for the programs of tests/optimizers.rs.

Everything is computed in f64, so that a difference is ours. Lion and LAMB are not in PyTorch; they follow their papers. Muon iterates
in bf16 in PyTorch; `muon` has that conversion taken out, `muon_bf16` has it. Run with torch 2.11: python make.py > expected.json
"""

import json
import math
import torch
from torch import optim
from torch.optim import lr_scheduler as rates

torch.set_default_dtype(torch.float64)
STEPS = 50


def wave(count, scale, shift):
    """Numbers that look irregular, rounded to f32, as the test has them."""
    return torch.tensor([math.sin(scale * i + shift) for i in range(count)]).float().double()


def parameters():
    return {
        "w": wave(12, 2.3, 0.5).reshape(3, 4).requires_grad_(),
        "v": wave(12, 1.9, 1.5).reshape(4, 3).requires_grad_(),
        "b": wave(4, 3.1, 0.2).requires_grad_(),
    }


def loss(p, step):
    x, y = wave(15, 1.7, step).reshape(5, 3), wave(15, 2.9, 0.3 * step).reshape(5, 3)
    return ((torch.tanh(x @ p["w"] + p["b"]) @ p["v"] - y) ** 2).mean()


class Lion(optim.Optimizer):
    """Algorithm 2 of Chen et al., 2023."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                beta1, beta2 = group["betas"]
                c = beta1 * m + (1 - beta1) * p.grad
                p -= group["lr"] * (c.sign() + group["weight_decay"] * p)
                m.mul_(beta2).add_(p.grad, alpha=1 - beta2)


class Lamb(optim.Optimizer):
    """Algorithm 2 of You et al., 2020, with the identity for phi."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                s = self.state[p]
                s["t"] = s.get("t", 0) + 1
                m, v = s.setdefault("m", torch.zeros_like(p)), s.setdefault("v", torch.zeros_like(p))
                beta1, beta2 = group["betas"]
                m.mul_(beta1).add_(p.grad, alpha=1 - beta1)
                v.mul_(beta2).add_(p.grad**2, alpha=1 - beta2)
                r = (m / (1 - beta1 ** s["t"])) / ((v / (1 - beta2 ** s["t"])).sqrt() + group["eps"])
                r += group["weight_decay"] * p
                ratio = p.norm() / r.norm() if p.norm() > 0 and r.norm() > 0 else 1.0
                p -= group["lr"] * ratio * r


def run(make, clip=None, each=1, average=None, schedule=None):
    p = parameters()
    optimizers = make(p)
    scheduler = schedule(optimizers[0]) if schedule else None
    losses, mean = [], None
    for step in range(1, STEPS + 1):
        found = loss(p, step)
        losses.append(found.item())
        (found / each).backward()
        if step % each:
            continue
        if clip:
            clip([q for q in p.values() if q.grad is not None])
        for o in optimizers:
            o.step()
        if scheduler:
            scheduler.step()
        for q in p.values():
            q.grad = None
        with torch.no_grad():
            if average is not None:
                now = {n: q.detach().clone() for n, q in p.items()}
                mean = now if mean is None else {n: average * mean[n] + (1 - average) * now[n] for n in now}
    out = {n: [round(x, 8) for x in q.flatten().tolist()] for n, q in p.items()}
    out["loss"] = [round(losses[i], 8) for i in (0, 9, 24, 49)]
    if mean is not None:
        out["average"] = {n: [round(x, 8) for x in q.flatten().tolist()] for n, q in mean.items()}
    return out


def whole(kind, **settings):
    return lambda p: [kind(list(p.values()), **settings)]


def muon(p, **settings):
    return [optim.Muon([p["w"], p["v"]], **settings), optim.AdamW([p["b"]], lr=settings["lr"] / 2, weight_decay=0.05)]


def groups(p):
    p["b"].requires_grad_(False)
    return [optim.AdamW([{"params": [p["w"]], "lr": 0.01, "weight_decay": 0.0}, {"params": [p["v"]]}], lr=0.02, weight_decay=0.1)]


def recipe(p):
    bare = {"params": [p["w"], p["b"]], "lr": 0.02, "weight_decay": 0.0}
    return [optim.AdamW([bare, {"params": [p["v"]], "lr": 0.01, "weight_decay": 0.1}])]


warm_cosine = lambda o: rates.SequentialLR(o, [rates.LinearLR(o, 0.2, 1.0, 4), rates.CosineAnnealingLR(o, 20)], milestones=[4])
bf16 = run(lambda p: muon(p, lr=0.01, weight_decay=0.1))
converted, torch.Tensor.bfloat16 = torch.Tensor.bfloat16, torch.Tensor.clone
lamb = lambda p: [Lamb(list(p.values()), dict(lr=0.02, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01))]
lion = lambda p: [Lion(list(p.values()), dict(lr=0.003, betas=(0.9, 0.99), weight_decay=0.1))]
expected = {
    "sgd": run(whole(optim.SGD, lr=0.1, weight_decay=0.01)),
    "sgd_momentum": run(whole(optim.SGD, lr=0.05, momentum=0.9, dampening=0.2, weight_decay=0.01)),
    "sgd_nesterov": run(whole(optim.SGD, lr=0.05, momentum=0.9, nesterov=True)),
    "adam": run(whole(optim.Adam, lr=0.02, weight_decay=0.01)),
    "adam_amsgrad": run(whole(optim.Adam, lr=0.02, betas=(0.8, 0.95), amsgrad=True)),
    "adamw": run(whole(optim.AdamW, lr=0.02, weight_decay=0.1)),
    "adamax": run(whole(optim.Adamax, lr=0.02, weight_decay=0.01)),
    "nadam": run(whole(optim.NAdam, lr=0.02, weight_decay=0.01)),
    "nadam_decoupled": run(whole(optim.NAdam, lr=0.02, weight_decay=0.1, momentum_decay=0.02, decoupled_weight_decay=True)),
    "radam": run(whole(optim.RAdam, lr=0.05, weight_decay=0.01)),
    "radam_decoupled": run(whole(optim.RAdam, lr=0.05, betas=(0.8, 0.95), weight_decay=0.1, decoupled_weight_decay=True)),
    "rmsprop": run(whole(optim.RMSprop, lr=0.01, weight_decay=0.01)),
    "rmsprop_centered": run(whole(optim.RMSprop, lr=0.005, alpha=0.95, momentum=0.8, centered=True)),
    "adagrad": run(whole(optim.Adagrad, lr=0.1, lr_decay=0.02, initial_accumulator_value=0.1, weight_decay=0.01)),
    "adadelta": run(whole(optim.Adadelta, lr=1.0, weight_decay=0.01)),
    "adafactor": run(whole(optim.Adafactor, lr=0.1, eps=(torch.finfo(torch.float32).eps, 1e-3), weight_decay=0.1)),
    "adafactor_clip": run(whole(optim.Adafactor, lr=0.2, beta2_decay=-0.6, eps=(1e-3, 0.1), d=2.0)),
    "lion": run(lion),
    "lamb": run(lamb),
    "muon": run(lambda p: muon(p, lr=0.01, weight_decay=0.1)),
    "muon_bf16": bf16,
    "muon_adamw": run(lambda p: muon(p, lr=0.01, weight_decay=0.1, nesterov=False, ns_steps=3, adjust_lr_fn="match_rms_adamw")),
    "clip_norm": run(whole(optim.SGD, lr=0.1), clip=lambda p: torch.nn.utils.clip_grad_norm_(p, 0.3)),
    "clip_value": run(whole(optim.SGD, lr=0.1), clip=lambda p: torch.nn.utils.clip_grad_value_(p, 0.05)),
    "groups": run(groups),
    "accumulate": run(whole(optim.AdamW, lr=0.02, weight_decay=0.1), clip=lambda p: torch.nn.utils.clip_grad_norm_(p, 0.3), each=5),
    "average": run(whole(optim.SGD, lr=0.1), average=0.9),
    "recipe": run(recipe, clip=lambda p: torch.nn.utils.clip_grad_norm_(p, 0.3), each=2, average=0.9, schedule=warm_cosine),
    "accumulate_average": run(whole(optim.SGD, lr=0.1, momentum=0.9, dampening=0.5), each=2, average=0.8),
}


def schedule(make, base=0.5):
    o = optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    s = make(o)
    out = []
    for _ in range(60):
        out.append(float(f"{o.param_groups[0]['lr']:.9g}"))
        o.step()
        s.step()
    return out


def plateau(**settings):
    o = optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    s = rates.ReduceLROnPlateau(o, **settings)
    out = []
    for k in range(60):
        s.step(1.0 / (1 + min(k, 12)) + 0.02 * math.sin(k))
        out.append(float(f"{o.param_groups[0]['lr']:.9g}"))
    return out


sequence = lambda o: rates.SequentialLR(
    o, [rates.LinearLR(o, 0.1, 1.0, 9), rates.ConstantLR(o, 1.0, 1), rates.ExponentialLR(o, 0.9)], milestones=[9, 20]
)
schedules = {
    "linear": schedule(lambda o: rates.LinearLR(o, 0.25, 0.75, 20)),
    "cosine": schedule(lambda o: rates.CosineAnnealingLR(o, 59, 0.05)),
    "restarts": schedule(lambda o: rates.CosineAnnealingWarmRestarts(o, 7, 2, 0.05)),
    "one_cycle": schedule(lambda o: rates.OneCycleLR(o, 0.5, 60)),
    "one_cycle_linear": schedule(lambda o: rates.OneCycleLR(o, 0.5, 60, pct_start=0.4, anneal_strategy="linear", div_factor=10, final_div_factor=100)),
    "step": schedule(lambda o: rates.StepLR(o, 7, 0.5)),
    "multi_step": schedule(lambda o: rates.MultiStepLR(o, [5, 30, 31], 0.1)),
    "exponential": schedule(lambda o: rates.ExponentialLR(o, 0.95)),
    "polynomial": schedule(lambda o: rates.PolynomialLR(o, 40, 2.0)),
    "sequence": schedule(sequence),
    "plateau": plateau(factor=0.5, patience=3, cooldown=2, min_lr=0.02),
    "plateau_max": plateau(mode="max", threshold=0.01, threshold_mode="abs", patience=5),
}
lines = [f'"{name}": {json.dumps(value)}' for name, value in (expected | {"schedules": schedules}).items()]
print("{\n" + ",\n".join(lines) + "\n}")
