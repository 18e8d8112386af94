"""The main loops, at the top: they import every other folder, none imports them.

train               the training loop, one call per arrow of docs/a-step.md
trainer             what every rank does in it
coordinator         what rank 0 does besides: engines, verifiers, display, metrics
rollout_side        the asyncio half of rank 0: engines, and the controller of the workers
workers/            rollout workers, processes of their own
plans/              the plan of each step, and a rank's own share
questions, state    which questions a step asks; where a run stands
publish             a policy version on disk, with its checksum
launching/, rank    before any process starts; starting the ranks; one rank
discover, searching `sdpo discover`: one search after another
evaluate/           `sdpo evaluate`
stop                what SIGTERM and Ctrl-C do
export              a run's weights as a Hugging Face folder
"""
