"""The loop of `sdpo discover`: one search after another, each from the model at the beginning.

As training, with three differences: the questions of a step are those of the search that is on,
the baselines train on nothing, and when a search is over the model is as it was at first.
"""

from __future__ import annotations

from sdpo_megatron.actor.agree import any_rank, from_rank_0
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.loops.questions import num_searches
from sdpo_megatron.loops.stop import StopRequest
from sdpo_megatron.loops.train import opened
from sdpo_megatron.observability.run_folder import RunFolder


def discover(config: TrainConfig, folder: RunFolder, stop: StopRequest) -> bool:
    """Search until every question was searched as often as `discovery.searches` says, or a rank is
    asked to stop: then checkpoint and return.

    Returns whether all searches are done.

    Raises:
        SdpoError: As `train`.
    """
    assert config.discovery is not None
    learns = config.discovery.method == "sdpo"
    with opened(config, folder, stop) as run:
        trainer, coordinator = run.trainer, run.coordinator
        searches = from_rank_0(
            num_searches(config, len(coordinator.questions)) if coordinator else None
        )
        stopping = any_rank(stop.asked)
        if not stopping:
            trainer.publish(coordinator)
        while not stopping and trainer.state.search < searches:
            plan = run.next_plan(learn=learns)
            if plan is None:  # stopped while sampling: the batch is abandoned
                break
            over = from_rank_0(coordinator.search_is_over(trainer.state) if coordinator else None)
            trains = learns and not over
            metrics = trainer.step(run.share(plan)) if trains else trainer.pass_over()
            if over:
                trainer.begin_next_search()
            metrics |= trainer.publish(coordinator)
            stopping = run.end_step(metrics)
        run.finish()
        return trainer.state.search >= searches
