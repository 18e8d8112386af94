"""From the configuration of a run to the manifests that run it on Kubernetes.

    cluster     `Cluster`, what the manifests depend on beside the run: namespace, images, nodes
    size        how many pods of which size the run's parallel layout needs
    in_cluster  the run's configuration as its pods are to read it
    pods        what every pod has in common: restricted security, folders, labels
    trainer, engines, verifiers, batch      one workload each, with its Service
    network     who may talk to whom: the arrows of docs/operate.md, nothing else
    shared      what all runs of a namespace share: claims, accounts, priorities
    manifests   all of them in order, as YAML or as a folder for kustomize
    committed   the renderings that the repository keeps in k8s/
    cli         ``sdpo render``

Only built-in kinds are written; what needs more is a component in k8s/components. May import:
config, serving, judging, sandbox. Is imported by: the command line. It never imports torch.
"""
