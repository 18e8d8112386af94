"""How the inference engines are started, or where they already run."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from sdpo_megatron.addresses import DNS_PREFIX
from sdpo_megatron.fields import (
    Count,
    Counts,
    NonNegative,
    Port,
    PositiveInt,
    Seconds,
    Text,
    Texts,
    Word,
    refuse,
    settings,
)
from serving.swapping.swap_config import SwapConfig


@settings
class EngineConfig:
    """SGLang engines, all alike. Checked when made; ConfigError says what to change."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where torch sees a GPU."""

    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Weights and activations of the engine. Not "auto": SGLang would silently turn an fp32
    checkpoint into fp16."""

    precision: Literal["same", "fp8"] = "same"
    """Of the engine's matrices. same: `dtype`; fp8: block-wise e4m3, quantised anew at each
    publish. Such engines start with random weights and get the policy's by the first publish."""

    num_engines: PositiveInt = 1
    """Engines to start. Ignored when `urls` is given."""

    tp: PositiveInt = 1
    """Tensor-parallel size of each engine. On a CPU each rank needs a core of its own (`threads`
    are bound per rank)."""

    gpus: Counts = ()
    """GPUs of the engines, `tp` each in turn, counted from 0 among the visible ones. []: those that
    no trainer rank has. Naming a rank's GPU shares it, which needs a `mem_fraction`."""

    urls: Texts = ()
    """Engines that somebody else runs, e.g. http://engine-0:30000, or dns+http://engines:30000 for
    every address of that name. Then nothing is started or restarted here; they may come up later
    than the run, up to `start_timeout_s`, and go and come back."""

    gateway: Text = ""
    """An SGLang gateway (smg, sglang-router) in front of `urls`: requests go to it, control calls
    straight to the engines, which it must know under the same URLs. "": requests go straight."""

    transport: Literal["auto", "distributed", "tensor", "disk"] = "auto"
    """How weights travel. distributed: broadcast from each pipeline stage (NCCL; gloo on a CPU);
    tensor: memory shared with engines on this machine; disk: a folder that engines see at the same
    path. auto: disk where `urls` are given or GPUs shared, else tensor on a CPU whose shared memory
    holds the weights, and distributed. An engine that misses a swap reloads from disk whatever this
    is."""

    swap: SwapConfig = field(default_factory=SwapConfig)
    """The transaction around it."""

    host: Word = "127.0.0.1"
    """Address to listen on."""

    port: Port = 0
    """Port of the first engine, the next ones count up; 0 picks free ones."""

    threads: PositiveInt = 2
    """CPU threads of each engine (OMP_NUM_THREADS), per tensor-parallel rank. Unused on a GPU."""

    max_total_tokens: Count = 32768
    """Tokens that the KV cache holds, prompts and responses of all requests in flight. 0: SGLang
    decides from the free memory."""

    mem_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of the free memory for weights and KV cache (--mem-fraction-static). 0: SGLang's
    default on a GPU; on a CPU 0.8 where `max_total_tokens` bounds the cache, else 0.1."""

    release_memory: bool = False
    """Give the engine's GPU memory to the trainer while it works: weights, KV cache and graphs
    leave the GPU after sampling and come back with the next publish (SGLang's memory saver). For
    engines that share GPUs with trainer ranks; their `mem_fraction` may then be up to 0.9."""

    max_running_requests: Count = 0
    """Requests decoded at once. 0: SGLang decides."""

    deterministic: bool = False
    """Honour sampling seeds (--enable-deterministic-inference). Costs throughput; needed for a
    resume to the same losses."""

    attention_backend: Text = ""
    """SGLang's --attention-backend. "": torch_native on a CPU, SGLang's choice on a GPU (fa3 or
    triton when deterministic)."""

    enable_metrics: bool = True
    """SGLang's own Prometheus metrics under /metrics."""

    log_level: Word = "info"
    """SGLang's log level; "info" is what the start-up progress is read from."""

    start_timeout_s: Seconds = 600.0
    """Longest start-up, from launch to ready, seconds. 15 s on two free cores; on busy ones the
    imports alone can take minutes. An engine that fails is noticed at once, whatever this is."""

    stop_timeout_s: Seconds = 5.0
    """Seconds between SIGTERM and SIGKILL when an engine is stopped."""

    request_timeout_s: Seconds = 1800.0
    """Longest single generation request, queueing included, seconds."""

    control_timeout_s: Seconds = 300.0
    """Longest pause, weight load or checksum call, seconds."""

    connect_timeout_s: Seconds = 5.0
    """Longest wait for a TCP connection, seconds."""

    health_interval_s: NonNegative = 60.0
    """Seconds between checks that an engine with requests in flight still generates; it is
    restarted when three in a row fail. 0: no checks."""

    health_timeout_s: Seconds = 20.0
    """Longest answer to one such check, seconds."""

    max_restarts: Count = 3
    """Restarts of one engine within a run before its death is an error."""

    extra_args: Texts = ()
    """More flags for SGLang, word by word, e.g. ["--kv-cache-dtype", "fp8_e5m2"].

    They win over ours.
    """

    extra_env: Texts = ()
    """More environment for the engine, NAME=value each, e.g. ["SGLANG_LOG_MS=1"]."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "urls", tuple(url.rstrip("/") for url in self.urls))
        object.__setattr__(self, "gateway", self.gateway.rstrip("/"))
        problems = []
        if self.precision == "fp8" and self.dtype != "bfloat16":
            problems.append(("precision", "needs bf16 beside it: set {dtype:key}=bfloat16"))
        last_port = self.port + self.num_engines - 1
        if self.port and last_port > 65535:
            problems.append(
                (
                    "port",
                    f"with {{num_engines}} the last would be {last_port}: choose a lower one, or 0",
                )
            )
        if self.release_memory and self.urls:
            problems.append(
                ("release_memory", "is for engines that we start: they share no GPU with {urls}")
            )
        bare = [url.removeprefix(DNS_PREFIX) for url in self.urls]
        if any(not url.startswith(("http://", "https://")) for url in bare):
            problems.append(("urls", "each must begin with http://, https:// or dns+http://"))
        if self.gateway and not self.urls:
            problems.append(("gateway", "needs {urls}: the engines behind it, for control calls"))
        if self.gateway and not self.gateway.startswith(("http://", "https://")):
            problems.append(("gateway", "must begin with http:// or https://"))
        if self.transport == "tensor" and self.urls:
            problems.append(
                (
                    "transport",
                    "needs engines on this machine, and {urls} may be anywhere; use distributed, "
                    "or disk",
                )
            )
        if any("=" not in pair for pair in self.extra_env):
            problems.append(("extra_env", "each must be NAME=value"))
        refuse(self, problems)
