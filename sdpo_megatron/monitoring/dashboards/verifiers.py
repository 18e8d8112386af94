"""Judging: as the loop sees it, and the verifier services themselves."""

from __future__ import annotations

from sdpo_megatron.judging.service import metrics as service
from sdpo_megatron.monitoring.dashboards.shared import RATE, rate
from sdpo_megatron.monitoring.panel import Curve, Dashboard, Panel, Row, step
from sdpo_megatron.monitoring.promql import THIS_RUN, quantile, select
from sdpo_megatron.observability import series

# fmt: off
_LOOP = Row("What does the loop see?", (
    Panel(title="Seconds of judging", help="Summed over the attempts of a step; it overlaps with sampling.", unit="s", bounds=(0, None), curves=(step("time/verify_s", "judging"),)),
    Panel(title="Failures of infrastructure", help="Tries that failed; they are tried again and never count as wrong. After the last one the attempt is dropped.", unit="items", bounds=(0, None),
          curves=(Curve(f"sum(increase({select(series.VERIFY_INFRASTRUCTURE_FAILURES, THIS_RUN)}[{RATE}]))", "failed tries", "verify/infrastructure_failures"), step("rollout/dropped_attempts", "attempts dropped"))),
    Panel(title="Requests to services", help="To verifier services, by outcome. Busy: no worker in time.", unit="items/s", stacked=True, bounds=(0, None),
          curves=(Curve(f"sum by (outcome) ({rate(select(series.VERIFY_CLIENT_REQUESTS, THIS_RUN))})", "{{outcome}}"),)),
    Panel(title="By endpoint", help="Requests that were not answered, by endpoint.", unit="items/s", bounds=(0, None),
          curves=(Curve(f"sum by (endpoint, outcome) ({rate(select(series.VERIFY_CLIENT_REQUESTS, THIS_RUN + ',outcome!=' + chr(34) + 'answered' + chr(34)))})", "{{endpoint}} {{outcome}}"),)),
    Panel(title="Latency", help="Of a request, waiting for a worker included.", unit="s", bounds=(0, None),
          curves=tuple(Curve(quantile(q, series.VERIFY_CLIENT_SECONDS, RATE, THIS_RUN), f"{q:.0%}") for q in (0.5, 0.95))),
))
_LOAD = Row("Can the services keep up?", (
    Panel(title="Queue", help="Items accepted and not judged, by what is accepted at most. Above 0.9: more workers, or pods.", unit="ratio", bounds=(0, 1), limits=((0.7, "yellow"), (0.9, "red")),
          curves=(Curve(f"{select(service.QUEUE_ITEMS, THIS_RUN)} / {select(service.QUEUE_LIMIT, THIS_RUN)}", "{{instance}}"),)),
    Panel(title="Workers busy", help="Share of the workers that judge now.", unit="ratio", bounds=(0, 1),
          curves=(Curve(f"{select(service.WORKERS_BUSY, THIS_RUN)} / {select(service.WORKERS, THIS_RUN)}", "{{instance}}"),)),
    Panel(title="Answers of the services", help="By HTTP status: 429 is no worker in time, 401 a wrong token.", unit="items/s", stacked=True, bounds=(0, None),
          curves=(Curve(f"sum by (code) ({rate(select(service.REQUESTS, THIS_RUN))})", "{{code}}"),)),
    Panel(title="Waiting", help="Seconds that an item waited for a worker.", unit="s", bounds=(0, None),
          curves=tuple(Curve(quantile(q, service.WAIT_SECONDS, RATE, THIS_RUN), f"{q:.0%}") for q in (0.5, 0.95))),
    Panel(title="Judging", help="Seconds of one item, 95th percentile by verifier.", unit="s", bounds=(0, None),
          curves=(Curve(quantile(0.95, service.SECONDS, RATE, THIS_RUN, by="verifier"), "{{verifier}}"),)),
    Panel(title="Item cache", help="JSON of the items kept, so that each travels once.", unit="bytes", bounds=(0, None),
          curves=(Curve(select(service.ITEM_CACHE_BYTES, THIS_RUN), "{{instance}}"),)),
))
_SANDBOX = Row("What do they judge, and is it confined?", (
    Panel(title="Verdicts", help="By outcome; unreadable: no answer could be read.", unit="items/s", stacked=True, bounds=(0, None),
          curves=(Curve(f"sum by (outcome) ({rate(select(service.VERDICTS, THIS_RUN))})", "{{outcome}}"),)),
    Panel(title="Without a verdict", help="Accepted items, by reason.", unit="items/s", bounds=(0, None),
          curves=(Curve(f"sum by (verifier, reason) ({rate(select(service.FAILURES, THIS_RUN))})", "{{verifier}}: {{reason}}"),)),
    Panel(title="Programs ended by a limit", help="Wrong answers that ran too long, held too much or wrote too much. They are verdicts.", unit="items/s", stacked=True, bounds=(0, None),
          curves=(Curve(f"sum by (limit) ({rate(select(service.KILLS, THIS_RUN))})", "{{limit}}"),)),
    Panel(title="Isolation layers", help="1 where a layer works. A layer that goes from 1 to 0 is a change of the node.", unit="1", kind="state-timeline", width=16, states=((1, "works", "green"), (0, "missing", "red")),
          curves=(Curve(f"min by (layer) ({select(service.SANDBOX_LAYER_ACTIVE, THIS_RUN)})", "{{layer}}"),)),
    Panel(title="Refused by the sandbox", help="Items not judged because too few layers work.", unit="items", bounds=(0, None),
          curves=(Curve(f"increase({select(service.SANDBOX_REFUSALS, THIS_RUN)}[{RATE}])", "{{instance}}"),)),
))
# fmt: on

VERIFIERS = Dashboard(
    uid="sdpo-verifiers",
    title="SDPO / Verifiers",
    help="Can judging keep up, does its infrastructure fail, is untrusted code confined?",
    rows=(_LOOP, _LOAD, _SANDBOX),
)
