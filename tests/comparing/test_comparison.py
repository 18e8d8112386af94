"""`sdpo compare`: which runs are made, what is kept of them, and going on with what was stopped.

The trainer is a stand-in here that writes a metrics.jsonl; test_real_comparison.py trains.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sdpo_megatron import cli
from sdpo_megatron.comparing import runs
from sdpo_megatron.comparing.variants import VARIANTS, chosen
from sdpo_megatron.config import load
from sdpo_megatron.errors import ConfigError

TRAINER = """
import json, sys
from pathlib import Path

words = sys.argv[1:]
with Path(LOG).open("a") as log:
    log.write(json.dumps(words) + "\\n")
given = dict(word.split("=", 1) for word in words if "=" in word)
folder = Path(given["run.folder"] if given else words[words.index("--resume") + 1])
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
(folder / "config.yaml").write_text("")
stopped = Path(LOG).with_name("stop-at")
if stopped.exists() and folder.name == stopped.read_text():
    stopped.unlink()
    sys.exit(75)
rate = 0.8 if "grpo" in folder.name else 0.5
with (folder / "metrics.jsonl").open("w") as file:
    for step in (1, 2):
        row = {"step": step, "policy_version": step, "rollout/success_rate": rate * step / 2,
               "rollout/attempts": 8.0, "train/loss": None, "time/rollout_s": 1.0}
        file.write(json.dumps(row) + "\\n")
"""


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in; returns the file of the commands that it was given."""
    log = tmp_path / "commands"
    script = tmp_path / "trainer.py"
    script.write_text(f"LOG = {str(log)!r}\n{TRAINER}")
    monkeypatch.setattr(runs, "_COMMAND", (sys.executable, str(script)))
    return log


def compare(folder: Path, *more: str) -> int:
    variants = ["--variants", "sdpo,grpo", "--seeds", "0,1"]
    return cli.main(["compare", "experiment=quickstart", "--folder", str(folder), *variants, *more])


def commands(log: Path) -> list[list[str]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_every_variant_runs_with_every_seed_and_the_tables_follow(
    trainer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "c"
    assert compare(folder, "--window", "1") == 0
    given = commands(trainer)
    assert [words[1] for words in given] == ["objective=sdpo", "objective=grpo"] * 2
    assert [words[0] for words in given] == ["experiment=quickstart"] * 4
    assert [w for words in given for w in words if w.startswith("run.seed")] == [
        "run.seed=0", "run.seed=0", "run.seed=1", "run.seed=1",
    ]  # fmt: skip
    assert not (folder / "runs" / "sdpo-0" / "checkpoints").exists()
    record = json.loads((folder / "results" / "grpo-1.json").read_text())
    assert record["steps"] == [
        {"step": 1, "rollout/success_rate": 0.4, "rollout/attempts": 8.0},
        {"step": 2, "rollout/success_rate": 0.8, "rollout/attempts": 8.0},
    ]
    assert record["made_with"]["python"]
    table = (folder / "comparison.md").read_text()
    assert "| sdpo | 2 | 0.250 ± 0.000 | 0.500 ± 0.000 | - | never, never | 16 |" in table
    assert "| grpo | 2 | 0.400 ± 0.000 | 0.800 ± 0.000 | - | 16, 16 | 16 |" in table
    assert "| sdpo | 0.25 0.50 |" in table
    assert table in capsys.readouterr().out


def test_a_stopped_comparison_goes_on_where_it_was(trainer: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    (tmp_path / "stop-at").write_text("grpo-0")
    assert compare(folder) == 75
    assert len(commands(trainer)) == 2
    assert compare(folder) == 0
    assert commands(trainer)[2] == ["--resume", str(folder / "runs" / "grpo-0")]
    assert len(commands(trainer)) == 5
    assert compare(folder, "--seeds", "0,1,2") == 0  # more seeds: only those are made
    assert len(commands(trainer)) == 7


def test_another_comparison_does_not_mix_with_this_one(
    trainer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(tmp_path / "c") == 0
    assert compare(tmp_path / "c", "run.steps=3") == 2
    assert "holds a comparison of other runs" in capsys.readouterr().err
    again = ["--variants", "grpo", "--variant", "sdpo: objective.distillation.top_k=7"]
    assert compare(tmp_path / "c", *again) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["objective.top_kk=1"], "there is no such setting"),
        (["run.seed=3"], "is set for each run"),
        (["--variants", "grpoo"], "did you mean grpo?"),
        (["--variants", "sdpo,sdpo"], "given twice: sdpo"),
        (["--variant", "A b: run.steps=1"], "a name of small letters"),
        (["--variant", "mine: run.stepss=1"], "run.stepss"),
        (["--baseline", "sft"], "is not compared"),
        (["--seeds", "1,1"], "expected different whole numbers"),
        (["--seeds", "1,-2"], "expected different whole numbers"),
        (["--window", "0"], "at least 1"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(
    trainer: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    assert compare(tmp_path / "c", *words) == 2
    assert message in capsys.readouterr().err
    assert not trainer.exists()
    assert not (tmp_path / "c").exists()


def test_every_variant_composes_even_where_an_experiment_has_an_objective_of_its_own() -> None:
    for variant in VARIANTS.values():
        if variant.name != "live_teacher":  # composes with a warning, see tests/config
            load(["experiment=hidden_api", *variant.overrides])


def test_a_variant_of_ones_own_may_quote() -> None:
    (variant,) = chosen(["wide: objective.distillation.top_k=9 'task.instruction=a b'"])
    assert variant.name == "wide"
    assert variant.overrides == ("objective.distillation.top_k=9", "task.instruction=a b")
    with pytest.raises(ConfigError, match="own is written as"):
        chosen(["nothing"])
