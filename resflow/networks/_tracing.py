"""One compiled pass through a network of JAX, whose blocks tell what they are given and give while it is traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp

from resflow.errors import InvalidInputError
from resflow.networks._passes import Pass, Recorder, failing, in_order
from resflow.tensors import plain_array

__all__ = ["compiled", "listening", "multiplications", "visible", "widened"]


def widened(h: Any) -> jax.Array:
    """In at least float32; the sum also has JAX say of a value that it is none of this trace."""
    dtype = jnp.promote_types(h.dtype, jnp.float32)
    return h.astype(dtype) + jnp.zeros((), dtype)


def visible(h: Any) -> bool:
    """Whether a value belongs to this trace, and not to one within it that has ended."""
    try:
        widened(h)
    except jax.errors.UnexpectedTracerError:
        return False
    return True


def multiplications(traced: Callable[[Any, jax.Array], Pass], parameters: Any, X: Any) -> float:
    """How many multiplications a pass of a batch takes."""
    lowered = jax.jit(traced).lower(parameters, jnp.asarray(plain_array(X)))
    return float((lowered.cost_analysis() or {}).get("flops", 0.0)) / 2.0


def compiled(traced: Callable[[Any, jax.Array], Pass], parameters: Any, ambiguous: set[int]) -> Callable[[Any], Pass]:
    """A pass under jit, its parameters an argument, so that all batches of one size share a program.

    Tracing adds to `ambiguous` the sizes of batches of which another axis of a representation could be that of the
    samples: with one sample less, the pass is refused if it is.
    """
    program = jax.jit(traced)

    def run(X: Any) -> Pass:
        X = jnp.asarray(plain_array(X))
        try:
            passed = program(parameters, X)
            if len(X) in ambiguous:
                ambiguous.remove(len(X))
                jax.eval_shape(traced, parameters, X[:-1])
            return passed
        except jax.errors.UnexpectedTracerError:
            raise InvalidInputError(
                "a block or the head is called inside of a transformation of the network's own (vmap, jit, scan, "
                "remat), where what leaves it cannot be seen: call it outside of one, or pass the representations to "
                "resflow.probe"
            ) from None
        except (InvalidInputError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:
            raise failing("the network", X, error) from error

    return run


@contextmanager
def listening(modules: dict[int, Any], recorder: Recorder) -> Iterator[None]:
    """Tell the recorder of every call of some modules, called by their places: for a while, their classes listen."""
    places = {id(module): place for place, module in modules.items()}
    with ExitStack() as stack:
        for kind in {type(module) for module in modules.values()}:
            stack.enter_context(_patched(kind, places, recorder))
        yield


@contextmanager
def _patched(kind: Any, places: dict[int, int], recorder: Recorder) -> Iterator[None]:
    own, call = vars(kind).get("__call__"), kind.__call__

    @wraps(call)
    def told(self: Any, *arguments: Any, **named: Any) -> Any:
        result = call(self, *arguments, **named)
        if type(self) is kind and id(self) in places:  # and not a subclass's, which listens itself
            recorder.tell(places[id(self)], in_order(call, (self, *arguments), named)[1:], result)
        return result

    kind.__call__ = told
    try:
        yield
    finally:
        if own is None:
            del kind.__call__
        else:
            kind.__call__ = own
