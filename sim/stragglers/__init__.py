"""Models of slow and failed machines. Start with `base.py`; each kind has its own file.

Stragglers combine in the listed order: each modifies the service time that the previous one returned; delays of
transfers add up.
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
