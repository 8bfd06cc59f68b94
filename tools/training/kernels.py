"""Elementwise functions for MLX on a CPU, in f32, from the arithmetic that its CPU kernels do fast.

    swiglu(g, u)                    # silu(g) · u
    swiglu_gradients(g, u, d)       # of g and of u
    exp2(x)                         # 2ˣ, for x ≤ 0

MLX's prebuilt exponential works on one number after the other: 14 ns each, so that on SmolLM2-135M the activations,
attention and the loss took as long as all matrix products. These polynomials take a quarter of that, to 2e-7.
"""

from collections.abc import Sequence

import mlx.core as mx

# tanh as a rational function on ±8, as in Eigen and TensorFlow (MathFunctionsImpl.h, generic_fast_tanh_float).
_TANH = 7.99881172180175781
_TOP = (
    4.89352455891786e-03,
    6.37261928875436e-04,
    1.48572235717979e-05,
    5.12229709037114e-08,
    -8.60467152213735e-11,
    2.00018790482477e-13,
    -2.76076847742355e-16,
)
_BOTTOM = (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06)
# 2^x on ±0.5: a least-squares fit of the relative error on Chebyshev points, in f64; 1e-7 in f32.
_EXP2 = (
    1.0000000005920209,
    0.6931472056005101,
    0.24022646608714116,
    0.05550328997516976,
    0.00961851953433766,
    0.001339986036340302,
    0.00015337576838336863,
)
# Added and taken away again, it rounds an f32 to a whole number: 1.5 · 2^23.
_ROUND = 12582912.0
_SMALLEST = -126.0


def _polynomial(x: mx.array, coefficients: Sequence[float]) -> mx.array:
    y = x * coefficients[-1] + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        y = y * x + coefficient
    return y


def sigmoid(x: mx.array) -> mx.array:
    """1 / (1 + e⁻ˣ)."""
    half = mx.minimum(mx.maximum(x * 0.5, -_TANH), _TANH)
    square = half * half
    return half * (0.5 * _polynomial(square, _TOP)) / _polynomial(square, _BOTTOM) + 0.5


def exp2(x: mx.array) -> mx.array:
    """2ˣ for x ≤ 0; what is below the smallest normal number becomes it."""
    x = mx.maximum(x, _SMALLEST)
    whole = (x + _ROUND) - _ROUND
    bits = ((whole + 127.0) * 8388608.0).astype(mx.int32)  # the exponent's place in an f32
    return _polynomial(x - whole, _EXP2) * bits.view(mx.float32)


def swiglu(g: mx.array, u: mx.array) -> mx.array:
    """silu(g) · u."""
    return g * sigmoid(g) * u


def swiglu_gradients(g: mx.array, u: mx.array, d: mx.array) -> tuple[mx.array, mx.array]:
    """The gradients of g and u, where `d` is that of `swiglu(g, u)`."""
    s = sigmoid(g)
    silu = g * s
    return d * u * (s + silu * (1.0 - s)), d * silu
