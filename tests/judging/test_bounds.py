"""How long judging may take follows from the item, and from nothing that is set beside it."""

from __future__ import annotations

from dataclasses import fields

from sdpo_megatron.judging.bounds import pool_wall_s, seconds_at_most
from sdpo_megatron.judging.config import JudgeConfig
from sdpo_megatron.judging.offline.config import OfflineConfig
from sdpo_megatron.judging.pool import PoolConfig
from sdpo_megatron.judging.service.config import ServiceConfig
from sdpo_megatron.verifiers.code import CodeVerifierConfig

CODE = CodeVerifierConfig(wall_s=7.0)


def test_a_program_gets_the_wall_time_of_every_one_of_its_tests() -> None:
    def of(tests: object) -> float:
        return seconds_at_most("code", {"tests": tests}, code=CODE, cpu_limit_s=1)

    assert of([{}] * 40) - of([{}] * 39) == 7.0
    assert of([{}] * 40) >= 40 * 7.0
    assert of([{}]) == seconds_at_most("code", {"kind": "humaneval"}, code=CODE, cpu_limit_s=1)


def test_other_verifiers_get_what_their_cpu_seconds_may_take_on_a_busy_machine() -> None:
    bound = seconds_at_most("mathematics", {"tests": [{}] * 99}, code=CODE, cpu_limit_s=10)
    assert bound == pool_wall_s(10)
    assert pool_wall_s(11) > pool_wall_s(10) > 10.0


def test_no_setting_bounds_an_item_a_second_time() -> None:
    for config in (JudgeConfig, ServiceConfig, OfflineConfig, PoolConfig):
        names = {field.name for field in fields(config)}
        assert not names & {"timeout_s", "wall_limit_s", "max_deadline_s", "hedge_after_s"}
