"""Batch: every line once, shards that cover exactly, restarts that lose at most a part."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdpo_megatron.errors import ConfigError, TaskFileError
from sdpo_megatron.judging.cli import main
from sdpo_megatron.judging.offline.batch import run_batch
from sdpo_megatron.judging.offline.config import BatchConfig, shard_of_environment
from sdpo_megatron.tasks import TaskConfig, load_task

OBEYS = "tests.judging.own_verifiers:Obeys"


def write_input(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def obeying(texts: list[str]) -> list[dict[str, Any]]:
    return [
        {"id": f"line {n}", "verifier": OBEYS, "item": {}, "response": text}
        for n, text in enumerate(texts)
    ]


def results(output: Path) -> list[dict[str, Any]]:
    parts = sorted(output.glob("shard-*/part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def quiet(config: BatchConfig, **more: Any) -> tuple[int, list[str]]:
    told: list[str] = []
    return run_batch(config, announce=told.append, **more), told


def choices(count: int) -> list[dict[str, Any]]:
    """Line n is right exactly when n is even."""
    return [
        {
            "id": n,
            "verifier": "multiple_choice",
            "item": {"answer": "A"},
            "response": f"<answer>{'AB'[n % 2]}</answer>",
        }
        for n in range(count)
    ]


def test_each_line_gets_one_verdict_in_order_and_in_parts(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.jsonl", choices(10))
    config = BatchConfig(input=str(source), output=str(tmp_path / "out"), part_size=4)
    code, told = quiet(config)
    assert code == 0
    got = results(tmp_path / "out")
    assert [line["id"] for line in got] == [str(n) for n in range(10)]
    assert [line["verdict"]["success"] for line in got] == [n % 2 == 0 for n in range(10)]
    shard = tmp_path / "out" / "shard-00000-of-00001"
    assert len(list(shard.glob("part-*.jsonl"))) == 3
    done = json.loads((shard / "_DONE.json").read_text())
    assert done == {"lines": 10, "successes": 5, "failed": 0}
    assert told[-1].startswith("shard 0/1: 10 lines, 5 successes, 0 failed, 0 from before")


def test_shards_cover_every_line_exactly_once(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.jsonl", choices(11))
    for shard in range(3):
        config = BatchConfig(
            input=str(source), output=str(tmp_path / "out"), shard=shard, num_shards=3
        )
        assert quiet(config)[0] == 0
    ids = [int(line["id"]) for line in results(tmp_path / "out")]
    assert ids == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8]


def test_a_second_run_judges_only_what_failed_before(tmp_path: Path) -> None:
    marker = tmp_path / "died"
    texts = ["fine", "print", f"die-once {marker}", "fine"]
    source = write_input(tmp_path / "in.jsonl", obeying(texts))
    config = BatchConfig(
        input=str(source), output=str(tmp_path / "out"), part_size=2, workers=1, retries=0
    )
    code, told = quiet(config)
    assert code == 1
    assert "3 successes, 1 failed" in told[-1]
    before = results(tmp_path / "out")
    assert before[2]["failure"]["kind"] == "VerifierUnavailable"
    code, told = quiet(config)
    assert code == 0
    assert "4 lines, 4 successes, 0 failed, 3 from before" in told[-1]
    after = results(tmp_path / "out")
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, True]


def test_killed_at_any_moment_it_resumes_without_a_torn_part(tmp_path: Path) -> None:
    texts = [f"sleep 0.0{n % 7}" for n in range(48)]
    source = write_input(tmp_path / "in.jsonl", obeying(texts))
    output = tmp_path / "out"
    command = [sys.executable, "-m", "sdpo_megatron.judging.cli", "batch"]
    command += [str(source), str(output), "--part-size", "6", "--workers", "2"]
    path = os.pathsep.join(p for p in [os.getcwd(), os.environ.get("PYTHONPATH", "")] if p)
    parts_seen = []
    for wanted in (1, 3, 5):
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL
        )
        while len(list(output.glob("shard-*/part-*.jsonl"))) < wanted and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        whole = results(output)  # every part parses
        assert len(whole) % 6 == 0
        parts_seen.append(len(whole) // 6)
    assert parts_seen[0] >= 1
    assert parts_seen == sorted(parts_seen)
    last = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True)
    assert last.returncode == 0, last.stderr
    got = results(output)
    assert [line["id"] for line in got] == [f"line {n}" for n in range(48)]
    assert all(line["verdict"]["success"] for line in got)


def test_lines_may_name_a_question_of_a_task(tmp_path: Path) -> None:
    task = load_task(TaskConfig(name="gsm8k", limit=3))
    lines = [
        {"question_id": q.id, "response": f"\\boxed{{{q.item['answer']}}}"} for q in task.questions
    ]
    source = write_input(tmp_path / "in.jsonl", [*lines, {**lines[0], "response": "none"}])
    code, _ = quiet(BatchConfig(input=str(source), output=str(tmp_path / "out")), task=task)
    got = results(tmp_path / "out")
    assert code == 0
    assert [line["verdict"]["reward"] for line in got] == [1.0, 1.0, 1.0, 0.0]
    assert [line["id"] for line in got] == ["gsm8k/0#1", "gsm8k/1#2", "gsm8k/2#3", "gsm8k/0#4"]
    lines[1]["question_id"] = "gsm8k/999"
    other = write_input(tmp_path / "other.jsonl", lines)
    with pytest.raises(TaskFileError, match=r"other\.jsonl:2: the task gsm8k has no question"):
        quiet(BatchConfig(input=str(other), output=str(tmp_path / "out2")), task=task)


def test_a_malformed_line_is_named_before_anything_is_judged(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    good = json.dumps(choices(1)[0])
    source.write_text(f"{good}\n\n{{broken\n")
    config = BatchConfig(input=str(source), output=str(tmp_path / "out"))
    with pytest.raises(TaskFileError, match=r"in\.jsonl:3: not JSON: .* at column 2"):
        quiet(config)
    assert not (tmp_path / "out").exists()
    source.write_text(f"{good}\n{good}\n")
    with pytest.raises(TaskFileError, match=r"in\.jsonl:2: the id '0' is already used"):
        quiet(config)


def test_an_output_of_another_input_is_refused(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.jsonl", choices(2))
    config = BatchConfig(input=str(source), output=str(tmp_path / "out"))
    assert quiet(config)[0] == 0
    with pytest.raises(ConfigError, match="parts of another input or part size"):
        quiet(replace(config, part_size=1))
    write_input(source, choices(3))
    with pytest.raises(ConfigError, match="parts of another input or part size"):
        quiet(config)


def test_the_shard_comes_from_the_variables_of_an_indexed_job() -> None:
    assert shard_of_environment({}) == (0, 1)
    indexed = {"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "8"}
    assert shard_of_environment(indexed) == (2, 8)
    assert shard_of_environment({"JOB_COMPLETION_INDEX": "1", "SDPO_NUM_SHARDS": "3"}) == (1, 3)
    with pytest.raises(ConfigError, match="the number of shards is unknown"):
        shard_of_environment({"JOB_COMPLETION_INDEX": "2"})
    with pytest.raises(ConfigError, match="expected numbers"):
        shard_of_environment({"JOB_COMPLETION_INDEX": "two", "JOB_COMPLETIONS": "8"})
    with pytest.raises(ConfigError, match="shard=8: must be below num_shards=8"):
        BatchConfig(input="", output="", shard=8, num_shards=8)


def test_the_command_line_names_what_a_user_can_mend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["batch", str(tmp_path / "missing.jsonl"), str(tmp_path / "out")]) == 2
    assert "missing.jsonl:1: there is no such file" in capsys.readouterr().err
    assert main(["serve", "--verifier", "multiple_chioce"]) == 2
    assert "unknown verifier 'multiple_chioce'" in capsys.readouterr().err
