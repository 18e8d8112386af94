"""What watches a run from outside: alerts, recorded series, Grafana dashboards, `sdpo dashboard`.

All of it is made from the declarations in `observability.series`, `observability.metrics` and
`judging.service.metrics`: a series is imported, never spelled, so that a renamed one is renamed
here, and one that is gone breaks the build. `make monitoring` writes k8s/monitoring/.
"""
