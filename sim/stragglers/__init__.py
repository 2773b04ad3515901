"""What makes machines slow or lost. Start with `base.py`; each kind has a file of its own.

Stragglers compose in the order in which they are listed: each bends the service time that the one before it left,
and delays of transfers add up.
"""

from sim.stragglers.base import Straggler
from sim.stragglers.crashes import Crashes
from sim.stragglers.heterogeneous import Heterogeneous
from sim.stragglers.multitenancy import Multitenancy
from sim.stragglers.per_task import PerTask
from sim.stragglers.recorded import Recorded
from sim.stragglers.replay import Replay
from sim.stragglers.shuffles import Shuffles
from sim.stragglers.slow_periods import SlowPeriods
from sim.stragglers.sticky import Sticky

__all__ = [
    "Crashes",
    "Heterogeneous",
    "Multitenancy",
    "PerTask",
    "Recorded",
    "Replay",
    "Shuffles",
    "SlowPeriods",
    "Sticky",
    "Straggler",
]
