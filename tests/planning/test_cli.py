"""`sdpo plan`, as a person asks it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sdpo_megatron.cli import main
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.planning.request import Request

SCIENCE = ("experiment=science", "shape=qwen3-8b", "nodes=4", "engine_nodes=4", "response=3000")


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["plan", *arguments]) == 0
    return capsys.readouterr().out


def test_a_plan_has_memory_seconds_loads_and_a_simulation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = planned(capsys, *SCIENCE, "max_staleness=2", "sim_steps=3")
    assert "Memory of the fullest rank (fits)" in text
    assert "32 trainer ranks on 4 machines, 32 engines of 1" in text
    for phase in ("rollout", "teacher", "student", "optimizer", "publish", "checkpoint"):
        assert f"\n  {phase} " in text
    assert "saturates first. To change that:" in text or "saturate first. To change" in text
    assert "Simulated, max_staleness=2:" in text
    assert "copy of a checkpoint" in text


def test_more_engines_shorten_the_rollout_and_change_the_verdict(
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = ("batch.questions=1024", "engine_nodes=1", "max_staleness=8", "sim_steps=0")
    text = planned(capsys, *SCIENCE, *few)
    assert "Engines saturate first. To change that: more engine_nodes" in text


def test_the_layout_is_the_runs_own_where_it_asks_for_one() -> None:
    asked = Request.read([*SCIENCE, "parallel.tensor=8", "parallel.sequence_parallel=true"])
    model, sheet = asked.plan()
    assert (model.cluster.parallel.tensor, model.cluster.data_parallel) == (8, 4)
    assert sheet is not None
    assert sheet.title.startswith("tensor 8, data 4")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nodes=many"], "nodes=many: expected a whole number"),
        (["transport=pigeon"], "expected one of disk, distributed, tensor"),
    ],
)
def test_impossible_requests(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Request.read([*SCIENCE, *arguments])


def test_a_machine_without_known_speeds_is_asked_for_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "experiment=science", "shape=qwen3-8b"]) == 2
    assert "sdpo plan calibrate=RUN speeds=FILE" in capsys.readouterr().err


def test_it_answers_without_torch() -> None:
    program = (
        "import sys\nfrom sdpo_megatron.cli import main\n"
        f"assert main(['plan', *{SCIENCE}, 'sim_steps=2']) == 0\n"
        "print(sorted({'torch', 'megatron', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
