"""The stages of `gpu_check`: each a function from the machine to what was measured; AssertionError
fails it. ``python -m scripts.gpu_stages STAGE [--dry-run]`` prints one as JSON.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scripts import engine_stages

Found = dict[str, Any]
GIB = 2**30


class Skipped(Exception):
    """The stage cannot be done here; the message says why."""


@dataclass(frozen=True)
class Machine:
    """Where a stage runs, and at which size."""

    dry_run: bool

    @property
    def device(self) -> str:
        return "cpu" if self.dry_run else "cuda"

    @property
    def dtype(self) -> str:
        return "fp32" if self.dry_run else "bf16"

    def free_bytes(self) -> int:
        """Of the card; 0 on a CPU, where an engine has nothing to give back."""
        return 0 if self.dry_run else int(torch.cuda.mem_get_info()[0])

    def wait(self) -> None:
        if not self.dry_run:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], repeats: int = 5) -> float:
        """Median, after one run that does not count."""
        work()
        times = []
        for _ in range(repeats):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times)


def versions(machine: Machine) -> Found:
    from sdpo_megatron.actor.runtime import start_runtime

    names = ("torch", "triton", "transformer-engine", "megatron-core", "sglang", "transformers")
    found: Found = {"cuda": torch.version.cuda}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    runtime = start_runtime(machine.device)
    found |= {"card": runtime.device_name(), "capability": runtime.capability()}
    return found | {"transformer_engine": runtime.te_problem or "importable"}


def local(machine: Machine) -> Found:
    """Local layers; Transformer Engine's are not asked for."""
    folder = _model("qwen3")
    theirs = _transformers_logits(folder)  # first: on a CPU the runtime redirects torch
    actor = _actor(machine, folder, local_layers=True)
    found = _against_transformers(actor, theirs, machine) | _packing(actor) | _teacher(actor)
    return found | {"loss": actor.step(actor.share_of(_attempts(0)))["train/loss"]}


def te_bf16(machine: Machine) -> Found:
    return _transformer_engine(machine, None)


def tensorwise(machine: Machine) -> Found:
    return _transformer_engine(machine, "tensorwise")


def blockwise(machine: Machine) -> Found:
    return _transformer_engine(machine, "blockwise")


def loss(machine: Machine) -> Found:
    """At the size of a large vocabulary."""
    sizes = (256, 4096, 64) if machine.dry_run else (8192, 151_936, 4096)
    chunks = (64, 128) if machine.dry_run else (384, 512, 704, 1024, 2048)
    found: Found = {"sizes": sizes, "chunks": {}}
    work = _Loss(machine, *sizes)
    floor = found["four_products_s"] = machine.seconds(work.products)
    for chunk in chunks:
        peak = work.peak(lambda chunk=chunk: work.run(chunk))
        seconds = machine.seconds(lambda chunk=chunk: work.run(chunk), 3)
        found["chunks"][chunk] = {
            "s": seconds, "over_products": seconds / floor, "peak_gib": peak / GIB
        }  # fmt: skip
    if not machine.dry_run:
        found["kernels"] = work.kernels(chunks[2])
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            work.run(chunks[2])
        torch.cuda.set_sync_debug_mode("default")
        found["waits"] = len(waits)
    shard = _Loss(machine, sizes[0], sizes[1] // 8, sizes[2])
    found["one_of_eight_over_products"] = machine.seconds(
        lambda: shard.run(chunks[-1]), 3
    ) / machine.seconds(shard.products, 3)
    found["against_float64"] = _Loss(machine, 256, sizes[1], sizes[2]).errors(64)
    assert all(error < 0.02 for error in found["against_float64"].values()), found
    return found


def step(machine: Machine) -> Found:
    """Seconds by phase of the second of two steps."""
    from sdpo_megatron.objectives import GrpoWeighting, ObjectiveConfig, PolicyGradientConfig

    folder = _model("qwen3")
    found: Found = {}
    objectives = {
        "grpo": ObjectiveConfig(
            distillation=None, policy_gradient=PolicyGradientConfig(), weighting=GrpoWeighting()
        ),
        "sdpo": ObjectiveConfig(),
    }
    samples = _attempts(0, questions=8)
    for name, objective in objectives.items():
        actor = _actor(machine, folder, objective=objective)
        actor.step(actor.share_of(samples))
        start = time.perf_counter()
        metrics = actor.step(actor.share_of(samples))
        found[name] = {k: v for k, v in metrics.items() if k.startswith("time/")}
        found[name]["all_s"] = time.perf_counter() - start
        _leave()
    return found | {"sdpo_over_grpo": found["sdpo"]["all_s"] / found["grpo"]["all_s"]}


def resume(machine: Machine) -> Found:
    """A checkpoint after one step; the second step from it must be that of the run that went on."""
    folder = _model("qwen3")
    with tempfile.TemporaryDirectory() as root:
        actor = _actor(machine, folder)
        actor.step(actor.share_of(_attempts(0)))
        actor.save(Path(root), 1, {}, keep=1)
        went_on = actor.step(actor.share_of(_attempts(1)))
        expected = [p.detach().cpu().clone() for c in actor.chunks for p in c.parameters()]
        _leave()
        again = _actor(machine, folder)
        assert again.load_newest(Path(root)) is not None
        resumed = again.step(again.share_of(_attempts(1)))
    found = [p.detach().cpu() for c in again.chunks for p in c.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True)), "weights differ"
    assert went_on["train/loss"] == resumed["train/loss"]
    return {"loss": resumed["train/loss"]}


def moe(machine: Machine) -> Found:
    """A step of a mixture of experts on either kind of layers."""
    folder = _model("qwen3_moe")
    local = _step(_actor(machine, folder, local_layers=True))
    _leave()
    grouped = _step(_actor(machine, folder))
    _leave()
    _alike(grouped, local, 0.02)
    return {"local": local, "grouped": grouped}


def hash(machine: Machine) -> Found:
    """SGLang's kernel where it can be imported."""
    from serving.swapping.gpu_hash import gpu_hash

    tensor = torch.arange(40_000, dtype=torch.float32).bfloat16().view(200, 200)
    ours = gpu_hash(tensor.to(machine.device))
    assert ours == gpu_hash(tensor) == 0x659B1A9157EDCD98
    if machine.dry_run:
        return {"ours": f"{ours:016x}"}
    try:
        from sglang.kernels.ops.memory.gpu_tensor_hash import gpu_tensor_hash
    except ImportError as error:
        raise Skipped(f"SGLang's kernel cannot be imported: {error}") from error
    theirs = gpu_tensor_hash(tensor.cuda())
    assert ours == theirs, (ours, theirs)
    return {"ours": f"{ours:016x}", "theirs": f"{theirs:016x}"}


# --- what the stages are made of ----------------------------------------------------------------


def _model(family: str) -> str:
    """A random checkpoint whose every width is a multiple of 128, as FP8 wants it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes: Found = {
        "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 128,
        "max_position_embeddings": 512, "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    if family == "qwen3_moe":
        sizes |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
        sizes["norm_topk_prob"] = True
    config = AutoConfig.for_model(family, **sizes)
    folder = tempfile.mkdtemp(prefix="gpu-check-")
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


def _attempts(seed: int, **sizes: int) -> Any:
    from tests.actor.worlds import made_up_samples

    return made_up_samples(seed, **sizes)


def _actor(
    machine: Machine, folder: str, *, local_layers: bool = False, fp8: Any = None, **changes: Any
) -> Any:
    from sdpo_megatron.actor import runtime as runtimes
    from sdpo_megatron.actor.config import ActorConfig, BatchConfig, OptimizerConfig
    from sdpo_megatron.actor.model.config import ParallelConfig, PrecisionConfig
    from sdpo_megatron.weights.spec import ModelSpec

    runtime = runtimes.start_runtime(machine.device)
    if local_layers:
        runtime = dataclasses.replace(runtime, te_problem="local layers were asked for")
        runtimes._current = runtime
    if not torch.distributed.is_initialized():
        runtime.init_process_group()
    from sdpo_megatron.actor.actor import Actor

    config = ActorConfig(
        # A backward pass of hidden states alone has no gradient of the head to wait for.
        parallel=ParallelConfig(overlap_grad_reduce=False),
        precision=PrecisionConfig(dtype=machine.dtype, fp8=fp8),
        batch=BatchConfig(micro_batch_tokens=160),
        optimizer=OptimizerConfig(lr=1e-3),
        **changes,
    )
    return Actor(config, ModelSpec.from_folder(folder), folder, runtime)


def _leave() -> None:
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()


def _transformer_engine(machine: Machine, fp8: str | None) -> Found:
    folder = _model("qwen3")
    if machine.dry_run:  # on local layers: what is asked of a teacher's pass holds for them too
        return _teacher(_actor(machine, folder))
    local = _step(_actor(machine, folder, local_layers=True))
    _leave()
    actor = _actor(machine, folder, fp8=fp8)
    if not actor.runtime.has_transformer_engine:
        raise Skipped(actor.runtime.te_problem)
    found = _packing(actor)
    theirs = _step(actor)
    _alike(theirs, local, 0.15 if fp8 else 0.03)
    return found | {"local": local, "step": theirs} | _teacher(actor)


def _step(actor: Any) -> Found:
    metrics = actor.step(actor.share_of(_attempts(0)))
    return {key: metrics[f"train/{key}"] for key in ("loss", "grad_norm")}


def _alike(found: Found, expected: Found, tolerance: float) -> None:
    """Loss and gradient norm: weight gradients that go past Megatron's sums would be missed in the
    second."""
    for key, value in expected.items():
        assert abs(found[key] - value) < tolerance * abs(value), (key, found, expected)


def _batches(actor: Any, samples: Any) -> Any:
    from sdpo_megatron.actor.batches.minibatch import Minibatch

    weighted = [
        dataclasses.replace(sample, distill_weight=1.0) for sample in samples
    ]  # others are left out
    return Minibatch(actor.config, actor.runtime, actor.share_of(weighted)[0]).packed(
        {"student", "teacher"}
    )


def _transformers_logits(folder: str) -> torch.Tensor:
    """[R, V] of one attempt's response tokens, in float32 on the CPU."""
    from transformers import AutoModelForCausalLM

    (sample,) = _attempts(0, questions=1, attempts=1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([[*sample.prompt_ids, *sample.response_ids]])
    with torch.no_grad():
        logits: torch.Tensor = model(ids).logits[0, len(sample.prompt_ids) - 1 : -1]
    return logits


def _against_transformers(actor: Any, theirs: torch.Tensor, machine: Machine) -> Found:
    batches = _batches(actor, _attempts(0, questions=1, attempts=1))
    (hidden,) = actor.pipeline.hidden_states(batches["student"])
    weight = actor.chunks[-1].module.head_weight().detach()
    ours = (hidden.float() @ weight.float().t()).cpu()[:, : actor.spec.vocab]
    error = float((ours - theirs).abs().max() / theirs.abs().max())
    assert error < (1e-4 if machine.dry_run else 0.05), error
    return {"logits_error": error}


def _packing(actor: Any) -> Found:
    """Several sequences of odd lengths in one micro-batch against one micro-batch each."""
    samples = _attempts(3, questions=1, attempts=3)
    together = actor.pipeline.hidden_states(_batches(actor, samples)["student"])
    alone = [actor.pipeline.hidden_states(_batches(actor, [s])["student"])[0] for s in samples]
    a, b = torch.cat(together).float(), torch.cat(alone).float()
    error = float((a - b).norm() / b.norm())
    assert error < 0.05, error
    return {"packed_error": error}


def _teacher(actor: Any) -> Found:
    """What a pass of other weights leaves behind: nothing, to the bit."""
    samples = _attempts(5)
    other = [w + 0.01 * torch.randn_like(w) for w in actor.weights.snapshot()]
    before = [p.detach().clone() for c in actor.chunks for p in c.parameters()]
    batches = _batches(actor, samples)

    def student_gradients() -> list[torch.Tensor]:
        def loss(_number: int, hidden: torch.Tensor) -> tuple[torch.Tensor, Any]:
            return hidden.float().square().sum(), None

        actor.pipeline.forward_backward(batches["student"], loss)
        return [p.main_grad.detach().clone() for c in actor.chunks for p in c.parameters()]

    plain = student_gradients()
    with actor.weights.swapped(other):
        swapped = actor.pipeline.hidden_states(batches["teacher"])
    after = [p.detach() for c in actor.chunks for p in c.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "live weights moved"
    behind = student_gradients()
    assert all(torch.equal(a, b) for a, b in zip(plain, behind, strict=True)), "gradients moved"
    actor.weights.restore(other)
    fresh = actor.pipeline.hidden_states(batches["teacher"])
    assert all(torch.equal(a, b) for a, b in zip(swapped, fresh, strict=True)), "swap is no set"
    return {"teacher_leaves_nothing": True}


class _Loss:
    """Inputs of the fused loss, and what is compared with it."""

    def __init__(self, machine: Machine, tokens: int, vocab: int, hidden: int) -> None:
        from sdpo_megatron.objectives import DistillationConfig, ObjectiveConfig, build_objective

        g = torch.Generator(machine.device).manual_seed(0)
        dtype = torch.float32 if machine.dry_run else torch.bfloat16

        def draw(rows: int, factor: float) -> torch.Tensor:
            drawn = torch.randn(rows, hidden, generator=g, device=machine.device)
            return (drawn * factor).to(dtype)

        self.machine, self.vocab = machine, vocab
        self.hidden = draw(tokens, 1.0).requires_grad_()
        self.weight = draw(vocab, 3.0 / hidden**0.5).requires_grad_()
        self.teacher_hidden = self.hidden.detach() + draw(tokens, 0.2)
        self.main_grad = torch.zeros(vocab, hidden, device=machine.device)
        self.ids = torch.randint(0, vocab, (tokens,), generator=g, device=machine.device)
        config = ObjectiveConfig(distillation=DistillationConfig(top_k=min(100, vocab // 2)))
        self.objective = build_objective(config)

    def run(self, chunk: int) -> torch.Tensor:
        from sdpo_megatron.objectives import HeadOptions, TokenTargets, single
        from sdpo_megatron.objectives.fused.head_loss import head_loss

        ones = torch.ones(len(self.ids), device=self.machine.device)
        targets = TokenTargets(
            token_ids=self.ids,
            distill_weight=ones / len(self.ids),
            policy_weight=0 * ones,
            advantage=0 * ones,
            rollout_log_probs=0 * ones,
            sequence_ids=torch.zeros_like(self.ids),
            loss_mask=ones > 0,
        )
        self.hidden.grad = None
        teacher = single(self.teacher_hidden, self.weight.detach())
        options = HeadOptions(chunk_tokens=chunk)
        result = head_loss(
            self.hidden, self.weight, targets, self.objective, teacher,
            options=options, main_grad=self.main_grad,
        )  # fmt: skip
        result.loss.backward()
        return result.loss.detach()

    @torch.no_grad()
    def products(self) -> None:
        """The four, in chunks of 512, results thrown away."""
        for start in range(0, len(self.ids), 512):
            rows = slice(start, start + 512)
            logits = self.teacher_hidden[rows] @ self.weight.t()
            torch.mm(self.hidden[rows], self.weight.t(), out=logits)
            torch.mm(logits, self.weight)
            torch.mm(logits.t(), self.hidden[rows])

    def peak(self, work: Callable[[], Any]) -> int:
        """Bytes above what was held before; 0 on a CPU, where nobody counts."""
        work()
        if self.machine.dry_run:
            return 0
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def kernels(self, chunk: int) -> float:
        """Launches of one chunk."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as found:
            self.run(chunk)
            torch.cuda.synchronize()
        return len(found.events()) / -(-len(self.ids) // chunk)

    def errors(self, chunk: int) -> dict[str, float]:
        """Relative to the same loss in float64: value and gradients."""
        self.main_grad.zero_()
        mine = self.run(chunk)
        exact = _Loss.__new__(_Loss)
        exact.__dict__ |= self.__dict__
        exact.hidden = self.hidden.detach().double().requires_grad_()
        exact.weight = self.weight.detach().double().requires_grad_()
        exact.teacher_hidden = self.teacher_hidden.double()
        exact.main_grad = torch.zeros_like(exact.weight)
        want = exact.run(chunk)
        assert self.hidden.grad is not None
        assert exact.hidden.grad is not None
        pairs = {
            "loss": (mine, want),
            "grad_hidden": (self.hidden.grad, exact.hidden.grad),
            "grad_weight": (self.main_grad, exact.main_grad),
        }
        return {name: float((a.double() - b).norm() / b.norm()) for name, (a, b) in pairs.items()}


def engine(machine: Machine) -> Found:
    return _beside_an_engine(machine, engine_stages.agreement)


def engine_fp8(machine: Machine) -> Found:
    return _beside_an_engine(machine, engine_stages.agreement, precision="fp8")


def engine_memory(machine: Machine) -> Found:
    return _beside_an_engine(machine, engine_stages.given_back, release_memory=True)


def _beside_an_engine(machine: Machine, ask: Callable[..., Found], **settings: Any) -> Found:
    from tests.conftest import tiny_tokenizer

    folder = _model("qwen3")
    tiny_tokenizer().save_pretrained(folder)
    actor = _actor(machine, folder)
    # So that the weights are not those that the engine started with.
    actor.step(actor.share_of(_attempts(0)))
    return ask(machine, actor, Path(folder), engine_stages.config(machine, **settings))


STAGES: dict[str, Callable[[Machine], Found]] = {
    function.__name__: function
    for function in (
        *(versions, local, te_bf16, tensorwise, blockwise, loss, step, resume, moe, hash),
        *(engine, engine_fp8, engine_memory),
    )
}


def main(argv: list[str]) -> None:
    """One stage; its record is the last line."""
    machine = Machine(dry_run="--dry-run" in argv)
    if not machine.dry_run and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; --dry-run shows that the stages work")
    try:
        record = {"status": "passed", **STAGES[argv[0]](machine)}
    except Skipped as why:
        record = {"status": "skipped", "why": str(why)}
    print(json.dumps(record, default=str))


if __name__ == "__main__":
    main(sys.argv[1:])
