"""What the model says: greedy generation by the trainer's own model, with the adapter or without it.

Layers come as in training (`feed.walk`), wherever they lie, and one walk through all of them gives every row of a batch
one more token. So a walk's cost, which is most of a token's where layers are streamed, gathered or dequantised, is
shared by the rows of a batch: the caller chooses how many there are, as far as `cache_bytes` allows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from heartbeat import asking
from training_code.architecture import Architecture
from training_code.attention import Documents, attend_to_kept, places_of
from training_code.layer import Places, run_layer
from training_code.llama import Llama
from training_code.ranks import Ranks


class Interrupted(Exception):  # noqa: N818 (no error: somebody asked for it)
    """Generation was left before its end, by all ranks at the same token."""


@torch.no_grad()
def generate(
    llama: Llama,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    adapted: bool,
    batch_size: int,
    ranks: Ranks | None = None,
    progress: Callable[[int], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> list[list[int]]:
    """The likeliest next token again and again after each prompt (token ids); answers in the order of the prompts.

    An answer ends with the first of `stop_ids` that is said, which is its last token, or after `max_new_tokens`.
    Nothing is drawn or dropped, and no token is ruled out. Of tokens that are equally likely any may be said, and in
    less than f32 that happens: what else is in the batch may then tell.

    `batch_size`: prompts that are answered together, on each rank. A row that has ended leaves its batch; its place
    is not taken by another. Under several `ranks` all call this with the same arguments, each answers its share of
    the prompts, walking the layers as often as the others, and all return all answers. `progress` is told how many of
    this rank's prompts are answered, whenever there are more. `interrupted` is asked before each token; where it
    says so on any rank, all raise Interrupted.

    Raises ValueError for an empty prompt, a token that the model does not know, and sizes that make no sense.
    """
    ranks, stops = ranks or Ranks(), frozenset(stop_ids)
    _check(llama.architecture, prompts, max_new_tokens, batch_size)
    if max_new_tokens == 0 or not prompts:
        return [[] for _ in prompts]
    # Longest first: batches of like lengths waste little of the cache, and too large a batch fails at once.
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    mine = order[ranks.rank :: ranks.world_size]
    answers: list[list[int]] = [[] for _ in prompts]
    most = len(order[:: ranks.world_size])  # the first rank's, which has the most
    num_answered = 0
    for start in range(0, most, batch_size):
        members = mine[start : start + batch_size]
        batch = _Batch(llama, [prompts[number] for number in members], max_new_tokens, adapted)
        _go_on(ranks, bool(members), interrupted(), llama.device)
        said = batch.read(min(llama.placement.micro_batch_tokens, asking.READING_TOKENS))
        while True:
            for number, token in zip(members, said, strict=True):
                answers[number].append(token)
            ended = [len(answers[number]) == max_new_tokens or answers[number][-1] in stops for number in members]
            if any(ended):
                members = batch.leave(members, ended)
                num_answered += sum(ended)
                if progress is not None:
                    progress(num_answered)
            if not _go_on(ranks, bool(members), interrupted(), llama.device):
                break
            said = batch.say([answers[number][-1] for number in members])
        del batch  # its cache would stay while the next is made
    return _gathered(ranks, answers, max_new_tokens, llama.device)


def cache_bytes(architecture: Architecture, num_tokens: int, dtype: torch.dtype) -> int:
    """Of the keys and values that `generate` keeps for each row of a batch.

    `num_tokens`: of the batch's longest prompt and `max_new_tokens` together. In bf16 Scout takes 192 KiB a token.
    """
    shape = architecture.shape
    per_token = 2 * shape.key_value_size * dtype.itemsize
    return per_token * sum(_room(architecture, number, num_tokens) for number in range(shape.num_layers))


def _check(architecture: Architecture, prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_size: int) -> None:
    if max_new_tokens < 0 or batch_size < 1:
        raise ValueError(f"max_new_tokens must be 0 or more, batch_size 1 or more: {max_new_tokens}, {batch_size}")
    known = range(architecture.shape.vocabulary_size)
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {number} is empty: there is nothing to go on from")
        if min(prompt) not in known or max(prompt) not in known:
            raise ValueError(f"prompt {number} has a token that is none of the model's {len(known)}")


def _room(architecture: Architecture, number: int, num_tokens: int) -> int:
    """Tokens that a layer keeps of a document of so many. A RoPE layer starts anew with each chunk."""
    size = architecture.chunk_size
    return min(num_tokens, size) if size is not None and architecture.has_rope[number] else num_tokens


def _slots(architecture: Architecture, places: torch.Tensor) -> dict[bool, torch.Tensor]:
    """Where keys and values of tokens at these places of their documents are kept, in layers with RoPE and without."""
    return {True: places if architecture.chunk_size is None else places % architecture.chunk_size, False: places}


class _Cache:
    """Keys and values of all layers, ready to be attended to; each row has a place of its own."""

    def __init__(self, llama: Llama, num_rows: int, num_tokens: int) -> None:
        shape, architecture = llama.architecture.shape, llama.architecture
        # Zeros: what is masked counts nothing times a value, and that must not be NaN.
        self._layers = [
            torch.zeros(
                (2, num_rows, shape.num_key_value_heads, _room(architecture, number, num_tokens), shape.head_size),
                dtype=llama.dtype,
                device=llama.device,
            )
            for number in range(shape.num_layers)
        ]

    def put(self, number: int, rows: torch.Tensor, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keep (tokens, KV heads, head size) of a layer in these rows and slots, (tokens,) each."""
        keys, values = self._layers[number]
        keys[rows, :, slots] = key
        values[rows, :, slots] = value

    def first(self, number: int, num_rows: int, num_slots: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (rows, KV heads, slots, head size) of a layer."""
        keys, values = self._layers[number][:, :num_rows, :, :num_slots]
        return keys, values

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Put these rows in the place of others."""
        for layer in self._layers:
            layer[:, targets] = layer[:, sources]


@dataclass(frozen=True)
class _Kept:
    """Which tokens of some prompts are kept in which rows and slots; (kept,) each."""

    tokens: torch.Tensor
    rows: torch.Tensor
    slots: torch.Tensor


@dataclass
class _Prompts:
    """Whole prompts end to end on their way through the layers, as documents are in training."""

    x: torch.Tensor
    documents: Documents
    places: Places
    ends: torch.Tensor
    """(prompts,): the last token of each."""
    cache: _Cache
    kept: dict[bool, _Kept]
    """By whether a layer has RoPE."""

    @classmethod
    def of(cls, llama: Llama, prompts: Sequence[Sequence[int]], first_row: int, cache: _Cache) -> _Prompts:
        """The first of them is the row `first_row` of the cache, and so on."""
        lengths, architecture, device = tuple(map(len, prompts)), llama.architecture, llama.device
        documents = Documents.of(lengths, architecture, device)
        sizes = torch.tensor(lengths)
        rows = torch.arange(first_row, first_row + len(prompts)).repeat_interleave(sizes)
        places = places_of(lengths)
        # Tokens that are as far before their slot as the prompt's last token: in a RoPE layer those of its last chunk.
        last = (sizes - 1).repeat_interleave(sizes)
        kept = {}
        for has_rope, slots in _slots(architecture, places).items():
            tokens = (places - slots == last - _slots(architecture, last)[has_rope]).nonzero().squeeze(1)
            kept[has_rope] = _Kept(
                tokens.to(device, non_blocking=True),
                rows[tokens].to(device, non_blocking=True),
                slots[tokens].to(device, non_blocking=True),
            )
        return cls(
            llama.embed(torch.tensor(list(chain.from_iterable(prompts)))),
            documents,
            llama.places(documents.places()),
            (sizes.cumsum(0) - 1).to(device),
            cache,
            kept,
        )

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, number: int) -> torch.Tensor:
        """As `layer.Attend`, and keep what later tokens see."""
        kept = self.kept[self.documents.has_rope[number]]
        self.cache.put(number, kept.rows, kept.slots, key[kept.tokens], value[kept.tokens])
        return self.documents.attend(query, key, value, number)


class _Step:
    """One more token of each row."""

    def __init__(self, llama: Llama, tokens: Sequence[int], places: Sequence[int], cache: _Cache) -> None:
        self.x = llama.embed(torch.tensor(tokens))
        here = torch.tensor(places)
        self.places = llama.places(here.to(llama.device, torch.float32, non_blocking=True))
        self._cache, self._has_rope = cache, llama.architecture.has_rope
        self._rows = torch.arange(len(places), device=llama.device)
        self._slots: dict[bool, torch.Tensor] = {}
        self._visible: dict[bool, torch.Tensor] = {}
        for has_rope, slots in _slots(llama.architecture, here).items():
            num_slots = int(slots.max()) + 1  # on the host: nothing waits for the GPU
            slots = slots.to(llama.device, non_blocking=True)
            self._slots[has_rope] = slots
            self._visible[has_rope] = torch.arange(num_slots, device=llama.device) <= slots[:, None]

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, number: int) -> torch.Tensor:
        """As `layer.Attend`: each token sees itself and what its row has kept before it."""
        has_rope = self._has_rope[number]
        self._cache.put(number, self._rows, self._slots[has_rope], key, value)
        visible = self._visible[has_rope]
        return attend_to_kept(query, *self._cache.first(number, *visible.shape), visible)


class _Batch:
    """Rows that are answered together. Without any it walks the layers all the same, as the other ranks do."""

    def __init__(self, llama: Llama, prompts: Sequence[Sequence[int]], max_new_tokens: int, adapted: bool) -> None:
        self._llama, self._prompts, self._adapted = llama, prompts, adapted
        self._lengths = [len(prompt) for prompt in prompts]
        self._cache = _Cache(llama, len(prompts), max(self._lengths, default=0) + max_new_tokens)

    def read(self, room: int) -> list[int]:
        """Read the prompts, as many together as `room` tokens hold; the first token of each row's answer."""
        parts, start = [], 0
        for length in _cut(self._lengths, room):
            parts.append(_Prompts.of(self._llama, self._prompts[start : start + length], start, self._cache))
            start += length
        self._walk(parts)
        return self._likeliest([part.x[part.ends] for part in parts])

    def say(self, tokens: Sequence[int]) -> list[int]:
        """Each row's next token after this one of its answer."""
        steps = [_Step(self._llama, tokens, self._lengths, self._cache)] if tokens else []
        self._lengths = [length + 1 for length in self._lengths]
        self._walk(steps)
        return self._likeliest([step.x for step in steps])

    def leave(self, members: list[int], ended: Sequence[bool]) -> list[int]:
        """Let the rows that have ended go; the members in the new order of rows.

        The last rows come into the places of those that leave: no more is copied than has to be.
        """
        num_left = len(ended) - sum(ended)
        order = list(range(num_left))
        holes = [row for row in order if ended[row]]
        sources = [row for row in range(num_left, len(ended)) if not ended[row]]
        for hole, source in zip(holes, sources, strict=True):
            order[hole] = source
        if holes:
            self._cache.move(sources, holes)
        self._lengths = [self._lengths[row] for row in order]
        return [members[row] for row in order]

    def _walk(self, states: Sequence[_Prompts | _Step]) -> None:
        llama = self._llama
        for number, layer, lora in llama.walk(range(llama.num_layers), adapted=self._adapted):
            for state in states:
                parts = run_layer(state.x, layer, lora, state.places, state.attend, llama.architecture, number)
                state.x = parts.total()

    def _likeliest(self, last: Sequence[torch.Tensor]) -> list[int]:
        if not last:
            return []
        found: list[int] = self._llama.head.logits(torch.cat(list(last))).argmax(dim=-1).tolist()
        return found


def _cut(lengths: Sequence[int], room: int) -> list[int]:
    """How many prompts, in this order, go together: as many as have room, and one at least."""
    found: list[int] = []
    used = 0
    for length in lengths:
        if not found or used + length > room:
            found.append(0)
            used = 0
        found[-1] += 1
        used += length
    return found


def _go_on(ranks: Ranks, has_rows: bool, interrupted: bool, device: torch.device) -> bool:
    """Whether any rank has rows left. Raises Interrupted where any was interrupted."""
    num_with_rows, num_interrupted = ranks.totals([has_rows, interrupted], device)
    if num_interrupted:
        raise Interrupted
    return num_with_rows > 0


def _gathered(ranks: Ranks, answers: list[list[int]], max_new_tokens: int, device: torch.device) -> list[list[int]]:
    """Every rank's answers; where a rank has none, another has it."""
    if ranks.world_size == 1:
        return answers
    rows = [[len(answer), *answer, *[0] * (max_new_tokens - len(answer))] for answer in answers]
    told = torch.tensor(rows, device=device)
    ranks.add_up(told)
    return [row[1 : 1 + row[0]] for row in told.tolist()]
