"""Say what a training run has learned and what to do next; exit with 1 if it has learned nothing.

python tools/learned.py WORKDIR [RUN_NAME]
"""

import json
import sys
from pathlib import Path

SENTENCE = "If the [MASK] is not found, an error is raised."


def main(workdir: str, run_name: str = "run") -> int:
    """Print where the executed notebooks are, three validation losses, and the next commands."""
    folder = Path(workdir)
    results = json.loads((folder / run_name / "run.json").read_text())
    before, after, baseline = (results[name]["loss"] for name in ("before", "after", "baseline"))
    verdict = results["verdict"]
    print(f"\nExecuted notebooks: {folder}")
    print("Validation loss on masked tokens, in nats:")
    print(f"  {before:.2f}  before training")
    print(f"  {baseline:.2f}  baseline: predicting from word frequencies alone (unigram)")
    print(f"  {after:.2f}  after {results['training']['steps']:,} steps: {verdict['text']}")
    print(
        "\nNext, fill in a sentence or train on your own text (first: source .venv/bin/activate):"
    )
    print(
        f"  papermill notebooks/05_predict.ipynb out.ipynb -p workdir {folder} -p run_name {run_name} \\\n"
        f'      -p sentence "{SENTENCE}"\n'
        "  papermill notebooks/04_train.ipynb mine.ipynb --log-output -p corpus my_text.txt \\\n"
        "      -p model scratch:tiny -p epochs 10 -p run_name mine"
    )
    return 0 if verdict["learned"] else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
