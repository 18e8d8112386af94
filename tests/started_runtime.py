"""What every rank of a test imports: the server that ranks are forked from imports it once."""

from sdpo_megatron.actor.runtime import start_runtime

start_runtime("cpu")
