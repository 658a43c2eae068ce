"""Shape checks shared by the per-token losses."""

from torch import Tensor


def require_per_token(name: str, value: Tensor, like: Tensor) -> None:
    """Refuse a `value` that is neither [rows, len] nor [rows, 1] for `like` of [rows, len].

    A one-dimensional [rows] tensor is refused on purpose: it would broadcast along the token
    axis, which goes unnoticed whenever rows == len.

    Raises:
        ValueError: `like` is not two-dimensional, or `value` has another shape.
    """
    if like.dim() != 2:
        raise ValueError(f"log-probabilities must be [rows, len], got {list(like.shape)}")
    rows, length = like.shape
    if tuple(value.shape) not in {(rows, length), (rows, 1)}:
        raise ValueError(
            f"{name} must be [{rows}, {length}] or [{rows}, 1], got {list(value.shape)}"
        )
