"""The cluster in simulated time: when, and by which route, each query is answered. It knows no tensors.

Start reading at `simulation.simulate` (one cell in, one trace out), then follow a query: `frontend` forms batches and
replies, `policies/` decides what is submitted and which answer counts, `pool` runs tasks on instances, `clock` is the
event loop. `stragglers/` bends service times, `streams` makes the random numbers, `trace` is what is left behind.
`kinds` is the ground floor: everything that YAML can name.
"""
