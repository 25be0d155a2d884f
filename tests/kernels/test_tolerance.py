"""What rounding may do, and what it may not: bounds from the reference's own noise."""

from __future__ import annotations

import numpy as np
import pytest

from postgrad.kernels import distributions
from postgrad.kernels.numeric import Array, numbers, rounded, stored
from postgrad.kernels.tolerance import Envelope, envelope


def product(a: Array, b: Array) -> Array:
    made: Array = a @ b
    return made


def of(a: Array, b: Array) -> Envelope:
    """The envelope of a matrix product in float32."""
    exact = product(a, b)
    single = product(a.astype(np.float32), b.astype(np.float32)).astype(np.float64)
    return envelope(exact, single, product(rounded(a, 11), rounded(b, 11)), "float32")


@pytest.fixture(scope="module")
def factors() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((40, 300)).astype(np.float32).astype(np.float64), rng.standard_normal((300, 50))


def test_another_order_of_summation_is_honest(factors: tuple[Array, Array]) -> None:
    a, b = (one.astype(np.float32) for one in factors)
    serial = np.zeros((40, 50), np.float32)
    for k in range(300):
        serial += a[:, k : k + 1] * b[k : k + 1]
    assert of(a.astype(np.float64), b.astype(np.float64)).mismatch(serial.astype(np.float64)) is None


@pytest.mark.parametrize("bits", [11, 8])
def test_a_coarser_type_is_not(factors: tuple[Array, Array], bits: int) -> None:
    """11 bits: TF32 and float16. 8: bfloat16."""
    a, b = factors
    wrong = of(a, b).mismatch(product(rounded(a, bits), rounded(b, bits)))
    assert wrong is not None
    assert wrong.relative < 0.03


def test_zeros_are_not_close_to_small_outputs() -> None:
    """A softmax over a wide axis: every element is below an absolute tolerance of 1e-2."""
    logits = np.random.default_rng(1).standard_normal((8, 4096)) / 2
    right = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    bounds = envelope(right, right.astype(np.float32).astype(np.float64), right, "float32")
    assert np.allclose(0, right, atol=1e-2)
    wrong = bounds.mismatch(np.zeros_like(right))
    assert wrong is not None
    assert wrong.share > 0.99


@pytest.mark.parametrize("exact", [False, True])
def test_the_short_way_to_right_is_never_another_way(monkeypatch: pytest.MonkeyPatch, exact: bool) -> None:
    """Errors of every size around the bounds, NaN and infinities: what few passes accept, the whole rule accepts."""
    rng = np.random.default_rng(5)
    accepted = 0
    for scale in 10.0 ** np.arange(-9, 1):
        right = rng.standard_normal((6, 40)) * rng.choice([1e-3, 1.0, 1e3], (6, 1))
        bounds = envelope(
            right, right.astype(np.float32).astype(np.float64), rounded(right, 11), "float32", exact=exact
        )
        got = [right * (1 + scale * rng.standard_normal(right.shape)), right.copy(), right.copy(), right.copy()]
        got[1][2, 3], got[2][0, 0] = np.nan, np.inf
        short = [bounds.mismatch(one) is None for one in got]
        with monkeypatch.context() as patched:
            patched.setattr(Envelope, "_plainly_right", lambda *_: False)
            assert short == [bounds.mismatch(one) is None for one in got]
        accepted += sum(short)
    assert accepted == 10 if exact else 10 < accepted < 20


@pytest.mark.parametrize("size", [1, 40])
def test_what_the_type_cannot_hold_may_be_zero(size: int) -> None:
    """Of a whole row, whose squares are zero in float64 too, and of one element; what the type can hold may not."""
    right = np.full((2, size), -6e-224)
    assert envelope(right, np.zeros_like(right), np.zeros_like(right), "float32").mismatch(-0.0 * right) is None
    right[0, 0] = 1e-35
    assert envelope(right, right * 1.0, right * 1.0, "float32").mismatch(0 * right) is not None


def test_one_wrong_element_in_a_large_output_is_seen() -> None:
    right = np.random.default_rng(2).standard_normal((100, 1000))
    got = right.copy()
    got[17, 5] += 0.01
    wrong = envelope(right, right.astype(np.float32).astype(np.float64), right, "float32").mismatch(got)
    assert wrong is not None
    assert wrong.index == (17, 5)
    assert "at [17, 5]" in str(wrong)


def test_small_values_beside_an_outlier_are_seen() -> None:
    right = np.random.default_rng(3).standard_normal((4, 256))
    right[:, 0] = 1e4
    got = np.where(np.abs(right) < 1e3, 0, right)
    single = right.astype(np.float32).astype(np.float64)
    assert envelope(right, single, rounded(right, 11), "float32").mismatch(got) is not None


def test_an_ill_conditioned_sum_is_judged_by_the_reference_s_own_noise() -> None:
    """Where float32 itself is 10 % off, another order of summation may be as well."""
    rng = np.random.default_rng(4)
    values = np.concatenate([rng.standard_normal((32, 500)) * 1e6, np.full((32, 1), 0.5)], 1)
    values[:, 250:500] = -values[:, :250]
    right = values.sum(-1)
    single = np.array([float(np.sum(rng.permutation(row).astype(np.float32))) for row in values])
    other = np.array([float(np.sum(rng.permutation(row).astype(np.float32))) for row in values])
    assert not np.allclose(other, right, rtol=1e-3)
    assert envelope(right, single, right, "float32").mismatch(other) is None


@pytest.mark.parametrize(("value", "passes"), [(np.nan, False), (np.inf, False), (1.0, True)])
def test_what_is_not_finite_is_wrong_where_the_oracle_is(value: float, passes: bool) -> None:
    right = np.ones((2, 20))
    got = right.copy()
    got[1, 3] = value
    assert (envelope(right, right, right, "float32").mismatch(got) is None) == passes


def test_nan_and_infinity_are_asked_for_where_the_oracle_has_them() -> None:
    right = np.ones((2, 20))
    right[0, 0], right[0, 1] = np.nan, np.inf
    bounds = envelope(right, right, right, "float32")
    assert bounds.mismatch(right) is None
    for index, value in (((0, 0), 1.0), ((0, 1), -np.inf), ((0, 1), np.nan)):
        got = right.copy()
        got[index] = value
        assert bounds.mismatch(got) is not None


def test_nothing_is_asked_where_only_the_precision_overflows() -> None:
    right = np.full((1, 20), 1.0)
    right[0, 0] = 1e300
    declared = right.copy()
    declared[0, 0] = np.inf
    bounds = envelope(right, declared, right, "float32")
    for value in (np.inf, 1e38, np.nan):
        got = right.copy()
        got[0, 0] = value
        assert bounds.mismatch(got) is None


def test_indices_are_equal_or_wrong() -> None:
    right = np.array([[1, 2], [3, 4]])
    bounds = envelope(right, right, right, "float32")
    assert bounds.mismatch(right) is None
    wrong = bounds.mismatch(np.array([[1, 2], [3, 5]]))
    assert wrong is not None
    assert (wrong.index, wrong.share) == ((1, 1), 0.25)


def test_exact_sums_are_exact() -> None:
    right = np.full((1, 32), 100.0)
    bounds = envelope(right, right, right, "float32", exact=True)
    got = right.copy()
    got[0, 7] = np.nextafter(np.float32(100), np.float32(101))
    assert bounds.mismatch(right) is None
    assert bounds.mismatch(got) is not None


def test_bfloat16_is_stored_and_read_as_torch_does() -> None:
    import torch

    values = np.array([0.0, -0.0, 1.0, 1.00390625, 3.14159, -2.5e-39, 1e38, np.inf, -np.inf, np.nan, 65519.0])
    ours = stored(values, "bfloat16")
    theirs = torch.tensor(values, dtype=torch.float32).to(torch.bfloat16)
    assert np.array_equal(numbers(ours, "bfloat16"), theirs.double().numpy(), equal_nan=True)


def test_rounding_to_bits_is_that_of_the_types() -> None:
    values = np.random.default_rng(5).standard_normal(1000)
    assert np.array_equal(rounded(values, 24), values.astype(np.float32).astype(np.float64))
    assert np.array_equal(rounded(values, 8), numbers(stored(values, "bfloat16"), "bfloat16"))


@pytest.mark.parametrize("name", distributions.DISTRIBUTIONS)
@pytest.mark.parametrize("shape", [(6, 40), (7,), (1, 1), (1,)])
def test_every_distribution_keeps_the_shape_and_is_finite(name: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(6)
    own = rng.standard_normal(shape)
    before = own.copy()
    made = distributions.DISTRIBUTIONS[name](rng, own)
    assert made.shape == shape
    assert np.isfinite(made).all()
    assert np.array_equal(own, before)
