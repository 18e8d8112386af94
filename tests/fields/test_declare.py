"""Config dataclasses check themselves, in one wording, however they are made."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, field, replace
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from sdpo_megatron.errors import ConfigError
from sdpo_megatron.fields import Fraction, PositiveInt, Seconds, Texts, Word, refuse, settings
from sdpo_megatron.fields.reading import all_settings, build, defaults, dotted, to_plain


@settings
class Red:
    kind: Literal["red"] = "red"
    share: Fraction = 0.5


@settings
class Blue:
    kind: Literal["blue"] = "blue"
    depth: PositiveInt


@settings
class Inner:
    low: int = 1
    high: int = 2
    template: str = "{x}"

    def __post_init__(self) -> None:
        if self.low > self.high:
            refuse(self, [("low", "must not be above {high}; see {template:key}, {{x}}")])


@settings
class Outer:
    name: Word = "n"
    wait_s: Seconds = 1.0
    ids: Texts = ()
    on: bool = False
    limit: PositiveInt | None = None
    inner: Inner = field(default_factory=Inner)
    colour: Annotated[Red | Blue, Field(discriminator="kind")] = field(default_factory=Red)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": ""}, "name='': must not be empty"),
        ({"name": True}, "name=true: expected text, got true or false"),
        ({"name": None}, "name=null: expected text, got null"),
        ({"wait_s": 0}, "wait_s=0: must be above 0"),
        ({"wait_s": float("nan")}, "wait_s=nan: must be a finite number"),
        ({"wait_s": "1"}, "wait_s=1: expected a number, got text"),
        ({"limit": 0}, "limit=0: must be at least 1"),
        ({"limit": 1.0}, "limit=1.0: expected a whole number, got a number"),
        ({"limit": False}, "limit=false: expected a whole number, got true or false"),
        ({"on": 1}, "on=1: expected true or false, got a whole number"),
        ({"on": "true"}, "on=true: expected true or false, got text"),
        ({"ids": "a"}, "ids=a: expected a list, written as ids=[a,b]"),
        ({"ids": [True]}, "ids[0]=true: expected text, got true or false"),
        ({"inner": 3}, "inner=3: expected a group of settings, got a whole number"),
        (
            {"inner": {"low": 3}},
            "inner.low=3: must not be above inner.high=2; see inner.template, {x}",
        ),
        ({"inner": {"lo": 3}}, "inner.lo: there is no such setting; did you mean inner.low?"),
        ({"colour": {"kind": "green"}}, "colour.kind=green: expected one of red, blue"),
        ({"colour": {"kind": "blue"}}, "colour.depth: must be given"),
        ({"colour": {}}, "colour.kind: must be given"),
        (
            {"colour": {"kind": "blue", "depth": 1, "share": 0.1}},
            "colour.share=0.1: belongs to colour.kind=red, but here colour.kind=blue",
        ),
    ],
)
def test_what_is_wrong_is_said_after_its_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, values)
    assert str(caught.value) == message


def test_the_wording_is_the_same_when_one_is_made_directly() -> None:
    with pytest.raises(
        ConfigError, match=r"^wait_s=-1: must be above 0\nlimit=0: must be at least"
    ):
        Outer(wait_s=-1, limit=0)
    with pytest.raises(ConfigError, match=r"^low=3: must not be above high=2; see template, {x}$"):
        Inner(low=3)
    with pytest.raises(ConfigError, match=r"^hgih: there is no such setting; did you mean high\?$"):
        Inner(hgih=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="high=0"):
        replace(Inner(), high=0)


def test_numbers_are_text_where_text_is_meant() -> None:
    made = build(Outer, {"name": 7, "ids": [28, "x"], "wait_s": 2})
    assert (made.name, made.ids, made.wait_s) == ("7", ("28", "x"), 2.0)


def test_plain_data_and_back() -> None:
    made = Outer(ids=("a",), inner=Inner(low=0), colour=Blue(depth=3))
    assert build(Outer, to_plain(made)) == made
    assert to_plain(made)["colour"] == {"kind": "blue", "depth": 3}


def test_plain_data_by_the_keys_that_a_person_types() -> None:
    nested = {"a": {"b": 1, "c": {"d": [2, {"e": 3}]}}, "f": None}
    assert dotted(nested) == {"a.b": 1, "a.c.d": [2, {"e": 3}], "f": None}


def test_defaults_leave_a_variants_own_settings_out() -> None:
    assert defaults(Outer)["colour"] == {"kind": "red"}
    assert build(Outer, defaults(Outer)) == Outer()


def test_all_settings_of_all_variants() -> None:
    found = {(s.key, s.variant) for s in all_settings(Outer) if s.key.startswith("colour.")}
    red, blue = ("colour.kind", "red"), ("colour.kind", "blue")
    assert found == {
        ("colour.kind", red),
        ("colour.share", red),
        ("colour.kind", blue),
        ("colour.depth", blue),
    }


def test_they_are_frozen_compared_by_value_and_can_travel() -> None:
    made = Outer(colour=Blue(depth=3))
    with pytest.raises(FrozenInstanceError):
        made.name = "other"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(made)) == made
    assert hash(made) == hash(Outer(colour=Blue(depth=3)))


def test_a_mistake_of_a_check_is_no_mistake_of_the_user() -> None:
    @settings
    class Broken:
        size: int = 1

        def __post_init__(self) -> None:
            raise ValueError("not the user's doing")

    with pytest.raises(ValueError, match="not the user's doing") as caught:
        Broken()
    assert not isinstance(caught.value, ConfigError)
