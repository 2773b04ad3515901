"""How long things take: the family of non-negative random variables that any option called a distribution accepts.

Start with `base.py` for what a distribution can be asked, then `families.py` (light tails), `heavy.py` (heavy tails),
`combined.py` (made of others), `files.py` (recorded times) and `profile.py` (measured on a device). The members are
imported here because importing is what makes them nameable in YAML.
"""

from sim.distributions import combined, families, files, heavy, profile
from sim.distributions.base import Distribution

__all__ = ["Distribution", "combined", "families", "files", "heavy", "profile"]
