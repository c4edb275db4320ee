#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tables and figures of bench/train/fp8_study.sh: fp8_study.py FOLDER_OF_RUNS PATH_OF_DSV3_PLOT [LABEL]

Writes docs/data/fp8_study/NAME-SEED.jsonl, the losses of each finished run as means of twenty steps, and
docs/data/fp8_study/summary.md; draws docs/figures/fp8_loss.svg and docs/figures/fp8_choices.svg. With a label these
are fp8_study_LABEL, fp8_loss_LABEL and fp8_choices_LABEL.
"""
import json
import pathlib
import statistics
import subprocess
import sys

SMOOTHED = 20  # steps that make one stored point
TAIL = 0.1  # share of the steps that a run's loss is the mean of


def losses(log):
    rows = (json.loads(line) for line in log.read_text().splitlines())
    return [(row["step"], row["ce"]) for row in rows if "ce" in row]


def runs_of(folder):
    """{name: {seed: [(step, cross entropy)]}} of the runs that are finished."""
    found = {}
    for mark in sorted(folder.glob("*/finished")):
        name, seed = mark.parent.name.rsplit("-", 1)
        found.setdefault(name, {})[int(seed)] = losses(mark.parent / "run.jsonl")
    return found


def tail(run):
    kept = run[-max(1, round(len(run) * TAIL)):]
    return statistics.fmean(ce for _, ce in kept)


def store(found, data):
    data.mkdir(parents=True, exist_ok=True)
    for name, seeds in found.items():
        for seed, run in seeds.items():
            points = [run[i:i + SMOOTHED] for i in range(0, len(run) - SMOOTHED + 1, SMOOTHED)]
            text = "".join(
                json.dumps({"step": part[-1][0], "ce": round(statistics.fmean(ce for _, ce in part), 5)}) + "\n"
                for part in points)
            (data / f"{name}-{seed}.jsonl").write_text(text)


def spread(values):
    return statistics.stdev(values) if len(values) > 1 else float("nan")


def table(found):
    """A row for each kind of run: its loss, and how far it is from BF16's of the same seeds."""
    base = {seed: tail(run) for seed, run in found.get("bf16", {}).items()}
    lines = ["| run | seeds | loss, last tenth | spread between seeds | against BF16, same seed | its spread |",
             "| --- | --- | --- | --- | --- | --- |"]
    for name, seeds in found.items():
        ends = {seed: tail(run) for seed, run in seeds.items()}
        apart = [100 * (end / base[seed] - 1) for seed, end in ends.items() if seed in base]
        against = f"{statistics.fmean(apart):+.2f} %" if apart and name != "bf16" else ""
        apart_spread = f"{spread(apart):.2f} %" if len(apart) > 1 and name != "bf16" else ""
        whole = list(ends.values())
        mean = statistics.fmean(whole)
        seed_spread = f"{100 * spread(whole) / mean:.2f} %" if len(whole) > 1 else ""
        lines.append(f"| {name} | {len(ends)} | {mean:.4f} | {seed_spread} | {against} | {apart_spread} |")
    return "\n".join(lines) + "\n"


def draw(plot, data, names, seed, title, out):
    curves = []
    for name in names:
        log = data / f"{name}-{seed}.jsonl"
        if log.exists():
            curves += ["--run", f"{name}={log}"]
    if curves:
        subprocess.run([plot, *curves, "--field", "ce", "--title", title, "--y-label", "cross entropy, nats per byte",
                        "--out", str(out)], check=True)


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    label = sys.argv[3] if len(sys.argv) == 4 else ""
    suffix = f"_{label}" if label else ""
    found = runs_of(pathlib.Path(sys.argv[1]))
    if not found:
        sys.exit(f"{sys.argv[1]}: no finished run found, expected folders with a file named finished")
    data, figures = pathlib.Path(f"docs/data/fp8_study{suffix}"), pathlib.Path("docs/figures")
    store(found, data)
    order = ["fp32", "bf16", "fp8"]
    others = sorted(set(found) - set(order))
    found = {name: found[name] for name in order + others if name in found}
    summary = table(found)
    (data / "summary.md").write_text(summary)
    print(summary, end="")
    draw(sys.argv[2], data, order, 1, "One text, one order of the data: three precisions" + (f", {label}" if label else ""),
         figures / f"fp8_loss{suffix}.svg")
    draw(sys.argv[2], data, ["bf16", "fp8", *others], 1, "One choice of the 8-bit recipe changed at a time" + (f", {label}" if label else ""),
         figures / f"fp8_choices{suffix}.svg")


if __name__ == "__main__":
    main()
