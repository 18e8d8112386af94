"""Every error that a user can meet. Messages say what was wrong, where, and what to do.

SdpoError
├── ConfigError             a setting, alone or with another, cannot work (also a ValueError)
├── ModelFileError          a model folder, config.json or safetensors file is not usable
├── TaskFileError           a task file is malformed; the message begins with file:line
├── CheckpointError         a checkpoint cannot be written, read or is torn
├── GroupFileError          a group's file cannot be written or read, is torn or was altered
├── LedgerError             the ledger of a run's groups was changed, or does not fit its checkpoint
├── WorkerDied              a rollout worker ended by itself too often
├── RunFolderInUse          another trainer writes that run folder
├── LeaseLost               another trainer has taken the run folder over; nothing more is written
├── PeerLost                another machine of a run has failed or is gone
├── EngineError             an inference engine did not do what was asked
│   ├── EngineStartError    it did not come up; the message ends with its last log lines
│   ├── EngineDiedError     it was there and is gone
│   └── SwapError           it did not take the new weights, or its checksum differs
├── NoVerdict               an attempt could not be judged: drop it and count it, never reward 0
│   ├── VerifierUnavailable infrastructure failed, not the answer: retry first
│   │   └── SandboxRefused  the isolation layers found are below the configured minimum
│   ├── VerifierBroken      the verifier raised: its mistake
│   └── BadItem             the item is unusable: the task's mistake (in verifiers.base)
├── DriftError              trainer and engine, or FP8 and bf16, disagree; the step was not taken
└── NumericsError           NaN or infinity; the step was not taken
"""

from sdpo_megatron.exit_codes import FAILED, USER_ERROR


class SdpoError(Exception):
    """Base of all errors meant for a user; `sdpo` prints the message without a traceback.

    Attributes:
        exit_code: What the command then ends with: `USER_ERROR` where no second try can succeed.
    """

    exit_code = FAILED


class ConfigError(SdpoError, ValueError):
    """A setting, alone or together with another, cannot work."""

    exit_code = USER_ERROR


class ModelFileError(SdpoError):
    """A model folder, its config.json or a safetensors file is not usable."""

    exit_code = USER_ERROR


class TaskFileError(SdpoError):
    """A task file is malformed; the message begins with ``file:line``."""

    exit_code = USER_ERROR


class CheckpointError(SdpoError):
    """A checkpoint cannot be written or read, or is torn."""


class GroupFileError(SdpoError):
    """The file of a group of samples cannot be written or read, is torn or was altered."""


class LedgerError(SdpoError):
    """The ledger of a run's groups was changed, or does not belong to its checkpoint."""


class WorkerDied(SdpoError):
    """A rollout worker ended by itself more often than it may be restarted."""


class RunFolderInUse(SdpoError):
    """Another trainer, which lives, writes this run folder."""


class LeaseLost(SdpoError):
    """Another trainer has taken this run folder over: nothing more may be written."""


class PeerLost(SdpoError):
    """Another machine of this run has failed, or gives no sign of life."""


class EngineError(SdpoError):
    """An inference engine did not do what was asked."""


class EngineStartError(EngineError):
    """The engine did not come up; the message ends with its last log lines."""


class EngineDiedError(EngineError):
    """The engine was serving and is gone."""


class SwapError(EngineError):
    """The engine did not take the new weights, or its checksum differs from the trainer's."""


class NoVerdict(SdpoError):
    """An attempt could not be judged; says nothing about the answer."""


class VerifierBroken(NoVerdict):
    """A verifier raised on a response, which verifiers must not; names verifier and exception."""


class VerifierUnavailable(NoVerdict):
    """Infrastructure failed while judging; says nothing about the answer."""


class SandboxRefused(VerifierUnavailable):
    """The isolation layers found are below the configured minimum, so nothing was run."""

    exit_code = USER_ERROR


class DriftError(SdpoError):
    """Log-probabilities of the same weights are further apart than the run allows; the optimiser
    step was not taken."""

    exit_code = USER_ERROR


class NumericsError(SdpoError):
    """NaN or infinity where there must be none; the optimiser step was not taken."""
