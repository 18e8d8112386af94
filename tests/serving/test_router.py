"""Which engine a request goes to: its group's, until that has too many."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from serving.completion import SamplingParams
from serving.config import EngineConfig
from serving.router import AFFINITY_SLACK, Roster, Router, Served
from tests.serving.stand_in import StandIn

ONE_TOKEN = SamplingParams(max_new_tokens=1)


def _requests(engines: Sequence[StandIn], num_started: int) -> list[int]:
    """Requests that each engine has been sent, once all of them were."""
    counts = [engine.asked.count("/generate") for engine in engines]
    return counts if sum(counts) == num_started else []


async def _sent(
    engines: Sequence[StandIn], prompts: Sequence[Sequence[int]], **roster: bool
) -> list[int]:
    """How many requests each paused engine is sent when all prompts are asked at once."""
    for engine in engines:
        await engine.start()
        engine.paused = True
    router = Router(EngineConfig(), lambda *_: None)
    router.show(Roster(engines=tuple(Served(engine.url, 0) for engine in engines)))
    tasks = [asyncio.ensure_future(router.generate(prompt, ONE_TOKEN)) for prompt in prompts]
    while not (found := _requests(engines, len(prompts))):
        await asyncio.sleep(0.005)
    for engine in engines:
        engine.paused = False
    await asyncio.gather(*tasks)
    await router.close()
    for engine in engines:
        await engine.stop()
    return found


def test_attempts_of_a_group_share_an_engine_and_groups_are_spread() -> None:
    engines = [StandIn(), StandIn()]
    groups = [[group] for group in range(4) for _ in range(4)]
    assert asyncio.run(_sent(engines, groups)) == [8, 8]


def test_a_group_moves_on_when_its_engine_has_too_many() -> None:
    engines = [StandIn(), StandIn()]
    found = asyncio.run(_sent(engines, [[1]] * (2 * AFFINITY_SLACK)))
    assert sorted(found) == [AFFINITY_SLACK, AFFINITY_SLACK]


def test_while_a_swap_holds_requests_back_none_is_sent() -> None:
    async def main() -> None:
        engine = StandIn()
        await engine.start()
        router = Router(EngineConfig(), lambda *_: None)
        here = (Served(engine.url, 0),)
        router.show(Roster(engines=here, holding=True))
        asked = asyncio.ensure_future(router.generate([1], ONE_TOKEN))
        await asyncio.sleep(0.05)
        assert engine.asked == []
        router.show(Roster(engines=here))
        assert (await asked).token_ids == (5,)
        await router.close()
        await engine.stop()

    asyncio.run(main())
