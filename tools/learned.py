"""Say what a practice run has learned and what to do next; exit 1 if it has learned nothing.

python tools/learned.py WORKDIR [RUN_NAME]
"""

import json
import sys
from pathlib import Path


def main(workdir, run_name="run"):
    """Print where the executed notebooks are, three losses, and the next commands; the exit status."""
    folder = Path(workdir)
    run = json.loads((folder / run_name / "run.json").read_text())
    before, after, baseline = (run[part]["loss"] for part in ("before", "after", "baseline"))
    learned, text = run["verdict"]["learned"], run["verdict"]["text"]
    print(f"\nExecuted notebooks: {folder}")
    print("Held-out masked-token loss, in nats:")
    print(f"  {before:.2f}  before training")
    print(f"  {baseline:.2f}  knowing only how frequent each word is (unigram baseline)")
    print(f"  {after:.2f}  after {run['training']['steps']:,} steps: {text}")
    print("\nAsk it something, or train on a text of yours (first: source .venv/bin/activate):")
    print(
        f"  papermill notebooks/05_predict.ipynb out.ipynb -p workdir {folder} -p run_name {run_name} \\"
    )
    print('      -p sentence "If the [MASK] is not found, an error is raised."')
    print("  papermill notebooks/04_train.ipynb mine.ipynb --log-output -p corpus my_text.txt \\")
    print("      -p model scratch:tiny -p epochs 10 -p run_name mine")
    return 0 if learned else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
