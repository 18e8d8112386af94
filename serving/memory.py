"""An engine's GPU memory given back while a trainer works on the same GPU (SGLang's memory saver).

    release         pause, then weights, KV cache and CUDA graphs leave the GPU; nothing of them is
                    kept: the next weights come by a swap in any case
    wake_weights    room for weights again, of no meaning yet: a swap fills it
    wake_rest       room for the KV cache and the graphs; only now, since new weights may travel
                    through memory that the cache would take

A swap calls the last two; on an engine that has its memory they do nothing.
"""

from __future__ import annotations

from serving.client import EngineClient

WEIGHTS = ("weights",)
REST = ("kv_cache", "cuda_graph")


async def release(client: EngineClient) -> None:
    """The engine must have no running request. It generates nothing until the next swap.

    Raises:
        EngineError: It did not; whether it has its memory is not known.
    """
    await client.pause()
    await client.release_memory((*WEIGHTS, *REST))
    client.released = (*WEIGHTS, *REST)


async def wake_weights(client: EngineClient) -> None:
    """Raises as `release`."""
    await _wake(client, WEIGHTS)


async def wake_rest(client: EngineClient) -> None:
    """Raises as `release`."""
    await _wake(client, REST)


async def _wake(client: EngineClient, tags: tuple[str, ...]) -> None:
    missing = tuple(tag for tag in tags if tag in client.released)
    if missing:
        await client.resume_memory(missing)
        client.released = tuple(tag for tag in client.released if tag not in missing)
