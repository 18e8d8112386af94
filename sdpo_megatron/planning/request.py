"""What `sdpo plan` is asked: keys of its own beside the settings of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from sdpo_megatron import config as configs
from sdpo_megatron.actor.model.config import ParallelConfig
from sdpo_megatron.config import TrainConfig
from sdpo_megatron.errors import ConfigError
from sdpo_megatron.planning.cluster import Cluster
from sdpo_megatron.planning.hardware import Machines
from sdpo_megatron.planning.layouts import choose
from sdpo_megatron.planning.memory import memory_sheet
from sdpo_megatron.planning.models import shape_of
from sdpo_megatron.planning.phases import TRANSPORTS, Model
from sdpo_megatron.planning.sheet import Sheet
from sdpo_megatron.planning.speeds import Speeds, kv_bytes_per_token
from sdpo_megatron.planning.workload import Workload
from sdpo_megatron.weights.spec import ModelSpec


@dataclass(kw_only=True)
class Request:
    """The keys of `sdpo plan`; what is not one of them is a setting of the run.

    Attributes:
        gpu: Kind: a100, h100, h200 or b200.
        nodes: The trainer's machines.
        engine_nodes: The engines' machines; 0: engines share the trainer's only one.
        shape: A model by its size, where no folder of it is at hand.
        prompt, teacher_prompt: Tokens, on average; 0: half of what is allowed.
        response: Mean response, tokens; 0: half of rollout.sampling.max_new_tokens.
        spread: Standard deviation of responses over their mean.
        taught: Share of attempts with a weight in the loss.
        transport: Of weights: disk, distributed or tensor.
        max_staleness: Versions that rollouts may run ahead, for the simulation.
        sim_steps: Steps to simulate; 0: no simulation.
        judges: Verdicts at once; 0: as many as engine GPUs.
        mtbf_h: Hours between failures of one machine.
        speeds: File of measured speeds, instead of the data sheet's.
        calibrate: Run folder to measure speeds from; written to `speeds`.
        check: Run folder whose phases to predict with `speeds`.
    """

    gpu: str = "h100"
    nodes: int = 0
    engine_nodes: int = 0
    shape: str = ""
    prompt: float = 0.0
    teacher_prompt: float = 0.0
    response: float = 0.0
    spread: float = 0.6
    taught: float = 1.0
    transport: str = "disk"
    max_staleness: int = 0
    sim_steps: int = 8
    judges: int = 0
    mtbf_h: float = 20_000.0
    speeds: str = ""
    calibrate: str = ""
    check: str = ""
    overrides: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, arguments: Sequence[str]) -> Request:
        """
        Raises:
            ConfigError: A key of ours with a value that is no number, or an unknown transport.
        """
        request = cls()
        own = {item.name: item for item in fields(cls) if item.name != "overrides"}
        for argument in arguments:
            key, sign, value = argument.partition("=")
            if not sign or key not in own:
                request.overrides.append(argument)
                continue
            kind = type(getattr(request, key))
            try:
                setattr(request, key, kind(value))
            except ValueError as error:
                wanted = "a whole number" if kind is int else "a number"
                raise ConfigError(f"{key}={value}: expected {wanted}") from error
        if request.transport not in TRANSPORTS:
            raise ConfigError(
                f"transport={request.transport}: expected one of {', '.join(TRANSPORTS)}"
            )
        return request

    def config(self) -> TrainConfig:
        """The run's; paths that only a real run needs need not be given."""
        given = {override.partition("=")[0] for override in self.overrides}
        stand_ins = [
            f"{key}={self.shape or 'absent'}"
            for key in ("model.path", "task.path")
            if self.shape and key not in given
        ]
        return configs.load([*self.overrides, *stand_ins])

    def spec(self, config: TrainConfig) -> ModelSpec:
        if self.shape:
            return shape_of(self.shape, config.model.path)
        return ModelSpec.from_folder(config.model.path)

    def plan(self) -> tuple[Model, Sheet | None]:
        """The model of the run, and what the fullest rank holds (None on a CPU).

        Raises:
            ConfigError: Nothing is known about the speeds of the machine, or no layout fits it.
        """
        config = self.config()
        spec, work = self.spec(config), self._work(config)
        if not self.nodes:
            if not self.speeds:
                raise ConfigError(
                    "nodes: must be given (machines of the trainer, with gpu=h100 or another "
                    "kind), or speeds=FILE for this machine; sdpo plan calibrate=RUN speeds=FILE "
                    "writes one"
                )
            cluster = Cluster.here(config, work)
            return self._model(config, spec, cluster, Speeds.read(Path(self.speeds)), work), None
        machines = Machines.of(self.gpu, self.nodes, self.engine_nodes)
        parallel, copies, sheet = self._layout(config, spec, machines)
        cluster = Cluster.of(
            config,
            spec,
            machines,
            work,
            parallel=parallel,
            data_parallel=copies,
            judges=self.judges,
        )
        speeds = (
            Speeds.read(Path(self.speeds))
            if self.speeds
            else Speeds.of_gpu(
                machines.gpu,
                spec,
                engine_tp=cluster.engine_tp,
                kv_bytes=kv_bytes_per_token(spec),
            )
        )
        return self._model(config, spec, cluster, speeds, work), sheet

    def _work(self, config: TrainConfig) -> Workload:
        return Workload.of(
            config,
            prompt=self.prompt,
            teacher_prompt=self.teacher_prompt,
            response=self.response,
            spread=self.spread,
            taught=self.taught,
        )

    def _layout(
        self, config: TrainConfig, spec: ModelSpec, machines: Machines
    ) -> tuple[ParallelConfig, int, Sheet]:
        """The run's own where one is asked for, else the smallest that fits."""
        if any(override.startswith("parallel") for override in self.overrides):
            parallel = config.parallel
            parallel.check_model(spec)
            parallel.check_world(machines.ranks)
            copies = machines.ranks // parallel.model_ranks
            sheet = memory_sheet(config, spec, machines, parallel=parallel, data_parallel=copies)
            return parallel, copies, sheet
        layout = choose(config, spec, machines)
        return layout.parallel, layout.data_parallel, layout.sheet

    def _model(
        self,
        config: TrainConfig,
        spec: ModelSpec,
        cluster: Cluster,
        speeds: Speeds,
        work: Workload,
    ) -> Model:
        return Model(
            config=config,
            spec=spec,
            cluster=cluster,
            speeds=speeds,
            work=work,
            transport=self.transport,
        )
