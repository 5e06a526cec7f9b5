"""The trainer that runs in the training container: `python -m training_code.train`."""

import os

# Before torch loads OpenMP. Its threads wait by spinning, and on cores that other processes share they then take the
# time of the threads that they wait for: asleep at once they trained 6 times as fast on 2 busy cores (332 -> 2,066
# tokens a second). But to be woken takes as long as most products of a small model. So they spin for a moment first,
# which in the demo makes 3,200 to 3,700 tokens a second of 2,100, and beside a process that takes a whole core 1,100 to
# 1,600 of 2,120 (measured with half as many spins and with half as many again).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
