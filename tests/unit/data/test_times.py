"""Times: whole numbers to the end, and what they were understood as."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.data.clock import Clock
from fedrec.data.facts import suspect_times
from fedrec.data.io.table import Table
from fedrec.data.io.times import AS_WRITTEN, Moments, NotATimeError, TimeOptions, read_moments
from fedrec.errors import FedrecError
from fedrec.experiment.settings import load

SECOND = 1365032707
DATE = "2013-04-03 23:45:07"


def read(values: Any, options: TimeOptions = AS_WRITTEN) -> Moments:
    column = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    return Table({"time": column}, lambda row: f"f:{row + 2}", options).moments("time")


@pytest.mark.parametrize(
    ("value", "whole", "per_second"),
    [
        (SECOND, SECOND, 1),
        (f" {SECOND} ", SECOND, 1),
        (f"+{SECOND}", SECOND, 1),
        (SECOND * 1000, SECOND * 1000, 1_000),
        (SECOND * 10**6, SECOND * 10**6, 10**6),
        (str(SECOND * 10**9 + 17), SECOND * 10**9 + 17, 10**9),
        (float(SECOND), SECOND, 1),
        (SECOND + 0.5, SECOND * 1000 + 500, 1_000),
        (f"{SECOND}.123456789", SECOND * 10**9 + 123456789, 10**9),
        (Decimal(f"{SECOND}.25"), SECOND * 1000 + 250, 1_000),
        ("2013-04-03T23:45:07Z", SECOND, 1),
        ("2013-04-03T23:45:07.000000Z", SECOND * 10**6, 10**6),
        (DATE, SECOND, 1),
        (f"{DATE} UTC", SECOND, 1),
        ("2013-04-04 01:45:07,5 +0200", SECOND * 1000 + 500, 1_000),
        ("20130403T234507Z", SECOND * 10**6, 10**6),
        (datetime(2013, 4, 3, 23, 45, 7), SECOND * 10**6, 10**6),
    ],
)
def test_a_time_is_read_with_every_digit(value: object, whole: int, per_second: int) -> None:
    moments = read([value, value])
    assert moments.values.dtype == np.int64 and moments.values.tolist() == [whole, whole]
    assert moments.clock.per_second == per_second and moments.clock.date(whole) == DATE


def test_days_and_stated_formats_are_read() -> None:
    assert read([date(2013, 4, 3)]).clock.date(1364947200) == "2013-04-03 00:00:00"
    for text, form in (("03/04/2013", "%d/%m/%Y"), ("20130403", "%Y%m%d"), ("Apr 3, 2013", "%b %d, %Y")):
        assert read([text], TimeOptions(form=form)).values.tolist() == [1364947200]
    assert read([20130403], TimeOptions(form="%Y%m%d")).values.tolist() == [1364947200]
    fine = read(["03/04/2013 00:00:01.25"], TimeOptions(form="%d/%m/%Y %H:%M:%S.%f"))
    assert fine.values.tolist() == [1364947201250000]
    assert read([5, 6], TimeOptions(unit="ms")).clock.per_second == 1000


def test_small_numbers_only_order() -> None:
    moments = read([3, 1, 2])
    assert moments.clock == Clock() and moments.clock.date(3) == "3"
    assert read([-899996400]).clock.date(-899996400) == "1941-06-25 09:00:00"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["5", "soon"], r"f:3: time 'soon': unix time, or a date"),
        (["5", ""], r"f:3: time '': unix time"),
        (["5", None], r"f:3: time '': unix time"),
        (["5", "1e300"], r"f:3: time '1e300'"),
        ([1.0, float("nan")], r"f:3: time 'nan'"),
        ([DATE, "2013-04-03T23:45:07Z"], r"f:3: time '2013-04-03T23:45:07Z'.*has no zone"),
        (["2013-04-03T23:45:07Z", DATE], r"f:3: .*has a zone"),
        (["03/04/2013"], r"f:2: time '03/04/2013'.*dataset\.time_format"),
        (pa.array([1, 2**64 - 1], pa.uint64()), r"f:3: time '18446744073709551615'"),
        ([True], r"f:2: time 'True': a column of type bool holds no times"),
        ([{"a": 1}], r"f:2: .*type struct<a: int64> holds no times"),
    ],
)
def test_what_is_no_time_is_named_by_its_row(values: Any, message: str) -> None:
    with pytest.raises(FedrecError, match=message):
        read(values)


def test_a_format_that_does_not_fit_is_named() -> None:
    with pytest.raises(FedrecError, match=r"f:3: time 'x': a time like dataset\.time_format=%Y is expected"):
        read(["2013", "x"], TimeOptions(form="%Y"))
    with pytest.raises(FedrecError, match=r"f:3: time 'x'.*does not match format"):
        read(["1.5", "x"], TimeOptions(form="%S.%f"))


@given(st.lists(st.floats(-1e9, 1e12, allow_subnormal=False).map(lambda x: round(x, 3)), min_size=1, max_size=9))
def test_fractions_become_whole_and_go_back_to_what_was_written(values: list[float]) -> None:
    for column in (values, [repr(value) for value in values]):
        moments = read(column)
        assert moments.clock.numbers(moments.values).tolist() == values
        assert np.array_equal(np.argsort(moments.values, kind="stable"), np.argsort(values, kind="stable"))


def test_a_digest_is_that_of_floating_numbers_where_these_are_exact() -> None:
    for column, numbers in (
        (pa.array([SECOND, 5]), [SECOND, 5.0]),
        (pa.array([SECOND + 0.25]), [SECOND + 0.25]),
        (pa.array([SECOND * 1000 + 523], pa.timestamp("ms")), [(SECOND * 10**6 + 523_000) / 1e6]),
        (pa.array([SECOND * 10**9 + 523_123_000], pa.timestamp("ns", "UTC")), [(SECOND * 10**6 + 523_123) / 1e6]),
    ):
        moments = read(column)
        assert b"".join(moments.clock.encode(moments.values)) == np.array(numbers, "<f8").tobytes()
    one, other = (read([str(2**60 + more)]) for more in (0, 1))
    assert list(one.clock.encode(one.values)) != list(other.clock.encode(other.values))


def test_what_is_suspicious_is_counted() -> None:
    now = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
    time = np.array([0, SECOND, SECOND, SECOND * 1000, SECOND])
    said = [one.text for one in suspect_times(time, Clock(1), now)]
    assert [text[:14] for text in said] == ["1 of 5 rows ha", "1 of 5 rows li", "1 of 5 rows ha"]
    assert "time 0" in said[0] and "future" in said[1] and "another size" in said[2]
    assert suspect_times(time, Clock(), now) == [] == suspect_times(time[1:3], Clock(1), now)
    rounded = read(["1.37E+09"] * 2)
    assert rounded.clock.rounded == 2
    (found,) = suspect_times(rounded.values, rounded.clock, now)
    assert "spreadsheet" in found.text


def test_a_data_set_says_what_is_suspicious_about_its_times(tmp_path: Path) -> None:
    rows = [f"{user},{item},{SECOND + item if user else 0}" for user in range(4) for item in range(4)]
    (tmp_path / "log.csv").write_text("user,item,time\n" + "\n".join(rows) + "\n")
    data = load(["dataset=csv", f"dataset.path={tmp_path / 'log.csv'}"]).experiment.dataset.load()
    assert any("4 of 16 rows have the time 0" in one.text for one in data.findings)


@pytest.mark.parametrize(
    ("texts", "form"),
    [
        (["14.07.2017 02:40", "01.02.2017 03:00"], "%d.%m.%Y %H:%M"),
        (["07/14/2017", "01/02/2017"], "%m/%d/%Y"),
        (["01/02/2017", "14/07/2017"], "%d/%m/%Y"),
        (["1-2-17 1:02:03 PM"], "%d-%m-%y %I:%M:%S %p"),
    ],
)
def test_a_date_of_a_usual_kind_is_refused_with_the_format_that_reads_it(texts: list[str], form: str) -> None:
    with pytest.raises(NotATimeError) as error:
        read_moments(pa.array(texts), TimeOptions())
    assert f'"dataset.time_format={form}"' in error.value.args[1]
    assert len(read_moments(pa.array(texts), TimeOptions(form=form)).values) == len(texts)


def test_a_date_that_may_be_of_two_kinds_is_refused_with_both() -> None:
    with pytest.raises(NotATimeError) as error:
        read_moments(pa.array(["01/02/2017"]), TimeOptions())
    assert "%d/%m/%Y" in error.value.args[1] and "%m/%d/%Y" in error.value.args[1]
