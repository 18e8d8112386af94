"""A configuration as the words that compose it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sdpo_megatron.config.composing import compose
from sdpo_megatron.judging.service.config import ServiceConfig
from sdpo_megatron.rendering.overrides import overrides
from sdpo_megatron.sandbox import SandboxConfig
from sdpo_megatron.verifiers.code import CodeVerifierConfig


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ServiceConfig(), {}),
        (ServiceConfig(workers=7), {"workers": "7"}),
        (ServiceConfig(token_file="/a b/c"), {"token_file": "/a b/c"}),
        (
            ServiceConfig(code=CodeVerifierConfig(cpu_s=0.5, quote_code=True)),
            {"code.cpu_s": "0.5", "code.quote_code": "true"},
        ),
        (
            ServiceConfig(sandbox=replace(SandboxConfig(), packages=(), minimum_layers=("user",))),
            {"sandbox.packages": "[]", "sandbox.minimum_layers": "[user]"},
        ),
        (
            ServiceConfig(verifiers=("code", "my.module:Class")),
            {"verifiers": "[code,my.module:Class]"},
        ),
    ],
)
def test_there_and_back(config: ServiceConfig, expected: dict[str, str]) -> None:
    assert overrides(config) == expected
    assert compose(ServiceConfig, [f"{key}={value}" for key, value in expected.items()]) == config
