"""Report how long the notebooks and the library's modules are. Nothing here is a limit.

python tools/figures.py
"""

import sys
from pathlib import Path

from library import embedded_size
from modules import library_texts
from notebooks import all_notebooks, code_lines, read, visible_code_cells

LONGEST = 10  # modules that are listed


def notebook_figures(path: Path) -> tuple[str, int, int, float, float]:
    """(name, visible code lines, lines of the longest cell, words of prose per code line, KB embedded)."""
    notebook = read(path)
    lines = [code_lines(cell) for cell in visible_code_cells(notebook)]
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    words = sum(len(text.split()) for text in prose)
    return path.name, sum(lines), max(lines), words / sum(lines), embedded_size(notebook) / 1e3


def main() -> int:
    """Print a table of the notebooks and one of the longest modules; the exit status."""
    print(
        f"{'notebook':<20} {'code lines':>10} {'longest cell':>12} {'prose words':>12} {'library':>8}"
    )
    print(f"{'':<20} {'visible':>10} {'lines':>12} {'per line':>12} {'KB':>8}")
    for path in all_notebooks():
        name, visible, longest, prose, size = notebook_figures(path)
        print(f"{name:<20} {visible:>10} {longest:>12} {prose:>12.1f} {size:>8.0f}")
    lengths = {module: len(text.splitlines()) for module, text in library_texts().items()}
    print(f"\n{len(lengths)} modules, {sum(lengths.values()):,} lines; the longest:")
    for module in sorted(lengths, key=lambda module: -lengths[module])[:LONGEST]:
        print(f"{lengths[module]:>6}  {module}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
