"""``python -m reid_core report``: this machine's finished runs become committed records, and the
records become the tables that the README shows, and the list of what agrees with its paper."""

from collections.abc import Mapping

import pandas as pd
from PIL import Image

from reid_core import agreement, records, results
from reid_core.config import profile_datasets
from reid_core.drawings import Place
from reid_core.paths import REPORTED, ROOT, atomic_file, runs_folder, write_atomically
from reid_core.tables import MAIN, percent

_BASELINE = "paperdolls-sysu/baselines/two-stream/seed0"
_FIGURES = {  # the README's and the notebooks', from below results/runs/demo, by their new names
    "people": f"{_BASELINE}/figures/people.png",
    "top10": f"{_BASELINE}/figures/top10.png",
    "steps": "figures/summary/steps_rank1.png",
    "benchmarks-steps": "benchmarks/steps.png",
    "benchmarks-steps-gpu": "benchmarks/steps-gpu.png",
    "benchmarks-sweep": "benchmarks/sweep.png",
}
_README_MODES = ("all", "visible-to-infrared")  # the papers' first; summary.csv has the others too
GAP = REPORTED / "modality_gap.csv"  # of notebook 01
_TABLES = {  # as the figures
    GAP.name: f"{_BASELINE}/figures/{GAP.name}",
    "benchmarks.csv": "benchmarks/benchmarks.csv",  # of notebook 50
    "benchmarks-gpu.csv": "benchmarks/benchmarks-gpu.csv",
}


def publish_finished(profile: str) -> list[str]:
    """Copies the small files of every finished run of ``profile`` to ``results/reported/runs`` and
    returns the runs' names. Runs of an uncommitted tree are published as what they are: their
    provenance says "dirty". What was measured on validation identities is no result."""
    root = runs_folder()
    paths = sorted(root.glob(f"{profile}/*/*/*/*/metrics.json"))
    folders = [path.parent for path in paths if results.of_test(records.read_json(path))]
    return [records.publish(f).relative_to(REPORTED / "runs").as_posix() for f in folders]


def publish_figures() -> None:
    """Copies the figures that the README shows, and the tables of the modality gap and of speed,
    from where this machine's notebooks have left them, if they have, to ``results/reported``."""
    target = REPORTED / "figures"
    target.mkdir(parents=True, exist_ok=True)
    runs = runs_folder() / "demo"
    for name, place in _FIGURES.items():
        if (runs / place).exists():
            with Image.open(runs / place) as picture:  # 256 colours, also rare ones: half the size
                small = picture.convert("RGB").quantize(256, kmeans=1, dither=Image.Dither.NONE)
                with atomic_file(target / f"{name}.png") as file:
                    small.save(file, "PNG", optimize=True)
    for name, place in _TABLES.items():
        if (runs / place).exists():
            write_atomically(REPORTED / name, (runs / place).read_bytes())


def summary() -> pd.DataFrame:
    """One row for each evaluation of the committed records, averaged over seeds and trials."""
    runs = results.table(records_only=True)
    return results.averaged(runs).drop(columns=["settings", "source"])


def agreements() -> dict[str, pd.DataFrame]:
    """Of the committed records of ``demo``, by file name: every step that a paper claims, printed
    and measured, and a line for each artefact (see `agreement`)."""
    place = Place("demo", **profile_datasets("demo"))
    runs = results.table("demo", records_only=True)
    steps = agreement.steps(place, runs)
    lines = agreement.overview(place, runs, steps)
    return {"steps": steps[agreement.SHOWN].round(2), "agreement": lines.rename_axis("artefact")}


def readme_table(summarised: pd.DataFrame, profile: str) -> str:
    """A README table: single-shot, ``agw`` or full gallery, per cent, mean ± deviation."""
    chosen = summarised.query("profile == @profile and shots == 1 and gallery != 'official'")
    chosen = chosen[chosen["mode"].isin(_README_MODES)]
    lines = ["| dataset | search | method | runs | rank-1 | rank-10 | mAP | mINP |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for (dataset, mode), group in chosen.groupby(["dataset", "mode"]):
        names = group["method"] + "/" + group["variant"]
        rows = group.set_index(names)
        for name in [row for row in MAIN if row in rows.index]:
            row = rows.loc[name]
            cells = [dataset, mode, name, row["runs"]]
            cells += [percent(row, m) for m in ("rank1", "rank10", "mAP", "mINP")]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def gap_table() -> str:
    """The README's table of notebook 01: what matches within and across modalities untrained."""
    lines = ["| without training | from | to | rank-1 | mAP |", "|---|---|---|---|---|"]
    for row in pd.read_csv(GAP).to_dict("records"):
        cells = [row["features"], row["from"], row["to"]]
        cells += [f"{100 * row[measure]:.1f}" for measure in ("rank-1", "mAP")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def readme_tables(summarised: pd.DataFrame) -> dict[str, str]:
    """Every table that the README may show, by the name in its markers."""
    tables = {profile: readme_table(summarised, profile) for profile in ("demo", "gpu")}
    return tables | {"untrained": gap_table()}


def filled(text: str, tables: Mapping[str, str]) -> str:
    """``text`` with those of ``tables`` whose markers it has, each between its own."""
    for name, table in tables.items():
        start, end = f"<!-- {name}:start -->\n", f"\n<!-- {name}:end -->"
        if start in text:
            before, rest = text.split(start)
            text = before + start + table + end + rest.split(end)[1]
    return text


def write_report() -> None:
    """Writes ``summary.csv``, ``steps.csv`` and ``agreement.csv`` into ``results/reported``, and
    the README's tables, from the records."""
    summarised = summary()
    content = summarised.round(4).to_csv(index=False, lineterminator="\n")
    write_atomically(REPORTED / "summary.csv", content)
    claims = agreements()
    write_atomically(
        REPORTED / "steps.csv", claims["steps"].to_csv(index=False, lineterminator="\n")
    )
    write_atomically(REPORTED / "agreement.csv", claims["agreement"].to_csv(lineterminator="\n"))
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    write_atomically(readme, filled(text, readme_tables(summarised)))
