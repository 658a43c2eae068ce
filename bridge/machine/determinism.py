"""Fixed orders of sums: which kernels may be chosen, and what the libraries must be told for it.

On the CPU a run repeats byte for byte. On a GPU some kernels add in the order in which threads come
by. By default those that have an ordered form take it and the others warn; ``full_determinism``
allows no other (memory-efficient attention orders its backward sums only then), and vLLM takes
kernels whose sums do not depend on what else is in the batch (https://docs.vllm.ai, batch
invariance). It costs time, so it is not the default.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

from bridge.store.schema import ConfigError

_ALLOWED = {
    # cuBLAS would take another algorithm when its work space is short.
    "CUBLAS_WORKSPACE_CONFIG": (":4096:8", ":16:8"),
    "FLASH_ATTENTION_DETERMINISTIC": ("1",),
}
_VLLM = {"VLLM_BATCH_INVARIANT": ("1",)}
_CAPABILITY = (8, 0)
"""Of NVIDIA's cards, from which on vLLM has batch-invariant kernels."""


def set_environment(engines: Iterable[str]) -> None:
    """Set what the libraries read when they are imported; call it before any of them is.

    Args:
        engines: of the job.

    Raises:
        ConfigError: the environment already says otherwise.
    """
    for name, values in {**_ALLOWED, **(_VLLM if "vllm" in engines else {})}.items():
        found = os.environ.setdefault(name, values[0])
        if found not in values:
            raise ConfigError(
                f"full_determinism needs {name}={values[0]}, but the environment has {found}; "
                "unset it."
            )


def make_deterministic(*, full: bool, engines: Iterable[str]) -> None:
    """Choose ordered kernels in this process.

    Args:
        full: refuse an operation that has none, where otherwise a GPU only warns.

    Raises:
        ConfigError: an engine has no such kernels here.
    """
    import torch

    gpu = torch.cuda.is_available()
    # It plans anew for each length of a text: 65 ms a token on an H100, other kernels take 20.
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.use_deterministic_algorithms(True, warn_only=gpu and not full)
    # The deterministic mode also fills new tensors; none here is read before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if not full:
        return
    torch.backends.cudnn.benchmark = False
    if "vllm" in engines and not (gpu and _has_invariant_kernels()):
        raise ConfigError(
            "full_determinism with the engine vllm needs batch-invariant kernels (an NVIDIA GPU of "
            "compute capability 8.0 or higher); take engine native (in evaluation: hf) or leave "
            "full_determinism out."
        )


@contextlib.contextmanager
def any_order() -> Iterator[None]:
    """Allow every kernel, around writes to places that are all different."""
    import torch

    ordered = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(ordered, warn_only=warn_only)


def _has_invariant_kernels() -> bool:
    import torch

    return torch.version.hip is None and torch.cuda.get_device_capability() >= _CAPABILITY
