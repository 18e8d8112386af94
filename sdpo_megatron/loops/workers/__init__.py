"""Rollout workers: processes of their own that sample, judge and write groups.

    channel     messages between a worker and the controller of the run, over a local socket
    worker      the process: ``python -m sdpo_megatron.loops.workers.worker``
    members     starting a worker, watching it, starting it again
    crew        the controller's side: leases out, receipts in, batches cut

The controller is rank 0's rollout side. Between the two go leases, receipts and small news of
progress; samples and texts go through files.
"""
