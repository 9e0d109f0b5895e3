// Attention of a few queries over a slot's cached keys and values, a stretch of keys at a time:
//   softmax(q K^T * scale) V, with stretch c's maximum m_c, sum l_c and weighted values o_c joined in order:
//   m = max(m, m_c), l = l e^(m_old - m) + l_c e^(m_c - m), o likewise (FlashAttention, arXiv:2205.14135).
// Stretches begin at fixed positions and a query never looks at what comes after it, so its result depends on nothing else,
// whether one thread goes through the stretches or several share them out (Flash-Decoding).
#pragma once

#include <algorithm>
#include <cmath>

#include "parts.hpp"
#include "vectors.hpp"

namespace steelyard {
namespace {

constexpr int STRETCH = 128;  // keys
constexpr int TOGETHER = 4;   // queries that go over a stretch side by side
constexpr int WIDE = 4;       // vectors of a head whose values are summed in one go

// Heads need not be whole vectors wide: queries and results have room for whole ones (`padded`), with zeros behind a query's numbers,
// and what is cached is read up to its last number.
struct Query {
    const float* q;          // [padded]
    const uint16_t* narrow;  // the same in bfloat16
    int position;            // it sees keys up to this one
    int first;               // and from this one on
};

// What some stretches gave a query.
struct Part {
    float most, total;  // the largest score, and the sum of e^(score - most)
    float* mixed;       // [padded]: the values' sum, weighted so
};

inline int padded_width(int width) { return (width + LANES - 1) / LANES * LANES; }

// Sixteen sums across sixteen vectors: lane i of the result is the sum of vector i's lanes.
inline f32x16 sums_of(f32x16* v) {
#if SY_REGISTER < 64
    float sums[LANES];
    for (int i = 0; i < LANES; i++) sums[i] = sum_of(v[i]);
    return load(sums);
#else
#define SY_LEVEL(count, ...) /* the even blocks of both, and their odd blocks added to them */                               \
    for (int i = 0; i < count; i++) v[i] = SY_EVEN_AND_ODD(v[i], v[i + count], __VA_ARGS__)
#define SY_EVEN_AND_ODD(a, b, i0, i1, i2, i3, i4, i5, i6, i7, i8, i9, i10, i11, i12, i13, i14, i15, n)                           \
    __builtin_shufflevector(a, b, i0, i1, i2, i3, i4, i5, i6, i7, i8, i9, i10, i11, i12, i13, i14, i15) +                        \
        __builtin_shufflevector(a, b, i0 + n, i1 + n, i2 + n, i3 + n, i4 + n, i5 + n, i6 + n, i7 + n, i8 + n, i9 + n, i10 + n,   \
                                i11 + n, i12 + n, i13 + n, i14 + n, i15 + n)
    SY_LEVEL(8, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23, 8);
    SY_LEVEL(4, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27, 4);
    SY_LEVEL(2, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29, 2);
    SY_LEVEL(1, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30, 1);
#undef SY_LEVEL
#undef SY_EVEN_AND_ODD
    return v[0];
#endif
}

// Scores of one query's keys begin..end, as dot products in `weights`, become e^(score - most). `keep` stores sixteen of them, zeros
// among them, and says what it kept.
template <class Keep>
inline void soften(const Query& query, int begin, int end, float scale, float softcap, float* weights, Part& part, Keep keep) {
    f32x16 best = all(-INFINITY);
    const i32x16 lane = lane_numbers();
    for (int key = begin; key < end; key += LANES) {
        f32x16 score = load(weights + key - begin) * scale;
        if (softcap > 0) score = hyperbolic_tangent(score / softcap) * softcap;
        const i32x16 seen = (lane + key < end) & (lane + key >= query.first);
        score = choose(seen, score, all(-INFINITY));
        best = larger(score, best);
        store(weights + key - begin, score);
    }
    part.most = largest_of(best);
    f32x16 sum = {};
    for (int key = begin; key < begin + STRETCH; key += LANES) {
        const bool some = key < end && part.most > -INFINITY;
        sum = sum + keep(key - begin, some ? exponential(load(weights + key - begin) - part.most) : f32x16{});
    }
    part.total = sum_of(sum);
}

// Keys and values of one slot and head as they come: float32 [tokens, width].
struct FloatCache {
    typedef float Number;
    typedef float Weight;
    const float *keys, *values;
    int width;

    static void write(float* keys, float* values, int token, int width, const float* k, const float* v) {
        std::memcpy(keys + (size_t)token * width, k, sizeof(float) * width);
        std::memcpy(values + (size_t)token * width, v, sizeof(float) * width);
    }

    // How many of the queries, which come in order, go over a stretch side by side.
    static int open(const Query*, int left, int) { return std::min(left, TOGETHER); }

    template <int Count>
    void score(const Query* queries, int begin, int end, float* weights) const {
        switch (width) {
            case 64: return score<Count, 64>(queries, begin, end, weights);
            case 128: return score<Count, 128>(queries, begin, end, weights);
            default: return score<Count, 0>(queries, begin, end, weights);
        }
    }

    // `Width`: a head's, where the compiler is to know it (then it takes two thirds of the time), else 0.
    template <int Count, int Width>
    void score(const Query* queries, int begin, int end, float* weights) const {
        for (int key = begin; key < end; key += LANES) {
            const float* k = keys + (size_t)key * width;
            for (int i = 0; i < Count; i++) {
                f32x16 sums[LANES];
                const int count = std::min(end - key, LANES);
                if (count == LANES) {
                    for (int j = 0; j < LANES; j += BESIDE) dot<BESIDE, Width>(queries[i].q, k + (size_t)j * width, sums + j);
                } else {
                    for (int j = 0; j < count; j++) dot<1, Width>(queries[i].q, k + (size_t)j * width, sums + j);
                    for (int j = count; j < LANES; j++) sums[j] = f32x16{};
                }
                store(weights + i * STRETCH + key - begin, sums_of(sums));
            }
        }
    }

    static constexpr int BESIDE = REGISTER == 64 ? 16 : 4;  // keys whose products are summed side by side, so that no sum waits for itself

    // Sixteen partial sums of each of `Keys` products: of every sixteenth number, in order.
    template <int Keys, int Width>
    void dot(const float* q, const float* k, f32x16* out) const {
        const int width = Width ? Width : this->width, whole = width / LANES * LANES, rest = width - whole;
        f32x16 sums[Keys];
        for (int j = 0; j < Keys; j++) sums[j] = f32x16{};
        for (int d = 0; d < whole; d += LANES) {
            const f32x16 x = load(q + d);
            for (int j = 0; j < Keys; j++) sums[j] = multiply_add(x, load(k + (size_t)j * width + d), sums[j]);
        }
        for (int j = 0; rest && j < Keys; j++) sums[j] = multiply_add(load(q + whole), load_some(k + (size_t)j * width + whole, rest), sums[j]);
        for (int j = 0; j < Keys; j++) out[j] = sums[j];
    }

    static f32x16 keep(float* weights, f32x16 x) {
        store(weights, x);
        return x;
    }

    // `Some`: of one vector, as much as there is.
    template <int Count, int Vectors, bool Some>
    void mix(int begin, int end, const float* weights, int d, f32x16 (*sum)[WIDE]) const {
        for (int key = begin; key < end; key++) {
            const float* from = values + (size_t)key * width + d;
            f32x16 v[Vectors];
            for (int j = 0; j < Vectors; j++) v[j] = Some ? load_some(from, width - d) : load(from + j * LANES);
            for (int i = 0; i < Count; i++) {
                const f32x16 weight = all(weights[i * STRETCH + key - begin]);
                for (int j = 0; j < Vectors; j++) sum[i][j] = multiply_add(weight, v[j], sum[i][j]);
            }
        }
    }
};

// In bfloat16, as products of pairs want them: keys [tokens / 16, width / 2, 16 tokens, 2], values [tokens / 2, width, 2 tokens].
// Queries and weights are rounded to bfloat16 too; sums are float32.
struct NarrowCache {
    typedef uint16_t Number;
    typedef uint16_t Weight;
    static constexpr int BLOCKS = 4;  // blocks of 16 keys whose scores are summed in one go; room for tokens is a multiple of this
    const uint16_t *keys, *values;
    int width;  // even

    static void write(uint16_t* keys, uint16_t* values, int token, int width, const float* k, const float* v) {
        uint16_t* key = keys + (size_t)(token / LANES) * LANES * width + 2 * (token % LANES);
        uint16_t* value = values + (size_t)(token / 2) * 2 * width + token % 2;
        for (int d = 0; d < width; d += LANES) {
            const int count = width - d < LANES ? width - d : LANES;
            uint16_t a[LANES], b[LANES];
            store_bfloat16(a, load_some(k + d, count));
            store_bfloat16(b, load_some(v + d, count));
            for (int j = 0; j < count; j += 2) std::memcpy(key + (d + j) * LANES, a + j, sizeof(uint32_t));
            for (int j = 0; j < count; j++) value[2 * (d + j)] = b[j];
        }
    }

    static int open(const Query*, int left, int) { return std::min(left, TOGETHER); }

    template <int Count>
    void score(const Query* queries, int begin, int end, float* weights) const {
        constexpr int blocks = Count > 2 ? 2 : BLOCKS;  // as many sums as registers hold
        const int block = LANES * width;
        for (int key = begin; key < end; key += blocks * LANES) {
            f32x16 sums[Count][blocks] = {};
            const uint16_t* k = keys + (size_t)key * width;
            for (int d = 0; d < width; d += 2, k += 2 * LANES) {
                u8x64 pairs[blocks];
                for (int j = 0; j < blocks; j++) pairs[j] = load_bytes(k + (size_t)j * block);
                for (int i = 0; i < Count; i++)
                    for (int j = 0; j < blocks; j++) sums[i][j] = dot2_bfloat16(sums[i][j], pairs[j], queries[i].narrow + d);
            }
            for (int i = 0; i < Count; i++)
                for (int j = 0; j < blocks; j++) store(weights + i * STRETCH + key - begin + j * LANES, sums[i][j]);
        }
    }

    static f32x16 keep(uint16_t* weights, f32x16 x) {
        store_bfloat16(weights, x);
        return widened(weights);
    }

    template <int Count, int Vectors, bool Some>
    void mix(int begin, int end, const uint16_t* weights, int d, f32x16 (*sum)[WIDE]) const {
        for (int key = begin; key < end; key += 2) {
            const uint16_t* from = values + (size_t)key * width + 2 * d;
            u8x64 v[Vectors];
            for (int j = 0; j < Vectors; j++) v[j] = Some ? load_some_bytes(from, 4 * (width - d)) : load_bytes(from + 2 * j * LANES);
            if (key + 1 == end)  // what stands in the other half may be no number, and zero times that is none either
                for (int j = 0; j < Vectors; j++) v[j] = as<u8x64>(as<i32x16>(v[j]) & 0xffff);
            for (int i = 0; i < Count; i++)
                for (int j = 0; j < Vectors; j++) sum[i][j] = dot2_bfloat16(sum[i][j], v[j], weights + i * STRETCH + key - begin);
        }
    }
};

// What keys begin..begin + STRETCH give `Count` queries, as far as each sees them. Weights beyond a query's last key are zero and the
// values there are those of the same text's later tokens: they add exact zeros.
template <class Cache, int Count>
inline void attend_together(const Query* queries, const Cache& cache, int begin, float scale, float softcap, Part* parts) {
    alignas(64) float scores[Count * STRETCH];
    alignas(64) typename Cache::Weight weights[Count * STRETCH];
    int ends[Count], last = begin;
    for (int i = 0; i < Count; i++) {
        const int until = std::min(queries[i].position + 1, begin + STRETCH);
        ends[i] = until > begin && queries[i].first < begin + STRETCH ? until : begin;
        last = std::max(last, ends[i]);
    }
    cache.template score<Count>(queries, begin, last, scores);
    for (int i = 0; i < Count; i++) {
        const auto keep = [&](int place, f32x16 x) { return Cache::keep(weights + i * STRETCH + place, x); };
        soften(queries[i], begin, ends[i], scale, softcap, scores + i * STRETCH, parts[i], keep);
    }
    for (int d = 0; d < cache.width;) {
        f32x16 sum[Count][WIDE] = {};
        const int left = cache.width - d, vectors = left >= WIDE * LANES ? WIDE : 1;
        if (vectors == WIDE) cache.template mix<Count, WIDE, false>(begin, last, weights, d, sum);
        else if (left >= LANES) cache.template mix<Count, 1, false>(begin, last, weights, d, sum);
        else cache.template mix<Count, 1, true>(begin, last, weights, d, sum);
        for (int i = 0; i < Count; i++)
            for (int j = 0; j < vectors; j++) store(parts[i].mixed + d + j * LANES, sum[i][j]);
        d += vectors * LANES;
    }
}

template <class Cache>
inline void attend_stretch(const Query* queries, int count, const Cache& cache, int begin, float scale, float softcap, Part* parts) {
    switch (count) {
        case 1: return attend_together<Cache, 1>(queries, cache, begin, scale, softcap, parts);
        case 2: return attend_together<Cache, 2>(queries, cache, begin, scale, softcap, parts);
        case 3: return attend_together<Cache, 3>(queries, cache, begin, scale, softcap, parts);
        default: return attend_together<Cache, TOGETHER>(queries, cache, begin, scale, softcap, parts);
    }
}

// Joins a later stretch's part to what a query has so far (at first: total 0, mixed zeros); `width` is the padded one.
inline void join(Part& part, const Part& next, int width) {
    if (next.total == 0) return;
    const float both = part.most > next.most ? part.most : next.most;
    const float old = part.total == 0 ? 0.0f : exponential(all(part.most - both))[0], fresh = exponential(all(next.most - both))[0];
    for (int d = 0; d < width; d += LANES) store(part.mixed + d, multiply_add(all(fresh), load(next.mixed + d), load(part.mixed + d) * old));
    part.total = part.total * old + next.total * fresh;
    part.most = both;
}

inline void begin_part(Part& part, int width) {
    part.most = -INFINITY, part.total = 0;
    for (int d = 0; d < width; d += LANES) store(part.mixed + d, f32x16{});
}

inline void end_part(Part& part, int width) {
    for (int d = 0; d < width; d += LANES) store(part.mixed + d, load(part.mixed + d) / part.total);
}

}  // namespace
}  // namespace steelyard
