"""A configuration is composed, refused and printed without torch, so an answer comes at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sdpo_megatron.config import CONF

EXPERIMENTS = [path.stem for path in (CONF / "experiment").glob("*.yaml")]
HEAVY = ("torch", "transformers", "megatron", "sglang", "numpy", "aiohttp", "rich")


def fresh(program: str) -> subprocess.CompletedProcess[str]:
    """A new interpreter runs `program`, and says which heavy libraries it has loaded."""
    loaded = f"print(sorted(set({HEAVY}) & set(sys.modules)))"
    return subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}\n{loaded}"], capture_output=True, text=True
    )


def test_composing_every_experiment_loads_nothing_heavy() -> None:
    done = fresh(
        "from sdpo_megatron import config\n"
        f"for name in {EXPERIMENTS}:\n"
        "    config.load([f'experiment={name}', 'model.path=/m', 'task.path=/t'])\n"
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("command", ["train", "config"])
def test_a_misspelt_key_is_answered_before_anything_heavy_is_loaded(command: str) -> None:
    done = fresh(
        "from sdpo_megatron.cli import main\n"
        f"assert main([{command!r}, 'objective.top_kk=1', 'optimizer.beta1=7']) == 2\n"
    )
    assert done.stdout == "[]\n"
    assert done.stderr.splitlines() == [
        "sdpo: objective.top_kk: there is no such setting; did you mean "
        "objective.distillation.top_k?",
        "sdpo: optimizer.beta1=7: must be below 1",
    ]
