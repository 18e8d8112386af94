"""Whether every token of a completion came from the weights that it says it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from serving.completion import Completion


def worst_gap(
    prompt: Sequence[int], completions: Sequence[Completion], folders: Mapping[int, Path]
) -> float:
    """Largest distance between a token's log-prob and transformers' one by the weights of its span;
    temperature 1.

    Args:
        folders: A checkpoint for each policy version.
    """
    import transformers

    worst = 0.0
    for version, folder in folders.items():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for completion in completions:
            spans = [span for span in completion.versions if span.version == version]
            if not spans:
                continue
            ids = torch.tensor([[*prompt, *completion.token_ids]])
            with torch.no_grad():
                log_probs = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            due = log_probs.gather(1, ids[0, len(prompt) :, None]).squeeze(1)
            said = torch.tensor(completion.log_probs)
            for span in spans:
                gap = (due - said)[span.start : span.end].abs().max()
                worst = max(worst, float(gap))
    return worst
