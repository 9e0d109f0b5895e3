// y = W x + b for sixteen outputs (a group) and a few rows at once. A row's sums are the same whichever rows stand beside it.
#pragma once

#include "matrix.hpp"
#include "rows.hpp"
#include "vectors.hpp"

namespace steelyard {
namespace {

constexpr int AHEAD = 4096;  // bytes between the weights that are multiplied and those that are asked for

// Asks memory for the weights of a little later: with few rows a product waits for nothing else, and the processor's own looking
// ahead stops at every 4 KiB.
template <int T>
inline void ask_ahead(const uint8_t* weights, int bytes) {
    if (T > 8) return;
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch(weights + AHEAD + i);
}

template <int T>
inline void tile_float32(const Matrix& m, int group, const Rows& x, int r, f32x16* out) {
    const float* w = (const float*)m.group(group);
    const float* rows[T];
    for (int t = 0; t < T; t++) rows[t] = x.row(r + t);
    f32x16 even[T] = {}, odd[T] = {};
    for (int i = 0; i < x.padded; i += 2, w += 2 * GROUP) {
        ask_ahead<T>((const uint8_t*)w, 128);
        const f32x16 a = load(w), b = load(w + GROUP);
        for (int t = 0; t < T; t++) {
            even[t] = multiply_add(a, all(rows[t][i]), even[t]);
            odd[t] = multiply_add(b, all(rows[t][i + 1]), odd[t]);
        }
    }
    for (int t = 0; t < T; t++) out[t] = even[t] + odd[t];
}

// Of two groups, maybe of two matrices, over the same rows: each number of a row is read once for both.
template <int T>
inline void two_tiles_float32(const float* w, const float* other, const Rows& x, int r, f32x16* out, f32x16* beside) {
    const float* rows[T];
    for (int t = 0; t < T; t++) rows[t] = x.row(r + t);
    f32x16 even[2][T] = {}, odd[2][T] = {};
    for (int i = 0; i < x.padded; i += 2, w += 2 * GROUP, other += 2 * GROUP) {
        ask_ahead<T>((const uint8_t*)w, 128);
        ask_ahead<T>((const uint8_t*)other, 128);
        const f32x16 a[2] = {load(w), load(other)}, b[2] = {load(w + GROUP), load(other + GROUP)};
        for (int t = 0; t < T; t++) {
            const f32x16 first = all(rows[t][i]), second = all(rows[t][i + 1]);
            for (int g = 0; g < 2; g++) {
                even[g][t] = multiply_add(a[g], first, even[g][t]);
                odd[g][t] = multiply_add(b[g], second, odd[g][t]);
            }
        }
    }
    for (int t = 0; t < T; t++) out[t] = even[0][t] + odd[0][t], beside[t] = even[1][t] + odd[1][t];
}

template <int T>
inline void tile_bfloat16(const Matrix& m, int group, const Rows& x, int r, f32x16* out) {
    const uint8_t* w = m.group(group);
    const uint16_t* rows[T];
    for (int t = 0; t < T; t++) rows[t] = x.narrow(r + t);
    f32x16 even[T] = {}, odd[T] = {};
    for (int i = 0; i < x.padded; i += 4, w += 128) {
        ask_ahead<T>(w, 128);
        const u8x64 a = load_bytes(w), b = load_bytes(w + 64);
        for (int t = 0; t < T; t++) {
            even[t] = dot2_bfloat16(even[t], a, rows[t] + i);
            odd[t] = dot2_bfloat16(odd[t], b, rows[t] + i + 2);
        }
    }
    for (int t = 0; t < T; t++) out[t] = even[t] + odd[t];
}

template <int T, int Digits>
inline void tile_channel8(const Matrix& m, int group, const Rows& x, int r, f32x16* out) {
    const uint8_t* w = m.group(group);
    i32x16 sum[T][Digits];
    const int8_t* digits[T][Digits];
    for (int t = 0; t < T; t++)
        for (int d = 0; d < Digits; d++) digits[t][d] = x.digit(r + t, d);
    for (int t = 0; t < T; t++)
        for (int d = 0; d < Digits; d++) sum[t][d] = i32x16{} - 128 * ((const int32_t*)x.row_sums.data)[2 * (r + t) + d];
    for (int i = 0; i < x.padded; i += 4, w += 64) {
        ask_ahead<T>(w, 64);
        const u8x64 weights = load_bytes(w);
        for (int t = 0; t < T; t++)
            for (int d = 0; d < Digits; d++) sum[t][d] = dot4<false>(sum[t][d], weights, digits[t][d] + i);
    }
    const f32x16 scale = load((const float*)m.scale.data + group * GROUP);
    for (int t = 0; t < T; t++) {
        const float* scales = (const float*)x.row_scale.data + 2 * (r + t);
        f32x16 y = to_float(sum[t][0]) * scales[0];
        if (Digits == 2) y = y + to_float(sum[t][Digits - 1]) * scales[1];
        out[t] = y * scale;
    }
}

template <bool Wide>
inline f32x16 load_scales(const uint8_t* from) {
    return Wide ? load((const float*)from) : load_half((const uint16_t*)from);
}

// Shares: scales in a block, 1 or 2.
template <int T, int Bits, int Shares, bool Wide, bool Minima>
inline void tile_blocks(const Matrix& m, int group, const Rows& x, int r, f32x16* out) {
    constexpr int integers = GROUP * BLOCK * Bits / 8, row = (Wide ? 4 : 2) * GROUP, quads = BLOCK / 4 / Shares;
    const uint8_t* w = m.group(group);
    const int8_t* bytes[T];
    const int32_t* halves[T];
    const float* steps[T];
    for (int t = 0; t < T; t++) bytes[t] = x.eight(r + t), halves[t] = x.halves(r + t), steps[t] = x.scales(r + t);
    f32x16 y[T] = {};
    for (int b = 0; b < m.blocks; b++, w += m.block_bytes) {
        ask_ahead<T>(w, integers + row * Shares * (Minima ? 2 : 1));
        u8x64 q[BLOCK / 4];
        for (int i = 0; i < BLOCK / 4; i++) {
            if (Bits == 4) {
                if (i % 2 == 0) {
                    const u8x64 both = load_bytes(w + 32 * i);
                    q[i] = both & 15;
                    q[i + 1] = as<u8x64>((as<u16x32>(both) >> 4) & 0x0f0f);
                }
            } else {
                q[i] = load_bytes(w + 64 * i);
            }
        }
        for (int s = 0; s < Shares; s++) {
            const f32x16 scale = load_scales<Wide>(w + integers + row * s);
            f32x16 minimum = {};
            if (Minima) minimum = load_scales<Wide>(w + integers + row * (Shares + s));
            for (int t = 0; t < T; t++) {
                const int32_t total = Shares == 2 ? halves[t][2 * b + s] : halves[t][2 * b] + halves[t][2 * b + 1];
                const int8_t* part = bytes[t] + b * BLOCK + s * quads * 4;
                i32x16 even = {}, odd = {};
                if (!Minima) even = even - m.zero * total;  // whoever has minima has no zero but 0
                for (int i = 0; i < quads; i += 2) {
                    even = dot4<Bits == 4>(even, q[s * quads + i], part + 4 * i);
                    odd = dot4<Bits == 4>(odd, q[s * quads + i + 1], part + 4 * i + 4);
                }
                const float step = steps[t][b];
                y[t] = multiply_add(to_float(even + odd), scale * step, y[t]);
                if (Minima) y[t] = multiply_add(minimum, all(step * (float)total), y[t]);
            }
        }
    }
    for (int t = 0; t < T; t++) out[t] = y[t];
}

template <int T, int Bits, int Shares, bool Wide>
inline void tile_blocks(const Matrix& m, int group, const Rows& x, int r, f32x16* out) {
    m.minima ? tile_blocks<T, Bits, Shares, Wide, true>(m, group, x, r, out) : tile_blocks<T, Bits, Shares, Wide, false>(m, group, x, r, out);
}

template <int T>
inline void add_bias(const Matrix& m, int group, f32x16* out) {
    const float* bias = m.bias_of(group);
    if (bias == nullptr) return;
    const f32x16 b = load(bias);
    for (int t = 0; t < T; t++) out[t] = out[t] + b;
}

template <int T>
inline void tile(const Matrix& m, int group, const Rows& x, int r, f32x16* out) {
    switch (m.kind) {
        case Kind::float32: tile_float32<T>(m, group, x, r, out); break;
        case Kind::bfloat16: tile_bfloat16<T>(m, group, x, r, out); break;
        case Kind::channel8: m.digits == 2 ? tile_channel8<T, 2>(m, group, x, r, out) : tile_channel8<T, 1>(m, group, x, r, out); break;
        case Kind::blocks:
            switch (m.bits / 4 * 4 + (m.per_scale == 16) * 2 + m.wide) {
                case 4: tile_blocks<T, 4, 1, false>(m, group, x, r, out); break;
                case 5: tile_blocks<T, 4, 1, true>(m, group, x, r, out); break;
                case 6: tile_blocks<T, 4, 2, false>(m, group, x, r, out); break;
                case 7: tile_blocks<T, 4, 2, true>(m, group, x, r, out); break;
                case 8: tile_blocks<T, 8, 1, false>(m, group, x, r, out); break;
                case 9: tile_blocks<T, 8, 1, true>(m, group, x, r, out); break;
                case 10: tile_blocks<T, 8, 2, false>(m, group, x, r, out); break;
                default: tile_blocks<T, 8, 2, true>(m, group, x, r, out); break;
            }
    }
    add_bias<T>(m, group, out);
}

// The same of two groups.
template <int T>
inline void two_tiles(const Matrix& m, int group, const Matrix& other, int other_group, const Rows& x, int r, f32x16* out, f32x16* beside) {
    if (m.kind == Kind::float32 && other.kind == Kind::float32) {
        two_tiles_float32<T>((const float*)m.group(group), (const float*)other.group(other_group), x, r, out, beside);
        add_bias<T>(m, group, out);
        add_bias<T>(other, other_group, beside);
    } else {
        tile<T>(m, group, x, r, out);
        tile<T>(other, other_group, x, r, beside);
    }
}

constexpr int TALLEST = 8;         // rows of a tile
constexpr int TALLEST_OF_TWO = 6;  // of two tiles side by side: 32 registers hold their sums

// `use(first row, rows)` for every tile of rows.
template <int Tallest, class Use>
inline void tiles_of(int rows, Use use) {
    int r = 0;
    for (; r + Tallest <= rows; r += Tallest) use(r, std::integral_constant<int, Tallest>());
    if (r + 4 <= rows) use(r, std::integral_constant<int, 4>()), r += 4;
    if (r + 2 <= rows) use(r, std::integral_constant<int, 2>()), r += 2;
    if (r < rows) use(r, std::integral_constant<int, 1>());
}

// Whether two groups at a time are faster: fewer rows wait for memory, which gives one stream sooner than two.
inline bool pays_to_pair(const Matrix& m, int rows) { return REGISTER == 64 && m.kind == Kind::float32 && rows > TALLEST; }

// Stores (or adds) up to 16 outputs of a row.
inline void put(float* to, f32x16 y, int outputs, bool add) {
    if (outputs >= GROUP) {
        store(to, add ? load(to) + y : y);
        return;
    }
    for (int i = 0; i < outputs; i++) to[i] = add ? to[i] + y[i] : y[i];
}

// y[r, o] (= or +=) sum over inputs, for the outputs of groups begin..end.
inline void linear(const Matrix& m, const Rows& x, int rows, int begin, int end, float* y, size_t stride, bool add) {
    const auto put_all = [&](int r, int group, const f32x16* out, int size) {
        const int outputs = m.outputs - group * GROUP;
        for (int t = 0; t < size; t++) put(y + (size_t)(r + t) * stride + group * GROUP, out[t], outputs, add);
    };
    int group = begin;
    for (; pays_to_pair(m, rows) && group + 2 <= end; group += 2) {
        tiles_of<TALLEST_OF_TWO>(rows, [&](int r, auto size) {
            f32x16 out[size], beside[size];
            two_tiles<size>(m, group, m, group + 1, x, r, out, beside);
            put_all(r, group, out, size), put_all(r, group + 1, beside, size);
        });
    }
    for (; group < end; group++) {
        tiles_of<TALLEST>(rows, [&](int r, auto size) {
            f32x16 out[size];
            tile<size>(m, group, x, r, out);
            put_all(r, group, out, size);
        });
    }
}

}  // namespace
}  // namespace steelyard
