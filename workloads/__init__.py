"""What arrives, and what each query carries.

Start reading at `arrivals` (when queries arrive), then `sampling` (which sample each one carries), then `datasets` (the
samples themselves). Nothing here imports torch, except where torchvision has to read or download a data set.
"""
