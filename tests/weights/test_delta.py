"""Deltas of weights: bit for bit, small after a small step, refused where they do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdpo_megatron.errors import CheckpointError
from sdpo_megatron.weights.delta import apply_delta, read_info, write_delta
from serving.site import follow_once

SIZE = 200_000


def _version(folder: Path, weights: torch.Tensor) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"a": 1}')
    save_file({"w": weights.to(torch.bfloat16)}, folder / "model.safetensors")
    return folder


def _weights(step: int) -> torch.Tensor:
    """As after `step` steps of Adam at a learning rate of 1e-6: each weight moves by that."""
    generator = torch.Generator().manual_seed(0)
    start = 0.02 * torch.randn(SIZE, generator=generator)
    for _ in range(step):
        start = start + 1e-6 * torch.randn(SIZE, generator=generator).sign()
    return start


def _same(one: Path, other: Path) -> bool:
    names = {path.name for path in one.iterdir()}
    return names == {path.name for path in other.iterdir()} and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def test_a_small_step_is_a_small_delta_and_comes_back_bit_for_bit(tmp_path: Path) -> None:
    old = _version(tmp_path / "here/v000000", _weights(0))
    new = _version(tmp_path / "here/v000001", _weights(1))
    info = write_delta(old, new, tmp_path / "v000001.delta")
    assert info == read_info(tmp_path / "v000001.delta")
    assert (info.base, info.target) == ("v000000", "v000001")
    assert info.num_bytes < 0.1 * info.raw_bytes
    there = _version(tmp_path / "there/v000000", _weights(0))
    apply_delta(there, tmp_path / "v000001.delta", tmp_path / "there/v000001")
    assert _same(new, tmp_path / "there/v000001")


@pytest.mark.parametrize("size", [0, 1, 2, 7])
def test_odd_files(size: int, tmp_path: Path) -> None:
    for name, byte in (("v0", b"a"), ("v1", b"b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.safetensors").write_bytes(byte * size)
    (tmp_path / "v1" / "new.json").write_text("only here")
    write_delta(tmp_path / "v0", tmp_path / "v1", tmp_path / "d")
    (tmp_path / "site").mkdir()
    apply_delta(tmp_path / "v0", tmp_path / "d", tmp_path / "site" / "v1")
    assert _same(tmp_path / "v1", tmp_path / "site" / "v1")


def test_another_base_and_a_torn_delta_leave_nothing(tmp_path: Path) -> None:
    old, new = _version(tmp_path / "v0", _weights(0)), _version(tmp_path / "v1", _weights(1))
    delta = tmp_path / "v1.delta"
    write_delta(old, new, delta)
    out = tmp_path / "site" / "v1"
    with pytest.raises(CheckpointError, match="begins at v0, not at v1"):
        apply_delta(new, delta, out)
    other = _version(tmp_path / "other/v0", _weights(2))
    with pytest.raises(CheckpointError, match="is not the same everywhere"):
        apply_delta(other, delta, out)
    delta.write_bytes(delta.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match=r"is torn at model\.safetensors"):
        apply_delta(old, delta, out)
    assert not out.exists()


def test_a_site_follows_by_deltas_and_keeps_two_versions(tmp_path: Path) -> None:
    source, site, said = tmp_path / "run", tmp_path / "site", []
    _version(source / "v000000", _weights(0))
    assert follow_once(source, site, said.append)
    assert not follow_once(source, site, said.append)
    for step in (1, 2):
        base, new = f"v{step - 1:06d}", f"v{step:06d}"
        _version(source / new, _weights(step))
        write_delta(source / base, source / new, source / f"{new}.delta")
    while follow_once(source, site, said.append):
        pass
    assert [path.name for path in sorted(site.iterdir())] == ["v000001", "v000002"]
    assert _same(source / "v000002", site / "v000002")
    assert said[0] == "v000000: copied whole"
    assert [line.partition(":")[0] for line in said] == ["v000000", "v000001", "v000002"]


def test_a_site_that_fell_behind_begins_anew(tmp_path: Path) -> None:
    source, site, said = tmp_path / "run", tmp_path / "site", []
    _version(source / "v000000", _weights(0))
    follow_once(source, site, said.append)
    (source / "v000000").rename(tmp_path / "gone")
    _version(source / "v000005", _weights(2))
    assert follow_once(source, site, said.append)
    assert said[-1] == "v000005: copied whole"
