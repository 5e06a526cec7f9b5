"""Measurements: of the trainer on real GPUs, and of the planner. They print JSON; no test asserts a time."""
