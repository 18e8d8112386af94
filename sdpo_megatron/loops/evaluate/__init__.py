"""`sdpo evaluate`: questions of our tasks, judged, without training.

command    the arguments, what was asked, the tables
session    engines, sampling and judging; the harness against the same engines
"""
