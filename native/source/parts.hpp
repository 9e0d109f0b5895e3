// Norms, rotary positions, nonlinearities: a row at a time.
#pragma once

#include <cmath>

#include "api.hpp"
#include "vectors.hpp"

namespace steelyard {
namespace {

// y = x / sqrt(mean(x^2) + epsilon) * weight
inline void rms_norm(const float* x, const float* weight, float epsilon, int width, float* y) {
    f32x16 squares = {};
    int i = 0;
    for (; i + LANES <= width; i += LANES) squares = multiply_add(load(x + i), load(x + i), squares);
    float sum = sum_of(squares);
    for (; i < width; i++) sum += x[i] * x[i];
    const float factor = 1.0f / std::sqrt(sum / (float)width + epsilon);
    i = 0;
    for (; i + LANES <= width; i += LANES) store(y + i, load(x + i) * factor * load(weight + i));
    for (; i < width; i++) y[i] = x[i] * factor * weight[i];
}

// y = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * weight + bias
inline void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, int width, float* y) {
    const int whole = width / LANES * LANES;
    f32x16 total = {};
    for (int i = 0; i < whole; i += LANES) total = total + load(x + i);
    float sum = sum_of(total);
    for (int i = whole; i < width; i++) sum += x[i];
    const float mean = sum / (float)width;
    f32x16 squares = {};
    for (int i = 0; i < whole; i += LANES) squares = multiply_add(load(x + i) - mean, load(x + i) - mean, squares);
    sum = sum_of(squares);
    for (int i = whole; i < width; i++) sum += (x[i] - mean) * (x[i] - mean);
    const float factor = 1.0f / std::sqrt(sum / (float)width + epsilon);
    for (int i = 0; i < whole; i += LANES) {
        const f32x16 z = (load(x + i) - mean) * factor * load(weight + i);
        store(y + i, bias ? z + load(bias + i) : z);
    }
    for (int i = whole; i < width; i++) y[i] = (x[i] - mean) * factor * weight[i] + (bias ? bias[i] : 0.0f);
}

// A row normalised, or copied where there is nothing to do; y may be x.
inline void normalise(const Norm& norm, const float* x, int width, float* y) {
    switch (norm.kind) {
        case NormKind::rms: return rms_norm(x, norm.weight, norm.epsilon, width, y);
        case NormKind::layer: return layer_norm(x, norm.weight, norm.bias, norm.epsilon, width, y);
        case NormKind::none: std::memmove(y, x, sizeof(float) * width);
    }
}

// Turns the first `dimensions` numbers of a head, in pairs (i, i + dimensions / 2).
inline void turn(float* head, const float* cos, const float* sin, int dimensions) {
    const int half = dimensions / 2;
    for (int i = 0; i < half; i++) {
        const float a = head[i], b = head[half + i];
        head[i] = a * cos[i] - b * sin[i];
        head[half + i] = b * cos[half + i] + a * sin[half + i];
    }
}

inline f32x16 hyperbolic_tangent(f32x16 x) { return 1.0f - 2.0f / (exponential(x + x) + 1.0f); }

// erfc(x) e^(x^2) for x >= 0, as a polynomial in t = 1 / (1 + p x), within 1.5e-7 of e^(x^2) (Abramowitz and Stegun, 7.1.26).
inline f32x16 scaled_complement(f32x16 x) {
    const f32x16 t = 1.0f / (1.0f + x * 0.3275911f);
    f32x16 p = multiply_add(all(1.061405429f), t, all(-1.453152027f));
    p = multiply_add(p, t, all(1.421413741f));
    p = multiply_add(p, t, all(-0.284496736f));
    p = multiply_add(p, t, all(0.254829592f));
    return p * t;
}

inline f32x16 activated(Activation kind, f32x16 x) {
    switch (kind) {
        case Activation::silu: return x / (1.0f + exponential(-x));
        case Activation::gelu_tanh: {
            const f32x16 inner = (x + x * x * x * 0.044715f) * 0.7978845608f;
            return x * 0.5f * (1.0f + hyperbolic_tangent(inner));
        }
        case Activation::gelu: {  // x (1 + erf(x / sqrt 2)) / 2 = max(x, 0) - |x| erfc(|x| / sqrt 2) / 2
            const f32x16 far = all(20.0f), size = choose(absolute(x) > far, far, absolute(x));  // from there on the tail is 0
            return larger(x, f32x16{}) - size * 0.5f * (scaled_complement(size * 0.70710678f) * exponential(size * size * -0.5f));
        }
        default: return larger(x, f32x16{});
    }
}

}  // namespace
}  // namespace steelyard
