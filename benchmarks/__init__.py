"""Measurements of the trainer on real GPUs. They print JSON; no test asserts a time."""
