"""Mutants of a function by one operator or constant, and an oracle running its tests one by one.

The oracle shares nothing with the sandbox or the verifier: plain `exec` in a child process with a
clock.
"""

from __future__ import annotations

import ast
import copy
import json
import subprocess
import sys
from collections.abc import Iterator

_BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
}
_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}


def mutants(source: str, entry: str) -> Iterator[str]:
    """Every source that differs from `source` by one operator or constant in function `entry`."""
    tree = ast.parse(source)
    count = len(_sites(tree, entry))
    for number in range(count):
        changed = copy.deepcopy(tree)
        _mutate(_sites(changed, entry)[number])
        yield ast.unparse(ast.fix_missing_locations(changed))


def _sites(tree: ast.Module, entry: str) -> list[ast.AST]:
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == entry)
    # type: ignore[attr-defined]
    docstring = function.body[0].value if ast.get_docstring(function) is not None else None
    return [
        node
        for statement in function.body
        for node in ast.walk(statement)
        if node is not docstring and _fits(node)
    ]


def _fits(node: ast.AST) -> bool:
    if isinstance(node, (ast.BinOp, ast.AugAssign)):
        return type(node.op) in _BINARY
    if isinstance(node, ast.Compare):
        return len(node.ops) == 1 and type(node.ops[0]) in _COMPARE
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, (ast.Not, ast.USub))
    return isinstance(node, ast.BoolOp) or (
        isinstance(node, ast.Constant) and isinstance(node.value, (int, str))
    )


def _mutate(node: ast.AST) -> None:
    if isinstance(node, (ast.BinOp, ast.AugAssign)):
        node.op = _BINARY[type(node.op)]()
    elif isinstance(node, ast.Compare):
        node.ops = [_COMPARE[type(node.ops[0])]()]
    elif isinstance(node, ast.BoolOp):
        node.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
        if isinstance(node.op, ast.Not):
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            node.value = not node.value
        elif isinstance(node.value, int):
            node.value += 1
        else:
            node.value = str(node.value) + "x"


_ORACLE = """
import json, random, resource, signal, sys
job = json.load(sys.stdin)
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
class OutOfTime(BaseException): pass
def ring(*_): raise OutOfTime
signal.signal(signal.SIGVTALRM, ring)
sys.stdout, out = sys.stderr, sys.stdout
for source in job["sources"]:
    failed = []
    for index in job["order"]:
        names = {}
        helpers = {}
        try:
            exec(job["prompt"] + "    pass\\n", helpers)
            for setup in job["setup"]: exec(setup, helpers)
            signal.setitimer(signal.ITIMER_VIRTUAL, job["seconds"])
            exec(job["prompt"] + "    pass\\n", names)
            exec(source, names)
            helpers["candidate"] = names[job["entry"]]
            random.seed(20260101)
            exec(job["tests"][index], helpers)
        except BaseException:
            failed.append(index)
            break
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    out.write(json.dumps(failed) + "\\n")
"""


def first_failing_test(
    prompt: str,
    entry: str,
    setup: tuple[str, ...],
    tests: tuple[str, ...],
    order: list[int],
    sources: list[str],
    seconds: float,
) -> list[int | None]:
    """For each source, the first test in `order` that it fails, or None.

    Each test runs in fresh namespaces with `seconds` of CPU time.
    """
    job = {
        "prompt": prompt,
        "entry": entry,
        "setup": setup,
        "tests": tests,
        "order": order,
        "sources": sources,
        "seconds": seconds,
    }
    done = subprocess.run(
        [sys.executable, "-I", "-c", _ORACLE],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [failed[0] if failed else None for failed in found]
