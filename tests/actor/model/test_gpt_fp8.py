"""What Megatron and the micro-batches are told under FP8; nothing is multiplied here."""

from __future__ import annotations

from typing import Any

import pytest

from tests.actor.worlds import made_up_samples, tiny_model
from tests.distributed import run_ranks


def told(rank: int, world: int, folder: str) -> dict[str, Any]:
    """A runtime that claims a card; returns what is asked for on it."""
    import dataclasses

    import sdpo_megatron.actor.runtime as runtimes
    from sdpo_megatron.actor.batches.minibatch import Minibatch
    from sdpo_megatron.actor.batches.plan import StepPlanner
    from sdpo_megatron.actor.batches.share import contents, filled
    from sdpo_megatron.actor.batches.table import SampleTable
    from sdpo_megatron.actor.config import ActorConfig
    from sdpo_megatron.actor.model.config import ParallelConfig, PrecisionConfig
    from sdpo_megatron.actor.model.gpt import build_model, init_model_parallel, transformer_config
    from sdpo_megatron.errors import ConfigError
    from sdpo_megatron.weights.spec import ModelSpec

    parallel = ParallelConfig()
    init_model_parallel(parallel)
    spec = ModelSpec.from_folder(folder)
    precision = PrecisionConfig(fp8="tensorwise", fp8_format="e4m3", bf16_layers=1)
    config = transformer_config(spec, parallel, precision)
    runtime = runtimes.current_runtime()
    samples = made_up_samples(0)
    table = SampleTable.of_samples(samples)
    lengths = {
        fp8: {
            role: [p.tokens.shape[1] for p in packed]
            for config in [ActorConfig(precision=PrecisionConfig(fp8=fp8))]
            for share in [StepPlanner(config, spec, num_ranks=1).plan(table, 0)[0]]
            for role, packed in Minibatch(
                config, runtime, filled(share, [samples[at] for _, at in contents(share)])[0]
            )
            .packed({"student", "teacher"})
            .items()
        }
        for fp8 in (None, "tensorwise")
    }
    refused = {}
    for name, capability in (("ampere", (8, 0)), ("hopper", (9, 0))):
        claimed = dataclasses.replace(runtime, te_problem="it cannot be imported here: broken")
        object.__setattr__(claimed, "capability", lambda capability=capability: capability)
        runtimes._current = claimed
        try:
            build_model(spec, parallel, precision)
        except ConfigError as error:
            refused[name] = str(error)
    return {
        "told": {
            key: getattr(config, key)
            for key in (
                "fp8",
                "fp8_recipe",
                "first_last_layers_bf16",
                "num_layers_at_start_in_bf16",
                "num_layers_at_end_in_bf16",
            )
        },
        "lengths": lengths,
        "refused": refused,
    }


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tiny_model(tmp_path_factory.mktemp("fp8"))
    return run_ranks(told, 1, str(folder))[0]  # type: ignore[no-any-return]


def test_megatron_is_told_the_recipe(answer: dict[str, Any]) -> None:
    assert answer["told"] == {
        "fp8": "e4m3",
        "fp8_recipe": "tensorwise",
        "first_last_layers_bf16": True,
        "num_layers_at_start_in_bf16": 1,
        "num_layers_at_end_in_bf16": 1,
    }


def test_micro_batches_are_padded_to_whole_tiles(answer: dict[str, Any]) -> None:
    """Transformer Engine refuses any other length in the first layer."""
    plain, padded = answer["lengths"][None], answer["lengths"]["tensorwise"]
    for role in ("student", "teacher"):
        assert all(length % 128 for length in plain[role])  # or this would show nothing
        assert all(length % 128 == 0 for length in padded[role])
        assert [-(-length // 128) * 128 for length in plain[role]] == padded[role]


def test_what_the_card_or_transformer_engine_cannot_do_is_refused(answer: dict[str, Any]) -> None:
    assert "compute capability 8.0" in answer["refused"]["ampere"]
    assert answer["refused"]["hopper"] == (
        "precision.fp8 needs Transformer Engine on a CUDA device, and it cannot be imported here: "
        "broken"
    )
