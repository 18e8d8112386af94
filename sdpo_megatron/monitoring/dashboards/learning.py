"""Does the policy learn, does the teacher know better, and do the numbers agree?"""

from __future__ import annotations

from sdpo_megatron.monitoring.dashboards.shared import RATE, SUCCESS
from sdpo_megatron.monitoring.panel import Curve, Dashboard, Panel, Row, step
from sdpo_megatron.monitoring.promql import THIS_RUN, bucket
from sdpo_megatron.observability import series

# fmt: off
_POLICY = Row("What does the policy do?", (
    SUCCESS,
    Panel(title="Reward", help="Mean reward of the attempts.", unit="reward", curves=(step("rollout/reward_mean", "reward"),)),
    Panel(title="Rewards", help="How many attempts had which reward: two lumps are a task of right and wrong.", unit="reward", kind="heatmap",
          curves=(Curve(f"sum by (le) (increase({bucket(series.ATTEMPT_REWARD, THIS_RUN)}[{RATE}]))", "{{le}}"),)),
    Panel(title="Length of a response", help="Mean tokens. A fall without more success is a policy that gives up.", unit="tokens", bounds=(0, None),
          curves=(step("rollout/response_tokens_mean", "mean"),)),
    Panel(title="Lengths", help="How many attempts had which length.", unit="tokens", kind="heatmap",
          curves=(Curve(f"sum by (le) (increase({bucket(series.ATTEMPT_RESPONSE_TOKENS, THIS_RUN)}[{RATE}]))", "{{le}}"),)),
    Panel(title="Form", help="Attempts cut at the length limit, and attempts that an answer could be read from.", unit="ratio", bounds=(0, 1),
          curves=(step("rollout/truncated_fraction", "truncated"), step("rollout/format_ok_fraction", "readable"))),
    Panel(title="Validation", help="Held-out questions: attempts that solve theirs, and questions that one of their n attempts solves. Absent where none are held out.", unit="ratio", bounds=(0, 1),
          curves=(step("validation/success_rate", "attempts (avg@n)"), step("validation/best_of_n", "questions (best@n)"))),
    Panel(title="Groups", help="Groups with both successes and failures: only these teach by siblings or advantages.", unit="ratio", bounds=(0, 1),
          curves=(step("groups/mixed_fraction", "mixed"),)),
    Panel(title="What the teacher is shown", help="Attempts whose teacher prompt holds a sibling's solution, feedback, or that have no teacher at all.", unit="ratio", bounds=(0, 1),
          curves=(step("groups/with_solution_fraction", "solution"), step("groups/with_feedback_fraction", "feedback"), step("groups/with_neither_fraction", "no teacher"))),
    Panel(title="Signs of a collapse", help="Steps after which the run's own rule saw one (docs/runbooks).", unit="items", bounds=(0, None),
          curves=tuple(step(f"collapse/{sign}", sign) for sign in ("teacher", "prompt", "success", "entropy", "length"))),
))
_TEACHER = Row("Does the teacher know better?", (
    Panel(title="Gain of the teacher", help="Mean log q - log pi of the sampled tokens. Failed: below 0 is good, above it copies the failure. Solved: above 0 is good.", unit="nats/token",
          curves=(step("teacher/gain_failed", "failed attempts"), step("teacher/gain_success", "solved attempts"))),
    Panel(title="Divergence", help="Between student and teacher; and to a teacher that saw an empty template: the wording alone.", unit="nats/token", bounds=(0, None),
          curves=(step("teacher/kl_mean", "teacher"), step("teacher/null_kl", "empty template"))),
    Panel(title="Divergence by place", help="In each third of an attempt.", unit="nats/token", bounds=(0, None),
          curves=(step("teacher/kl_first_third", "first"), step("teacher/kl_middle_third", "middle"), step("teacher/kl_last_third", "last"))),
    Panel(title="Entropy", help="Of student and teacher. The student's falling to 0 is a collapse.", unit="nats/token", bounds=(0, None),
          curves=(step("student/entropy", "student"), step("teacher/entropy", "teacher"))),
    Panel(title="Does its prompt help?", help="Success of answers under the teacher's prompt, beside the student's own. Not above it: the prompt does not help.", unit="ratio", bounds=(0, 1),
          curves=(step("teacher/prompt_success", "teacher's prompt"), step("rollout/success_rate", "student"))),
    Panel(title="Concentration", help="Share of the divergence on the tenth of tokens where it is largest.", unit="ratio", bounds=(0, 1),
          curves=(step("teacher/kl_top_tenth_share", "top tenth"),)),
    Panel(title="Top-K", help="Probability on the student's top-K, and how much of it is the teacher's top-K too. Low mass: K is too small.", unit="ratio", bounds=(0, 1),
          curves=(step("student/top_k_mass", "student mass"), step("teacher/top_k_mass", "teacher mass"), step("teacher/top_k_overlap", "overlap"))),
    Panel(title="Distance of the teacher", help="L2 distance of the weights of teacher and student, by the student's norm.", unit="ratio", curves=(step("teacher/ema_distance", "distance"),)),
    Panel(title="Cut from its prompt", help="Tokens of feedback and solution that did not fit.", unit="tokens", bounds=(0, None), curves=(step("teacher/cut_tokens_mean", "cut"),)),
))
_OPTIMISER = Row("Is the optimiser well?", (
    Panel(title="Loss", help="And its parts; a part that is switched off is absent.", unit="1",
          curves=(step("train/loss", "loss"), step("train/distill_loss", "distillation"), step("train/policy_loss", "policy gradient"), step("train/anchor_kl", "anchor KL"))),
    Panel(title="Gradient norm", help="Before clipping. Spikes again and again: the learning rate is too high.", unit="1", logarithmic=True, curves=(step("train/grad_norm", "norm"),)),
    Panel(title="Learning rate", help="Of the step.", unit="1", curves=(step("train/learning_rate", "learning rate"),)),
    Panel(title="Trainer and engine", help="Distance of their log-probs of the same tokens. It should be small and steady; a jump is a swap that went wrong.", unit="nats/token", bounds=(0, None),
          curves=(step("importance/log_prob_gap", "gap"),)),
    Panel(title="Importance weights", help="Mean truncated weight and effective sample size: both near 1 on-policy.", unit="1",
          curves=(step("importance/weight_mean", "mean weight"), step("importance/effective_fraction", "effective share"))),
    Panel(title="Clipped", help="Tokens whose weight, or whose ratio to the old policy, was cut.", unit="ratio", bounds=(0, None),
          curves=(step("importance/clipped_fraction", "weights"), step("ratio/clipped_fraction", "ratios"))),
    Panel(title="Trained tokens", help="Response tokens with a weight in the loss.", unit="tokens", bounds=(0, None), curves=(step("train/tokens", "tokens"),)),
    Panel(title="Steps skipped", help="Optimiser steps not taken because nothing could be learnt, by reason.", unit="items", bounds=(0, None),
          curves=tuple(step(f"skipped/{reason}", reason) for reason in ("no_attempts", "no_teacher", "no_advantage", "no_signal"))),
    Panel(title="Policy version", help="That the engines serve after the step.", unit="version", curves=(step("policy/version", "version"),)),
))
# fmt: on

LEARNING = Dashboard(
    uid="sdpo-learning",
    title="SDPO / Learning",
    help="Does the policy learn, does the teacher know better, is the optimiser well?",
    rows=(_POLICY, _TEACHER, _OPTIMISER),
)
