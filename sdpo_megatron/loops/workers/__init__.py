"""Rollout workers: processes of their own that sample, judge and write groups.

    channel     messages between a worker and the controller of the run, over a local socket
    worker      the process: ``python -m sdpo_megatron.loops.workers.worker``
    members     a worker as the controller sees it; one of ours is started, watched, started again
    door        where workers of other machines come in
    joining     how they do: ``sdpo worker RUN_FOLDER``
    crew        the controller's side: leases out, receipts in, batches cut

The controller is rank 0's rollout side. Between the two go leases, receipts and small news of
progress; samples and texts go through files.
"""
