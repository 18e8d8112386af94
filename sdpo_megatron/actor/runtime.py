"""Where the trainer runs: cuda with NCCL, or cpu with gloo.

The one module that asks, and the one that redirects: megatron-core names the CUDA device in many
places. On a machine without one, `start_runtime` makes those calls mean the CPU, before megatron is
imported; on a CUDA machine nothing is ever redirected. Each redirection below says what
megatron-core 0.16.1 needs it for; when the pinned version moves, try without it first.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import random
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from sdpo_megatron.actor.model.layers.rotary import apply_packed_rotary
from sdpo_megatron.errors import ConfigError

_CPU = torch.device("cpu")
_current: Runtime | None = None


@dataclass(frozen=True)
class Runtime:
    """The device of this process and what depends on it.

    Attributes:
        device: Where tensors of the model live.
        backend: Backend of torch.distributed: nccl or gloo.
        te_problem: Why Transformer Engine's layers cannot be used; "" when they can.
        timeout_s: After so many seconds in one collective a rank fails instead of waiting for
            ever; of every group that it joins.
    """

    device: torch.device
    backend: str
    te_problem: str = "this process computes on a CPU"
    timeout_s: float = 600.0

    @property
    def has_transformer_engine(self) -> bool:
        return not self.te_problem

    def capability(self) -> tuple[int, int] | None:
        """CUDA compute capability of the device, None for a CPU."""
        return None if self.is_cpu else torch.cuda.get_device_capability(self.device)

    def device_name(self) -> str:
        return "the CPU" if self.is_cpu else torch.cuda.get_device_name(self.device)

    @property
    def is_cpu(self) -> bool:
        return self.device.type == "cpu"

    def init_process_group(self) -> torch.distributed.Store:
        """Join the world of torchrun's environment variables; alone where there are none.

        Returns:
            The store through which the ranks found each other, for what they say outside
            collectives.
        """
        timeout = timedelta(seconds=self.timeout_s)
        rank, world = 0, 1
        store: torch.distributed.Store = torch.distributed.HashStore()
        if os.environ.get("RANK"):
            store, rank, world = next(torch.distributed.rendezvous("env://", timeout=timeout))
        store.set_timeout(timeout)
        torch.distributed.init_process_group(
            self.backend,
            store=torch.distributed.PrefixStore("collectives", store),
            rank=rank,
            world_size=world,
            timeout=timeout,
        )
        return torch.distributed.PrefixStore("sdpo", store)

    @contextlib.contextmanager
    def joined_process_group(self) -> Iterator[None]:
        """The world joined for one command, and left before the interpreter ends.

        A thread of gloo's that still drops the last collective's tensors while the interpreter
        ends wants the interpreter's lock, is ended instead, and takes the process with it
        (SIGABRT, "terminate called without an active exception"), after all work was done.
        """
        self.init_process_group()
        try:
            yield
        finally:
            from megatron.core import parallel_state

            parallel_state.destroy_model_parallel()
            torch.distributed.destroy_process_group()  # joins the threads

    def synchronize(self) -> None:
        """Wait for the device; nothing to wait for on a CPU."""
        if not self.is_cpu:
            torch.cuda.synchronize()

    def enter_thread(self) -> None:
        """Called first in a new thread, which begins on the first device."""
        if not self.is_cpu:
            torch.cuda.set_device(self.device)

    def memory_bytes(self) -> int:
        """Bytes held now: of the device by tensors, or by this process (resident set) on a CPU."""
        if not self.is_cpu:
            return torch.cuda.memory_allocated()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def device_memory_bytes(self) -> int:
        """Bytes that a CUDA device has."""
        return int(torch.cuda.mem_get_info()[1])

    def release_cached(self) -> None:
        """Give the device memory back that torch keeps for later."""
        if not self.is_cpu:
            torch.cuda.empty_cache()

    def peak_memory_bytes(self) -> int:
        """The most that `memory_bytes` has been (on CUDA, since torch's counter was reset)."""
        if not self.is_cpu:
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def seed(self, seed: int) -> None:
        """Seed Python, numpy, torch and, once there is a layout, Megatron's generators."""
        import numpy

        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        from megatron.core import parallel_state
        from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

        if parallel_state.model_parallel_is_initialized():
            model_parallel_cuda_manual_seed(seed)


def visible_gpus() -> int:
    """CUDA devices that this process could use; asking does not start CUDA."""
    return torch.cuda.device_count()


def start_runtime(device: str = "auto", *, timeout_s: float = 600.0) -> Runtime:
    """Choose the device and prepare megatron for it; before any megatron import.

    Further calls return the same runtime.

    Args:
        device: auto (cuda where there is one), cuda or cpu.
        timeout_s: See `Runtime`.

    Raises:
        ConfigError: The device is unknown or not there, or another one was started before.
    """
    global _current
    if device == "cpu" and _current is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # heeded as long as CUDA has not been started
    wanted = _choose(device)
    # Tensor parallelism overlaps its all-reduce with the weight gradient and relies on one order of
    # kernel launches; megatron asks for this before CUDA starts, and warns in every rank without
    # it.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    if _current is not None:
        if _current.device.type != wanted:
            raise ConfigError(
                f"device={device}: this process runs on {_current.device.type}; start another"
            )
        return _current
    # torch 2.13 renamed two collectives that megatron-core calls by their old names, in every
    # layer.
    warnings.filterwarnings("ignore", "`torch.distributed.", category=FutureWarning)
    if wanted == "cuda":
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if local_rank >= visible_gpus():
            raise ConfigError(
                f"rank {local_rank} of this machine has no GPU: {visible_gpus()} are visible, one "
                "is needed a rank; start fewer ranks (parallel.*, run.data_parallel), or set "
                "run.device=cpu"
            )
        torch.cuda.set_device(local_rank)
        # Objects travel over gloo: a rank that waits for the rollouts sleeps in a socket instead
        # of spinning in a kernel.
        backend = "cpu:gloo,cuda:nccl"
        device_here = torch.device("cuda", local_rank)
        _current = Runtime(device_here, backend, _import_transformer_engine(), timeout_s)
        return _current
    _shut_out_transformer_engine()
    _redirect_torch_to_cpu()
    with _quiet_imports():
        _redirect_megatron_to_cpu()
        for module in (
            "models.gpt",
            "distributed",
            "optimizer",
            "pipeline_parallel",
            "dist_checkpointing",
        ):
            importlib.import_module(f"megatron.core.{module}")
    _current = Runtime(_CPU, "gloo", timeout_s=timeout_s)
    return _current


def current_runtime() -> Runtime:
    """The started runtime; starts the default one where none was."""
    return _current if _current is not None else start_runtime()


def _choose(device: str) -> str:
    has_cuda = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if has_cuda else "cpu"
    if device == "cuda" and not has_cuda:
        raise ConfigError(
            "device=cuda: torch sees no CUDA device here; use device=cpu or device=auto"
        )
    if device == "cpu" and has_cuda:
        raise ConfigError(
            "device=cpu: CUDA was started in this process before, and calls are not redirected "
            "then; start another with CUDA_VISIBLE_DEVICES='' to train on the CPU"
        )
    if device not in ("cuda", "cpu"):
        raise ConfigError(f"device={device}: expected auto, cuda or cpu")
    return device


def _import_transformer_engine() -> str:
    """Import it; "" or what is wrong with it. That its files are there says little: its libraries
    need the driver, cuDNN and the torch that they were built for.
    """
    try:
        importlib.import_module("transformer_engine.pytorch")
    except Exception as error:  # whatever a broken one raises is what a person must read
        return f"it cannot be imported here: {type(error).__name__}: {error}"
    return ""


def _shut_out_transformer_engine() -> None:
    """megatron takes its fused operations where it can be imported, also on a CPU, which has no
    kernel for them.
    """
    for name in ("transformer_engine", "transformer_engine.pytorch"):
        sys.modules[name] = None  # type: ignore[assignment]


@contextlib.contextmanager
def _quiet_imports() -> Iterator[None]:
    """megatron says that Apex and Transformer Engine are absent: on a CPU they should be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# --- Redirections, CPU only ---------------------------------------------------------------------


class _NoStream:
    """Stands for a CUDA stream or event: a context manager whose methods do nothing.

    They return it: MoE's token dispatcher keeps what `record_event` returns.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __enter__(self) -> _NoStream:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., _NoStream]:
        return lambda *args, **kwargs: self


def _no_op() -> Callable[..., None]:
    """A new function each time: torch._dynamo refuses one object under several names of torch."""
    return lambda *args, **kwargs: None


def _redirect_torch_to_cpu() -> None:
    cuda: Any = torch.cuda
    # device=torch.cuda.current_device() is how megatron asks for its device everywhere.
    cuda.current_device = lambda: _CPU
    for name in ("synchronize", "set_device", "empty_cache"):
        setattr(cuda, name, _no_op())
    # Gradient buffers, pipeline exchange and the DDP hooks order their work with streams and
    # events.
    for name in ("Stream", "Event"):
        setattr(cuda, name, type(name, (_NoStream,), {}))
    for name in ("current_stream", "default_stream", "stream"):
        setattr(cuda, name, lambda *args, **kwargs: _NoStream())
    # model_parallel_cuda_manual_seed and dist_checkpointing keep per-rank generator states.
    cuda.manual_seed = torch.manual_seed
    cuda.get_rng_state = lambda *args, **kwargs: torch.get_rng_state()
    cuda.set_rng_state = lambda state, *args, **kwargs: torch.set_rng_state(state)
    tensor: Any = torch.Tensor
    tensor.cuda = lambda self, *args, **kwargs: self  # shared embeddings, optimiser state
    tensor.record_stream = _no_op()
    torch.nn.Module.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign, assignment, return-value]
    # device="cuda" by name: schedules (token counts), clip_grads, optimizer (found_inf),
    # exchange_utils (parallel loading).
    for name in ("tensor", "zeros", "ones", "empty", "zeros_like", "ones_like", "empty_like"):
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    # clip_grads, optimizer and distrib_optimizer compare Tensor.type() with
    # "torch.cuda.FloatTensor" and the like.
    tensor.type = _named_like_cuda(torch.Tensor.type)


def _redirect_megatron_to_cpu() -> None:
    # Functions marked @jit_fuser (MoE's glu, expert bias) would start a C++ compiler in their first
    # call, for no gain on a CPU. The decorator is torch.compile itself and is applied while
    # megatron.core is imported, before it can be disabled.
    compiler, torch.compile = torch.compile, lambda function: function  # type: ignore[assignment]
    try:
        import megatron.core.tensor_parallel.random as rng
    finally:
        torch.compile = compiler
    import megatron.core.jit as jit

    jit.disable_jit_fuser()
    from megatron.core.transformer.moe import moe_utils

    states: Any = rng  # these two go past torch.cuda to its default generators
    states._get_cuda_rng_state = lambda *args, **kwargs: torch.get_rng_state()
    states._set_cuda_rng_state = lambda state, *args, **kwargs: torch.set_rng_state(state)
    # Imported inside a `try` that fails without Transformer Engine, then compared with None in the
    # router.
    moe: Any = moe_utils
    moe.te_general_gemm = None
    # The all-to-all between experts takes its split sizes as numbers, and moves them to the host as
    # such only where they lie on a GPU.
    from megatron.core.transformer.moe import token_dispatcher

    dispatcher: Any = token_dispatcher
    dispatcher.maybe_move_tensor_to_cpu = _on_the_host
    # Transformer Engine has a fused kernel for rotary positions; the unfused one takes cosines anew
    # in every layer.
    from megatron.core.transformer import attention

    layers: Any = attention
    layers.apply_rotary_pos_emb = apply_packed_rotary


def _on_the_host(tensor: Any, as_numpy: bool = False, **_: Any) -> Any:
    return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def wrapped(*args: Any, **kwargs: Any) -> torch.Tensor:
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = _CPU
        return factory(*args, **kwargs)

    return wrapped


def _named_like_cuda(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def wrapped(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = plain(self, *args, **kwargs)
        return answer.replace("torch.", "torch.cuda.", 1) if isinstance(answer, str) else answer

    return wrapped
