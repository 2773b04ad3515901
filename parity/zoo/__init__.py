"""Trained models that come with parm, in half precision; each folder's card says how and on what it was trained.

`parity.store` takes them where exactly that model is asked for: same network, data, recipe and seed.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
"""Where they are."""
