"""Small copies of the publishers' layouts, made up by hand."""

from pathlib import Path


def write_ml_100k(folder: Path) -> Path:
    folder.mkdir()
    (folder / "u.data").write_text("2\t3\t4\t10\n2\t1\t5\t30\n10\t1\t1\t5\n2\t2\t3\t20\n10\t3\t2\t5\n")
    (folder / "u.genre").write_text("unknown|0\nDrama|1\n\n")
    films = ["1|Heat (1995)|01-Jan-1995||u|0|1", "2|caf\xe9 (1990)|||u|0|0", "3|unknown||||1|0"]
    (folder / "u.item").write_text("\n".join(films), encoding="latin-1")
    return folder


def write_ml_1m(folder: Path) -> Path:
    folder.mkdir()
    (folder / "ratings.dat").write_text(
        "1::199::5::20\n1::198::3::20\n2::197::4::10\n2::196::4::10\n1::195::3::5\n2::194::4::5\n"
    )
    films = [f"{200 - n}::Film {n} ({1900 + n})::Drama|Comedy" for n in range(110)]
    (folder / "movies.dat").write_text("\n".join(films), encoding="latin-1")
    return folder
