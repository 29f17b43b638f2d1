"""Check everything in the project that tools generate or that other tools rely on.

    python tools/check.py          exit 1 with one line for each problem
    python tools/check.py --fix    write what can be generated: notebooks, docs/architecture.md, README

One process for all of it: importing nbformat and papermill takes seconds.
"""

import sys

import architecture
import library
import readme
import structure


def main(arguments: list[str]) -> int:
    """The command line; see the module's description."""
    command = "fix" if arguments == ["--fix"] else "check"
    statuses = [library.main([command]), architecture.main(command), readme.main(command)]
    if command == "check":
        statuses.append(structure.main([]))
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
