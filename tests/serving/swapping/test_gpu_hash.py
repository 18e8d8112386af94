"""The hash port against numbers that SGLang 0.5.23's kernel gave in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from serving.swapping import gpu_hash as module
from serving.swapping.checksum import EngineChecksum, gpu_tensor_checksum, overall_checksum
from serving.swapping.gpu_hash import gpu_hash

KERNEL_SAID = [
    (torch.arange(3, dtype=torch.uint8), "0a97cf45c78490e5"),  # filled up to a word
    (torch.arange(1000, dtype=torch.float32), "cb747b9e358c891f"),
    # Several tiles of 8192 words, the last one not full.
    (torch.arange(40000, dtype=torch.float32).bfloat16().view(200, 200), "659b1a9157edcd98"),
    (torch.arange(16385, dtype=torch.int16), "2028ef98b9ee2477"),
    (torch.zeros(0), "0000000000000000"),
]


@pytest.mark.parametrize(("tensor", "said"), KERNEL_SAID)
def test_the_port_equals_the_kernel(tensor: torch.Tensor, said: str) -> None:
    assert gpu_tensor_checksum(tensor) == said


def test_the_number_does_not_depend_on_how_much_is_hashed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensor = torch.randn(3 * 8192 + 5, generator=torch.Generator().manual_seed(0))
    whole = gpu_hash(tensor)
    monkeypatch.setattr(module, "_WORDS_AT_ONCE", 8192)
    assert gpu_hash(tensor) == whole


def test_one_bit_and_one_swap_change_it() -> None:
    tensor = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    changed, swapped = tensor.clone(), tensor.clone()
    changed.view(torch.int32)[12_345] ^= 1
    swapped[[3, 9_000]] = swapped[[9_000, 3]]
    assert len({gpu_hash(tensor), gpu_hash(changed), gpu_hash(swapped)}) == 3


def test_a_transposed_tensor_is_hashed_in_row_order() -> None:
    tensor = torch.arange(12.0).view(3, 4)
    assert gpu_hash(tensor.T) == gpu_hash(tensor.T.contiguous()) != gpu_hash(tensor)


def test_an_engines_checksum_follows_the_engines_device() -> None:
    config = {"num_attention_heads": 1, "num_key_value_heads": 1}
    norm = torch.arange(8.0).bfloat16()
    found = {}
    for device in ("cpu", "cuda"):
        checksum = EngineChecksum(config, device=device)
        checksum.add("model.norm.weight", norm)
        found[device] = checksum.overall()
    assert found["cuda"] == overall_checksum([{"model.norm.weight": gpu_tensor_checksum(norm)}])
    assert found["cuda"] != found["cpu"]
