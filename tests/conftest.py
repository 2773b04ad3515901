"""Properties are checked on the same examples at each run, so that a red test is red for whoever looks at it.

Set PARM_EXAMPLES to look for new ones.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("parm", derandomize="PARM_EXAMPLES" not in os.environ, deadline=None)
settings.load_profile("parm")
