"""Configuration: experiments build, mistakes are named, a saved one comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdpo_megatron import config
from sdpo_megatron.errors import ConfigError

GIVEN = ["model.path=/models/m", "task.path=/data/t.jsonl"]
EXPERIMENTS = sorted(path.stem for path in (config.CONF / "experiment").glob("*.yaml"))
OBJECTIVES = sorted(path.stem for path in (config.CONF / "objective").glob("*.yaml"))
TEACHERS = sorted(path.stem for path in (config.CONF / "teacher").glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_builds(name: str) -> None:
    given = GIVEN if not name.startswith("quickstart") else []
    assert config.load([f"experiment={name}", *given]).run.steps > 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_builds(name: str) -> None:
    several = ["batch.questions_per_step=2"] if name == "grpo_off_policy" else []
    built = config.load([f"objective={name}", *several])
    assert built.objective.distillation or built.objective.policy_gradient


@pytest.mark.parametrize("name", TEACHERS)
@pytest.mark.filterwarnings("ignore:teacher.kind=live diverges")
def test_every_teacher_builds(name: str) -> None:
    assert config.load([f"teacher={name}"]).teacher.kind == name


def test_the_paper_s_recipes() -> None:
    """method.md section 4, Tables 12 and 13."""
    science = config.load(["experiment=science", *GIVEN])
    assert (science.batch.questions, science.rollout.sampling.num_attempts) == (32, 8)
    assert (science.optimizer.lr, science.optimizer.warmup_steps) == (1e-5, 10)
    assert science.teacher.rate == 0.05
    assert science.objective.distillation is not None
    assert science.objective.distillation.top_k == 100
    code = config.load(["experiment=livecodebench", *GIVEN])
    assert (code.batch.questions_per_step, code.optimizer.lr) == (1, 1e-6)
    assert code.teacher.rate == 0.01
    assert code.objective.distillation is not None
    assert code.objective.distillation.divergence == "reverse_kl"
    assert code.objective.distillation.top_k == 20
    late = config.load(["experiment=test_time", *GIVEN])
    assert (late.batch.questions, late.rollout.sampling.num_attempts) == (1, 16)
    assert late.objective.distillation is not None
    assert late.objective.distillation.advantage_clip == 5.0
    for experiment in (science, code, late):
        assert experiment.optimizer.weight_decay == 0.01
        assert experiment.optimizer.clip_grad == 1.0
        assert experiment.rollout.sampling.temperature == 1.0
        assert experiment.rollout.sampling.max_new_tokens == 8192


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher.rat=0.1", "did you mean teacher.rate?"),
        ("rollout.sampling.temprature=2", "did you mean rollout.sampling.temperature?"),
        ("experiment=quickstrt", "did you mean experiment=quickstart?"),
        ("teacher=emma", "choices: ema, frozen, live, restart_freeze, trust_region"),
        ("optimizer.lr=fast", "optimizer.lr='fast': expected float"),
        ("model=local", "model.path must be given"),
        ("batch.questions_per_step=2", "set objective.off_policy=true"),
        ("objective.distillation.alpha=1.5", r"\[0, 1\]"),
        ("task.ids=28", "expected a list"),
        ("run.steps=0", "must be at least 1"),
        ("nonsense", "written as key=value"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.load([override])


def test_seeds_of_the_run_reach_the_sampler() -> None:
    assert config.load(["run.seed=7"]).rollout.sampling.seed == 7


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    before = config.load(["experiment=quickstart", "teacher.rate=0.125"])
    config.save(before, tmp_path / "config.yaml")
    assert config.load_saved(tmp_path / "config.yaml") == before


def test_resuming_changes_what_is_asked_and_nothing_else(tmp_path: Path) -> None:
    before = config.load(["experiment=quickstart"])
    config.save(before, tmp_path / "config.yaml")
    after = config.load_resumed(tmp_path / "config.yaml", ["run.steps=20"])
    assert after.run.steps == 20
    assert after.teacher == before.teacher
    with pytest.raises(ConfigError, match=r"did you mean run.steps\?"):
        config.load_resumed(tmp_path / "config.yaml", ["run.stepz=20"])
