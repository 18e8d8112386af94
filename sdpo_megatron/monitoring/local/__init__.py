"""`sdpo dashboard`: the dashboards of a run folder, in a browser on this machine."""
