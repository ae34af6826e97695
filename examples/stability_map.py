"""Where delayed, compensated descent is stable: growth per commit over the curvature estimate and the delay.

Type: python examples/stability_map.py (two pictures, in the folder named after it or else in this one)
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.colors import SymLogNorm

from tardigrad.report.style import PALE, drawing
from tardigrad.theory.stability import damping_step
from tardigrad.theory.stability_map import growth_map

DELAYS = sorted({round(delay) for delay in np.geomspace(1, 256, 19)})
TICKS = [0.5, 0.9, 0.99, 0.999, 1.0, 1.001, 1.01, 1.1, 2.0]


def panel(axis, title, curvature, estimates, growth):
    """Blue shrinks, red grows; the dotted line is where the estimate is the curvature."""
    colours = SymLogNorm(linthresh=1e-3, vmin=-np.log(2), vmax=np.log(2))
    mesh = axis.pcolormesh(estimates, DELAYS, np.log(growth), norm=colours, cmap="RdBu_r", rasterized=True)
    axis.contour(estimates, DELAYS, np.log(growth), levels=[0.0], colors="black", linewidths=1.2)
    axis.axvline(curvature, color=PALE, linestyle=":")
    axis.set(xscale="log", yscale="log", title=title, xlabel="lr e", ylabel="delay, commits")
    axis.set_yticks([1, 4, 16, 64, 256], ["1", "4", "16", "64", "256"])
    axis.grid(False)
    return mesh


def picture(name, rows, estimates, momentum):
    """One panel for each (title, lr h, step of a delay); print how many of its cells do not grow."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
    with drawing(8.6, 6.6) as figure:
        axes = figure.subplots(2, 2, sharex=True, sharey=True)
        figure.suptitle(f"One mode, momentum {momentum:g}", x=0.02, ha="left", fontsize=11.5)
        for axis, (title, curvature, step) in zip(axes.flat, rows, strict=True):
            lines = [growth_map(curvature, estimates, [d], momentum=momentum, step=step(d)) for d in DELAYS]
            growth = np.concatenate(lines)
            mesh = panel(axis, title, curvature, estimates, growth)
            print(f"{title:<40} stable: {100 * (growth < 1).mean():.1f} % of the map")
            axis.label_outer()
        bar = figure.colorbar(mesh, ax=axes, label="growth per commit", shrink=0.8)
        bar.set_ticks(np.log(TICKS), labels=[f"{tick:g}" for tick in TICKS])
        bar.ax.minorticks_off()
        figure.savefig(folder / name, dpi=100)


plain, damped = (lambda delay: None), (lambda delay: 1.0)
rows = [
    (f"lr h = {h}, {word}", h, step) for h in (0.5, 1.0) for word, step in (("as it is", plain), ("damped", damped))
]
picture("stability-map.png", rows, np.geomspace(0.1, 100, 64), momentum=0.0)
rows = [
    ("lr h = 0.005, as it is", 0.005, plain),
    ("damped by lr / (1 - mu)", 0.005, lambda delay: 10.0),
    ("damped for every delay", 0.005, lambda delay: damping_step(1.0, momentum=0.9)),
    ("damped for this delay", 0.005, lambda delay: damping_step(1.0, momentum=0.9, delay=delay)),
]
picture("stability-momentum.png", rows, np.geomspace(0.001, 100, 64), momentum=0.9)
