"""``sdpo render``: manifests for Kubernetes, on standard output or as a folder for kustomize."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from sdpo_megatron.exit_codes import DONE
from sdpo_megatron.fields.meaning import meaning
from sdpo_megatron.fields.reading import MISSING, all_settings
from sdpo_megatron.rendering.batch import Batch
from sdpo_megatron.rendering.cluster import Cluster
from sdpo_megatron.rendering.manifests import (
    Files,
    as_folder,
    as_stream,
    of_batch,
    of_run,
    write_folder,
)
from sdpo_megatron.rendering.pods import TOKEN_SECRET

T = TypeVar("T")

_RUN = "k8s"
_BATCH = "k8s-verify-batch"
_EPILOG = """\
  sdpo render k8s experiment=quickstart | kubectl apply -f -
  sdpo render k8s experiment=science model.path=/models/Qwen3-8B task.path=/data/sci \\
      --output my-run
  kubectl apply -k my-run
  sdpo render k8s-verify-batch --responses /runs/answers.jsonl --verdicts /runs/verdicts

docs/operate.md goes from an empty cluster to a green dashboard.
"""


def main(arguments: Sequence[str]) -> int:
    """Render; returns the exit code.

    Raises:
        ConfigError: Something in the settings cannot be rendered.
    """
    parsed = _parser().parse_args(arguments)
    files = render(parsed)
    if parsed.output:
        write_folder(as_folder(files, note(arguments)), Path(parsed.output))
        print(f"{parsed.output}: kubectl apply -k {parsed.output}", file=sys.stderr)
    else:
        print(as_stream(files), end="")
    if parsed.target == _RUN:
        print(
            f"The verifiers' token is a Secret of its own: kubectl -n {parsed.namespace} create "
            f'secret generic {TOKEN_SECRET} --from-literal=token="$(openssl rand -hex 32)"',
            file=sys.stderr,
        )
    return DONE


def rendered(arguments: Sequence[str]) -> Files:
    """The manifests that the command line `arguments` asks for. Raises as `main`."""
    return render(_parser().parse_args(arguments))


def note(arguments: Sequence[str]) -> str:
    """What stands at the head of a file: how it was made."""
    words = list(arguments)
    if "--output" in words:
        del words[words.index("--output") : words.index("--output") + 2]
    return f"Written by: sdpo render {shlex.join(words)}\nDo not edit; patch it with kustomize."


def render(parsed: argparse.Namespace) -> Files:
    """The manifests for parsed arguments. Raises as `main`."""
    cluster = _settings(Cluster, parsed)
    if parsed.target == _BATCH:
        return of_batch(_settings(Batch, parsed), cluster, with_shared=parsed.with_shared)
    from sdpo_megatron.config import load

    return of_run(load(parsed.overrides), cluster, with_shared=parsed.with_shared)


def _parser() -> argparse.ArgumentParser:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="sdpo render", description=__doc__, epilog=_EPILOG, formatter_class=style
    )
    targets = parser.add_subparsers(dest="target", required=True, metavar=f"{_RUN}|{_BATCH}")
    run = targets.add_parser(_RUN, help="a training run: trainer, engines, verifiers")
    run.add_argument("overrides", nargs="*", help="group=choice or key=value, as of sdpo train")
    batch = targets.add_parser(_BATCH, help="verdicts over a file: an Indexed Job")
    _add(batch, Batch)
    for target in (run, batch):
        _add(target, Cluster)
        target.add_argument(
            "--output", metavar="DIR", help="write a folder for kustomize instead of one stream"
        )
        target.add_argument(
            "--without-shared",
            dest="with_shared",
            action="store_false",
            help="leave out what all runs of a namespace share: claims, accounts, priorities",
        )
    return parser


def _add(parser: argparse.ArgumentParser, owner: type) -> None:
    """An option for each setting of `owner`, with its docstring as help."""
    for setting in all_settings(owner):
        required = setting.default is MISSING
        text = meaning(owner, setting.name).replace("%", "%%")
        annotation: Any = setting.field.annotation
        parser.add_argument(
            _option(setting.name),
            dest=setting.name,
            required=required,
            default=None if required else setting.default,
            type=annotation if annotation in (int, float) else str,
            choices=get_args(annotation) if get_origin(annotation) is not None else None,
            metavar=setting.name.upper(),
            help=text if required else f"{text} (%(default)s)",
        )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _settings(owner: type[T], parsed: argparse.Namespace) -> T:
    return owner(**{setting.name: getattr(parsed, setting.name) for setting in all_settings(owner)})
