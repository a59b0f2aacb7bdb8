"""Times side by side, and the table's lines."""

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

Work = Callable[[], Any]


def machine() -> str:
    """The processor, as far as it decides the numbers, and torch."""
    capability = torch.backends.cpu.get_cpu_capability()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = dict(line.split(": ", 1) for line in lines if ": " in line)
    facts = {name.strip(): value for name, value in facts.items()}
    name = facts.get("model name", platform.machine())
    bf16 = "AVX512-BF16" if "avx512_bf16" in facts.get("flags", "") else "no AVX512-BF16"
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    threads = f"{torch.get_num_threads()} threads"
    return f"{name}, {threads}, {capability}, {bf16}{gpu}, torch {torch.__version__}"


def compared(
    section: str,
    beside: str,
    values: pd.Series,
    references: pd.Series | float,
    unit: str,
    ratio: pd.Series,
    target: Mapping[str, str] | str = "",
) -> list[dict[str, Any]]:
    """Lines of the table, one for each of ``values``: what has that value where ``beside`` has its
    reference, and their ``ratio``, one way or the other, with a ``target`` for some or for all."""
    table = pd.DataFrame({"ratio": ratio, "value": values, "reference": references})
    found = table.rename_axis("what").reset_index()
    targets = found["what"].map(
        lambda name: target if isinstance(target, str) else target.get(name)
    )
    found = found.assign(section=section, beside=beside, unit=unit, target=targets.fillna(""))
    columns = ["ratio", "target", "section", "what", "beside", "value", "reference", "unit"]
    return found[columns].to_dict("records")


def seconds(works: Mapping[str, Work], rounds: int, in_a_row: int = 1) -> pd.Series:
    """Median seconds of each of ``works``. They take turns, so that whatever else the machine does
    meanwhile falls on all of them; a first round, in which memory is found and kernels are chosen,
    does not count. A turn is so many calls ``in_a_row``: a GPU still works on one while the next is
    prepared."""
    found = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            started = _now()
            for _ in range(in_a_row):
                work()
            found[name].append((_now() - started) / in_a_row)
    return pd.Series({name: float(np.median(times[1:])) for name, times in found.items()})


def _now() -> float:
    # torch.utils.benchmark would do it too, but runs everything twice before, steps of seconds also
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
