"""Cases for attributes of ATen operators and for what stops gradients, computed by PyTorch (2.11, on the CPU).

    python attributes.py OPERATORS OUT [--filter NAME]    one attribute of one operator at a time at values beside its default
    python attributes.py --programs OUT                   programs that detach, switch gradients off, cast automatically, ...

OPERATORS is a file with one overload a line, such as `add.Tensor`: those that the importer accepts (the names in
`src/frontend/torch_export/aten/`). Calls to begin with are found in PyTorch's own operator samples, exported; then each argument
that is no tensor takes other values, and optional tensors are left out. A variant is kept when PyTorch accepts it and its outputs
or gradients differ from those of the original call. Each case is a folder `<operator>/<argument>_<k>/raw` (as exported) and
`dec` (decomposed), in the layout that `inductor check` reads. `../attributes` is a selection of the former, without the last folder,
`../programs` all of the programs.
"""

import argparse
import collections
import io
import json
import math
import os
import pathlib
import sys
import warnings
import zipfile

import torch
from safetensors.torch import save_file

from cases import Program

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
KEPT_METADATA = ("nn_module_stack", "torch_fn")


class Call(torch.nn.Module):
    """One operator with everything but its tensors fixed; tensors come as inputs in the order in which they occur."""

    def __init__(self, overload, arguments):
        super().__init__()
        self.overload, self.arguments = overload, arguments

    def forward(self, *tensors):
        left = list(tensors)
        fill = lambda x: left.pop(0) if x is SLOT else [fill(y) for y in x] if isinstance(x, list) else x
        return self.overload(**{name: fill(x) for name, x in self.arguments.items()})


SLOT = object()


def flat(result):
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, (list, tuple)):
        return [t for part in result for t in flat(part)]
    return []


def fresh(tensors, grad=True):
    copies = [t.detach().clone() for t in tensors]
    return [t.requires_grad_(grad and t.is_floating_point()) for t in copies]


def evaluate(module, tensors):
    """Outputs, cotangents, gradients of inputs and of parameters."""
    inputs = fresh(tensors)
    module.zero_grad()
    # What writes into its argument cannot write into a leaf.
    outputs = flat(module(*[t.clone() if getattr(module, "clones", False) else t for t in inputs]))
    generator = torch.Generator().manual_seed(7)
    cotangents = {}
    for i, out in enumerate(outputs):
        if out.requires_grad and out.is_floating_point():
            cotangents[i] = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    grads = {}
    parameters = [p for p in module.parameters() if p.requires_grad]
    wanted = [t for t in inputs if t.requires_grad] + parameters
    if cotangents and wanted:
        found = torch.autograd.grad([outputs[i] for i in cotangents], wanted, list(cotangents.values()), allow_unused=True)
        found = [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found)]
        grads = {f"grad.{i}": g for i, g in zip([i for i, t in enumerate(inputs) if t.requires_grad], found)}
        names = [n for n, p in module.named_parameters() if p.requires_grad]
        grads.update({f"grad.{n}": g for n, g in zip(names, found[len(found) - len(names):])})
    return outputs, cotangents, grads


def slim(data):
    """The archive without sample inputs and long metadata."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = old.read(name)
            if "sample_inputs" in name or name.endswith((".data/serialization_id", "/.format_version")):
                continue
            if name.endswith("models/model.json"):
                content = json.dumps(strip(json.loads(content)), separators=(",", ":")).encode()
            new.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def strip(x):
    if isinstance(x, dict):
        return {k: ({n: m for n, m in v.items() if n in KEPT_METADATA} if k == "metadata" else strip(v)) for k, v in x.items()}
    return [strip(y) for y in x] if isinstance(x, list) else x


def write(folder, program, tensors, result):
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    (folder / "model.pt2").write_bytes(slim(buffer.getvalue()))
    outputs, cotangents, grads = result
    tensors = {f"input.{i}": t for i, t in enumerate(tensors)}
    tensors.update({f"output.{i}": t for i, t in enumerate(outputs)})
    tensors.update({f"cotangent.{i}": t for i, t in cotangents.items()})
    tensors.update(grads)
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, str(folder / "expected.safetensors"))
    (folder / "meta.json").write_text(json.dumps({"grad": bool(grads), "scope": "core"}))


def case(folder, module, tensors, decomposed=True):
    """Writes the case in both forms; says why where PyTorch itself does not export it."""
    try:
        result = evaluate(module, tensors)
        program = torch.export.export(module, tuple(fresh(tensors, grad=getattr(module, "grads", False))), strict=False)
        write(folder / "raw", program, tensors, result)
        if decomposed:
            write(folder / "dec", program.run_decompositions(), tensors, result)
    except Exception as error:
        print(f"{folder}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", file=sys.stderr)


# ---- calls of operators, with one attribute changed ----

TEXTS = {
    "rounding_mode": ["floor", "trunc"],
    "approximate": ["none", "tanh"],
    "reduce": ["sum", "prod", "mean", "amax", "amin", "add", "multiply"],
    "padding": ["same", "valid"],
    "mode": ["constant", "reflect", "replicate", "circular"],
    "indexing": ["ij", "xy"],
    "side": ["left", "right"],
    "ord": ["fro", "nuc"],
}
TAKEN = {"device", "layout", "pin_memory", "memory_format", "generator", "out", "non_blocking"}
# Random draws, and what holds what memory held.
RANDOM = ("empty", "new_empty", "resize", "bernoulli", "cauchy", "dropout", "exponential", "geometric", "log_normal", "multinomial", "normal", "rand", "rrelu", "uniform")
LARGEST = 400


class Recorder(torch.fx.Interpreter):
    """Runs an exported program and keeps the calls of operators with their arguments."""

    def __init__(self, module, wanted, calls):
        super().__init__(module)
        self.wanted, self.calls = wanted, calls

    def call_function(self, target, args, kwargs):
        if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
            name = f"{target._schema.name.removeprefix('aten::')}.{target._overloadname}"
            if name in self.wanted and len(self.calls[name]) < 3:
                given = {a.name: v for a, v in zip(target._schema.arguments, args)} | dict(kwargs)
                if all(t.numel() <= LARGEST for t in flat(list(given.values()))):
                    self.calls[name].append((target, given))
        return super().call_function(target, args, kwargs)


def recorded_calls(wanted):
    from torch.testing._internal.common_methods_invocations import op_db

    calls = collections.defaultdict(list)
    for info in op_db:
        if torch.float32 not in info.dtypes:
            continue
        torch.manual_seed(0)
        try:
            samples = [s for s, _ in zip(info.sample_inputs("cpu", torch.float32), range(6))]
        except Exception:
            continue
        for sample in samples:
            record(info, sample, wanted, calls)
    return calls


def record(info, sample, wanted, calls):
    leaves, spec = torch.utils._pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    class Sample(torch.nn.Module):
        def forward(self, *tensors):
            filled = list(leaves)
            for i, t in zip(places, tensors):
                filled[i] = t
            first, args, kwargs = torch.utils._pytree.tree_unflatten(filled, spec)
            return info.op(first, *args, **kwargs)

    tensors = tuple(leaves[i].detach().clone() for i in places)
    try:
        program = torch.export.export(Sample(), tensors, strict=False)
        Recorder(program.module(), wanted, calls).run(*tensors)
    except Exception:
        pass  # A sample that PyTorch itself does not export says nothing about attributes.


def alternatives(argument, value, tensors):
    """Other values of an argument, likely ones first."""
    kind = str(argument.type)
    if "Tensor" in kind:
        if "Optional" not in kind:
            return []
        if value is not None:
            return [None]
        first = tensors[0]
        sizes = [first.shape[1:2], first.shape[-1:], first.shape[:1], first.shape]
        return [torch.rand(s, generator=torch.Generator().manual_seed(3)).to(first.dtype) for s in sizes if first.is_floating_point()]
    if argument.name == "dtype":
        return [torch.float64, torch.float16, torch.int32]
    inner = value if value is not None else argument.default_value
    none = [None] if "Optional" in kind and value is not None else []
    if "bool" in kind and "List" not in kind:
        return [not inner, True, False]
    if "str" in kind:
        return [t for t in TEXTS.get(argument.name, []) if t != value] + none
    if "List[int]" in kind or "List[Optional[int]]" in kind or "SymInt" in kind and isinstance(inner, (list, tuple)):
        base = list(inner) if isinstance(inner, (list, tuple)) else [0]
        return [[b + 1 for b in base], [max(b - 1, 0) for b in base], [1] * len(base), [-1], [0, 1], [2, 1]] + none
    if "List[float]" in kind:
        return [[1.5] * len(inner or [0]), [2.0] * len(inner or [0])] + none
    if "int" in kind and "List" not in kind or isinstance(inner, int) and not isinstance(inner, bool) and "number" not in kind:
        base = inner if isinstance(inner, int) else 0
        return [base + 1, base - 1, 0, 1, 2, -1] + none
    base = float(inner) if isinstance(inner, (int, float)) else 1.0
    return [base * 0.5 + 0.3, 2.0, 0.0, -0.5, 3, math.inf] + none


def bound(overload, given):
    """The call as a module, and its tensors."""
    tensors = []

    def cut(x):
        if isinstance(x, torch.Tensor):
            tensors.append(x.detach().clone())
            return SLOT
        return [cut(y) for y in x] if isinstance(x, (list, tuple)) else x

    return Call(overload, {name: cut(v) for name, v in given.items()}), tensors


def differs(a, b):
    a, b = [flat(list(r[0])) + list(r[2].values()) for r in (a, b)]
    same = len(a) == len(b) and all(x.shape == y.shape and x.dtype == y.dtype and torch.equal(torch.nan_to_num(x), torch.nan_to_num(y)) for x, y in zip(a, b))
    return not same


def variants(overload, given):
    """Argument, number, module, tensors: calls with one argument changed whose result or gradient changes, two an argument."""
    call, tensors = bound(overload, given)
    try:
        original = evaluate(call, tensors)
    except Exception:
        return
    for argument in overload._schema.arguments:
        # Of unsorted results any order is right.
        if argument.name in TAKEN or argument.name in ("dropout_p", "sorted"):
            continue
        found = 0
        for value in alternatives(argument, given.get(argument.name), tensors):
            call, changed = bound(overload, {**given, argument.name: value})
            try:
                result = evaluate(call, changed)
            except Exception:
                continue  # PyTorch refuses this value.
            small = all(t.numel() <= 4 * LARGEST and not t.is_complex() for t in result[0])
            if result[0] and small and differs(original, result):
                yield argument.name, found, call, changed
                found += 1
            if found == 2:
                break


def operators(names, out, only):
    wanted = {n for n in names if only in n and not n.startswith(RANDOM) and "dropout" not in n}
    for name, calls in sorted(recorded_calls(wanted).items()):
        # Values that PyTorch does not check may end the process.
        child = os.fork()
        if child == 0:
            one_operator(out / name, calls)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            print(f"{name}: PyTorch ended the process", file=sys.stderr)


def one_operator(folder, calls):
    for k, (overload, given) in enumerate(calls[:2]):
        for argument, number, call, tensors in variants(overload, given):
            case(folder / f"{argument}_{2 * k + number}", call, tensors, decomposed=number == 0 and k == 0)


# ---- programs ----


def programs():
    """Name, function, inputs, and whether the decomposed form has these gradients too."""
    F = torch.nn.functional
    x = lambda *s: torch.randn(*s, generator=torch.Generator().manual_seed(sum(s) + len(s)))
    found = []
    add = lambda f, *inputs, dec=False: found.append((f.__name__, f, inputs, dec))

    def detach_default(a):
        return a.detach() * a

    def detach_alias(a):
        b = a.detach()
        return b.view(-1) * a.view(-1) + b.alias() * 2 if hasattr(b, "alias") else b.view(-1) * a.view(-1)

    def detach_view_of(a):
        return a.t().detach()[0] * a[0].sum() + a[1]

    def grouped_rows(a, b):
        # The second group is empty.
        return torch._grouped_mm(a, b, offs=torch.tensor([2, 2, 5], dtype=torch.int32))

    def detach_inplace(a):
        b = a * 2
        c = b.exp()
        b.detach_()
        return b * a + c

    def detach_written(a):
        b = a * 1
        b.detach().mul_(3)
        return b * b

    def view_of_detached_written(a):
        b = a * 1
        b.detach()[1:].zero_()
        return b * a

    def no_grad_value(a):
        with torch.no_grad():
            b = a.exp()
        return b * a

    def no_grad_chain(a):
        with torch.no_grad():
            b = a.exp()
            c = b * a
        return c * a + b

    def no_grad_view(a):
        with torch.no_grad():
            b = a.t()
            c = a[1:]
        return (b.t() * a).sum() + (c * 2 * a[:1]).sum()

    def no_grad_enable_grad(a):
        with torch.no_grad():
            b = a.exp()
            with torch.enable_grad():
                c = a.sin() * b
            d = c * 2
        return c * a + d * a + b

    def no_grad_write(a):
        b = a * 2
        with torch.no_grad():
            b.mul_(3)
            b[0] = 1.0
        return b * a

    def no_grad_write_view(a):
        b = a * 2
        c = b[1:]
        with torch.no_grad():
            c.clamp_(min=0.0)
        return b * a

    def set_grad_enabled(a):
        previous = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        b = a.exp() * a
        torch.set_grad_enabled(previous)
        return b * a

    def set_grad_enabled_within(a):
        with torch.set_grad_enabled(False):
            b = a * a
        return b * a

    def no_grad_all(a):
        with torch.no_grad():
            b = a.exp()
        return b, a * 2

    def no_grad_through(a):
        with torch.no_grad():
            b = a.view(-1)
        return b * 2 + a.view(-1)

    def straight_through(a):
        q = torch.round(a)
        return a + (q - a).detach()

    def stop_in_max(a):
        m = a.max(dim=1, keepdim=True).values.detach()
        return (a - m).exp().sum(1).log() + m.squeeze(1)

    add(grouped_rows, x(5, 8).bfloat16(), x(3, 8, 8).bfloat16())
    for f in (detach_default, detach_alias, detach_view_of, detach_inplace, detach_written, view_of_detached_written,
              no_grad_value, no_grad_chain, no_grad_view, no_grad_enable_grad, no_grad_write, no_grad_write_view, set_grad_enabled, set_grad_enabled_within,
              no_grad_all, no_grad_through, straight_through, stop_in_max):
        add(f, x(3, 3))
    integers = torch.tensor([1, -5, 2**54 + 1, -(2**62)])
    named = lambda name, f, *inputs, dec=True: found.append((name, f, inputs, dec))
    named("constant_add", lambda a: a + (2**53 + 1), integers[:2])
    named("constant_eq", lambda a: a == 2**54 + 1, integers)
    named("constant_full", lambda a: torch.full((4,), -(2**55) - 3) + a // 2, integers)
    named("constant_where", lambda a: torch.where(a > 0, a, 2**60 + 7), integers)
    named("constant_clamp", lambda a: a.clamp(min=-(2**61) - 1, max=2**54 - 1), integers)
    named("constant_tensor", lambda a: a + torch.tensor([2**53 + 1, 2**53 + 3, 5, 7]), integers)
    named("avg_pool_negative", lambda a: F.avg_pool1d(a, 2), torch.tensor([[-5, 2, -3, -4, 7, 0]]))
    named("interpolate_f64", lambda a: F.interpolate(a, size=7, mode="linear"), x(1, 2, 3).double())
    named("interpolate_cubic_f64", lambda a: F.interpolate(a, scale_factor=1.7, mode="bicubic"), x(1, 1, 4, 3).double())
    named("bce_ends", lambda a, b: F.binary_cross_entropy(a, b), torch.tensor([0.0, 1.0, 0.3, 1.0]), torch.tensor([1.0, 0.0, 0.4, 1.0]), dec=False)
    named("std_of_equal", lambda a: a.std(1), torch.ones(2, 3), dec=False)
    named("amax_nan_and_infinite", lambda a: a.amax(1), torch.tensor([[1.0, math.nan, 2.0], [math.inf, 1.0, math.inf], [2.0, 2.0, 1.0]]))
    named("unpool_same_place", lambda a, i: F.max_unpool1d(a, i, 2), x(1, 2, 2), torch.tensor([[[1, 1], [0, 2]]]))
    named("scatter_same_place", lambda a, s, i: a.scatter(0, i, s), x(4), x(3), torch.tensor([1, 1, 2]))
    named("repeats", lambda a, r: torch.repeat_interleave(a, r, dim=0, output_size=6), x(3, 2), torch.tensor([1, 3, 2]))
    named("dropout_off", lambda a: F.dropout(a * 1, inplace=True, training=False) + F.alpha_dropout(a * 2, inplace=True, training=False), x(4))
    named("rrelu_off", lambda a: F.rrelu(a), x(6))
    named("log_ndtr_far", lambda a: torch.special.log_ndtr(a), torch.tensor([-40.0, -6.0, -1.0, 0.0, 5.0]))
    named("ndtri", lambda a: torch.special.ndtri(a), torch.tensor([1e-8, 0.1, 0.5, 0.7, 0.999]).double())
    named("erfinv", lambda a: torch.erfinv(a), torch.tensor([-0.999, -0.5, 0.1, 0.9]).double())
    named("bessel", lambda a: torch.special.bessel_j0(a) + torch.special.bessel_y1(a) + torch.special.modified_bessel_k1(a), torch.tensor([0.1, 3.0, 30.0]))
    named("airy", lambda a: torch.special.airy_ai(a), torch.tensor([-30.0, -8.0, -2.0, 0.5, 4.0]))
    named("zeta", lambda a, q: torch.special.zeta(a.detach(), q), torch.tensor([1.5, 3.0, 9.0]).double(), torch.tensor([0.3, 5.0, 20.0]).double())
    named("laguerre", lambda a, n: torch.special.laguerre_polynomial_l(a, n), x(5), torch.tensor([-1.0, 0.0, 1.0, 4.0, 9.0]))
    named("shifted_chebyshev", lambda a: torch.special.shifted_chebyshev_polynomial_w(a, 4), x(5))
    return found + modules(x)


def modules(x):
    """Modules of which parameters have gradients, too."""
    nn = torch.nn

    class Casts(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, a, b):
            with torch.autocast("cpu", torch.bfloat16):
                y = self.linear(a)
                with torch.autocast("cpu", enabled=False):
                    z = self.linear(a)
                loss = nn.functional.mse_loss(y, b)
                joined = torch.cat([y, b])
            return joined.float().softmax(1).sum(0) + z.sum(0), loss

    class States(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4, num_layers=2)

        def forward(self, a):
            y, (h, c) = self.lstm(a)
            return y, h, c

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, a):
            return self.out(self.lstm(a)[1][0][-1])

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.out = nn.LSTM(3, 4, bidirectional=True), nn.Linear(8, 2)

        def forward(self, a):
            y, (h, c) = self.lstm(a)
            joined, other = torch.cat([h[-2], h[-1]], dim=-1), torch.cat([h[-2], h[-1]], dim=1)
            return self.out(joined), other, h.mean(1), (y * c.reshape(2, 8)).sum(0), h.unbind(0)[1]

    def frozen():
        module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        module[0].weight.requires_grad_(False)
        return module

    torch.manual_seed(0)
    return [
        ("autocast", Casts(), (x(2, 4), x(2, 3)), False),
        ("lstm_states", States(), (x(5, 2, 3),), True),
        ("lstm_last", Last(), (x(2, 5, 3),), True),
        ("lstm_both", Both(), (x(2, 2, 3),), True),
        ("weight_norm", nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), (x(2, 3),), True),
        ("weight_norm_dim", nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 2, 2), dim=1), (x(1, 3, 4),), True),
        ("batch_norm_bf16", nn.BatchNorm1d(3).bfloat16(), (x(4, 3).bfloat16(),), True),
        ("batch_norm_f16_still", nn.BatchNorm1d(3).half().eval(), (x(4, 3).half(),), True),
        ("frozen", frozen(), (x(2, 3),), True),
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("operators", nargs="?")
    parser.add_argument("out")
    parser.add_argument("--programs", action="store_true")
    parser.add_argument("--filter", default="")
    options = parser.parse_args()
    out = pathlib.Path(options.out)
    if not options.programs:
        operators(pathlib.Path(options.operators).read_text().split(), out, options.filter)
    else:
        for name, function, inputs, decomposed in programs():
            if options.filter in name:
                case(out / name, function if isinstance(function, torch.nn.Module) else Program(function), inputs, decomposed)


if __name__ == "__main__":
    main()
