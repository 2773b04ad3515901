"""Erasure codes over predictions, the networks, and the training and keeping of deployed and parity models.

Start with `codes.py` (what a parity model is for), then `store.py` (the one door to trained models) and follow it into
`training.py`, `objectives.py` and `recipes.py`. What a user names in YAML (`codes`, `networks`, `recipes`) is
importable without torch.
"""
