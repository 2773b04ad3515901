"""Reads YAML files into validated `Experiment`s: schema, loader, messages, keys, sweeps, bundles."""
