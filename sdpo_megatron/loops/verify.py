"""``sdpo verify serve`` and ``sdpo verify batch``: compose a configuration, and judge."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from sdpo_megatron.config.composing import compose
from sdpo_megatron.fields.reading import MISSING, all_settings
from sdpo_megatron.fields.wording import assignment

_SERVE = """\
Serve verdicts over HTTP until SIGTERM.

The bearer token is read from token_file or the environment variable SDPO_VERIFIER_TOKEN; without
one the service does not start. SIGTERM stops it: it judges what it has accepted and ends with 0.

  openssl rand -hex 32 > token
  sdpo verify serve port=9401 workers=4 token_file=token
  sdpo verify serve verifiers=[mathematics] allow_anonymous=true host=127.0.0.1
  curl localhost:9401/readyz
"""
_BATCH = """\
Judge a file of responses, offline.

The input holds {"id", "verifier", "item", "response"} on each line, or, with a task,
{"question_id", "response"}. Verdicts are written to the output folder in parts; the same command
again goes on where it stopped. In a Kubernetes Indexed Job the shard comes from
JOB_COMPLETION_INDEX and JOB_COMPLETIONS.

  sdpo verify batch input=responses.jsonl output=verdicts/ workers=4
  sdpo verify batch input=responses.jsonl output=verdicts/ task=humaneval
  sdpo verify batch input=r.jsonl output=v/ task=livecodebench task.path=data/ task.split=test
"""
_EPILOG = "settings and their defaults:\n\n{}\n"


def main(argv: Sequence[str]) -> int:
    """Run ``serve`` or ``batch``; returns the exit code.

    Raises:
        SdpoError: What a user can mend.
    """
    parser = argparse.ArgumentParser(prog="sdpo verify", description="Judge responses.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="serve|batch")
    wanted = next((word for word in argv if word in ("serve", "batch")), None)
    for name, what, description in (("serve", "over HTTP", _SERVE), ("batch", "a file", _BATCH)):
        command = commands.add_parser(
            name,
            help=what,
            description=description,
            epilog=_EPILOG.format(_defaults(name)) if name == wanted else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("overrides", nargs="*", help="key=value, as in sdpo train")
    parsed = parser.parse_args(argv)
    return _serve(parsed.overrides) if parsed.command == "serve" else _batch(parsed.overrides)


def _serve(overrides: Sequence[str]) -> int:
    from sdpo_megatron.judging.service.config import ServiceConfig

    config = compose(ServiceConfig, overrides)
    from sdpo_megatron.judging.service.serve import serve  # FastAPI only where it is used

    return serve(config)


def _batch(overrides: Sequence[str]) -> int:
    from sdpo_megatron.judging.offline.batch import run_batch
    from sdpo_megatron.judging.offline.config import OfflineConfig

    named = [f"task.name={o[5:]}" if o.startswith("task=") else o for o in overrides]
    return run_batch(compose(OfflineConfig, named))


def _defaults(command: str) -> str:
    from sdpo_megatron.judging.offline.config import OfflineConfig
    from sdpo_megatron.judging.service.config import ServiceConfig

    cls: Any = ServiceConfig if command == "serve" else OfflineConfig
    return "\n".join(
        f"  {setting.key}: must be given"
        if setting.default is MISSING
        else f"  {assignment(setting.key, setting.default)}"
        for setting in all_settings(cls)
    )
