"""Configuration: experiments build, mistakes are named, a saved one comes back."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path

import pytest

from sdpo_megatron import config
from sdpo_megatron.actor.config import EmaTeacher, FrozenTeacher, RestartFreezeTeacher
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.fields import PositiveInt, Texts, Word, settings

GIVEN = ["model.path=/models/m", "task.path=/data"]
OBJECTIVES = sorted(path.stem for path in (config.CONF / "objective").glob("*.yaml"))
TEACHERS = sorted(path.stem for path in (config.CONF / "teacher").glob("*.yaml"))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_builds(name: str) -> None:
    several = ["batch.questions_per_step=2"] if name == "grpo_off_policy" else []
    built = config.load([f"objective={name}", *several])
    assert built.objective.distillation or built.objective.policy_gradient


@pytest.mark.parametrize("name", TEACHERS)
@pytest.mark.filterwarnings("ignore:teacher.kind=live diverges")
def test_every_teacher_builds(name: str) -> None:
    assert config.load([f"teacher={name}"]).teacher.kind == name.removesuffix("_slow")


def test_the_paper_s_recipes() -> None:
    """arXiv 2601.20802, Tables 12 and 13."""
    science = config.load(["experiment=science", *GIVEN])
    assert (science.batch.questions, science.rollout.sampling.num_attempts) == (32, 8)
    assert (science.optimizer.lr, science.optimizer.warmup_steps) == (1e-5, 10)
    assert science.teacher == EmaTeacher(rate=0.05, cadence="per_rollout_batch")
    assert science.objective.distillation is not None
    assert science.objective.distillation.top_k == 100
    code = config.load(["experiment=livecodebench", *GIVEN])
    assert (code.batch.questions_per_step, code.optimizer.lr) == (1, 1e-6)
    assert code.teacher == EmaTeacher(rate=0.01, cadence="per_rollout_batch")
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
        ("objective.top_kk=1", "objective.top_kk: .*did you mean objective.distillation.top_k?"),
        ("teacher.rat=0.1", "teacher.rat: there is no such setting; did you mean teacher.rate?"),
        ("rollout.sampling.temprature=2", "did you mean rollout.sampling.temperature?"),
        ("temperature=2", "did you mean rollout.sampling.temperature?"),
        ("sandbox.cpu_s=3", "did you mean judge.code.cpu_s?"),
        ("experiment=quickstrt", "experiment=quickstrt: .*did you mean experiment=quickstart?"),
        ("teacher=emma", "choices: ema, ema_slow, frozen, live, restart_freeze, trust_region"),
        ("teacher.kind=emma", "teacher.kind=emma: expected one of ema, frozen, live"),
        ("optimizer.lr=fast", "optimizer.lr=fast: expected a number, got text"),
        ("optimizer.lr=nan", "optimizer.lr=nan: must be a finite number"),
        ("optimizer.lr=inf", "optimizer.lr=inf: must be a finite number"),
        ("optimizer.beta1=7", "optimizer.beta1=7: must be below 1"),
        ("optimizer.warmup_steps=-1", "optimizer.warmup_steps=-1: must be at least 0"),
        ("optimizer.decay=linear", "decay_steps=0: must be above optimizer.warmup_steps=0 with"),
        ("optimizer.min_lr=1e-6", "min_lr=1e-06: does nothing with optimizer.decay=constant"),
        ("judge.code.memory_mib=0", "judge.code.memory_mib=0: must be at least 32"),
        ("judge.code.wall_s=-1", "judge.code.wall_s=-1: must be above 0"),
        ("judge.code.output_kib=0", "judge.code.output_kib=0: must be at least 1"),
        ("rollout.engine.start_timeout_s=-5", "start_timeout_s=-5: must be above 0"),
        ("run.collective_timeout_s=0", "run.collective_timeout_s=0: must be above 0"),
        ("run.steps=0", "run.steps=0: must be at least 1"),
        ("run.steps=2.0", "run.steps=2.0: expected a whole number, got a number"),
        ("run.steps=true", "run.steps=true: expected a whole number, got true or false"),
        ("run.steps='2'", "run.steps=2: expected a whole number, got text"),
        ("run.steps=1,2", "run.steps=1,2: one value is needed"),
        ("run.steps=[", r"run.steps=\[: cannot be read"),
        ("batch=3", "batch=3: expected a group of settings"),
        ("task.prefill=1", "task.prefill=1: expected one of fence, signature, none"),
        ("task.ids=28", r"task.ids=28: expected a list, written as task.ids=\[a,b\]"),
        ("model=local", "model.path='': must be given"),
        ("model.prepare=llama", "model.prepare=llama: expected one of smollm2"),
        ("batch.questions_per_step=2", "set objective.off_policy=true"),
        ("objective.distillation.alpha=1.5", "alpha=1.5: must be at most 1"),
        ("objective.distillation=null", "weighting.kind=sdpo sends attempts to it"),
        ("objective.weighting.lambda_grpo=0.5", "belongs to objective.weighting.kind=hybrid, but"),
        ("teacher.restart_every=5", "belongs to teacher.kind=restart_freeze, but here .*=ema"),
        ("judge.where=endpoints", "judge.endpoints=.*with judge.where=endpoints at least one URL"),
        ("nonsense", "written as key=value"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config.load([override])
    key = override.partition("=")[0]
    group = key.partition(".")[0]
    assert all(line.startswith((group, override)) for line in str(caught.value).splitlines())


def test_every_mistake_is_told_at_once() -> None:
    mistakes = ["run.stps=3", "optimizer.beta1=7", "judge.code.wall_s=-1", "teacher=emma"]
    with pytest.raises(ConfigError) as caught:
        config.load(mistakes)
    begin = ["run.stps:", "teacher=emma:", "optimizer.beta1=7:", "judge.code.wall_s=-1:"]
    lines = str(caught.value).splitlines()
    assert len(lines) == len(begin)
    assert all(line.startswith(word) for line, word in zip(lines, begin, strict=True))


def test_values_as_yaml_writes_them() -> None:
    loaded = config.load(["optimizer.lr=1e-5", "task.ids=[28]", "run.name=2024", "teacher.rate=1"])
    assert (loaded.optimizer.lr, loaded.task.ids) == (1e-5, ("28",))
    assert (loaded.run.name, loaded.teacher.kind) == ("2024", "ema")
    assert isinstance(loaded.teacher, EmaTeacher)
    assert loaded.teacher.rate == 1.0


def test_a_group_that_was_null_is_opened_by_its_key() -> None:
    loaded = config.load(["objective=grpo", "objective.anchor.coefficient=0.01"])
    assert loaded.objective.anchor is not None
    assert loaded.objective.anchor.coefficient == 0.01
    assert config.load(["run.steps=3", "~run.checkpoint_every"]).run.checkpoint_every == 5


@pytest.mark.parametrize("choice", ["teacher=frozen", "teacher.kind=frozen"])
def test_another_variant_takes_the_place_of_an_experiment_s(choice: str) -> None:
    loaded = config.load(["experiment=livecodebench", *GIVEN, choice])
    assert loaded.teacher == FrozenTeacher()
    with pytest.raises(ConfigError, match=r"teacher.rate=0.1: belongs to teacher.kind=ema or"):
        config.load(["experiment=livecodebench", *GIVEN, choice, "teacher.rate=0.1"])


PAPER = sorted(
    name
    for path in (config.CONF / "experiment").glob("*.yaml")
    if not (name := path.stem).startswith(("quickstart", "small", "hidden_api"))
)


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_s_experiments_do_not_train_on_packaged_items_unasked(name: str) -> None:
    with pytest.raises(ConfigError, match=r"task.path='': must be given.*task.path=null"):
        config.load([f"experiment={name}", GIVEN[0]])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.path=/data/t.jsonl"], r"no other split beside task.path=/data/t.jsonl. Set valid"),
        (["task.path=null"], r"no other split beside task.path=null"),
        (["task.path=/data", "validation.every=-1"], "validation.every=-1: must be at least 0"),
        (["task.path=/data", "validation.top_p=0"], "validation.top_p=0: must be above 0"),
        (["task.path=/data", "run.epochs=null"], "with run.epochs=null the run has no end"),
        (["task.path=/data", "run.epochs=0"], "run.epochs=0: must be at least 1"),
    ],
)
def test_a_validation_that_holds_nothing_out_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.load(["experiment=science", GIVEN[0], *overrides])


@pytest.mark.parametrize("given", ["validation.split=null", "validation.path=/data/test.jsonl"])
def test_a_task_of_one_file_can_say_what_it_validates_on(given: str) -> None:
    loaded = config.load(["experiment=science", GIVEN[0], "task.path=/data/t.jsonl", given])
    assert loaded.validation.every == 5


def test_seeds_of_the_run_reach_the_sampler() -> None:
    assert config.load(["run.seed=7"]).rollout.sampling.seed == 7


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    ids = "task.ids=['1e5','28','null','0x1f','1_0',' a']"  # each could be read as something else
    before = config.load(["experiment=quickstart", "teacher.rate=0.125", "optimizer.lr=3e-7", ids])
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
    with pytest.raises(ConfigError, match=r"run.steps=0: must be at least 1"):
        config.load_resumed(tmp_path / "config.yaml", ["run.steps=0"])
    with pytest.raises(
        ConfigError, match="teacher=frozen: a group is chosen when a configuration is"
    ):
        config.load_resumed(tmp_path / "config.yaml", ["teacher=frozen"])


def test_a_configuration_that_a_person_wrote(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("model: {path: /m}\noptimizer: {lr: 1e-5}\nrun: {name: 7}\n")
    own = config.load_saved(file)
    assert (own.optimizer.lr, own.run.name, own.batch) == (1e-5, "7", config.load([]).batch)
    for text, message in (
        ("model: {path: /m}\noptimizer: {betal: 1}\n", r"^optimizer.betal: .*\(in .*own.yaml\)$"),
        ("model: [", "own.yaml is no YAML"),
        ("- 1\n", "own.yaml holds no settings"),
        ("run: {steps: 3}\n", "^model: must be given"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            config.load_saved(file)


def test_resuming_with_another_variant(tmp_path: Path) -> None:
    config.save(config.load(["teacher.rate=0.5"]), tmp_path / "config.yaml")
    changes = ["teacher.kind=restart_freeze", "teacher.restart_every=3"]
    after = config.load_resumed(tmp_path / "config.yaml", changes)
    assert after.teacher == RestartFreezeTeacher(restart_every=3)


@settings
class _Inner:
    size: PositiveInt = 3


@settings
class _Outer:
    name: Word
    inner: _Inner = field(default_factory=_Inner)
    ids: Texts = ()


def test_compose_takes_overrides_for_any_config_dataclass() -> None:
    made = config.compose(_Outer, ["name=a", "inner.size=5", "ids=[1,b]"])
    assert made == _Outer(name="a", inner=_Inner(size=5), ids=("1", "b"))
    assert config.compose(_Outer, ["inner.size=5"], {"name": "b"}).name == "b"
    for override, message in (
        ("inner.sise=5", r"inner.sise: there is no such setting; did you mean inner.size\?"),
        ("inner.size=0", "inner.size=0: must be at least 1"),
        ("ids=[]", "name: must be given"),
    ):
        with pytest.raises(ConfigError, match=message):
            config.compose(_Outer, [override])


def test_tokens_of_older_policies_must_be_weighted() -> None:
    uncapped = ["objective.importance.mismatch_cap=null"]
    assert config.load(uncapped).rollout.max_staleness == 0
    with pytest.raises(
        ConfigError, match=r"mismatch_cap=null: leaves .*rollout\.max_staleness=2 there must"
    ):
        config.load([*uncapped, "rollout.max_staleness=2"])
