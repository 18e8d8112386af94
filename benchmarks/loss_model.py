"""The fused loss's CUDA path at a GPU's size, MODELLED without one: nothing is multiplied.

    python benchmarks/loss_model.py                          T 8192, V 151,936, H 4096, K 100, bf16
    python benchmarks/loss_model.py --mib 830 --vocab 18992  one of eight tensor-parallel ranks

The real code runs on fake tensors that claim to lie on a CUDA device. Each operator's time is taken
as the longer of its floating-point operations over --tflops and of the bytes it must read and write
over --tb-s (the defaults are what an H100 reached: 750 and 3.0); launches, caches and overlap are
left out. Memory is what is alive at the worst moment beside inputs and gradient buffers. The
Triton kernels count what their code reads and writes (KERNELS). Aims: at most 1 GiB, and 1.3 times
the four matrix products alone. Writes benchmarks/results/loss_model.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import types
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sdpo_megatron.objectives import (
    HeadOptions,
    ObjectiveConfig,
    TokenTargets,
    build_objective,
    chunk_within,
    single,
)
from sdpo_megatron.objectives.fused.head_loss import head_loss

RESULTS = Path(__file__).parent / "results" / "loss_model.json"
MIB = 1 << 20
PRODUCTS = {"mm", "addmm"}
GATHERED = {"gather", "index_select"}  # read what they return, not what they choose from
SCATTERED = {"scatter_add_", "scatter_"}  # touch as much of the target as they are given


def _bytes(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _blocks_of(chosen: Tensor, block: int) -> int:
    """float32 logits of the chosen blocks."""
    return chosen.numel() * block * 4


# What each kernel of objectives/fused/kernels/device.py reads and writes, from its arguments.
KERNELS: dict[str, Callable[..., int]] = {
    "scan_kernel": lambda a, m: _bytes(*a[:5]),
    "candidates_kernel": lambda a, m: _bytes(a[1], a[2]) + _blocks_of(a[1], m["BLOCK"]),
    "join_kernel": lambda a, m: _bytes(*a[1:8]) + _blocks_of(a[5], m["BLOCK"]),
    "gradient_kernel": lambda a, m: _bytes(*a[:6]),
}


@dataclass
class Model:
    """Sums over all operators of a run."""

    flops_per_s: float
    bytes_per_s: float
    seconds: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    flops: float = 0.0
    waits: int = 0  # for the device: values that the host reads
    live: int = 0
    peak: int = 0

    def spend(self, name: str, flops: float, size: float) -> None:
        self.seconds[name] += max(flops / self.flops_per_s, size / self.bytes_per_s)
        self.calls[name] += 1
        self.flops += flops


class Launches:
    """In the place of Triton: a kernel that is launched costs what KERNELS says."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def jit(self, function: Callable[..., Any]) -> Any:
        name, model = function.__name__, self.model

        class Kernel:
            def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
                return lambda *args, **meta: model.spend(name, 0.0, KERNELS[name](args, meta))

        return Kernel()

    def install(self) -> None:
        for module in [
            m for m in sys.modules if m.startswith("sdpo_megatron.objectives.fused.kernels")
        ]:
            del sys.modules[module]  # of an earlier model
        triton, language = types.ModuleType("triton"), types.ModuleType("triton.language")
        triton.jit, triton.language = self.jit, language  # type: ignore[attr-defined]
        language.constexpr = lambda value=None: value  # type: ignore[attr-defined]
        sys.modules |= {"triton": triton, "triton.language": language}


class Accounts(TorchDispatchMode):
    """Books every operator, and the memory that is alive."""

    def __init__(self, model: Model, known: list[Tensor]) -> None:
        super().__init__()
        self.model = model
        self._known = {t.untyped_storage()._cdata for t in known}
        self._held: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        if name == "_local_scalar_dense":  # a number for the host: any will do, all checks pass
            self.model.waits += 1
            return False if args[0].dtype == torch.bool else 0
        if name == "_assert_async":
            return None
        if name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1]):
            self.model.waits += 1  # how many are chosen is not known: all
            return torch.empty_like(args[0])
        # A CPU lacks products of bf16 that end in float32; the shapes are known.
        known = name in PRODUCTS and "out" in kwargs
        out = kwargs["out"] if known else func(*args, **kwargs)
        # What is given as `out` is written, and read only where it is an operand as well.
        operands = {key: value for key, value in kwargs.items() if key != "out"}
        leaves = [x for x in tree_leaves((args, operands)) if isinstance(x, Tensor)]
        given = list({id(x): x for x in leaves}.values())
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        storages = {
            x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)
        }
        fresh = [x for x in made if x.untyped_storage()._cdata not in storages]
        for tensor in fresh:
            self._hold(tensor)
        if func.is_view or not (fresh or func._schema.is_mutable) or "empty" in name:
            return out
        self.model.spend(name, self._flops(name, args), self._size(name, args, given, made, fresh))
        return out

    @staticmethod
    def _flops(name: str, args: Any) -> float:
        if name not in PRODUCTS:
            return 0.0
        a, b = args[:2] if name == "mm" else args[1:3]
        return 2.0 * a.shape[0] * a.shape[1] * b.shape[1]

    @staticmethod
    def _size(
        name: str, args: Any, given: list[Tensor], made: list[Tensor], fresh: list[Tensor]
    ) -> float:
        if name in GATHERED:
            return 2 * _bytes(*made) + _bytes(*(t for t in given if t.dtype == torch.int64))
        if name in SCATTERED:
            index = args[2]
            return _bytes(index) + 3 * index.numel() * args[0].element_size()
        # An expanded tensor holds its elements once; what is written in place is read as well.
        read = sum(_bytes(t) if 0 not in t.stride() else t.element_size() for t in given)
        mutated = [t for t in made if not any(t is f for f in fresh)]
        return read + _bytes(*fresh) + _bytes(*mutated)

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._held or key in self._known:
            return
        size = -(-storage.nbytes() // 512) * 512

        def release(_reference: Any) -> None:
            self._held.pop(key, None)
            self.model.live -= size

        self._held[key] = weakref.ref(storage, release)
        self.model.live += size
        self.model.peak = max(self.model.peak, self.model.live)


@contextmanager
def claiming_a_gpu() -> Iterator[None]:
    """Fake tensors say that they lie on a CUDA device. (torch refuses to differentiate real claims
    of one where it was built without CUDA.)"""
    FakeTensor.is_cuda = property(lambda self: True)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del FakeTensor.is_cuda  # type: ignore[misc]


def run(
    tokens: int, vocab: int, hidden: int, top_k: int, chunk: int, tflops: float, tb_s: float
) -> dict[str, Any]:
    """One forward and backward pass of the loss on a fake device."""
    model = Model(tflops * 1e12, tb_s * 1e12)
    mode = FakeTensorMode()  # it imports torch's compiler, which looks at what Triton there is
    Launches(model).install()
    from sdpo_megatron.objectives.distillation import DistillationConfig

    objective = build_objective(ObjectiveConfig(distillation=DistillationConfig(top_k=top_k)))
    with mode, claiming_a_gpu():

        def real(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
            return torch.empty(shape, dtype=dtype, device="cpu")

        def of_tokens(dtype: torch.dtype = torch.float32) -> Tensor:
            return real(tokens, dtype=dtype)

        states = real(tokens, hidden).requires_grad_()
        weight = torch.nn.Parameter(real(vocab, hidden))
        main_grad = real(vocab, hidden, dtype=torch.float32)
        teacher = single(real(tokens, hidden), real(vocab, hidden))
        targets = TokenTargets(
            token_ids=of_tokens(torch.int64),
            distill_weight=of_tokens(),
            policy_weight=of_tokens(),
            advantage=of_tokens(),
            rollout_log_probs=of_tokens(),
            sequence_ids=of_tokens(torch.int64),
            loss_mask=of_tokens(torch.bool),
            success=of_tokens(torch.bool),
            position=of_tokens(),
        )
        (head,) = teacher.heads
        known = [states, weight, main_grad, head.hidden, head.weight]
        with torch.autograd.set_multithreading_enabled(False), Accounts(model, known):
            options = HeadOptions(chunk_tokens=chunk)
            result = head_loss(
                states, weight, targets, objective, teacher, options=options, main_grad=main_grad
            )
            result.loss.backward()  # type: ignore[no-untyped-call]
    floor = 8.0 * tokens * vocab * hidden / model.flops_per_s
    chunks = -(-tokens // chunk)
    return {
        "modelled": True,
        "tokens": tokens, "vocab": vocab, "hidden": hidden, "top_k": top_k, "chunk": chunk,
        "tflops": tflops, "tb_s": tb_s,
        "peak_mib": round(model.peak / MIB),
        "over_floor": round(sum(model.seconds.values()) / floor, 3),
        "products_over_floor": round(sum(model.seconds[p] for p in PRODUCTS) / floor, 3),
        "flops_over_floor": round(model.flops / (floor * model.flops_per_s), 4),
        "launches_a_chunk": round(sum(model.calls.values()) / chunks),
        "waits": model.waits,
        "ms": {name: round(1e3 * s, 2) for name, s in model.seconds.most_common(8)},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--vocab", type=int, default=151_936, help="rows of this rank")
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--top-k", type=int, default=100)
    parser.add_argument("--mib", type=float, nargs="*", default=[384.0, 830.0])
    parser.add_argument("--tflops", type=float, default=750.0)
    parser.add_argument("--tb-s", type=float, default=3.0)
    parser.add_argument("--out", type=Path, default=None, help="JSON; default only for no options")
    args = parser.parse_args()
    rows = []
    print("MODELLED on fake tensors, not measured")
    for mib in args.mib:
        chunk = min(args.tokens, chunk_within(mib, args.vocab))
        row = run(args.tokens, args.vocab, args.hidden, args.top_k, chunk, args.tflops, args.tb_s)
        rows.append(row)
        print(
            f"T {row['tokens']} V {row['vocab']} H {row['hidden']} K {row['top_k']} C {chunk}: "
            f"{row['peak_mib']} MiB, {row['over_floor']:.2f} x the floor (products alone "
            f"{row['products_over_floor']:.2f}), {row['launches_a_chunk']} launches a chunk, "
            f"{row['waits']} waits"
        )
        print("   ms:", ", ".join(f"{name} {ms:g}" for name, ms in row["ms"].items()))
    out = args.out or (RESULTS if len(sys.argv) == 1 else None)
    if out is not None:
        out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
