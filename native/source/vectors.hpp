// Sixteen numbers at once. The compiler's own vector types do the arithmetic on every instruction set; only what they cannot
// say (dot products of bytes, half precision) is written once for each.
#pragma once

#include <cstdint>
#include <cstring>

#include "numbers.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace steelyard {
namespace {  // every instruction set has its own copy of all this

constexpr int LANES = 16;

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint8_t u8x64 __attribute__((vector_size(64)));
typedef int8_t i8x64 __attribute__((vector_size(64)));
typedef uint16_t u16x32 __attribute__((vector_size(64)));

inline f32x16 load(const float* from) {
    f32x16 x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

inline void store(float* to, f32x16 x) { std::memcpy(to, &x, sizeof x); }

// The first `count` of sixteen numbers, zeros in the place of the others.
inline f32x16 load_some(const float* from, int count) {
    f32x16 x = {};
    std::memcpy(&x, from, sizeof(float) * count);
    return x;
}

inline u8x64 load_bytes(const void* from) {
    u8x64 x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

inline u8x64 load_some_bytes(const void* from, int count) {
    u8x64 x = {};
    std::memcpy(&x, from, count);
    return x;
}

inline f32x16 all(float x) { return f32x16{} + x; }

inline f32x16 to_float(i32x16 x) { return __builtin_convertvector(x, f32x16); }

// a * b + c, rounded once where the instruction set can.
inline f32x16 multiply_add(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    f32x16 out;
    __m256 x[2], y[2], z[2];
    std::memcpy(x, &a, sizeof a);
    std::memcpy(y, &b, sizeof b);
    std::memcpy(z, &c, sizeof c);
    z[0] = _mm256_fmadd_ps(x[0], y[0], z[0]);
    z[1] = _mm256_fmadd_ps(x[1], y[1], z[1]);
    std::memcpy(&out, z, sizeof out);
    return out;
#else
    return a * b + c;
#endif
}

// Sixteen half-precision numbers.
inline f32x16 load_half(const uint16_t* from) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
#elif defined(__F16C__)
    f32x16 out;
    __m256 x[2] = {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from + 8)))};
    std::memcpy(&out, x, sizeof out);
    return out;
#else
    f32x16 out;
    for (int i = 0; i < LANES; i++) out[i] = half_to_float(from[i]);
    return out;
#endif
}

// For each of 16 lanes: sum + four unsigned bytes of `weights` times the four signed bytes at `x`. `Small`: no weight is above 63,
// so that pairs of products fit into 16 bits.
template <bool Small>
inline i32x16 dot4(i32x16 sum, u8x64 weights, const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, sizeof four);
#if defined(__AVX512VNNI__)
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, _mm512_set1_epi32(four));
#elif defined(__AVX2__)
    __m256i w[2], s[2];
    std::memcpy(w, &weights, sizeof w);
    std::memcpy(s, &sum, sizeof s);
    const __m256i signed_ = _mm256_set1_epi32(four);
    for (int half = 0; half < 2; half++) {
        if (Small) {
            const __m256i pairs = _mm256_maddubs_epi16(w[half], signed_);
            s[half] = _mm256_add_epi32(s[half], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        } else {  // even and odd bytes apart: products of 8 bits fit into 16, their pairs do not
            const __m256i low = _mm256_set1_epi16(255);
            const __m256i even = _mm256_and_si256(w[half], low), odd = _mm256_srli_epi16(w[half], 8);
            const __m256i x_even = _mm256_srai_epi16(_mm256_slli_epi16(signed_, 8), 8), x_odd = _mm256_srai_epi16(signed_, 8);
            s[half] = _mm256_add_epi32(s[half], _mm256_add_epi32(_mm256_madd_epi16(even, x_even), _mm256_madd_epi16(odd, x_odd)));
        }
    }
    i32x16 out;
    std::memcpy(&out, s, sizeof out);
    return out;
#else
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < 4; i++) sum[lane] += (int32_t)weights[4 * lane + i] * x[i];
    return sum;
#endif
}

// For each of 16 lanes: sum + two bfloat16 weights times the two bfloat16 numbers at `x`.
inline f32x16 dot2_bfloat16(f32x16 sum, u8x64 weights, const uint16_t* x) {
    int32_t two;
    std::memcpy(&two, x, sizeof two);
#if defined(__AVX512BF16__)
    return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(two));
#else
    const i32x16 pairs = (i32x16)weights;
    const f32x16 first = (f32x16)(pairs << 16), second = (f32x16)(pairs & (int32_t)0xffff0000);
    sum = multiply_add(first, all(from_bfloat16((uint16_t)two)), sum);
    return multiply_add(second, all(from_bfloat16((uint16_t)((uint32_t)two >> 16))), sum);
#endif
}

// The halves of a vector side by side, then the halves of those, ...: lane 0 ends with all sixteen joined in one fixed order.
#define SY_FOLD(x, join)                                                                                              \
    x = join(x, __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));                  \
    x = join(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3));                        \
    x = join(x, __builtin_shufflevector(x, x, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1));                        \
    x = join(x, __builtin_shufflevector(x, x, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0))

template <class V>
inline V sum_of_two(V a, V b) { return a + b; }

inline f32x16 larger(f32x16 a, f32x16 b) { return a > b ? a : b; }

inline float sum_of(f32x16 x) {
    SY_FOLD(x, sum_of_two);
    return x[0];
}

inline int32_t sum_of(i32x16 x) {
    SY_FOLD(x, sum_of_two);
    return x[0];
}

inline float largest_of(f32x16 x) {
    SY_FOLD(x, larger);
    return x[0];
}

#undef SY_FOLD

inline f32x16 absolute(f32x16 x) { return (f32x16)((i32x16)x & 0x7fffffff); }

// Rounded to the nearest whole number, halves to even, for |x| below 2^22; not a number becomes 0.
inline i32x16 nearest(f32x16 x) {
    const f32x16 rounded = (x + 12582912.0f) - 12582912.0f;
    return __builtin_convertvector(rounded == rounded ? rounded : f32x16{}, i32x16);
}

typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));

inline void store_bytes(int8_t* to, i32x16 x) {
    const i8x16 bytes = __builtin_convertvector(x, i8x16);
    std::memcpy(to, &bytes, sizeof bytes);
}

inline void store_bfloat16(uint16_t* to, f32x16 x) {
#if defined(__AVX512BF16__)
    const __m256bh narrow = _mm512_cvtneps_pbh((__m512)x);
    std::memcpy(to, &narrow, sizeof narrow);
#else
    typedef uint32_t u32x16 __attribute__((vector_size(64)));
    const u32x16 bits = (u32x16)x, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const u16x16 narrow = __builtin_convertvector(x == x ? rounded : (bits >> 16 | 64), u16x16);
    std::memcpy(to, &narrow, sizeof narrow);
#endif
}

// Sixteen bfloat16 numbers.
inline f32x16 widened(const uint16_t* from) {
    u16x16 narrow;
    std::memcpy(&narrow, from, sizeof narrow);
    return (f32x16)(__builtin_convertvector(narrow, i32x16) << 16);
}

// e^x within two units in the last place, 0 below -87, from 2^n and a polynomial of degree 6 on [-ln 2 / 2, ln 2 / 2].
inline f32x16 exponential(f32x16 x) {
    const f32x16 least = all(-87.0f), most = all(88.0f);
    const i32x16 gone = x < least;
    x = x < least ? least : x;
    x = x > most ? most : x;
    const f32x16 shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
    const f32x16 n = shifted - 12582912.0f;
    f32x16 r = multiply_add(n, all(-0.693359375f), x);
    r = multiply_add(n, all(2.12194440e-4f), r);
    f32x16 p = all(1.9875691500e-4f);
    p = multiply_add(p, r, all(1.3981999507e-3f));
    p = multiply_add(p, r, all(8.3334519073e-3f));
    p = multiply_add(p, r, all(4.1665795894e-2f));
    p = multiply_add(p, r, all(1.6666665459e-1f));
    p = multiply_add(p, r, all(5.0000001201e-1f));
    p = multiply_add(p, r * r, r + 1.0f);
    const i32x16 scale = (__builtin_convertvector(n, i32x16) + 127) << 23;
    const f32x16 out = p * (f32x16)scale;
    return gone ? f32x16{} : out;
}

}  // namespace
}  // namespace steelyard
