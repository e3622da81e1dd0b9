"""Distillation losses against their formulas, written as loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnext_jax.distill.losses import assistant_index, cross_entropy, distillation_loss

N, CLASSES = 6, 5
RNG = np.random.default_rng(0)
STUDENT, FIRST, SECOND = 2 * RNG.standard_normal((3, N, CLASSES))


def softmax(row):
    return np.exp(row) / np.exp(row).sum()


def terms(teachers=(FIRST, SECOND)):
    """H and alpha, each [N, K], from their definitions."""
    h = np.array([[-(softmax(t[n]) * np.log(softmax(STUDENT[n]))).sum() for t in teachers] for n in range(N)])
    return h, np.array([softmax(row) for row in h])


def loss(**options):
    return float(distillation_loss(jnp.asarray(STUDENT), [jnp.asarray(FIRST), jnp.asarray(SECOND)], **options))


def test_product_of_means_multiplies_the_means_over_the_batch():
    h, alpha = terms()
    assert loss() == pytest.approx(0.5 * sum(h[:, k].mean() * alpha[:, k].mean() for k in (0, 1)), rel=1e-5)


def test_per_instance_weights_each_example_by_itself():
    h, alpha = terms()
    assert loss(form="per_instance") == pytest.approx(0.5 * (alpha * h).sum(1).mean(), rel=1e-5)
    assert abs(loss(form="per_instance") - loss()) > 1e-3  # the two forms are different losses


def test_product_of_means_is_computed_per_group_and_averaged():
    h, alpha = terms()
    groups = [0.5 * sum(h[g : g + 3, k].mean() * alpha[g : g + 3, k].mean() for k in (0, 1)) for g in (0, 3)]
    assert loss(group=3) == pytest.approx(np.mean(groups), rel=1e-5)
    assert abs(loss(group=3) - loss()) > 1e-4


@pytest.mark.parametrize("form", ["product_of_means", "per_instance"])
def test_one_teacher_gives_half_its_cross_entropy(form):
    expected = 0.5 * terms((FIRST,))[0].mean()
    assert float(distillation_loss(jnp.asarray(STUDENT), [jnp.asarray(FIRST)], form=form)) == pytest.approx(expected, rel=1e-5)


def test_two_equal_teachers_give_the_loss_of_one_teacher():
    both = float(distillation_loss(jnp.asarray(STUDENT), [jnp.asarray(FIRST)] * 2))
    assert both == pytest.approx(float(distillation_loss(jnp.asarray(STUDENT), [jnp.asarray(FIRST)])), rel=1e-6)


def test_no_gradient_passes_through_the_weights():
    _h, alpha = terms()
    gradient = jax.grad(lambda z: distillation_loss(z, [jnp.asarray(FIRST), jnp.asarray(SECOND)], form="per_instance"))(
        jnp.asarray(STUDENT)
    )
    # with alpha constant, dL/dz_n = 1/(2N) sum_k alpha_nk (softmax(z_n) - p_nk)
    expected = [sum(alpha[n, k] * (softmax(STUDENT[n]) - softmax(t[n])) for k, t in enumerate((FIRST, SECOND))) / (2 * N) for n in range(N)]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="unknown form 'sum'"):
        loss(form="sum")


def test_cross_entropy_is_minus_the_log_probability_of_the_label():
    labels = np.array([0, 4, 2, 1, 1, 3])
    expected = [-np.log(softmax(STUDENT[n])[label]) for n, label in enumerate(labels)]
    np.testing.assert_allclose(cross_entropy(jnp.asarray(STUDENT), jnp.asarray(labels)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("epochs", "assistants", "changes"), [(512, 3, [0, 171, 342]), (512, 2, [0, 256]), (10, 3, [0, 4, 7]), (5, 1, [0])]
)
def test_assistants_change_at_equal_shares_of_the_run(epochs, assistants, changes):
    order = [assistant_index(epoch, epochs, assistants) for epoch in range(epochs)]
    assert order == sorted(order)
    assert [order.index(i) for i in range(assistants)] == changes
