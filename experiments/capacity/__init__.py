"""The fewest instances, and the policy, that meet a target: `parm plan`."""
