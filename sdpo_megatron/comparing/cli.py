"""``sdpo compare``: variants of an experiment, same questions, generations and seeds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sdpo_megatron.comparing.comparison import Comparison
from sdpo_megatron.comparing.runs import run_all
from sdpo_megatron.comparing.tables import page
from sdpo_megatron.comparing.variants import USUAL, VARIANTS, chosen
from sdpo_megatron.config import load
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.files import write_whole


def main(arguments: Sequence[str]) -> int:
    """Make the runs that are missing and write the tables; returns an exit code."""
    parser = argparse.ArgumentParser(
        prog="sdpo compare",
        description="Train several variants of an experiment on the same questions, generations "
        "and seeds, and say where each ends. The same command goes on with one that was stopped.",
        epilog=f"variants: {', '.join(VARIANTS)}; or your own, as "
        "--variant 'wide: objective.distillation.top_k=1000 teacher.rate=0.01'",
    )
    parser.add_argument("overrides", nargs="+", help="of all runs, e.g. experiment=small")
    parser.add_argument("--variants", metavar="NAMES", help=f"by commas; usual: {','.join(USUAL)}")
    parser.add_argument("--variant", action="append", default=[], metavar="'NAME: OVERRIDES'")
    parser.add_argument("--seeds", default="0,1,2", metavar="NUMBERS", help="by commas")
    parser.add_argument("--baseline", default="", help="whose final level counts; usual: grpo")
    parser.add_argument("--window", type=int, default=3, help="steps that a level is a mean of")
    parser.add_argument("--folder", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--keep-checkpoints", action="store_true")
    parser.add_argument("--tables", action="store_true", help="write the tables, run nothing")
    parsed = parser.parse_intermixed_args(arguments)
    words = [word.strip() for word in (parsed.variants or "").split(",") if word.strip()]
    variants = chosen([*words, *parsed.variant])
    seeds = _seeds(parsed.seeds)
    names = [variant.name for variant in variants]
    baseline = parsed.baseline or ("grpo" if "grpo" in names else names[0])
    if baseline not in names:
        raise ConfigError(f"--baseline {baseline} is not compared; compared are {', '.join(names)}")
    if parsed.window < 1:
        raise ConfigError(f"--window {parsed.window}: must be at least 1")
    if given := [o for o in parsed.overrides if o.startswith(("run.seed=", "run.folder="))]:
        raise ConfigError(f"{given[0]}: is set for each run; see --seeds and --folder")
    for variant in variants:  # every mistake before the first run
        load([*parsed.overrides, *variant.overrides])
    comparison = Comparison(parsed.folder, parsed.overrides, variants, seeds)
    code = 0
    if not parsed.tables:
        code = run_all(
            comparison,
            lambda text: print(f"compare: {text}", flush=True),
            keep_checkpoints=parsed.keep_checkpoints,
        )
    text = page(comparison, baseline, parsed.window)
    write_whole(parsed.folder / "comparison.md", text)
    print(text)
    return code


def _seeds(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise ConfigError(f"--seeds {text}: expected different whole numbers, as in 0,1,2")
    return [int(word) for word in words]
