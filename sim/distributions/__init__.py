"""How long things take: the family of non-negative random variables that any option called a distribution accepts.

Start with `base.py` for what a distribution can be asked, then `families.py` (light tails), `heavy.py` (heavy tails),
`combined.py` (made of others) and `measured.py` (read from files). The members are imported here because importing is
what makes them nameable in YAML.
"""

from sim.distributions import combined, families, heavy, measured
from sim.distributions.base import Distribution

__all__ = ["Distribution", "combined", "families", "heavy", "measured"]
