"""Python called by a model in a real rollout worker: the code runs in the sandbox, and what is
written for training says which tokens are the model's.

What the model says is scripted: none that is small enough for a test makes calls of its own accord.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sdpo_megatron.rollout.group_file import read_samples
from sdpo_megatron.rollout.store import RolloutStore
from tests.loops.workers.crews import SlowEngine, publish, scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
_CODE = r"import os\nprint(sum(range(10)), os.getuid() != 0 or os.listdir('/tmp'))"
_CALL = '<tool_call>{"name": "python", "arguments": {"code": "' + _CODE + '"}}</tool_call>'


class Script(SlowEngine):
    """Calls once; then repeats what it was told."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.heard: list[str] = []
        self.limits: list[int] = []

    async def _generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked += 1
        self.limits.append(body["sampling_params"]["max_new_tokens"])
        context = self.tokenizer.decode(body["input_ids"])
        _, called, told = context.rpartition("<|im_start|>tool\n")
        if called:
            self.heard.append(told.partition("<|im_end|>")[0])
        text = f"So: {self.heard[-1]}<|im_end|>" if called else _CALL
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        meta = {
            "finish_reason": {"type": "stop"},
            "output_token_logprobs": [[-0.5, token, None] for token in ids],
            "weight_version": self.label,
        }
        return web.json_response({"text": "", "output_ids": ids, "meta_info": meta})


def test_a_call_runs_in_the_sandbox_and_its_output_is_never_trained_on(
    tiny_llama: Path, tokenizer: Any, tmp_path: Path
) -> None:
    engine = Script(tokenizer)

    async def main() -> None:
        async with scene(
            tiny_llama, tmp_path, "task.tool=python", "task.max_turns=2",
            "rollout.sampling.max_new_tokens=400", "rollout.sampling.max_prompt_tokens=1500",
            "rollout.teacher_prompt.max_prompt_tokens=1500", "rollout.engine.deterministic=false",
            engine=engine,
        ) as here:  # fmt: skip
            await publish(here, 0, tiny_llama)
            batch = await here.crew.next_batch(1, 0)
            folder = tmp_path / "rollouts"
            for receipt in batch:
                group = RolloutStore(folder).read_group(receipt.lease.name)
                samples = read_samples(folder / "groups" / receipt.file)
                for attempt, sample in zip(group.attempts, samples, strict=True):
                    call, told, answer = attempt.turns
                    assert call["content"] == _CALL
                    assert told["content"].startswith("45 ")  # run, and not as root of this machine
                    assert "sdpo" not in told["content"]
                    assert "pytest" not in told["content"]
                    assert attempt.text.strip() == f"So: {told['content']}".strip()
                    own = sample.response_ids[sample.loss_mask]
                    assert tokenizer.decode(own.tolist()) == f"{_CALL}{answer['content']}<|im_end|>"
                    assert not sample.log_probs[~sample.loss_mask].any()
                    assert (~sample.loss_mask).sum() > 10

    asyncio.run(main())
    assert len(engine.heard) == 6
    assert set(engine.limits[:1]) == {400}
    assert min(engine.limits) < 300
