"""From a YAML file to a validated `Experiment`: schema, loader, messages, keys, sweeps, bundles."""
