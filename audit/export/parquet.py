"""The columns of the CSV as Parquet, made from the finished JSON lines; needs the extra `bailiwick[parquet]`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson

from audit.verify import CSV_COLUMNS, PARQUET, ROWS, Row, csv_cells

NAME: Final = "parquet"
_BATCH: Final = 8192
_NUMBERS: Final = frozenset({"seq", "latency_us"})


def available() -> bool:
    """Whether pyarrow is installed."""
    return find_spec("pyarrow") is not None


def write(folder: Path) -> None:
    """Make `data/records.parquet`, a few thousand rows at a time."""
    import pyarrow as pa  # noqa: PLC0415  an extra
    import pyarrow.parquet as pq  # noqa: PLC0415  an extra

    schema = pa.schema([(name, pa.int64() if name in _NUMBERS else pa.string()) for name in CSV_COLUMNS])
    with pq.ParquetWriter(folder / PARQUET, schema, compression="zstd") as writer:
        rows = _rows(folder)
        while batch := list(islice(rows, _BATCH)):
            columns = [pa.array(column, kind.type) for column, kind in zip(zip(*batch, strict=True), schema, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def differences(folder: Path) -> Iterator[str]:
    """Where `data/records.parquet` says something else than the JSON lines beside it."""
    import pyarrow.parquet as pq  # noqa: PLC0415  an extra

    expected = _rows(folder)
    with pq.ParquetFile(folder / PARQUET) as file:
        if tuple(file.schema_arrow.names) != CSV_COLUMNS:
            yield f"{PARQUET} has other columns"
            return
        for batch in file.iter_batches(_BATCH):
            for found in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if next(expected, None) != found:
                    yield f"record {found[0]}: its row in {PARQUET} is not what its record says"
    if next(expected, None) is not None:
        yield f"{PARQUET} has fewer rows than there are records"


def _rows(folder: Path) -> Iterator[tuple[Any, ...]]:
    with (folder / ROWS["jsonl"][0]).open("rb") as lines:
        for line in lines:
            found = orjson.loads(line)
            cells = csv_cells(Row(found["log"], found["seq"], found["leaf"], b"", found["record"]))
            yield tuple(_typed(name, cell) for name, cell in zip(CSV_COLUMNS, cells, strict=True))


def _typed(name: str, cell: str) -> int | str | None:
    if name in _NUMBERS:
        return int(cell) if cell.lstrip("-").isdecimal() else None
    return cell or None
