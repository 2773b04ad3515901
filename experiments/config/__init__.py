"""Reads YAML files into validated experiments: schema, loader, messages, keys, sweeps, bundles."""
