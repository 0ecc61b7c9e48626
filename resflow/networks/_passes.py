"""What one pass through a network shows, of whatever framework, and what there is to say of modules that do not fit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from resflow.errors import InvalidInputError, check_known, nearest, shown

__all__ = ["HEAD", "Pass", "Recorder", "check_blocks", "failing", "first_of", "in_order", "no_part", "pooled"]

HEAD = 0
"""The head's number among those of blocks."""


class Pass(NamedTuple):
    """What one batch shows on its way through a network, in the arrays of its framework.

    Attributes:
        stream: h_0, ..., h_L, shape (n, d_l) each: what enters the first block, what leaves each, what the head reads.
        scores: What the head gives.
        predictions: What the network gives.
        features: What enters linear layers of the last block, shape (n, k) each, by their numbers, which are below 0;
            without those that are not called once, or where that cannot be seen or pooled.
        unmoved: Of each block, whether what leaves it is what entered, before any pooling.
    """

    stream: tuple[Any, ...]
    scores: Any
    predictions: Any
    features: dict[int, Any]
    unmoved: tuple[Any, ...]


class Recorder:
    """Keeps what enters and what leaves each of L blocks, called by the numbers 1, ..., L, and the head.

    Of linear layers of the last block, called by numbers below 0, what enters.

    Attributes:
        entered: The argument of each that has the shape of its result, and otherwise the first array, by its number;
            None of a linear layer that is called again.
        left: The result of each; of several the first.
    """

    def __init__(self, blocks: int, entered: dict[int, Any] | None = None, left: dict[int, Any] | None = None) -> None:
        self._blocks = blocks
        self.entered = {} if entered is None else entered
        self.left = {} if left is None else left

    def tell(self, place: int, arguments: tuple[Any, ...], result: Any) -> None:
        """One call of a block, the head or a linear layer, with its arguments in the order of its signature.

        Raises:
            InvalidInputError: If it is a block or the head and was called before, or not in its turn.
        """
        given = _carried(arguments, first_of(result))
        if place < HEAD:
            self.entered[place] = None if place in self.entered else given
            return
        if place in self.left:
            raise InvalidInputError(
                f"{_called(place)} is called more than once in a pass, so that what leaves it is no one "
                "representation: pass modules that are called once"
            )
        if place > HEAD and (HEAD in self.left or place != 1 + sum(each > HEAD for each in self.left)):
            raise InvalidInputError(
                f"{_called(place)} is called out of turn: pass the blocks in the order in which the network calls "
                "them, none inside of another, and the head apart from them"
            )
        self.entered[place] = given
        self.left[place] = first_of(result)

    def passed(
        self,
        predictions: Any,
        *,
        pool: Any,
        channels_first: bool,
        widened: Callable[[Any], Any],
        visible: Callable[[Any], bool] = lambda h: True,
    ) -> Pass:
        """All of a pass, representations pooled, in at least float32.

        Args:
            predictions: What the network gave.
            pool: As of `pooled`.
            channels_first: As of `pooled`.
            widened: Makes an array at least float32.
            visible: Whether what entered a linear layer can be used outside of it.

        Raises:
            InvalidInputError: If a module was not called, or a representation or what the head reads does not fit.
        """
        for place in (*range(1, self._blocks + 1), HEAD):
            if place not in self.left:
                raise InvalidInputError(
                    f"{_called(place)} is not called in a pass of the network, or only inside of a transformation of "
                    "the network's own: pass modules that it calls"
                )
            if not hasattr(self.left[place], "shape"):
                raise InvalidInputError(
                    f"{_called(place)} gives a {type(self.left[place]).__name__}, but must give an array, or a tuple "
                    "of which that is the first"
                )
        inner = [self.entered[1], *(self.left[place] for place in range(1, self._blocks))]
        read, scores = self.entered[HEAD], self.left[HEAD]
        if len(read.shape) != 2:
            raise InvalidInputError(
                f"the head reads an array of shape {tuple(read.shape)}, but must read one vector a sample, shape (n, d)"
            )
        stream = [pooled(widened(h), pool, f"h_{place}", channels_first) for place, h in enumerate(inner)]
        for place, h in enumerate(stream):
            if len(h) != len(read):
                raise InvalidInputError(
                    f"h_{place} of shape {tuple(inner[place].shape)} is pooled to {tuple(h.shape)}, but the head reads "
                    f"{len(read)} samples: pass pool=..., a function that makes it one vector a sample, such as "
                    "lambda h: h.mean(0) where the first axis is that of positions"
                )
        predictions = first_of(predictions)
        if not hasattr(predictions, "shape"):  # such as an object that holds them
            predictions = scores
        features = {
            place: pooled(widened(h), pool, "", channels_first)
            for place, h in self.entered.items()
            if place < HEAD and h is not None and visible(h) and (h.ndim == 2 or (h.ndim > 2 and not callable(pool)))
        }
        unmoved = tuple(self._is_unmoved(place, visible) for place in range(1, self._blocks + 1))
        return Pass((*stream, widened(read)), widened(scores), widened(predictions), features, unmoved)

    @property
    def is_ambiguous(self) -> bool:
        """Whether another axis of a representation could be that of the samples, as it is as long."""
        inner = [self.entered[1], *(self.left[place] for place in range(1, self._blocks))]
        return any(len(h.shape) > 2 and h.shape[0] == h.shape[1] > 1 for h in inner)

    def _is_unmoved(self, place: int, visible: Callable[[Any], bool]) -> Any:
        before, after = self.entered[place], self.left[place]
        if getattr(before, "shape", None) != after.shape or not (visible(before) and visible(after)):
            return False
        return (before == after).all()


def pooled(h: Any, pool: Any, name: str, channels_first: bool) -> Any:
    """A representation as one vector a sample, (n, d): as it is, or by its mean over all axes but samples and channels.

    Args:
        h: Shape (n, ...), of any framework.
        pool: "mean", or a function from it to (n, d), which is asked where there are more than two axes.
        name: What to call it in a message.
        channels_first: Whether channels of images are the second axis; those of sequences (n, t, d) are the last.

    Raises:
        InvalidInputError: If the result has another number of axes.
    """
    if not callable(pool):
        check_known("pool", pool, ["mean"])
    shape = tuple(h.shape)
    if len(shape) > 2:
        if callable(pool):
            h = pool(h)
        else:
            first = channels_first and len(shape) > 3
            h = h.mean(tuple(range(2, len(shape)) if first else range(1, len(shape) - 1)))
    if len(h.shape) != 2:
        raise InvalidInputError(
            f"{name} of shape {shape} is pooled to {tuple(h.shape)}, but must become one vector a sample, (n, d): pass "
            "pool=..., a function that makes it so"
        )
    return h


def check_blocks(blocks: Any) -> list[Any]:
    """The blocks as a list of at least one.

    Raises:
        InvalidInputError: If they are no sequence, or there are none.
    """
    if isinstance(blocks, str) or not isinstance(blocks, Iterable):
        raise InvalidInputError(f"blocks={shown(blocks)} must be a list of the network's blocks, first to last")
    found = list(blocks)
    if not found:
        raise InvalidInputError("blocks has no block: pass the network's blocks, first to last")
    for place, each in enumerate(found, 1):
        if any(each is other for other in found[: place - 1]):
            raise InvalidInputError(f"block {place} is a block before it, too: pass each once, first to last")
    return found


def no_part(what: Any, known: Iterable[str]) -> InvalidInputError:
    """What is said of a block or head that is none of the network's modules, called by their names."""
    names = [name for name in known if name]
    close = f": nearest is {nearest(what, names, 1)[0]!r}" if isinstance(what, str) and names else ""
    given = shown(what) if isinstance(what, str) else f"a {type(what).__name__} given"
    return InvalidInputError(f"{given} is no part of the network{close}; pass modules of it, or their names")


def failing(net: str, X: Any, error: Exception) -> InvalidInputError:
    """What is said of a network that raises an error of its own."""
    said = next(iter(str(error).splitlines()), "")
    return InvalidInputError(
        f"{net} raises {type(error).__name__} on samples of shape {tuple(X.shape)} and type {X.dtype}: {said}"
    )


def in_order(function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    """A call's arguments in the order of a function's signature, those that were not given left out."""
    try:
        bound = inspect.signature(function).bind(*arguments, **named)
    except (TypeError, ValueError):  # it has none that can be read
        return (*arguments, *named.values())
    return (*bound.args, *bound.kwargs.values())


def _carried(arguments: tuple[Any, ...], result: Any) -> Any:
    """The argument that a residual connection could carry on: an array of the result's shape, or the first array."""
    arrays = [each for each in arguments if hasattr(each, "shape")]
    shape = getattr(result, "shape", None)
    return next((each for each in arrays if each.shape == shape), arrays[0] if arrays else None)


def first_of(result: Any) -> Any:
    """What a module gives, or the first of several."""
    return result[0] if isinstance(result, tuple | list) else result


def _called(place: int) -> str:
    return "the head" if place == HEAD else f"block {place}"
