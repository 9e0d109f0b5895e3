// Norms, rotary positions, nonlinearities: a row at a time.
#pragma once

#include <cmath>

#include "vectors.hpp"

namespace steelyard {
namespace {

enum class Activation : int32_t { silu = 0, gelu_tanh = 1, relu = 2 };

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

inline f32x16 activated(Activation kind, f32x16 x) {
    switch (kind) {
        case Activation::silu: return x / (1.0f + exponential(-x));
        case Activation::gelu_tanh: {
            const f32x16 inner = (x + x * x * x * 0.044715f) * 0.7978845608f;
            return x * 0.5f * (1.0f + hyperbolic_tangent(inner));
        }
        default: return larger(x, f32x16{});
    }
}

}  // namespace
}  // namespace steelyard
