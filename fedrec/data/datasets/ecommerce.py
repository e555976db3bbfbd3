"""Shops: Online Retail II, and Amazon video games.

Online Retail II: invoices of a British shop for gifts (Chen, Sain and Guo 2012; UCI data set 502, CC BY 4.0). Amazon
video games as SASRec was evaluated on (Kang and McAuley 2018, arXiv:1808.09781): "user item" in order.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue, common_words, multi_hot, position
from fedrec.data.dataset import Dataset
from fedrec.data.download import Files
from fedrec.data.io.delimited import Layout, read_delimited
from fedrec.data.io.parquet import read_parquet
from fedrec.data.io.table import Table, decode_dictionary
from fedrec.data.prepare import PrepareOptions, prepare_dataset
from fedrec.data.sources import LocalSource, Rows, rows_of
from fedrec.errors import FedrecError

COLUMNS = ("Invoice", "StockCode", "Description", "Quantity", "InvoiceDate", "Price", "Customer ID")
PRODUCT = re.compile(r"\d{5}[A-Z]{0,2}")  # what is left out are postage, fees, samples, vouchers and tests
WORD = re.compile(r"[A-Z]{3,}")
LEAST_PRODUCTS = 10  # with a word of the description, for it to become a feature


@dataclass(frozen=True, kw_only=True)
class OnlineRetailII(LocalSource):
    """Purchases of customers, in the order of invoices; within one invoice, in the order of its lines.

    Lines without a customer, cancellations, quantities below 1 and codes that are no product are left out and
    counted. A product that a customer bought again counts once, when it was first bought, so that the task is to name
    what is new to the customer (`repeats`). The file has no list of products: the catalogue is made of the codes sold,
    with the description used most and, as features, its words, the shop's place of the code, and the logarithm of the
    median price.
    """

    name: ClassVar[str] = "online-retail-ii"
    needed: ClassVar[tuple[str, ...]] = ("online_retail.parquet", "online_retail.csv")
    publisher: ClassVar[str] = "UCI Machine Learning Repository, data set 502, a sheet saved as Parquet or CSV"

    def load(self) -> Dataset:
        """Read the invoices."""
        lines = read_lines(*self.files())
        codes = np.array([code.strip().upper() for code in lines.texts("StockCode")])
        bought, dropped = purchases(lines, codes)
        rows = rows_of(sold(lines, codes, bought), "customer", "code", "time", None)
        return prepare_dataset(rows, self, PrepareOptions(self.name, products(lines, codes, rows), dropped=dropped))


def read_lines(files: Files, needed: str) -> Table:
    """Return the lines of all invoices, with every column that is read."""
    if needed.endswith(".csv"):
        table = read_delimited(files.read(needed), files.label(needed), Layout(quoted=True))
    elif files.inside is not None:
        raise FedrecError(f"{files.label(needed)}: Parquet inside an archive can't be read; unpack it")
    else:
        table = read_parquet(files.place / needed)
    table.require(COLUMNS)
    return table


def mask(chosen: NDArray[np.bool_]) -> Any:
    """Return a mask that Arrow understands."""
    return pa.array(chosen)


def purchases(lines: Table, codes: NDArray[np.str_]) -> tuple[NDArray[np.bool_], tuple[tuple[str, int], ...]]:
    """Return which lines are purchases of products by known customers, and how many others there were of each kind."""
    kept, dropped = np.ones(len(lines), bool), list[tuple[str, int]]()
    cancelled = [invoice[:1].upper() in ("C", "A") for invoice in lines.texts("Invoice")]
    no_customer = [customer.strip().lower() in ("", "nan") for customer in lines.texts("Customer ID")]
    tests = (
        ("lines without a customer", np.array(no_customer)),
        ("lines of cancellations and adjustments", np.array(cancelled)),
        ("lines with a quantity below 1", lines.numbers("Quantity") < 1),
        ("lines of postage, fees, vouchers and tests", ~np.array([bool(PRODUCT.fullmatch(code)) for code in codes])),
    )
    for what, wrong in tests:
        dropped.append((what, int((kept & wrong).sum())))
        kept &= ~wrong
    if not kept.any():
        raise FedrecError(f"{lines.place(0)}: no purchase of a product by a known customer is in the file")
    return kept, tuple(dropped)


def sold(lines: Table, codes: NDArray[np.str_], bought: NDArray[np.bool_]) -> Table:
    """Return customer, code and time of the lines that are purchases."""
    line = np.flatnonzero(bought)
    columns = {
        "code": pa.array(codes[bought]),
        "customer": lines.columns["Customer ID"].filter(mask(bought)),
        "time": moments(lines, bought),
    }
    return Table(columns, lambda row: lines.place(int(line[max(row, 0)])))


def moments(lines: Table, bought: NDArray[np.bool_]) -> Any:
    """Return the times of the chosen lines as seconds since 1970; "2009-12-01 07:45:00" or a Parquet timestamp."""
    column = decode_dictionary(lines.columns["InvoiceDate"]).filter(mask(bought))
    try:
        return column.cast(pa.timestamp("s")).cast(pa.int64())
    except pa.ArrowException as error:
        wrong = pc.index(pc.starts_with(column.cast(pa.string()), "20"), False).as_py()  # pyright: ignore[reportAttributeAccessIssue]
        row = int(np.flatnonzero(bought)[max(wrong, 0)])
        raise FedrecError(
            f"{lines.place(row)}: InvoiceDate '{column[max(wrong, 0)]}': times like 2009-12-01 07:45:00 are expected"
        ) from error


def products(lines: Table, codes: NDArray[np.str_], rows: Rows) -> Catalogue:
    """Return the catalogue of the products that `rows` name, described by all lines of the file."""
    ids = [rows.item.names[n] for n in rows.item.order()]
    row_of = {code: n for n, code in enumerate(ids)}
    line_of = np.array([row_of.get(str(code), -1) for code in codes])
    price, said = lines.numbers("Price"), lines.texts("Description")
    names = [Counter[str]() for _ in ids]
    paid = [list[float]() for _ in ids]
    for line in np.flatnonzero(line_of >= 0):
        if text := " ".join(said[line].split()):
            names[line_of[line]][text] += 1
        if price[line] > 0:
            paid[line_of[line]].append(float(price[line]))
    titles = [name.most_common(1)[0][0] if name else code for name, code in zip(names, ids, strict=True)]
    said_in = [sorted(set(WORD.findall(title.upper()))) for title in titles]
    flags, words = multi_hot(common_words(said_in, LEAST_PRODUCTS))
    cost = np.array([np.log(np.median(found)) if found else 0.0 for found in paid], np.float32)
    features = np.concatenate([flags, cost[:, None], position(len(ids))], axis=1).astype(np.float32)
    labels = (*(f"word:{word.lower()}" for word in words), "log price", "position")
    return Catalogue(np.array(ids), np.array(titles), features, labels, "interactions")


@dataclass(frozen=True, kw_only=True)
class AmazonVideoGames(LocalSource):
    """287,107 reviews by 31,013 users of 23,715 games, lines in the order of time within each user.

    No titles and no times are published with it, and users and games with fewer than five reviews were dropped by its
    makers. Item numbers follow the shop's own product codes.
    """

    name: ClassVar[str] = "amazon-video-games"
    needed: ClassVar[tuple[str, ...]] = ("Video.txt",)
    publisher: ClassVar[str] = "the authors of SASRec"

    def load(self) -> Dataset:
        """Read Video.txt."""
        files, needed = self.files()
        layout = Layout(" ", columns=("user", "item"))
        table = read_delimited(files.read(needed), files.label(needed), layout)
        return prepare_dataset(rows_of(table, "user", "item", None, None), self, PrepareOptions(self.name))
