"""``sdpo verify serve`` and ``sdpo verify batch``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sdpo_megatron.errors import SdpoError
from sdpo_megatron.judging.offline.config import BatchConfig, shard_of_environment
from sdpo_megatron.judging.service.config import ServiceConfig

if TYPE_CHECKING:
    from sdpo_megatron.sandbox import SandboxConfig

SERVE = """\
Serve verdicts over HTTP until SIGTERM.

The bearer token is read from --token-file or the environment variable SDPO_VERIFIER_TOKEN; without
one the service does not start. SIGTERM stops it: it judges what it has accepted and ends with 0.

  openssl rand -hex 32 > token
  sdpo verify serve --port 9401 --workers 4 --token-file token
  curl localhost:9401/readyz
"""
BATCH = """\
Judge a file of responses, offline.

IN.jsonl holds {"id", "verifier", "item", "response"} on each line, or, with --task, {"question_id",
"response"}. Verdicts are written to OUT in parts; the same command again goes on where it stopped.
In an Indexed Job the shard comes from JOB_COMPLETION_INDEX and JOB_COMPLETIONS.

  sdpo verify batch responses.jsonl verdicts/ --task humaneval --workers 4
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``serve`` or ``batch``; returns the exit code (2 for what a user can mend)."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except SdpoError as error:
        print(f"sdpo verify: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sdpo verify", description="Judge responses.")
    commands = parser.add_subparsers(required=True, metavar="serve|batch")
    style = argparse.RawDescriptionHelpFormatter
    _add_serve(
        commands.add_parser("serve", help="over HTTP", description=SERVE, formatter_class=style)
    )
    _add_batch(
        commands.add_parser("batch", help="a file", description=BATCH, formatter_class=style)
    )
    return parser


def _add_serve(parser: argparse.ArgumentParser) -> None:
    defaults = ServiceConfig()
    add = parser.add_argument
    add("--host", default=defaults.host, help="address to listen on (%(default)s)")
    add("--port", type=int, default=defaults.port, help="TCP port, 0 for any (%(default)s)")
    add("--workers", type=int, default=defaults.workers, help="verifications at once (%(default)s)")
    add(
        "--verifier",
        action="append",
        metavar="NAME",
        help="offer only this one; a name or module:Class; may be repeated (all built-in ones)",
    )
    add("--queue-size", type=int, default=defaults.queue_size, help="items accepted (%(default)s)")
    add("--max-batch", type=int, default=defaults.max_batch, help="items a request (%(default)s)")
    add("--token-file", help="file with the bearer token (else SDPO_VERIFIER_TOKEN)")
    add("--allow-anonymous", action="store_true", help="answer without a token: loopback only")
    add("--drain-s", type=float, default=defaults.drain_s, help="seconds to finish (%(default)s)")
    add(
        "--cpu-limit-s",
        type=int,
        default=defaults.cpu_limit_s,
        help="CPU seconds an item (%(default)s)",
    )
    _add_sandbox(parser)
    parser.set_defaults(run=_serve)


def _add_batch(parser: argparse.ArgumentParser) -> None:
    defaults = BatchConfig(input="", output="")
    add = parser.add_argument
    add("input", metavar="IN.jsonl", help="responses, .jsonl or .jsonl.gz")
    add("output", metavar="OUT", help="folder for the parts, shared by all shards")
    add("--task", help="layout of the questions that lines name by question_id")
    add("--task-path", help="its file (the packaged items)")
    add("--task-subset", help="its subset")
    add("--shard", type=int, help="this shard (JOB_COMPLETION_INDEX, else 0)")
    add("--num-shards", type=int, help="all shards (JOB_COMPLETIONS, else 1)")
    add("--part-size", type=int, default=defaults.part_size, help="verdicts a part (%(default)s)")
    add("--workers", type=int, default=defaults.workers, help="verifications at once (%(default)s)")
    add("--retries", type=int, default=defaults.retries, help="of what failed (%(default)s)")
    _add_sandbox(parser)
    parser.set_defaults(run=_batch)


def _add_sandbox(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--minimum-layer",
        action="append",
        metavar="LAYER",
        help="isolation layer without which no program is run; may be repeated (its own list)",
    )


def _sandbox(arguments: argparse.Namespace) -> SandboxConfig:
    from sdpo_megatron.sandbox import SandboxConfig

    config = SandboxConfig(workers=arguments.workers)
    if arguments.minimum_layer:
        config = replace(config, minimum_layers=tuple(arguments.minimum_layer))
    return config


def _serve(arguments: argparse.Namespace) -> int:
    config = ServiceConfig(
        host=arguments.host,
        port=arguments.port,
        workers=arguments.workers,
        queue_size=arguments.queue_size,
        max_batch=arguments.max_batch,
        token_file=arguments.token_file,
        allow_anonymous=arguments.allow_anonymous,
        drain_s=arguments.drain_s,
        cpu_limit_s=arguments.cpu_limit_s,
    )
    if arguments.verifier:
        config = replace(config, verifiers=tuple(arguments.verifier))
    from sdpo_megatron.judging.service.service import serve  # FastAPI only where it is used

    return serve(config, _sandbox(arguments))


def _batch(arguments: argparse.Namespace) -> int:
    shard, num_shards = shard_of_environment() if arguments.shard is None else (arguments.shard, 1)
    config = BatchConfig(
        input=arguments.input,
        output=arguments.output,
        shard=shard,
        num_shards=arguments.num_shards or num_shards,
        part_size=arguments.part_size,
        workers=arguments.workers,
        retries=arguments.retries,
    )
    from sdpo_megatron.judging.offline.batch import run_batch
    from sdpo_megatron.tasks import TaskConfig, load_task

    task = None
    if arguments.task:
        task = load_task(
            TaskConfig(name=arguments.task, path=arguments.task_path, subset=arguments.task_subset)
        )
    return run_batch(config, _sandbox(arguments), task)


if __name__ == "__main__":
    sys.exit(main())
