"""Redundancy policies: what is submitted where when queries come, and which answer becomes the reply.

Start with `base.py`; `uncoded.py` is the simplest policy, `coded.py` is ParM.
"""

from sim.policies.base import Policy
from sim.policies.coded import Coded
from sim.policies.replication import Replication
from sim.policies.uncoded import EqualResources, Uncoded

__all__ = ["Coded", "EqualResources", "Policy", "Replication", "Uncoded"]
