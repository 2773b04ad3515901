"""A file is replaced whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim import atomic


def test_a_failure_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file.txt"
    atomic.write(file, "old ä")
    with pytest.raises(RuntimeError), atomic.replacing(file) as part:
        part.write_text("new")
        raise RuntimeError
    assert file.read_text(encoding="utf-8") == "old ä"
    assert [*file.parent.iterdir()] == [file]
    atomic.write(file, b"new", durable=True)
    assert file.read_bytes() == b"new"
