"""Experiments: one absl script per table or figure. Run as `python -m experiments.NAME`."""
