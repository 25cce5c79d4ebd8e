"""Cases from PyTorch's own operator samples: `python opinfo.py OUT [--dtypes float64,int8] [--ops abs,topk] [--samples 4]`.

Writes `OUT/ops/<operator>/<dtype>_<k>/` and `OUT/skipped.txt`, which says why samples were left out.
"""

import argparse
import multiprocessing
import pathlib

import torch
from torch.testing._internal.common_methods_invocations import op_db

from cases import DTYPES, clean, initialize, tensors_of, write_case

# Where samples are larger than this, others are taken.
MOST_ELEMENTS = 6_000
# Operators worth having later: linear algebra, special functions, random draws, shapes that depend on data.
EXTENDED = (
    "linalg. fft. special. signal. torch.ops. cholesky lu qr svd pca_ pinverse ormqr geqrf matrix_exp logdet triangular_solve masked_select nonzero unique argwhere "
    "bernoulli cauchy exponential geometric log_normal normal multinomial uniform rand randn randint polygamma mvlgamma lgamma digamma igamma "
    "nn.functional.dropout nn.functional.alpha_dropout nn.functional.feature_alpha_dropout nn.functional.rrelu nn.functional.fractional "
    "resize_ empty new_empty histogramdd combinations tensor_split repeat_interleave stft istft"
).split()


def scope(name):
    return "extended" if name.startswith(tuple(EXTENDED)) else "core"


def name_of(op):
    return clean(op.name + (f".{op.variant_test_name}" if op.variant_test_name else ""))


def signature(sample):
    """What distinguishes samples: shapes, strides' order, types and other arguments."""
    tensors = tensors_of((sample.input, sample.args), sample.kwargs)
    shapes = tuple((t.dtype, t.dim(), 0 in t.shape, t.is_contiguous()) for t in tensors)
    others = tuple(sorted(sample.kwargs))
    return shapes, others


def diverse(samples, count, turn):
    """Samples of signatures not seen yet first, from another one for each `turn`, then the others from the end."""
    fresh, rest, seen = [], [], set()
    for sample in samples:
        key = signature(sample)
        (rest if key in seen else fresh).append(sample)
        seen.add(key)
    start = turn % max(1, len(fresh))
    fresh = fresh[start:] + fresh[:start]
    step = max(1, len(fresh) // count)
    chosen = fresh[::step][:count]
    return (chosen + rest[::-1])[:count]


def is_fit(sample):
    tensors = tensors_of((sample.input, sample.args), sample.kwargs)
    return all(t.layout == torch.strided for t in tensors) and sum(t.numel() for t in tensors) <= MOST_ELEMENTS


def write_operator(job):
    index, dtype_name, out, count, decompose = job
    op, dtype = op_db[index], DTYPES[dtype_name]
    name = name_of(op)
    if dtype not in op.supported_dtypes("cpu"):
        return 0, []
    grad = dtype.is_floating_point and op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")
    torch.manual_seed(0)
    try:
        samples = [s for s in op.sample_inputs("cpu", dtype, requires_grad=grad) if is_fit(s)]
    except Exception as error:
        return 0, [f"{name} {dtype_name}: samples: {error}"]
    written, skipped = 0, []
    # A few more than asked for: some do not export.
    for sample in diverse(samples, count + 3, list(DTYPES).index(dtype_name)):
        if written == count:
            break
        folder = out / "ops" / name / f"{dtype_name}_{written}"
        facts = {"op": name, "dtype": dtype_name, "scope": scope(name)}
        why = write_case(folder, op.op, (sample.input, *sample.args), sample.kwargs, facts, grad, decompose)
        if why is None:
            written += 1
        else:
            skipped.append(f"{name} {dtype_name}: {why}")
    return written, skipped


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--dtypes", default=",".join(DTYPES))
    parser.add_argument("--ops", default="", help="only operators of these names")
    parser.add_argument("--samples", type=int, default=4, help="cases per operator and type")
    parser.add_argument("--raw", action="store_true", help="as exported, without run_decompositions()")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    wanted = set(filter(None, options.ops.split(",")))
    chosen = [i for i, op in enumerate(op_db) if not wanted or name_of(op) in wanted]
    options.out.mkdir(parents=True, exist_ok=True)
    jobs = [(i, d, options.out, options.samples, not options.raw) for d in options.dtypes.split(",") for i in chosen]
    total = 0
    with multiprocessing.get_context("fork").Pool(options.jobs, initialize, maxtasksperchild=500) as pool, open(options.out / "skipped.txt", "w") as log:
        for written, skipped in pool.imap(write_operator, jobs, chunksize=4):
            total += written
            log.writelines(line + "\n" for line in skipped)
            log.flush()
    print(f"{total} cases")


if __name__ == "__main__":
    main()
