"""Experiments with redundancy policies: from a YAML file, or a mapping, to tables and figures.

`api.py` is for Python and notebooks, `cli.py` for the shell. `config/` reads YAML into an `Experiment`, `run/` runs its
cells and keeps them, `analysis/` measures and sums up, `figures/` draws, `commands/` has a file for each verb.
`accuracy/`, `calibration/`, `capacity/` and `validation/` answer other questions.
"""
