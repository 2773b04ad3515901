"""Distributions of times and factors: the family of non-negative random variables.

Start with `base.py` (the interface), then `families.py` (light tails), `heavy.py` (heavy tails), `combined.py` (made of
others), `stages.py` (one after another, with batches), `files.py` (recorded times) and `profile.py` (measured on a
device). Importing them here makes them known to YAML.
"""

from sim.distributions import combined, families, files, heavy, profile, stages
from sim.distributions.base import Distribution

__all__ = ["Distribution", "combined", "families", "files", "heavy", "profile", "stages"]
