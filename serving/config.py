"""How the inference engines are started, or where they already run."""

from __future__ import annotations

from dataclasses import dataclass

from sdpo_megatron.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """SGLang engines, all alike. Checked when made; ConfigError says what to change."""

    device: str = "auto"
    """"cpu", "cuda", or "auto": cuda where torch sees a GPU."""

    dtype: str = "bfloat16"
    """Weights and activations of the engine. Not "auto": SGLang would silently turn an fp32
    checkpoint into fp16."""

    num_engines: int = 1
    """Engines to start. Ignored when `urls` is given."""

    tp: int = 1
    """Tensor-parallel size of each engine. On a CPU each rank needs a core of its own (`threads`
    are bound per rank)."""

    urls: tuple[str, ...] = ()
    """Engines already running, e.g. http://engine-0:30000. Then nothing is started or restarted."""

    host: str = "127.0.0.1"
    """Address to listen on."""

    port: int = 0
    """Port of the first engine, the next ones count up; 0 picks free ones."""

    threads: int = 2
    """CPU threads of each engine (OMP_NUM_THREADS), per tensor-parallel rank. Unused on a GPU."""

    max_total_tokens: int = 32768
    """Tokens that the KV cache holds, prompts and responses of all requests in flight. 0: SGLang
    decides from the free memory."""

    mem_fraction: float = 0.0
    """Fraction of the free memory for weights and KV cache (--mem-fraction-static). 0: SGLang's
    default on a GPU; on a CPU 0.8 where `max_total_tokens` bounds the cache, else 0.1."""

    max_running_requests: int = 0
    """Requests decoded at once. 0: SGLang decides."""

    deterministic: bool = False
    """Honour sampling seeds (--enable-deterministic-inference). Costs throughput; needed for a
    resume to the same losses."""

    attention_backend: str = ""
    """SGLang's --attention-backend. "": torch_native on a CPU, SGLang's choice on a GPU (fa3 or
    triton when deterministic)."""

    enable_metrics: bool = True
    """SGLang's own Prometheus metrics under /metrics."""

    log_level: str = "info"
    """SGLang's log level; "info" is what the start-up progress is read from."""

    start_timeout_s: float = 600.0
    """Longest start-up, from launch to ready, seconds. 15 s on two free cores; on busy ones the
    imports alone can take minutes. An engine that fails is noticed at once, whatever this is."""

    stop_timeout_s: float = 5.0
    """Seconds between SIGTERM and SIGKILL when an engine is stopped."""

    request_timeout_s: float = 1800.0
    """Longest single generation request, queueing included, seconds."""

    control_timeout_s: float = 300.0
    """Longest pause, weight load or checksum call, seconds."""

    connect_timeout_s: float = 5.0
    """Longest wait for a TCP connection, seconds."""

    health_interval_s: float = 60.0
    """Seconds between checks that an engine with requests in flight still generates; it is
    restarted when three in a row fail. 0: no checks."""

    health_timeout_s: float = 20.0
    """Longest answer to one such check, seconds."""

    max_restarts: int = 3
    """Restarts of one engine within a run before its death is an error."""

    extra_args: tuple[str, ...] = ()
    """More flags for SGLang, word by word, e.g. ["--kv-cache-dtype", "fp8_e5m2"].

    They win over ours.
    """

    extra_env: tuple[str, ...] = ()
    """More environment for the engine, NAME=value each, e.g. ["CUDA_VISIBLE_DEVICES=4,5"]."""

    def __post_init__(self) -> None:
        """Raises ConfigError for values that cannot work."""
        object.__setattr__(self, "urls", tuple(url.rstrip("/") for url in self.urls))
        object.__setattr__(self, "extra_args", tuple(self.extra_args))
        object.__setattr__(self, "extra_env", tuple(self.extra_env))
        _one_of("device", self.device, DEVICES)
        _one_of("dtype", self.dtype, DTYPES)
        for name in ("num_engines", "tp", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"rollout engine: {name} is {getattr(self, name)}; it must be at least 1"
                )
        for name in (
            "port",
            "max_total_tokens",
            "max_running_requests",
            "max_restarts",
            "health_interval_s",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"rollout engine: {name} is {getattr(self, name)}; it must be 0 or more"
                )
        last_port = self.port + self.num_engines - 1
        if last_port > 65535:
            raise ConfigError(
                f"rollout engine: ports {self.port} to {last_port} do not exist; choose a lower "
                "port or 0"
            )
        if not 0.0 <= self.mem_fraction < 1.0:
            raise ConfigError(
                f"rollout engine: mem_fraction is {self.mem_fraction}; it must be in [0, 1)"
            )
        for name in ("start", "stop", "request", "control", "connect", "health"):
            if getattr(self, f"{name}_timeout_s") <= 0:
                raise ConfigError(f"rollout engine: {name}_timeout_s must be above 0 s")
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise ConfigError(
                    f"rollout engine: url {url!r} must begin with http:// or https://"
                )
        for pair in self.extra_env:
            if "=" not in pair:
                raise ConfigError(f"rollout engine: extra_env entry {pair!r} must be NAME=value")


def _one_of(name: str, got: str, allowed: tuple[str, ...]) -> None:
    if got not in allowed:
        raise ConfigError(
            f"rollout engine: {name} is {got!r}; it must be one of {', '.join(allowed)}"
        )
