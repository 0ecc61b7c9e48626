"""What the numbers of a report advise, one sentence a finding; nothing rests on a difference that may be noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resflow.numerals import number_text
from resflow.probing._curvature_advice import of_curvature
from resflow.probing.comparison import Difference
from resflow.probing.curvature import Curvature
from resflow.probing.report import Advice, Baseline

__all__ = ["advise"]

_MEANT = "± one standard error of the differences sample by sample"


def advise(
    layers: Sequence[Baseline],
    *,
    held_out: int,
    curvature: Curvature | None = None,
    missing: Sequence[int] = (),
    bias: bool = True,
    blind: bool = False,
) -> tuple[Advice, ...]:
    """The findings on fits, network, curvature, head and blocks, in this order.

    Args:
        layers: The probes of h_0, ..., h_L, each with its verdict.
        held_out: How many held-out samples there are.
        curvature: λ_min of the Hessian, if it is known.
        missing: Classes of the network that no training sample has.
        bias: Whether the head has biases, as the probes have.
        blind: Whether h_0 is the same for all training samples.
    """
    found = [*_of_samples(missing), *_of_fits(layers)]
    curved = [] if curvature is None else [of_curvature(curvature, layers[0])]
    if not held_out:
        judged = _without_held_out(layers, bias)
        place = int(judged[0].about == "network")
        return (*found, *judged[:place], *curved, *judged[place:])
    first, last = layers[0], layers[-1]
    network = _of_network(first, held_out) if first.probe.finished else None
    network = _BLIND if blind else network
    head = _of_head(last, bias) if last.probe.finished else None
    blocks = [*_of_blocks(layers)]
    sound = network is not None and network.finding == "below" and head is not None and head.finding == "finished"
    if sound and not blocks:
        blocks = [Advice("blocks", "healthy", "Healthy: every block adds, and the head is finished.")]
    return (*found, *filter(None, [network]), *curved, *filter(None, [head]), *blocks)


def _of_samples(missing: Sequence[int]) -> list[Advice]:
    if not missing:
        return []
    shown = [str(each) for each in missing[:10]] + ["..."] * (len(missing) > 10)
    return [
        Advice(
            "samples",
            "classes missing",
            f"No training sample is of class {_listed(shown)}, which the network may know and no probe can: where "
            "held-out samples are, differences say nothing. Pass samples of every class.",
        )
    ]


def _of_fits(layers: Sequence[Baseline]) -> list[Advice]:
    found = []
    separable = [layer.name for layer in layers if layer.probe.separable]
    if separable:
        found.append(
            Advice(
                "samples",
                "separable",
                f"The training samples are linearly separable on {_listed(separable)}: no best linear predictor exists "
                "there without a ridge term, and every level is that of a ridge fit.",
            )
        )
    unfinished = [layer.name for layer in layers if not layer.probe.finished]
    if unfinished:
        found.append(
            Advice("fits", "unfinished", f"The fit on {_listed(unfinished)} did not converge: nothing rests on it.")
        )
    return found


def _without_held_out(layers: Sequence[Baseline], bias: bool) -> list[Advice]:
    first, last, found = layers[0], layers[-1], []
    if first.gap.sign > 0:
        found.append(
            Advice(
                "network",
                "above",
                f"On its training samples the network is above the linear probe on its input h_0, by {first.gap}: "
                "its training is stuck or unfinished, train it on.",
            )
        )
    if last.gap.sign > 0:
        found.append(_unfinished_head(last.gap, "on the training samples", last, bias))
    found.append(
        Advice(
            "blocks",
            "not judged",
            "What a block adds is not judged without held-out samples: on those that the network was trained on a "
            "difference may be what it has learned by heart. Pass others as held_out=....",
        )
    )
    return found


_BLIND = Advice(
    "network",
    "not judged",
    "h_0 is the same for every sample, as a class token's is before the first block: nothing follows for the network's "
    "input. Pool otherwise, such as pool=lambda h: h.flatten(1), or begin with a later block.",
)


def _of_network(first: Baseline, held_out: int) -> Advice:
    gap, training = first.held_out_gap, f"on the training samples {number_text(first.gap.value, 3)}"
    if gap.sign > 0:
        why = (
            "training is stuck or unfinished, train it on"
            if first.gap.sign > 0
            else "it has learned its training samples by heart, regularize it or stop earlier"
        )
        return Advice(
            "network",
            "above",
            f"The network is above the linear probe on its input h_0: by {gap} on held-out samples, {_MEANT} "
            f"({training}): {why}.",
        )
    if gap.sign < 0:
        return Advice(
            "network",
            "below",
            f"The network is better than the linear probe on its input h_0: its loss is lower by {_size(gap)} on "
            f"held-out samples, {_MEANT}.",
        )
    return Advice(
        "network",
        "not told apart",
        f"The network cannot be told from the linear probe on its input h_0 on {held_out} held-out samples: the "
        f"difference is {gap} ({training}). Measure on more samples, or use the linear probe.",
    )


def _of_head(last: Baseline, bias: bool) -> Advice:
    gap = last.held_out_gap
    if gap.sign > 0 and last.gap.value > 0:
        return _unfinished_head(gap, "on held-out samples", last, bias)
    if gap.sign > 0:
        return Advice(
            "head",
            "overfitted",
            f"The head is fitted too closely to its training samples: a ridge fit on h_L is lower by {gap} on held-out "
            "samples. Refit it with a ridge term.",
        )
    if gap.sign == 0 and last.gap.sign > 0:
        return Advice(
            "head",
            "not told apart",
            f"The head is above the ridge fit on h_L by {last.gap} on the training samples (certified: at most "
            f"{number_text(last.certificate, 3)}), but on held-out samples by no more than can be noise, {gap}.",
        )
    return Advice(
        "head",
        "finished",
        f"The head is finished: on held-out samples no ridge fit on h_L is better by what can be told from 0, {gap}.",
    )


def _unfinished_head(gap: Difference, where: str, last: Baseline, bias: bool) -> Advice:
    what_next = (
        "Train it on." if bias else "The fit has an intercept, which the head lacks: give it one, or train it on."
    )
    return Advice(
        "head",
        "unfinished",
        f"The head is unfinished: {where} it is above a ridge fit on the same h_L by {gap} (certified on the training "
        f"samples: F − F_lin(h_L) ≤ {number_text(last.certificate, 3)}). {what_next}",
    )


def _of_blocks(layers: Sequence[Baseline]) -> list[Advice]:
    told = {
        "dead": lambda names, _: f"Dead: {names} leave{_s(names)} every sample as it was. Remove or reinitialize.",
        "not told from 0": lambda names, worst: (
            f"{_capital(names)}{_singly(names)} add{_s(names)} nothing that can be told from 0 on held-out samples, "
            f"at most {number_text(worst, 2)} for a linear probe: try without {'one' if _singly(names) else 'it'}."
        ),
        "loses": lambda names, worst: (
            f"{_capital(names)} lose{_s(names)} what a linear probe could read before, up to "
            f"{number_text(worst, 2)} on held-out samples, more than can be noise."
        ),
    }
    found = []
    for verdict, sentence in told.items():
        places = [place for place, layer in enumerate(layers) if layer.verdict == verdict]
        if places:
            gains = [layers[place].held_out_gain for place in places]
            most = np.max([g.value + g.resolution if verdict == "not told from 0" else -g.value for g in gains])
            found.append(Advice("blocks", verdict, sentence(_blocks(places), float(most))))
    return found


def _blocks(places: Sequence[int]) -> str:
    return f"block{'s' if len(places) > 1 else ''} {_listed([str(place) for place in places])}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _s(names: str) -> str:
    return "" if names.startswith("blocks") else "s"


def _singly(names: str) -> str:
    """What is said of each of several blocks, which together may well add something."""
    return ", each by itself," if names.startswith("blocks") else ""


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _size(gap: Difference) -> str:
    return str(gap._replace(value=abs(gap.value)))
