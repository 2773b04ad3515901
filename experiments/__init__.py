"""The question: which cluster, which policies, which figures. Everything that `parm` does starts in this package.

Start reading at `schema.py` (what an experiment is) and `runner.py` (how its cells run). Then `loader.py` turns a YAML
file into an `Experiment`, `cells.py` lists its cells, `store.py` keeps what they leave behind, `models.py` gets what
has to be trained, `outcome.py` measures one cell, `statistics.py` and `summary.py` sum up the trials, and `cli.py` is
the command line. Nothing else imports this package.
"""
