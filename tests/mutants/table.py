"""The mutants: a text of the source, what takes its place, and the test that then fails.

Each is a mistake that is easy to make, hard to see in a run, and was once survived by the tests.
`make test-mutants` proves that they are noticed; tests/mutants/test_table.py that they still apply.
"""

from __future__ import annotations

from tests.mutants.gpu import GPU_MUTANTS
from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS", "Mutant"]

BOOK = "sdpo_megatron/rollout/ledger/book.py"
DESK = "sdpo_megatron/rollout/desk.py"
DESK_TESTS = "tests/rollout/test_desk.py"
ACTOR = "sdpo_megatron/actor/actor.py"
BATCH_LOSS = "sdpo_megatron/actor/batches/batch_loss.py"
OPTIMIZER = "sdpo_megatron/actor/optimizer.py"
PLAN = "sdpo_megatron/actor/batches/plan.py"
PACKING = "sdpo_megatron/actor/batches/packing.py"
TEACHER = "sdpo_megatron/actor/teacher.py"
DOOR = "sdpo_megatron/loops/workers/door.py"
DOOR_TESTS = "tests/loops/workers/test_door.py"
WEIGHT_SETS = "sdpo_megatron/actor/weight_sets.py"

ONE_RANK = "tests/actor/test_one_rank.py"
RATES = "tests/actor/test_optimizer.py"

MUTANTS = (
    # Learning-rate schedules
    Mutant(
        "warm-up one batch early",
        OPTIMIZER,
        "return config.lr * batch / config.warmup_steps",
        "return config.lr * (batch + 1) / config.warmup_steps",
        RATES,
    ),
    Mutant(
        "warm-up ends one step early, below the peak",
        OPTIMIZER,
        "return config.lr * batch / config.warmup_steps",
        "return config.lr * batch / (config.warmup_steps + 1)",
        RATES,
    ),
    Mutant(
        "decay counted from the first step, not from the end of the warm-up",
        OPTIMIZER,
        "done = min(1.0, (batch - config.warmup_steps) / span)",
        "done = min(1.0, batch / span)",
        RATES,
    ),
    Mutant(
        "decay one step late",
        OPTIMIZER,
        "done = min(1.0, (batch - config.warmup_steps) / span)",
        "done = min(1.0, (batch - config.warmup_steps - 1) / span)",
        RATES,
    ),
    Mutant(
        "linear and cosine exchanged",
        OPTIMIZER,
        'config.decay == "linear" else',
        'config.decay == "cosine" else',
        RATES,
    ),
    Mutant(
        "the rate of the batch before is used",
        ACTOR,
        "learning_rate(self.config.optimizer, self.rollout_batches - 1)",
        "learning_rate(self.config.optimizer, max(0, self.rollout_batches - 2))",
        ONE_RANK,
    ),
    # One optimiser step, and several on a batch
    Mutant(
        "off-policy without pi_old",
        ACTOR,
        "old = [self._old_log_probs(minibatch) for minibatch in minibatches]",
        "old = [None for minibatch in minibatches]",
        ONE_RANK,
    ),
    Mutant(
        "pi_old is the rollout engine's",
        BATCH_LOSS,
        "old_log_probs=old_log_probs,",
        "old_log_probs=flat([s.log_probs for s in samples], np.float32),",
        ONE_RANK,
    ),
    Mutant(
        "samples with only a policy weight are dropped",
        PLAN,
        "official | (table.distill_weight != 0) | (table.policy_weight != 0)",
        "official | (table.distill_weight != 0)",
        ONE_RANK,
    ),
    Mutant(
        "gradients of the step before are added",
        "sdpo_megatron/actor/model/pipeline.py",
        "            chunk.zero_grad_buffer()\n",
        "            pass\n",
        ONE_RANK,
    ),
    Mutant(
        "denominators counted over all attempts, with a weight or without",
        "sdpo_megatron/actor/batches/counts.py",
        "table.trained[chosen][weight[chosen] != 0]",
        "table.trained[chosen]",
        ONE_RANK,
    ),
    Mutant(
        "untrained tokens trained",
        BATCH_LOSS,
        "distill_weight=spread(distill) * loss_mask,",
        "distill_weight=spread(distill),",
        ONE_RANK,
    ),
    Mutant(
        "the distillation loss takes the policy's weights",
        BATCH_LOSS,
        "distill_weight=spread(distill) * loss_mask,",
        "distill_weight=spread(policy) * loss_mask,",
        ONE_RANK,
    ),
    Mutant(
        "several steps on a batch see the whole batch each",
        "sdpo_megatron/actor/batches/composition.py",
        "        steps[place[name] // questions].append(row)\n",
        "        for step in steps:\n            step.append(row)\n",
        ONE_RANK,
    ),
    # The teacher
    Mutant(
        "cadence per_rollout_batch never moves the average",
        ACTOR,
        "            self.teacher.after_rollout_batch()\n",
        "            pass\n",
        ONE_RANK,
    ),
    Mutant(
        "cadence per_rollout_batch moves it with every step",
        TEACHER,
        'self.config.cadence == "per_optimizer_step"',
        "self.config.cadence",
        ONE_RANK,
    ),
    Mutant(
        "the average moves the other way",
        WEIGHT_SETS,
        "here.lerp_(new.float(), rate)",
        "here.lerp_(new.float(), 1 - rate)",
        ONE_RANK,
    ),
    Mutant(
        "the average is not swapped in",
        TEACHER,
        "nullcontext() if name == LIVE else self.weights.swapped(self.sets[name])",
        "nullcontext()",
        ONE_RANK,
    ),
    Mutant(
        "the average stays in after scoring",
        WEIGHT_SETS,
        "shard.buffer.copy_(shard.master if saved is None else saved)",
        "pass",
        ONE_RANK,
    ),
    Mutant(
        "the teacher reads the student's prompt",
        PACKING,
        "return sample.prompt_ids if prompt is None else prompt",
        "return sample.prompt_ids",
        ONE_RANK,
    ),
    # Packing
    Mutant(
        "hidden states one place late",
        PACKING,
        "predictors.append(np.arange(first - 1, last))",
        "predictors.append(np.arange(first, last + 1))",
        "tests/actor/batches/test_packing.py",
    ),
    Mutant(
        "ranks balanced by tokens",
        PACKING,
        '_least_loaded(work.tolist(), np.argsort(-work, kind="stable").tolist(), num_ranks)',
        '_least_loaded(costs, np.argsort(-tokens, kind="stable").tolist(), num_ranks)',
        "tests/actor/batches/test_packing.py::test_ranks_are_balanced_by_work_not_by_tokens",
    ),
    # Numerics that no reference states
    Mutant(
        "gradients are not clipped",
        OPTIMIZER,
        "clip_grad=config.clip_grad,",
        "clip_grad=0.0,",
        "tests/golden/test_golden.py",
    ),
    Mutant(
        "another second moment",
        OPTIMIZER,
        "adam_beta2=config.beta2,",
        "adam_beta2=0.99,",
        "tests/golden/test_golden.py",
    ),
    # Around the step
    Mutant(
        "a checkpoint whose file is larger than recorded is whole",
        "sdpo_megatron/actor/checkpoint/folder.py",
        "(folder / name).stat().st_size == size",
        "(folder / name).stat().st_size >= size",
        "tests/actor/checkpoint/test_checkpoint.py::"
        "test_a_file_of_another_size_than_recorded_tears_a_checkpoint",
    ),
    Mutant(
        "every group counts as mixed",
        "sdpo_megatron/rollout/summary.py",
        "len({verdict.success for verdict in verdicts}) == 2",
        "len({verdict.success for verdict in verdicts}) >= 1",
        "tests/rollout/test_summary.py",
    ),
    # Judging
    Mutant(
        "a cancelled job's reply stays in the child's pipe",
        "sdpo_megatron/judging/pool.py",
        "must not reach the next one.\n                await self._end(child)\n",
        "must not reach the next one.\n                self._idle.append(child)\n",
        "tests/judging/test_pool.py::test_a_cancelled_job_never_answers_for_the_next",
    ),
    Mutant(
        "judge.workers bounds nothing",
        "sdpo_megatron/judging/judge.py",
        "self._slots = asyncio.Semaphore(workers)",
        "self._slots = asyncio.Semaphore(workers + 1_000)",
        "tests/judging/test_judge.py",
    ),
    # Leases, receipts and batches
    Mutant(
        "what a checkpoint does not hold counts as trained on",
        BOOK,
        "trained = entry.step <= step\n",
        "trained = True\n",
        DESK_TESTS,
    ),
    Mutant(
        "what a kill has torn stays at the end of the ledger",
        "sdpo_megatron/rollout/ledger/ledger.py",
        "os.truncate(self.path, self.place.offset)",
        "pass",
        "tests/rollout/ledger/test_ledger.py",
    ),
    Mutant(
        "groups of lost weights are kept",
        DESK,
        'if (receipt["notes"].get(NEWEST) or 0) > version:',
        "if False:",
        DESK_TESTS,
    ),
    Mutant(
        "a group may be one version older",
        "sdpo_megatron/rollout/admission.py",
        "oldest < version - eta",
        "oldest < version - eta - 1",
        DESK_TESTS,
    ),
    Mutant(
        "one batch more is begun than may be trained on",
        "sdpo_megatron/rollout/admission.py",
        "min(eta + trained_batches + 1, last)",
        "min(eta + trained_batches + 2, last)",
        DESK_TESTS,
    ),
    Mutant(
        "a second receipt deletes the file of the first",
        DESK,
        'if position not in book or book[position].receipt.get("file") != receipt.file:',
        "if True:",
        DESK_TESTS,
    ),
    # The door for workers of other machines
    Mutant(
        "a worker's proof is not looked at",
        DOOR,
        'raise NotOurs("it does not know this run\'s secret")\n\n\nasync def _present',
        "pass\n\n\nasync def _present",
        DOOR_TESTS,
    ),
    Mutant(
        "a controller's proof is not looked at",
        DOOR,
        'raise NotOurs("it does not know this run\'s secret")\n    writer.write',
        "pass\n    writer.write",
        DOOR_TESTS,
    ),
    Mutant(
        "what the controller proves can be sent back to it",
        DOOR,
        "who.encode() + first + second",
        "bytes(a ^ b for a, b in zip(first, second, strict=True))",
        DOOR_TESTS,
    ),
    Mutant(
        "others can read the secret",
        DOOR,
        "mode=0o600",
        "mode=0o644",
        DOOR_TESTS,
    ),
    Mutant(
        "the secret outlives the controller",
        DOOR,
        "self._file.unlink(missing_ok=True)\n        if self._server",
        "if self._server",
        DOOR_TESTS,
    ),
    *GPU_MUTANTS,
)
