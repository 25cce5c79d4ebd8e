"""Conformance cases: what `opinfo.py` and `special.py` write.

A case is a folder with `model.pt2` (the exported program), `expected.safetensors` (inputs, outputs, cotangents and gradients as
PyTorch's eager mode gives them on the CPU) and `meta.json`.
"""

import argparse
import functools
import io
import json
import pathlib
import re
import warnings
import zipfile

import torch
import torch.export.decomp_utils
import torch.export.exported_program
from safetensors.torch import save
from torch.utils._pytree import tree_flatten, tree_unflatten

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
    "int8": torch.int8,
    "bool": torch.bool,
}
SUPPORTED = set(DTYPES.values())
# Operators that draw random numbers, or leave memory as it was: no number is right or wrong.
UNDEFINED = "dropout rand bernoulli normal uniform exponential cauchy geometric multinomial rrelu".split()


def prepare_for_many_exports():
    """Remembers what PyTorch finds out again for every export, where most of the time would go: which operators are composite, and
    that nothing changes for those that are decomposed the usual way."""
    utils, tables, programs = torch._export.utils, torch.export.decomp_utils, torch.export.exported_program
    composite = functools.cache(utils._collect_all_valid_cia_ops)
    programs._collect_all_valid_cia_ops = tables._collect_all_valid_cia_ops = composite
    override = programs._override_composite_implicit_decomp
    kept = utils._special_op_to_preserve_cia
    programs._override_composite_implicit_decomp = lambda table: override({op: f for op, f in table.items() if f is kept})


def initialize():
    """Prepares a process that makes cases."""
    torch.set_num_threads(1)
    prepare_for_many_exports()
    warnings.simplefilter("ignore")


def chosen(doc, programs):
    """Prepares the process; gives the folder that the command line names, and the names of programs that contain its filter."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--filter", default="")
    options = parser.parse_args()
    initialize()
    return options.out, [name for name in programs if options.filter in name]


class Program(torch.nn.Module):
    """A function of tensors."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


class Call(torch.nn.Module):
    """A call of `function` whose tensors are the inputs of the program and whose other arguments are constants."""

    def __init__(self, function, args, kwargs):
        super().__init__()
        self.function = function
        leaves, self.spec = tree_flatten((args, kwargs))
        self.positions = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        self.leaves = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]

    def forward(self, *tensors):
        leaves = list(self.leaves)
        for position, tensor in zip(self.positions, tensors):
            leaves[position] = tensor
        args, kwargs = tree_unflatten(leaves, self.spec)
        outputs = tree_flatten(self.function(*args, **kwargs))[0]
        return tuple(o for o in outputs if isinstance(o, torch.Tensor))


def tensors_of(args, kwargs):
    return [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]


def write_case(folder, function, args, kwargs, facts, grad=True, decompose=True, strict=False):
    """Writes one case; returns why not where PyTorch cannot run or export the call."""
    call = Call(function, args, kwargs)
    inputs = [plain(t) for t in tensors_of(args, kwargs)]
    if not inputs or any(t.dtype not in SUPPORTED for t in inputs):
        return "inputs of other types"
    try:
        expected = expectation(call, inputs, grad)
    except Exception as error:
        # Some operators have no derivative, or none with respect to all operands.
        if grad:
            return write_case(folder, function, args, kwargs, facts, False, decompose, strict)
        return f"eager: {first_line(error)}"
    if isinstance(expected, str):
        return expected
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(call, tuple(inputs), strict=strict)
            if decompose:
                program = program.run_decompositions()
            archive = io.BytesIO()
            torch.export.save(program, archive)
    except Exception as error:
        return f"export: {first_line(error)}"
    has_grad = any(name.startswith("grad.") for name in expected)
    ops = sorted({str(n.target) for n in program.graph.nodes if n.op == "call_function"})
    if any(word in op for op in ops for word in UNDEFINED):
        facts = {**facts, "scope": "extended"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.pt2").write_bytes(slim(archive.getvalue()))
    (folder / "expected.safetensors").write_bytes(save({k: v.contiguous() for k, v in expected.items()}))
    (folder / "meta.json").write_text(json.dumps({**facts, "ops": ops, "grad": has_grad}) + "\n")
    return None


def plain(tensor):
    """The tensor as a contiguous leaf without history."""
    return tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)


def expectation(call, inputs, grad):
    """Inputs, outputs, cotangents and gradients by name."""
    torch.manual_seed(0)
    is_float = [t.dtype.is_floating_point for t in inputs]
    leaves = [t.clone().requires_grad_(grad and f) for t, f in zip(inputs, is_float)]
    # In-place operators write to no leaf.
    outputs = call(*[t.clone() for t in leaves])
    if not outputs or any(o.dtype not in SUPPORTED for o in outputs):
        return "outputs of other types"
    expected = {f"input.{i}": t.clone() for i, t in enumerate(inputs)}
    expected |= {f"output.{i}": plain(o) for i, o in enumerate(outputs)}
    differentiable = [i for i, o in enumerate(outputs) if o.requires_grad]
    if not differentiable:
        return expected
    cotangents = [cotangent(outputs[i], i) for i in differentiable]
    wanted = [i for i, t in enumerate(leaves) if t.requires_grad]
    gradients = torch.autograd.grad([outputs[i] for i in differentiable], [leaves[i] for i in wanted], cotangents, allow_unused=True)
    expected |= {f"cotangent.{i}": c for i, c in zip(differentiable, cotangents)}
    expected |= {f"grad.{i}": plain(g) for i, g in zip(wanted, gradients) if g is not None}
    return expected


def cotangent(output, seed):
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randn(output.shape, generator=generator, dtype=torch.float32).to(output.dtype)


def slim(data):
    """The archive without sample inputs and stack traces, with fixed times."""
    source, target = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(target, "w") as out:
        for name in source.namelist():
            if "/sample_inputs/" in name:
                continue
            content = source.read(name)
            if name.endswith("/models/model.json"):
                content = json.dumps(without_traces(json.loads(content)), separators=(",", ":")).encode()
            out.writestr(zipfile.ZipInfo(name), content)
    return target.getvalue()


def without_traces(node):
    if isinstance(node, dict):
        return {k: "" if k == "stack_trace" else without_traces(v) for k, v in node.items()}
    return [without_traces(v) for v in node] if isinstance(node, list) else node


def first_line(error):
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160] if str(error).strip() else ''}"


def clean(name):
    """An operator's name as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)
