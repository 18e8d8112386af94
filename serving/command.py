"""From `EngineConfig` to SGLang's command line and environment."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from sdpo_megatron.errors import EngineStartError
from serving.config import EngineConfig
from serving.engine_main import STAND_INS_VARIABLE

_SPIN_VARIABLE = "GOMP_SPINCOUNT"


def resolve_device(config: EngineConfig) -> str:
    """ "cpu" or "cuda"; "auto" is cuda where torch sees a GPU."""
    if config.device != "auto":
        return config.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def engine_command(config: EngineConfig, model_dir: Path, port: int, seed: int) -> list[str]:
    """The engine's argument vector, here. `seed` seeds requests that carry none.

    Raises:
        EngineStartError: SGLang is not installed.
    """
    if importlib.util.find_spec("sglang") is None:
        raise EngineStartError(
            "SGLang is not installed in this environment: `pip install 'sdpo-megatron[cpu]'` (or "
            "[gpu])."
        )
    return [sys.executable, *engine_module(), *engine_flags(config, model_dir, port, seed)]


def engine_module() -> list[str]:
    """What an interpreter is told to run, wherever the engine runs."""
    return ["-m", "serving.engine_main"]


def engine_flags(config: EngineConfig, model_dir: Path, port: int, seed: int) -> list[str]:
    """The flags of the engine's command line, the same on every machine."""
    flags = {
        "--model-path": str(model_dir),
        "--host": config.host,
        "--port": str(port),
        "--dtype": config.dtype,
        "--tp-size": str(config.tp),
        "--random-seed": str(seed),
        "--log-level": config.log_level,
        "--weight-version": "0",
    }
    switches = ["--skip-server-warmup", "--sleep-on-idle"]
    cpu = resolve_device(config) == "cpu"
    if cpu:
        flags |= {
            "--device": "cpu",
            "--attention-backend": "torch_native",
            "--sampling-backend": "pytorch",
        }
    if config.precision == "fp8":
        flags |= _fp8_flags()
    if config.attention_backend:
        flags["--attention-backend"] = config.attention_backend
    mem_fraction = config.mem_fraction or (_cpu_mem_fraction(config) if cpu else 0.0)
    if mem_fraction:
        flags["--mem-fraction-static"] = str(mem_fraction)
    if config.max_total_tokens:
        flags["--max-total-tokens"] = str(config.max_total_tokens)
    if config.max_running_requests:
        flags["--max-running-requests"] = str(config.max_running_requests)
    if config.deterministic:
        switches.append("--enable-deterministic-inference")
    if config.release_memory and not cpu:
        switches.append("--enable-memory-saver")
    if config.enable_metrics:
        switches.append("--enable-metrics")
    words = [word for pair in flags.items() for word in pair]
    return [*words, *switches, *config.extra_args]


def _fp8_flags() -> dict[str, str]:
    """SGLang makes its parameters by what config.json says of quantisation, and the model's says
    nothing; what its files hold does not fit these parameters, the first publish does."""
    from sdpo_megatron.weights.fp8 import QUANTIZATION_CONFIG

    changed = {"quantization_config": dict(QUANTIZATION_CONFIG)}
    return {"--load-format": "dummy", "--json-model-override-args": json.dumps(changed)}


def engine_environment(config: EngineConfig, index: int = 0) -> dict[str, str]:
    """The environment of engine `index`: ours, plus what its device needs."""
    # Its temporary files go when it ends (guardian.py); what it compiled is to stay.
    compiled = os.path.join(tempfile.gettempdir(), f"torchinductor_{os.getuid()}")
    environment = dict(os.environ)
    environment.setdefault("TORCHINDUCTOR_CACHE_DIR", compiled)
    # The trainer's: segments that grow cannot be handed to other processes, which an engine's
    # ranks do with each other. `extra_env` can set it.
    environment.pop("PYTORCH_ALLOC_CONF", None)
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [_source_root(), os.environ.get("PYTHONPATH", "")])
    )
    return environment | engine_variables(config) | _of_here(config, index) | _extra(config)


def engine_variables(config: EngineConfig) -> dict[str, str]:
    """What the engine's environment must say, the same on every machine."""
    variables = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    if resolve_device(config) == "cpu":
        variables |= _cpu_variables(config)
    return variables | _extra(config)


def _extra(config: EngineConfig) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in config.extra_env)


def _of_here(config: EngineConfig, index: int) -> dict[str, str]:
    """What depends on this machine."""
    if resolve_device(config) == "cpu":
        return {name: os.environ[name] for name in (_SPIN_VARIABLE,) if name in os.environ}
    if config.gpus:
        mine = config.gpus[index * config.tp : (index + 1) * config.tp]
        return {"CUDA_VISIBLE_DEVICES": ",".join(_visible_name(gpu) for gpu in mine)}
    return {}


def _visible_name(gpu: int) -> str:
    """What CUDA_VISIBLE_DEVICES calls the GPU that this process counts as number `gpu`."""
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[gpu].strip() if visible else str(gpu)


def _cpu_mem_fraction(config: EngineConfig) -> float:
    """SGLang counts what any process took since the engine started against this fraction of the
    memory that was free then, and gives up when it is used up. So it is generous where
    `max_total_tokens` bounds the cache anyway, and small where nothing else does."""
    return 0.8 if config.max_total_tokens else 0.1


def _cpu_variables(config: EngineConfig) -> Mapping[str, str]:
    variables = {
        STAND_INS_VARIABLE: "1",
        "SGLANG_USE_CPU_ENGINE": "1",
        "SGLANG_EXTERNAL_MODEL_PACKAGE": "engine_models",
        "SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "0",  # else a crash hangs for 60 s
        "TORCHDYNAMO_DISABLE": "1",
        "OMP_NUM_THREADS": str(config.threads),
        # OpenMP threads wait for each other by spinning, for milliseconds. Beside other work that
        # made matrix products 10 to 20 times slower; let them sleep after microseconds.
        _SPIN_VARIABLE: "1000",
        "CUDA_VISIBLE_DEVICES": "",
    }
    if config.precision == "fp8":
        variables["SDPO_ENGINE_FP8"] = "1"  # stand_ins/cpu_patches.py
    if config.tp > 1:  # SGLang insists on explicit cores for each rank
        cores = [
            range(rank * config.threads, (rank + 1) * config.threads) for rank in range(config.tp)
        ]
        variables["SGLANG_CPU_OMP_THREADS_BIND"] = "|".join(
            ",".join(map(str, rank)) for rank in cores
        )
    return variables


def _source_root() -> str:
    return str(Path(__file__).resolve().parent.parent)
