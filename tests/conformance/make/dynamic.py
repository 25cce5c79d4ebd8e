"""Cases of symbolic sizes: `python dynamic.py OUT [--filter head]`.

Each program is exported once, with every size marked that may differ, and compared at other sizes than it was exported with. Their
relations are those that PyTorch itself assumes: an index may have fewer rows than what it indexes, a slice ends inside.
Writes `OUT/dynamic/<name>/<raw or dec>/`.
"""

import io
import json
import logging

import torch
from safetensors.torch import save
from torch.export import Dim

from cases import Program, chosen, cotangent, plain, slim

AUTO = Dim.AUTO


def rows(*counts):
    """Floats of three columns."""
    return [torch.randn(n, 3) for n in counts]


def index(n, columns, below=3):
    return torch.randint(0, below, (n, columns))


# The function, the tensors it is exported with, those it is compared at, and for each the dimensions that may differ.
PROGRAMS = {
    "head": (lambda x, y: x[: y.shape[0]] + y, lambda: rows(7, 5), lambda: rows(9, 2), [0, 0]),
    "head_equal": (lambda x, y: x[: y.shape[0]] + y, lambda: rows(7, 5), lambda: rows(4, 4), [0, 0]),
    "tail": (lambda x, y: x[-y.shape[0] :] * y, lambda: rows(7, 5), lambda: rows(9, 2), [0, 0]),
    "narrow": (lambda x, y: x.narrow(0, 0, y.shape[0]) * y, lambda: rows(7, 5), lambda: rows(9, 2), [0, 0]),
    "two_heads": (
        lambda x, y, z: (x[: y.shape[0]] * y).sum() + (x[: z.shape[0]] * z).sum(),
        lambda: rows(9, 5, 6),
        lambda: rows(9, 8, 2),
        [0, 0, 0],
    ),
    "gather": (lambda x, i: torch.gather(x, 1, i), lambda: [*rows(7), index(5, 4)], lambda: [*rows(6), index(4, 4)], [0, 0]),
    "gather_same": (lambda x, i: torch.gather(x, 1, i) + x, lambda: [*rows(7), index(7, 3)], lambda: [*rows(4), index(4, 3)], [0, 0]),
    "gather_twice": (
        lambda x, i: torch.gather(x, 1, i).sum() + (torch.gather(x * x, 1, i) * x[: i.shape[0]]).sum(),
        lambda: [*rows(7), index(5, 3)],
        lambda: [*rows(6), index(4, 3)],
        [0, 0],
    ),
    "scatter_add": (
        lambda x, i, s: torch.scatter_add(x, 1, i, s),
        lambda: [*rows(7), index(4, 3), *rows(5)],
        lambda: [*rows(6), index(2, 3), *rows(2)],
        [0, 0, 0],
    ),
    "scatter": (
        lambda x, i, s: torch.scatter(x, 1, i, s),
        lambda: [*rows(7), torch.tensor([[0, 1, 2]] * 4), *rows(5)],
        lambda: [*rows(6), torch.tensor([[2, 0, 1]] * 2), *rows(2)],
        [0, 0, 0],
    ),
    "powers": (
        lambda x: (x / x.shape[0] ** 0.5 + 0.5 ** x.shape[0]) * (x.shape[0] ** -1 * 3.0 + torch.sym_sqrt(x.shape[0])) + (x.shape[0] > 3),
        lambda: rows(7),
        lambda: rows(2),
        [0],
    ),
    "of_one": (lambda x, y: (x[:, None] - y).abs().sum(-1).softmax(0) @ y + torch.cat([x, x])[: x.shape[0]], lambda: rows(7, 5), lambda: rows(1, 1), [0, 0]),
    "of_two": (lambda x: x.unfold(0, 2, 1).sum(-1), lambda: rows(7), lambda: rows(2), [0]),
    "triangle": (
        lambda x, y: (x @ y.t()).masked_fill(torch.ones(x.shape[0], y.shape[0]).triu(y.shape[0] - x.shape[0] + 1) > 0, -1.0) @ y,
        lambda: rows(5, 7),
        lambda: rows(3, 8),
        [0, 0],
    ),
    "positions": (lambda w, x: x + w[: x.shape[0]], lambda: rows(16, 5), lambda: rows(11, 11), [0, 0]),
}


def expectation(function, tensors):
    leaves = [t.clone().requires_grad_(t.is_floating_point()) for t in tensors]
    output = function(*leaves)
    expected = {f"input.{i}": t for i, t in enumerate(tensors)} | {"output.0": plain(output)}
    seed = cotangent(output, 0) if output.dim() else torch.ones(())
    if output.dim():
        expected["cotangent.0"] = seed
    wanted = [i for i, t in enumerate(leaves) if t.requires_grad]
    gradients = torch.autograd.grad(output, [leaves[i] for i in wanted], seed)
    return expected | {f"grad.{i}": plain(g) for i, g in zip(wanted, gradients)}


def write(name, out):
    function, first, other, dims = PROGRAMS[name]
    torch.manual_seed(0)
    shapes = (tuple({d: AUTO} for d in dims),)
    exported = torch.export.export(Program(function), tuple(first()), dynamic_shapes=shapes, strict=False)
    expected = expectation(function, other())
    for form, program in (("raw", exported), ("dec", exported.run_decompositions())):
        archive = io.BytesIO()
        torch.export.save(program, archive)
        folder = out / "dynamic" / name / form
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.pt2").write_bytes(slim(archive.getvalue()))
        (folder / "expected.safetensors").write_bytes(save({k: v.contiguous() for k, v in expected.items()}))
        ops = sorted({str(n.target) for n in program.graph.nodes if n.op == "call_function"})
        (folder / "meta.json").write_text(json.dumps({"op": name, "scope": "core", "ops": ops, "grad": True}) + "\n")


def main():
    out, names = chosen(__doc__, PROGRAMS)
    logging.disable(logging.CRITICAL)
    for name in names:
        write(name, out)


if __name__ == "__main__":
    main()
