"""Async HTTP client of one engine. Every call is bounded in time; every failure is an EngineError
that names the engine."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp

from sdpo_megatron.errors import EngineDiedError, EngineError
from sdpo_megatron.weights.bucket import TensorMeta
from serving.completion import Completion, SamplingParams, parse_completion
from serving.config import EngineConfig

PauseMode = Literal["retract", "abort", "in_place"]
MIXED = "mixed"
"""What an engine calls its weights while they are neither of two versions."""


class EngineRefusal(EngineError):
    """The engine answered that it will not do this.

    Attributes:
        status: The HTTP status of its answer.
    """

    def __init__(self, message: str, status: int = 200):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class ReportedChecksums:
    """What an engine says its weights are.

    Attributes:
        overall: Checksum over all its tensor-parallel ranks.
        ranks: For each rank, checksum by SGLang parameter name.
    """

    overall: str
    ranks: tuple[Mapping[str, str], ...]


class EngineClient:
    """Talks to one engine; opens its connections on first use, in the event loop running then.

    Attributes:
        released: What of its GPU memory the engine has given back (`serving.memory`).

    Errors of every call:
        EngineDiedError: nothing answers, the connection broke or the time was up: the request may
            be sent elsewhere.
        EngineError: the engine answered that it will not do this.
    """

    def __init__(self, url: str, config: EngineConfig):
        self.url = url.rstrip("/")
        self.config = config
        self.released: tuple[str, ...] = ()
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def generate(self, prompt_ids: Sequence[int], sampling: SamplingParams) -> Completion:
        """Sample one response to `prompt_ids`."""
        body = {
            "input_ids": list(prompt_ids),
            "sampling_params": sampling.payload(),
            "return_logprob": True,
            "logprob_start_len": -1,  # of sampled tokens only
        }
        answer = await self._call("POST", "/generate", body, self.config.request_timeout_s)
        return parse_completion(answer, self.url)

    async def healthy(self) -> bool:
        """Whether tokens come out: SGLang makes one for this, unless others do (1 s or more)."""
        try:
            await self._call("GET", "/health_generate", None, self.config.health_timeout_s)
        except EngineError:
            return False
        return True

    async def model_info(self, timeout_s: float = 10.0) -> Mapping[str, Any]:
        """SGLang's /model_info; cheap, answered by the HTTP process alone."""
        return await self._call("GET", "/model_info", None, timeout_s)

    async def version(self) -> int:
        """The policy version it serves."""
        text = (await self.model_info())["weight_version"]
        if text == MIXED:
            raise EngineError(f"{self.url}: an update of its weights began and did not finish")
        try:
            return int(text)
        except ValueError as error:
            raise EngineError(
                f"{self.url}: weight version {text!r} is not a number; start it with "
                "--weight-version 0"
            ) from error

    async def begin_update(self) -> None:
        """Open a weight update. One that somebody left open is ended first."""
        try:
            await self._control("/begin_weight_update", {})
        except EngineRefusal:
            await self.end_update()
            await self._control("/begin_weight_update", {})

    async def end_update(self) -> None:
        """Close the weight update: what the new weights need is derived from them."""
        await self._control("/end_weight_update", {})

    async def join_group(
        self, name: str, address: str, port: int, size: int, backend: str, first_rank: int = 1
    ) -> None:
        """Take ranks from `first_rank` of a process group of `size`, whose rank 0 listens there."""
        await self._control(
            "/init_weights_update_group",
            {
                "master_address": address,
                "master_port": port,
                "rank_offset": first_rank,
                "world_size": size,
                "group_name": name,
                "backend": backend,
            },
        )

    async def leave_group(self, name: str) -> None:
        """Forget that group."""
        await self._control("/destroy_weights_update_group", {"group_name": name})

    async def receive_broadcast(
        self, metas: Sequence[TensorMeta], group: str, *, flush: bool
    ) -> None:
        """Take one bucket, which rank 0 of `group` broadcasts, into the weights."""
        await self._control(
            "/update_weights_from_distributed",
            {
                "names": [meta.name for meta in metas],
                "dtypes": [meta.dtype_name for meta in metas],
                "shapes": [meta.shape for meta in metas],
                "group_name": group,
                "load_format": "flattened_bucket",
                "flush_cache": flush,
            },
        )

    async def take_tensors(self, payloads: Sequence[bytes], *, flush: bool) -> None:
        """Take named tensors into the weights; one pickled list of them for each of its ranks."""
        await self._control(
            "/update_weights_from_tensor",
            {
                "serialized_named_tensors": [
                    base64.b64encode(payload).decode() for payload in payloads
                ],
                "flush_cache": flush,
            },
        )

    async def pause(self, mode: PauseMode = "retract") -> None:
        """Stop decoding.

        "retract": running requests go back to the queue and carry on with the next weights.
        """
        await self._control("/pause_generation", {"mode": mode})

    async def resume(self) -> None:
        """Decode again after `pause`."""
        await self._control("/continue_generation", {"torch_empty_cache": False})

    async def load_weights_from_disk(self, folder: str | Path) -> None:
        """Load an HF checkpoint folder in place and drop the prefix cache; the version stays."""
        body = {"model_path": str(folder), "flush_cache": True, "load_format": "auto"}
        await self._control("/update_weights_from_disk", body)

    async def release_memory(self, tags: Sequence[str]) -> None:
        """Give GPU memory back: "weights", "kv_cache", "cuda_graph". Its contents are lost."""
        await self._control("/release_memory_occupation", {"tags": list(tags)})

    async def resume_memory(self, tags: Sequence[str]) -> None:
        """Take GPU memory that `release_memory` gave back."""
        await self._control("/resume_memory_occupation", {"tags": list(tags)})

    async def set_version(self, number: int) -> None:
        """Name the loaded weights; tokens sampled before keep the former version in their spans."""
        await self._name_weights(str(number))

    async def mark_mixed(self) -> None:
        """Say that its weights are no version from now on, until `set_version`: whoever meets it in
        between, after our death for instance, can tell.
        """
        await self._name_weights(MIXED)

    async def _name_weights(self, name: str) -> None:
        await self._control(
            "/update_weight_version", {"new_version": name, "abort_all_requests": False}
        )

    async def checksums(self) -> ReportedChecksums:
        """Hash the weights that the engine holds, in the engine."""
        answer = await self._control("/weights_checker", {"action": "checksum"})
        return ReportedChecksums(
            overall=answer["per_engine_checksum"],
            ranks=tuple(rank["checksums"] for rank in answer["ranks"]),
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None and self._loop is asyncio.get_running_loop():
            await self._session.close()
        self._session = None

    async def _control(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        answer = await self._call("POST", path, body, self.config.control_timeout_s)
        if answer.get("success") is False:
            raise EngineRefusal(f"{self.url}{path}: {answer.get('message')}")
        return answer

    async def _call(self, method: str, path: str, body: Any, timeout_s: float) -> Mapping[str, Any]:
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=self.config.connect_timeout_s)
        try:
            async with self._open().request(
                method, self.url + path, json=body, timeout=timeout
            ) as response:
                if response.status != 200:
                    raise EngineRefusal(
                        _refusal(self.url + path, response.status, await response.text()),
                        response.status,
                    )
                if response.content_length == 0 or response.content_type != "application/json":
                    return {}
                answer: Mapping[str, Any] | None = await response.json()
                return answer or {}  # SGLang's calls about memory answer null
        except TimeoutError as error:
            raise EngineDiedError(f"{self.url}{path}: no answer within {timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            what = str(error) or type(error).__name__
            raise EngineDiedError(
                f"{self.url}{path}: {what}. Does an engine listen there?"
            ) from error

    def _open(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None or self._session.closed or self._loop is not loop:
            self._loop = loop
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self._session


def _refusal(where: str, status: int, text: str) -> str:
    return f"{where}: HTTP {status}: {text[:500] or '(no body)'}"
