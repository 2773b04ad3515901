"""From outcomes to numbers with intervals, tables and verdicts."""
