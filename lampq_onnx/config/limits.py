"""Upper bounds of options: larger numbers are typing errors."""

from __future__ import annotations

MOST_IMAGES, MOST_TURNS, MOST_THREADS, MOST_BATCH = 10**9, 10**6, 1024, 65536
