"""Measurements. Each module is run by itself: python -m benchmarks.NAME."""

from pathlib import Path

INSIDE = Path(__file__).parent / "inside"  # scripts that run in the service's environment
