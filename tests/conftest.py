"""Properties are checked on the same examples at each run, so that a red test is red for whoever looks at it.

Set PARM_EXAMPLES to look for new ones. Where tests run side by side, torch takes a thread in each process: threads that
wait for each other's cores are many times slower.
"""

from __future__ import annotations

import os

from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("parm", derandomize="PARM_EXAMPLES" not in os.environ, deadline=None)
settings.load_profile("parm")
