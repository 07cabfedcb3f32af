"""The files of an extract, from plain records: Parquet, NDJSON, CSV, and a ZIP archive around them with its manifest."""

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def data_file(records: Sequence[Mapping[str, Any]], columns: Sequence[str], form: str) -> bytes:
    """Return records as parquet, ndjson or csv. Columns hold text, true and false, or nothing."""
    return {"parquet": _parquet, "ndjson": _ndjson, "csv": _csv}[form](records, columns)


def _parquet(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    import pyarrow as pa  # noqa: PLC0415 - heavy: only who makes an extract loads it
    import pyarrow.parquet as pq  # noqa: PLC0415

    table = pa.table({name: pa.array([r[name] for r in records], pa.bool_() if _is_boolean(records, name) else pa.string()) for name in columns})
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def _is_boolean(records: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(isinstance(r[name], bool) for r in records)


def _ndjson(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    return "".join(json.dumps({name: r[name] for name in columns}, separators=(",", ":")) + "\n" for r in records).encode()


def _csv(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    out = io.StringIO(newline="")
    rows = csv.writer(out, lineterminator="\r\n")  # RFC 4180
    rows.writerow(columns)
    rows.writerows([cell(r[name]) for name in columns] for r in records)
    return out.getvalue().encode()


def cell(value: Any) -> str:
    """Return a value as a cell that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    plain = str(value)
    return f"'{plain}" if plain.startswith(_STARTS_A_FORMULA) and not isinstance(value, (int, float)) else plain


def bundle(files: Mapping[str, bytes], manifest: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Return a ZIP archive of files, and the manifest in it, which names each with its size and SHA-256."""
    named = [{"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()]
    whole = {**manifest, "files": named}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [*files.items(), ("manifest.json", json.dumps(whole, indent=1).encode())]:
            archive.writestr(zipfile.ZipInfo(name, _NO_TIME), data, zipfile.ZIP_DEFLATED)
    return out.getvalue(), whole
