#!/usr/bin/env python3
"""Check and measure the notebooks on one GPU, the most valuable first. README.md lists the steps.

    python tests/gpu/check.py [--seconds 480] [--only STEP,STEP] [--text FILE] [--vocab FILE] [--out FOLDER]
    python tests/gpu/check.py --rehearse      without a GPU: every step on the CPU, tiny, without a limit

Each step has a time limit. A step that does not fit into the time that is left is skipped, and the results
say so.
"""

import argparse
import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_results import (
    ROOT,
    began,
    log,
    model_size,
    option,
    out_folder,
    rehearsing,
    rounded,
    text,
    work_folder,
    write_result,
)

HERE = Path(__file__).resolve().parent
NO_GPU = 3  # the exit status of the part `machine` where torch finds no GPU

# processes


@dataclass
class Job:
    """A process. Its output goes to log.txt, line by line; at step `stop_at` it gets a Ctrl-C."""

    name: str
    command: list[Any]
    stop_at: int | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lines: list[str] = []
        self.began = time.time()
        self.exit_status: int | str | None = None
        RUNNING.append(self)
        log(" ".join(map(str, self.command)), self.name)
        self.process = subprocess.Popen(
            list(map(str, self.command)), cwd=work_folder(), text=True, errors="replace",
            env={**os.environ, **self.environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.thread = threading.Thread(target=self.follow, daemon=True)
        self.thread.start()

    def follow(self) -> None:
        """Log what the process prints, and interrupt it at its step `stop_at`."""
        for line in self.process.stdout or ():
            line = re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip()  # without colours
            self.lines.append(line)
            log(line, self.name)
            if line.startswith('{"step"'):  # a result that measure.py has written
                print(line[:200], flush=True)
            step = re.match(r"step +(\d+)  training loss", line)
            if self.stop_at and step and int(step.group(1)) >= self.stop_at:
                self.stop_at = None
                self.process.send_signal(signal.SIGINT)

    def wait(self, until: float) -> int | str:
        """The exit status, or "timed out" if the process had to be killed."""
        RUNNING.remove(self)
        try:
            self.exit_status = self.process.wait(max(1, until - time.time()))
        except subprocess.TimeoutExpired:
            import psutil  # papermill's kernel is in a process group of its own

            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            self.process.kill()
            self.process.wait()
            self.exit_status = "timed out"
        self.seconds = time.time() - self.began
        self.thread.join(5)
        return self.exit_status

    def last_match(self, pattern: str) -> str | None:
        """The pattern's group in the last line that matches it; None if no line does."""
        matches = (re.search(pattern, line) for line in reversed(self.lines))
        return next((match.group(1) for match in matches if match), None)


RUNNING: list[Job] = []  # jobs that nobody has waited for


def pairs(name: str, parameters: dict[str, Any]) -> list[Any]:
    """Parameters as papermill takes them. Each run has a workdir of its own: many run at once."""
    all_parameters = {"workdir": work_folder() / name, **parameters}
    return [part for key, value in all_parameters.items() for part in ("-p", key, value)]


def papermill(
    name: str, notebook: str = "04_train", num_threads: int = 4, **parameters: Any
) -> Job:
    """Start a notebook as users do."""
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-output"]
    source = ROOT / "notebooks" / f"{notebook}.ipynb"
    executed = work_folder() / f"{name}-{notebook}.ipynb"
    values = pairs(name, parameters) if notebook != "01_setup" else []
    return Job(name, [*command, source, executed, *values], environment=threads(num_threads))


def run_plainly(
    name: str,
    patch: Path | None = None,
    stop_at: int | None = None,
    num_threads: int = 2,
    notebook: Path = ROOT / "notebooks" / "04_train.ipynb",
    **parameters: Any,
) -> Job:
    """Start 04 in one process, as the tests do: it can be patched and interrupted."""
    command = [sys.executable, ROOT / "tests/run_notebook.py", notebook]
    command += ["--patch", patch] if patch else []
    return Job(name, [*command, *pairs(name, parameters)], stop_at, threads(num_threads))


def measure(part: str, until: float) -> int | str:
    """Run a part of measure.py in a process of its own, so that a crash or a hang ends only that part."""
    command = [sys.executable, HERE / "measure.py", part]
    job = Job(part, command)
    if job.wait(until) != 0:
        write_result(part, exit_status=job.exit_status, tail=job.lines[-6:])
    return job.exit_status or 0


def threads(number: int) -> dict[str, str]:
    """The environment for a process that shares the CPU's cores with others."""
    return {"OMP_NUM_THREADS": "1" if rehearsing() else str(number)}


# runs of 04


def num_steps() -> int:
    """The number of steps of the small runs."""
    return 16 if rehearsing() else 200


def small_run() -> dict[str, Any]:
    """The parameters of the small runs of 04."""
    return dict(corpus=text(), model="scratch:tiny", epochs=2, max_steps=num_steps())


def run_folder(name: str) -> Path:
    """The folder of a run."""
    return work_folder() / name / "run"


def write_outcome(step: str, job: Job, **more: Any) -> None:
    """Write how a run of 04 ended."""
    path, figures = run_folder(job.name) / "run.json", {"tail": job.lines[-4:]}
    if path.exists():
        results = json.loads(path.read_text())
        training, hardware = results["training"], results["hardware"]
        names = "steps", "seconds", "tokens_per_second", "share_of_peak", "padding"
        figures = {
            "device": hardware["device"],
            "precision": hardware["precision"],
            "peak_from": hardware["peak_from"],
            "before": results["before"]["loss"],
            "after": results["after"]["loss"],
            "accuracy": results["after"]["accuracy"],
            "baseline": results["baseline"]["loss"],
            "learned": results["verdict"]["learned"],
            "kept": results["kept"]["step"],
            "compile": results["compile"],
            **{name: training[name] for name in names},
        }
    seconds = round(job.seconds, 1)
    status = job.exit_status
    write_result(step, run=job.name, exit_status=status, wall_s=seconds, **rounded(figures), **more)


def metrics(name: str) -> dict[int, dict[str, float]]:
    """{step: {metric: value}} of a run's metrics.csv."""
    with open(run_folder(name) / "logs" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    return {int(r["step"]): {k: float(v) for k, v in r.items() if k != "step" and v} for r in rows}


def compare_bits(step: str, one: str, other: str, why: str) -> None:
    """Write whether two runs ended with the same weights, and where their losses separate."""
    import torch

    try:
        paths = [run_folder(name) / "saved.bin" for name in (one, other)]
        a, b = (torch.load(path, weights_only=True) for path in paths)
    except OSError as error:
        return write_result(step, compared=[one, other], why=why, missing=str(error))
    differ = [name for name in a if not a[name].equal(b[name])]
    largest = max(((a[n].double() - b[n].double()).abs().max().item() for n in differ), default=0.0)
    losses, others = (
        {at: row.get("train_loss") for at, row in metrics(name).items()} for name in (one, other)
    )
    write_result(
        step,
        compared=[one, other],
        why=why,
        identical=not differ,
        different=f"{len(differ)} of {len(a)} weights",
        largest=rounded(largest),
        losses_separate_at=min((at for at in losses if losses[at] != others.get(at)), default=None),
    )


def keep_file(path: str, name: str) -> None:
    """Copy a file from the work folder to the results."""
    with contextlib.suppress(OSError):
        shutil.copy(work_folder() / path, out_folder() / name)


# steps: functions of the moment at which they must end


def machine(until: float) -> None:
    """Versions, card, and the speed of matrix products and copies."""
    if smi := shutil.which("nvidia-smi"):
        job = Job("nvidia-smi", [smi])
        job.wait(until)
        lines = [line for line in job.lines if "MiB" in line or "CUDA" in line]
        write_result("machine", nvidia_smi=lines)
    if measure("machine", until) == NO_GPU:
        sys.exit("torch finds no GPU here: no other step is tried")


def losses(until: float) -> None:
    """Does 04 run? And are the losses on the GPU equal to those on the CPU, in float32 on both?"""
    jobs = [
        papermill("auto", **small_run()),
        papermill("gpu32", **small_run(), precision=32),
        papermill("cpu32", **small_run(), num_threads=8, precision=32, gpus=0),
    ]
    for job in jobs:
        job.wait(until)
        write_outcome("losses", job)
    if all(job.exit_status == 0 for job in jobs):
        gpu, cpu = metrics("gpu32"), metrics("cpu32")
        for metric in ("train_loss", "valid_loss"):
            apart = {s: abs(gpu[s][metric] / cpu[s][metric] - 1) for s in cpu if metric in cpu[s]}
            write_result("losses", metric=metric, relative_difference=rounded(apart, 2))
        keep_file("auto-04_train.ipynb", "04_train.ipynb")
        keep_file("auto/run/run.json", "run.json")


DETERMINISTIC = """
import os
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
import torch
torch.use_deterministic_algorithms(True)
"""
T4 = """
from mlm.env.hardware import Card, Machine
Machine.cards = [Card("Tesla T4", 15.8e9, (7, 5))]
"""


def resume(until: float) -> None:
    """Interrupted and resumed: are the weights the same as those of uninterrupted runs?"""
    deterministic, t4 = work_folder() / "deterministic.py", work_folder() / "t4.py"
    deterministic.write_text(DETERMINISTIC)
    t4.write_text("" if rehearsing() else T4)
    middle = num_steps() * 12 // 25
    stopped: dict[str, dict[str, Any]] = {
        "stopped": dict(small_run()),
        "deterministic-stopped": dict(small_run(), dropout=0.1, patch=deterministic),
        "float16-stopped": dict(small_run(), patch=t4),
        "compiled-stopped": dict(small_run(), compile=True),
    }
    jobs = [
        *(run_plainly(name, stop_at=middle, **options) for name, options in stopped.items()),
        run_plainly("again", **small_run()),
        run_plainly("plain", **small_run(), compile=False),
        run_plainly("deterministic", **stopped["deterministic-stopped"]),
        run_plainly("float16", **stopped["float16-stopped"]),
        run_plainly("compiled", **stopped["compiled-stopped"]),
        papermill("best", num_threads=2, **small_run(), keep="best", evaluations=8),
    ]
    for job in jobs:
        job.wait(until)
        message = {"message": job.last_match(r"(stopped at step.*)")} if job.name in stopped else {}
        write_outcome("resume", job, **message)
    jobs = [run_plainly(name, **options) for name, options in stopped.items()]
    jobs.append(papermill("best", "05_predict", num_threads=2, run_name="run"))
    for job in jobs[:-1]:
        job.wait(until)
        write_outcome("resume", job, resumed_at=job.last_match(r"run: ([\d,]+) of"))
    for one, other, why in (
        ("auto", "again", "both uninterrupted: is a run on a GPU repeatable?"),
        ("again", "plain", "recorded steps and plain ones"),
        ("again", "stopped", "resumed, with default algorithms"),
        ("deterministic", "deterministic-stopped", "resumed, deterministic, dropout 0.1"),
        ("float16", "float16-stopped", "resumed, float16"),
        ("compiled", "compiled-stopped", "resumed, torch.compile"),
    ):
        compare_bits("resume", one, other, why)
    job = jobs[-1]
    job.wait(until)
    said = [line for line in job.lines if "identical: True" in line]
    write_result("resume", notebook="05 on best", exit_status=job.exit_status, said=said)


def default_run(name: str, **parameters: Any) -> Job:
    """Start 04 with default parameters, with random weights of BERT-base's shapes."""
    saved = work_folder() / "bert-base"  # by the step `speed`
    model = saved if (saved / "config.json").exists() else f"scratch:{model_size()}"
    return papermill(name, corpus=text(), model=model, **parameters)


def default(until: float) -> None:
    """The default run."""
    job = default_run("default", **(dict(max_steps=8) if rehearsing() else {}))
    job.wait(until)
    write_outcome("default", job)


def large(until: float) -> None:
    """The default run with the batch size that suits the device."""
    options = dict(max_steps=4) if rehearsing() else dict(epochs=4)
    job = default_run("large", batch_size=None, **options)
    job.wait(until)
    write_outcome("large", job, chosen=job.last_match(r"(\d+ examples per .*)"))


OUT_OF_MEMORY = """
import mlm.models.encoders, torch
compute = mlm.models.encoders.hidden_states
def hidden_states(model, input_ids, *more):
    if len(input_ids) <= 8 or not torch.is_grad_enabled():
        return compute(model, input_ids, *more)
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. (rehearsed)")
mlm.models.encoders.hidden_states = hidden_states
"""


def memory(until: float) -> None:
    """A batch that is far too large: is gradient checkpointing turned on, and what does the user see without it?

    8,192 blocks at once are a million tokens.
    """
    patch, long_text = work_folder() / "out_of_memory.py", work_folder() / "long.txt"
    patch.write_text(OUT_OF_MEMORY)
    source = text() if text() != "pydoc" else work_folder() / "auto" / "corpus" / "pydoc/train.txt"
    options: dict[str, Any] = {"corpus": "pydoc", "model": f"scratch:{model_size()}"}
    options |= {"examples": "block", "batch_size": 8192}
    if Path(source).exists():
        long_text.write_text(Path(source).read_text() * (1 if rehearsing() else 8))
        options["corpus"] = long_text
    for setting in ("auto", False):
        name, values = f"memory-{setting}", dict(options, gradient_checkpointing=setting)
        job = run_plainly(name, patch, **values) if rehearsing() else papermill(name, **values)
        job.wait(until)
        traceback_at = [number for number, line in enumerate(job.lines) if "Traceback" in line]
        write_result(
            "memory",
            setting=setting,
            exit_status=job.exit_status,
            wall_s=round(job.seconds, 1),
            chosen=job.last_match("(gradient checkpointing is .*)"),
            one_line=job.last_match("(NotebookError: .*)"),
            error=job.last_match(r"((?:OutOfMemory|Accelerator|Runtime|CUDA)\w*Error: .*)"),
            lines_of_traceback=len(job.lines) - traceback_at[0] if traceback_at else 0,
            tail=job.lines[-3:],
        )


RETURN = '"        return loss * self.trainer.world_size'  # in the cell of MaskedLM
EDITED = RETURN.replace("return", "print('written at each step'); return")
WAITING = """
import mlm.models.encoders
compute = mlm.models.encoders.hidden_states
def hidden_states(model, input_ids, *more):
    assert input_ids.max().item() >= 0
    return compute(model, input_ids, *more)
mlm.models.encoders.hidden_states = hidden_states
"""


def unpacked_model() -> Path:
    """A folder with a small MobileBERT: rows of one example each, with masks that transformers inspects."""
    sys.path.insert(0, str(ROOT / "notebooks"))
    from transformers import AutoConfig, AutoModelForMaskedLM

    from mlm.data.corpus import load_corpus
    from mlm.data.tokenizer import learn_wordpiece

    folder = work_folder() / "mobilebert"
    tokenizer = learn_wordpiece(load_corpus(text(), work_folder() / "unpacked") / "train.txt")
    config = AutoConfig.for_model("mobilebert", vocab_size=len(tokenizer), num_hidden_layers=4)
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def python(until: float) -> None:
    """An edited MaskedLM, a model that waits for the GPU, and one whose masks transformers inspects."""
    notebook, waiting = work_folder() / "edited.ipynb", work_folder() / "waiting.py"
    original = (ROOT / "notebooks" / "04_train.ipynb").read_text()
    notebook.write_text(original.replace(RETURN, EDITED))
    waiting.write_text(WAITING)
    short = dict(small_run(), max_steps=12)
    jobs = [
        run_plainly("as-written", **short, compile=False),
        run_plainly("edited", notebook=notebook, **short),
        run_plainly("waiting", waiting, **short, dropout=0.1),
        run_plainly("waiting-as-written", waiting, **short, dropout=0.1, compile=False),
    ]
    short["model"] = unpacked_model()
    jobs.append(run_plainly("unpacked", **short))
    jobs.append(run_plainly("unpacked-as-written", **short, compile=False))
    for job in jobs:
        job.wait(until)
        written = sum("written at each step" in line for line in job.lines)
        chosen = job.last_match("(training steps are .*)")
        write_outcome("python", job, written=written, chosen=chosen)
    compare_bits("python", "as-written", "edited", "MaskedLM was edited")
    compare_bits("python", "waiting-as-written", "waiting", "the model waits for the GPU")
    compare_bits("python", "unpacked-as-written", "unpacked", "one example per row")


def notebooks(until: float) -> None:
    """Do 01 and 06 run? At once, so their speeds mean nothing."""
    small = dict(corpus=text(), model="scratch:tiny", steps=4, repeats=1)
    if rehearsing():
        small |= dict(batch_size=8)
    jobs = [
        papermill("01", "01_setup"),
        papermill("06", "06_speed", **small),
    ]
    for job in jobs:
        job.wait(until)
        said = [line for line in job.lines if re.search(r": (True|False)$|^\w+Error: ", line)]
        status, seconds = job.exit_status, round(job.seconds, 1)
        write_result(
            "notebooks", notebook=job.name, exit_status=status, wall_s=seconds, said=said[-12:]
        )
    keep_file("06-06_speed.ipynb", "06_speed.ipynb")


# all of them


@dataclass(frozen=True)
class Step:
    """A step: its function (None: a part of measure.py), the seconds that it needs and may take."""

    name: str
    function: Callable[[float], None] | None
    needed_s: int
    limit_s: int


STEPS = [
    Step("machine", machine, 10, 90),
    Step("losses", losses, 30, 120),
    Step("resume", resume, 90, 150),
    Step("graph", None, 55, 90),
    Step("speed", None, 40, 150),
    Step("trainer", None, 25, 80),
    Step("compile", None, 60, 140),
    Step("kernels", None, 20, 60),
    Step("default", default, 50, 90),
    Step("memory", memory, 75, 120),
    Step("python", python, 45, 90),
    Step("notebooks", notebooks, 50, 120),
    Step("large", large, 30, 90),
    Step("trainer_compile", None, 50, 120),
]
REHEARSAL_LIMIT_S = 600


def print_summary() -> None:
    """Print the results, one line each."""
    for line in (out_folder() / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        step = f"{row['step']:<9}"
        if "ms_per_step" in row and "tokens_per_second" in row:
            kind = row.get("mode") or row.get("feed") or ""
            print(
                f"{step} {row['what']:<34} {kind:<9} {row['tokens_per_second']!s:>22} tokens/s, "
                f"{row['ms_per_step']} ms, {row['mfu']:.1%} of peak, "
                f"padding {row.get('padding', '?')}, {row.get('peak_gb', '?')} GB"
            )
        elif "compared" in row:
            print(step, row["compared"], row.get("identical"), row.get("largest"), row["why"])
        elif "run" in row:
            shown = ["run", "exit_status", "wall_s", "precision", "before", "after", "baseline"]
            shown += ["tokens_per_second", "share_of_peak"]
            print(step, *(f"{name} {row[name]}" for name in shown if name in row))
        elif "done_in_s" not in row and row["step"] not in ("machine", "losses"):
            print(line[:300])


def run_step(step: Step, seconds: float) -> None:
    """Run a step if there is time for it; write what fails."""
    start, left = time.time(), began() + seconds - time.time()
    if left < step.needed_s:
        message = f"{left:.0f} s are left, it needs about {step.needed_s}"
        write_result(step.name, skipped=message)
        return
    log(f"-- {step.name}")
    until = start + min(REHEARSAL_LIMIT_S if rehearsing() else step.limit_s, left)
    try:
        if step.function:
            step.function(until)
        else:
            measure(step.name, until)
    except Exception:
        write_result(step.name, failed=traceback.format_exc()[-1500:])
    for job in list(RUNNING):
        job.wait(0)
    write_result(step.name, done_in_s=round(time.time() - start, 1))


def main() -> None:
    """The command line; see the module's description."""
    names = [step.name for step in STEPS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=480, help="time for all steps")
    parser.add_argument(
        "--only", help=f"some of the steps, separated by commas: {', '.join(names)}"
    )
    parser.add_argument("--text", default="pydoc", help="a text file")
    parser.add_argument("--vocab", default="", help="BERT's vocab.txt")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu", help="for the results")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else names
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"unknown steps {', '.join(unknown)}: the steps are {', '.join(names)}")
    work = Path(tempfile.mkdtemp(prefix="gpu-check-"))
    began()
    option("REHEARSE", int(options.rehearse))
    option("OUT", options.out.resolve())
    option("WORK", work)
    option("TEXT", options.text if options.text == "pydoc" else Path(options.text).resolve())
    option("VOCAB", options.vocab and Path(options.vocab).resolve())
    os.environ.update(HF_HUB_OFFLINE="1", PYTHONUNBUFFERED="1")
    os.environ.update(JUPYTER_RUNTIME_DIR=str(work / "jupyter"), IPYTHONDIR=str(work / "ipython"))
    if options.rehearse:
        os.environ["OMP_NUM_THREADS"] = "1"
    out_folder().mkdir(parents=True, exist_ok=True)
    for step in STEPS:
        if step.name in chosen:
            run_step(step, 1e6 if options.rehearse else options.seconds)
    print(f"\n{time.time() - began():.0f} s in all; in short:")
    print_summary()
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
