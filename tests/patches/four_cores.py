"""A machine with four cores, on which Lightning gives each of two processes two threads."""

import os

os.sched_getaffinity = lambda pid: {0, 1, 2, 3}
