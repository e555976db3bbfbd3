"""Times as whole numbers to the end, and what they were understood as: unit, zone, and what can't be one clock.

Numbers count from 1970 in seconds, milli-, micro- or nanoseconds: their size tells which, or a setting. Texts are
ISO 8601, or of a stated format. A time without a zone is taken as UTC.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrec.data.clock import COUNTS, EPOCH, Clock, thinned

UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
SIZES = ((1e8, ""), (1e11, "s"), (1e14, "ms"), (1e17, "us"), (np.inf, "ns"))  # below 1e8 a number may count anything
DATE = re.compile(
    r"(?P<first>\d{1,2})(?P<mark>[./-])(?P<second>\d{1,2})(?P=mark)(?P<year>\d{4}|\d{2})"
    r"((?P<between>[ T]|, )(?P<hour>\d{1,2}):\d{2}(?P<seconds>:\d{2})?((?P<gap> ?)(?P<half>[AaPp][Mm]))?)?"
)
FRACTIONS = (1, 1_000, 1_000_000, 1_000_000_000)
LONGEST = 36  # characters of a number that Arrow reads exactly
EXPECTED = "unix time, or a date like 2013-04-03T23:45:07Z, is expected; dataset.time_format=%d.%m.%Y reads others"
compute: Any = pc  # pyarrow ships no types


@dataclass(frozen=True, slots=True)
class Moments:
    """Times of n rows as whole numbers, and their clock."""

    values: NDArray[np.int64]
    clock: Clock


@dataclass(frozen=True, slots=True)
class TimeOptions:
    """How times are written where they don't say so themselves: a unit of `UNITS`, or a format as strftime's."""

    unit: str | None = None
    form: str | None = None


AS_WRITTEN = TimeOptions()


class NotATimeError(Exception):
    """A row holds no time; `args` are its number and what would be right."""


def read_moments(column: Any, options: TimeOptions) -> Moments:
    """Return an Arrow column as times; `NotATimeError` names the first row that holds none."""
    kind = column.type
    if column.null_count:
        raise NotATimeError(first_true(compute.is_null(column)), EXPECTED)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return from_dates(column)
    if options.form:
        return _from_format(_as_text(column), options.form)
    if pa.types.is_integer(kind):
        return from_numbers(_whole(column), options)
    if pa.types.is_floating(kind):
        return from_floats(column.cast(pa.float64()).to_numpy(), options)
    if pa.types.is_decimal(kind) or is_text(kind):
        return _from_texts(_as_text(column), options)
    raise NotATimeError(0, f"a column of type {kind} holds no times: {EXPECTED}")


def from_dates(column: Any) -> Moments:
    """Return timestamps or dates as they are; billionths become millionths where nothing is lost."""
    kind = column.type
    if pa.types.is_date(kind):
        days = column.cast(pa.timestamp("s") if pa.types.is_date32(kind) else pa.timestamp("ms"))
        return Moments(_int64(days), _dates_clock(days.type.unit, "dates"))
    values, unit = _int64(column), kind.unit
    if unit == "ns" and not (values % 1_000).any():
        values, unit = values // 1_000, "us"
    return Moments(values, _dates_clock(unit, f"moments of the zone {kind.tz}" if kind.tz else "moments, taken as UTC"))


def from_numbers(values: NDArray[np.int64], options: TimeOptions) -> Moments:
    """Return whole numbers with the unit that is set, or that their size tells."""
    unit = options.unit or unit_by_size(values)
    how = "as set" if options.unit else "by its size"
    said = f"unix time in {unit}, {how}" if unit else COUNTS
    return Moments(values, Clock(UNITS.get(unit, 0), 1, said))


def from_floats(values: NDArray[np.float64], options: TimeOptions) -> Moments:
    """Return numbers as whole ones of the coarsest unit that keeps them; what no 64 bits hold is no time."""
    if (wrong := ~(np.abs(values) < 2.0**63)).any():  # NaN is neither below nor above
        row = int(np.flatnonzero(wrong)[0])
        raise NotATimeError(row, EXPECTED)
    room = 2.0**63 / max(float(np.abs(values).max(initial=0.0)), 1.0)
    whole, divisor = values.astype(np.int64), 1
    for divisor in (one for one in FRACTIONS if one < room):
        whole = np.rint(values * divisor).astype(np.int64)
        if np.array_equal(whole / divisor, values):
            break
    found = from_numbers(np.rint(values).astype(np.int64), options)
    return Moments(whole, replace(found.clock, per_second=found.clock.per_second * divisor, divisor=divisor))


def unit_by_size(values: NDArray[np.int64]) -> str:
    """Return the unit under which most times lie within a few thousand years of 1970, "" where they are too small."""
    some = np.abs(thinned(values).astype(np.float64))
    return next(unit for bound, unit in SIZES if float(np.median(some)) < bound)


def is_text(kind: Any) -> bool:
    """Say whether an Arrow type is text of any width."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def first_true(mask: Any) -> int:
    """Return the first row at which a mask of Arrow is true, -1 where there is none."""
    return int(compute.index(mask, True).as_py())


def _dates_clock(unit: str, said: str) -> Clock:
    return Clock(UNITS[unit], UNITS[unit], said)


def _int64(column: Any) -> NDArray[np.int64]:
    return column.cast(pa.int64()).to_numpy()


def _as_text(column: Any) -> Any:
    return compute.utf8_trim_whitespace(column.cast(pa.large_string()))


def _whole(column: Any) -> NDArray[np.int64]:
    try:
        return _int64(column)
    except pa.ArrowException:  # unsigned, and above what 63 bits hold
        row = first_true(compute.greater(column, pa.scalar(2**63 - 1, pa.uint64())))
        raise NotATimeError(row, EXPECTED) from None


def _from_texts(texts: Any, options: TimeOptions) -> Moments:
    """Return texts as times, all numbers or all dates."""
    number = r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"
    numbers = compute.match_substring_regex(texts, number)
    if not numbers[0].as_py():
        return _from_iso(texts)
    if (row := first_true(compute.invert(numbers))) >= 0:
        raise NotATimeError(row, EXPECTED)
    texts = compute.replace_substring_regex(texts, r"^\+", "")
    try:
        return from_numbers(_int64(texts), options)
    except pa.ArrowException:
        rounded = int(compute.sum(compute.match_substring_regex(texts, "[eE]")).as_py() or 0)
    try:
        found = _from_decimals(texts, options)
    except pa.ArrowException:  # more digits than 64 bits hold, or more than nine behind the point
        found = from_floats(texts.cast(pa.float64()).to_numpy(), options)
    return Moments(found.values, replace(found.clock, rounded=rounded))


def _from_decimals(texts: Any, options: TimeOptions) -> Moments:
    """Return decimal texts exactly, in the coarsest unit that keeps every digit; others are `ArrowInvalid`."""
    if compute.max(compute.binary_length(texts)).as_py() > LONGEST:
        raise pa.ArrowInvalid("more digits than 64 bits hold")
    for digits in (0, 3, 6, 9):
        try:
            whole = _unscaled(texts.cast(pa.decimal128(28, digits)))
        except pa.ArrowException:
            if digits == 9:
                raise
            continue
        divisor = 10**digits
        found = from_numbers(whole // divisor, options).clock
        return Moments(whole, replace(found, per_second=found.per_second * divisor, divisor=divisor))
    raise NotImplementedError


def _unscaled(decimals: Any) -> NDArray[np.int64]:
    """Return the digits of decimals without their point."""
    chunks = decimals.chunks if isinstance(decimals, pa.ChunkedArray) else [decimals]
    words = [np.frombuffer(one.buffers()[1], "<i8")[2 * one.offset :][: 2 * len(one)] for one in chunks if len(one)]
    low, high = (np.concatenate([part[side::2] for part in words]) for side in (0, 1))
    if ((low >> 63) != high).any():
        raise pa.ArrowInvalid("more digits than 64 bits hold")
    return low


def _from_iso(texts: Any) -> Moments:
    """Return ISO 8601 texts, with a zone in each row or in none."""
    plain = compute.replace_substring_regex(texts, r"\s*(UTC|GMT|utc|z)$", "Z")
    plain = compute.replace_substring_regex(plain, r"\s+([-+][0-9]{2}:?[0-9]{2})$", r"\1")
    plain = compute.replace_substring_regex(plain, r"(:[0-9]{2}),([0-9])", r"\1.\2")
    zoned = bool(compute.match_substring_regex(plain[0:1], r"(Z|[-+][0-9]{2}(:?[0-9]{2})?)$")[0].as_py()) and (
        "T" in plain[0].as_py() or ":" in plain[0].as_py()
    )
    for unit in UNITS:
        try:
            values = _int64(plain.cast(pa.timestamp(unit, "UTC" if zoned else None)))
        except pa.ArrowException:
            continue
        said = "ISO 8601 with a zone, as UTC" if zoned else "ISO 8601 without a zone, taken as UTC"
        return Moments(values, _dates_clock(unit, said))
    return _each(texts, _moment, f"ISO 8601 {'with' if zoned else 'without'} a zone", zoned)


def _from_format(texts: Any, form: str) -> Moments:
    """Return texts of a stated format; fractions of a second (%f) are read more slowly."""
    if "%f" in form:
        return _each(texts, lambda text: datetime.strptime(text, form), f"dates written {form}")
    try:
        found = compute.strptime(texts, format=form, unit="s", error_is_null=True)
    except pa.ArrowException as error:
        raise NotATimeError(0, f"dataset.time_format={form} is no format ({error})") from error
    if found.null_count:
        row = first_true(compute.is_null(found))
        raise NotATimeError(row, f"a time like dataset.time_format={form} is expected")
    return Moments(_int64(found), _dates_clock("s", f"dates written {form}, as UTC"))


def _moment(text: str) -> datetime:
    """Read the rarer forms of ISO 8601, such as 20130403T234507Z."""
    if text.isdecimal():
        raise ValueError(EXPECTED)
    return datetime.fromisoformat(text)


def expected_like(texts: Sequence[str]) -> str:
    """Return what times should be, with the format of dates like these, where they are of a usual kind."""
    found = [DATE.fullmatch(text.strip()) for text in texts]
    if (one := found[0] if found else None) is None:
        return EXPECTED
    parts = [(int(some["first"]), int(some["second"])) for some in found if some]
    american = any(second > 12 for _, second in parts)
    doubtful = one["mark"] == "/" and not american and all(first <= 12 for first, _ in parts)
    clock = "" if one["hour"] is None else f"{one['between']}{'%I' if one['half'] else '%H'}:%M"
    clock += (":%S" if one["seconds"] else "") + (f"{one['gap']}%p" if one["half"] else "")
    year = "%Y" if len(one["year"]) == 4 else "%y"
    day, month = f"%d{one['mark']}%m", f"%m{one['mark']}%d"
    forms = [day, month] if doubtful else [month if american else day]
    said = " or ".join(f'"dataset.time_format={form}{one["mark"]}{year}{clock}"' for form in forms)
    return f"unix time, or a date like 2013-04-03T23:45:07Z, is expected; {said} reads others"


def _each(texts: Any, parse: Callable[[str], datetime], said: str, zoned: bool | None = None) -> Moments:
    """Return texts as times in millionths, each distinct one parsed in Python; `zoned` is what all must be."""
    encoded = texts.dictionary_encode()
    chunks = encoded.chunks if isinstance(encoded, pa.ChunkedArray) else [encoded]
    codes, made = np.concatenate([chunk.indices.to_numpy() for chunk in chunks]), list[int]()
    for code, text in enumerate(chunks[-1].dictionary.to_pylist()):
        try:
            moment = parse(text)
            if zoned is not None and zoned == (moment.tzinfo is None):
                raise ValueError(f"the first row has {'a' if zoned else 'no'} zone: all or none")
        except ValueError as error:
            row = int(np.flatnonzero(codes == code)[0])
            why = "" if "isoformat" in str(error) else f"; {error}"
            raise NotATimeError(row, expected_like(chunks[-1].dictionary.to_pylist()) + why) from error
        since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH
        made.append((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)
    return Moments(np.array(made, np.int64)[codes], _dates_clock("us", f"{said}, as UTC"))
