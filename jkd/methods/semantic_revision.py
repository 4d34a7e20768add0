"""Semantic revision: a language model learns from texts that its teacher corrects, by token, by phrase, by sequence.

What a step trains on is data, or texts of a buffer, which steps now and then fill with what the student writes, the
teacher corrects in one place and the student writes on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jkd import _check, axis, losses, ops, optim, terms, text
from jkd.distiller import Batch, Distiller
from jkd.model import Variables
from jkd.terms import Metrics

Array = jax.Array
Distance = Callable[[Array, Array], Array]


class Revision(NamedTuple):
    """What is revised, and how often.

    Attributes:
      band: token level: a learnt band of quantiles of the teacher's distribution is compared, and not all of it.
      spans: weight of the distance between phrases; 0 leaves it out.
      correct: sequence level: what the student writes is corrected before it is kept.
      share: of steps that take texts from the buffer, at the start; DistiLLM's is 0, and `adapt` raises it.
      capacity: texts in the buffer, over all devices; the paper keeps 1000.
      step: by how much the share of kept texts grows (`adapt`).
      tolerance: by how much the validation loss has to rise for that.
      temperature: of what is written.
      floor: share of the teacher's mass that the band is to keep at least.
    """

    band: bool = True
    spans: float = 1.0
    correct: bool = True
    share: float = 0.0
    capacity: int = 1000
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
      share: float32, the share of steps that take texts from the buffer, while there is data to take others from.
      reference: float32, the validation loss that `adapt` was last told.
    """

    step: Array
    key: Array
    params: dict[str, Any]
    opt_state: Any
    buffer: Kept
    pushed: Array
    share: Array
    reference: Array


class BandNet(nn.Module):
    """Upper and lower quantile from the largest log-probabilities of a distribution and its entropy.

    At the start the upper end is near 1 and the lower one leaves about the top 6 % of the tokens.

    Attributes:
      width: of the hidden layer.
      largest: how many log-probabilities are seen.
    """

    width: int = 64
    largest: int = 32

    @nn.compact
    def __call__(self, log_probs: Array) -> tuple[Array, Array]:
        """Maps `[..., V]` to two shares `[...]`, of which the second is the smaller."""
        top = jax.lax.top_k(log_probs, min(self.largest, log_probs.shape[-1]))[0]
        entropy = -(jnp.exp(log_probs) * log_probs).sum(-1, keepdims=True)
        x = jnp.concatenate([jnp.maximum(top, -20.0) / 10, entropy], axis=-1)
        x = nn.relu(nn.Dense(self.width, name="hidden")(x))
        out = nn.Dense(2, kernel_init=nn.initializers.normal(0.01), name="ends")(x)
        upper = jax.nn.sigmoid(out[..., 0] + 7.0)
        return upper, upper * jax.nn.sigmoid(out[..., 1] + 2.7)


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
    total_steps: int = 1000,
    task_weight: float = 1.0,
    max_norm: float = 1.0,
    weight_decay: float = 0.01,
    span_ids: Callable[[Array], Array] = text.byte_span_ids,
) -> Distiller:
    """Distils a language model on its own texts, corrected.

    `L = w L_SFT + L_DAC + L_span`: cross-entropy on the data's answers, and, on the texts of the step, the divergence
    within a learnt band of the teacher's distribution and the distance of neighbours in phrases. A batch holds
    `prompt` `[B, P]` and `prompt_mask` (padding on the left), `answer` `[B, T]` and `answer_mask`. With
    `r ~ U(0, 1)`, a step writes new texts and pushes them if `r < share (1 - step / total_steps)`, or if `r < share`
    and the buffer is not yet full; it trains on the buffer's if `r < share`, on data otherwise. `share` is that of
    `revision` at first; `adapt` raises it.

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
      total_steps: of the run, over which writing becomes rarer.
      task_weight: w.
      max_norm: to which the gradient is clipped.
      weight_decay: of AdamW.
      span_ids: `tokens [B, T] -> ids`, below 0 outside of phrases.

    Returns:
      A `Distiller` with `SemanticRevisionState`; its student is deployed without the band's network. It logs
      `kept_mass` (of the band), `off_policy`, `written` and `corrected` (share of texts).

    Raises:
      ValueError: for numbers out of range; while tracing, for a batch without these entries.

    References:
      Liu, Kan, Liu, et al. [Multi-Granularity Semantic Revision for Large Language Model
      Distillation](https://arxiv.org/abs/2407.10068), 2024. No official code was found: the band's network, its
      renormalisation, its floor and what happens where nothing differs are ours. The replay is that of Ko et al.
      [DistiLLM](https://arxiv.org/abs/2402.03898), ICML 2024.
    """
    _check_numbers(revision, total_steps, task_weight)
    parts = _Parts(student, teacher, vocabulary, eos, pad, revision, distance, total_steps, task_weight, span_ids)
    chain = optax.chain(optax.clip_by_global_norm(max_norm), optax.adamw(learning_rate, weight_decay=weight_decay))
    optimizer = optim.standard_promotion(chain)

    def init(key: Array, batch: Batch) -> SemanticRevisionState:
        student_key, band_key, run_key = jax.random.split(key, 3)
        data = _texts(batch)
        band = BandNet().init(band_key, jnp.zeros((1, vocabulary)))["params"] if revision.band else {}
        params = {"student": initial(student_key), "band": band}
        size = max(1, revision.capacity // data.prompt.shape[0])
        buffer = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), data)
        zero, share = jnp.int32(0), jnp.float32(revision.share)
        return SemanticRevisionState(
            zero, run_key, params, optimizer.init(params), buffer, zero, share, jnp.float32(jnp.inf)
        )

    def step(state: SemanticRevisionState, teacher_params: Any, batch: Batch) -> tuple[SemanticRevisionState, Metrics]:
        if axis.size() > 1:
            raise ValueError("semantic_revision keeps texts in the state, which pmap would copy; use jit over a mesh.")
        frozen = jax.lax.stop_gradient(teacher_params)
        data = _texts(batch)
        buffer, pushed, chosen, watched = _choose(parts, state, frozen, data)
        loss = _loss(parts, frozen, data, chosen)
        gradients, logged = jax.grad(loss, has_aux=True)(state.params)
        ok = terms.all_finite((gradients, logged))
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        new = optax.apply_updates(state.params, updates), opt_state
        old = state.params, state.opt_state
        params, opt_state = jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)
        after = state._replace(step=state.step + 1, params=params, opt_state=opt_state, buffer=buffer, pushed=pushed)
        return after, _metrics({**logged, **watched}, ok)

    def deployed(state: SemanticRevisionState) -> Variables:
        return {"params": state.params["student"]}

    return Distiller(init, step, deployed)


def adapt(state: SemanticRevisionState, validation_loss: Any, revision: Revision) -> SemanticRevisionState:
    """After a validation: a larger share of the student's own texts once the loss on the data's has risen.

    Args:
      state: of `semantic_revision`.
      validation_loss: on held-out answers.
      revision: that of the method.

    Returns:
      The state with `share` raised by `revision.step`, at most to 1, if the loss is above the last one by at least
      `revision.tolerance`.
    """
    loss = jnp.asarray(validation_loss, jnp.float32)
    rose = loss >= state.reference + revision.tolerance
    share = jnp.where(rose, jnp.minimum(state.share + revision.step, 1), state.share)
    return state._replace(share=share, reference=loss)


class _Parts(NamedTuple):
    """What a step is composed of: the arguments of `semantic_revision` of those names."""

    student: text.LanguageModel
    teacher: text.LanguageModel
    vocabulary: int
    eos: int
    pad: int
    revision: Revision
    distance: Distance
    total_steps: int
    task_weight: float
    span_ids: Callable[[Array], Array]


def _texts(batch: Batch) -> Kept:
    """The texts of a batch."""
    missing = sorted(set(Kept._fields) - set(batch))
    if missing:
        raise ValueError(f"batch has the entries {sorted(batch)} but no {missing}; see jkd.data.text.instructions.")
    return Kept(*(batch[name] for name in Kept._fields))


def _choose(
    parts: _Parts, state: SemanticRevisionState, teacher_params: Any, data: Kept
) -> tuple[Kept, Array, Kept, dict[str, Array]]:
    """The buffer after the step, what the step trains on, and what is logged of that."""
    draw_key, write_key, row_key = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
    size = state.buffer.prompt.shape[0]
    drawn = jax.random.uniform(draw_key)
    rarer = state.share * (1 - state.step.astype(jnp.float32) / parts.total_steps)
    off_policy = drawn < state.share
    writes = (drawn < rarer) | (off_policy & (state.pushed < size))

    def write() -> tuple[Kept, Array, Array]:
        answer, corrected = _written(parts, write_key, state.params["student"], teacher_params, data)
        kept = data._replace(answer=answer, answer_mask=text.until_end(answer, parts.eos))
        return *ops.ring_push(state.buffer, kept, state.pushed), corrected

    buffer, pushed, corrected = jax.lax.cond(writes, write, lambda: (state.buffer, state.pushed, jnp.float32(0)))
    place = jax.random.randint(row_key, (), 0, jnp.clip(pushed, 1, size))
    held = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, place, keepdims=False), buffer)
    chosen = jax.tree.map(lambda own, other: jnp.where(off_policy, own, other), held, data)
    watched = {"off_policy": off_policy, "written": writes, "corrected": corrected}
    return buffer, pushed, chosen, {name: x.astype(jnp.float32) for name, x in watched.items()}


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
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), data, chosen)
        on_data, on_chosen = jnp.split(_read(parts.student, params["student"], both), 2)
        labels = jnp.where(data.answer_mask, data.answer, 0)
        task = losses.cross_entropy(on_data, labels)
        found = {"task": parts.task_weight * ops.masked_mean(task, data.answer_mask)}
        found |= _token_level(parts, params["band"], on_chosen, targets, chosen.answer_mask)
        if parts.revision.spans:
            spans = jnp.where(chosen.answer_mask, parts.span_ids(chosen.answer), -1)
            distance = jax.vmap(lambda s, t, ids, w: losses.span_correlation(s, t, ids, where=w))
            found["spans"] = parts.revision.spans * distance(on_chosen, targets, spans, chosen.answer_mask).mean()
        total = sum((x for name, x in found.items() if name != "kept_mass"), jnp.float32(0))
        return total, found

    return loss


def _token_level(
    parts: _Parts, band_params: Any, student_logits: Array, teacher_logits: Array, where: Array
) -> dict[str, Array]:
    """The divergence, within the band if one is learnt, which then has a floor."""
    if not parts.revision.band:
        return {"distill": ops.masked_mean(parts.distance(student_logits, teacher_logits), where)}
    log_probs = jax.lax.stop_gradient(jax.nn.log_softmax(teacher_logits.astype(jnp.float32)))
    upper, lower = BandNet().apply({"params": band_params}, log_probs)
    mask = ops.quantile_band_mask(log_probs, upper, lower)
    log_mask = jnp.log(jnp.maximum(mask, 1e-12))
    divergence = losses.forward_kl(student_logits + log_mask, log_probs + log_mask, stop_teacher_gradient=False)
    mass = (mask * jnp.exp(log_probs)).sum(-1)
    return {
        "distill": ops.masked_mean(divergence, where),
        "floor": ops.masked_mean(jax.nn.relu(parts.revision.floor - mass), where),
        "kept_mass": ops.masked_mean(mass, where),
    }


def _read(model: text.LanguageModel, params: Any, texts: Kept) -> Array:
    """What a model says of each token of completions."""
    return text.completion_logits(
        model, params, texts.prompt, texts.answer, mask=texts.prompt_mask, completion_mask=texts.answer_mask
    )


def _metrics(logged: dict[str, Array], ok: Array) -> Metrics:
    """(sum, count) of each value."""
    one = ok.astype(jnp.float32)
    watched = ("kept_mass", "off_policy", "written", "corrected")
    found = {
        (name if name in watched else f"loss/{name}"): (jnp.where(ok, jax.lax.stop_gradient(x), 0), one)
        for name, x in logged.items()
    }
    return {**found, "nonfinite/step": (1 - one, jnp.float32(1))}


def _check_numbers(revision: Revision, total_steps: int, task_weight: float) -> None:
    """Refuses what could not be meant."""
    _check.positive_integer("total_steps", total_steps)
    _check.positive_integer("revision.capacity", revision.capacity)
    for name, value in (("task_weight", task_weight), ("revision.spans", revision.spans)):
        _check.not_negative(name, value)
    _check.within("revision.share", revision.share, 0.0, 1.0)
    _check.within("revision.floor", revision.floor, 0.0, 1.0)
    _check.positive("revision.temperature", revision.temperature)
