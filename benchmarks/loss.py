"""The fused loss against the dense path: seconds and peak extra memory, forward and backward.

    python benchmarks/loss.py            the whole table (about 20 minutes on one core)
    python benchmarks/loss.py --quick    one small case
    python benchmarks/loss.py --trl DIR  also TRL's SDPO loss; `pip install --no-deps -t DIR trl`

Contenders, each in a process of its own, on the same tensors (JSD 0.5, student's top K and tail):
    fused   objectives.fused.head_loss; the head's gradient accumulates in a given buffer
    dense   logits, log-softmax, top-K, gather, autograd: the loss as one would write it down
    trl     TRL's own loss function on the same dense logits (skipped where it is not there)
    floor   nothing but the four matrix products, in the same chunks

Seconds are the least of the repeats, which are interleaved (every contender once, then again), as
wall time and as CPU time of the process (the fairer number
on a machine that others use). Extra memory is the peak above inputs and gradient buffers, which
exist before the clock starts and are the same for all. All contenders must agree on the loss and on
the gradients' norms. Writes benchmarks/results/loss.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
import types
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sdpo_megatron.actor.config import BatchConfig
from sdpo_megatron.objectives import (
    DistillationConfig,
    HeadOptions,
    ObjectiveConfig,
    TokenTargets,
    build_objective,
    chunk_within,
    single,
)
from sdpo_megatron.objectives.fused.head_loss import head_loss

RESULTS = Path(__file__).parent / "results" / "loss.json"
MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """Sizes: T tokens, V vocabulary, H hidden, K support, C tokens of a chunk of the fused loss."""

    tokens: int
    vocab: int
    hidden: int
    top_k: int
    chunk: int
    dtype: str
    device: str
    repeats: int
    threads: int
    trl: str


@dataclass
class Problem:
    """Inputs and gradient buffers, all touched."""

    hidden: Tensor
    weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor
    token_ids: Tensor
    main_grad: Tensor


def make(case: Case) -> Problem:
    g = torch.Generator().manual_seed(0)
    dtype = getattr(torch, case.dtype)

    def draw(rows: int, factor: float) -> Tensor:
        return (torch.randn(rows, case.hidden, generator=g) * factor).to(case.device, dtype)

    # Logits with a standard deviation near 3: a peaked distribution, as a language model's is.
    hidden, weight = draw(case.tokens, 1.0), draw(case.vocab, 3.0 / case.hidden**0.5)
    teacher = hidden + draw(case.tokens, 0.2)
    token_ids = torch.randint(0, case.vocab, (case.tokens,), generator=g).to(case.device)
    main_grad = torch.zeros(weight.shape, dtype=torch.float32, device=case.device)
    problem = Problem(hidden, weight, teacher, weight.clone(), token_ids, main_grad.fill_(0.0))
    problem.hidden.requires_grad_()
    problem.weight.requires_grad_()
    problem.hidden.grad = torch.zeros_like(hidden).fill_(0.0)
    return problem


def fused(case: Case, problem: Problem) -> Tensor:
    ones = torch.ones(case.tokens, device=case.device)
    targets = TokenTargets(
        token_ids=problem.token_ids,
        distill_weight=ones / case.tokens,
        policy_weight=torch.zeros_like(ones),
        advantage=torch.zeros_like(ones),
        rollout_log_probs=torch.zeros_like(ones),  # weights are off, see config()
        sequence_ids=torch.zeros_like(problem.token_ids),
        loss_mask=ones > 0,
    )
    result = head_loss(
        problem.hidden,
        problem.weight,
        targets,
        build_objective(config(case)),
        single(problem.teacher_hidden, problem.teacher_weight),
        options=HeadOptions(chunk_tokens=case.chunk),
        main_grad=problem.main_grad,
    )
    result.loss.backward()  # type: ignore[no-untyped-call]
    return result.loss.detach()


def config(case: Case) -> ObjectiveConfig:
    from sdpo_megatron.objectives import ImportanceConfig

    return ObjectiveConfig(
        distillation=DistillationConfig(divergence="jsd", alpha=0.5, top_k=case.top_k),
        importance=ImportanceConfig(is_clip=None, mismatch_cap=None),
    )


def dense(case: Case, problem: Problem) -> Tensor:
    student = F.log_softmax(problem.hidden @ problem.weight.t(), dim=-1, dtype=torch.float32)
    with torch.no_grad():
        logits = problem.teacher_hidden @ problem.teacher_weight.t()
        teacher = F.log_softmax(logits, dim=-1, dtype=torch.float32)
        del logits
    top, ids = student.topk(case.top_k, dim=-1)
    s, t = dense_bins(top), dense_bins(teacher.gather(-1, ids))
    mixture = torch.logaddexp(s, t) - torch.log(torch.tensor(2.0, device=case.device))
    loss = 0.5 * (s.exp() * (s - mixture) + t.exp() * (t - mixture)).sum(-1).mean()
    return finish(problem, loss)


def dense_bins(log_probs: Tensor) -> Tensor:
    mass = torch.logsumexp(log_probs, -1, keepdim=True).clamp(max=-1e-7)
    return torch.cat([log_probs, torch.log(-torch.expm1(mass))], -1)


def trl(case: Case, problem: Problem) -> Tensor:
    student = (problem.hidden @ problem.weight.t()).float()
    with torch.no_grad():
        teacher = (problem.teacher_hidden @ problem.teacher_weight.t()).float()
    per_token = trl_loss(case.trl)(
        student,
        teacher,
        distillation_topk=case.top_k,
        distillation_alpha=0.5,
        distillation_add_tail=True,
    )
    return finish(problem, per_token.mean())


def trl_loss(folder: str) -> Callable[..., Tensor]:
    """TRL's loss function from its own file: it needs torch alone, while importing its package
    needs the whole trainer stack. The one name it takes from there belongs to its sampled-token
    mode.
    """
    path = Path(folder) / "trl" / "experimental" / "sdpo" / "loss_utils.py"
    for name in ("trl", "trl.trainer", "trl.experimental", "trl.experimental.sdpo"):
        sys.modules.setdefault(name, types.ModuleType(name))
    utils = types.ModuleType("trl.trainer.utils")
    utils.selective_log_softmax = None  # type: ignore[attr-defined]
    sys.modules["trl.trainer.utils"] = utils
    spec = importlib.util.spec_from_file_location("trl.experimental.sdpo.loss_utils", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"--trl {folder}: no {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loss: Callable[..., Tensor] = module.compute_topk_self_distillation_loss
    return loss


def finish(problem: Problem, loss: Tensor) -> Tensor:
    """Backward, the head's gradient brought to main_grad as Megatron's DDP hook does."""
    loss.backward()  # type: ignore[no-untyped-call]
    assert problem.weight.grad is not None
    problem.main_grad.add_(problem.weight.grad)
    problem.weight.grad = None
    return loss.detach()


def floor(case: Case, problem: Problem) -> Tensor:
    """The four products, in chunks, results thrown away."""
    with torch.no_grad():
        logits = torch.empty(case.chunk, case.vocab, dtype=problem.weight.dtype, device=case.device)
        grad = torch.zeros_like(problem.hidden)
        for start in range(0, case.tokens, case.chunk):
            rows = slice(start, start + case.chunk)
            here = logits[: len(problem.hidden[rows])]
            torch.mm(problem.teacher_hidden[rows], problem.teacher_weight.t(), out=here)
            torch.mm(problem.hidden[rows], problem.weight.t(), out=here)
            torch.mm(here, problem.weight, out=grad[rows])
            if problem.main_grad.dtype == here.dtype:
                problem.main_grad.addmm_(here.t(), problem.hidden[rows])
            else:
                torch.mm(here.t(), problem.hidden[rows])
    return torch.zeros(())


CONTENDERS: dict[str, Callable[[Case, Problem], Tensor]] = {
    "fused": fused,
    "dense": dense,
    "trl": trl,
    "floor": floor,
}


def measure(case: Case, name: str) -> dict[str, float]:
    """Run one contender in this process."""
    torch.set_num_threads(case.threads)
    run = CONTENDERS[name]
    warm = Case(**{**asdict(case), "tokens": 8, "vocab": 4096})
    run(warm, make(warm))  # kernels and libraries loaded
    problem = make(case)
    before = reset_peak(case.device)
    wall, cpu = time.perf_counter(), time.process_time()
    loss = run(case, problem)
    if case.device == "cuda":
        torch.cuda.synchronize()
    result = {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "extra_mib": (peak(case.device) - before) / MIB,
        "loss": float(loss),
    }
    assert problem.hidden.grad is not None
    result["grad_hidden_norm"] = float(problem.hidden.grad.float().norm())
    result["grad_weight_norm"] = float(problem.main_grad.norm())
    return result


def reset_peak(device: str) -> int:
    """Forget the peak so far; returns the bytes in use now."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark of resident memory
    return _status("VmRSS")


def peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {field}: the memory measurement needs Linux")


def in_child(case: Case, name: str) -> dict[str, float]:
    """One contender in a fresh process, so that no allocation of another helps or hurts it."""
    command = [sys.executable, __file__, "--one", name, "--case", json.dumps(asdict(case))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(case.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-5:])
        raise SystemExit(f"{name} on {case} ended with {done.returncode}:\n{tail}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(case: Case) -> dict[str, Any]:
    names = [name for name in CONTENDERS if name != "trl" or case.trl]
    names = [name for name in names if fits(case, name)]
    rounds = [{name: in_child(case, name) for name in names} for _ in range(case.repeats)]
    rows = {
        name: {
            **rounds[0][name],
            **{key: min(one[name][key] for one in rounds) for key in ("wall_s", "cpu_s")},
            "extra_mib": max(one[name]["extra_mib"] for one in rounds),
        }
        for name in names
    }
    agree(rows, 1e-4 if case.dtype == "float32" else 2e-2)
    return {"case": {**asdict(case), "trl": bool(case.trl)}, "results": rows}


def fits(case: Case, name: str) -> bool:
    """Whether a dense contender's logits fit this machine; others keep their memory."""
    if name not in ("dense", "trl") or case.device == "cuda":
        return True
    meminfo = Path("/proc/meminfo").read_text().splitlines()
    available = int(next(x for x in meminfo if x.startswith("MemAvailable")).split()[1]) * 1024
    needed = 6 * case.tokens * case.vocab * 4 + 4 * case.vocab * case.hidden * 4
    if needed <= available:
        return True
    print(f"{name} left out: needs {needed / MIB:.0f} MiB, {available / MIB:.0f} available")
    return False


def agree(rows: dict[str, dict[str, float]], tolerance: float) -> None:
    """All contenders computed the same thing."""
    for name in ("dense", "trl"):
        for key in ("loss", "grad_hidden_norm", "grad_weight_norm"):
            if name in rows:
                got, want = rows["fused"][key], rows[name][key]
                if abs(got - want) > tolerance * abs(want):
                    raise SystemExit(f"fused and {name} disagree on {key}: {got} against {want}")


def print_row(entry: dict[str, Any]) -> None:
    case, rows = entry["case"], entry["results"]
    nothing = {"wall_s": float("nan"), "cpu_s": float("nan"), "extra_mib": float("nan")}
    fast, slow, other, base = (rows.get(name, nothing) for name in CONTENDERS)
    times = " ".join(f"{row['cpu_s']:7.2f}" for row in (fast, slow, other, base))
    ratios = " ".join(
        f"{fast[clock] / row[clock]:6.2f}" for clock in ("cpu_s", "wall_s") for row in (slow, base)
    )
    share = 100 * fast["extra_mib"] / slow["extra_mib"]
    memory = f"{fast['extra_mib']:7.0f} {slow['extra_mib']:7.0f} {share:5.1f} %"
    sizes = f"{case['vocab']:>7} {case['tokens']:>5} {case['top_k']:>4}"
    print(f"{sizes} | {times} | {ratios} | {memory}", flush=True)


HEADER = (
    "                   |            CPU seconds          |   CPU time    wall time | extra "
    "memory, MiB\n"
    "      V     T    K |   fused   dense     trl   floor |  /dense /floor /dense /floor |"
    "   fused   dense ratio"
)


def keep(entry: dict[str, Any]) -> None:
    """Put a case into the results file, in place of the same case of an earlier run."""
    found = json.loads(RESULTS.read_text())["cases"] if RESULTS.exists() else []
    sizes = [{k: e["case"][k] for k in IDENTITY} for e in found]
    own = {k: entry["case"][k] for k in IDENTITY}
    found = [e for e, size in zip(found, sizes, strict=True) if size != own] + [entry]
    found.sort(key=lambda e: [str(e["case"][k]).rjust(12) for k in IDENTITY])
    machine = {"torch": torch.__version__, "machine": platform.machine(), "cores": os.cpu_count()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine, "cases": found}, indent=1) + "\n")


IDENTITY = ("device", "dtype", "hidden", "vocab", "tokens", "top_k")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one case: V 49,152, T 512, K 100")
    parser.add_argument("--sizes", help="only these, V:T:K[,V:T:K...]; other results are kept")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default=None, help="float32 (default on a CPU) or bfloat16")
    parser.add_argument("--hidden", type=int, default=None, help="H; 576 on a CPU, 4096 on a GPU")
    parser.add_argument("--chunk", type=int, default=None, help="C; what --mib allows")
    parser.add_argument(
        "--mib", type=float, default=None, help="memory for logits; 96 on a CPU, 768 on a GPU"
    )
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser.add_argument(
        "--trl", default="", metavar="DIR", help="folder that holds the package trl"
    )
    parser.add_argument("--one", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(Case(**json.loads(args.case)), args.one)))
        return
    gpu = args.device == "cuda"
    mib = args.mib or (768 if gpu else BatchConfig().logits_mib)
    common = {
        "hidden": args.hidden or (4096 if gpu else 576),
        "chunk": args.chunk,
        "dtype": args.dtype or ("bfloat16" if gpu else "float32"),
        "device": args.device,
        "repeats": args.repeats,
        "threads": args.threads,
        "trl": args.trl,
    }
    sizes = [(v, t, k) for v in (49_152, 151_936) for t in (1024, 4096) for k in (20, 100)]
    if gpu:
        sizes += [(151_936, 8192, 20), (151_936, 8192, 100)]
    if args.sizes:
        sizes = [tuple(map(int, one.split(":"))) for one in args.sizes.split(",")]  # type: ignore
    if args.quick:
        sizes = [(49_152, 512, 100)]
    print(
        f"H {common['hidden']}, C {common['chunk'] or f'of {mib:g} MiB'}, {common['dtype']} on "
        f"{args.device},",
        end=" ",
    )
    print(f"{args.threads} thread(s), torch {torch.__version__}")
    print(HEADER)
    for vocab, tokens, top_k in sizes:
        sized = {**common, "chunk": common["chunk"] or min(tokens, chunk_within(mib, vocab))}
        entry = compare(Case(tokens=tokens, vocab=vocab, top_k=top_k, **sized))
        print_row(entry)
        if not args.quick:
            keep(entry)
    if not args.trl:
        print("TRL was not measured: give --trl DIR")


if __name__ == "__main__":
    main()
