"""The dashboards, a file each: what is on them, for Grafana and for `sdpo dashboard`."""

from sdpo_megatron.monitoring.dashboards.learning import LEARNING
from sdpo_megatron.monitoring.dashboards.overview import OVERVIEW
from sdpo_megatron.monitoring.dashboards.rollouts import ROLLOUTS
from sdpo_megatron.monitoring.dashboards.trainer import TRAINER
from sdpo_megatron.monitoring.dashboards.verifiers import VERIFIERS

__all__ = ["DASHBOARDS"]

DASHBOARDS = (OVERVIEW, LEARNING, ROLLOUTS, VERIFIERS, TRAINER)
