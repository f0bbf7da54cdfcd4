"""A bar chart of the table."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from report import milliseconds

OPERATIONS = {"save": "save, on the disk", "blocked": "time the caller is blocked", "into": "load into a model"}
OURS, FLOOR, OTHERS = "#d9482b", "#b9bec7", "#47688f"


def color(name: str) -> str:
    """Return the colour of a peer."""
    if name.startswith("recordstore"):
        return OURS
    return FLOOR if name.startswith("floor") else OTHERS


def draw(report: Any, path: Path) -> None:
    """Draw the largest workload: a row of charts for each folder, a chart for each operation."""
    largest = max(result["nbytes"] for result in report["results"] if has_reads(result))
    results = [found for found in report["results"] if found["nbytes"] == largest and has_reads(found)]
    figure, charts = plt.subplots(
        len(results), len(OPERATIONS), figsize=(15, 1.2 + 4.6 * len(results)), squeeze=False, layout="constrained"
    )
    for row, result in zip(charts, results, strict=True):
        for chart, (operation, title) in zip(row, OPERATIONS.items(), strict=True):
            draw_bars(chart, result, operation)
            chart.set_title(f"{title}, {result['file_system']}", fontsize=11)
    setting = report["setting"]
    figure.suptitle(
        f"{results[0]['workload']}, {largest / 1e6:.0f} MB: milliseconds, less is better (medians of "
        f"{results[0]['pairs']} pairs, {setting['date']}, SQLite {setting['sqlite']}, Python {setting['python']})"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def has_reads(result: Any) -> bool:
    return any("into" in peer["seconds"] for peer in result["peers"].values())


def draw_bars(chart: Any, result: Any, operation: str) -> None:
    """Draw one bar for each peer, the fastest on top."""
    found = {
        name: peer["seconds"][operation] * 1000
        for name, peer in result["peers"].items()
        if operation in peer["seconds"]
    }
    names = sorted(found, key=lambda name: found[name])
    bars = chart.barh(names, [found[name] for name in names], color=[color(name) for name in names])
    chart.bar_label(bars, [milliseconds(found[name] / 1000) for name in names], padding=3, fontsize=8)
    chart.invert_yaxis()
    chart.margins(x=0.12)
    chart.tick_params(labelsize=8)
    chart.spines[["top", "right"]].set_visible(False)
