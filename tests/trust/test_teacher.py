"""Promise 6: the teacher stays as it is, is in no checkpoint, and its gradient is zero by structure."""

import functools
import hashlib

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jkd
from jkd import terms, train
from tests import worlds

BATCH = worlds.batch()


def penalty(student, teacher, batch):
    """Terms that stop nothing themselves: what stops is the framework."""
    return {
        "task": jkd.losses.cross_entropy(student.logits, batch["label"]),
        "distill": jnp.square(student.logits - teacher.logits).mean(-1) + jnp.square(teacher.logits).mean(-1),
    }


@functools.cache
def example(optimizer=None):
    """A method on that objective, and a state."""
    distiller = worlds.distiller(worlds.Tiny(norm=True), objective=penalty, optimizer=optimizer)
    return distiller, jax.jit(distiller.init)(jax.random.key(0), BATCH)


def losses_of(distiller, state):
    """The logged losses as a function of the teacher."""

    def losses(teacher):
        metrics = distiller.step(state, teacher, BATCH)[1]
        return {name: total for name, (total, _) in metrics.items() if name.startswith("loss/")}

    return losses


def depends(closed):
    """Which outputs of a jaxpr depend on any of its inputs or constants that are not literals."""
    jaxpr = closed.jaxpr
    live = set(jaxpr.invars) | set(jaxpr.constvars)
    for equation in jaxpr.eqns:
        if any(not hasattr(v, "val") and v in live for v in equation.invars):
            live.update(equation.outvars)
    return [not hasattr(v, "val") and v in live for v in jaxpr.outvars]


def test_the_gradient_depends_on_nothing():
    """In the jaxpr of the gradient every entry is a constant: no path leads to it from teacher, state or batch."""
    losses = losses_of(*example())
    gradient = jax.make_jaxpr(jax.grad(lambda teacher: sum(losses(teacher).values())))(worlds.teacher_variables())
    assert not any(depends(gradient))


def test_a_gradient_that_is_zero_by_chance_would_be_seen():
    """The same check on a loss without a stop, at a point where its gradient vanishes."""
    gradient = jax.make_jaxpr(jax.grad(lambda x: jnp.square(x).sum()))(jnp.zeros(3))
    assert depends(gradient) == [True]


def test_no_cotangent_reaches_it():
    """Traced with a probe on each leaf, that sees whether its cotangent is a symbolic zero."""
    distiller, state = example()
    losses = losses_of(distiller, state)
    reach = terms.find_reach(lambda teacher: (losses(teacher), ()), worlds.teacher_variables())
    assert set(reach.names) == {"loss/task", "loss/distill"}
    assert not any(any(flags) for _, flags in reach)

    def open_loss(teacher):
        logits = worlds.TEACHER.apply(teacher, BATCH["inputs"], train=False)[0].logits
        return {"distill": jnp.square(logits).mean()}, ()

    assert all(all(flags) for _, flags in terms.find_reach(open_loss, worlds.teacher_variables()))


@pytest.mark.parametrize("optimizer", [None, optax.sgd(0.1)], ids=["dot", "sgd"])
def test_no_product_of_a_pull_back_is_computed(optimizer):
    """Of the step's matrix products exactly the two of the teacher's forward pass have its width."""
    distiller, state = example(optimizer)
    jaxpr = jax.make_jaxpr(distiller.step)(state, worlds.teacher_variables(), BATCH)
    assert sum(16 in shape for shape in products(jaxpr.jaxpr)) == 2


def products(jaxpr):
    """Shapes of the operands of all matrix products, inner jaxprs included, joined."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield sum((v.aval.shape for v in equation.invars), ())
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from products(inner)


def test_its_bytes_are_the_same_before_and_after_and_in_no_checkpoint(tmp_path):
    teacher = jax.tree.map(np.array, worlds.teacher_variables())
    before = digests(teacher)
    placed = jax.tree.map(jnp.asarray, teacher)
    train.fit(
        worlds.distiller(),
        placed,
        worlds.Batches(),
        steps=4,
        workdir=tmp_path,
        checkpoint_every=2,
        evaluate={"validation": lambda variables: {"accuracy": 0.5}},
        select="validation/accuracy",
        placement=train.jit_placement(jax.devices()[:1]),
        progress=False,
    )
    assert digests(teacher) == digests(placed) == before
    stored = checkpointed(tmp_path / "checkpoints")
    assert len(stored) == 3
    for names, arrays in stored:
        assert any("head" in name for name in names) and not any("teacher" in name for name in names)
        assert not set(digests(arrays)) & set(before)


def digests(tree):
    """SHA-256 of each leaf that is no constant."""
    return [
        hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
        for leaf in jax.tree.leaves(tree)
        if len(np.unique(leaf)) > 1
    ]


def checkpointed(directory):
    """Names and arrays of every checkpoint below a folder, read by Orbax alone."""
    import orbax.checkpoint as ocp

    found = []
    for path in sorted(directory.glob("*/*/tree")):
        with ocp.StandardCheckpointer() as reader:
            tree = reader.restore(path)
        found.append((list(tree), list(tree.values())))
    return found
