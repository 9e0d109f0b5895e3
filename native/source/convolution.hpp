// A short causal convolution along time, channel by channel, and the nonlinearity after it: forward and backward.
//   z_t = bias + sum_j taps_j x_{t-j};  y_t = z_t sigmoid(z_t), or z_t
// Tokens of an earlier document count as zeros. Channels stand side by side, so a token's row is read and written in one go.
#pragma once

#include "lanes.hpp"
#include "parts.hpp"

namespace steelyard {
namespace {

constexpr int CONVOLVED = 128;  // tokens of a piece of work; partial sums are kept for each, so they do not depend on the threads

inline int convolution_pieces(const Convolution& c) { return (c.time + CONVOLVED - 1) / CONVOLVED; }

// How many earlier tokens token t of a row sees, at most taps - 1: all of them, down to the first token of its document.
inline int seen_before(const Convolution& c, int row, int t) {
    int seen = 0;
    if (!c.marks) return c.taps - 1;
    const uint8_t* marks = c.marks + (size_t)row * c.time;
    while (seen < c.taps - 1 && (t - seen < 0 || !(marks[t - seen] & BEGINS))) seen++;
    return seen;
}

// The inputs `back` tokens before token t of a row.
inline const float* input_row(const Convolution& c, int row, int t, int back) {
    const int at = t - back;
    return at >= 0 ? c.x + ((size_t)row * c.time + at) * c.width : c.before + ((size_t)row * (c.taps - 1) + c.taps - 1 + at) * c.width;
}

inline f32x16 convolved(const Convolution& c, const float* const* inputs, int seen, int d, int count) {
    f32x16 z = c.bias ? load_lanes(c.bias + d, count) : f32x16{};
    for (int j = 0; j <= seen; j++) z = multiply_add(load_lanes(c.weights + (size_t)j * c.width + d, count), load_lanes(inputs[j] + d, count), z);
    return z;
}

inline void convolve(const Convolution& c, int row, int from, int to, const float** inputs) {
    for (int t = from; t < to; t++) {
        const int seen = seen_before(c, row, t);
        for (int j = 0; j <= seen; j++) inputs[j] = input_row(c, row, t, j);
        float* y = c.y + ((size_t)row * c.time + t) * c.width;
        for (int d = 0; d < c.width; d += LANES) {
            const int count = lanes_from(d, c.width);
            const f32x16 z = convolved(c, inputs, seen, d, count);
            store_lanes(y + d, c.silu ? activated(Activation::silu, z) : z, count);
        }
    }
}

// Gradients of tokens `from` to `to`: of their inputs, and their shares of the taps' and the bias' gradients (`weights`, [taps + 1, width],
// zeroed by the caller; the bias comes last). Tokens after `to` that see them are computed once more.
inline void convolve_back(const Convolution& c, const ConvolutionGradients& g, int row, int from, int to, float* weights, const float** inputs) {
    const int last = to + c.taps - 1 < c.time ? to + c.taps - 1 : c.time;
    std::memset(g.x + ((size_t)row * c.time + from) * c.width, 0, sizeof(float) * (size_t)(to - from) * c.width);
    for (int t = from; t < last; t++) {
        const int seen = seen_before(c, row, t);
        for (int j = 0; j <= seen; j++) inputs[j] = input_row(c, row, t, j);
        const float* dy = g.y + ((size_t)row * c.time + t) * c.width;
        for (int d = 0; d < c.width; d += LANES) {
            const int count = lanes_from(d, c.width);
            f32x16 dz = load_lanes(dy + d, count);
            if (c.silu) {
                const f32x16 z = convolved(c, inputs, seen, d, count), s = 1.0f / (1.0f + exponential(-z));
                dz = dz * s * (1.0f + z * (1.0f - s));
            }
            for (int j = 0; j <= seen; j++) {
                if (t < to) add_lanes(weights + (size_t)j * c.width + d, dz * load_lanes(inputs[j] + d, count), count);
                const int at = t - j;
                if (at < from || at >= to) continue;
                add_lanes(g.x + ((size_t)row * c.time + at) * c.width + d, dz * load_lanes(c.weights + (size_t)j * c.width + d, count), count);
            }
            if (t < to) add_lanes(weights + (size_t)c.taps * c.width + d, dz, count);
        }
    }
}

inline void convolution(Pool& pool, const Convolution& c) {
    const int pieces = convolution_pieces(c), work = c.rows * pieces;
    const Bytes room(sizeof(const float*) * pool.threads() * c.taps);
    share_out(pool, work, (int64_t)c.rows * c.time * c.width * c.taps, [&](int thread, int item) {
        const int row = item / pieces, from = item % pieces * CONVOLVED;
        convolve(c, row, from, from + CONVOLVED < c.time ? from + CONVOLVED : c.time, (const float**)room.data + (size_t)thread * c.taps);
    });
}

inline void convolution_back(Pool& pool, const Convolution& c, const ConvolutionGradients& g) {
    const int pieces = convolution_pieces(c), work = c.rows * pieces;
    const Bytes room(sizeof(const float*) * pool.threads() * c.taps);
    share_out(pool, work, (int64_t)c.rows * c.time * c.width * c.taps, [&](int thread, int item) {
        const int row = item / pieces, from = item % pieces * CONVOLVED;
        float* weights = g.weights + (size_t)item * (c.taps + 1) * c.width;
        std::memset(weights, 0, sizeof(float) * (c.taps + 1) * c.width);
        convolve_back(c, g, row, from, from + CONVOLVED < c.time ? from + CONVOLVED : c.time, weights, (const float**)room.data + (size_t)thread * c.taps);
    });
}

}  // namespace
}  // namespace steelyard
