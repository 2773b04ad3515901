"""Redundancy policies: which tasks are submitted for a query, and which answer becomes its reply.

Start with `base.py`; `uncoded.py` is the simplest policy, `coded.py` is ParM.
"""

from sim.policies.approximate_backup import ApproximateBackup
from sim.policies.base import Policy
from sim.policies.coded import Coded
from sim.policies.coded_nonsystematic import CodedNonsystematic
from sim.policies.hedged import Hedged
from sim.policies.per_service import PerService
from sim.policies.replication import Replication
from sim.policies.tied import Tied
from sim.policies.uncoded import DefaultAnswer, EqualResources, Uncoded

__all__ = [
    "ApproximateBackup",
    "Coded",
    "CodedNonsystematic",
    "DefaultAnswer",
    "EqualResources",
    "Hedged",
    "PerService",
    "Policy",
    "Replication",
    "Tied",
    "Uncoded",
]
