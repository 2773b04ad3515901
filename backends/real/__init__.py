"""A small real cluster on one machine: worker processes that run models, behind a policy of the simulator.

`cluster.py` drives a run; `clock.py`, `pool.py` and `frontend.py` have the interfaces of the simulator's. `workers.py`
has the processes and their pipes, `service.py` what a worker does with a task.
"""
