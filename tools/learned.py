"""Say what a practice run has learned; exit 1 if that is nothing.

python tools/learned.py WORKDIR [RUN_NAME]
"""

import json
import sys
from pathlib import Path

MARGIN = 0.3  # nats below the unigram baseline: clearly more than word frequencies


def main(workdir, run_name="run"):
    """Print where the executed notebooks are and three losses; the exit status."""
    folder = Path(workdir)
    run = json.loads((folder / run_name / "run.json").read_text())
    before, after, baseline = (run[part]["loss"] for part in ("before", "after", "baseline"))
    learned = after < baseline - MARGIN
    print(f"\nExecuted notebooks: {folder}")
    print("Held-out masked-token loss, in nats:")
    print(f"  {before:.2f}  before training")
    print(f"  {baseline:.2f}  knowing only how frequent each word is (unigram baseline)")
    print(f"  {after:.2f}  after {run['training']['steps']:,} steps: ", end="")
    print("it reads the context." if learned else "it has learned nothing, which is a failure.")
    return 0 if learned else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
