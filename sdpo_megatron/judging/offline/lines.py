"""The input of a batch: each line a response, with its item or the id of its question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.judging.items import Item
from sdpo_megatron.tasks import Task
from sdpo_megatron.tasks.lines import Line, read_lines
from sdpo_megatron.verifiers.base import import_path_of


@dataclass(frozen=True)
class Response:
    """One line of the input."""

    id: str
    verifier: str
    item: Item
    text: str


class ResponseFile:
    """A file of responses; lines may name questions of `task`."""

    def __init__(self, path: Path, task: Task | None) -> None:
        self.path, self.task = path, task
        self._items = {q.id: Item(q.item) for q in task.questions} if task else {}

    def responses(self, shard: int, num_shards: int) -> Iterator[Response]:
        """One shard's lines. All lines are read, so every shard refuses a malformed file.

        Raises:
            TaskFileError: A line is malformed; begins with ``file:line``.
        """
        seen: set[str] = set()
        for number, line in enumerate(read_lines(self.path)):
            response = self._response(line, self._items)
            if response.id in seen:
                line.fail(f"the id {response.id!r} is already used by an earlier line")
            seen.add(response.id)
            if number % num_shards == shard:
                yield response

    def _response(self, line: Line, items: Mapping[str, Item]) -> Response:
        text = line.get("response")
        if "item" in line.data or self.task is None:
            identifier, item = str(line.get("id", (int, str))), Item(line.get("item", dict))
            return Response(identifier, _verifier(line), item, text)
        name = str(line.get("question_id", (int, str)))
        if name not in items:
            line.fail(
                f"there is no question {name!r} among the {len(items)} of task {self.task.name} "
                f"in {self.task.path}; set task.path, task.subset or task.split to where it is"
            )
        identifier = str(line.get("id", (int, str), default=f"{name}#{line.number}"))
        return Response(identifier, self.task.verifier_name, items[name], text)


def _verifier(line: Line) -> str:
    name = line.text("verifier")
    try:
        import_path_of(name)
    except ConfigError as error:
        line.fail(str(error))
    return name
