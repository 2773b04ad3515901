"""Profiles of services, encoding and decoding, with and without contention."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from backends.contention import contending
from backends.measuring import TimedCode, by_events, clock_of, measure, take_turns
from backends.torch_backend import TorchBackend
from parity.codes import Addition
from sim.distributions.profile import Profile
from sim.errors import ParmError


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5))


def test_services_encoding_and_decoding_are_measured_by_size_and_drawn_from(tmp_path: Path) -> None:
    codings = [TimedCode(Addition(), "addition", 2, 1), TimedCode(Addition(), "addition", 3, 2)]
    profile = measure(
        TorchBackend("cpu"),
        {"deployed": module(), "backup": module()},
        (1, 4, 4),
        (1, 8),
        repeats=10,
        warmup=1,
        network="tiny",
        codings=codings,
    )
    labels = ["addition k=2 r=1", "addition k=3 r=2"]
    coded = {f"{work} {label}" for label in labels for work in ("encode", "decode")}
    assert set(profile.roles) == {"deployed", "backup"} | coded, "on the CPU there is no copy to measure"
    assert all(list(sizes) == [1, 8] for sizes in profile.roles.values())
    file = tmp_path / "one.json"
    profile.write(file)
    drawn = Profile(file=file, role="encode", code=labels[1], batch=8)
    assert drawn.mean() == pytest.approx(profile.roles[f"encode {labels[1]}"][8].mean, rel=1e-9)
    several = Profile(file=file, role="decode")
    with pytest.raises(ValueError, match="for several codes; choose a 'code' of 'addition k=2 r=1', 'addition"):
        several.mean()
    for label in labels:
        assert several.for_code(label).mean() == Profile(file=file, role="decode", code=label).mean()
    with pytest.raises(ValidationError, match="has no service times for the role 'decode berrut'"):
        Profile(file=file, role="decode", code="berrut")
    with pytest.raises(ValidationError, match="only the roles 'encode' and 'decode' have one"):
        Profile(file=file, code=labels[0])
    only = profile.model_copy(update={"roles": {name: profile.roles[name] for name in (f"decode {labels[0]}",)}})
    only.write(file)
    assert Profile(file=file, role="decode").mean() == pytest.approx(only.roles[f"decode {labels[0]}"][1].mean)


def test_what_is_decoded_lacks_the_first_slot_and_has_as_many_columns_as_its_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decode, seen = Addition.decode, set()

    def watching(code: Addition, outputs: Tensor, parities: Tensor, returned: Tensor) -> Tensor:
        seen.add((tuple(outputs.shape), tuple(parities.shape), *returned.tolist()))
        return decode(code, outputs, parities[..., :5], returned)

    monkeypatch.setattr(Addition, "decode", watching)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(16, 9))
    coding = TimedCode(Addition(), "addition", 3, 2, wide)
    measure(TorchBackend("cpu"), {"deployed": module()}, (1, 4, 4), (2,), 2, 0, network="tiny", codings=[coding])
    assert seen == {((2, 3, 5), (2, 2, 9), 0b11110, 0b11110)}


def test_all_works_take_turns_and_the_warm_up_is_discarded() -> None:
    done: list[str] = []
    works = {(name, 1): lambda name=name: done.append(name) for name in "ab"}  # type: ignore[misc]
    clock = iter(range(100))

    def timed(work: object) -> float:
        work()  # type: ignore[operator]
        return float(next(clock))

    times = take_turns(works, repeats=2, warmup=1, clock=timed)
    assert "".join(done) == "ababab"
    assert times["a", 1].tolist() == [2, 4]
    assert times["b", 1].tolist() == [3, 5]


def test_cudas_events_enclose_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            log.append("record")

        def synchronize(self) -> None:
            log.append("wait")

        def elapsed_time(self, other: Event) -> float:
            log.append("read")
            return 12.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert clock_of(torch.device("cuda")) is by_events
    assert by_events(lambda: log.append("work")) == pytest.approx(0.012)
    assert log == ["record", "work", "record", "wait", "read"]


def test_contention_runs_while_it_is_measured_and_no_longer() -> None:
    before = set(multiprocessing.active_children())
    with contending(1, module(), (2, 1, 4, 4), TorchBackend("cpu")):
        (process,) = set(multiprocessing.active_children()) - before
        assert process.pid is not None
        used = _cpu_ticks(process.pid)
        deadline = time.monotonic() + 20
        while _cpu_ticks(process.pid) <= used + 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert _cpu_ticks(process.pid) > used + 2, "it is not at work"
    assert set(multiprocessing.active_children()) == before
    with contending(0, module(), (2, 1, 4, 4), TorchBackend("cpu")):
        assert set(multiprocessing.active_children()) == before


def test_an_interfering_process_that_dies_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(ParmError, match=r"an interfering process did not start \(exit status 1\)"),
        contending(1, module(), (1, 1), TorchBackend("cpu")),
    ):
        raise AssertionError("nothing interferes")
    assert "shapes cannot be multiplied" in capfd.readouterr().err
    assert not multiprocessing.active_children()


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
