"""Every way to compute attention is the reference, and lets no token see what it may not."""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax import sharding
from psann_jax.ops import attention as ops
from psann_jax.ops import attention_gpu
from psann_jax.ops.alibi import slopes
from psann_jax.ops.attention_blocks import How, blocked_attention

T, H, K = 70, 2, 32
HALF = T // 2  # where the second document begins
PACKED = np.repeat([[1, 2]], HALF, axis=1)  # [1, T]
ONE = np.ones((1, T), np.int32)


class Way(NamedTuple):
    run: Callable  # of q, k, v, segments
    dtype: str = "float32"
    sees_segments: bool = True

    @property
    def tolerance(self) -> float:
        """float32: sums of 70 terms of order 1 in another order. bfloat16: 8 bits, of factors,
        probabilities and results, in sums of such terms."""
        return 1e-5 if self.dtype == "float32" else 2.0**-5


def _named(backend):
    return lambda q, k, v, segments: ops.attention(q, k, v, segments=segments, backend=backend)


def _cudnn(q, k, v, segments):
    return ops.attention(q, k, v, backend="cudnn")


WAYS = {
    "blocks": Way(_named("blocks")),
    "blocks unrolled": Way(lambda *a: blocked_attention(*a, how=How(block=16))),
    "blocks looped": Way(lambda *a: blocked_attention(*a, how=How(block=4, spans=3))),
    "pallas interpreted": Way(functools.partial(attention_gpu.pallas_attention, interpret=True)),
    "pallas": Way(_named("pallas"), "bfloat16"),
    "cudnn": Way(_cudnn, "bfloat16", sees_segments=False),
}
NEEDS_GPU = ("pallas", "cudnn")


def _ways(*, see_segments: bool = False, only=tuple(WAYS)):
    names = [n for n in only if WAYS[n].sees_segments or not see_segments]
    marks = {name: [pytest.mark.gpu] if name in NEEDS_GPU else [] for name in names}
    params = [pytest.param(n, marks=marks[n], id=n.replace(" ", "-")) for n in names]
    return pytest.mark.parametrize("way", params)


@functools.cache
def _program(way: str):
    """Output and gradients of q, k, v, of q, k, v, segments and the gradient of the output."""

    def run(q, k, v, segments, g):
        out, back = jax.vjp(lambda *qkv: WAYS[way].run(*qkv, segments), q, k, v)
        return out, *back(g)

    return jax.jit(run)


def _arrays(way: str, batch: int = 1, length: int = T):
    """q, k, v and the gradient of the output, [B, T, H, K]."""
    draw = np.random.default_rng(0).standard_normal((4, batch, length, H, K))
    return jnp.asarray(draw, WAYS[way].dtype)


def _run(way: str, arrays, segments):
    return jnp.stack(_program(way)(*arrays[:3], jnp.asarray(segments, jnp.int32), arrays[3]))


def _reference(arrays, segments, penalties=None):
    q, k, v, g = arrays.astype(jnp.float32)

    def run(*qkv):
        index = jnp.arange(q.shape[1])[None]
        mask = ops.visible(segments, segments, index, index)
        bias = None if penalties is None else ops.alibi_bias(penalties, index, index)
        return ops.masked_attention(*qkv, mask, bias=bias)

    out, back = jax.vjp(run, q, k, v)
    return jnp.stack([out, *back(g)])


@_ways()
def test_it_is_the_reference_in_value_and_gradients(way):
    arrays = _arrays(way)
    ours, theirs = _run(way, arrays, ONE), _reference(arrays, ONE)
    np.testing.assert_allclose(ours.astype(jnp.float32), theirs, atol=WAYS[way].tolerance)


@_ways(see_segments=True)
def test_it_is_the_reference_with_padding_around_a_document(way):
    arrays, place = _arrays(way), np.arange(T)
    segments = np.where((place < 3) | (place > 60), 0, 1)[None]
    ours, theirs = _run(way, arrays, segments), _reference(arrays, segments)
    np.testing.assert_allclose(ours.astype(jnp.float32), theirs, atol=WAYS[way].tolerance)


@_ways(see_segments=True)
def test_packed_documents_give_what_they_give_alone(way):
    arrays = _arrays(way)
    packed = _run(way, arrays, PACKED)
    alone = arrays.reshape(4, 2, HALF, H, K)
    expected = _run(way, alone, np.ones((2, HALF))).reshape(packed.shape)
    packed, expected = (t.astype(jnp.float32) for t in (packed, expected))
    np.testing.assert_allclose(packed, expected, atol=WAYS[way].tolerance)


@_ways(see_segments=True)
@pytest.mark.parametrize("changed", [0, 1], ids=["first", "second"])
def test_a_document_changes_nothing_of_the_other(way, changed):
    """Not by one bit: outputs and gradients of one do not depend on q, k, v and g of the other."""
    there = slice(changed * HALF, (changed + 1) * HALF)
    arrays = _arrays(way)
    before = _run(way, arrays, PACKED)
    after = _run(way, arrays.at[:, :, there].multiply(-3.0), PACKED)
    rest = np.delete(np.arange(T), there)
    np.testing.assert_array_equal(before[:, :, rest], after[:, :, rest])
    assert np.mean(before[:, :, there] != after[:, :, there]) > 0.9


@_ways()
def test_a_later_token_changes_no_output_before_it(way):
    arrays = _arrays(way)
    before = _run(way, arrays, ONE)
    after = _run(way, arrays.at[:, :, HALF:].multiply(-3.0), ONE)
    np.testing.assert_array_equal(before[0, :, :HALF], after[0, :, :HALF])
    assert np.mean(before[0, :, HALF:] != after[0, :, HALF:]) > 0.9


@_ways()
def test_no_gradient_reaches_a_later_token(way):
    arrays = _arrays(way)
    gradients = _run(way, arrays.at[3, :, HALF:].set(0.0), ONE)[1:]
    np.testing.assert_array_equal(gradients[:, :, HALF:], 0.0)
    assert np.abs(gradients[:, :, :HALF]).max() > 0.1


@_ways(only=("blocks", *NEEDS_GPU))
def test_a_row_of_one_token_is_its_value(way):
    arrays = _arrays(way, length=1)
    out, dq, dk, dv = _run(way, arrays, ONE[:, :1])
    np.testing.assert_array_equal(out, arrays[2])
    zeros = jnp.stack([dq, dk]).astype(jnp.float32)
    np.testing.assert_allclose(zeros, 0.0, atol=WAYS[way].tolerance)
    np.testing.assert_array_equal(dv, arrays[3])


@_ways(see_segments=True)
def test_a_row_of_padding_is_finite(way):
    assert jnp.isfinite(_run(way, _arrays(way), 0 * ONE)).all()


@pytest.mark.mesh
def test_pallas_on_a_mesh_is_pallas_on_one_device():
    """Each device has its rows and heads: no array is gathered."""
    q, k, v, _ = _arrays("pallas interpreted", batch=4)
    segments = jnp.asarray(np.repeat(PACKED, 4, axis=0))
    run = jax.jit(WAYS["pallas interpreted"].run)
    expected = run(q, k, v, segments)
    mesh = sharding.make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        whole = jax.NamedSharding(mesh, sharding.spec(("batch", "length", "heads", None)))
        compiled = run.lower(*(jax.device_put(t, whole) for t in (q, k, v)), segments).compile()
        found = compiled(*(jax.device_put(t, whole) for t in (q, k, v)), segments)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert "all-gather" not in compiled.as_text()


BF16, F32 = (jax.ShapeDtypeStruct((2, 64, 2, 64), d) for d in (jnp.bfloat16, jnp.float32))
SEGMENTS = jax.ShapeDtypeStruct((2, 64), jnp.int32)
WHERE = {"cudnn": "dot_product_attention_fwd", "pallas": "pallas_call"}


@pytest.fixture
def on_hopper(monkeypatch):
    """A machine that seems to have an H100: programs are traced for it, never run."""
    monkeypatch.setattr(attention_gpu, "_capability", lambda: 9.0)
    cudnn = "jax._src.cudnn.fused_attention_stablehlo"
    monkeypatch.setattr(f"{cudnn}.check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(f"{cudnn}.check_compute_capability", lambda least: float(least) <= 9.0)


@pytest.mark.parametrize(
    ("shape", "segments", "penalties", "expected"),
    [
        (BF16, None, None, "cudnn"),
        (BF16, SEGMENTS, None, "pallas"),
        (BF16, None, slopes(2), "blocks"),
        (BF16, SEGMENTS, slopes(2), "blocks"),
        (F32, None, None, "blocks"),
        (BF16.update(shape=(2, 64, 2, 256)), None, None, "cudnn"),
        (BF16.update(shape=(2, 64, 2, 256)), SEGMENTS, None, "blocks"),
        (BF16.update(shape=(2, 64, 2, 20)), None, None, "blocks"),
    ],
)
def test_auto_takes_the_first_that_is_exact(on_hopper, shape, segments, penalties, expected):
    run = functools.partial(ops.attention, slopes=penalties)
    trace = jax.make_jaxpr(lambda q, k, v, s: run(q, k, v, segments=s))
    text = str(trace(shape, shape, shape, segments))
    assert [n for n, word in WHERE.items() if word in text] == [expected] * (expected != "blocks")


def test_without_a_gpu_auto_takes_blocks():
    text = str(jax.make_jaxpr(ops.attention)(BF16, BF16, BF16))
    assert not any(word in text for word in WHERE.values())


def test_lowered_for_cuda_both_passes_call_cudnn(on_hopper):
    def loss(*qkv):
        return jnp.sum(ops.attention(*qkv).astype(jnp.float32))

    traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(BF16, BF16, BF16)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaSoftmax(" in text
    assert "__cudnn$fmhaSoftmaxBackward(" in text


@pytest.mark.parametrize(
    ("backend", "case", "reason"),
    [
        ("cudnn", {"segments": ONE}, "documents of a packed row"),
        ("cudnn", {"slopes": slopes(2)}, "ALiBi"),
        ("pallas", {"drop": lambda x, key: x}, "dropout"),
        ("cudnn", {"size": 20}, "multiple of 8 up to 256 features, not 20"),
        ("pallas", {"size": 48}, "32, 64 or 128 features, not 48"),
        ("flash", {}, "none of auto, blocks, cudnn, pallas"),
    ],
)
def test_an_impossible_choice_says_why(on_hopper, backend, case, reason):
    case = dict(case)
    q = jnp.zeros((1, T, H, case.pop("size", K)), jnp.bfloat16)
    with pytest.raises(ValueError, match=reason):
        ops.attention(q, q, q, **case, backend=backend)


def test_without_the_kernel_auto_takes_blocks_for_packed_rows(on_hopper, monkeypatch):
    monkeypatch.setattr(attention_gpu, "_has_kernel", lambda: False)
    run = jax.make_jaxpr(lambda q, s: ops.attention(q, q, q, segments=s))
    assert "pallas_call" not in str(run(BF16, SEGMENTS))


def test_the_environment_names_the_backend(monkeypatch):
    q, k, v, _ = _arrays("blocks")
    monkeypatch.setenv("PSANN_JAX_ATTENTION", "cudnn")
    with pytest.raises(ValueError, match="cudnn: it needs an NVIDIA GPU"):
        ops.attention(q, k, v)
    ops.attention(q, k, v, backend="blocks")
