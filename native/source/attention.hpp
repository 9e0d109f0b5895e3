// Attention of a few queries over a slot's cached keys and values, a stretch of keys at a time:
//   softmax(q K^T * scale) V, with stretch c's maximum m_c, sum l_c and weighted values o_c joined in order:
//   m = max(m, m_c), l = l e^(m_old - m) + l_c e^(m_c - m), o likewise (FlashAttention, arXiv:2205.14135).
// Stretches begin at fixed positions and a query never looks at what comes after it, so its result depends on nothing else.
#pragma once

#include <cmath>

#include "parts.hpp"
#include "vectors.hpp"

namespace steelyard {
namespace {

constexpr int STRETCH = 256;  // keys
constexpr int TOGETHER = 4;   // queries whose values are summed in one go

// Sixteen sums across sixteen vectors: lane i of the result is the sum of vector i's lanes.
inline f32x16 sums_of(f32x16* v) {
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
}

struct Cache {
    const float *keys, *values;  // of one slot and head: [tokens, width]
    int width;                   // a multiple of 16
};

struct Query {
    const float* q;      // [width]
    float* out;          // [width]
    int position;        // it sees keys up to this one
    int first;           // and from this one on
    float most, total;   // so far
};

// Scores of keys begin..end of one query into `weights`, then e^(score - max): returns the maximum and the sum.
inline void weigh_keys(const Query& query, const Cache& cache, int begin, int end, float scale, float softcap, float* weights, float& most,
                       float& total) {
    const int vectors = cache.width / LANES;
    f32x16 best = all(-INFINITY);
    const i32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int key = begin; key < end; key += LANES) {
        const int count = end - key < LANES ? end - key : LANES;
        f32x16 sums[LANES] = {};
        for (int i = 0; i < count; i++) {
            const float* k = cache.keys + (size_t)(key + i) * cache.width;
            f32x16 sum = {};
            for (int d = 0; d < vectors; d++) sum = multiply_add(load(query.q + d * LANES), load(k + d * LANES), sum);
            sums[i] = sum;
        }
        f32x16 score = sums_of(sums) * scale;
        if (softcap > 0) score = hyperbolic_tangent(score / softcap) * softcap;
        const i32x16 seen = (lane < count) & (lane + key >= query.first);
        score = seen ? score : all(-INFINITY);
        best = larger(score, best);
        store(weights + key - begin, score);
    }
    most = largest_of(best);
    f32x16 sum = {};
    for (int key = begin; key < end; key += LANES) {
        const f32x16 score = load(weights + key - begin);
        const f32x16 weight = most == -INFINITY ? f32x16{} : exponential(score - most);
        store(weights + key - begin, weight);
        sum = sum + weight;
    }
    total = sum_of(sum);
}

// Sums of values weighted for up to `Count` queries over keys begin..end: out[i] [width].
template <int Count>
inline void mix_values(const Cache& cache, int begin, const int* ends, const float* weights, float* out) {
    constexpr int wide = 4;  // vectors of a head summed at once
    int last = 0;
    for (int i = 0; i < Count; i++) last = ends[i] > last ? ends[i] : last;
    for (int d = 0; d < cache.width; d += wide * LANES) {
        const int vectors = (cache.width - d) / LANES < wide ? (cache.width - d) / LANES : wide;
        f32x16 sum[Count][wide] = {};
        if (vectors == wide) {
            for (int key = begin; key < last; key++) {
                const float* v = cache.values + (size_t)key * cache.width + d;
                const f32x16 a = load(v), b = load(v + LANES), c = load(v + 2 * LANES), e = load(v + 3 * LANES);
                for (int i = 0; i < Count; i++) {
                    const f32x16 weight = all(weights[i * STRETCH + key - begin]);
                    sum[i][0] = multiply_add(weight, a, sum[i][0]);
                    sum[i][1] = multiply_add(weight, b, sum[i][1]);
                    sum[i][2] = multiply_add(weight, c, sum[i][2]);
                    sum[i][3] = multiply_add(weight, e, sum[i][3]);
                }
            }
        } else {
            for (int key = begin; key < last; key++)
                for (int j = 0; j < vectors; j++) {
                    const f32x16 v = load(cache.values + (size_t)key * cache.width + d + j * LANES);
                    for (int i = 0; i < Count; i++) sum[i][j] = multiply_add(all(weights[i * STRETCH + key - begin]), v, sum[i][j]);
                }
        }
        for (int i = 0; i < Count; i++)
            for (int j = 0; j < vectors; j++) store(out + i * cache.width + d + j * LANES, sum[i][j]);
    }
}

// Joins one stretch's result to what a query has so far.
inline void join(Query& query, float most, float total, const float* mixed, int width) {
    if (total == 0) return;
    const float both = query.most > most ? query.most : most;
    const float old = query.total == 0 ? 0.0f : exponential(all(query.most - both))[0], fresh = exponential(all(most - both))[0];
    for (int d = 0; d < width; d += LANES) store(query.out + d, multiply_add(all(fresh), load(mixed + d), load(query.out + d) * old));
    query.total = query.total * old + total * fresh;
    query.most = both;
}

// All queries of one slot and key/value head; `weights` holds TOGETHER * STRETCH floats, `mixed` TOGETHER * width.
// Weights beyond a query's last key are zero and its values are real keys of later tokens: they add exact zeros.
inline void attend(Query* queries, int count, const Cache& cache, float scale, float softcap, float* weights, float* mixed) {
    int last = 0, first = 1 << 30;
    for (int i = 0; i < count; i++) {
        Query& query = queries[i];
        query.most = -INFINITY, query.total = 0;
        for (int d = 0; d < cache.width; d += LANES) store(query.out + d, f32x16{});
        last = query.position + 1 > last ? query.position + 1 : last;
        first = query.first < first ? query.first : first;
    }
    for (int begin = first / STRETCH * STRETCH; begin < last; begin += STRETCH) {
        for (int group = 0; group < count; group += TOGETHER) {
            const int size = count - group < TOGETHER ? count - group : TOGETHER;
            int ends[TOGETHER];
            float most[TOGETHER], total[TOGETHER];
            for (int i = 0; i < size; i++) {
                const Query& query = queries[group + i];
                const int until = query.position + 1 < begin + STRETCH ? query.position + 1 : begin + STRETCH;
                ends[i] = until > begin && query.first < begin + STRETCH ? until : begin;
                for (int key = (ends[i] - begin + LANES - 1) / LANES * LANES; key < STRETCH; key += LANES)
                    store(weights + i * STRETCH + key, f32x16{});
                weigh_keys(query, cache, begin, ends[i], scale, softcap, weights + i * STRETCH, most[i], total[i]);
            }
            switch (size) {
                case 1: mix_values<1>(cache, begin, ends, weights, mixed); break;
                case 2: mix_values<2>(cache, begin, ends, weights, mixed); break;
                case 3: mix_values<3>(cache, begin, ends, weights, mixed); break;
                default: mix_values<4>(cache, begin, ends, weights, mixed); break;
            }
            for (int i = 0; i < size; i++) join(queries[group + i], most[i], total[i], mixed + i * cache.width, cache.width);
        }
    }
    for (int i = 0; i < count; i++)
        for (int d = 0; d < cache.width; d += LANES) store(queries[i].out + d, load(queries[i].out + d) / queries[i].total);
}

}  // namespace
}  // namespace steelyard
