"""``sdpo``: the command line.

Each command imports only what it needs, so that help and errors come at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sdpo_megatron.errors import ConfigError, SdpoError
from sdpo_megatron.exit_codes import DONE

if TYPE_CHECKING:
    from sdpo_megatron.config import TrainConfig

_EPILOG = """\
examples:
  sdpo train experiment=quickstart           train SmolLM2-135M on HumanEval problems, right here
  sdpo train experiment=quickstart run.steps=12 teacher.rate=0.1
  sdpo train --resume runs/quickstart-...    go on with a run that was stopped or killed
  sdpo train --config FILE                   train as a file of `sdpo config` says
  sdpo config experiment=quickstart          print the resolved configuration, start nothing
  sdpo plan experiment=science shape=qwen3-8b nodes=4 engine_nodes=4    what it will need
  sdpo render k8s experiment=quickstart      manifests for kubectl apply -f -
  sdpo dashboard runs/quickstart-...         plots of a run, live or finished, in the browser
  sdpo discover experiment=test_time ...     search for the answer to a hard question
  sdpo compare experiment=small              SDPO, GRPO and others on the same questions and seeds
  sdpo evaluate experiment=quickstart        avg@n, pass@k, form and length; --against BEFORE
  sdpo report runs/quickstart-...            its page anew: curves, and what the teacher taught
  sdpo report RUN RUN ...                    runs side by side
  sdpo export runs/quickstart-... out/       write a Hugging Face checkpoint of the newest weights
  sdpo worker runs/quickstart-...            make attempts for a run whose trainer is elsewhere
  sdpo verify serve --help                   verifiers as a service, or over files (batch)
  sdpo doctor                                what is installed, what is missing, how to get it
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (see `exit_codes`). Errors meant for the user are
    printed without a traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="sdpo",
        description="Post-train language models by self-distillation on Megatron and SGLang.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=sorted(_COMMANDS), help="; ".join(_help_lines()))
    parser.add_argument(
        "rest", nargs=argparse.REMAINDER, help="arguments of the command; `sdpo COMMAND --help`"
    )
    parsed = parser.parse_args(arguments)
    try:
        return _COMMANDS[parsed.command](parsed.rest)
    except ConfigError as error:  # a line for each mistake
        print("\n".join(f"sdpo: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return error.exit_code
    except SdpoError as error:
        print(f"sdpo: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _train(arguments: Sequence[str]) -> int:
    """train with hydra overrides"""
    config, path = _chosen_run(
        "train", "Train; hydra overrides follow, e.g. run.steps=8.", arguments
    )
    from sdpo_megatron.loops.launching.launch import run
    from sdpo_megatron.loops.launching.nodes import Place
    from sdpo_megatron.loops.launching.prepare import prepare

    place = Place.of_environment()
    if place.node == 0:
        prepare(config, path)
    return run(config, path, place)


def _discover(arguments: Sequence[str]) -> int:
    """search for answers to hard questions at test time"""
    words = list(arguments)
    if "--curves" in words:
        from sdpo_megatron.discovery.page import page, searches_of

        words.remove("--curves")
        print(page(searches_of([Path(word) for word in words])), end="")
        return DONE
    config, path = _chosen_run(
        "discover",
        "Search for the answers to hard questions: attempts, training on their feedback, until the "
        "first success or the budget; then the next question, from the first weights. "
        "discovery.method=best_of_k and multi_turn are the baselines. "
        "`sdpo discover --curves FOLDER...` compares what runs have found.",
        words,
        usual=("discovery.method=sdpo", "batch.questions=1", "validation.every=0"),
    )
    from sdpo_megatron.discovery.page import page, searches_of
    from sdpo_megatron.discovery.searches import SEARCHES, read_searches
    from sdpo_megatron.loops.launching.launch import run
    from sdpo_megatron.loops.launching.nodes import Place
    from sdpo_megatron.loops.launching.prepare import prepare

    place = Place.of_environment()
    if place.node == 0:
        prepare(config, path)
    code = run(config, path, place)
    if place.node == 0 and (found := read_searches(path / SEARCHES)):
        for search in found:
            if search.solution:
                print(f"\n{search.question_id}, attempt {search.found_at}:\n{search.solution}")
        print(f"\n{page(searches_of([path]))}", end="")
    return code


def _prepare(arguments: Sequence[str]) -> int:
    """make and check a run folder, start nothing"""
    config, path = _chosen_run(
        "prepare",
        "Check everything that a run would check first and make its folder, for torchrun: "
        "torchrun ... -m sdpo_megatron.loops.rank FOLDER. Takes what `sdpo train` takes.",
        arguments,
    )
    from sdpo_megatron.loops.launching.prepare import make_folder, prepare

    prepare(config, path)
    with make_folder(config, path) as (folder, _lease):
        print(f"{folder.path} is ready: torchrun ... -m sdpo_megatron.loops.rank {folder.path}")
    return DONE


def _chosen_run(
    command: str, description: str, arguments: Sequence[str], usual: Sequence[str] = ()
) -> tuple[TrainConfig, Path]:
    """The configuration and the run folder that the arguments ask for.

    `usual` are overrides of a new run, where the arguments do not have the same key.
    """
    parser = argparse.ArgumentParser(prog=f"sdpo {command}", description=description)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--resume", metavar="FOLDER", help="go on with the run in FOLDER, with its configuration"
    )
    source.add_argument(
        "--config", metavar="FILE", help="a whole configuration, as `sdpo config` prints it"
    )
    parser.add_argument("overrides", nargs="*", help="group=choice or key=value")
    parsed = parser.parse_args(arguments)

    from sdpo_megatron import config as configs

    overrides = list(parsed.overrides)
    if parsed.resume:
        saved = Path(parsed.resume) / "config.yaml"
        if not saved.is_file():
            raise ConfigError(f"{saved} does not exist: {parsed.resume} is no run folder")
        config = configs.load_resumed(saved, [*overrides, f"run.folder={parsed.resume}"])
    elif parsed.config:
        if not Path(parsed.config).is_file():
            raise ConfigError(f"--config {parsed.config}: there is no such file")
        config = configs.load_resumed(Path(parsed.config), overrides)
    else:
        given = {override.partition("=")[0] for override in overrides}
        added = [override for override in usual if override.partition("=")[0] not in given]
        config = configs.load([*added, *overrides])
    name = f"runs/{config.run.name}-{datetime.now():%Y%m%d-%H%M%S}"
    return config, Path(config.run.folder or name)


def _config(arguments: Sequence[str]) -> int:
    """print the resolved configuration"""
    parser = argparse.ArgumentParser(
        prog="sdpo config", description="Compose, check and print; start nothing."
    )
    parser.add_argument("overrides", nargs="*", help="group=choice or key=value")
    parsed = parser.parse_args(arguments)

    from sdpo_megatron.config import load, printed

    print(printed(load(parsed.overrides)), end="")
    return DONE


def _plan(arguments: Sequence[str]) -> int:
    """predict memory, seconds and what gives out first"""
    from sdpo_megatron.planning.cli import main as plan

    return plan(arguments)


def _render(arguments: Sequence[str]) -> int:
    """write manifests for Kubernetes"""
    from sdpo_megatron.rendering.cli import main as render

    return render(arguments)


def _export(arguments: Sequence[str]) -> int:
    """write a Hugging Face checkpoint of a run"""
    from sdpo_megatron.loops.export import main as export

    return export(arguments)


def _compare(arguments: Sequence[str]) -> int:
    """several objectives on the same questions and seeds"""
    from sdpo_megatron.comparing.cli import main as compare

    return compare(arguments)


def _worker(arguments: Sequence[str]) -> int:
    """make attempts for a run whose trainer is elsewhere"""
    from sdpo_megatron.loops.workers.joining import main as worker

    return worker(arguments)


def _verify(arguments: Sequence[str]) -> int:
    """serve or batch-run verifiers"""
    from sdpo_megatron.loops.verify import main as verify

    return verify(list(arguments))


def _dashboard(arguments: Sequence[str]) -> int:
    """plots of a run, in a browser"""
    from sdpo_megatron.monitoring.local.server import main as dashboard

    return dashboard(arguments)


def _evaluate(arguments: Sequence[str]) -> int:
    """how good a model is, and what it forgot"""
    from sdpo_megatron.loops.evaluate.command import main as evaluate

    return evaluate(arguments)


def _report(arguments: Sequence[str]) -> int:
    """a page of a run, or of several side by side"""
    from sdpo_megatron.report.command import main as report

    return report(arguments)


def _doctor(arguments: Sequence[str]) -> int:
    """what is installed and what is missing"""
    from sdpo_megatron.doctor import main as doctor

    return doctor(list(arguments))


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": _train,
    "discover": _discover,
    "prepare": _prepare,
    "config": _config,
    "plan": _plan,
    "render": _render,
    "export": _export,
    "verify": _verify,
    "worker": _worker,
    "compare": _compare,
    "dashboard": _dashboard,
    "report": _report,
    "evaluate": _evaluate,
    "doctor": _doctor,
}


def _help_lines() -> list[str]:
    return [f"{name}: {command.__doc__}" for name, command in sorted(_COMMANDS.items())]


if __name__ == "__main__":
    sys.exit(main())
