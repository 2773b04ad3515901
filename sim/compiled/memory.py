"""Access to records and numbers by address, calls of Python, and the decorator of all compiled functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numba
from llvmlite import ir
from numba import types
from numba.core import codegen
from numba.extending import intrinsic

from sim.compiled import layout

F = TypeVar("F", bound=Callable[..., Any])

WORD = ir.IntType(64)

FUNCTIONS: list[Any] = []
"""The compiled functions, in the order of their definitions."""


def kernel(function: F) -> F:
    """Have a function compiled by `compile_all`. Division by zero gives infinity, as in NumPy."""
    compiled: F = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)
    FUNCTIONS.append(compiled)
    return compiled


def compile_all() -> None:
    """Compile every function for the types of its annotations, and for no others.

    Left to itself, numba would compile a function anew for every number that is written out in a call of it. So whoever
    calls a function with such a number has to be defined after it.
    """
    record = numba.from_dtype(layout.WORLD)
    known = {"Any": record, "int": types.int64, "float": types.float64, "bool": types.boolean}
    with translated_only():
        for function in FUNCTIONS:
            notes = function.py_func.__annotations__
            function.compile(tuple(known[note] for name, note in notes.items() if name != "return"))
            function.disable_compile()


@contextmanager
def translated_only() -> Iterator[None]:
    """Make no machine code of functions that only others call: these contain them, and are optimized as a whole.

    numba would make code of each one, with all that it calls, and optimize that again in every function that calls it:
    it would compile for longer, and to slower code. There is no public way to tell it. Should a later numba have other
    names inside, it does that.
    """

    def finalized(library: Any) -> None:
        library._finalized = True

    replaced = {
        "_optimize_final_module": (codegen.CPUCodeLibrary, finalized),
        "_finalize_final_module": (codegen.CPUCodeLibrary, finalized),
        "set_env": (codegen.JITCPUCodegen, lambda *_: None),
    }
    before = {name: getattr(owner, name, None) for name, (owner, _) in replaced.items()}
    known = None not in before.values()
    try:
        if known:
            for name, (owner, function) in replaced.items():
                setattr(owner, name, function)
        yield
    finally:
        if known:
            for name, (owner, _) in replaced.items():
                setattr(owner, name, before[name])


def _records(dtype: Any) -> Any:
    """Return `at(address, row)`, a record of an array of them."""
    record = numba.from_dtype(dtype)
    width = ir.Constant(WORD, dtype.itemsize)

    @intrinsic  # type: ignore[untyped-decorator]
    def at(context: Any, address: Any, row: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = builder.add(arguments[0], builder.mul(arguments[1], width))
            return builder.inttoptr(place, context.get_value_type(record))

        return record(types.int64, types.int64), generate

    return at


def _numbers(number: Any, kind: Any) -> tuple[Any, Any]:
    """Return `get(address, place)` and `put(address, place, value)` for an array of numbers of `kind`."""
    width = ir.Constant(WORD, kind.width // 8 if isinstance(kind, ir.IntType) else 8)

    def pointer(builder: Any, arguments: Any) -> Any:
        place = builder.add(arguments[0], builder.mul(arguments[1], width))
        return builder.inttoptr(place, kind.as_pointer())

    @intrinsic  # type: ignore[untyped-decorator]
    def get(context: Any, address: Any, place: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.load(pointer(builder, arguments))

        return number(types.int64, types.int64), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def put(context: Any, address: Any, place: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            builder.store(arguments[2], pointer(builder, arguments))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, number), generate

    return get, put


worlds = _records(layout.WORLD)
tasks = _records(layout.TASK)
batches = _records(layout.BATCH)
groups = _records(layout.GROUP)
entries = _records(layout.ENTRY)
pools = _records(layout.POOL)
meets = _records(layout.MEET)
limits = _records(layout.LIMIT)
farms = _records(layout.FARM)
instances = _records(layout.INSTANCE)
learners = _records(layout.LEARNER)
probes = _records(layout.PROBE)
known = _records(layout.KNOWN)
queues = _records(layout.QUEUE)
bends = _records(layout.BEND)
delays = _records(layout.DELAY)
outages = _records(layout.OUTAGE)
lines = _records(layout.LINE)
streams = _records(layout.STREAM)
tenancies = _records(layout.TENANCY)
states = _records(layout.STATE)

get_f8, put_f8 = _numbers(types.float64, ir.DoubleType())
get_i8, put_i8 = _numbers(types.int64, ir.IntType(64))
get_i4, put_i4 = _numbers(types.int32, ir.IntType(32))
get_i2, put_i2 = _numbers(types.int16, ir.IntType(16))
get_i1, put_i1 = _numbers(types.int8, ir.IntType(8))
get_u1, put_u1 = _numbers(types.uint8, ir.IntType(8))


def _ask(context: Any, function: Any, what: Any, first: Any, second: Any) -> Any:
    """Call `function(what, first, second)`, the address of a Python function that takes and returns integers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.FunctionType(WORD, [WORD, WORD, WORD]).as_pointer())
        return builder.call(pointer, arguments[1:])

    return types.int64(types.int64, types.int64, types.int64, types.int64), generate


ask: Any = intrinsic(_ask)
