"""The memory sheet: what one trainer rank holds on its GPU, line by line, with the arithmetic.

Counted is the worst moment of an optimiser step in the pipeline stage that holds most, for the
longest micro-batch and for responses as long as they may be. Letters: t tensor, p pipeline, c
context, d data parallel, T tokens of a micro-batch on one rank (micro_batch_tokens / c), H hidden
size, L layers of a stage.

Kept between and during steps (bytes a parameter of the rank):

    weights     2 (bf16), 4 (fp32)
    gradients   4, whole on every data-parallel rank: Megatron shards the optimiser, not them
    master      4 / (d c); none beside fp32 weights, which are their own
    moments     8 / (d c)
    weight set  4 / (d c) each: the teacher's, and the initial one of a KL anchor; none of what is
                kept on the host

Activations of a layer a token, bf16, flash attention, nothing recomputed: what the backward pass
reads. That is the inputs of both norms and their outputs (4 H), q, k, v before and after their
norms, the attention's output and its fp32 log-sum-exp, gate, up and their product (3 F; of a
mixture, of the chosen experts, with their inputs and outputs). Matrices' outputs are divided by t,
the H-wide ones under sequence parallelism too. A pipeline's first stage has p micro-batches in
flight. A layer that is recomputed keeps its input alone (its feed-forward layer: nothing more), and
one layer at a time is whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sdpo_megatron.actor.model.config import ParallelConfig
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.planning.hardware import MIB, Machines
from sdpo_megatron.planning.rank_share import BF16, FP32, layer_activation_bytes, parameters_on
from sdpo_megatron.planning.sheet import Line, Sheet
from sdpo_megatron.weights.spec import ModelSpec


def memory_sheet(
    config: TrainConfig,
    spec: ModelSpec,
    machines: Machines,
    *,
    title: str = "",
    parallel: ParallelConfig | None = None,
    data_parallel: int | None = None,
) -> Sheet:
    """The sheet of the stage that holds most.

    Args:
        config: Of the run; layout and data-parallel size are its own unless given.
        spec: The model's shape.
        machines: What the ranks run on, and whether engines share it.
        title: Begins the sheet's title.

    Raises:
        ConfigError: Engines share the GPUs, and how much of each is theirs is not said.
    """
    layout = parallel or config.parallel
    copies = data_parallel or config.run.data_parallel
    sheets = [
        Sheet(
            title=f"{title}{layout_text(layout, copies)}, stage {stage}",
            lines=tuple(_Rank(config, spec, machines, layout, copies, stage).lines()),
            capacity=machines.gpu.memory_mib * MIB,
        )
        for stage in sorted({0, layout.pipeline - 1})
    ]
    return max(sheets, key=lambda sheet: sheet.total)


def layout_text(parallel: ParallelConfig, data_parallel: int) -> str:
    """A layout in words, without what is 1."""
    sizes = {
        "tensor": parallel.tensor,
        "pipeline": parallel.pipeline,
        "context": parallel.context,
        "expert": parallel.expert,
        "data": data_parallel,
    }
    words = [f"{name} {size}" for name, size in sizes.items() if size > 1] or ["one rank"]
    if parallel.recompute != "none":
        some = f" of {parallel.recompute_layers} layers" if parallel.recompute_layers else ""
        words.append(f"{parallel.recompute} recomputation{some}")
    return ", ".join(words)


def weight_sets(config: TrainConfig) -> tuple[str, ...]:
    """The weight sets beside the live one; `actor.teacher.weight_set_names` without torch."""
    names = []
    if config.objective.distillation is not None:
        own = {"ema": "ema", "restart_freeze": "restarted", "live": ""}
        names.append(own.get(config.teacher.kind, "initial"))
    if config.objective.anchor is not None:
        names.append("initial")
    return tuple(dict.fromkeys(name for name in names if name))


def scoring_passes(config: TrainConfig) -> int:
    """Forward passes whose hidden states are kept until the loss (`actor.teacher`)."""
    passes = 0
    if (distillation := config.objective.distillation) is not None:
        passes = 2 if config.teacher.kind == "trust_region" else 1
        passes *= 1 if distillation.null_beta is None else 2
    return passes + (config.objective.anchor is not None)


@dataclass(frozen=True)
class _Rank:
    config: TrainConfig
    spec: ModelSpec
    machines: Machines
    parallel: ParallelConfig
    data_parallel: int
    stage: int

    def lines(self) -> Iterator[Line]:
        yield from self._parameter_lines()
        of_a_pass = [*self._activation_lines()]
        if self.stage == self.parallel.pipeline - 1:
            of_a_pass += self._loss_lines()
        yield from of_a_pass
        yield self._engine_line(sum(line.bytes for line in of_a_pass))
        yield Line(
            name="CUDA, NCCL, fragments",
            sum="3 GiB + 5 %",
            bytes=self.machines.gpu.reserve_bytes,
        )

    def _parameter_lines(self) -> Iterator[Line]:
        held = parameters_on(self.spec, self.parallel, self.stage)
        number, shards = held.dense + held.expert, self.data_parallel * self.parallel.context
        experts = self.parallel.expert * self.parallel.expert_tensor
        expert_shards = max(1, self.parallel.tensor * shards // experts)
        owned = math.ceil(held.dense / shards) + math.ceil(held.expert / expert_shards)
        whole, part = f"{number / 1e6:,.0f} M", f"{owned / 1e6:,.0f} M owned"
        dtype, sets = self.config.precision.dtype, weight_sets(self.config)
        width = BF16 if dtype == "bf16" else FP32
        master = FP32 if dtype == "bf16" else 0
        names = " and ".join(sets) or "none"
        on_host = self.config.teacher.keep_weights_on_host
        yield Line(name=f"{dtype} weights", sum=f"{width} B x {whole}", bytes=width * number)
        yield Line(name="fp32 gradients", sum=f"4 B x {whole}", bytes=FP32 * number)
        yield Line(name="master weights", sum=f"{master} B x {part}", bytes=master * owned)
        yield Line(name="moments", sum=f"8 B x {part}", bytes=2 * FP32 * owned)
        yield Line(
            name="weight sets",
            sum=f"{names}: in host memory" if on_host else f"{names}: {4 * len(sets)} B x {part}",
            bytes=0 if on_host else FP32 * len(sets) * owned,
        )

    def _activation_lines(self) -> Iterator[Line]:
        parallel = self.parallel
        tokens = math.ceil(self.config.batch.micro_batch_tokens / parallel.context)
        layers = self.spec.num_layers // parallel.pipeline
        whole = layer_activation_bytes(self.spec, parallel)
        kept = layer_activation_bytes(self.spec, parallel, recomputes=True)
        times = f"{tokens:,} tokens x {parallel.pipeline} in flight"
        cut = (parallel.recompute_layers or layers) if parallel.recompute == "full" else 0
        if cut:
            split = parallel.tensor if parallel.sequence_parallel else 1
            inputs = BF16 * self.spec.hidden // split
            yield Line(
                name="recomputed layers' inputs",
                sum=f"{cut} layers x {inputs:,} B x {times}",
                bytes=cut * inputs * tokens * parallel.pipeline,
            )
        if cut < layers:
            yield Line(
                name="activations",
                sum=f"{layers - cut} layers x {kept:,} B x {times}",
                bytes=(layers - cut) * kept * tokens * parallel.pipeline,
            )
        if parallel.recompute != "none" and (cut or kept < whole):
            yield Line(
                name="one layer recomputed",
                sum=f"{whole:,} B x {tokens:,} tokens",
                bytes=whole * tokens,
            )

    def _loss_lines(self) -> Iterator[Line]:
        batch, sampling = self.config.batch, self.config.rollout.sampling
        hidden, longest = self.spec.hidden, sampling.max_new_tokens
        attempts = (batch.questions_per_step or batch.questions) * sampling.num_attempts
        mine = math.ceil(attempts / self.data_parallel)
        passes = scoring_passes(self.config)
        rows = self.spec.padded_vocab(self.parallel.tensor) // self.parallel.tensor
        on_host = self.config.teacher.keep_hidden_on_host
        shared = self.parallel.tensor * self.parallel.context
        part = f" / {shared}" if shared > 1 else ""
        yield Line(
            name="teacher's hidden states",
            sum="in host memory"
            if on_host
            else f"{passes} x {mine} attempts x {longest:,} tokens x {BF16 * hidden:,} B{part}",
            bytes=0 if on_host else passes * mine * longest * BF16 * hidden // shared,
        )
        response = min(batch.micro_batch_tokens, mine * longest)
        if on_host or shared > 1:
            yield Line(
                name="those of one micro-batch",
                sum=f"{passes} x {response:,} tokens x {BF16 * hidden:,} B",
                bytes=passes * response * BF16 * hidden,
            )
        yield Line(
            name="hidden states of the loss",
            sum=f"{response:,} tokens x {hidden:,} x (2 + 4) B",
            bytes=response * hidden * (BF16 + FP32),
        )
        head = f"{rows * hidden / 1e6:,.0f} M"
        yield Line(
            name="heads of other weight sets",
            sum=f"{passes} x 2 B x {head}",
            bytes=passes * BF16 * rows * hidden,
        )
        yield Line(name="gradient of the head", sum=f"4 B x {head}", bytes=FP32 * rows * hidden)
        yield Line(
            name="logits of a chunk",
            sum=f"{batch.logits_mib:g} MiB (batch.logits_mib)",
            bytes=round(batch.logits_mib * MIB),
        )

    def _engine_line(self, of_a_pass: int) -> Line:
        """`of_a_pass`: bytes that are there during a pass alone, when an engine that takes turns
        with the trainer has none."""
        engine = self.config.rollout.engine
        if not self.machines.shared or engine.urls:
            return Line(name="engine", sum="on GPUs of its own", bytes=0)
        if not engine.mem_fraction:
            raise ConfigError(
                "rollout.engine.mem_fraction=0 lets SGLang take most of a GPU, and here each is "
                "shared with a trainer rank; set it, as in rollout.engine.mem_fraction=0.4, or "
                "give the engines machines of their own (engine_nodes)"
            )
        share = round(engine.mem_fraction * self.machines.gpu.memory_mib * MIB)
        words = f"{engine.mem_fraction:g} of the GPU (rollout.engine.mem_fraction)"
        if engine.release_memory:
            share, words = max(0, share - of_a_pass), f"{words}, beyond what a pass needs"
        return Line(name="engine", sum=words, bytes=share)
