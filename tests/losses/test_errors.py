"""What is refused, when it is traced, and in which words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jkd import losses, ops

LOGITS = np.zeros((4, 5), np.float32)
LABELS = np.zeros(4, np.int32)
MAPS = np.zeros((4, 3, 3, 2), np.float32)
ROWS = np.zeros((4, 6), np.float32)
INDEX = np.zeros((4, 3), np.int32)

REFUSED = {
    "classes": (ValueError, "5 classes.*4; .*num_classes", lambda: losses.kl_divergence(LOGITS, LOGITS[:, :4])),
    "rows": (ValueError, "student_logits has shape.*teacher_logits", lambda: losses.reverse_kl(LOGITS, LOGITS[:3])),
    "scalars": (ValueError, r"expected \[\.\.\., C\]", lambda: losses.jeffreys(jnp.zeros(()), jnp.zeros(()))),
    "integer logits": (TypeError, "student_logits has dtype int32", lambda: losses.forward_kl(INDEX, INDEX)),
    "float labels": (TypeError, "soft_cross_entropy", lambda: losses.cross_entropy(LOGITS, jnp.zeros(4))),
    "label shape": (ValueError, r"labels has shape \(4, 1\)", lambda: losses.dkd(LOGITS, LOGITS, LABELS[:, None])),
    "targets": (ValueError, "targets has shape", lambda: losses.soft_cross_entropy(LOGITS, LOGITS[:, :4])),
    "weights": (ValueError, "weights has shape.*one for", lambda: losses.cross_entropy(LOGITS, LABELS, weights=ROWS)),
    "alpha": (ValueError, "alpha=1.5.*lie in", lambda: losses.hinton_kd(LOGITS, LOGITS, LABELS, alpha=1.5)),
    "alphas": (ValueError, "alpha has shape", lambda: losses.hinton_kd(LOGITS, LOGITS, LABELS, alpha=jnp.zeros(3))),
    "weight": (ValueError, "beta=-1 must", lambda: losses.dkd(LOGITS, LOGITS, LABELS, beta=-1)),
    "jsd beta": (ValueError, "beta=2.0.*lie in", lambda: losses.generalized_jsd(LOGITS, LOGITS, beta=2.0)),
    "jsd array": (TypeError, "plain number", lambda: losses.generalized_jsd(LOGITS, LOGITS, beta=jnp.float32(0.5))),
    "dist rank": (ValueError, r"expected \[B, C\]", lambda: losses.dist(LOGITS[0], LOGITS[0])),
    "float mask": (TypeError, "where has dtype float32.*mask > 0", lambda: losses.hint(MAPS, MAPS, where=ROWS)),
    "mask shape": (ValueError, "leading axes", lambda: losses.kl_divergence(LOGITS, LOGITS, where=LOGITS[0] == 0)),
    "mask rank": (ValueError, "leading axes", lambda: losses.hint(ROWS, ROWS, where=MAPS == 0)),
    "row mask": (ValueError, r"where has shape \(4, 6\)", lambda: losses.rkd(ROWS, ROWS, where=ROWS == 0)),
    "map rank": (ValueError, r"\[B, H, W, C\]", lambda: losses.attention_transfer(ROWS, ROWS)),
    "batch": (ValueError, "leading axis", lambda: losses.neuron_selectivity(MAPS, MAPS[:2])),
    "power": (TypeError, "p=2.0 must be an integer", lambda: losses.attention_transfer(MAPS, MAPS, p=2.0)),
    "no power": (ValueError, "q=0 must be at least 1", lambda: losses.factor_transfer(MAPS, MAPS, q=0)),
    "channels": (
        ValueError,
        "channels and must be equal",
        lambda: losses.flow_of_solution(MAPS, MAPS, MAPS[..., :1], MAPS),
    ),
    "hint": (ValueError, "project one side", lambda: losses.hint(ROWS, ROWS[:, :3])),
    "no batch": (ValueError, "leading axis holds", lambda: losses.hint(jnp.zeros(()), jnp.zeros(()))),
    "boundary": (ValueError, "margin=0", lambda: losses.activation_boundary(ROWS, ROWS, margin=0)),
    "overhaul": (ValueError, "margin has shape", lambda: losses.overhaul(MAPS, MAPS, jnp.zeros(3))),
    "pyramid": (ValueError, "student_features has", lambda: losses.hierarchical_context(MAPS, MAPS[..., :1])),
    "scale": (ValueError, "log_scale has shape", lambda: losses.variational_information(ROWS, ROWS, ROWS)),
    "embeddings": (ValueError, r"expected \[B, D\]", lambda: losses.rkd_distance(MAPS, MAPS)),
    "stages": (ValueError, "1 maps.*at least 2", lambda: losses.kdsvd([MAPS], [MAPS])),
    "columns": (ValueError, "Did you mean 'width'", lambda: losses.kdsvd([MAPS] * 2, [MAPS] * 2, columns="widht")),
    "vectors": (ValueError, "2 of them, the teacher's 1", lambda: losses.kdsvd([MAPS] * 2, [MAPS[..., :1]] * 2)),
    "keys": (ValueError, "queries has shape", lambda: losses.info_nce(ROWS, ROWS[:3])),
    "index": (TypeError, "contrast_index has dtype", lambda: losses.crd(ROWS, ROWS, ROWS, ROWS, ROWS)),
    "memory": (ValueError, "student_memory", lambda: losses.crd(ROWS, ROWS, LOGITS, LOGITS, INDEX)),
    "momentum": (ValueError, "momentum=2", lambda: losses.crd(ROWS, ROWS, ROWS, ROWS, INDEX, momentum=2)),
    "pool axes": (ValueError, "names 2 axes", lambda: ops.adaptive_avg_pool(MAPS, (1, 2, 3))),
    "pool size": (ValueError, "size=0", lambda: ops.adaptive_avg_pool(MAPS, 0)),
    "correlated": (ValueError, "a has shape", lambda: ops.pearson(ROWS, LOGITS)),
    "eps": (ValueError, "eps=-1", lambda: ops.standardize_logits(LOGITS, eps=-1)),
    "bn": (ValueError, "bn_bias", lambda: ops.overhaul_margin(jnp.ones(2), jnp.ones(3))),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    kind, message, call = REFUSED[case]
    with pytest.raises(kind, match=message) as raised:
        jax.eval_shape(call)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["kl_divergence", "logit_standardized_kl", "dist", "info_nce"])
def test_temperature(name, temperature):
    with pytest.raises(ValueError, match=r"temperature=.*greater than 0"):
        jax.eval_shape(lambda: getattr(losses, name)(LOGITS, LOGITS, temperature=temperature))


def test_traced_hyper_parameters_pass():
    """A schedule may give a temperature or a weight: checks are of what is known when tracing."""

    def loss(temperature, alpha):
        return losses.hinton_kd(LOGITS, LOGITS + 1, LABELS, temperature=temperature, alpha=alpha)

    assert jax.jit(loss)(np.float32(2), np.full(4, 0.5, np.float32)).shape == (4,)


def test_other_libraries_numbers_pass():
    """NumPy scalars and arrays are as good as Python's and JAX's."""

    def loss():
        return losses.kl_divergence(np.ones((2, 3), np.float32), np.eye(2, 3), temperature=np.float64(2))

    assert jax.jit(loss)().shape == (2,)
