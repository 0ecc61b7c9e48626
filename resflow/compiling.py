"""How programs are compiled: by which of XLA's options, and what of these the installed version knows."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax

__all__ = ["quick_to_compile"]


@cache
def quick_to_compile() -> dict[str, Any] | None:
    """Compiler options by which programs are compiled in less time and run no slower, as far as they are known.

    On a CPU without XLA's newer code generator, if there is a choice: it takes half as long again for the hundreds of
    short loops over vectors here, while the time goes into products and factorisations. From JAX 0.12 on it is quicker,
    and the only one. On a GPU without trying several algorithms for each product, which took most of ten seconds.
    """
    wanted: dict[str, dict[str, Any]] = {
        "cpu": {"xla_cpu_use_fusion_emitters": False},
        "gpu": {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False},
    }
    options = wanted.get(jax.default_backend(), {})
    return {name: value for name, value in options.items() if _is_known(name, value)} or None


def _is_known(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # no such option
        return False
    return True
