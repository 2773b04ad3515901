"""Erasure codes over predictions, the networks, and the training and storage of deployed and parity models.

Start with `codes/base.py` (what a code is, and what is trained for it), then `store.py` (which finds or trains models),
`training.py` and `objectives.py`. What YAML can name (`codes`, `networks`, `recipes`) is importable without torch; all
`nn.Module`s are in `modules.py`.
"""
