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

// Of one row of logits: the natural logarithm of the sum of their exponentials, and the entropy of their softmax in nats.
//   m = max l, Z = sum e^(l - m), log sum = m + log Z, entropy = log Z - sum e^(l - m) (l - m) / Z
inline void summarise(const float* logits, int count, float* log_sum, float* entropy) {
    const int whole = count / LANES * LANES;
    f32x16 best = all(-INFINITY);
    for (int i = 0; i < whole; i += LANES) best = larger(load(logits + i), best);
    float most = largest_of(best);
    for (int i = whole; i < count; i++) most = logits[i] > most ? logits[i] : most;
    f32x16 total = {}, weighted = {};
    for (int i = 0; i < count; i += LANES) {
        f32x16 x = all(-INFINITY);
        std::memcpy(&x, logits + i, sizeof(float) * (count - i < LANES ? count - i : LANES));
        x = x - most;
        x = x < all(-88.0f) ? all(-88.0f) : x;  // its exponential is 0, and 0 times it stays 0
        const f32x16 share = exponential(x);
        total = total + share;
        weighted = multiply_add(share, x, weighted);
    }
    const float sum = sum_of(total);
    *log_sum = most + std::log(sum);
    *entropy = std::log(sum) - sum_of(weighted) / sum;
}

}  // namespace
}  // namespace steelyard
