"""Sampling, the engines, and hot swaps."""

from __future__ import annotations

from sdpo_megatron.monitoring import sglang
from sdpo_megatron.monitoring.dashboards.shared import RATE, rate
from sdpo_megatron.monitoring.panel import Curve, Dashboard, Panel, Row, step
from sdpo_megatron.monitoring.promql import THIS_RUN, bucket, mean, quantile, select
from sdpo_megatron.observability import series

# fmt: off
_SAMPLING = Row("How fast does it sample?", (
    Panel(title="Sampled tokens", help="A second. From metrics.jsonl: of the seconds of sampling alone.", unit="tokens/s", bounds=(0, None),
          curves=(Curve(rate(select(series.ROLLOUT_TOKENS, THIS_RUN)), "sampled", "rollout/tokens_per_s"),)),
    Panel(title="Attempts", help="Judged, by how they ended and whether they solved their question.", unit="items/s", stacked=True, bounds=(0, None),
          curves=(Curve(f"sum by (finish, solved) ({rate(select(series.ATTEMPTS, THIS_RUN))})", "{{finish}}, solved: {{solved}}"),)),
    Panel(title="Tool calls", help="Of an attempt, where the task has a tool.", unit="items", bounds=(0, None), curves=(step("rollout/tool_calls_mean", "calls"),)),
    Panel(title="Sampled and dropped", help="Attempts of a step, and those lost to infrastructure.", unit="items", bounds=(0, None),
          curves=(step("rollout/attempts", "sampled"), step("rollout/dropped_attempts", "dropped"))),
    Panel(title="In flight", help="Attempts of the step that are not judged yet, and requests at each engine.", unit="items", bounds=(0, None),
          curves=(Curve(select(series.ATTEMPTS_IN_FLIGHT, THIS_RUN), "attempts"), Curve(select(series.ENGINE_REQUESTS_IN_FLIGHT, THIS_RUN), "{{engine}}"))),
    Panel(title="Staleness", help="Policy versions between an attempt's oldest token and its training; 0 on-policy.", unit="version", kind="heatmap",
          curves=(Curve(f"sum by (le) (increase({bucket(series.ATTEMPT_STALENESS_VERSIONS, THIS_RUN)}[{RATE}]))", "{{le}}"),)),
    Panel(title="Worst staleness", help="Of the step.", unit="version", bounds=(0, None), curves=(step("rollout/staleness_max", "worst token"), step("rollout/staleness_mean", "mean of oldest tokens"))),
    Panel(title="Interrupted by a swap", help="Attempts of the step that went on with newer weights.", unit="ratio", bounds=(0, 1), curves=(step("rollout/retracted_fraction", "of attempts"),)),
))
_GROUPS = Row("Where are the groups?", (
    Panel(title="Now", help="Waiting for a worker, being made, waiting for a batch, in a batch since the last checkpoint.", unit="items", stacked=True, bounds=(0, None),
          curves=(Curve(select(series.GROUPS_LIVE, THIS_RUN), "{{state}}"),)),
    Panel(title="Dropped", help="Of the step: too old for rollout.max_staleness, or replaced because nothing could be learnt.", unit="items", bounds=(0, None),
          curves=(step("ledger/dropped_stale", "too old"), step("ledger/dropped_no_signal", "no signal"))),
    Panel(title="Begun anew", help="Of the step, by what cost the first try.", unit="items", bounds=(0, None),
          curves=tuple(step(f"ledger/returned_{name}", name.replace("_", " ")) for name in ("expired", "worker_died", "abandoned", "file_lost", "restart"))),
    Panel(title="Workers", help="1 while a rollout worker takes groups.", unit="1", kind="state-timeline", states=((1, "takes groups", "green"), (0, "out", "red")),
          curves=(Curve(select(series.WORKER_UP, THIS_RUN), "{{worker}}"),)),
))
_ENGINES = Row("Are the engines well?", (
    Panel(title="In the pool", help="1 while an engine takes requests.", unit="1", kind="state-timeline", states=((1, "takes requests", "green"), (0, "out", "red")),
          curves=(Curve(select(series.ENGINE_UP, THIS_RUN), "{{engine}}"),), width=12),
    Panel(title="States", help="Engines that are ready, updating (in a swap), out (coming back) or lost.", unit="items", bounds=(0, None), width=12,
          curves=(Curve(f"sum by (state) ({select(series.ENGINE_STATE, THIS_RUN)})", "{{state}}"),)),
    Panel(title="Policy version", help="Of each engine, and of the trainer. They are equal but for the seconds of a swap.", unit="version",
          curves=(Curve(select(series.ENGINE_POLICY_VERSION, THIS_RUN), "{{engine}}"), step("policy/version", "trainer"))),
    Panel(title="Left and came back", help="Times that an engine left the pool, by reason, and came back.", unit="items", bounds=(0, None),
          curves=(Curve(f"increase({select(series.ENGINE_EXITS, THIS_RUN)}[{RATE}])", "{{engine}} out: {{reason}}"), Curve(f"increase({select(series.ENGINE_REJOINS, THIS_RUN)}[{RATE}])", "{{engine}} back"))),
    Panel(title="Restarts", help="Engines restarted in the step.", unit="items", bounds=(0, None), curves=(step("engine/restarts", "restarts"),)),
))
_SWAPS = Row("Do hot swaps work?", (
    Panel(title="Seconds of a swap", help="Mean of one engine, by stage.", unit="s", stacked=True, bounds=(0, None),
          curves=(Curve(mean(series.SWAP_SECONDS, RATE, THIS_RUN, by="stage"), "{{stage}}"),)),
    Panel(title="The slowest swaps", help="95th percentile by stage.", unit="s", bounds=(0, None),
          curves=(Curve(quantile(0.95, series.SWAP_SECONDS, RATE, THIS_RUN, by="stage"), "{{stage}}"),)),
    Panel(title="Pause of generation", help="95th percentile of an engine, for a swap.", unit="s", bounds=(0, None),
          curves=(Curve(quantile(0.95, series.SWAP_PAUSE_SECONDS, RATE, THIS_RUN), "pause"),)),
    Panel(title="Bytes sent", help="Weights to engines, those to each counted.", unit="bytes", bounds=(0, None),
          curves=(Curve(f"sum by (transport) (increase({select(series.SWAP_BYTES, THIS_RUN)}[{RATE}]))", "{{transport}}"),)),
    Panel(title="Publishing", help="Seconds that a step spends on bringing new weights to the engines, export included.", unit="s", bounds=(0, None), curves=(step("time/publish_s", "publish"),)),
    Panel(title="Failures", help="Swaps that an engine did not take.", unit="items", bounds=(0, None),
          curves=(Curve(f"increase({select(series.SWAP_FAILURES, THIS_RUN)}[{RATE}])", "{{engine}}"),)),
))
_SGLANG = Row("What does SGLang say?", (
    Panel(title="Requests", help="Decoded now, and waiting. Of SGLang's own page.", unit="items", bounds=(0, None),
          curves=(Curve(sglang.asked(sglang.RUNNING, THIS_RUN), "{{instance}} running"), Curve(sglang.asked(sglang.QUEUED, THIS_RUN), "{{instance}} waiting"))),
    Panel(title="Decoding", help="Tokens a second of each engine.", unit="tokens/s", bounds=(0, None), curves=(Curve(sglang.asked(sglang.THROUGHPUT, THIS_RUN), "{{instance}}"),)),
    Panel(title="Caches", help="Key-value cache in use, and prompt tokens found in the prefix cache.", unit="ratio", bounds=(0, 1),
          curves=(Curve(sglang.asked(sglang.TOKEN_USAGE, THIS_RUN), "{{instance}} in use"), Curve(sglang.asked(sglang.CACHE_HITS, THIS_RUN), "{{instance}} hits"))),
))
# fmt: on

ROLLOUTS = Dashboard(
    uid="sdpo-rollouts",
    title="SDPO / Rollouts and hot swap",
    help="How fast does it sample, are the engines well, do swaps work?",
    rows=(_SAMPLING, _GROUPS, _ENGINES, _SWAPS, _SGLANG),
)
