"""An engine that decodes its running requests together, one token each an iteration.

All running requests advance alike, so time is kept in iterations: a request that begins at
iteration v and has n tokens ends at v + n, whatever comes and goes meanwhile. Only the seconds of
an iteration change, with the number of requests and the tokens in the KV cache (`speeds`).
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence

from sdpo_megatron.planning.speeds import Speeds


class Engine:
    """Continuous batching with a number of slots; requests beyond them wait in order.

    Attributes:
        busy_s: Seconds with something to do, so far.
        running_s: Seconds of all running requests together, so far.
    """

    def __init__(self, speeds: Speeds, slots: int) -> None:
        self._speeds, self._slots = speeds, slots
        self._now = self._iterations = 0.0
        self._running: list[tuple[float, int, float]] = []  # (last iteration, request, prompt)
        self._begun: dict[int, float] = {}
        self._waiting: deque[tuple[int, float, float]] = deque()
        self._context = 0.0  # tokens in the cache
        self._stalled = 0.0  # seconds of prefill, or of a pause, before decoding goes on
        self.busy_s = self.running_s = 0.0

    @property
    def load(self) -> int:
        """Requests running and waiting."""
        return len(self._running) + len(self._waiting)

    def add(self, request: int, tokens: float, prompt: float, prefill_s: float) -> None:
        """A request of `tokens` to sample, now; reading its prompt stalls the others."""
        self._waiting.append((request, tokens, prompt))
        self._stalled += prefill_s
        self._fill()

    def pause(self, seconds: float) -> None:
        """Nothing is decoded for so long."""
        self._stalled += seconds

    def next_end(self) -> float:
        """When the first running request ends if nothing comes meanwhile; infinity for none."""
        if not self._running:
            return math.inf
        left = self._running[0][0] - self._iterations
        return self._now + self._stalled + self._seconds(left)

    def advance(self, now: float) -> None:
        """Decode until `now`, which must not be after `next_end`."""
        seconds, self._now = now - self._now, now
        if self._running or self._stalled:
            self.busy_s += seconds
            self.running_s += seconds * len(self._running)
        stalled = min(seconds, self._stalled)
        self._stalled -= stalled
        seconds -= stalled
        if self._running and seconds > 0:
            done = self._iterations_in(seconds)
            self._iterations += done
            self._context += done * len(self._running)

    def end(self) -> int:
        """The request that ends now, after `advance` to `next_end`."""
        last, request, prompt = heapq.heappop(self._running)
        self._iterations = last
        self._context -= prompt + last - self._begun.pop(request)
        self._fill()
        return request

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._slots:
            request, tokens, prompt = self._waiting.popleft()
            heapq.heappush(self._running, (self._iterations + tokens, request, prompt))
            self._begun[request] = self._iterations
            self._context += prompt

    def _cost(self) -> tuple[float, float]:
        """n iterations take n (first + n second) seconds: the cache grows while they run."""
        speeds, running = self._speeds, len(self._running)
        first = speeds.iteration_s + running * speeds.sequence_s + self._context * speeds.context_s
        return first, running * speeds.context_s / 2

    def _seconds(self, iterations: float) -> float:
        first, second = self._cost()
        return iterations * (first + iterations * second)

    def _iterations_in(self, seconds: float) -> float:
        first, second = self._cost()
        if second == 0:
            return seconds / first
        # The stable form of the root: first^2 is far larger than what is added.
        return 2 * seconds / (first + math.sqrt(first * first + 4 * second * seconds))


def drain(
    speeds: Speeds, slots: int, lengths: Sequence[float], prompt: float, prefill_s: float
) -> list[float]:
    """When each of these requests ends that an idle engine gets all at once, in order of ending.

    Args:
        prefill_s: Of all their prompts together.
    """
    engine = Engine(speeds, slots)
    engine.pause(prefill_s)
    for number, tokens in enumerate(lengths):
        engine.add(number, tokens, prompt, 0.0)
    ends = []
    while (now := engine.next_end()) < math.inf:
        engine.advance(now)
        engine.end()
        ends.append(now)
    return ends
