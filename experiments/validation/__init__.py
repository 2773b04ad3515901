"""`parm validate`: policies on a small real pool, compared with the simulation of the same queries.

`driving.py` runs a policy for real: `clock.py`, `pool.py` and `frontend.py` stand in for the simulator's, so that the
very same policy classes decide. `calibration.py` turns what the workers were measured to take into a cluster to
simulate, `comparison.py` says how far the two latency distributions are apart.
"""
