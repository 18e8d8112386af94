"""A real Prometheus beside a real run: what every query of ours is answered.

    python -m tests.monitoring.real_prometheus      three steps of the quickstart

The slow test does the same with a tiny random model. Verifiers are a service of their own here, so
that all three kinds of targets are scraped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from sdpo_megatron.monitoring.alerts import ALERTS
from sdpo_megatron.monitoring.dashboards import DASHBOARDS
from sdpo_megatron.monitoring.grafana import as_json
from sdpo_megatron.monitoring.recording import RECORDED
from sdpo_megatron.monitoring.rules import rule_groups
from sdpo_megatron.monitoring.scrape import laptop
from tests.judging.service_process import TOKEN, free_port, running_service
from tests.monitoring.exported import plain, selectors

RUN = "watched"
SCRAPE = "1s"  # a step of a tiny model is short
WINDOW = "1m"  # what `plain` puts for $__rate_interval
LIMIT_S = 900.0

NEEDS = {
    "sdpo_verifier_failures_total": "a verifier that fails",
    "ALERTS": "an alert that fires",
    "sdpo_device_memory_bytes": "a GPU",
    "run:sdpo_model_flops_utilisation:ratio1h": "a GPU whose peak is known",
    "sdpo_validation_success_ratio": "held-out questions",
    "sdpo_validation_best_of_n_ratio": "held-out questions",
    "sdpo_train_policy_loss": "an objective with a policy gradient",
    "sdpo_train_anchor_kl": "an objective with an anchor",
    "sdpo_drift_fp8_gap": "a trainer in FP8",
}
"""Series that a healthy run on a CPU does not show, and what they need."""
NEEDS_MORE = {
    'outcome!="answered"': "a request that is not answered",
    'increase(sdpo_engine_exits_total{cluster=~".*",run=~".*"}[1m]) > 0': "an engine that fails",
    'code="429"': "a verifier service that is saturated",
    "changes(sdpo_run_start_timestamp_seconds": "a run that is started again",
}
"""Parts of expressions of which the same holds."""


@dataclass(frozen=True)
class Answers:
    """What was learnt of a run."""

    silent: tuple[str, ...]
    """Expressions without data that nothing above excuses."""
    excused_wrongly: tuple[str, ...]
    """Entries of `NEEDS` and `NEEDS_MORE` of which there was data: they excuse nothing."""
    failing_rules: tuple[str, ...]
    """Rules that Prometheus could not evaluate."""
    firing: tuple[str, ...]
    """Alerts that fire. (Targets that are gone with the run are pending.)"""
    up: dict[str, float]
    """The most that `up` was, by component."""
    num_queries: int


class Prometheus:
    """A running Prometheus."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return self._http.get("/-/ready").status_code == 200
        return False

    def over(self, expr: str, start: float, end: float) -> list[dict[str, Any]]:
        """The series that an expression had between two times."""
        asked = {"query": expr, "start": start, "end": end, "step": 1}
        reply = self._http.get("/api/v1/query_range", params=asked)
        assert reply.status_code == 200, f"{expr}: {reply.text}"
        found: list[dict[str, Any]] = reply.json()["data"]["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        groups = self._http.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@contextlib.contextmanager
def prometheus(folder: Path, targets: dict[str, str]) -> Iterator[Prometheus]:
    """Scrapes `targets` (HOST:PORT by component) and evaluates our rules, often."""
    config = laptop(targets, RUN)
    config["global"] = {"scrape_interval": SCRAPE, "evaluation_interval": "2s"}
    rules = rule_groups()
    for group in rules["groups"]:
        group["interval"] = "2s"
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    port = free_port()
    command = ["prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=data"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    http = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60.0)
    try:
        client = Prometheus(http)
        end = time.monotonic() + 60
        while not client.ready():
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < end, "Prometheus did not come up within a minute"
            time.sleep(0.2)
        yield client
    finally:
        http.close()
        process.terminate()
        process.wait(timeout=30)


def watch(folder: Path, overrides: Sequence[str], verifiers: Sequence[str]) -> Answers:
    """Train with a Prometheus beside it, then ask everything that our files ask."""
    ports = {name: free_port() for name in ("trainer", "engine")}
    with running_service(folder / "service.log", f"verifiers=[{','.join(verifiers)}]") as service:
        targets = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        targets["verifier"] = service.url.removeprefix("http://")
        arguments = [
            *overrides,
            f"run.folder={folder / 'run'}",
            f"run.metrics_port={ports['trainer']}",
            f"rollout.engine.port={ports['engine']}",
            "judge.where=endpoints",
            f"judge.endpoints=['{service.url}']",
            "run.diagnostics_every=1",
        ]
        with prometheus(folder, targets) as found:
            start = time.time()
            _train(arguments)
            return _ask(found, start, time.time())


def _train(arguments: Sequence[str]) -> None:
    environment = {**os.environ, "SDPO_VERIFIER_TOKEN": TOKEN, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-m", "sdpo_megatron.cli", "train", *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def _expressions() -> list[str]:
    """All of panels, annotations and recorded series; of alerts, the series that they look at."""
    found = [curve.expr for page in DASHBOARDS for p in page.panels for curve in p.curves]
    marks = json.loads(as_json(DASHBOARDS[0]))["annotations"]["list"]
    found += [mark["expr"] for mark in marks]
    found += [rule.name for rule in RECORDED]
    for alert in ALERTS:
        for selector in selectors(alert.expr):
            matchers = [f'{m.name}="{m.value}"' for m in selector.matchers.matchers if m.value]
            equal = [text for text in matchers if not text.startswith("component=")]
            found.append(f"{selector.name}{{{','.join(equal)}}}")
    return list(dict.fromkeys(plain(expr) for expr in found))


def _ask(found: Prometheus, start: float, end: float) -> Answers:
    expressions = _expressions()
    answered = {expr: bool(found.over(expr, start, end)) for expr in expressions}
    excuses = {
        excuse
        for expr in expressions
        for excuse in (*NEEDS, *NEEDS_MORE)
        if excuse in ({s.name for s in selectors(expr)} if excuse in NEEDS else expr)
    }
    wrongly = [
        excuse
        for excuse in sorted(excuses)
        if any(
            given and (excuse in expr if excuse in NEEDS_MORE else _is_only(expr, excuse))
            for expr, given in answered.items()
        )
    ]
    up = found.over("up", start, end)
    return Answers(
        silent=tuple(e for e, given in answered.items() if not given and not _excused(e)),
        excused_wrongly=tuple(wrongly),
        failing_rules=tuple(r["name"] for r in found.rules() if r["health"] != "ok"),
        firing=tuple(r["name"] for r in found.rules() if r.get("state") == "firing"),
        up={s["metric"]["component"]: max(float(v) for _, v in s["values"]) for s in up},
        num_queries=len(expressions),
    )


def _is_only(expr: str, name: str) -> bool:
    return {selector.name for selector in selectors(expr)} == {name}


def _excused(expr: str) -> bool:
    names = {selector.name for selector in selectors(expr)}
    return bool(names & NEEDS.keys()) or any(part in expr for part in NEEDS_MORE)


def main() -> int:
    """The quickstart, three steps."""
    if shutil.which("prometheus") is None:
        print("prometheus is not installed (apt-get install prometheus)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="watched-") as folder:
        answers = watch(Path(folder), ["experiment=quickstart", "run.steps=3"], ["code"])
    print(f"{answers.num_queries} expressions were asked; without data, and why that is right:")
    for series, need in (NEEDS | NEEDS_MORE).items():
        print(f"  {series}: needs {need}")
    print(f"up: {answers.up}")
    for what in ("silent", "excused_wrongly", "failing_rules", "firing"):
        print(f"{what}: {list(getattr(answers, what))}")
    well = answers.up == {"trainer": 1.0, "engine": 1.0, "verifier": 1.0}
    faults = (answers.silent, answers.excused_wrongly, answers.failing_rules, answers.firing)
    return 0 if well and not any(faults) else 1


if __name__ == "__main__":
    sys.exit(main())
