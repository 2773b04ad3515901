"""`parm validate`: policies on a small real pool, compared with the simulation of the same queries.

`calibration.py` converts measured times into a cluster to simulate, `session.py` runs both, `comparison.py` compares
their latency distributions.
"""
