"""Semantic revision: a language model learns from texts that its teacher corrects, by token, by phrase, by sequence.

What a step trains on is data, what the student has just written, corrected by the teacher in one place and written on
from there, or such texts of earlier steps from a buffer.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jkd import _check, axis, losses, ops, optim, terms, text, views
from jkd.distiller import Batch, Distiller
from jkd.model import Variables
from jkd.nets.quantile_bands import BandNet
from jkd.terms import Metrics

Array = jax.Array
Distance = Callable[[Array, Array], Array]
Mask = Callable[[Array], Array]
_WATCHED = ("kept_mass", "kept_tokens")


class Revision(NamedTuple):
    """What is revised, and how often.

    Attributes:
      band: token level: a learnt band of quantiles of the teacher's distribution is compared, and not all of it.
      spans: weight of the distance between phrases; 0 leaves it out.
      correct: sequence level: what the student writes is corrected before it is kept.
      share: of steps that take texts of the student, at the start; DistiLLM's is 0, and `adapt` raises it. With 0 and
        `every = 0` none are written, whatever the state's share.
      capacity: texts in the buffer, over all devices; the paper keeps 1000.
      every: steps between two validations on `batch["held_out"]`, each with an `adapt`; DistiLLM's make an epoch. 0
        leaves the share as it is.
      step: by how much the share grows (`adapt`).
      tolerance: by how much the validation loss has to rise for that.
      temperature: of what is written.
      floor: share of the teacher's mass that the band is to keep at least.
    """

    band: bool = True
    spans: float = 1.0
    correct: bool = True
    share: float = 0.0
    capacity: int = 1000
    every: int = 0
    step: float = 0.1
    tolerance: float = 0.1
    temperature: float = 1.0
    floor: float = 0.5


class Kept(NamedTuple):
    """Texts: left-padded prompts, completions with their end, and where both count."""

    prompt: Array
    prompt_mask: Array
    answer: Array
    answer_mask: Array


class SemanticRevisionState(NamedTuple):
    """State of `semantic_revision`.

    Attributes:
      step: int32, steps taken.
      key: PRNG key.
      params: `{"student": …, "band": …}`.
      opt_state: the optimiser's.
      buffer: `Kept`, arrays `[capacity // B, B, ...]`: batches of texts.
      pushed: int32, batches pushed so far.
      share: float32, the share of steps that take texts of the student.
      reference: float32, the validation loss that the next one is compared with (`adapt`).
    """

    step: Array
    key: Array
    params: dict[str, Any]
    opt_state: Any
    buffer: Kept
    pushed: Array
    share: Array
    reference: Array


def semantic_revision(
    *,
    student: text.LanguageModel,
    teacher: text.LanguageModel,
    initial: Callable[[Array], Any],
    vocabulary: int,
    eos: int,
    pad: int,
    learning_rate: optax.ScalarOrSchedule,
    revision: Revision = Revision(),  # noqa: B008 (immutable)
    distance: Distance = losses.forward_kl,
    mask: Mask | None = None,
    total_steps: int | None = 1000,
    task_weight: float = 1.0,
    max_norm: float = 1.0,
    weight_decay: float = 0.01,
    span_ids: Callable[[Array], Array] = text.byte_span_ids,
) -> Distiller:
    """Distils a language model on its own texts, corrected.

    `L = w L_SFT + L_DAC + L_span`: cross-entropy on the data's answers, and, on the texts of the step, the divergence
    within a learnt band of the teacher's distribution and the distance of neighbours in phrases. A batch holds
    `prompt` `[B, P]` and `prompt_mask` (padding on the left), `answer` `[B, T]` and `answer_mask`. With
    `r ~ U(0, 1)`, a step writes new texts, keeps them and trains on them if `r < share (1 - step / total_steps)`, or
    if `r < share` and the buffer is not yet full; otherwise it trains on B texts of the buffer if `r < share`, and on
    data if not. `share` is that of `revision` at first; validations raise it (`adapt`).

    Args:
      student: `jkd.text.language_model` of the network that learns.
      teacher: of the frozen one, with the same tokens.
      initial: `key -> params` of the student; as in the paper those of a model that was trained on the answers.
      vocabulary: V.
      eos: token that ends an answer.
      pad: token after it.
      learning_rate: of AdamW, number or schedule.
      revision: what is revised; `Revision(False, 0.0, False)` leaves DistiLLM's replay and any `distance`.
      distance: `(student_logits, teacher_logits) -> [...]` where there is no band.
      mask: `teacher_log_probs [..., V] -> [..., V]` in [0, 1], a fixed one in the place of the learnt band, which
        `revision` then leaves out.
      total_steps: of the run, over which writing becomes rarer; None for a chance that stays.
      task_weight: w.
      max_norm: to which the gradient is clipped.
      weight_decay: of AdamW.
      span_ids: `tokens [B, T] -> ids`, below 0 outside of phrases.

    Returns:
      A `Distiller` with `SemanticRevisionState`; its student is deployed without the band's network. It logs
      `kept_mass` and `kept_tokens` (within the band or mask), `off_policy`, `written`, `share`, and `corrected` (share
      of the texts of a step that wrote any).

    Raises:
      ValueError: for numbers out of range or both a band and a mask; while tracing, for a batch without these entries.

    References:
      Liu, Kan, Liu, et al. [Multi-Granularity Semantic Revision for Large Language Model
      Distillation](https://arxiv.org/abs/2407.10068), 2024. No official code was found: the band's network, its
      renormalisation, its floor and what happens where nothing differs are ours. The replay is that of Ko et al.
      [DistiLLM](https://arxiv.org/abs/2402.03898), ICML 2024, as its code has it.
    """
    _check_numbers(revision, mask, total_steps, task_weight)
    parts = _Parts(student, teacher, vocabulary, eos, pad, revision, distance, mask, total_steps, task_weight, span_ids)
    chain = optax.chain(optax.clip_by_global_norm(max_norm), optax.adamw(learning_rate, weight_decay=weight_decay))
    optimizer = optim.standard_promotion(chain)

    def init(key: Array, batch: Batch) -> SemanticRevisionState:
        return _begun(parts, optimizer, initial, key, _texts(batch))

    def step(state: SemanticRevisionState, teacher_params: Any, batch: Batch) -> tuple[SemanticRevisionState, Metrics]:
        return _advanced(parts, optimizer, state, jax.lax.stop_gradient(teacher_params), batch)

    def deployed(state: SemanticRevisionState) -> Variables:
        return {"params": state.params["student"]}

    return Distiller(init, step, deployed)


def adapt(state: SemanticRevisionState, validation_loss: Any, revision: Revision) -> SemanticRevisionState:
    """After a validation: a larger share of the student's own texts once the loss on the data's has risen.

    The loss is compared with the first one, and after a rise with that one, as in DistiLLM's code; its paper compares
    with the last one, which a slow rise would pass.

    Args:
      state: of `semantic_revision`.
      validation_loss: on held-out answers.
      revision: that of the method.

    Returns:
      The state with `share` raised by `revision.step`, at most to 1, if the loss is above the reference by at least
      `revision.tolerance`.
    """
    loss = jnp.asarray(validation_loss, jnp.float32)
    rose = loss >= state.reference + revision.tolerance
    share = jnp.where(rose, jnp.minimum(state.share + revision.step, 1), state.share)
    return state._replace(share=share, reference=jnp.where(rose | jnp.isinf(state.reference), loss, state.reference))


class _Parts(NamedTuple):
    """What a step is composed of: the arguments of `semantic_revision` of those names."""

    student: text.LanguageModel
    teacher: text.LanguageModel
    vocabulary: int
    eos: int
    pad: int
    revision: Revision
    distance: Distance
    mask: Mask | None
    total_steps: int | None
    task_weight: float
    span_ids: Callable[[Array], Array]


def _texts(batch: Batch) -> Kept:
    """The texts of a batch."""
    missing = sorted(set(Kept._fields) - set(batch))
    if missing:
        raise ValueError(f"batch has the entries {sorted(batch)} but no {missing}; see jkd.data.text.instructions.")
    return Kept(*(batch[name] for name in Kept._fields))


def _begun(
    parts: _Parts, optimizer: optax.GradientTransformation, initial: Callable[[Array], Any], key: Array, data: Kept
) -> SemanticRevisionState:
    """The state before the first step: an empty buffer, and no validation yet."""
    student_key, band_key, run_key = jax.random.split(key, 3)
    revision = parts.revision
    band = BandNet().init(band_key, jnp.zeros((1, parts.vocabulary)))["params"] if revision.band else {}
    params = {"student": initial(student_key), "band": band}
    size = max(1, revision.capacity // data.prompt.shape[0])
    buffer = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), data)
    zero, share, never = jnp.int32(0), jnp.float32(revision.share), jnp.float32(jnp.inf)
    return SemanticRevisionState(zero, run_key, params, optimizer.init(params), buffer, zero, share, never)


def _advanced(
    parts: _Parts, optimizer: optax.GradientTransformation, state: SemanticRevisionState, frozen: Any, batch: Batch
) -> tuple[SemanticRevisionState, Metrics]:
    """A step: validation if it is due, the choice of texts, and an update that is left out if it is not finite."""
    if axis.size() > 1:
        raise ValueError("semantic_revision keeps texts in the state, which pmap would copy; use jit over a mesh.")
    data = _texts(batch)
    state = _validated(parts, state, batch)
    buffer, pushed, chosen, watched = _choose(parts, state, frozen, data)
    gradients, logged = jax.grad(_loss(parts, frozen, data, chosen), has_aux=True)(state.params)
    ok = terms.all_finite((gradients, logged))
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    new = optax.apply_updates(state.params, updates), opt_state
    old = state.params, state.opt_state
    params, opt_state = jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)
    after = state._replace(step=state.step + 1, params=params, opt_state=opt_state, buffer=buffer, pushed=pushed)
    return after, _metrics(logged, watched, ok)


def _validated(parts: _Parts, state: SemanticRevisionState, batch: Batch) -> SemanticRevisionState:
    """The state with the share that the held-out answers ask for, where they are due."""
    revision = parts.revision
    if not revision.every:
        return state
    texts = _texts(views.held_out(batch)[1])

    def validate() -> tuple[Array, Array]:
        found = adapt(state, _task(_read(parts.student, state.params["student"], texts), texts), revision)
        return found.share, found.reference

    due = state.step % revision.every == 0
    share, reference = jax.lax.cond(due, validate, lambda: (state.share, state.reference))
    return state._replace(share=share, reference=reference)


def _choose(
    parts: _Parts, state: SemanticRevisionState, teacher_params: Any, data: Kept
) -> tuple[Kept, Array, Kept, Metrics]:
    """The buffer after the step, what the step trains on, and what is logged of that."""
    if not parts.revision.share and not parts.revision.every:
        return state.buffer, state.pushed, data, {}
    draw_key, write_key, row_key = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
    drawn = jax.random.uniform(draw_key)
    rarer = 1 - state.step.astype(jnp.float32) / parts.total_steps if parts.total_steps else 1.0
    off_policy = drawn < state.share
    writes = (drawn < state.share * rarer) | (off_policy & (state.pushed < state.buffer.prompt.shape[0]))

    def write() -> tuple[Kept, Array, Kept, Array]:
        answer, corrected = _written(parts, write_key, state.params["student"], teacher_params, data)
        fresh = data._replace(answer=answer, answer_mask=text.until_end(answer, parts.eos))
        return *ops.ring_push(state.buffer, fresh, state.pushed), fresh, corrected

    def take() -> tuple[Kept, Array, Kept, Array]:
        held = _drawn(row_key, state.buffer, state.pushed)
        chosen = jax.tree.map(lambda own, other: jnp.where(off_policy, own, other), held, data)
        return state.buffer, state.pushed, chosen, jnp.float32(0)

    buffer, pushed, chosen, corrected = jax.lax.cond(writes, write, take)
    one, wrote = jnp.float32(1), writes.astype(jnp.float32)
    watched = {"off_policy": off_policy.astype(jnp.float32), "written": wrote, "share": state.share}
    return buffer, pushed, chosen, {**{k: (x, one) for k, x in watched.items()}, "corrected": (corrected, wrote)}


def _drawn(key: Array, buffer: Kept, pushed: Array) -> Kept:
    """As many texts as a batch has, none twice, of those that the buffer holds."""
    size, rows = buffer.prompt.shape[:2]
    held = jnp.arange(size * rows) < pushed * rows
    order = jax.lax.top_k(jnp.where(held, jax.random.uniform(key, held.shape), -1), rows)[1]
    return jax.tree.map(lambda x: x.reshape(size * rows, *x.shape[2:])[order], buffer)


def _written(parts: _Parts, key: Array, params: Any, teacher_params: Any, data: Kept) -> tuple[Array, Array]:
    """Texts of the student for the prompts of a batch, corrected if they are to be; and the share that was."""
    options: dict[str, Any] = {
        "max_new_tokens": data.answer.shape[1],
        "mask": data.prompt_mask,
        "temperature": parts.revision.temperature,
        "eos": parts.eos,
        "pad": parts.pad,
    }
    if not parts.revision.correct:
        return text.generate(key, parts.student, params, data.prompt, **options), jnp.float32(0)
    found = text.correct_and_regenerate(
        key, parts.student, parts.teacher, (params, teacher_params), data.prompt, **options
    )
    return found.tokens, (found.error_positions >= 0).mean(dtype=jnp.float32)


def _loss(
    parts: _Parts, teacher_params: Any, data: Kept, chosen: Kept
) -> Callable[[Any], tuple[Array, dict[str, Array]]]:
    """The sum of the terms, and each of them."""
    targets = _read(parts.teacher, teacher_params, chosen)

    def loss(params: Any) -> tuple[Array, dict[str, Array]]:
        on_data, on_chosen = _read_both(parts.student, params["student"], data, chosen)
        found = {"task": parts.task_weight * _task(on_data, data)}
        found |= _token_level(parts, params["band"], on_chosen, targets, chosen.answer_mask)
        if parts.revision.spans:
            spans = jnp.where(chosen.answer_mask, parts.span_ids(chosen.answer), -1)
            distance = jax.vmap(lambda s, t, ids, w: losses.span_correlation(s, t, ids, where=w))
            found["spans"] = parts.revision.spans * distance(on_chosen, targets, spans, chosen.answer_mask).mean()
        return sum((x for name, x in found.items() if name not in _WATCHED), jnp.float32(0)), found

    return loss


def _task(logits: Array, texts: Kept) -> Array:
    """The cross-entropy of a token of the answers."""
    labels = jnp.where(texts.answer_mask, texts.answer, 0)
    return ops.masked_mean(losses.cross_entropy(logits, labels), texts.answer_mask)


def _token_level(
    parts: _Parts, band_params: Any, student_logits: Array, teacher_logits: Array, where: Array
) -> dict[str, Array]:
    """The divergence, within the learnt band or fixed mask if there is one, which then has a floor."""
    if not parts.revision.band and parts.mask is None:
        return {"distill": ops.masked_mean(parts.distance(student_logits, teacher_logits), where)}
    log_probs = jax.lax.stop_gradient(jax.nn.log_softmax(teacher_logits.astype(jnp.float32)))
    if parts.mask is not None:
        mask = parts.mask(log_probs)
    else:
        mask = ops.quantile_band_mask(log_probs, *BandNet().apply({"params": band_params}, log_probs))
    log_mask = jnp.log(jnp.maximum(mask, 1e-12))
    divergence = losses.forward_kl(student_logits + log_mask, log_probs + log_mask, stop_teacher_gradient=False)
    mass = (mask * jnp.exp(log_probs)).sum(-1)
    return {
        "distill": ops.masked_mean(divergence, where),
        "floor": ops.masked_mean(jax.nn.relu(parts.revision.floor - mass), where),
        "kept_mass": ops.masked_mean(mass, where),
        "kept_tokens": ops.masked_mean(mask.sum(-1), where),
    }


def _read(model: text.LanguageModel, params: Any, texts: Kept) -> Array:
    """What a model says of each token of completions."""
    return text.completion_logits(
        model, params, texts.prompt, texts.answer, mask=texts.prompt_mask, completion_mask=texts.answer_mask
    )


def _read_both(model: text.LanguageModel, params: Any, first: Kept, second: Kept) -> tuple[Array, Array]:
    """What a model says of two batches of texts: one pass, and of half the rows if they are the same ones."""
    if first is second:
        return (_read(model, params, first),) * 2
    both = _read(model, params, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second))
    return both[: len(both) // 2], both[len(both) // 2 :]


def _metrics(logged: dict[str, Array], watched: Metrics, ok: Array) -> Metrics:
    """(sum, count) of each value; terms of a step that is not finite do not count."""
    one = ok.astype(jnp.float32)
    found = {
        (name if name in _WATCHED else f"loss/{name}"): (jnp.where(ok, jax.lax.stop_gradient(x), 0), one)
        for name, x in logged.items()
    }
    return {**found, **watched, "nonfinite/step": (1 - one, jnp.float32(1))}


def _check_numbers(revision: Revision, mask: Mask | None, total_steps: int | None, task_weight: float) -> None:
    """Refuses what could not be meant."""
    if total_steps is not None:
        _check.positive_integer("total_steps", total_steps)
    if revision.band and mask is not None:
        raise ValueError("mask takes the place of the learnt band; give it with Revision(band=False).")
    _check.positive_integer("revision.capacity", revision.capacity)
    for name, value in (
        ("task_weight", task_weight),
        ("revision.spans", revision.spans),
        ("revision.every", revision.every),
        ("revision.tolerance", revision.tolerance),
    ):
        _check.not_negative(name, value)
    for name in ("share", "step", "floor"):
        _check.within(f"revision.{name}", getattr(revision, name), 0.0, 1.0)
    _check.positive("revision.temperature", revision.temperature)
