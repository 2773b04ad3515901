"""The one reader of users' tables: encodings, headers, JSON lines, times, and what it refuses with file and line."""

from __future__ import annotations

import gzip
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from sim.files import moment, read_moments, read_table, read_times


def table(folder: Path, content: bytes | str, name: str = "log.csv") -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


TEXT = "time, µ load\n1,2\n\n 3 ,4\n"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        TEXT.encode("latin-1"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        TEXT.replace(",", ";").encode(),
        TEXT.replace(",", "\t").encode(),
        TEXT.replace("time, µ load", '"time", "µ load"').encode(),
        gzip.compress(TEXT.encode(), mtime=0),
        '{"time": 1, "µ load": 2}\n\n{"µ load": "4", "time": 3.0}\n'.encode(),
        '{"time": 1, "µ load": 2}\r\n{"time": 3, "µ load": 4, "more": [1]}'.encode("utf-8-sig"),
    ],
)
def test_one_table_in_many_spellings(tmp_path: Path, content: bytes) -> None:
    found = read_table(table(tmp_path, content), ["time", "µ load"], ["instance"])
    assert found.numbers("time").tolist() == [1, 3]
    assert found.numbers("µ load").tolist() == [2, 4]
    assert "instance" not in found.columns


def test_utf_16_without_a_mark(tmp_path: Path) -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        file = table(tmp_path, "time,load\n1,2\n".encode(encoding))
        assert read_times(file, "time").tolist() == [1]


def test_a_field_of_any_size_may_be_beside_what_is_read(tmp_path: Path) -> None:
    prompt = "x" * 300_000
    assert read_times(table(tmp_path, f'prompt,time\n"{prompt}\nmore",1\n,2\n'), "time").tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"line 5 of .*log\.csv has 'soon' where"):
        read_times(table(tmp_path, f'prompt,time\n"{prompt}\nmore",1\n,2\n,soon\n'), "time")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("time\n1\n\xe9\n".encode("latin-1"), "line 3 of .* has 'é' where a time of at least 0 belongs"),
        ("time\n1\n" + "1" * 140_000, r"line 3 of .* has '1{37}\.\.\.' where"),
        ("time\n1\n-2", "line 3 of .* has '-2' where"),
        ("TIME\n1\n", r"log\.csv has no column 'time' \(did you mean 'TIME'\?\); it has TIME"),
        ("time,time\n1,2\n", "has two columns 'time'"),
        ("time\n", "has a header but no rows"),
        ("", "has no column 'time'; it has none"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "AppleDouble"),
        (b"\x89PNG\r\n\x00\x00\x01\x01\x00", r"log\.csv is not text"),
        ("time\n1\n".encode("utf-16") + b"\x00\xd8\x00", r"log\.csv is not text"),
        (gzip.compress(b"time\n1\n" * 999, mtime=0)[:30], r"log\.csv cannot be read"),
        ("[1]", "is a JSON list; write one object on each line"),
        ('{"time": 1}\n{"time": }\n', r"line 2 of .*log\.csv is not JSON: Expecting value"),
        ('{"time": 1}\n' + "[" * 100_000, "line 2 of .* is not JSON: it is nested too deeply"),
        ('{"time": 1}\n3', "line 2 of .* is not a JSON object"),
        ('{"time": 1}\n{"tim": 1}', "line 2 of .* has '' where"),
        ('{"time": 1}\n{"time": true}', "line 2 of .* has 'true' where"),
        ('{"time": NaN}', "line 1 of .* has 'NaN' where"),
        ('{"time": ' + "9" * 5000 + "}", r"line 1 of .* has '9{37}\.\.\.' where"),
    ],
)
def test_refusals_name_the_file_and_the_line(tmp_path: Path, content: bytes | str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_times(table(tmp_path, content), "time")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.csv cannot be read: No such file"):
        read_times(tmp_path / "gone.csv", "time")


def seconds(folder: Path, unit: str, *texts: str) -> list[float]:
    return read_moments(table(folder, "\n".join(("time", *texts)) + "\n"), "time", unit)[1].tolist()


@pytest.mark.parametrize(
    ("unit", "texts", "right"),
    [
        ("us", [f"170000000000000{digit}" for digit in range(4)], [0, 1e-6, 2e-6, 3e-6]),
        ("ns", [f"170000000000000000{digit}" for digit in range(4)], [0, 1e-9, 2e-9, 3e-9]),
        ("s", ["1700000000.000000001", "1700000000.000000004"], [0, 3e-9]),
        ("ms", ["1.7e12", "1700000000000.25"], [0, 0.00025]),
        ("s", ["-1.5", "0.5", "1e1"], [0, 2, 11.5]),
        ("us", ["2023-11-16 18:15:46.6805900", "2023-11-16 18:15:50.9951690"], [0, 4.314579]),
        ("s", ["2024-05-01T12:00:00Z", "2024-05-01T14:00:00.000000001+02:00"], [0, 1e-9]),
        ("s", ["2024/05/01 12:00", "2024/05/02 12:00"], [0, 86400]),
        ("s", ["1969-12-31T23:59:59.5Z", "1970-01-01T00:00:00Z"], [0, 0.5]),
    ],
)
def test_differences_of_times_lose_nothing(tmp_path: Path, unit: str, texts: list[str], right: list[float]) -> None:
    np.testing.assert_allclose(seconds(tmp_path, unit, *texts), right, rtol=1e-12, atol=0)


def test_the_earliest_moment_is_exact(tmp_path: Path) -> None:
    file = table(tmp_path, "time\n1700000000000000007\n1700000000000000001\n")
    assert read_moments(file, "time", "ns")[0] == Decimal("1700000000.000000001")
    assert moment("2023-11-14T22:13:20.000000001Z", "s") == Decimal("1700000000.000000001")
    with pytest.raises(ValueError, match="'soon' is no time"):
        moment("soon", "s")


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["1", "soon"], "line 3 of .* has 'soon' where a time belongs"),
        (["1", "1e400"], "line 3 of .* has '1e400' where"),
        (["1", "2024-05-01T12:00:00Z"], "line 3 of .* where a time belongs: a number, or a date and time"),
        (["2024-05-01T12:00:00Z", "1"], "line 3 of .* has '1' where a date and time belongs"),
        (["2024-05-01T12:00:00Z", "2024-05-01T12:00:00"], "line 3 of .* has no time zone"),
        (["2024-05-01T12:00:00", "2024-05-01T12:00:00+01"], "line 3 of .* has a time zone"),
        (["2024-05-01T12:00:00", "2024-13-01T12:00:00"], "line 3 of .* has '2024-13-01T12:00:00' where"),
    ],
)
def test_refuses_what_is_no_time(tmp_path: Path, texts: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        seconds(tmp_path, "s", *texts)
