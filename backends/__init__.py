"""Who computes: real models on a real device (CUDA or the CPU), and what each client of a simulated cluster received.

Start with `torch_backend.py`, which runs models over tensors: each is made ready by `runner.py`, as a fused copy
(`fusion.py`) and on CUDA as a recording (`graphs.py`). `measuring.py` times it all, alone or under real interference
(`contention.py`), and `profile.py` is the file that such a measurement is kept in, so that a simulation can draw
service times without the device; the profiles that come with the project are in `profiles/`.

`answers.py` turns a simulated `Trace` into answers, after the simulation and with no more forward passes than those
answers need; `reconstruction.py` finds out which those are for the queries that were reconstructed, and `metrics.py`
says which answers were right. `loop.py` has the hardware in the simulation's loop instead.
`real/` is a small real pool of processes, each started as `processes.py` has it.
"""
