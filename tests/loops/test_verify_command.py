"""`sdpo verify`: the same overrides as `sdpo train`, and errors that a user can mend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sdpo_megatron.cli import main
from sdpo_megatron.config.composing import compose
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.judging.offline.config import OfflineConfig
from sdpo_megatron.judging.service.config import ServiceConfig
from sdpo_megatron.loops import verify


def test_a_service_is_composed_of_overrides() -> None:
    config = compose(
        ServiceConfig,
        [
            *("port=9402", "workers=4", "verifiers=[mathematics,code]", "code.wall_s=7"),
            *("sandbox.minimum_layers=[pid,net]", "token_file=/a/token", "header_timeout_s=2.5"),
        ],
    )
    assert (config.port, config.workers, config.header_timeout_s) == (9402, 4, 2.5)
    assert config.verifiers == ("mathematics", "code")
    assert config.code.wall_s == 7.0
    assert config.sandbox.minimum_layers == ("pid", "net")
    assert config.token_file == "/a/token"


def test_a_batch_is_composed_of_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    from sdpo_megatron.judging.offline import batch

    got: list[OfflineConfig] = []
    monkeypatch.setattr(batch, "run_batch", lambda config: got.append(config) or 1)
    words = ["batch", "input=in.jsonl", "output=out", "task=gsm8k", "task.split=test", "shard=2"]
    assert verify.main([*words, "num_shards=3"]) == 1
    (config,) = got
    assert (config.input, config.output, config.shard, config.num_shards) == (
        *("in.jsonl", "out"),
        *(2, 3),
    )
    assert config.task is not None
    assert (config.task.name, config.task.split) == ("gsm8k", "test")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prot=1", "did you mean port"),
        ("port=many", "port"),
        ("code.wal_s=1", "did you mean code.wall_s"),
        ("port", "key=value"),
        ("verifiers=[multiple_chioce]", "unknown verifier 'multiple_chioce'"),
    ],
)
def test_an_override_that_cannot_work_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(ServiceConfig, [override])


def test_what_a_user_can_mend_is_told_and_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.jsonl"
    assert main(["verify", "batch", f"input={missing}", f"output={tmp_path / 'out'}"]) == 2
    assert f"{missing}:1: there is no such file" in capsys.readouterr().err
    assert main(["verify", "batch"]) == 2
    assert "input: must be given" in capsys.readouterr().err
    assert main(["verify", "serve", "verifiers=[multiple_chioce]"]) == 2
    assert "unknown verifier 'multiple_chioce'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "batch"])
def test_help_shows_examples_and_every_setting(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["verify", command, "--help"])
    told = capsys.readouterr().out
    assert f"sdpo verify {command} " in told
    for setting in (
        "workers=2",
        "memory_mib=4096",
        "sandbox.minimum_layers=[pid,net",
        "code.memory_mib=1024",
    ):
        assert setting in told


def test_verifiers_run_where_there_is_no_torch() -> None:
    """The image of the verifier service has none."""
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"  # importing it raises
        "import sdpo_megatron.judging.service.serve, sdpo_megatron.judging.offline.batch\n"
        "import sdpo_megatron.judging.judge, sdpo_megatron.judging.remote.client\n"
        "import sdpo_megatron.loops.verify\n"
        "from sdpo_megatron.verifiers.base import VERIFIERS, load_verifier\n"
        "[load_verifier(name) for name in VERIFIERS if name != 'code']\n"
        "from sdpo_megatron.tasks import TaskConfig, load_task\n"
        "from sdpo_megatron.tasks.task import LAYOUTS\n"
        "[load_task(TaskConfig(name=name)) for name in LAYOUTS]\n"
        "print(sorted({'megatron', 'transformers', 'sglang'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
