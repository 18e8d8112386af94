"""Trainer, engines, verifiers and batches: what the manifests must say, by value."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from sdpo_megatron.config import load
from sdpo_megatron.config.composing import compose
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.exit_codes import STOPPED, USER_ERROR
from sdpo_megatron.judging.offline.config import OfflineConfig, shard_of
from sdpo_megatron.judging.service.config import ServiceConfig
from sdpo_megatron.rendering.batch import Batch, batch
from sdpo_megatron.rendering.cli import main, rendered
from sdpo_megatron.rendering.cluster import Cluster
from sdpo_megatron.rendering.committed import COMMITTED
from serving.command import engine_command, engine_environment
from serving.config import EngineConfig
from tests.rendering.k8s_folder import Manifest, main_container, of_rendering, only

SMALL, LARGE = "base", "overlays/multi-node/rendered"


def _environment(container: Manifest) -> dict[str, str]:
    return {e["name"]: e.get("value", "") for e in container["env"]}


def _flags(words: list[str]) -> dict[str, str]:
    return {a: b for a, b in zip(words, [*words[1:], ""], strict=True) if a.startswith("--")}


@pytest.mark.parametrize(("folder", "nodes", "gpus"), [(SMALL, 1, None), (LARGE, 4, 8)])
def test_the_trainer_is_an_indexed_job(folder: str, nodes: int, gpus: int | None) -> None:
    job = only(of_rendering(folder), "Job")["spec"]
    assert (job["completionMode"], job["completions"], job["parallelism"]) == (
        "Indexed", nodes, nodes,
    )  # fmt: skip
    assert job["podReplacementPolicy"] == "Failed"
    limits = job["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits.get("nvidia.com/gpu") == gpus


def test_exit_codes_mean_what_they_say() -> None:
    rules = only(of_rendering(SMALL), "Job")["spec"]["podFailurePolicy"]["rules"]
    by_code = {
        code: rule["action"]
        for rule in rules
        if "onExitCodes" in rule
        for code in rule["onExitCodes"]["values"]
    }
    assert by_code == {USER_ERROR: "FailJob", STOPPED: "Ignore"}
    (disrupted,) = [r for r in rules if r["onPodConditions"]]
    assert disrupted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert disrupted["action"] == "Ignore"
    container = main_container(only(of_rendering(SMALL), "Job"))["name"]
    assert {r["onExitCodes"]["containerName"] for r in rules if "onExitCodes" in r} == {container}


def test_ranks_of_several_pods_find_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    from sdpo_megatron.loops.launching.nodes import Place

    manifests = of_rendering(LARGE)
    job = only(manifests, "Job")
    names = {e["name"]: e.get("value", "") for e in main_container(job)["env"]}
    # as kubelet does: $(NAME) of an earlier variable, JOB_NAME from the label
    address = names["MASTER_ADDR"].replace("$(JOB_NAME)", job["metadata"]["name"])
    place = Place.of_environment(names | {"MASTER_ADDR": address, "JOB_COMPLETION_INDEX": "3"})
    assert (place.node, place.num_nodes, place.port) == (3, 4, 29500)
    host, _, subdomain = address.partition(".")
    service = only(manifests, "Service", "trainer")
    assert host == f"{job['metadata']['name']}-0"
    assert subdomain == service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"]
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["clusterIP"] == "None"
    order = [e["name"] for e in main_container(job)["env"]]
    assert order.index("JOB_NAME") < order.index("MASTER_ADDR")


def test_memory_backed_shared_memory_fits_the_pods_memory() -> None:
    for kind, name in (("Job", "trainer"), ("StatefulSet", "engine")):
        spec = only(of_rendering(LARGE), kind, name)["spec"]["template"]["spec"]
        (volume,) = [v for v in spec["volumes"] if v["name"] == "dev-shm"]
        assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}
        mounts = {m["name"]: m["mountPath"] for m in spec["containers"][0]["volumeMounts"]}
        assert mounts["dev-shm"] == "/dev/shm"


def test_an_engine_is_told_what_a_local_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """`engine_command` and `engine_environment`, but for this machine's own paths."""
    container = main_container(only(of_rendering(SMALL), "StatefulSet"))
    config = load(["experiment=quickstart"]).rollout.engine
    local = EngineConfig(
        device="cpu", dtype=config.dtype, max_total_tokens=config.max_total_tokens, host="0.0.0.0"
    )
    command = engine_command(local, Path("/runs/models/smollm2-135m-instruct"), 30000, 0)
    assert [*container["command"], *container["args"]][3:] == command[1:]
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    there, here = _environment(container), engine_environment(local)
    own = {"HOME", "TORCHINDUCTOR_CACHE_DIR"}
    assert {k: v for k, v in there.items() if k not in own}.items() <= here.items()
    assert there["SDPO_ENGINE_STAND_INS"] == "1"


def test_engines_that_share_gpus_at_home_have_their_own_in_pods() -> None:
    words = ["k8s", "experiment=science", "model.path=/models/m", "task.path=/data/science"]
    manifests = [m for found in rendered(words).values() for m in found]
    assert load(words[1:]).rollout.engine.gpus  # the experiment shares them
    stateful_set = only(manifests, "StatefulSet")
    assert "--mem-fraction-static" not in main_container(stateful_set)["args"]
    assert stateful_set["spec"]["replicas"] == load(words[1:]).rollout.engine.num_engines


def test_engines_on_gpus_have_their_ranks_gpus() -> None:
    container = main_container(only(of_rendering(LARGE), "StatefulSet", "engine"))
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert _flags(container["args"])["--tp-size"] == "4"
    assert "--device" not in container["args"]
    assert "SDPO_ENGINE_STAND_INS" not in _environment(container)


def test_the_startup_probe_is_as_long_as_the_start_may_take() -> None:
    words = ["k8s", "experiment=quickstart", "rollout.engine.start_timeout_s=1234"]
    manifests = [m for found in rendered(words).values() for m in found]
    stateful_set = only(manifests, "StatefulSet")["spec"]
    probe = stateful_set["template"]["spec"]["containers"][0]["startupProbe"]
    assert 1234 <= probe["periodSeconds"] * probe["failureThreshold"] < 1240
    assert stateful_set["podManagementPolicy"] == "Parallel"


def test_an_engine_waits_for_a_model_that_the_trainer_makes() -> None:
    words = ["k8s", "experiment=quickstart", "model.path='a b/smollm2-135m-instruct'"]
    manifests = [m for found in rendered(words).values() for m in found]
    (waiting,) = only(manifests, "StatefulSet")["spec"]["template"]["spec"]["initContainers"]
    assert "[ -f '/runs/a b/smollm2-135m-instruct/config.json' ]" in waiting["command"][-1]
    ready = only(of_rendering(LARGE), "StatefulSet", "engine")["spec"]["template"]["spec"]
    assert "initContainers" not in ready


def test_engines_cannot_write_what_they_serve() -> None:
    for mount in main_container(only(of_rendering(LARGE), "StatefulSet", "engine"))["volumeMounts"]:
        if mount["mountPath"] in ("/runs", "/models"):
            assert mount["readOnly"] is True


def _service(words: list[str]) -> ServiceConfig:
    """What the verifiers' pods of a rendering are told, as they read it."""
    manifests = [m for found in rendered(words).values() for m in found]
    verify, serve, *overrides = main_container(only(manifests, "Deployment"))["args"]
    assert (verify, serve) == ("verify", "serve")
    return compose(ServiceConfig, overrides)


def test_the_verifiers_command_line_is_one_that_verify_takes() -> None:
    config = _service(shlex.split(COMMITTED[LARGE]))
    pod = only(of_rendering(LARGE), "Deployment")["spec"]["template"]["spec"]
    assert (config.workers, config.port) == (8, pod["containers"][0]["ports"][0]["containerPort"])
    assert config.sandbox.minimum_layers == ("landlock", "seccomp", "rlimits", "accounting")
    mounts = {m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    assert str(Path(config.token_file or "").parent) in mounts
    assert pod["terminationGracePeriodSeconds"] > config.drain_s


def test_what_a_run_says_of_programs_reaches_the_services() -> None:
    config = _service(
        ["k8s", "experiment=quickstart", "judge.code.cpu_s=2.5", "judge.code.reward=fraction",
         "sandbox.packages=[]", "sandbox.open_files=77", "judge.cpu_limit_s=7"]
    )  # fmt: skip
    assert (config.code.cpu_s, config.code.reward, config.cpu_limit_s) == (2.5, "fraction", 7)
    assert (config.sandbox.packages, config.sandbox.open_files) == ((), 77)


def test_layers_that_were_asked_for_are_not_lowered() -> None:
    asked = "sandbox.minimum_layers=[user,landlock]"
    config = _service(["k8s", "experiment=quickstart", asked])
    assert config.sandbox.minimum_layers == ("user", "landlock")


def test_a_verifier_of_ones_own_is_offered() -> None:
    words = ["k8s", "experiment=quickstart", "task.verifier=my_package.mine:Mine"]
    assert {"code", "my_package.mine:Mine"} <= set(_service(words).verifiers)


def test_verifiers_memory_holds_their_programs() -> None:
    words = ["k8s", "experiment=quickstart", "judge.code.memory_mib=4096", "--verifier-workers=3"]
    manifests = [m for found in rendered(words).values() for m in found]
    limits = main_container(only(manifests, "Deployment"))["resources"]["limits"]
    assert int(limits["memory"].removesuffix("Gi")) * 1024 >= 3 * 4096 + 1024


def test_a_batch_judges_each_line_once() -> None:
    job = only(of_rendering("overlays/verify-batch/rendered"), "Job")["spec"]
    container = job["template"]["spec"]["containers"][0]
    verify, command, *words = container["args"]
    assert (verify, command, words.pop()) == ("verify", "batch", "task=humaneval")
    config = compose(OfflineConfig, words)
    assert (config.input, config.output) == ("/runs/responses.jsonl", "/runs/verdicts")
    environment = _environment(container)
    shards = {
        shard_of(config, {**environment, "JOB_COMPLETION_INDEX": str(index)})
        for index in range(job["completions"])
    }
    assert shards == {(index, 1000) for index in range(1000)}
    assert (job["parallelism"], job["completionMode"]) == (200, "Indexed")


def test_more_pods_at_once_than_shards_are_no_use() -> None:
    wanted = Batch(responses="/data/x.jsonl", verdicts="/runs/v", shards=3, parallelism=20)
    assert only(batch(wanted, Cluster()), "Job")["spec"]["parallelism"] == 3


@pytest.mark.parametrize(
    ("responses", "verdicts", "wrong"),
    [("/data/x", "/data/v", "verdicts"), ("x", "/runs/v", "responses")],
)
def test_a_batchs_files_are_on_claims(responses: str, verdicts: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        Batch(responses=responses, verdicts=verdicts)


def test_without_shared_leaves_what_outlives_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["k8s", "experiment=quickstart", "--without-shared"]) == 0
    kinds = {m["kind"] for m in yaml.safe_load_all(capsys.readouterr().out)}
    assert kinds == {
        "ConfigMap", "Deployment", "Job", "NetworkPolicy", "PodDisruptionBudget", "Service",
        "StatefulSet",
    }  # fmt: skip


def test_two_runs_of_a_namespace_share_no_name_but_what_is_shared() -> None:
    def own(name: str) -> set[tuple[str, str]]:
        words = ["k8s", "experiment=quickstart", f"run.name={name}", "--without-shared"]
        return {
            (m["kind"], m["metadata"]["name"]) for found in rendered(words).values() for m in found
        }

    assert own("one") & own("two") == set()


def test_every_claim_account_and_priority_that_pods_name_is_there() -> None:
    for folder in (SMALL, LARGE, "overlays/verify-batch/rendered"):
        manifests = of_rendering(folder)
        there = {(m["kind"], m["metadata"]["name"]) for m in manifests}
        for manifest in manifests:
            spec = manifest.get("spec", {}).get("template", {}).get("spec")
            if not spec:
                continue
            assert ("ServiceAccount", spec["serviceAccountName"]) in there
            assert ("PriorityClass", spec["priorityClassName"]) in there
            for volume in spec["volumes"]:
                if "persistentVolumeClaim" in volume:
                    claim = volume["persistentVolumeClaim"]["claimName"]
                    assert ("PersistentVolumeClaim", claim) in there
                if "configMap" in volume:
                    assert ("ConfigMap", volume["configMap"]["name"]) in there


def test_workers_of_pods_of_their_own_find_the_trainer_by_its_run_folder(tmp_path: Path) -> None:
    from sdpo_megatron.config import load_saved

    manifests = of_rendering(LARGE)
    (tmp_path / "config.yaml").write_text(only(manifests, "ConfigMap")["data"]["config.yaml"])
    config = load_saved(tmp_path / "config.yaml")
    asked = config.rollout.workers
    assert (asked.count, asked.listen_address) == (0, "0.0.0.0")
    service = only(manifests, "Service", "livecodebench-trainer")["spec"]["ports"]
    assert {"name": "workers", "port": asked.listen_port} in service
    pods = only(manifests, "StatefulSet", "livecodebench-worker")["spec"]
    assert pods["replicas"] == 2
    container = main_container(only(manifests, "StatefulSet", "livecodebench-worker"))
    assert container["args"][:2] == ["worker", config.run.folder]
    mounts = {m["mountPath"]: m.get("readOnly", False) for m in container["volumeMounts"]}
    assert mounts["/runs"] is False  # it writes groups
    assert mounts["/models"]
    assert mounts["/data"]
    trainer = main_container(only(manifests, "Job"))
    assert trainer["image"] == container["image"]


def test_a_run_without_such_pods_has_none() -> None:
    manifests = of_rendering(SMALL)
    kinds = {m["kind"] for m in manifests if m["metadata"]["name"].endswith("-worker")}
    assert kinds == {"ServiceAccount", "PriorityClass"}  # which all runs share


def _probe(container: Manifest, name: str, folder: Path) -> int:
    """The probe's exit code here, its files below `folder`."""
    command = [word.replace("/tmp/", f"{folder}/") for word in container[name]["exec"]["command"]]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode


def test_a_worker_is_ready_when_it_works_and_alive_while_its_loop_turns(tmp_path: Path) -> None:
    container = main_container(only(of_rendering(LARGE), "StatefulSet", "worker"))
    probes = ("startupProbe", "readinessProbe", "livenessProbe")

    def seen() -> list[bool]:
        return [_probe(container, name, tmp_path) == 0 for name in probes]

    assert seen() == [False, False, False]
    state = tmp_path / Path(container["args"][-1]).name
    state.write_text("waiting\n")
    assert seen() == [True, False, True]
    state.write_text("working\n")
    assert seen() == [True, True, True]
    os.utime(state, (0, time.time() - 100))
    assert seen() == [True, True, False]
