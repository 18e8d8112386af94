"""What would go wrong on a GPU, one defect a number: docs/gpu.md has the same numbers."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

CONFIG = "sdpo_megatron/actor/model/config.py"
GPT = "sdpo_megatron/actor/model/gpt.py"
PLACEMENT = "sdpo_megatron/loops/launching/placement.py"
RUNTIME = "sdpo_megatron/actor/runtime.py"

TEST_CONFIG = "tests/actor/model/test_config.py"
TEST_PACKAGING = "tests/test_packaging.py"
TEST_PLACEMENT = "tests/loops/launching/test_placement.py"
TEST_RUNTIME = "tests/actor/test_runtime.py"

GPU_MUTANTS = (
    Mutant(
        "GPU 1: packed micro-batches are not padded for FP8",
        CONFIG,
        "return FP8_TOKENS * shares",
        "return parallel.sequence_multiple",
        f"{TEST_CONFIG}::test_under_fp8_each_rank_gets_whole_tiles_of_tokens",
    ),
    Mutant(
        "GPU 2: the image's build does not find cudnn.h",
        "Dockerfile",
        "site-packages/nvidia/cudnn/include:",
        "site-packages/nvidia/cufft/include:",
        f"{TEST_PACKAGING}::test_transformer_engines_build_finds_cudnn_and_the_toolkit_of_torchs_cuda",
    ),
    Mutant(
        "GPU 3: the image has no compiler when it runs",
        "Dockerfile",
        "librdmacm1 g++ ninja-build",
        "librdmacm1 ninja-build",
        f"{TEST_PACKAGING}::test_the_gpu_image_can_compile_what_triton_and_sglang_compile_while_they_run",
    ),
    Mutant(
        "GPU 4: every engine sees all GPUs and takes the first",
        "serving/command.py",
        'return {"CUDA_VISIBLE_DEVICES": ",".join(_visible_name(gpu) for gpu in mine)}',
        "return {}",
        f"{TEST_PLACEMENT}::test_each_engine_sees_its_own_gpus_alone",
    ),
    Mutant(
        "GPU 5: an engine on a rank's GPU takes what SGLang takes",
        PLACEMENT,
        "if shared and not 0 < engine.mem_fraction < most:",
        "if shared and not 0 <= engine.mem_fraction < 1:",
        f"{TEST_PLACEMENT}::test_a_shared_gpu_needs_a_share_of_its_memory",
    ),
    Mutant(
        "GPU 6: more ranks than GPUs are started",
        PLACEMENT,
        "if on_gpus and local_ranks > num_gpus:",
        "if on_gpus and not num_gpus:",
        f"{TEST_PLACEMENT}::test_what_cannot_be_is_refused",
    ),
    Mutant(
        "GPU 7: the head's gradient makes a copy of the head for each chunk",
        "sdpo_megatron/objectives/fused/logits.py",
        "if total.is_cuda and hidden.dtype != total.dtype:",
        "if total.is_cuda and hidden.dtype is total.dtype:",
        "tests/objectives/test_loss_model.py::test_the_aims_at_the_target_size",
    ),
    Mutant(
        "GPU 8: a swap compares with the hash of a CPU",
        "serving/swapping/checksum.py",
        'tensor_checksum if device == "cpu" else gpu_tensor_checksum',
        "tensor_checksum",
        "tests/serving/swapping/test_gpu_hash.py",
    ),
    Mutant(
        "GPU 9: on a CPU Megatron finds Transformer Engine",
        RUNTIME,
        "        sys.modules[name] = None  # type: ignore[assignment]",
        "        sys.modules.pop(name, None)",
        f"{TEST_RUNTIME}::test_on_a_cpu_megatron_does_not_see_transformer_engine",
    ),
    Mutant(
        "GPU 9: a Transformer Engine that cannot be loaded ends the run without a word of why",
        RUNTIME,
        "    except Exception as error:  # whatever",
        "    except ImportError as error:  # whatever",
        f"{TEST_RUNTIME}::test_a_broken_transformer_engine_is_named_and_not_used",
    ),
    Mutant(
        "GPU 10: mxfp8 is tried on Hopper",
        CONFIG,
        '"mxfp8": ((10, 0), _ANY)',
        '"mxfp8": ((9, 0), _ANY)',
        f"{TEST_CONFIG}::test_a_recipe_that_the_card_cannot_do",
    ),
    Mutant(
        "GPU 10: delayed scaling is offered",
        CONFIG,
        'fp8: Literal["tensorwise", "blockwise", "mxfp8"] | None = None',
        'fp8: Literal["tensorwise", "blockwise", "mxfp8", "delayed"] | None = None',
        f"{TEST_CONFIG}::test_a_precision_that_cannot_be",
    ),
    Mutant(
        "GPU 11: a distance of weights makes whole copies in float64",
        "sdpo_megatron/actor/weight_sets.py",
        "shard.master.detach().split(_PIECE), kept.split(_PIECE), strict=True",
        "[shard.master.detach()], [kept], strict=True",
        "tests/actor/test_weight_sets.py::test_the_distance_is_exact_and_copies_a_piece_at_a_time",
    ),
    Mutant(
        "GPU 12: hidden states leave the device when all are there",
        "sdpo_megatron/actor/teacher.py",
        "states = self._pipeline.hidden_states(batches[role], self._keep)",
        "states = [self._keep(h) for h in self._pipeline.hidden_states(batches[role])]",
        "tests/actor/test_host_memory.py::test_hidden_states_leave_as_soon_as_a_micro_batch_has_them",
    ),
    Mutant(
        "GPU 13: ranks spin on the GPU while attempts are sampled",
        RUNTIME,
        'backend = "cpu:gloo,cuda:nccl"',
        'backend = "nccl"',
        f"{TEST_RUNTIME}::test_nothing_is_redirected_on_a_cuda_machine",
    ),
    Mutant(
        "GPU 14: groups of ranks give up after ten minutes",
        GPT,
        "1, math.ceil(timedelta(seconds=current_runtime().timeout_s) / timedelta(minutes=1))",
        "1, math.ceil(timedelta(seconds=600.0) / timedelta(minutes=1))",
        "tests/actor/model/test_groups.py",
    ),
    Mutant(
        "GPU 14: a GPU environment is compared with the lock for CPUs",
        "sdpo_megatron/doctor.py",
        'return "gpu.txt" if of_gpu else "cpu.txt"',
        'return "cpu.txt" if of_gpu else "cpu.txt"',
        "tests/test_doctor.py::test_a_gpu_environment_is_compared_with_the_lock_for_gpus",
    ),
    Mutant(
        "GPU 14: attention's backward pass adds up in any order",
        "sdpo_megatron/loops/rank.py",
        '"NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0"',
        '"NVTE_ALLOW_NONDETERMINISTIC_ALGO": "1"',
        f"{TEST_PLACEMENT}::test_a_rank_sets_what_cuda_libraries_read_before_torch_is_imported",
    ),
    Mutant(
        "GPU 14: experts are not reached by the all-to-all",
        GPT,
        '"moe_token_dispatcher_type": "alltoall"',
        '"moe_token_dispatcher_type": "allgather"',
        "tests/actor/model/test_moe.py",
    ),
    Mutant(
        "GPU 14: flash-attn 2 is not told the padded boundaries under context parallelism",
        "sdpo_megatron/actor/model/pipeline.py",
        "padded = None if batch.response_index is None else batch.cu_seqlens",
        "padded = None",
        "tests/actor/model/test_pipeline.py",
    ),
)
