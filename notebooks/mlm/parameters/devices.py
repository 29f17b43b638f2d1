"""The parameters that choose devices: all of 01, and a part of 04."""

import re

from mlm.parameters.check import P, Valid, either, number, one_of

# fmt: off
DEVICES = [
    P("gpus", "Optional[int]", None, "a number; 0: none; -1: all, an error if none; None: all there are",
      either(None, "all there are", Valid("-1 (all), 0 (none) or a number", lambda v: v >= -1))),
    P("tpu_cores", "Optional[Union[int, str, list]]", None,
      "0, 1, 8, -1: all, [k]: core k; None: all here",
      either(None, "all there are",
             Valid("0 (none), 1, the number of all cores, -1 (all) or [k] (one by index)",
                   lambda v: bool(re.fullmatch(r"-1|\d+|\[\s*\d+\s*\]", str(v)))))),
    P("cpu_processes", "int", 1, "processes on the CPU, to try training on several devices",
      number(1, 1024)),
    P("num_nodes", "int", 1, "machines, each started by torchrun or SLURM", number(1, 4096)),
    P("precision", "Union[int, str]", "auto",
      '"auto" (the fastest here), "32", "bf16" or "16" (GPUs)',
      one_of("auto", "32", "bf16", "16", convert=str)),
]
# fmt: on
