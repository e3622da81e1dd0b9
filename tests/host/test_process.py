"""Exceptions raised in destructors and callbacks (sys.unraisablehook): only those of reads that Orbax abandoned are hidden."""

import types

from bnext_jax.host.process import abandoned


def told_by(file, message="of whatever kind"):
    """The argument of sys.unraisablehook for an exception that code in `file` raises. It names no object."""
    try:
        exec(compile(f"raise ValueError({message!r})", file, "exec"))
    except ValueError as error:
        return types.SimpleNamespace(exc_value=error, exc_traceback=error.__traceback__, object=None)


def test_only_errors_of_orbax_and_of_its_closed_event_loop_count_as_abandoned():
    assert abandoned(told_by("/lib/site-packages/orbax/checkpoint/serialization.py"))
    assert abandoned(told_by("/lib/asyncio/base_events.py", "Event loop is closed"))
    assert not abandoned(told_by("/lib/site-packages/grain/reader.py"))
    assert not abandoned(told_by("/home/orbax.py"))


def test_a_coroutine_that_never_ran_is_abandoned_if_its_code_is_of_orbax():
    names = {}
    exec(compile("async def read(): pass", "/lib/site-packages/orbax/checkpoint/store.py", "exec"), names)
    coroutine = names["read"]()
    told = types.SimpleNamespace(exc_value=RuntimeWarning("never awaited"), exc_traceback=None, object=coroutine)
    assert abandoned(told)
    coroutine.close()
