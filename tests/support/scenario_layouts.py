"""Small copies of the scenario data sets' layouts, made up by hand."""

import gzip
from pathlib import Path

HEADER = "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country"
LINES = (
    "1,10001,RED LAMP,2,2010-01-01 10:00:00,4.0,7.0,UK",
    '1,10002a,"SET OF 2, BLUE",1,2010-01-01 10:00:00,1.0,7.0,UK',
    "C2,10001,RED LAMP,-2,2010-01-02 10:00:00,4.0,7.0,UK",
    "3,POST,POSTAGE,1,2010-01-03 10:00:00,9.0,7.0,UK",
    "4,10003, RED  MUG,1,2010-01-04 10:00:00,2.0,7.0,UK",
    "5,10001,RED LAMP,1,2010-01-05 10:00:00,8.0,7.0,UK",
    "6,10002A,BLUE SET,3,2010-01-06 10:00:00,1.0,9.0,UK",
    "7,10001,RED LAMP,1,2010-01-07 10:00:00,4.0,,UK",
    "8,10003,RED MUG,0,2010-01-08 10:00:00,2.0,9.0,UK",
    "9,10001,RED LAMP,1,2010-01-09 10:00:00,4.0,9.0,UK",
)


def write_online_retail(folder: Path) -> Path:
    folder.mkdir()
    (folder / "online_retail.csv").write_text("\n".join((HEADER, *LINES)) + "\n")
    return folder


def write_video_games(folder: Path) -> Path:
    folder.mkdir()
    (folder / "Video.txt").write_text("1 5\n1 3\n1 4\n2 4\n2 5\n")
    return folder


def write_filmtrust(folder: Path) -> Path:
    folder.mkdir()
    (folder / "ratings.txt").write_text("1 1 2\n1 2 4\n1 3 3.5\n2 4 0.5\n2 1 4\n5 2 1\n")
    (folder / "trust.txt").write_text("2 1 1\n2 5 1\n2 9 1\n5 5 1\n2 1 1\n")
    return folder


def write_gowalla(folder: Path, packed: bool = False) -> Path:
    folder.mkdir()
    for name, text in (("train.txt", "0 0 1 2 3\n1 1 4\n2 5\n"), ("test.txt", "0 4 5\n1 0 \n2\n")):
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / name).write_text(text)
    return folder


def write_microlens(folder: Path, shared_tag: int = 20) -> Path:
    folder.mkdir()
    (folder / "MicroLens-50k_pairs.tsv").write_text("1\t3 1 2\n2\t2 3\n")
    titles = ['1,"a dance # Funny # alone"', "2,a song", *(f'{n},"cat {n} # funny "' for n in range(3, 2 + shared_tag))]
    (folder / "MicroLens-50k_titles.csv").write_text("item,title\n" + "\n".join(titles) + "\n")
    return folder


def write_lastfm(folder: Path) -> Path:
    folder.mkdir()
    (folder / "user_artists.dat").write_text("userID\tartistID\tweight\n2\t1\t13\n2\t3\t2\n4\t3\t5\n4\t1\t1\n")
    (folder / "artists.dat").write_text("id\tname\turl\tpictureURL\n1\tA\tu\tp\n2\tB\tu\t\n3\tC\tu\tp\n")
    (folder / "user_friends.dat").write_text("userID\tfriendID\n2\t4\n4\t2\n4\t8\n")
    return folder
