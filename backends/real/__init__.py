"""A small real pool on one machine: worker processes, each with its models, that really run what they are sent.

`workers.py` holds the processes and their pipes, `service.py` what a worker does with a task.
"""
