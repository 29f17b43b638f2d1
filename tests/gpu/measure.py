"""What check.py measures in processes of their own: speed, memory, a profile; this suite and Trainer.

    python tests/gpu/measure.py PART      called by check.py; the parts are listed at the end

Each result is written at once.
"""

import collections
import importlib.util
import itertools
import os
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gpu_results import (
    ROOT,
    device,
    model_size,
    out_folder,
    rehearsing,
    rounded,
    text,
    vocabulary,
    work_folder,
    write_result,
)

sys.path.insert(0, str(ROOT / "notebooks"))
STARTED = time.time()

import pytorch_lightning  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import transformers  # noqa: E402
from torch.autograd import DeviceType  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.profiler import ProfilerActivity  # noqa: E402
from transformers import BertTokenizer, TrainerCallback  # noqa: E402
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # noqa: E402

from mlm.benchmark.speed import Bench, Variant, trainer_seconds  # noqa: E402
from mlm.data.batches import MaskedBatches  # noqa: E402
from mlm.data.corpus import load_corpus  # noqa: E402
from mlm.data.dataset import MaskedLMDataset  # noqa: E402
from mlm.data.tokenizer import learn_wordpiece  # noqa: E402
from mlm.env.devices import trainer_arguments  # noqa: E402
from mlm.models.compilation import compile_counts, compile_layers  # noqa: E402
from mlm.models.encoders import head_layers, packed_attention_mask  # noqa: E402
from mlm.models.flops import device_peak, flops_per_token  # noqa: E402
from mlm.models.gpu import use_deterministic_operations  # noqa: E402
from mlm.models.loading import load_model  # noqa: E402
from mlm.optim.optimizer import make_optimizer  # noqa: E402
from mlm.optim.recipe import bytes_per_example  # noqa: E402
from mlm.training.datamodule import PrefetchedBatches  # noqa: E402
from mlm.training.module import MaskedLM  # noqa: E402
from mlm.training.strategies import RecordedStep, record_cuda_graph, shape_of  # noqa: E402

IMPORTED = time.time()
DEVICE = device()
ON_GPU = DEVICE == "cuda"
REHEARSING = rehearsing()
SMALL_BATCH, MEDIUM_BATCH, LARGE_BATCH = (4, 8, 8) if REHEARSING else (32, 128, 256)  # examples
SECONDS = 0.3 if REHEARSING else 1.2  # of one measurement; each is made twice
NO_GPU = 3  # the exit status where torch finds no GPU

Batch = dict[str, Any]


def attempt(measurement: Callable, *values: Any, **options: Any) -> None:
    """One measurement; if it fails, that is written, and the next ones follow."""
    try:
        measurement(*values, **options)
    except Exception:
        write_result(measurement.__name__, failed=traceback.format_exc()[-1000:])
    if ON_GPU:
        torch.cuda.empty_cache()


def milliseconds(function: Callable[[], Any], count: int = 20, warm_up: int = 5) -> float:
    """The mean time of a call, over `count` calls in a row."""
    for number in (warm_up, count):
        if ON_GPU:
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(number):
            function()
        if ON_GPU:
            torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start) / count


# the machine


def machine() -> None:
    """Versions, what the suite finds out about the card, and how fast the card is."""
    if ON_GPU and not torch.cuda.is_available():
        sys.exit(NO_GPU)
    write_result(
        "machine",
        python=sys.version.split()[0],
        torch=torch.__version__,
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        transformers=transformers.__version__,
        lightning=pytorch_lightning.__version__,
        triton=importlib.util.find_spec("triton") is not None,
        compiler=shutil.which("c++"),
        cpus=os.cpu_count(),
        imports_s=round(IMPORTED - STARTED, 1),
    )
    start = time.time()
    arguments, chosen = trainer_arguments()  # finds the card in a process of its own
    seconds = round(time.time() - start, 1)
    write_result("machine", trainer_arguments=arguments, device=chosen, seconds=seconds)
    dtypes = {str(chosen["dtype"]), "torch.float32"}
    write_result("machine", peak={name: device_peak(chosen["kind"], name) for name in dtypes})
    if ON_GPU:
        write_result("machine", card=str(torch.cuda.get_device_properties(0)))
    size = 512 if REHEARSING else 8192
    for dtype, count in ((torch.bfloat16, 20), (torch.float32, 5)):
        a, b = torch.randn(2, size, size, device=DEVICE).to(dtype)
        ms = milliseconds(lambda a=a, b=b: a @ b, count, warm_up=2)
        tflops = rounded(2 * size**3 / ms / 1e9)
        write_result("machine", product=str(dtype), size=size, tflops=tflops)
    x = torch.randn(2**20 if REHEARSING else 2**30, device=DEVICE)
    y = torch.empty_like(x)
    terabytes_per_s = 2 * x.nbytes / milliseconds(lambda: y.copy_(x)) / 1e9
    write_result("machine", copy_tb_per_s=rounded(terabytes_per_s))


# this suite's loop


def make_tokenizer(train_file: Path) -> Any:
    """BERT's own tokenizer, if its vocabulary was given; otherwise one learned from the text."""
    if not vocabulary():
        return learn_wordpiece(train_file)
    words = Path(vocabulary()).read_text(encoding="utf-8").splitlines()
    vocab = {word: number for number, word in enumerate(words)}
    return BertTokenizer(vocab=vocab, model_max_length=512)


def make_bench(size: str, max_len: int = 128, model: Any = None) -> Bench:
    """06's Bench: random weights of this size, and the training lines of the text."""
    train_file = load_corpus(text(), work_folder() / "bench") / "train.txt"
    tokenizer = make_tokenizer(train_file)
    data = {
        kind: MaskedLMDataset(train_file, tokenizer, max_len, kind) for kind in ("line", "block")
    }
    return Bench(
        model=model or load_model(f"scratch:{size}", tokenizer, max_len=512),
        model_name=f"scratch:{size}",
        data=data,
        validation_batches=[],
        mlm_probability=0.15,
        seed=0,
        device=DEVICE,
    )


def suite_variant(examples: str, batch_size: int, **changes: Any) -> Variant:
    """06's fastest variant on a GPU; `changes` are other fields of Variant."""
    fields = dict(
        order="random",
        pack=True,
        dtype=torch.float32 if REHEARSING else torch.bfloat16,
        fused_adamw=True,
        masked_only=True,
    )
    name = f"{examples}s, {batch_size} per batch"
    return Variant(name, examples, batch_size, **{**fields, **changes})


def host_batches(bench: Bench, variant: Variant, count: int) -> MaskedBatches:
    """`count` batches of a variant on the CPU; an epoch is repeated if it has fewer."""
    keys, shape = bench.cached_keys(variant)
    repeated = itertools.islice(itertools.cycle(keys), count)
    data = bench.data[variant.examples]
    return MaskedBatches(data, repeated, bench.mlm_probability, bench.seed, shape=shape)


def device_batches(bench: Bench, variant: Variant, count: int, feed: str) -> Iterable[Batch]:
    """The same on the device: "prefetched" by a thread as in 04, in the "loop" as in 06, or "ready"."""
    batches = host_batches(bench, variant, count)
    if feed == "ready":
        return [bench.on_device(batch) for batch in batches]
    if feed == "loop" or not ON_GPU:
        return map(bench.on_device, batches)

    def on_device(batch: Batch) -> Batch:
        return {
            name: value.to(DEVICE, non_blocking=True) if torch.is_tensor(value) else value
            for name, value in batch.items()
        }

    return map(on_device, PrefetchedBatches(batches, torch.device(DEVICE, 0)))


CONSTANT_LR = dict(
    optimizer="adamw", lr=1e-5, weight_decay=0.01, total_steps=10**6, schedule="constant"
)


def mfu(bench: Bench, variant: Variant, tokens_per_second: float) -> float:
    """The fraction of the peak of the variant's dtype, as 04 computes it."""
    lengths = bench.data[variant.examples].lengths.astype(float)
    length = round(
        (lengths**2).sum() / lengths.sum()
    )  # of the example that a token is in, on average
    flops = flops_per_token(bench.model, length, bench.mlm_probability)
    peak, _ = device_peak("gpu" if ON_GPU else "cpu", str(variant.dtype))
    return tokens_per_second * flops / (peak or float("inf"))


def peak_memory() -> dict[str, float]:
    """The most memory that tensors used since the last call, in GB."""
    if not ON_GPU:
        return {}
    used = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return {"peak_gb": used}


def measure_speed(
    step: str,
    bench: Bench,
    variant: Variant,
    feed: str = "prefetched",
    **more: Any,
) -> float:
    """Write speed, memory and padding of a variant; returns milliseconds per step.

    Two measurements, each of the number of steps that fit into SECONDS, after nine steps of warm-up.
    """
    bench.switch(variant)
    optimizer, schedule = bench.make_optimizer(variant, CONSTANT_LR)
    peak_memory()

    def loop(count: int) -> tuple[float, int, int, int, Batch]:
        """(seconds, tokens, tokens with special tokens, positions, the last batch) of `count` steps."""
        tokens = real = positions = 0
        batches = device_batches(bench, variant, count, feed)
        start = bench.clock()
        for batch in batches:
            bench.step(variant, batch, optimizer, schedule)
            tokens += int(batch["num_tokens"])
            real += int(batch["num_tokens"]) + 2 * int(batch["num_examples"])
            positions += batch["input_ids"].numel()
        return bench.clock() - start, tokens, real, positions, batch

    first_step = loop(1)[0]
    loop(3)
    count = int(min(60 if feed == "ready" else 300, max(6, SECONDS * 5 / loop(5)[0])))
    passes = [loop(count) for _ in range(2)]
    speeds = sorted(tokens / seconds for seconds, tokens, *_ in passes)
    ms = 1000 * min(seconds for seconds, *_ in passes) / count
    _, _, real, positions, batch = passes[-1]
    config = bench.model.config
    figures = dict(
        tokens_per_second=speeds,
        ms_per_step=ms,
        mfu=mfu(bench, variant, speeds[-1]),
        padding=1 - real / positions,
        first_step_s=first_step,
        steps=count,
        loss=bench.loss(variant, batch).item(),
        # as choose_batch_size estimates it; peak_gb has the weights, too
        estimated_gb=bytes_per_example(
            config.hidden_size,
            config.num_hidden_layers,
            config.vocab_size,
            batch["input_ids"].numel(),
            len(batch["positions"]) / batch["input_ids"].numel(),
            variant.dtype.itemsize,
        )
        / 1e9,
        **peak_memory(),
    )
    shape = list(batch["input_ids"].shape), len(batch["positions"])
    write_result(step, what=variant.name, feed=feed, shape=shape, **more, **rounded(figures))
    return ms


def first_losses(bench: Bench) -> None:
    """Write the loss of one batch with the initial weights, computed by each variant."""
    float32 = dict(dtype=torch.float32)
    variants: dict[str, dict[str, Any]] = {
        "dense head, one line per row": float32 | dict(pack=False, masked_only=False),
        "masked positions only": float32 | dict(pack=False),
        "packed rows": float32,
        "attention as products": float32 | dict(attention="matmul", dropout="16bit"),
        "bfloat16": dict(dtype=torch.bfloat16),
        "float16": dict(dtype=torch.float16 if ON_GPU else torch.bfloat16),
    }
    losses = {
        name: bench.first_loss(suite_variant("line", SMALL_BATCH, **fields))
        for name, fields in variants.items()
    }
    write_result("first_losses", losses=rounded(losses, 9))


def batch_time(bench: Bench, variant: Variant) -> None:
    """Write the milliseconds that one CPU core needs to prepare a batch."""
    start = time.perf_counter()
    collections.deque(host_batches(bench, variant, 10), maxlen=0)
    ms = rounded(100 * (time.perf_counter() - start))
    write_result("batch_time", what=variant.name, ms=ms)


def speed() -> None:
    """BERT-base: are the losses equal, how fast is it, where does the time go."""
    bench = make_bench(model_size())
    bench.model.save_pretrained(work_folder() / "bert-base")  # for the step `default`
    bench.data["line"].tokenizer.save_pretrained(work_folder() / "bert-base")
    attempt(first_losses, bench)
    for examples in ("line", "block"):
        for batch_size in (SMALL_BATCH, MEDIUM_BATCH, LARGE_BATCH):
            attempt(measure_speed, "speed", bench, suite_variant(examples, batch_size))
    # what it costs to prepare batches
    for batch_size, feed in ((SMALL_BATCH, "loop"), (SMALL_BATCH, "ready"), (LARGE_BATCH, "ready")):
        attempt(measure_speed, "speed", bench, suite_variant("line", batch_size), feed)
    small, large = suite_variant("line", SMALL_BATCH), suite_variant("block", LARGE_BATCH)
    for variant in (small, suite_variant("line", LARGE_BATCH), large):
        attempt(batch_time, bench, variant)
    attempt(profile, bench, small)
    attempt(profile, bench, large)
    float32 = suite_variant("line", SMALL_BATCH, dtype=torch.float32)
    attempt(measure_speed, "speed", bench, float32, dtype="float32")

    tiny = make_bench("tiny")
    attempt(measure_speed, "speed", tiny, small, model="tiny")
    attempt(profile, tiny, small)

    long = make_bench(model_size(), 512, bench.model)
    for batch_size in (SMALL_BATCH, MEDIUM_BATCH):
        attempt(measure_speed, "speed", long, suite_variant("block", batch_size), max_len=512)


# recorded steps, deterministic operations


def set_dropout(model: Any, rate: float) -> None:
    """All dropout layers get this rate."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate


def recorded_step(bench: Bench, variant: Variant, part: str = "graph") -> None:
    """Write speed, memory and the last loss of plain steps, and of steps from a CUDA graph."""
    bench.switch(variant)
    count = 4 if REHEARSING else 20 if variant.examples == "line" else 5
    ready = list(device_batches(bench, variant, count, "ready"))
    batches = [batch for batch in ready if shape_of(batch) == shape_of(ready[0])]
    tokens = sum(int(batch["num_tokens"]) for batch in batches) / len(batches)
    start = time.time()
    bench.loss(variant, batches[0]).backward()
    bench.module.zero_grad(set_to_none=True)
    figures: dict[str, Any] = {"first_s": time.time() - start}  # with the time to compile
    for name, make_loop in (("plain", plain_loop), ("replay", replay_loop)):
        bench.switch(variant)
        peak_memory()
        loop = make_loop(bench, variant, batches[0])
        ms = milliseconds(lambda loop=loop: loop(batches), count=2, warm_up=1) / len(batches)
        speed = 1000 * tokens / ms
        figures[name] = dict(
            ms=ms,
            tokens_per_second=speed,
            mfu=mfu(bench, variant, speed),
            loss=loop(batches[-1:]).item(),
            **peak_memory(),
        )
    if variant.examples == "line":  # how long is the GPU idle?
        kernels = profiled_events(lambda: loop(batches))
        busy_s = sum(end - start for _, start, end in kernels)
        figures["busy_ms"] = 1000 * busy_s / len(batches)
        count, start = 4 if REHEARSING else 100, bench.clock()
        loop(device_batches(bench, variant, count, "prefetched"))
        figures["prefetched_ms"] = 1000 * (bench.clock() - start) / count
    shape = list(batches[0]["input_ids"].shape)
    write_result(part, what=variant.name, shape=shape, **rounded(figures))


Loop = Callable[[Iterable[Batch]], torch.Tensor]  # a training step for each batch; the last loss


def plain_loop(bench: Bench, variant: Variant, batch: Batch) -> Loop:
    """Steps that start kernel by kernel."""
    optimizer, schedule = bench.make_optimizer(variant, CONSTANT_LR)

    def loop(batches: Iterable[Batch]) -> torch.Tensor:
        for batch in batches:
            loss = bench.loss(variant, batch)
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        return loss.detach()

    return loop


def replay_loop(bench: Bench, variant: Variant, batch: Batch) -> Loop:
    """Steps from a CUDA graph, which is recorded for the shape of `batch`; without a GPU, a stand-in."""
    optimizer, schedule = bench.make_optimizer(variant, CONSTANT_LR)
    weights = list(bench.module.parameters())

    def record(function: Callable[[], None]) -> tuple[Callable[[], None], float]:
        if ON_GPU:
            return record_cuda_graph(function, None)
        function()
        return function, 1.0

    step = RecordedStep(lambda b: bench.loss(variant, b), batch, weights, record)

    def loop(batches: Iterable[Batch]) -> torch.Tensor:
        for other in batches:
            if shape_of(other) == shape_of(batch):
                step.replay(other)
                step.set_gradients()
                optimizer.step()
                schedule.step()
        return step.loss

    return loop


def repeated_gradients(bench: Bench, variant: Variant) -> None:
    """Write how many gradients differ when a step is computed again: are its operations deterministic?"""
    bench.switch(variant)
    batch = bench.on_device(next(iter(host_batches(bench, variant, 1))))

    def gradients() -> list[torch.Tensor]:
        bench.module.zero_grad(set_to_none=True)
        bench.loss(variant, batch).backward()
        return [weight.grad for weight in bench.module.parameters() if weight.grad is not None]

    first = gradients()
    differ = max(
        sum(not one.equal(other) for one, other in zip(first, gradients())) for _ in range(5)
    )
    write_result(
        "repeated_gradients",
        what=variant.name,
        differ=differ,
        of=len(first),
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def steps_to_record() -> list[tuple[Bench, Variant]]:
    """BERT-base without dropout, with batches of several sizes."""
    short = make_bench(model_size())
    set_dropout(short.model, 0.0)
    long = make_bench(model_size(), 512, short.model)
    return [
        (long, suite_variant("block", MEDIUM_BATCH)),
        (short, suite_variant("block", LARGE_BATCH)),
        (short, suite_variant("line", LARGE_BATCH)),
        (short, suite_variant("line", SMALL_BATCH)),
    ]


def graph() -> None:
    """Recorded steps beside plain ones; deterministic operations."""
    runs = steps_to_record()
    for bench, variant in runs[::2]:
        attempt(repeated_gradients, bench, variant)
    use_deterministic_operations()
    for bench, variant in runs:
        attempt(repeated_gradients, bench, variant)
        attempt(recorded_step, bench, variant)


# the profile

PHASES = "input", "encoder", "head", "loss", "backward", "optimizer"
KERNELS = {  # kind: a pattern of kernel names
    "attention": "fmha|flash|attention|sdpa",
    "matrix products": "gemm|nvjet|cutlass|xmma|addmm|aten::mm|bmm",
    "optimizer": "multi_tensor|adam|lpnorm|foreach",
    "LayerNorm": "layer_?norm",
    "copies to the device": "Memcpy HtoD",
    "copies, casts": "copy|Memcpy|Memset|CatArray",
}
Event = tuple[str, float, float]  # name, start, end in seconds


def time_of_phases(events: list[Event], is_mark: Callable[[str], Any]) -> dict[str, list[float]]:
    """{phase: [seconds busy, seconds idle]}; a mark ends each phase in turn.

    The device is busy while any kernel runs, and idle while none does.
    """
    found, number = {name: [0.0, 0.0] for name in PHASES}, 0
    reached = min(start for _, start, _ in events)
    for name, start, end in sorted(events, key=lambda event: event[1]):
        phase = found[PHASES[number % len(PHASES)]]
        phase[1] += max(0.0, start - reached)
        if is_mark(name):
            number += 1
        else:
            phase[0] += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return found


def profiled_events(function: Callable[[], None]) -> list[Event]:
    """The kernels that a function runs; without a GPU, the operations."""
    activity, kind = ProfilerActivity.CUDA, DeviceType.CUDA
    if not ON_GPU:
        activity, kind = ProfilerActivity.CPU, DeviceType.CPU
    with torch.profiler.profile(activities=[activity]) as profiler:
        function()
        if ON_GPU:
            torch.cuda.synchronize()
    return [
        (event.name, event.time_range.start / 1e6, event.time_range.end / 1e6)
        for event in profiler.events()
        if event.device_type == kind
    ]


def profile(bench: Bench, variant: Variant, count: int = 20) -> None:
    """Write where the device's time goes: a tiny kernel marks the end of each phase."""
    bench.switch(variant)
    optimizer, schedule = bench.make_optimizer(variant, CONSTANT_LR)
    spare, head = torch.zeros(1), head_layers(bench.model)

    def mark(*_: Any) -> None:
        """End a phase."""
        if ON_GPU:
            torch.cuda._sleep(1)
        else:
            spare.erfinv_()

    def steps(count: int) -> None:
        """`count` training steps; hooks mark the end of encoder and head."""
        for batch in device_batches(bench, variant, count, "prefetched"):
            mark()
            loss = bench.loss(variant, batch)
            mark()
            bench.scaler.scale(loss).backward()
            mark()
            bench.scaler.step(optimizer)
            bench.scaler.update()
            schedule.step()
            optimizer.zero_grad()
            mark()

    with (
        head[0].register_forward_pre_hook(mark),
        head[-1].register_forward_hook(mark),
    ):
        steps(5)
        start = bench.clock()
        steps(count)
        unprofiled = (bench.clock() - start) / count
        events = profiled_events(lambda: steps(count))
    is_mark = re.compile("spin_kernel|erfinv_").search
    phases = time_of_phases(events, is_mark)
    whole = sum(map(sum, phases.values()))
    fractions = {name: [busy / whole, idle / whole] for name, (busy, idle) in phases.items()}
    seconds: collections.Counter = collections.Counter()
    calls: collections.Counter = collections.Counter()
    kinds: collections.Counter = collections.Counter()
    for name, start, end in events:
        if not is_mark(name):
            seconds[name] += end - start
            calls[name] += 1
    for name in seconds:
        matches = (kind for kind, names in KERNELS.items() if re.search(names, name, re.I))
        kinds[next(matches, "the rest")] += seconds[name] / sum(seconds.values())
    what = f"{variant.name}, hidden size {bench.model.config.hidden_size}"
    write_result(
        "profile",
        what=what,
        idle=rounded(sum(idle for _, idle in fractions.values()), 3),
        busy_and_idle=rounded(fractions, 3),
        kinds=rounded(dict(kinds.most_common()), 3),
        step_ms=rounded({"profiled": 1000 * whole / count, "unprofiled": 1000 * unprofiled}),
        kernels_per_step=sum(calls.values()) / count,
        # 6, unless something is wrong
        marks_per_step=sum(bool(is_mark(name)) for name, *_ in events) / count,
    )
    with open(out_folder() / "profile.txt", "a") as file:
        print(f"\n{what}: fractions of {1000 * whole / count:.2f} ms per step", file=file)
        for name, (busy, idle) in fractions.items():
            print(f"{name:>12}: busy {busy:6.1%}, idle {idle:6.1%}", file=file)
        for name, total in seconds.most_common(25):
            each = f"{calls[name] / count:7.1f} per step, {1e6 * total / calls[name]:8.1f} us"
            print(f"{total / whole:6.1%} {each}  {name[:110]}", file=file)


# the optimizer, attention


def optimizer_time(tokenizer: Any, size: str) -> None:
    """Write the milliseconds of an optimizer step; of Muon also with products in tf32 ("high")."""
    found = {}
    for kind, precision in (("adamw", "highest"), ("muon", "highest"), ("muon", "high")):
        module = MaskedLM(load_model(f"scratch:{size}", tokenizer).to(DEVICE), {})
        optimizer, _ = make_optimizer(
            module, kind, lr=1e-4, weight_decay=0.1, schedule="constant", total_steps=10, clip=1.0
        )
        for weight in module.parameters():
            weight.grad = 1e-3 * torch.randn_like(weight)
        torch.set_float32_matmul_precision(precision)
        count = 5 if REHEARSING else 10
        found[f"{kind}, {precision}"] = milliseconds(optimizer.step, count, warm_up=2)
    torch.set_float32_matmul_precision("highest")
    write_result("kernels", model=size, step_ms=rounded(found))


def attention_time(width: int) -> None:
    """Write the milliseconds of one layer's attention, forward and backward, two examples per row."""
    tokens, dtype = (1024, torch.float32) if REHEARSING else (32768, torch.bfloat16)
    rows = tokens // width
    q, k, v = (
        torch.randn(rows, 12, width, 64, device=DEVICE, dtype=dtype, requires_grad=True)
        for _ in range(3)
    )
    sequence_ids = 1 + (torch.arange(width, device=DEVICE).expand(rows, -1) >= width // 2).long()
    mask = packed_attention_mask(sequence_ids)
    layer = SimpleNamespace(training=True, is_causal=False)

    def implementation(name: str) -> torch.Tensor:
        return ALL_ATTENTION_FUNCTIONS[name](layer, q, k, v, mask, scaling=0.125)[0]

    def backend(kind: SDPBackend, mask: torch.Tensor | None = mask) -> torch.Tensor:
        with sdpa_kernel(kind):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def varlen() -> torch.Tensor:
        from torch.nn.attention.varlen import varlen_attn

        ends = torch.arange(0, tokens + 1, width // 2, dtype=torch.int32, device=DEVICE)
        flat = (x.transpose(1, 2).reshape(tokens, 12, 64) for x in (q, k, v))
        return varlen_attn(*flat, ends, ends, width // 2, width // 2)

    functions: dict[str, Callable[[], torch.Tensor]] = {
        "sdpa, mask, as in training": lambda: implementation("sdpa"),
        "matmul, mask": lambda: implementation("matmul"),
        "efficient, mask": lambda: backend(SDPBackend.EFFICIENT_ATTENTION),
        "cudnn, mask": lambda: backend(SDPBackend.CUDNN_ATTENTION),
        "math, mask": lambda: backend(SDPBackend.MATH),
        "sdpa, no mask": lambda: F.scaled_dot_product_attention(q, k, v),
        "flash, no mask": lambda: backend(SDPBackend.FLASH_ATTENTION, None),
        "cudnn, no mask": lambda: backend(SDPBackend.CUDNN_ATTENTION, None),
        "flash, varlen": varlen,
    }
    found: dict[str, float | str] = {}
    for name, function in functions.items():
        try:
            found[name] = milliseconds(lambda f=function: f().sum().backward(), 20, warm_up=3)
        except Exception as error:  # this machine or this torch has no such kernel
            found[name] = str(error).partition("\n")[0][:80]
    write_result("kernels", width=width, tokens=tokens, forward_backward_ms=rounded(found))


def kernels() -> None:
    """Optimizers, and attention."""
    train_file = load_corpus(text(), work_folder() / "bench") / "train.txt"
    tokenizer = make_tokenizer(train_file)
    for size in ("tiny", "mini" if REHEARSING else "base"):
        attempt(optimizer_time, tokenizer, size)
    for width in (128, 512):
        attempt(attention_time, width)


# transformers.Trainer


class SteadyTime(TrainerCallback):
    """The seconds and the number of steps after the first ones, in which things start up."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.skipped = clock, 2 if REHEARSING else 10
        self.start = self.seconds = 0.0
        self.steps = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.skipped:
            self.start = self.clock()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds = self.clock() - self.start
        self.steps = state.global_step - self.skipped


def trainer_speed(step: str, bench: Bench, variant: Variant, epochs: int, **changes: Any) -> None:
    """Write the speed of Trainer; `changes` are arguments of it."""
    timer = SteadyTime(bench.clock)
    bench.switch(variant)
    peak_memory()
    start = time.time()
    max_steps = 6 if REHEARSING else None
    trainer_seconds(bench, variant, max_steps, [timer], epochs=epochs, **changes)
    tokens_per_step = float(bench.data[variant.examples].lengths.sum()) / bench.num_steps(variant)
    tokens_per_second = tokens_per_step * timer.steps / timer.seconds
    figures = dict(
        tokens_per_second=tokens_per_second,
        ms_per_step=1000 * timer.seconds / timer.steps,
        mfu=mfu(bench, variant, tokens_per_second),
        wall_s=time.time() - start,
        **peak_memory(),
    )
    name = f"Trainer, {variant.name}, {variant.order}"
    write_result(step, what=name, steps=timer.steps, changes=changes, **rounded(figures))


def trainer_variant(examples: str, batch_size: int, order: str = "random") -> Variant:
    """The Variant of transformers.Trainer."""
    variant = suite_variant(examples, batch_size)
    return replace(variant, trainer="Trainer", order=order, pack=False)


WORKERS = dict(dataloader_num_workers=2 if REHEARSING else 6)


def trainer() -> None:
    """Trainer at its best: bfloat16, fused AdamW, workers; lines by length, blocks."""
    bench = make_bench(model_size())
    for variant, epochs in (
        (trainer_variant("line", SMALL_BATCH, "length"), 1),
        (trainer_variant("line", LARGE_BATCH, "length"), 6),
        (trainer_variant("block", LARGE_BATCH), 12),
        (trainer_variant("line", MEDIUM_BATCH, "length"), 3),
        (trainer_variant("block", MEDIUM_BATCH), 6),
    ):
        attempt(trainer_speed, "trainer", bench, variant, epochs, **WORKERS)
    default = trainer_variant("line", SMALL_BATCH)  # without workers
    attempt(trainer_speed, "trainer", bench, default, 1)


def trainer_compile() -> None:
    """Trainer with torch.compile, on blocks, which all have the same shape."""
    bench, variant = make_bench(model_size()), trainer_variant("block", MEDIUM_BATCH)
    changes = dict(torch_compile=True, dataloader_drop_last=True, **WORKERS)
    trainer_speed("trainer_compile", bench, variant, 12, **changes)


# torch.compile


def compiled() -> None:
    """The layers compiled as in 04: plain and recorded steps."""
    runs = steps_to_record()
    use_deterministic_operations()
    for bench, variant in runs[:1] if REHEARSING else runs:
        compile_layers(bench.model, True, trainer_arguments()[1])
        attempt(recorded_step, bench, variant, "compile")
        write_result("compile", what=variant.name, counts=compile_counts())


PARTS = {
    "machine": machine,
    "graph": graph,
    "speed": speed,
    "trainer": trainer,
    "trainer_compile": trainer_compile,
    "compile": compiled,
    "kernels": kernels,
}

if __name__ == "__main__":
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts
    if sys.argv[1].startswith("trainer"):
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its workers are forked processes
    PARTS[sys.argv[1]]()
