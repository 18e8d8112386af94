"""Writes the computed parts of docs/recipes.md: ``python -m recipes.layouts_page``."""

from __future__ import annotations

from pathlib import Path

from recipes.engines import engines_for
from recipes.experiments import planned
from sdpo_megatron import config as configs
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.planning.hardware import GPUS, Machines
from sdpo_megatron.planning.layouts import choose
from sdpo_megatron.planning.memory import layout_text
from sdpo_megatron.planning.models import MODELS

PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"
_SIZES = {
    "1, shared": (1, 0),
    "1 + 1": (1, 1),
    "2 + 1": (2, 1),
    "4 + 2": (4, 2),
}
_DATA = ("/models/m", "/data/items")


def filled(page: str) -> str:
    """`page` with its computed parts made anew."""
    for name, text in {"layouts": _layouts(), "sheet": _sheet()}.items():
        head, opened, rest = page.partition(f"<!-- {name} -->\n")
        _, closed, tail = rest.partition(f"\n<!-- /{name} -->")
        assert closed, f"{PAGE.name} lacks <!-- {name} --> or <!-- /{name} -->"
        page = head + opened + text + closed + tail
    return page


def _layouts() -> str:
    """A row for each model and number of machines, a column for each kind of GPU."""
    wanted = ("experiment=science", "model.path=/models/m", "task.path=/data/items")
    config = configs.load(wanted)
    titles = [gpu.title for gpu in GPUS.values()]
    rows = [
        f"| model | trainer + engine machines | {' | '.join(titles)} |",
        f"| --- | --- |{' --- |' * len(titles)}",
    ]
    for model, spec in MODELS.items():
        for size, (nodes, engine_nodes) in _SIZES.items():
            cells = []
            for kind in GPUS:
                machines = Machines.of(kind, nodes, engine_nodes)
                try:
                    engines = engines_for(config, spec, machines)
                    found = choose(engines.within(config), spec, machines)
                    cells.append(layout_text(found.parallel, found.data_parallel))
                except ConfigError:
                    cells.append("does not fit")
            rows.append(f"| {model} | {size} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _sheet() -> str:
    """What is said of a model that does not fit."""
    try:
        planned("science", "qwen3-32b", *_DATA, Machines.of("h200", engine_nodes=0))
    except ConfigError as error:
        return f"```\n{error!s}\n```"
    raise AssertionError("qwen3-32b fits one machine of H200: choose another example")


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
