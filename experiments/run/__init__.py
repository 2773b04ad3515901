"""Runs an experiment: its cells, the processes that compute them, the run directory and the models."""
