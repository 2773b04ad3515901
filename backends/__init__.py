"""Who computes: real models on a device (CUDA or the CPU), and what each client of a simulated cluster received.

Start with `torch_backend.py`, which runs models over tensors; `runner.py` makes each of them ready for its device
(`onnx.py`, `fusion.py`, `graphs.py`).
`answers.py` turns a simulated `Trace` into answers, after the simulation and with no more forward passes than those
answers need; `reconstruction.py` finds the queries that were reconstructed. `loop.py` instead runs every task of a
simulation on the device when it starts.

`measuring.py` measures service times, alone or beside interfering processes (`contention.py`), for a profile; those
that come with the project are in `profiles/`. `real/` is a small cluster of worker processes. `processes.py` is how all
processes of the project are started.
"""
