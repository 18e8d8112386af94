"""The gate on log-probabilities that drift apart: what it counts, when it acts, what falls back."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.actor.config import DriftConfig
from sdpo_megatron.actor.drift import DriftGate
from sdpo_megatron.errors import ConfigError, DriftError
from tests.actor.worlds import made_up_samples, make_actor, tiny_model
from tests.distributed import run_ranks


def test_a_gap_above_the_limit_stops() -> None:
    gate = DriftGate(DriftConfig(engine_limit=0.1))
    gate.engine_gap(0.1)
    with pytest.raises(DriftError, match=r"0\.101 nats a token .*drift\.engine_limit=0\.1"):
        gate.engine_gap(0.101)


def test_no_limit_and_nothing_measured_say_nothing() -> None:
    DriftGate(DriftConfig()).engine_gap(1e9)
    gate = DriftGate(DriftConfig(engine_limit=0.1))
    gate.engine_gap(math.nan)


def test_steps_in_a_row_are_counted_from_anew_after_a_good_one() -> None:
    gate = DriftGate(DriftConfig(engine_limit=0.1, patience=3))
    for gap in (1.0, 1.0, 0.0, 1.0, 1.0):
        gate.engine_gap(gap)
    with pytest.raises(DriftError):
        gate.engine_gap(1.0)


def test_engines_fall_back_first_then_the_trainer_then_the_run_stops() -> None:
    gate = DriftGate(DriftConfig(engine_limit=0.1, action="fall_back"), ["engine", "trainer"])
    gate.engine_gap(1.0)
    gate.engine_gap(1.0)  # of the same batch: the engines are as they were
    assert gate.take_due() == ["engine"]
    assert gate.take_due() == []
    gate.engine_gap(1.0)
    assert gate.take_due() == ["trainer"]
    with pytest.raises(DriftError):
        gate.engine_gap(1.0)


def test_the_trainer_s_own_drift_is_the_trainer_s_to_mend() -> None:
    gate = DriftGate(DriftConfig(fp8_limit=0.1, action="fall_back"), ["engine", "trainer"])
    gate.fp8_gap(0.2)
    assert gate.take_due() == ["trainer"]
    assert gate.in_fp8 == ["engine"]
    with pytest.raises(DriftError, match=r"from itself in bf16 \(drift\.fp8_limit=0\.1\)"):
        gate.fp8_gap(0.2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"engine_limit": 0.0}, "engine_limit=0.0: must be above 0"),
        ({"fp8_limit": -1.0}, "fp8_limit=-1.0: must be above 0"),
        ({"patience": 0}, "patience=0: must be at least 1"),
        ({"fp8_limit": 0.1, "fp8_every": 0}, "is never measured with fp8_every=0"),
        ({"action": "warn"}, "expected one of stop, fall_back"),
    ],
)
def test_gates_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DriftConfig(**fields)


# --- In an actor ----------------------------------------------------------------------------------


def heard(samples: list[Any], said: Any, *, shift: float) -> list[Any]:
    """The samples as an engine would have sent them whose log-probs are off by `shift`."""
    return [replace(s, log_probs=said[s.question_id, s.index] + shift) for s in samples]


def engine_drifts(rank: int, world: int, folder: str) -> dict[str, Any]:
    """A step on samples whose log-probs are off by 0.3 nats, then one on honest ones."""
    import torch

    from sdpo_megatron.actor.batches.minibatch import Minibatch
    from sdpo_megatron.actor.model.config import ParallelConfig

    actor = make_actor(
        folder, parallel=ParallelConfig(pipeline=2), drift=DriftConfig(engine_limit=0.2)
    )
    samples = [sample for sample in made_up_samples(0) if sample.distill_weight]
    (share,) = actor.share_of(samples)
    batch = Minibatch(actor.config, actor.runtime, share)
    states = actor.pipeline.hidden_states(batch.packed({"student"})["student"])
    mine = {
        (s.question_id, s.index): part.numpy()
        for hidden, chosen in zip(states, batch.mine, strict=False)
        for s, part in zip(
            chosen,
            actor._log_probs(hidden, chosen).split([len(s.response_ids) for s in chosen]),
            strict=True,
        )
    }
    everyone: list[Any] = [None] * world
    torch.distributed.all_gather_object(everyone, mine)
    said = everyone[-1]  # known on the last stage alone
    before = [p.detach().clone() for c in actor.chunks for p in c.parameters()]
    refused = ""
    try:
        actor.step(actor.share_of(heard(samples, said, shift=0.3)))
    except DriftError as error:
        refused = str(error)
    after = [p.detach() for c in actor.chunks for p in c.parameters()]
    untouched = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    good = actor.step(actor.share_of(heard(samples, said, shift=0.0)))
    return {
        "refused": refused,
        "untouched": untouched,
        "good": good["importance/log_prob_gap"],
        "steps": actor.optimizer_steps,
    }


@pytest.mark.slow
def test_a_step_on_what_a_drifted_engine_said_is_not_taken_on_any_rank(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    for found in run_ranks(engine_drifts, 2, str(folder)):
        assert "0.3 nats a token apart" in found["refused"]
        assert found["untouched"]
        assert found["good"] < 1e-5
        assert found["steps"] == 1


def fp8_drifts(rank: int, world: int, folder: str) -> dict[str, Any]:
    """A stand-in for FP8 products: where Megatron's configuration asks for FP8, the inputs of
    matrices are rounded to e4m3. What is measured and what is left afterwards is the actor's."""
    import torch

    from sdpo_megatron.actor.drift import in_bf16, leave_fp8
    from sdpo_megatron.actor.model.config import PrecisionConfig

    actor = make_actor(
        folder,
        precision=PrecisionConfig(dtype="bf16"),
        drift=DriftConfig(fp8_limit=1e-9, action="fall_back", fp8_every=2),
    )
    actor.gate.in_fp8 = ["trainer"]
    rounds = []
    for module in actor.chunks[0].modules():
        if type(module).__name__ in ("ColumnParallelLinear", "RowParallelLinear"):
            config = module.config

            def round_input(_module: Any, inputs: Any, config: Any = config) -> Any:
                if not config.fp8:
                    return None
                rounds.append(1)
                return (inputs[0].to(torch.float8_e4m3fn).to(inputs[0].dtype), *inputs[1:])

            module.register_forward_pre_hook(round_input)
            config.fp8 = "e4m3"
    with in_bf16(actor.chunks):
        off = config.fp8
    metrics = [actor.step(actor.share_of(made_up_samples(0)))]
    due = actor.gate.take_due()
    leave_fp8(actor.chunks)
    before = len(rounds)
    metrics += [actor.step(actor.share_of(made_up_samples(step))) for step in (1, 2)]
    return {
        "off": off,
        "on": before,
        "after": len(rounds) - before,
        "gaps": [found.get("drift/fp8_gap") for found in metrics],
        "due": due,
    }


@pytest.mark.slow
def test_the_trainer_in_fp8_is_measured_against_itself_in_bf16(tmp_path: Path) -> None:
    found = run_ranks(fp8_drifts, 1, str(tiny_model(tmp_path / "model")))[0]
    assert found["off"] is None
    assert found["gaps"][0] > 1e-3
    assert found["gaps"][1:] == [None, None]  # nothing is left to measure
    assert found["due"] == ["trainer"]
    assert found["on"] > 0
    assert found["after"] == 0
