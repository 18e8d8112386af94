"""`sdpo evaluate` of a tiny random model on a real engine: stopped, gone on with, scored anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.errors import ConfigError, ModelFileError
from sdpo_megatron.evaluation.records import Evaluation
from sdpo_megatron.loops.evaluate import command as commands
from sdpo_megatron.loops.evaluate import session
from sdpo_megatron.loops.evaluate.command import main

PACKAGED = ["model.prepare=null", "task.name=gsm8k", "task.limit=6"]


def overrides(model: Path, engine: Any) -> list[str]:
    return [
        f"model.path={model}",
        *PACKAGED,
        "task.verifier=tests.loops.parity:EvenLength",
        "validation.num_attempts=4",
        "rollout.sampling.max_new_tokens=10",
        f"rollout.engine.urls=[{engine.url}]",
        "rollout.engine.device=cpu",
        "judge.workers=1",
        "run.device=cpu",
    ]


@pytest.mark.slow
def test_a_stopped_evaluation_is_gone_on_with_and_its_numbers_are_those_of_its_samples(
    tmp_path: Path,
    tiny_llama: Path,
    tiny_engine: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(session, "_AT_ONCE", 8)  # two questions
    told, stop_after = 0, 2

    def tell(*_args: Any) -> None:
        nonlocal told
        told += 1
        if told == stop_after:
            raise KeyboardInterrupt

    command = [*overrides(tiny_llama, tiny_engine), "--output", str(tmp_path / "e")]
    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "_tell", tell)
        with pytest.raises(KeyboardInterrupt):
            main(command)
    before = Evaluation(tmp_path / "e").questions()
    assert len(before) == 4

    assert main(command) == 0
    questions = Evaluation(tmp_path / "e").questions()
    assert questions[:4] == before
    assert len({q.question for q in questions}) == 6
    attempts = [attempt for question in questions for attempt in question.attempts]
    assert len(attempts) == 24
    independent = sum(len(attempt.text) % 2 == 0 for attempt in attempts) / 24
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    assert results["tasks"][0]["avg"]["value"] == pytest.approx(independent)
    assert results["tasks"][0]["passed"]["1"]["value"] == pytest.approx(independent)
    assert "| gsm8k |" in capsys.readouterr().out

    again = [*command, "--against", str(tmp_path / "e")]
    assert main(again) == 0  # nothing is left to ask: no engine is needed
    assert "+0.000 [+0.000, +0.000]" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="evaluation of something else"):
        main([*command, "validation.num_attempts=2"])


def test_mistakes_are_told_before_an_engine_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["model.path=nowhere", *PACKAGED, "--output", str(tmp_path / "e")]
    with pytest.raises(ConfigError, match="is no evaluation"):
        main([*command, "--against", str(tmp_path / "x")])
    with pytest.raises(ConfigError, match="no --benchmarks are named"):
        main([*command, "--benchmarks-only"])
    with pytest.raises(ModelFileError, match="nowhere"):
        main(command)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="pip install"):
        main([*command, "--benchmarks", "ifeval"])
    assert not (tmp_path / "e").exists()


def test_tasks_are_named_with_their_files(tmp_path: Path) -> None:
    jobs = commands._jobs(["model.path=m", "model.prepare=null"], ["humaneval", "gsm8k"])
    assert [job.task.name for job in jobs] == ["humaneval", "gsm8k"]
    assert len(jobs[0].task.questions) == 164
    with pytest.raises(ConfigError, match="unknown task"):
        commands._jobs(["model.path=m"], ["gsm9k"])
