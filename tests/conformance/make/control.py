"""Cases of operators that take functions: `python control.py OUT`.

`torch.cond`, `while_loop`, `scan` and `map`, by themselves and within one another. Expected values are those of PyTorch's eager mode,
gradients those of the plain Python loop or branch. Writes `OUT/control/<name>/raw/`.
"""

import io
import json
import pathlib
import sys

import torch
from cases import Program, expectation, initialize, slim
from safetensors.torch import save
from torch._higher_order_ops.map import map as map_rows
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop


def rnn(h, xs, w, u):
    return scan(lambda h, x: ((n := torch.tanh(x @ w + h @ u)), n * 2), h, xs, dim=0)


def rnn_loop(h, xs, w, u):
    ys = []
    for x in xs:
        h = torch.tanh(x @ w + h @ u)
        ys.append(h * 2)
    return h, torch.stack(ys)


def pair(carry, xs):
    def step(c, x):
        a, n = c
        return (a * x["s"] + x["t"], n + 1), (a.clone(), n * 2)

    (a, n), (xs_a, xs_n) = scan(step, (carry, torch.zeros(2, dtype=torch.int64)), {"s": xs, "t": xs.sin()}, dim=0, reverse=True)
    return a, n, xs_a, xs_n


def pair_loop(carry, xs):
    a, n, all_a, all_n = carry, torch.zeros(2, dtype=torch.int64), [], []
    for x in reversed(xs):
        all_a.append(a)
        all_n.append(n * 2)
        a, n = a * x + x.sin(), n + 1
    return a, n, torch.stack(all_a[::-1]), torch.stack(all_n[::-1])


def branch(x, w):
    return torch.cond(x.sum() > 0, lambda x, w: (x @ w).sin(), lambda x, w: (x.cos() * 2) @ w.T, (x, w))


def branch_plain(x, w):
    return (x @ w).sin() if x.sum() > 0 else (x.cos() * 2) @ w.T


def halved(x):
    return while_loop(lambda n, x: (x.abs().max() > 0.1) & (n < 20), lambda n, x: (n + 1, x * 0.5), (torch.tensor(0), x))


def halved_plain(x):
    n = 0
    while x.abs().max() > 0.1 and n < 20:
        n, x = n + 1, x * 0.5
    return torch.tensor(n), x


def branches_in_a_scan(s, xs):
    def step(s, x):
        n = torch.cond(x.sum() > 0, lambda s, x: s * x, lambda s, x: s - x, (s, x))
        return n, n.clone()

    return scan(step, s, xs, dim=0)


def branches_in_a_loop(s, xs):
    ys = []
    for x in xs:
        s = s * x if x.sum() > 0 else s - x
        ys.append(s)
    return s, torch.stack(ys)


def rows(xs, y):
    return map_rows(lambda x, y: (x @ y).softmax(-1), xs, y)


def rows_loop(xs, y):
    return torch.stack([(x @ y).softmax(-1) for x in xs])


# The program, the same in plain Python, its tensors, and whether it has gradients.
PROGRAMS = {
    "scan": (rnn, rnn_loop, lambda: [torch.randn(2, 3), torch.randn(5, 2, 4), torch.randn(4, 3), torch.randn(3, 3)], True),
    "scan_pairs_in_reverse": (pair, pair_loop, lambda: [torch.randn(2), torch.randn(4, 2)], True),
    "cond_true": (branch, branch_plain, lambda: [torch.rand(3, 3), torch.randn(3, 3)], True),
    "cond_false": (branch, branch_plain, lambda: [-torch.rand(3, 3), torch.randn(3, 3)], True),
    "while_loop": (halved, halved_plain, lambda: [torch.randn(3)], False),
    "cond_in_scan": (branches_in_a_scan, branches_in_a_loop, lambda: [torch.randn(2), torch.randn(6, 2)], True),
    "map": (rows, rows_loop, lambda: [torch.randn(4, 2, 3), torch.randn(3, 3)], True),
}


def write(folder, name, function, loop, tensors, differentiable):
    program = torch.export.export(Program(function), tuple(tensors), strict=False)
    archive = io.BytesIO()
    torch.export.save(program, archive)
    expected = expectation(Tensors(loop), tensors, differentiable)
    facts = {"op": name, "scope": "extended", "ops": sorted({str(n.target) for n in program.graph.nodes if n.op == "call_function"})}
    place = folder / "control" / name / "raw"
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.pt2").write_bytes(slim(archive.getvalue()))
    (place / "expected.safetensors").write_bytes(save({k: v.contiguous() for k, v in expected.items()}))
    (place / "meta.json").write_text(json.dumps({**facts, "grad": any(k.startswith("grad.") for k in expected)}) + "\n")


class Tensors(Program):
    """A function whose results are a tuple of tensors."""

    def forward(self, *tensors):
        results = self.function(*tensors)
        return results if isinstance(results, tuple) else (results,)


if __name__ == "__main__":
    initialize()
    torch.manual_seed(0)
    for name, (function, loop, tensors, differentiable) in PROGRAMS.items():
        write(pathlib.Path(sys.argv[1]), name, function, loop, tensors(), differentiable)
