"""Draws the learning curve of a run: `python3 scripts/plot_run.py RUN_DIR OUT.svg` (needs matplotlib).

Reads `metrics.jsonl` (one line per step) and `summary.json` (held-out correctness before and after, with intervals).
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402


def main():
    run, out = Path(sys.argv[1]), Path(sys.argv[2])
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    # A step that a resumed run took over from its checkpoint has no account of its batch.
    steps = [step for step in steps if "scored_reward_code" in step["batch"]]
    summary = json.loads((run / "summary.json").read_text())
    x = [s["step"] for s in steps]
    y = [100 * s["batch"]["scored_reward_code"] for s in steps]
    width = 10
    smooth = [sum(y[max(0, i - width + 1): i + 1]) / len(y[max(0, i - width + 1): i + 1]) for i in range(len(y))]
    plt.rcParams["svg.hashsalt"] = "troupe"
    figure, axes = plt.subplots(figsize=(8, 4))
    axes.plot(x, y, color="#b0b8c4", linewidth=1, label="answers scored between two steps (training tasks)")
    axes.plot(x, smooth, color="#1f6f8b", linewidth=2, label=f"mean of {width} steps")
    for name, place in (("before", x[0] - 1), ("after", x[-1] + 1)):
        point = summary["held_out"][name]
        mean, low, high = (100 * point[key] for key in ("mean", "low", "high"))
        axes.errorbar([place], [mean], yerr=[[mean - low], [high - mean]], fmt="o", color="#c0392b", capsize=4,
                      label="held-out pass@1, 95 % interval" if name == "before" else None)
        axes.annotate(f"{mean:.1f} %", (place, mean), textcoords="offset points", xytext=(8, 10) if name == "before" else (-38, 10), color="#c0392b")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("verified correct, %")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main()
