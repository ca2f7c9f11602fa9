"""The steps of the degradation ladder, by number and by the name they have on scores and metrics."""

from __future__ import annotations

# The worse, the higher: a score stands on the worst step of what it was made of. See docs/degradation.md.
WHOLE, STALE_LOOKUP, WITHOUT_ROWS, CPU, RULES = range(5)
STEPS = ("NONE", "STALE_LOOKUP", "WITHOUT_ROWS", "CPU", "RULES")
