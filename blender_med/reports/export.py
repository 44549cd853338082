"""The tables of a finished run as Parquet files, as a LaTeX table, and as a model card.

They are made from the CSV files of ``report/``, so that all forms tell the same.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from blender_med import __version__
from blender_med.errors import ConfigError
from blender_med.reports.columns import BLOCK_COLUMNS
from blender_med.stages.base import Run
from blender_med.stages.evaluate import method_settings
from blender_med.store.files import atomic_path, plain_text, write_text
from blender_med.store.manifest import read_manifest

Row = Mapping[str, str]
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
        "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "<": r"\textless{}", ">": r"\textgreater{}", "\n": " ", "\r": " ",
    }
)  # fmt: skip
_TEXTS = {
    *BLOCK_COLUMNS,
    *("method", "note", "slice", "slice_value", "metric", "label", "experts", "predicted", "gold"),
    *("question_id", "question", "context", "options", "reference", "text", "choice", "candidate"),
}
_TEMPLATE = """\
---
{front}---
# {name}

{description}
An ensemble of open language models for medical questions, made with blender_med {version}: every
expert answers, one answer is chosen or composed.

## Experts
| expert | weights | licence |
| --- | --- | --- |
{experts}
## Data
Type `{dataset}`; {questions} questions. Fingerprint `{fingerprint}`.

## Results
{results}
## Recipe
```yaml
{recipe}```

## Limits
No medical advice: models of any size answer medical questions wrongly. The figures hold for this
data, these experts and this seed. Models and data have licences of their own.
"""


def export_run(run: Run, form: str, folder: Path) -> list[Path]:
    """Write a run's tables in another form; returns the files.

    Args:
        run: A run whose report is written.
        form: ``parquet`` (each table), ``latex`` (``methods.tex``) or ``card`` (``README.md``).
        folder: Where to.

    Raises:
        ConfigError: The run has no report yet.
        StoreError: The folder is not writable.
    """
    report = run.stage_folder("report")
    if not (report / "methods.csv").is_file():
        fix = "run the pipeline to its end first: blender-med run RECIPE"
        raise ConfigError("the run has no report yet", file=report, fix=fix)
    writers: dict[str, Callable[[Run, Path], list[Path]]] = {
        "parquet": _write_parquet, "latex": _write_latex, "card": _write_card,
    }  # fmt: skip
    return writers[form](run, folder)


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a table, without the apostrophes that keep spreadsheets from running a text."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        return [{plain_text(k): plain_text(v or "") for k, v in row.items()} for row in rows]


def _write_parquet(run: Run, folder: Path) -> list[Path]:
    written = []
    for table in sorted(run.stage_folder("report").glob("*.csv")):
        written.append(folder / f"{table.stem}.parquet")
        _save_parquet(written[-1], read_table(table))
    return written


def _save_parquet(path: Path, rows: list[dict[str, str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(rows[0]) if rows else list(BLOCK_COLUMNS)
    columns = {name: _typed(name, [row[name] for row in rows]) for name in names}
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")


def _typed(name: str, cells: list[str]) -> list[Any]:
    """Numbers where every cell that is not empty is one; columns of texts stay texts."""
    if name.rpartition(".")[2] not in _TEXTS:
        for kind in (int, float):
            try:
                return [kind(cell) if cell else None for cell in cells]
            except ValueError:
                continue
    return [cell or None for cell in cells]


def _write_latex(run: Run, folder: Path) -> list[Path]:
    file = folder / "methods.tex"
    write_text(file, "\n".join(_latex_table(title, rows) for title, rows in _blocks(run)))
    return [file]


def _latex_table(title: str, rows: list[list[str]]) -> str:
    head, *body = rows
    lines = [" & ".join(cell.translate(_LATEX) for cell in row) + r" \\" for row in body]
    top = " & ".join(cell.translate(_LATEX) for cell in head) + r" \\"
    return "\n".join(
        [
            r"\begin{table}", r"\centering", rf"\caption{{{title.translate(_LATEX)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\hline", top, r"\hline", *lines,
            r"\hline", r"\end{tabular}", r"\end{table}", "",
        ]
    )  # fmt: skip


def _blocks(run: Run) -> Iterator[tuple[str, list[list[str]]]]:
    """Title and cells of each data set, task and protocol: its test split, else its last one."""
    rows = read_table(run.stage_folder("report") / "methods.csv")
    for key, group in groupby(rows, key=lambda r: (r["dataset"], r["task"], r["protocol"])):
        own = list(group)
        splits = [row["split"] for row in own]
        split = "test" if "test" in splits else splits[-1]
        metric = "accuracy" if key[1] == "mcq" else method_settings(run).primary_long
        head = ["method", "n", metric, "95 % interval", "delta", "p (Holm)"]
        yield (
            f"{', '.join(key)}: {split}",
            [head, *(_cells(row, metric) for row in own if row["split"] == split)],
        )


def _cells(row: Row, metric: str) -> list[str]:
    figures = {end: row.get(f"{metric}{end}", "") for end in ("", "_low", "_high", "_delta")}
    value, low, high, delta = (_rounded(cell) for cell in figures.values())
    interval = f"{low} - {high}" if low else ""
    return [row["method"], row["n"], value, interval, delta, _rounded(row.get(f"{metric}_p_holm"))]


def _rounded(cell: str | None) -> str:
    return f"{float(cell):.3f}" if cell else ""


def _write_card(run: Run, folder: Path) -> list[Path]:
    manifest = read_manifest(run.stage_folder("prepare"))
    recipe = run.recipe.model_dump(mode="json", exclude_unset=True)
    text = _TEMPLATE.format(
        front=yaml.safe_dump({"tags": ["blender_med", "medical", "question-answering"]}),
        name=run.recipe.name,
        description=f"{run.recipe.description}\n" if run.recipe.description else "",
        version=__version__,
        experts="".join(_row(_expert(e)) for e in run.experts),
        dataset=", ".join(data.type for data in run.recipe.dataset),
        questions=manifest.rows if manifest else "unknown",
        fingerprint=manifest.fingerprint[:16] if manifest else "unknown",
        results="".join(_markdown(title, rows) for title, rows in _blocks(run)),
        recipe=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True),
    )
    write_text(folder / "README.md", text)
    return [folder / "README.md"]


def _expert(expert: Any) -> list[str]:
    weights = expert.package or expert.model or expert.engine
    return [expert.name, weights, expert.license or "see its source"]


def _markdown(title: str, rows: list[list[str]]) -> str:
    head, *body = rows
    ruler = _row(["---"] + ["---:"] * (len(head) - 1))
    return f"{title}\n\n{_row(head)}{ruler}{''.join(map(_row, body))}\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"
