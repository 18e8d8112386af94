"""The rollouts of a run: one file of judged groups for each step, so that they can be read later
and a step can be replayed.

``step-000012.jsonl.zst`` holds a header line and one line for each group. A file appears complete
or not at all. Floats are written so that reading gives the same bits (Python's shortest repr): a
step replayed from its file trains to the same losses.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from sdpo_megatron.errors import CheckpointError
from sdpo_megatron.files import write_whole
from sdpo_megatron.nouns import Attempt, Group, PolicyVersion, Question, Verdict, VersionSpan

FORMAT = 1
_LEVEL = 3
_NAME = re.compile(r"step-(\d+)\.jsonl\.zst")


@dataclass(frozen=True)
class RecordedStep:
    """One step's rollouts as they are stored."""

    step: int
    version: PolicyVersion
    groups: tuple[Group, ...]


class RolloutStore:
    """Rollout files in one folder."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def path(self, step: int) -> Path:
        """Where the rollouts of `step` are."""
        return self.folder / f"step-{step:06d}.jsonl.zst"

    def steps(self) -> list[int]:
        """Steps that are recorded, in order."""
        names = (_NAME.fullmatch(path.name) for path in self.folder.glob("step-*.jsonl.zst"))
        return sorted(int(match[1]) for match in names if match)

    def write(self, step: int, version: PolicyVersion, groups: Sequence[Group]) -> Path:
        """Record a step, replacing what was there; on the disk when this returns.

        Raises:
            CheckpointError: it could not be written (a full disk, say); what was there is
                untouched.
        """
        header = {"format": FORMAT, "step": step, "version": vars(version), "groups": len(groups)}
        lines = [header, *(group_to_json(group) for group in groups)]
        text = "".join(json.dumps(line) + "\n" for line in lines)  # pure ASCII, so one line each
        data = zstandard.compress(text.encode(), _LEVEL)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.path(step), data)
        except OSError as error:
            raise CheckpointError(
                f"{self.path(step)}: the rollouts of step {step} could not be written: "
                f"{error.strerror}. Free some space and go on from the last checkpoint."
            ) from error
        return self.path(step)

    def read(self, step: int) -> RecordedStep:
        """Read a step back, equal to what was written.

        Raises:
            CheckpointError: it is missing, torn, or of another format.
        """
        path = self.path(step)
        try:
            stream = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(path.read_bytes()))
            lines = stream.read().decode().splitlines()
            header, *rows = [json.loads(line) for line in lines]
        except (OSError, ValueError, zstandard.ZstdError) as error:
            raise CheckpointError(
                f"{path}: cannot read the rollouts of step {step}: {error}"
            ) from error
        if header.get("format") != FORMAT or header.get("groups") != len(rows):
            raise CheckpointError(
                f"{path}: expected format {FORMAT} with {header.get('groups')} groups, "
                f"got format {header.get('format')} with {len(rows)}"
            )
        version = PolicyVersion(header["version"]["number"], header["version"]["checksum"])
        return RecordedStep(header["step"], version, tuple(group_from_json(row) for row in rows))


def group_to_json(group: Group) -> dict[str, Any]:
    """A group as JSON-able data."""
    return {
        "question": _plain(vars(group.question)),
        "attempts": [_attempt_to_json(attempt) for attempt in group.attempts],
        "verdicts": [_plain(vars(verdict)) for verdict in group.verdicts],
        "dropped": group.dropped,
    }


def group_from_json(data: Mapping[str, Any]) -> Group:
    """The inverse of `group_to_json`."""
    question = data["question"]
    return Group(
        question=Question(
            **{
                **question,
                "messages": tuple(question["messages"]),
                "stop": tuple(question["stop"]),
            }
        ),
        attempts=tuple(_attempt_from_json(attempt) for attempt in data["attempts"]),
        verdicts=tuple(
            Verdict(**{**verdict, "layers": tuple(verdict["layers"])})
            for verdict in data["verdicts"]
        ),
        dropped=data["dropped"],
    )


def _attempt_to_json(attempt: Attempt) -> dict[str, Any]:
    data = dict(vars(attempt))
    data["loss_mask"] = "".join("1" if trained else "0" for trained in attempt.loss_mask)
    data["versions"] = [[span.start, span.end, span.version] for span in attempt.versions]
    return data


def _attempt_from_json(data: Mapping[str, Any]) -> Attempt:
    return Attempt(
        **{
            **data,
            "prompt_ids": tuple(data["prompt_ids"]),
            "response_ids": tuple(data["response_ids"]),
            "log_probs": tuple(data["log_probs"]),
            "loss_mask": tuple(flag == "1" for flag in data["loss_mask"]),
            "versions": tuple(VersionSpan(*span) for span in data["versions"]),
        }
    )


def _plain(value: Any) -> Any:
    """Mappings and sequences as JSON has them; anything else as it is."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
