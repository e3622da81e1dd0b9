"""Errors that nothing can catch: only those of reads that Orbax abandoned are kept from people."""

import types

from bnext_jax.host.process import abandoned


def told_by(file, message="of whatever kind"):
    """The argument of sys.unraisablehook after an error raised by code in `file`, of an object without code."""
    try:
        exec(compile(f"raise ValueError({message!r})", file, "exec"))
    except ValueError as error:
        return types.SimpleNamespace(exc_value=error, exc_traceback=error.__traceback__, object=None)


def test_only_errors_of_orbax_and_of_its_closed_event_loop_count_as_abandoned():
    assert abandoned(told_by("/lib/site-packages/orbax/checkpoint/serialization.py"))
    assert abandoned(told_by("/lib/asyncio/base_events.py", "Event loop is closed"))
    assert not abandoned(told_by("/lib/site-packages/grain/reader.py"))
    assert not abandoned(told_by("/home/orbax.py"))


def test_a_coroutine_of_orbax_that_never_ran_counts_by_its_own_code():
    names = {}
    exec(compile("async def read(): pass", "/lib/site-packages/orbax/checkpoint/store.py", "exec"), names)
    coroutine = names["read"]()
    told = types.SimpleNamespace(exc_value=RuntimeWarning("never awaited"), exc_traceback=None, object=coroutine)
    assert abandoned(told)
    coroutine.close()
