"""Speed of training, encoding and decoding without Ray, against the machine's matrix products.

    python -m tests.benchmarks.speed --size portraits64 --cases train,decode-1,decode-16

Each case runs in a process of its own, whose peak memory it reports: of the whole process on a CPU,
of PyTorch's allocations on a GPU. The time is the shortest of ``--repeat`` calls; on one CPU thread
it is processor time. The share of peak compares with a large square product in the same arithmetic,
measured in the same process. Prints a Markdown table; ``--json`` writes a file. Cases:

train            an iteration of preset `reference` with sampled contents, as published
train-bank       the same with a content bank
train-recompute  the same as train-bank with recomputed activations
step             one of the 10 optimiser steps of train-bank; step-recompute: recomputed
encode-N         N photos, 10 network calls
decode-N         N photos in N full-rank styles, 10 network calls
decode-lora-N    the same in styles of rank 16, in passes of up to 16 photos
stylize          one photo from end to end with preset `default` (30 and 10 network calls)
memory           counted memory of a training step with a bank
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.speed_cases import CASES, Case, measure

DEFAULT = (
    "train,train-bank,train-recompute,encode-1,decode-1,decode-4,decode-16,decode-lora-4,"
    "decode-lora-16,stylize"
)
COLUMNS = (
    *("case", "images", "arithmetic", "ms", "images/s"),
    *("TFLOP", "TFLOP/s", "share of peak", "MiB"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="portraits64", help="name of a packaged configuration")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--cases", default=DEFAULT)
    parser.add_argument("--precisions", default="float32,bfloat16")
    parser.add_argument("--batch", type=int, default=8, help="contents of a training iteration")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        torch.set_num_threads(args.threads)
        torch.manual_seed(0)
        print(json.dumps(measure(Case(**json.loads(args.one)), args.repeat)))
        return
    rows = []
    print(f"{machine(args.device)}, {args.threads} thread(s), {args.size}\n")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    for arithmetic in args.precisions.split(","):
        for name in args.cases.split(","):
            case = parse_case(name, args.size, args.device, arithmetic, args.batch)
            rows.append(asdict(case) | run(case, args.repeat, args.threads))
            print(line(rows[-1]), flush=True)
    if args.json:
        about = {"machine": machine(args.device), "threads": args.threads}
        document = {**about, "torch": torch.__version__, "rows": rows}
        args.json.write_text(json.dumps(document, indent=2) + "\n")


def parse_case(text: str, size: str, device: str, arithmetic: Any, batch: int) -> Case:
    """The case of a name such as ``decode-16``."""
    name, _, count = text.rpartition("-")
    if not count.isdecimal():
        name, count = text, str(batch if text.startswith(("train", "step", "memory")) else 1)
    if name not in (*CASES, "memory"):
        raise SystemExit(f"unknown case {text!r}; the cases are {DEFAULT},memory")
    return Case(name, size, device, arithmetic, int(count))


def run(case: Case, repeat: int, threads: int) -> dict[str, Any]:
    """Measure a case in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.speed", "--one", json.dumps(asdict(case))]
    command += ["--repeat", str(repeat), "--threads", str(threads)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if ran.returncode:
        raise SystemExit(f"{case}: {ran.stderr[-3000:]}")
    return json.loads(ran.stdout.splitlines()[-1])


def line(row: dict[str, Any]) -> str:
    """A row of the table; columns that do not apply are empty."""
    values = [row["name"], str(row["images"]), row["arithmetic"]]
    if "ms" in row:
        values += [f"{row['ms']:,.1f}", f"{row['images'] / row['ms'] * 1e3:.3g}"]
        values += [f"{row['tflop']:.3g}", f"{row['tflop_per_s']:.3g}", f"{row['share']:.0%}"]
    else:
        values += [""] * 5
    values.append(f"{row.get('peak_mib', row.get('counted_mib')):,.0f}")
    return "| " + " | ".join(values) + " |"


def machine(device: str) -> str:
    """The device in words."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    facts = torch.cpu.get_capabilities()
    bfloat16 = [n for n in ("amx_bf16", "avx512_bf16", "sve_bf16") if facts.get(n)]
    return f"{os.cpu_count()} cores, {', '.join(bfloat16) or 'no bfloat16 instructions'}"


if __name__ == "__main__":
    main()
