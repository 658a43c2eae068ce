"""lm-eval's ``hf`` model, watched: the same generation, plus what lm-eval throws away.

lm-eval returns decoded text only. Whether an answer ended by itself or was cut at the token limit,
and how many tokens it took, is in the ids that ``_model_generate`` returns; :class:`Policy` notes
it there. It also closes five holes of lm-eval 0.4.13 that silently change a score:

- ``max_new_tokens`` in a checkpoint's ``generation_config.json`` wins over the task's
  ``max_gen_toks``, and ``top_k``, ``top_p`` or ``repetition_penalty`` there alter what is sampled:
  its ``eos_token_id`` is kept, everything else in it is dropped.
- A prompt that leaves no room for the answer is cut from the left: here it is an error.
- The end-of-turn token is looked for in text that is decoded anew after each token, which costs
  more than a small model's forward pass: here ids are compared, row by row, and a row that has
  ended leaves the batch.
- ``AutoTokenizer`` reads some tokenizers wrongly: the trainer's own loader is used, and answers end
  at the trainer's own tokens.
- Missing weights are drawn at random with a warning: here they are an error.

Small models on a CPU are decoded on plain tensors, which gives the library's ids in less time
(:mod:`bridge.evaluation.plain_generation`).
"""

from __future__ import annotations

import logging
import sys
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig

from bridge.evaluation import EvaluationError
from bridge.evaluation.checkpoint import check_checkpoint
from bridge.evaluation.plain_generation import generate, gives_same_bits
from bridge.models.checkpoint import end_token_ids, load_tokenizer
from bridge.models.prompts import opens_thinking

log = logging.getLogger(__name__)
_HEARTBEAT_S = 15.0
_SEGMENT_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Generated:
    """What is known of one answer besides its text."""

    tokens: int
    """Generated tokens, the end-of-turn token included, padding not."""
    truncated: bool
    """Whether the token limit came before an end-of-turn token."""
    prompt_tokens: int


class EvaluatedPolicy(HFLM):
    """A checkpoint under evaluation; ``generated`` describes the answers of the last request."""

    def __init__(self, folder: Path, *, batch_size: int, max_response_tokens: int) -> None:
        check_checkpoint(folder)
        model, tokenizer = _load(folder)
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=batch_size,
            trust_remote_code=False,
            # The chat template writes all special tokens itself, as it does in training.
            add_bos_token=False,
        )
        if max_response_tokens >= self.max_length:
            raise EvaluationError(
                f"The model in {folder} has a context of {self.max_length} tokens, which leaves no "
                f"room for a prompt before evaluation.max_response_tokens = {max_response_tokens}; "
                "lower it."
            )
        self.folder = folder
        self.generated: list[Generated] = []
        self.prompt_opens_thinking = opens_thinking(self.tokenizer)
        self._end_ids = list(end_token_ids(folder, tokenizer))
        self._end_text = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        model.generation_config = GenerationConfig(
            eos_token_id=self._end_ids, pad_token_id=self.tokenizer.pad_token_id
        )
        self._batch: tuple[Sequence[str], torch.Tensor] | None = None
        self._by_prompt: defaultdict[str, deque[Generated]] = defaultdict(deque)
        self._progress = _Progress(0)

    @property
    def n_parameters(self) -> int:
        """Number of parameters; tied ones count once."""
        return sum(p.numel() for p in self.model.parameters())

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answer each request; see :class:`lm_eval.api.model.LM`."""
        self._by_prompt.clear()
        self._progress = _Progress(len(requests))
        texts: list[str] = super().generate_until(
            requests, disable_tqdm=disable_tqdm or not sys.stderr.isatty()
        )
        # Requests are sorted for batching and sorted back. Equal prompts keep their order (the
        # sort is stable), so the notes of a prompt are taken in the order they were made.
        self.generated = [self._by_prompt[request.args[0]].popleft() for request in requests]
        return texts

    def tok_batch_encode(
        self,
        strings: Sequence[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode prompts; one that would have to be cut is an error."""
        ids, mask = super().tok_batch_encode(strings, padding_side, None, truncation)
        if left_truncate_len is not None and ids.shape[1] > left_truncate_len:
            raise EvaluationError(
                f"A prompt of {ids.shape[1]} tokens and an answer of up to "
                f"{self.max_length - left_truncate_len} do not fit into the context of "
                f"{self.max_length} tokens of {self.folder}; lower evaluation.max_response_tokens."
            )
        self._batch = strings, mask.sum(dim=1)
        return ids, mask

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **kwargs: Any
    ) -> torch.Tensor:
        if stop != [self._end_text]:
            raise EvaluationError(
                f"The task asks to stop at {stop}; give it `until: []`: an answer ends its turn."
            )
        mask = kwargs.pop("attention_mask")
        if gives_same_bits(self.model, kwargs):
            out = generate(
                self.model,
                context,
                mask,
                max_length,
                end_ids=self._end_ids,
                pad_id=self.tokenizer.pad_token_id,
                segment_tokens=_SEGMENT_TOKENS,
                temperature=kwargs.get("temperature", 1.0) if kwargs.get("do_sample") else None,
            )
        else:
            out = self._in_segments(context, max_length, mask, kwargs)
        self._note(out[:, context.shape[1] :])
        return out

    def _in_segments(
        self, context: torch.Tensor, max_length: int, mask: torch.Tensor, kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """Generate a few tokens at a time and drop rows that have ended, with their cache.

        Hugging Face computes every row until the longest has ended; where most answers are short
        and a few run to the limit, that is most of the work.
        """
        out = context.new_full((len(context), max_length), self.tokenizer.pad_token_id)
        alive = torch.arange(len(context), device=context.device)
        end_ids = torch.tensor(self._end_ids, device=context.device)
        ids, cache = context, DynamicCache(config=self.model.config)
        while len(alive) and ids.shape[1] < max_length:
            start = ids.shape[1]
            result = super()._model_generate(
                ids,
                min(start + _SEGMENT_TOKENS, max_length),
                [],
                attention_mask=mask,
                past_key_values=cache,
                return_dict_in_generate=True,
                **kwargs,
            )
            ids, cache = result.sequences, result.past_key_values
            out[alive, : ids.shape[1]] = ids
            running = ~torch.isin(ids[:, start:], end_ids).any(dim=1)
            # No row that runs on holds padding in its new part.
            mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - start), value=1)
            if not bool(running.all()):
                alive, ids, mask = alive[running], ids[running], mask[running]
                cache.batch_select_indices(running.nonzero().squeeze(1))
        return out

    def _note(self, new: torch.Tensor) -> None:
        assert self._batch is not None, "lm-eval encodes a batch before it generates"
        prompts, prompt_tokens = self._batch
        ends = torch.isin(new, torch.tensor(self._end_ids, device=new.device))
        ended = ends.any(dim=1)
        lengths = torch.where(ended, ends.int().argmax(dim=1) + 1, new.shape[1])
        for prompt, n_prompt, n_new, stopped in zip(
            prompts, prompt_tokens.tolist(), lengths.tolist(), ended.tolist(), strict=True
        ):
            self._by_prompt[prompt].append(Generated(n_new, not stopped, n_prompt))
        self._progress.advance(len(prompts))


def _load(folder: Path) -> tuple[Any, Any]:
    """Load model and tokenizer from disk, whole or not at all."""
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype="auto",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        tokenizer = load_tokenizer(folder)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().partition("\n")[0]
        raise EvaluationError(f"The checkpoint in {folder} cannot be loaded: {first}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise EvaluationError(
            f"The checkpoint in {folder} lacks {len(missing)} of the model's tensors "
            f"({missing[0]} ...); train the run again."
        )
    damaged = [n for n, p in model.named_parameters() if not torch.isfinite(p).all()]
    if damaged:
        raise EvaluationError(
            f"The checkpoint in {folder} holds values that are not finite ({damaged[0]}); train "
            "the run again."
        )
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


class _Progress:
    """A line in the log now and then, with the time left."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._start_s = self._last_s = time.monotonic()

    def advance(self, n: int) -> None:
        self._done += n
        now_s = time.monotonic()
        if now_s - self._last_s >= _HEARTBEAT_S and self._done < self._total:
            self._last_s = now_s
            left_s = (now_s - self._start_s) * (self._total - self._done) / self._done
            log.info("%d of %d answers, about %.0f s left", self._done, self._total, left_s)
