"""The domain of HeartBeat Engine: what a job is, what it costs, what its data must look like, what passes.

Nothing here calls AWS or imports torch or the CDK; `heartbeat.cli` is the edge that does.
"""

__version__ = "0.1.0"
