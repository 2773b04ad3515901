"""Arrivals of queries, and the samples that they carry.

Start with `arrivals` (when queries arrive), then `sampling` (which sample each carries) and `datasets` (the samples).
torch is imported only when torchvision has to read or download a data set.
"""
