"""From a log of answers to a cluster that can be simulated, for `parm fit`; start with `cluster.py`."""
