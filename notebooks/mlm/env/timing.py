"""Which of several functions is the fastest on this machine: they are timed in turn."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

MIN_ROUNDS = 3


def shortest_seconds(
    functions: Mapping[str, Callable[[], Any]], max_seconds: float
) -> dict[str, float]:
    """{name: the shortest time of one call}, for functions of no arguments that use the CPU.

    The functions are called in turn, so a machine that slows down affects all alike. The time is the one
    that this process computes, where the system measures it finely: other programs are not counted.
    There are at least MIN_ROUNDS rounds, then as many as fit into `max_seconds` of an idle machine.
    """
    clock, budget = time.perf_counter, max_seconds
    if time.get_clock_info("process_time").resolution < 1e-4:  # not on Windows
        clock, budget = time.process_time, max_seconds * torch.get_num_threads()
    shortest = dict.fromkeys(functions, float("inf"))
    for function in functions.values():
        function()  # warm-up
    end, rounds = clock() + budget, 0
    while rounds < MIN_ROUNDS or clock() < end:
        for name, function in functions.items():
            start = clock()
            function()
            shortest[name] = min(shortest[name], clock() - start)
        rounds += 1
    return shortest
