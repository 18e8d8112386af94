"""Series of SGLang's own page that dashboards show (its documentation: "Production Metrics").

They are not ours, so they are spelled here, once, with the version that they were read in.
"""

from __future__ import annotations

from sdpo_megatron.observability.series import Series

__all__ = ["SGLANG", "asked"]

# fmt: off
RUNNING = Series("sglang:num_running_reqs", "gauge", "requests", "Requests that are decoded now")
QUEUED = Series("sglang:num_queue_reqs", "gauge", "requests", "Requests that wait")
TOKEN_USAGE = Series("sglang:token_usage", "gauge", "ratio", "Key-value cache in use")
THROUGHPUT = Series("sglang:gen_throughput", "gauge", "tokens/s", "Tokens decoded a second")
CACHE_HITS = Series("sglang:cache_hit_rate", "gauge", "ratio", "Prompt tokens found cached")
# fmt: on

SGLANG: tuple[Series, ...] = tuple(v for v in list(vars().values()) if isinstance(v, Series))
"""Seen in SGLang 0.5.23."""


def asked(series: Series, where: str) -> str:
    """A selector of one of them. A Prometheus that takes names in UTF-8 is given them as they are;
    for an older one (2.42, say) SGLang's page writes an underscore for the colon.
    """
    return f'{{__name__=~"{series.name.replace(":", "[:_]")}",{where}}}'
