"""The checksums that an engine reports for its weights, computed by the trainer without SGLang.

SGLang 0.5.23 answers ``/weights_checker {"action": "checksum"}`` from the parameters as it stores
them, which differ from a checkpoint's tensors in five ways (read from srt/utils/weight_checker.py,
srt/managers/mm_utils.py and the model files):
- q, k and v are one parameter ``qkv_proj``, gate and up are ``gate_up_proj``, rows one after the
  other; biases alike;
- a layer's experts are two parameters, expert after expert: ``w13_weight`` (gate above up) and
  ``w2_weight`` (down);
- each tensor-parallel rank holds its own slice, k and v repeated where there are fewer heads than
  ranks;
- the rows of the embedding and of the LM head are filled up with zeros to a multiple of 64;
- everything is in the engine's dtype; a tied LM head is not a parameter.

(On a CPU with tp above 1 SGLang also pads where a rank's share of the feed-forward is no multiple
of 64; that is not followed here, so choose another tp there.)

One parameter's checksum is the first 8 bytes of SHA-256 over its bytes on a CPU, and a hash of its
own on a GPU (`gpu_hash`): what counts is where the *engine* holds its weights.

Shapes: V vocabulary, H hidden.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch

from sdpo_megatron.errors import SwapError
from serving.command import resolve_device
from serving.config import EngineConfig
from serving.swapping.gpu_hash import gpu_hash

_VOCAB_MULTIPLE = 64
_FUSED = {"q_proj": ("qkv_proj", 0), "k_proj": ("qkv_proj", 1), "v_proj": ("qkv_proj", 2)}
_FUSED |= {"gate_proj": ("gate_up_proj", 0), "up_proj": ("gate_up_proj", 1)}
_PARTS = {"qkv_proj": 3, "gate_up_proj": 2}
_FUSABLE = re.compile(r"\.(q_proj|k_proj|v_proj|gate_proj|up_proj)\.")
_INPUT_SPLIT = re.compile(r"\.(o_proj|down_proj)\.weight$")
_EXPERT = re.compile(r"(\.mlp\.experts\.)(\d+)\.(gate|up|down)_proj\.weight$")
_VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")


class EngineChecksum:
    """Takes whole tensors one by one, in any order, and ends in an engine's checksums.

    Holds a tensor no longer than until the others of its fused parameter have come.
    """

    def __init__(
        self,
        model_config: Mapping[str, Any],
        *,
        dtype: str = "bfloat16",
        tp_size: int = 1,
        device: str = "cpu",
    ):
        """`model_config` is the checkpoint's config.json; dtype, tp_size and device ("cpu" or
        "cuda") are the engine's.
        """
        self._hash = tensor_checksum if device == "cpu" else gpu_tensor_checksum
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._tied = bool(model_config.get("tie_word_embeddings", False))
        self._num_experts = _num_experts(model_config)
        self._experts: dict[str, dict[tuple[int, str], torch.Tensor]] = {}
        self._slicers = [_Slicer(model_config, tp_size, rank) for rank in range(tp_size)]
        self._waiting: dict[str, dict[int, torch.Tensor]] = {}
        self._checksums: list[dict[str, str]] = [{} for _ in range(tp_size)]

    @classmethod
    def of_engine(cls, model_config: Mapping[str, Any], engine: EngineConfig) -> Self | None:
        """What an engine of that configuration will report; None where that is not known: SGLang
        lays the experts out for whichever kernel it finds on a GPU.
        """
        device = resolve_device(engine)
        if device != "cpu" and _num_experts(model_config):
            return None
        return cls(model_config, dtype=engine.dtype, tp_size=engine.tp, device=device)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """One whole tensor under its Hugging Face name."""
        if name == "lm_head.weight" and self._tied:
            return
        if expert := _EXPERT.search(name):
            self._add_expert(name[: expert.end(1)], int(expert[2]), expert[3], tensor)
            return
        match = _FUSABLE.search(name)
        if match is None:
            self._finish(name, [tensor])
            return
        fused, position = _FUSED[match[1]]
        target = name.replace(f".{match[1]}.", f".{fused}.")
        parts = self._waiting.setdefault(target, {})
        parts[position] = tensor
        if len(parts) == _PARTS[fused]:
            del self._waiting[target]
            members = [member for member, (into, _) in _FUSED.items() if into == fused]
            self._finish(target, [parts[i] for i in sorted(parts)], members)

    def ranks(self) -> list[dict[str, str]]:
        """For each tensor-parallel rank, checksum by SGLang's parameter name.

        Raises:
            SwapError: part of a fused parameter never came.
        """
        if self._waiting or self._experts:
            missing = ", ".join(sorted(self._waiting | self._experts))
            raise SwapError(
                f"cannot compute the engine's checksums: parts of {missing} are missing from the "
                "weights"
            )
        return self._checksums

    def overall(self) -> str:
        """The whole engine's checksum, `PolicyVersion.checksum`. Raises as `ranks`."""
        return overall_checksum(self.ranks())

    def _add_expert(self, prefix: str, number: int, part: str, tensor: torch.Tensor) -> None:
        """Hash a layer's experts once they are all there: [E, 2 F, H] and [E, H, F]."""
        target, parts = (
            ("w2_weight", ("down",)) if part == "down" else ("w13_weight", ("gate", "up"))
        )
        found = self._experts.setdefault(prefix + target, {})
        found[number, part] = tensor
        if len(found) < self._num_experts * len(parts):
            return
        del self._experts[prefix + target]
        ordered = [found[e, p] for e in range(self._num_experts) for p in parts]
        for slicer, checksums in zip(self._slicers, self._checksums, strict=True):
            own = [slicer.expert(tensor, 1 if part == "down" else 0) for tensor in ordered]
            flat = torch.cat([tensor.to(self._dtype).reshape(-1) for tensor in own])
            checksums[prefix + target] = self._hash(flat)

    def _finish(
        self, target: str, parts: list[torch.Tensor], members: Sequence[str] = ("",)
    ) -> None:
        for slicer, checksums in zip(self._slicers, self._checksums, strict=True):
            own = [
                slicer(target, member, part) for member, part in zip(members, parts, strict=True)
            ]
            checksums[target] = self._hash(torch.cat([part.to(self._dtype) for part in own]))


def merged(parts: Iterable[Sequence[Mapping[str, str]]]) -> list[dict[str, str]]:
    """`EngineChecksum.ranks()` of a model whose layers were added in several places."""
    ranks: list[dict[str, str]] = []
    for part in parts:
        ranks = ranks or [{} for _ in part]
        for rank, checksums in zip(ranks, part, strict=True):
            rank.update(checksums)
    return ranks


def engine_checksums(
    tensors: Iterable[tuple[str, torch.Tensor]],
    model_config: Mapping[str, Any],
    *,
    dtype: str = "bfloat16",
    tp_size: int = 1,
    device: str = "cpu",
) -> list[dict[str, str]]:
    """`EngineChecksum.ranks()` of (Hugging Face name, whole tensor) pairs, one entry a rank."""
    checksum = EngineChecksum(model_config, dtype=dtype, tp_size=tp_size, device=device)
    for name, tensor in tensors:
        checksum.add(name, tensor)
    return checksum.ranks()


def tensor_checksum(tensor: torch.Tensor) -> str:
    """16 hexadecimal digits: the first 8 bytes of SHA-256 over the tensor's bytes in row order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()[:16]


def gpu_tensor_checksum(tensor: torch.Tensor) -> str:
    """16 hexadecimal digits: SGLang's hash of a tensor on a GPU; computed where `tensor` lies."""
    return f"{gpu_hash(tensor):016x}"


def rank_checksum(checksums: Mapping[str, str]) -> str:
    """One checksum for one rank: SHA-256 over names and checksums, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(checksums):
        digest.update(name.encode() + checksums[name].encode())
    return digest.hexdigest()


def overall_checksum(ranks: Iterable[Mapping[str, str]]) -> str:
    """One checksum for a whole engine: SHA-256 over its ranks' checksums, in rank order."""
    digest = hashlib.sha256()
    for checksums in ranks:
        digest.update(rank_checksum(checksums).encode())
    return digest.hexdigest()


class _Slicer:
    """Cuts a whole tensor down to what one tensor-parallel rank stores."""

    def __init__(self, config: Mapping[str, Any], size: int, rank: int):
        self.size, self.rank = size, rank
        self.kv_heads = int(config.get("num_key_value_heads") or config["num_attention_heads"])

    def __call__(self, name: str, member: str, tensor: torch.Tensor) -> torch.Tensor:
        """The slice of `tensor`: SGLang's parameter `name` or, if fused, its part `member`."""
        if name in _VOCABULARY:
            return self._vocabulary(tensor)
        if self.size == 1:
            return tensor
        if _INPUT_SPLIT.search(name):
            return tensor.chunk(self.size, dim=1)[self.rank]
        if not member:
            return tensor
        if member in ("k_proj", "v_proj") and self.kv_heads < self.size:
            return tensor.chunk(self.kv_heads)[self.rank * self.kv_heads // self.size]
        return tensor.chunk(self.size)[self.rank]

    def expert(self, tensor: torch.Tensor, axis: int) -> torch.Tensor:
        """The slice of one expert's matrix."""
        return tensor.chunk(self.size, dim=axis)[self.rank]

    def _vocabulary(self, tensor: torch.Tensor) -> torch.Tensor:
        """[V, H] -> [padded V / size, H]."""
        rows = tensor.shape[0]
        multiple = _VOCAB_MULTIPLE
        if (-(-rows // multiple) * multiple) % self.size:
            multiple *= self.size
        padded = -(-rows // multiple) * multiple
        if padded != rows:
            tensor = torch.cat([tensor, tensor.new_zeros(padded - rows, tensor.shape[1])])
        return tensor.chunk(self.size)[self.rank]


def _num_experts(model_config: Mapping[str, Any]) -> int:
    """transformers 5 calls it num_local_experts in the files that it writes."""
    return int(model_config.get("num_experts") or model_config.get("num_local_experts") or 0)
