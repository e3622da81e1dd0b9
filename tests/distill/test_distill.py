"""Distillation losses against their formulas, written as loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnext_jax.config import DistillConfig
from bnext_jax.distill.losses import assistant_index, attention_difference, cross_entropy, distillation_loss, total_loss
from bnext_jax.errors import UserError

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


LABELS = np.array([0, 4, 2, 2, 1, 3])


def test_label_smoothing_trains_towards_a_mixture_of_the_label_and_all_classes():
    targets = 0.9 * np.eye(CLASSES)[LABELS] + 0.1 / CLASSES
    expected = [-(targets[n] * np.log(softmax(STUDENT[n]))).sum() for n in range(N)]
    np.testing.assert_allclose(cross_entropy(jnp.asarray(STUDENT), jnp.asarray(LABELS), 0.1), expected, rtol=1e-5)


def test_a_teacher_alone_gives_its_whole_cross_entropy_whatever_the_labels_are():
    found = [whole(DistillConfig(main="a", form="teacher"), labels, (FIRST,)) for labels in (LABELS, np.zeros(N, int))]
    assert found == pytest.approx([terms((FIRST,))[0].mean()] * 2, rel=1e-5)
    both = whole(DistillConfig(main="a", form="teacher"), LABELS, (FIRST, SECOND))
    assert both == pytest.approx(terms()[0].mean(), rel=1e-5)


def whole(distill, labels, teachers, maps=(), teacher_maps=()):
    teachers = [jnp.asarray(t) for t in teachers]
    return float(total_loss(jnp.asarray(STUDENT), jnp.asarray(labels), teachers, maps, teacher_maps, distill))


def hard():
    return np.mean([-np.log(softmax(STUDENT[n])[LABELS[n]]) for n in range(N)])


def test_without_teachers_the_loss_is_the_cross_entropy_with_the_labels():
    assert whole(DistillConfig(), LABELS, ()) == pytest.approx(hard(), rel=1e-5)


def test_labels_divergence_and_attention_add_up_with_their_weights():
    def kl(teacher):
        return np.mean([(softmax(t) * np.log(softmax(t) / softmax(s))).sum() for t, s in zip(teacher, STUDENT, strict=True)])

    assert whole(DistillConfig(main="a", form="labels", kl_weight=0.8), LABELS, (FIRST,)) == pytest.approx(
        hard() + 0.8 * kl(FIRST), rel=1e-5
    )
    maps = [RNG.standard_normal((N, side, side, channels)) for side, channels in ((4, 3), (2, 6))]
    theirs = [RNG.standard_normal((N, side, side, channels)) for side, channels in ((4, 8), (2, 5))]
    parts = []
    for a, b in zip(maps, theirs, strict=True):
        q = [np.array([(x[n] ** 2).mean(-1) / (x[n] ** 2).mean(-1).max() for n in range(N)]) for x in (a, b)]
        parts.append(((q[0] - q[1]) ** 2).mean())
    found = whole(DistillConfig(main="a", form="labels", kl_weight=3.0, attention_weight=30.0), LABELS, (FIRST,), maps, [theirs])
    assert found == pytest.approx(hard() + 3 * kl(FIRST) + 30 * np.mean(parts), rel=1e-5)


def test_attention_of_a_black_map_is_a_number_and_other_sizes_are_refused():
    black = [jnp.zeros((2, 4, 4, 3))]
    value, gradient = jax.value_and_grad(lambda x: attention_difference([x], [jnp.ones((2, 4, 4, 3))]))(black[0])
    assert float(value) == 1 and not np.isnan(gradient).any()
    with pytest.raises(UserError, match="the student's blocks have maps of 4x4 pixels, the teacher's 4x4, 2x2;"):
        attention_difference(black, [black[0], jnp.zeros((2, 2, 2, 5))])
