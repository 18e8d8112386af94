"""A mixture's experts spread over ranks by the all-to-all, and tokens padded as FP8 wants them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.actor.worlds import made_up_samples, make_actor, tiny_model
from tests.distributed import run_ranks

pytestmark = pytest.mark.slow


def stepped(rank: int, world: int, folder: str, expert: int, recipe: str | None) -> dict[str, Any]:
    """A step on `expert` ranks; with a recipe, packed and routed as under it, products staying in
    fp32."""
    import dataclasses

    from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher

    from sdpo_megatron.actor.model.config import ParallelConfig, PrecisionConfig

    actor = make_actor(folder, parallel=ParallelConfig(expert=expert))
    config = actor.chunks[0].module.config
    if recipe:
        config.fp8, config.fp8_recipe = "hybrid", recipe
        config.moe_router_padding_for_quantization = True
        told = PrecisionConfig(fp8=recipe)  # type: ignore[arg-type]
        actor.config = dataclasses.replace(actor.config, precision=told)
    counts: list[list[int]] = []
    seen: list[Any] = []
    for module in actor.chunks[0].modules():
        dispatcher = getattr(module, "token_dispatcher", None)
        if dispatcher is None:
            continue
        assert isinstance(dispatcher, MoEAlltoAllTokenDispatcher)
        seen.append(dispatcher)

        def counted(routing: Any, count: Any = dispatcher.preprocess) -> Any:
            counts.append(routing.sum(0).tolist())
            return count(routing)

        dispatcher.preprocess = counted
    metrics = actor.step(actor.share_of(made_up_samples(0)))
    return {
        "layers": len(seen),
        "counts": counts,
        "loss": metrics["train/loss"],
        "norm": metrics["train/grad_norm"],
        "teacher": metrics["teacher/kl_mean"],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("moe"), family="qwen3_moe", tied=False)


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    return run_ranks(stepped, 1, str(folder), 1, None)[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("recipe", [None, "tensorwise", "mxfp8"])
def test_experts_on_two_ranks_do_what_they_do_on_one(
    folder: Path, alone: dict[str, Any], recipe: str | None
) -> None:
    for rank in run_ranks(stepped, 2, str(folder), 2, recipe):
        assert rank["layers"] == 4
        for key in ("loss", "norm", "teacher"):
            assert rank[key] == pytest.approx(alone[key], rel=1e-5), key
        multiple = {None: 1, "tensorwise": 16, "mxfp8": 32}[recipe]
        sizes = [size for counts in rank["counts"] for size in counts]
        assert len(sizes) > 4
        assert all(size % multiple == 0 for size in sizes)
        if recipe is None:
            assert any(size % 16 for size in sizes)  # or the others would show nothing
