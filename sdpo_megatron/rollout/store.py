"""The rollouts of a run for people: judged groups with all their texts.

``groups/000000017-000.jsonl.zst``  one group, written by its worker beside what is trained on
``step-000012.jsonl.zst``           a header line, and the groups of a rollout batch one by one

A step's file is the header and the groups' files one after the other, as they are (Zstandard frames
may follow each other), so that whoever gathers a step reads no text. A file appears complete or not
at all. Floats are written so that reading gives the same bits (Python's shortest repr).
"""

from __future__ import annotations

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

    def group_path(self, name: str) -> Path:
        """Where the group of this name is."""
        return self.folder / "groups" / f"{name}.jsonl.zst"

    def steps(self) -> list[int]:
        """Steps that are recorded, in order."""
        names = (_NAME.fullmatch(path.name) for path in self.folder.glob("step-*.jsonl.zst"))
        return sorted(int(match[1]) for match in names if match)

    def write_group(self, name: str, group: Group) -> None:
        """Record one group under the name of its lease; on the disk when this returns.

        Raises:
            CheckpointError: it could not be written (a full disk, say).
        """
        line = json.dumps(group_to_json(group)) + "\n"  # pure ASCII, so one line
        self._write(self.group_path(name), [zstandard.compress(line.encode(), _LEVEL)])

    def read_group(self, name: str) -> Group:
        """The inverse of `write_group`.

        Raises:
            CheckpointError: it is missing or torn.
        """
        (row,) = _lines(self.group_path(name))
        return group_from_json(row)

    def gather(self, step: int, version: PolicyVersion, names: Sequence[str]) -> Path:
        """Make the file of a step that `version` is trained on of recorded groups, replacing what
        was there; on the disk when this returns.

        Raises:
            CheckpointError: a group is not there, or the file could not be written; what was there
                is untouched.
        """
        header = {"format": FORMAT, "step": step, "version": vars(version), "groups": len(names)}
        line = json.dumps(header) + "\n"
        try:
            parts = [self.group_path(name).read_bytes() for name in names]
        except OSError as error:
            raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror}") from error
        self._write(self.path(step), [zstandard.compress(line.encode(), _LEVEL), *parts])
        return self.path(step)

    def _write(self, path: Path, parts: Sequence[bytes]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, b"".join(parts))
        except OSError as error:
            raise CheckpointError(
                f"{path}: rollouts could not be written: {error.strerror}. Free some space and go "
                "on from the last checkpoint."
            ) from error

    def read(self, step: int) -> RecordedStep:
        """Read a step back, equal to what was written.

        Raises:
            CheckpointError: it is missing, torn, or of another format.
        """
        path = self.path(step)
        header, *rows = _lines(path)
        if header.get("format") != FORMAT or header.get("groups") != len(rows):
            raise CheckpointError(
                f"{path}: expected format {FORMAT} with {header.get('groups')} groups, "
                f"got format {header.get('format')} with {len(rows)}"
            )
        version = PolicyVersion(header["version"]["number"], header["version"]["checksum"])
        return RecordedStep(header["step"], version, tuple(group_from_json(row) for row in rows))


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        text, rest = b"", path.read_bytes()
        while rest or not text:
            frame = zstandard.ZstdDecompressor().decompressobj()
            text += frame.decompress(rest)
            if not frame.eof:
                raise ValueError("it is torn")
            rest = frame.unused_data
        return [json.loads(line) for line in text.decode().split("\n")[:-1]]
    except (OSError, ValueError, zstandard.ZstdError) as error:
        raise CheckpointError(f"{path}: cannot read the rollouts: {error}") from error


def question_to_json(question: Question) -> dict[str, Any]:
    """A question as JSON-able data."""
    return dict(_plain(vars(question)))


def question_from_json(data: Mapping[str, Any]) -> Question:
    """The inverse of `question_to_json`."""
    lists = {"messages": tuple(data["messages"]), "stop": tuple(data["stop"])}
    return Question(**{**data, **lists})


def group_to_json(group: Group) -> dict[str, Any]:
    """A group as JSON-able data."""
    return {
        "question": question_to_json(group.question),
        "attempts": [_attempt_to_json(attempt) for attempt in group.attempts],
        "verdicts": [_plain(vars(verdict)) for verdict in group.verdicts],
        "dropped": group.dropped,
    }


def group_from_json(data: Mapping[str, Any]) -> Group:
    """The inverse of `group_to_json`."""
    return Group(
        question=question_from_json(data["question"]),
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
    data["turns"] = [dict(turn) for turn in attempt.turns]
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
            "turns": tuple(data.get("turns", ())),
        }
    )


def _plain(value: Any) -> Any:
    """Mappings and sequences as JSON has them; anything else as it is."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
