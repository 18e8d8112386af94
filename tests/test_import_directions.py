"""Imports point downwards only, and the heavy engines are imported only where they belong.

The whole source is walked as syntax trees, imports inside functions included, so nothing has to be
importable for this test to speak.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent

# Level of each part; a part may import itself and what has a greater number. Parts of one level do
# not know each other.
LEVELS = {
    "sdpo_megatron.cli": 0,
    "sdpo_megatron.loops": 1,
    "sdpo_megatron.rendering": 1,
    "sdpo_megatron.comparing": 1,
    "sdpo_megatron.planning": 1,
    "sdpo_megatron.config": 2,
    "sdpo_megatron.conf": 2,
    "sdpo_megatron.doctor": 2,
    "sdpo_megatron.report": 2,
    "sdpo_megatron.evaluation": 2,
    "sdpo_megatron.monitoring": 3,
    "sdpo_megatron.rollout": 3,
    "sdpo_megatron.discovery": 3,
    "sdpo_megatron.actor": 3,
    "serving": 4,
    "sdpo_megatron.objectives": 5,
    "sdpo_megatron.weights": 5,
    "sdpo_megatron.judging": 5,
    "sdpo_megatron.tasks": 6,
    "sdpo_megatron.verifiers": 7,
    "sdpo_megatron.sandbox": 8,
    "sdpo_megatron.observability": 9,
    "sdpo_megatron.fields": 10,
    "sdpo_megatron.nouns": 11,
    "sdpo_megatron.errors": 11,
    "sdpo_megatron.exit_codes": 12,
    "sdpo_megatron.addresses": 12,
    "sdpo_megatron.cores": 12,
    "sdpo_megatron.files": 11,
    "sdpo_megatron.ports": 11,
    "sdpo_megatron.process_tree": 11,
}
# The libraries that are heavy or need a device, and the parts that may import them.
ENGINES = {
    "megatron": ("sdpo_megatron.actor", "sdpo_megatron.weights"),
    "sglang": ("serving",),
    "transformer_engine": ("sdpo_megatron.actor",),
}
# Triton's own language: the loss's kernels, which a CUDA device alone loads.
KERNELS = "sdpo_megatron/objectives/fused/kernels/"
# Pure mathematics: nothing but torch, the standard library, the nouns and errors.
PURE = "sdpo_megatron.objectives"
PURE_MAY_IMPORT = {
    "torch",
    "pydantic",
    "sdpo_megatron.nouns",
    "sdpo_megatron.errors",
    "sdpo_megatron.fields",
    PURE,
}


@dataclass(frozen=True)
class Import:
    """`module` is imported at `file`:`line`, which belongs to `part`."""

    part: str
    module: str
    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file.relative_to(REPOSITORY)}:{self.line} imports {self.module}"


def _part(module: str) -> str:
    """The key of LEVELS that a module belongs to, or its top-level name."""
    names = module.split(".")
    return ".".join(names[:2]) if names[0] == "sdpo_megatron" else names[0]


def _module_name(file: Path) -> str:
    return ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def _base(node: ast.ImportFrom, file: Path) -> str:
    """The module that stands between `from` and `import`, dots resolved."""
    base = node.module or ""
    if node.level:
        package = _module_name(file).split(".")
        package = package if file.name == "__init__.py" else package[:-1]
        above = package[: len(package) - node.level + 1]
        base = ".".join([*above, base]).rstrip(".")
    return base


def _imported(node: ast.AST, file: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _base(node, file)
        # `from sdpo_megatron import errors` imports the module, not a name of the package.
        yield from (f"{base}.{a.name}" if base == "sdpo_megatron" else base for a in node.names[:1])
        if base == "sdpo_megatron":
            yield from (f"{base}.{alias.name}" for alias in node.names[1:])


def _all_imports() -> list[Import]:
    files = [
        file
        for top in ("sdpo_megatron", "serving")
        for file in sorted((REPOSITORY / top).rglob("*.py"))
        # Stand-ins bear the names of the libraries that they stand in for.
        if "stand_ins" not in file.parts
    ]
    return [
        Import(_part(_module_name(file)), module, file, node.lineno)
        for file in files
        for node in ast.walk(ast.parse(file.read_text(), str(file)))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in _imported(node, file)
    ]


IMPORTS = _all_imports()


def test_every_part_has_a_level() -> None:
    assert {entry.part for entry in IMPORTS} - {"sdpo_megatron"} <= LEVELS.keys()


def test_imports_point_downwards() -> None:
    upwards = [
        f"{entry} (level {LEVELS[entry.part]} may not import level {LEVELS[target]})"
        for entry in IMPORTS
        if (target := _part(entry.module)) in LEVELS
        and entry.part in LEVELS
        and entry.part != target
        and LEVELS[target] <= LEVELS[entry.part]
    ]
    assert upwards == []


def test_no_file_imports_itself_by_way_of_others() -> None:
    """Neither between folders nor inside one; what a function imports counts."""
    assert _circles(_modules()) == []


def _modules() -> dict[str, set[str]]:
    """The modules of the source, each with those that it imports."""
    files = {_module_name(entry.file): entry.file for entry in IMPORTS}
    graph: dict[str, set[str]] = {name: set() for name in files}
    for name, file in files.items():
        for node in _executed(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = _base(node, file)
                whole = {f"{base}.{alias.name}" for alias in node.names}
                # `from package import module` needs the module; other names, the package itself.
                graph[name] |= {name if name in files else base for name in whole}
    return graph


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker reads."""
    yield node
    if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
        for child in ast.iter_child_nodes(node):
            yield from _executed(child)


def _circles(graph: dict[str, set[str]]) -> list[str]:
    """One line a circle: take away, again and again, what imports nothing that is left."""
    left = {name: targets & graph.keys() - {name} for name, targets in graph.items()}
    while free := {name for name, targets in left.items() if not targets}:
        left = {name: targets - free for name, targets in left.items() if name not in free}
    found = []
    while left:  # everything that is left leads into a circle: follow it to where it closes
        path = [min(left)]
        while (step := min(left[path[-1]])) not in path:
            path.append(step)
        circle = path[path.index(step) :]
        found.append(" -> ".join([*circle, step]))
        left = {name: targets - set(circle) for name, targets in left.items() if name not in circle}
        while free := {name for name, targets in left.items() if not targets}:
            left = {name: targets - free for name, targets in left.items() if name not in free}
    return found


def test_circles_are_seen() -> None:
    assert _circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert _circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"e"}, "e": {"d", "torch"}}) == [
        "b -> c -> b",
        "d -> e -> d",
    ]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_is_imported_only_where_it_belongs(engine: str) -> None:
    strays = [
        str(entry)
        for entry in IMPORTS
        if entry.module.split(".")[0] == engine and entry.part not in ENGINES[engine]
    ]
    assert strays == []


def test_objectives_import_torch_alone() -> None:
    def in_kernels(entry: Import) -> bool:
        return str(entry.file.relative_to(REPOSITORY)).startswith(KERNELS)

    strays = [
        str(entry)
        for entry in IMPORTS
        if entry.part == PURE
        and not (entry.module.split(".")[0] == "triton" and in_kernels(entry))
        and entry.module.split(".")[0] not in sys.stdlib_module_names
        and entry.module.split(".")[0] not in PURE_MAY_IMPORT
        and _part(entry.module) not in PURE_MAY_IMPORT
    ]
    assert strays == []


def test_triton_is_imported_in_the_kernels_alone_and_those_on_cuda_alone() -> None:
    strays = [
        str(entry)
        for entry in IMPORTS
        if entry.module.split(".")[0] == "triton"
        and not str(entry.file.relative_to(REPOSITORY)).startswith(KERNELS)
    ]
    assert strays == []
    program = (
        "import sys, sdpo_megatron.objectives, torch\n"
        "from sdpo_megatron.objectives.fused.dispatch import passes_for\n"
        "from sdpo_megatron.objectives.fused.passes import TorchPasses\n"
        "assert isinstance(passes_for(torch.zeros(2, 2), complete=False), TorchPasses)\n"
        "kernels = 'sdpo_megatron.objectives.fused.kernels'\n"
        "print(sorted(name for name in sys.modules if name.startswith(kernels)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_sglang_is_imported_by_the_engines_process_alone() -> None:
    """Only files that `serving.engine_main` runs in the child may import it, never our side."""
    ours = "import sys, serving.config, serving.client; sys.exit('sglang' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", ours], cwd=REPOSITORY).returncode == 0


def test_importing_the_package_needs_no_heavy_library() -> None:
    program = (
        "import sys, sdpo_megatron, sdpo_megatron.nouns, sdpo_megatron.errors\n"
        "print(sorted({'torch', 'megatron', 'sglang', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_the_walk_sees_relative_and_nested_imports() -> None:
    """The test's own eyes: every form of import is resolved to the module that it means."""
    file = REPOSITORY / "sdpo_megatron" / "rollout" / "example_of_this_test.py"
    source = (
        "import megatron.core as core\n"
        "from sdpo_megatron import errors, nouns\n"
        "def f():\n"
        "    from ..actor.runtime import start\n"
        "    from . import prompts\n"
    )
    found = [
        module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in _imported(node, file)
    ]
    assert found == [
        "megatron.core",
        "sdpo_megatron.errors",
        "sdpo_megatron.nouns",
        "sdpo_megatron.actor.runtime",
        "sdpo_megatron.rollout",
    ]
