"""What an attempt printed or returned against what was expected.

Equal bytes are equal; anything else is compared in a confined process that never saw the attempt's
code (`sandbox.inside.verdict.compare`), and what that costs is the attempt's fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from sdpo_megatron.sandbox import Program, Sandbox
from sdpo_megatron.sandbox.inside.plain_data import encode
from sdpo_megatron.sandbox.inside.verdict.compare import SHAPES
from sdpo_megatron.sandbox.inside.verdict.difference import Difference
from sdpo_megatron.sandbox.inside.verdict.records import read_record

COSTLY = Difference("", "", "")
_SOURCE = "from inside.verdict.compare import main\nmain()"
_SPARE_MB = 256  # beside the attempt's own limit: both sides are held at once


def compare(
    sandbox: Sandbox,
    kind: Literal["output", "value"],
    expected: str,
    got: bytes,
    *,
    limits: Mapping[str, float],
    text_limit: int,
) -> Difference | None:
    """None when they agree, else texts of both; COSTLY when the comparison itself ran into a limit.

    `expected` is what should have been printed, or JSON; `got` is what was printed, or an encoded
    value.

    Raises:
        VerifierUnavailable: The sandbox failed.
    """
    if kind == "output" and got.strip() == expected.encode("utf-8", "surrogatepass").strip():
        return None
    job = {"kind": kind, "expected": expected, "got": got, "limit": text_limit}
    own = {**limits, "memory_mib": limits["memory_mib"] + _SPARE_MB, "output_kib": 64}
    run = sandbox.run(Program.script(_SOURCE, encode(job), **own))
    record = read_record(run.stdout, SHAPES)
    if record is None:
        return COSTLY
    if record.pop("kind") == "same":
        return None
    return Difference(**record)
