"""Verdicts over HTTP: accepts items up to a bound, keeps deadlines, stops in order."""
