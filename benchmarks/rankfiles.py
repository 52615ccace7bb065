"""The ranks behind the tables, small enough for the repository: benchmarks/results/ranks/.

    python benchmarks/rankfiles.py pack                 the studies in runs/quality/
    python benchmarks/rankfiles.py pack runs/shop-paper-0    a run
    python benchmarks/rankfiles.py unpack               into runs/quality/, where they are missing

One parquet file a study and seed, or a run: a row a test case (user, target, domain), a column a
method and kind of rank; of studies full ranking alone, which is what their tables show. Beside it a
.json with each method's notes, or each stage's manifest without the list of files. After `unpack`,
quality.py, ablations.py and phase_diagram.py go on on another machine: they fit what has no ranks
yet.
"""
import json
import sys
from collections import defaultdict
from pathlib import Path

import pandas as pd
from common import ROOT

from llm_emf.core import read_json

KEPT, RUNS = ROOT/"benchmarks"/"results"/"ranks", ROOT/"runs"/"quality"
CASE = ["user", "target", "domain"]
LOCAL = ("outputs", "outside") # parts of a manifest that tell about files


def wide(tables: dict) -> pd.DataFrame: # name → ranks
    "The cases, and a column for each name and kind of rank."
    first = next(iter(tables.values()))
    columns = {column: first[column].to_numpy() for column in CASE}
    for name, table in tables.items():
        assert (table[CASE].to_numpy() == first[CASE].to_numpy()).all(), f"other cases: {name}"
        for kind in table.columns.drop(CASE):
            columns[f"{name} | {kind}"] = table[kind].to_numpy()
    found = pd.DataFrame(columns)
    ranks = {c: "int32" for c in found.columns if found[c].dtype == "int64" and c not in CASE}
    return found.astype(ranks)


def keep(name: str, tables: dict, notes: dict) -> None:
    "Write one file of ranks and its notes."
    KEPT.mkdir(exist_ok=True, parents=True)
    table, file = wide(tables), KEPT/f"{name}.parquet"
    if not file.exists() or not pd.read_parquet(file).equals(table):
        ranks = [c for c in table if table[c].dtype == "int32"]
        table.to_parquet(file, index=False, compression="zstd", use_dictionary=CASE,
                         column_encoding={c: "BYTE_STREAM_SPLIT" for c in ranks})
    (KEPT/f"{name}.json").write_text(json.dumps(notes, indent=1, sort_keys=True) + "\n")
    print(f"{file.relative_to(ROOT)}: {len(tables)} methods, {len(table):,} cases, "
          f"{file.stat().st_size / 1e6:.1f} MB")


def pack_run(folder: Path) -> None:
    "A run's evaluated methods."
    found = {f.parent.name.removeprefix("evaluate-"): f for f in
             sorted(folder.glob("evaluate-*/ranks.parquet"))}
    manifests = {f.parent.name: read_json(f) for f in sorted(folder.glob("*/manifest.json"))}
    notes = {stage: {k: v for k, v in m.items() if k not in LOCAL}
             for stage, m in manifests.items()}
    keep(folder.name, {name: pd.read_parquet(f) for name, f in found.items()}, notes)


def pack_studies() -> None:
    "All studies; what is kept already stays."
    by_seed = defaultdict(dict)
    for file in sorted(RUNS.glob("*/*/ranks.parquet")):
        method, _, seed = file.parent.name.rpartition("-")
        by_seed[f"{file.parent.parent.name}, seed {seed}"][method] = file
    for name, files in by_seed.items():
        tables = {method: pd.read_parquet(f)[[*CASE, "rank"]] for method, f in files.items()}
        notes = {method: read_json(f.parent/"note.json") for method, f in files.items()}
        old, old_notes = kept(name)
        keep(name, old | tables, old_notes | notes)


def kept(name: str) -> tuple: # name → ranks, name → notes; empty if there is no such file
    "What `keep` wrote."
    file = KEPT/f"{name}.parquet"
    if not file.exists():
        return {}, {}
    table, tables = pd.read_parquet(file), defaultdict(lambda: table[CASE].copy())
    for column in table.columns.drop(CASE):
        method, _, kind = column.partition(" | ")
        tables[method][kind] = table[column]
    return dict(tables), read_json(file.with_suffix(".json"))


def unpack() -> None:
    "Ranks and notes into runs/quality/, where there are none."
    for file in sorted(KEPT.glob("*, seed *.parquet")):
        study, _, seed = file.stem.rpartition(", seed ")
        tables, notes = kept(file.stem)
        for method, table in tables.items():
            folder = RUNS/study/f"{method}-{seed}"
            if not (folder/"ranks.parquet").exists():
                folder.mkdir(parents=True, exist_ok=True)
                (folder/"note.json").write_text(json.dumps(notes[method]))
                table.to_parquet(folder/"ranks.parquet")
        print(f"{study}, seed {seed}: {len(tables)} methods")


if __name__ == "__main__":
    if sys.argv[1:2] == ["pack"]:
        for folder in sys.argv[2:]:
            pack_run(Path(folder))
        if not sys.argv[2:]:
            pack_studies()
    elif sys.argv[1:] == ["unpack"]:
        unpack()
    else:
        sys.exit(__doc__)
