"""The forward passes of rollouts: all prompts once, then one token per row and step.

:class:`PlainDecoder` writes the pass of one token out on plain tensors, for the architectures named
here; on a GPU :class:`GraphedDecoder` records it and has it replayed. :class:`LibraryDecoder` asks
the model's own forward pass for each token, which works for any causal model and takes about twice
the time for small ones. :func:`decoder_of` chooses, and a run records the choice. In models without
grouped heads the plain and the library's give the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, scaled_dot_product_attention, silu
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from bridge.machine.determinism import any_order

PLAIN = frozenset({"llama", "qwen2", "qwen2_moe", "qwen3"})
"""Types of models with full attention, rotary positions and a norm before each half of a layer."""

_FIRST_ROOM = 32
"""Tokens of an answer that the first buffers have room for."""


def is_plain(model: PreTrainedModel) -> bool:
    """Whether the architecture is one of :data:`PLAIN` and set as usual."""
    config: Any = model.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    return (
        getattr(config, "model_type", None) in PLAIN
        and config._attn_implementation == "sdpa"
        and config.hidden_act == "silu"
        and all(hasattr(layer.mlp, "down_proj") for layer in model.model.layers)  # no experts
        # Frequencies that depend on the length reached cannot be looked up in a table.
        and rope not in ("dynamic", "longrope")
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    )


def decoder_of(model: PreTrainedModel) -> type[PlainDecoder] | type[LibraryDecoder]:
    """The decoder for a model."""
    if not is_plain(model):
        return LibraryDecoder
    return GraphedDecoder if model.device.type == "cuda" else PlainDecoder


class _Decoder:
    """What both keep of each row: the length reached, the next position, the padding.

    Args:
        mask: [prompts, tokens], 1 at tokens, 0 at the padding on the left.
        owner: [rows], the prompt of each row.
        extra_tokens: that follow the prompts at most.
    """

    def __init__(
        self, model: PreTrainedModel, mask: Tensor, owner: Tensor, extra_tokens: int
    ) -> None:
        self.model: Any = model
        self.owner, self.extra_tokens = owner, extra_tokens
        self.prompt_tokens = self.length = mask.shape[1]
        self.prompt_mask = mask
        more = mask.new_ones(len(owner), extra_tokens)
        self.mask = torch.cat([mask[owner], more], dim=1)  # [rows, tokens + extra_tokens]
        self.position = mask.sum(-1)[owner] - 1

    def keep(self, rows: Tensor) -> None:
        """Go on with the given rows only."""
        self.position, self.mask = self.position[rows], self.mask[rows]

    def _prefill(self, ids: Tensor, cache: Cache) -> Tensor:
        """Logits [rows, vocabulary] after the prompts, from one pass for all rows of a prompt."""
        output = self.model(
            input_ids=ids,
            attention_mask=self.prompt_mask,
            position_ids=(self.prompt_mask.cumsum(-1) - 1).clamp_min(0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return _exact(output.logits[:, -1])[self.owner]


def _exact(logits: Tensor) -> Tensor:
    """In float32 or better."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class _Linear:
    def __init__(self, module: Any) -> None:
        self.weight, self.bias = module.weight.T, module.bias  # [in, out], [out]

    def __call__(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return torch.mm(x, self.weight)
        return torch.addmm(self.bias, x, self.weight)


class _Norm:
    def __init__(self, module: Any) -> None:
        self.weight = module.weight
        # As tensors, which are faster to divide by and to add than Python's numbers.
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        self.epsilon = self.weight.new_tensor(module.variance_epsilon, dtype=dtype)
        self.size = self.epsilon.new_tensor(len(self.weight))

    def __call__(self, x: Tensor) -> Tensor:
        y = x.to(self.epsilon.dtype)  # at least float32, as the library does
        variance = y.pow(2).sum(-1, keepdim=True).div_(self.size)
        return self.weight * (y * variance.add_(self.epsilon).rsqrt_()).to(x.dtype)


class _Layer:
    """A layer's weights, without the cost of looking them up in modules, and its buffers.

    Args:
        keys, values: [prompts, heads, tokens, width] of the prompts.
    """

    def __init__(self, layer: Any, keys: Tensor, values: Tensor) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.keys, self.values = keys, values
        self.width, self.scaling = attention.head_dim, attention.scaling
        self.before_attention = _Norm(layer.input_layernorm)
        self.query, self.key, self.value, self.out = (
            _Linear(m)
            for m in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        )
        normed = hasattr(attention, "q_norm")
        self.query_norm = _Norm(attention.q_norm) if normed else None
        self.key_norm = _Norm(attention.k_norm) if normed else None
        self.before_mlp = _Norm(layer.post_attention_layernorm)
        self.gate, self.up, self.down = (
            _Linear(m) for m in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        )

    def move(self, rows: Tensor, used: int, room: int) -> None:
        """Go on with the given rows, in buffers with room for so many tokens."""
        self.keys = _moved(self.keys, rows, used, room)
        self.values = _moved(self.values, rows, used, room)

    def __call__(
        self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, place: Tensor | None = None
    ) -> Tensor:
        """[rows, hidden] from the same, for the token at a place [1]; without one where ``bias``
        ends."""
        x = x + self._attend(self.before_attention(x), cos, sin, bias, place)
        y = self.before_mlp(x)
        return x + self.down(silu(self.gate(y)) * self.up(y))

    def _attend(
        self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, place: Tensor | None
    ) -> Tensor:
        rows, length, half = len(x), bias.shape[-1], self.width // 2
        query = self.query(x).view(rows, -1, self.width)
        key = self.key(x).view(rows, -1, self.width)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        # The library's rotate_half(x) * sin; the first half of this sine is negative.
        query = query * cos + query.roll(half, -1) * sin
        key = key * cos + key.roll(half, -1) * sin
        value = self.value(x).view(rows, -1, self.width)
        for kept, new in ((self.keys, key), (self.values, value)):
            if place is None:
                kept.select(2, length - 1).copy_(new)
            else:
                kept.index_copy_(2, place, new[:, :, None])
        # Query heads that share a key head are like several queries of that head.
        out = scaled_dot_product_attention(
            query.view(rows, key.shape[1], -1, self.width),
            self.keys.narrow(2, 0, length),
            self.values.narrow(2, 0, length),
            attn_mask=bias,
            scale=self.scaling,
        )
        return self.out(out.reshape(rows, -1))


def _moved(kept: Tensor, rows: Tensor, used: int, room: int) -> Tensor:
    _, heads, _, width = kept.shape
    whole = kept.new_empty(len(rows), heads, room, width)
    torch.index_select(kept.narrow(2, 0, used), 0, rows, out=whole.narrow(2, 0, used))
    return whole


class PlainDecoder(_Decoder):
    """One token at a time on plain tensors, without the library's modules, cache and masks."""

    name = "plain"
    """Of the decoder in a run's record."""

    def start(self, ids: Tensor) -> Tensor:
        """Return logits [rows, vocabulary] after the prompts [prompts, tokens]."""
        cache = DynamicCache()
        logits = self._prefill(ids, cache)
        core, head = self.model.model, self.model.lm_head
        self.layers = [
            _Layer(layer, kept.keys, kept.values)
            for layer, kept in zip(core.layers, cache.layers, strict=True)
        ]
        self.room = self.length
        self._move(self.owner)
        self.embedding = core.embed_tokens.weight
        self.norm, self.head = _Norm(core.norm), _Linear(head)
        positions = torch.arange(self.mask.shape[1], device=ids.device)
        cos, sin = (x[0] for x in core.rotary_emb(self.embedding, positions[None]))
        half = sin.shape[-1] // 2
        self.cos, self.sin = cos, torch.cat([-sin[:, :half], sin[:, half:]], dim=-1)
        bias = torch.zeros_like(self.mask, dtype=cos.dtype)
        self.bias = bias.masked_fill_(self.mask == 0, -torch.inf)[:, None, None]
        return logits

    def _move(self, rows: Tensor) -> None:
        """Go on with the given rows, with room for at least one more token. Most answers are much
        shorter than they may be, so room is made as it is needed, each time more than twice."""
        if self.room == self.length:
            more = 2 * (self.room - self.prompt_tokens) + _FIRST_ROOM
            self.room = self.prompt_tokens + min(more, self.extra_tokens)
        for layer in self.layers:
            layer.move(rows, self.length, self.room)

    def step(self, tokens: Tensor) -> Tensor:
        """Return logits [rows, vocabulary] after one more token [rows] each."""
        if self.length == self.room:
            self._move(torch.arange(len(tokens), device=tokens.device))
        self.position += 1
        self.length += 1
        cos, sin = self.cos[self.position][:, None], self.sin[self.position][:, None]
        bias = self.bias.narrow(-1, 0, self.length)
        x = embedding(tokens, self.embedding)
        for layer in self.layers:
            x = layer(x, cos, sin, bias)
        return _exact(self.head(self.norm(x)))

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self.bias = self.bias[rows]
        self._move(rows)


class GraphedDecoder(PlainDecoder):
    """The same on a GPU, where issuing the thousand kernels of a pass takes most of its time: after
    each change of shapes one pass is issued, the next is recorded as a CUDA graph, and all that
    follow are replayed. What changes from pass to pass is therefore on the card: token, place,
    positions, and the mask over all the room there is.
    """

    name = "graphed"

    def start(self, ids: Tensor) -> Tensor:
        self.place = torch.tensor([self.length - 1], device=ids.device)  # of the last token
        return super().start(ids)

    def _move(self, rows: Tensor) -> None:
        super()._move(rows)
        for layer in self.layers:  # what is masked counts for nothing only if it is a number
            for kept in (layer.keys, layer.values):
                kept.narrow(2, self.length, self.room - self.length).zero_()
        self.columns = torch.arange(self.room, device=rows.device)
        self.passes = 0  # with these shapes

    def step(self, tokens: Tensor) -> Tensor:
        if self.length == self.room:
            self._move(torch.arange(len(tokens), device=tokens.device))
        self.length += 1
        self.passes += 1
        if self.passes == 1:  # loads kernels, which cannot happen while recording
            self.tokens = tokens.clone()
            return self._pass()
        self.tokens.copy_(tokens)
        if self.passes == 2:
            self._record()
        self.graph.replay()
        return self.logits

    def _pass(self) -> Tensor:
        self.position += 1
        self.place += 1
        cos, sin = self.cos[self.position][:, None], self.sin[self.position][:, None]
        bias = self.bias.narrow(-1, 0, self.room).masked_fill(self.columns > self.place, -torch.inf)
        x = embedding(self.tokens, self.embedding)
        with any_order():  # one place is written once
            for layer in self.layers:
                x = layer(x, cos, sin, bias, self.place)
        return _exact(self.head(self.norm(x)))

    def _record(self) -> None:
        self.graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.graph.capture_begin()
            self.logits = self._pass()
            self.graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)


class PreallocatedLayer(CacheLayerMixin):
    """Keys and values of one layer in a buffer that new tokens are written into.

    The library's dynamic cache copies everything for each token; its static one cannot drop rows.
    """

    is_sliding = False
    is_croppable = False

    def __init__(self, extra_tokens: int) -> None:
        super().__init__()
        self.extra_tokens = extra_tokens
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        rows, heads, length, width = key_states.shape
        shape = (rows, heads, length + self.extra_tokens, width)
        self.keys = key_states.new_empty(shape)
        self.values = value_states.new_empty(shape)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[-2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def take(self, rows: Tensor) -> None:
        """Keep (or repeat) the given rows."""
        self.keys, self.values = self.keys[rows], self.values[rows]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1


class LibraryDecoder(_Decoder):
    """One token at a time through the model's own forward pass."""

    name = "transformers"

    def start(self, ids: Tensor) -> Tensor:
        """Return logits [rows, vocabulary] after the prompts [prompts, tokens]."""
        layers = self.model.config.num_hidden_layers
        self.layers = [PreallocatedLayer(self.extra_tokens) for _ in range(layers)]
        self.cache = Cache(layers=list(self.layers))
        logits = self._prefill(ids, self.cache)
        for layer in self.layers:
            layer.take(self.owner)
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        """Return logits [rows, vocabulary] after one more token [rows] each."""
        self.position += 1
        self.length += 1
        output = self.model(
            input_ids=tokens[:, None],
            attention_mask=self.mask[:, : self.length],
            position_ids=self.position[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        return _exact(output.logits[:, -1])

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        for layer in self.layers:
            layer.take(rows)
