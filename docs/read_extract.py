"""Read an extract with DuckDB and with Polars: recovery and improvement by problem area.

Usage: python read_extract.py FOLDER      (where the archive was unpacked; needs: pip install duckdb polars)
"""

import hashlib
import json
import sys
from pathlib import Path

import duckdb
import polars as pl

folder = Path(sys.argv[1])
manifest = json.loads((folder / "manifest.json").read_text())
for file in manifest["files"]:
    assert hashlib.sha256((folder / file["name"]).read_bytes()).hexdigest() == file["sha256"], f"{file['name']} was changed"
print(f"{manifest['records']} records, {manifest['made_up_records']} of them made up; k = {manifest['k']}, l = {manifest['l']}")
print(manifest["label"])

if {manifest["levels"].get("area"), manifest["levels"].get("outcome_band")} & {"any"}:
    sys.exit("Area or outcome had to be made coarser to nothing: order a longer period, or the other profile.")

print("DuckDB:")
print(
    duckdb.sql(f"""
        SELECT area, count(*) AS records, round(avg((outcome_band = 'reliable_improvement')::INT), 2) AS improved, round(avg(remission::INT), 2) AS remitted
        FROM '{folder / "outcomes.parquet"}' WHERE outcome_band <> 'not_assessable' GROUP BY area ORDER BY area
    """)
)

print("Polars:")
print(
    pl.read_parquet(folder / "outcomes.parquet")
    .filter(pl.col("outcome_band") != "not_assessable")
    .group_by("area")
    .agg(pl.len().alias("records"), (pl.col("outcome_band") == "reliable_improvement").mean().round(2).alias("improved"))
    .sort("area")
)
