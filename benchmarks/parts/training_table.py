"""From what training.py found to rows of medians, and from these to the tables of README and results."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from training_cases import PACE, SCENARIOS, SETTINGS, race

Row = dict[str, Any]
_OWN = "of the workers' own speeds"


def pace_rows(setting: str, lines: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Medians of measurements made in turn, and what they are compared with."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        found.setdefault(line["case"], []).append(line["found"])
    medians = {name: statistics.median(one["pace"] for one in ones) for name, ones in found.items()}
    return [
        _pace_row(case.name, found[case.name]) | _compared(case, medians)
        for case in PACE[setting]
        if case.name in found
    ]


def _pace_row(name: str, found: Sequence[Mapping[str, Any]]) -> Row:
    readings = [round(one["pace"], 2) for one in found]
    commits = statistics.median(one["commits"] for one in found)
    row = {"case": name, "samples/s": statistics.median(readings), "lowest": min(readings), "highest": max(readings)}
    return row | {"commits/s": round(commits, 2), "readings": readings}


def _compared(case: Any, medians: Mapping[str, float]) -> Row:
    """A case's pace over the plain loop's, and over the sum of what its workers do alone."""
    pace, row = medians[case.name], {}
    plain, alone = medians.get("plain loop"), medians.get("1 worker, asgd")
    if plain:
        row["over the plain loop"] = round(pace / plain, 3)
    slowed = medians.get("1 worker, slowed 4 x", 0.0)
    if alone and case.kind != "simulated" and (slowed or not case.speeds):
        both = alone + slowed if len(case.speeds) > 1 else alone * case.slowest * case.workers
        row[_OWN] = round(pace / both, 3)
    return row


def race_rows(lines: Sequence[Mapping[str, Any]], *, batch: int) -> list[Row]:
    """Seconds to the target, of each scenario and arm; and how they compare with the best synchronous arm."""
    rows: list[Row] = []
    for scenario in SCENARIOS.values():
        here = [line for line in lines if line["scenario"] == scenario.name]
        arms = [
            _race_row(case, [line for line in here if line["case"] == case.name])
            for case in race(scenario, batch=batch)
            if any(line["case"] == case.name for line in here)
        ]
        rows += [{"scenario": scenario.name} | row for row in _ranked(arms)]
    return rows


def _race_row(case: Any, lines: Sequence[Mapping[str, Any]]) -> Row:
    found = [line["found"] for line in lines]
    seconds = [one["seconds"] for one in found]
    reached = [one for one in seconds if one is not None]
    return {
        "case": case.name,
        "family": case.family,
        "median seconds": _median(seconds),
        "lowest": min(reached, default=None),
        "highest": max(reached) if len(reached) == len(seconds) else None,
        "median epochs": _median([one["epochs"] if one["seconds"] is not None else None for one in found]),
        "reached": len(reached),
        "of": len(found),
        "readings": [{"seed": line["turn"]} | line["found"] for line in lines],
    }


def _median(values: Sequence[float | None]) -> float | None:
    """None counts as never: the median is None where half or more are."""
    found = statistics.median([float("inf") if value is None else value for value in values])
    return None if found == float("inf") else round(found, 3)


def _ranked(arms: list[Row]) -> list[Row]:
    """Each with the seconds of the best synchronous arm over its own; 0 where it did not reach the target."""
    best = min((row["median seconds"] or float("inf") for row in arms if row["family"] == "synchronous"), default=None)
    if best is None or best == float("inf"):
        return arms
    for row in arms:
        row["best synchronous over it"] = round(best / row["median seconds"], 3) if row["median seconds"] else 0.0
    return arms


# -- Markdown ----------------------------------------------------------------------------------------------------------


def markdown(found: Mapping[str, Any]) -> str:
    """All tables: the README's, the same with its spread, and the pace of each setting."""
    parts = []
    if "race" in found:
        parts += [_race_table(found, _ratio_cell), _race_table(found, _spread_cell)]
    parts += [_pace_table(setting, rows) for setting, rows in found.get("pace", {}).items()]
    return "\n\n".join(parts)


def _race_table(found: Mapping[str, Any], cell: Any) -> str:
    rows, limit = found["race"], found["limit"]
    scenarios = [name for name in SCENARIOS if any(row["scenario"] == name for row in rows)]
    cells = {(row["scenario"], row["case"]): cell(row, rows, limit) for row in rows}
    there = {row["case"] for row in rows}
    names = [case.name for case in race(SCENARIOS["slow"], batch=1) if case.name in there]  # there all arms run
    head = [f"seconds to {100 * found['target error']:g} % error"] + [SCENARIOS[name].title for name in scenarios]
    body = [[name, *(cells.get((scenario, name), _absent(name)) for scenario in scenarios)] for name in names]
    return _table(head, body) + "\n\n" + _WORDS[cell]


def _ratio_cell(row: Row, rows: Sequence[Row], limit: float) -> str:
    if row["median seconds"] is None:
        return _never(row, limit)
    same = [other for other in rows if other["scenario"] == row["scenario"]]
    ratio, seconds = row.get("best synchronous over it"), f"{row['median seconds']:.1f}{_some(row)}"
    if ratio is None or row["family"] == "plain":
        return seconds
    if row["family"] == "synchronous":
        best = min(
            (one["median seconds"] for one in same if one["family"] == "synchronous" and one["median seconds"]),
            default=None,
        )
        return f"**{seconds}**" if row["median seconds"] == best else seconds
    return f"{seconds} ({ratio:.2f}{', loss' if ratio < 1.0 else ''})"


def _spread_cell(row: Row, rows: Sequence[Row], limit: float) -> str:
    if row["median seconds"] is None:
        return _never(row, limit)
    highest = f"{row['highest']:.1f}" if row["highest"] is not None else f"over {limit:g}"
    words = f"{row['median seconds']:.1f} ({row['lowest']:.1f} to {highest}"
    return words + f"; epoch {row['median epochs']:.1f})"


def _never(row: Row, limit: float) -> str:
    return f"not within {limit:g} s" + (f" ({row['reached']} of {row['of']} do)" if row["reached"] else "")


def _absent(name: str) -> str:
    return f"as SSGD{name.removeprefix('batch by speed')}" if name.startswith("batch by speed") else ""


def _some(row: Row) -> str:
    return "" if row["reached"] == row["of"] else f" [{row['reached']} of {row['of']}]"


_WORDS = {
    _ratio_cell: "Bold: the best synchronous arm. In brackets: its seconds over those of the asynchronous arm; below 1 "
    "is a loss.",
    _spread_cell: "Medians over the seeds, with the lowest and highest, and the epoch in which the target was reached.",
}


def _pace_table(setting: str, rows: Sequence[Row]) -> str:
    head = [
        SETTINGS[setting].title,
        "samples/s",
        "lowest to highest",
        "commits/s",
        "over the plain loop",
        "of own speeds",
    ]
    body = [
        [
            row["case"],
            f"{row['samples/s']:,.0f}",
            f"{row['lowest']:,.0f} to {row['highest']:,.0f}",
            f"{row['commits/s']:,.1f}",
            f"{row.get('over the plain loop', 0.0):.2f}",
            _own(row),
        ]
        for row in rows
    ]
    return _table(head, body)


def _own(row: Row) -> str:
    return f"{row[_OWN]:.2f}" if _OWN in row else ""


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])
