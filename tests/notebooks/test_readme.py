"""Every command of the README runs as printed, one after the other, in a fresh clone."""

import os
import re
import subprocess

import pytest

import readme
from helpers import ROOT

ELSEWHERE = ("# needs", "make test", "make check", "make fix")  # hardware, network; or it is us


def commands(text):
    """The command lines of the bash blocks of a Markdown text."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.S | re.M)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def links(text):
    """The targets of a Markdown text's links and pictures that are files here."""
    found = re.findall(r"\]\(([^)#\s]+)", text)
    return [target for target in found if "://" not in target]


@pytest.mark.slow
def test_the_commands_run_as_printed(tmp_path):
    from pydoc_data.topics import topics

    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    (clone / ".venv").symlink_to(ROOT / ".venv")  # its install is make test's own
    os.utime(clone / "requirements.txt", (0, 0))
    (clone / "my_text.txt").write_text(topics["assignment"] + topics["class"] + topics["import"])
    lines = commands((clone / "README.md").read_text())
    run = [line for line in lines if not any(word in line for word in ELSEWHERE)]
    assert len(run) >= 6 and sum("papermill" in line for line in run) >= 4
    done = subprocess.run(
        ["bash", "-ex"], input="\n".join(run), cwd=clone, text=True, capture_output=True,
        env={k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (
        "papermill" in done.stdout.split("Executed notebooks")[1]
    )  # how to go on, after make train


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_every_link_leads_somewhere(path):
    for target in links(path.read_text()):
        assert (path.parent / target).exists(), target


def test_it_shows_what_the_notebooks_store(capsys):
    assert readme.main("check") == 0, capsys.readouterr().out
