"""Tiny models and made-up attempts for tests of the actor, and the training that ranks of a layout
do with them.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from sdpo_megatron.nouns import TrainSample

VOCAB = 96


def tiny_model(
    folder: Path,
    *,
    family: str = "qwen3",
    tied: bool = True,
    seed: int = 0,
    hidden: int = 32,
) -> Path:
    """A random checkpoint of 4 layers, 4 heads, 2 key-value heads, in fp32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if family == "qwen3_moe":
        sizes |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        sizes["norm_topk_prob"] = True
    if family == "olmo3":
        sizes |= {"sliding_window": 6}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **sizes), dtype=torch.float32
    )
    model.save_pretrained(folder)
    return folder


def made_up_samples(seed: int, *, questions: int = 3, attempts: int = 4) -> list[TrainSample]:
    """Attempts of varying length; the last of each group has no teacher."""
    draw = random.Random(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, VOCAB) for _ in range(draw.randint(low, high)))

    samples = []
    for question in range(questions):
        prompt, teacher, null = tokens(3, 9), tokens(8, 20), tokens(5, 9)
        for index in range(attempts):
            response = tokens(1, 14)
            taught = index < attempts - 1
            samples.append(
                TrainSample(
                    question_id=f"q{question}",
                    index=index,
                    prompt_ids=prompt,
                    response_ids=response,
                    loss_mask=tuple(draw.random() < 0.9 for _ in response),
                    log_probs=tuple(-draw.random() * 3 - 2 for _ in response),
                    teacher_prompt_ids=teacher if taught else None,
                    null_prompt_ids=null if taught else None,
                    advantage=draw.choice([-0.5, 0.5]),
                    distill_weight=1.0 if taught else 0.0,
                    policy_weight=draw.choice([0.0, 1.0]),
                    success=index % 2 == 0,
                )
            )
    return samples


def make_actor(folder: str, *, report_attempts: int = 0, **changes: Any) -> Any:
    """An actor in fp32 with small micro-batches; `changes` are fields of ActorConfig."""
    from sdpo_megatron.actor.actor import Actor
    from sdpo_megatron.actor.config import ActorConfig, BatchConfig, OptimizerConfig
    from sdpo_megatron.actor.model.config import PrecisionConfig
    from sdpo_megatron.actor.runtime import current_runtime
    from sdpo_megatron.weights.spec import ModelSpec

    defaults: dict[str, Any] = {
        "precision": PrecisionConfig(dtype="fp32"),
        "batch": BatchConfig(micro_batch_tokens=80, logits_mib=0.02),
        "optimizer": OptimizerConfig(lr=1e-2),
        "objective": small_objective(),
    }
    return Actor(
        ActorConfig(**(defaults | changes)),
        ModelSpec.from_folder(folder),
        folder,
        current_runtime(),
        report_attempts=report_attempts,
    )


def small_objective(**changes: Any) -> Any:
    """SDPO whose support fits the tiny vocabulary; `changes` are fields of DistillationConfig."""
    from sdpo_megatron.objectives import DistillationConfig, ObjectiveConfig

    return ObjectiveConfig(distillation=DistillationConfig(**({"top_k": 20} | changes)))
