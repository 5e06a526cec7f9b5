"""The machine's processor, for what depends on it: a check of text, and how fast a GPU's kernels are started."""

from __future__ import annotations

import platform
from pathlib import Path


def name() -> str:
    """As the maker calls it; its architecture where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()
