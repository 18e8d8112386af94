"""The two sandboxes that every attack meets, and the honest run that follows each attack."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from sdpo_megatron.sandbox import Program, RunLimits, RunResult, Sandbox, SandboxConfig
from tests.sandbox.ordinary_user import UserSandbox
from tests.sandbox.pod import MINIMUM

SMALL = SandboxConfig(workers=2, tmp_mib=8)
LITTLE = RunLimits(wall_s=20.0, cpu_s=2.0, memory_mib=192, output_kib=64)
KINDS = ("own-user", "ordinary-user")
POD = "pod"


class Target:
    """One sandbox under attack: `run` one program, `run_many` at once."""

    def __init__(self, kind: str, config: SandboxConfig) -> None:
        self.kind, self.is_ordinary = kind, kind == "ordinary-user"
        if kind == POD:
            config = replace(config, minimum_layers=MINIMUM)
            self.inner: Sandbox | UserSandbox = UserSandbox(config, LITTLE, POD)
        elif self.is_ordinary and os.geteuid() == 0:
            self.inner = UserSandbox(config, LITTLE)
        else:
            self.inner = Sandbox(config, LITTLE).start()
        self.layers = self.inner.layers

    def run(self, program: Program) -> RunResult:
        return self.inner.run(program)

    def run_many(self, programs: list[Program]) -> list[RunResult]:
        if isinstance(self.inner, UserSandbox):
            return self.inner.run_many(programs)
        with ThreadPoolExecutor(len(programs)) as pool:
            return list(pool.map(self.inner.run, programs))


_targets: dict[str, Target] = {}


def _target(kind: str) -> Target:
    if kind not in _targets:
        _targets[kind] = Target(kind, SMALL)
    return _targets[kind]


@pytest.fixture(scope="session", autouse=True)
def _close_targets() -> Iterator[None]:
    yield
    while _targets:
        _targets.popitem()[1].inner.close()


def _params(kinds: tuple[str, ...]) -> list[object]:
    return [pytest.param(k, marks=pytest.mark.slow if k != KINDS[0] else ()) for k in kinds]


def _under_attack(kind: str) -> Iterator[Target]:
    if os.geteuid() != 0 and kind != "ordinary-user":
        pytest.skip("the tests are not run by root: own-user would be the ordinary user again")
    target = _target(kind)
    yield target
    for honest in target.run_many([_HONEST] * 2):
        assert honest.stdout == b"42 [] 1\n", (honest.stdout, honest.report)
        assert honest.cause == ""


@pytest.fixture(params=_params(KINDS))
def sandbox(request: pytest.FixtureRequest) -> Iterator[Target]:
    """A sandbox to attack. Afterwards honest programs must run in it as if nothing had been."""
    yield from _under_attack(request.param)


@pytest.fixture(params=_params((*KINDS, POD)))
def anywhere(request: pytest.FixtureRequest) -> Iterator[Target]:
    """Like `sandbox`; also in a place like a restricted pod, without namespaces and cgroups."""
    yield from _under_attack(request.param)


_HONEST = Program.script(
    "import os, threading\n"
    "number = int(input())\n"
    "open('note', 'w').write('x')\n"
    "thread = threading.Thread(target=lambda: print(number * 2, os.listdir('.')[1:], end=' '))\n"
    "thread.start(); thread.join()\n"
    "os.remove('note')\n"
    "print(len(os.listdir('.')) + 1)\n",
    stdin=b"21\n",
)
