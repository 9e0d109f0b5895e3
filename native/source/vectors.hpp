// Sixteen numbers at once. The compiler's own vector types do the arithmetic on every instruction set; only what they cannot
// say (dot products of bytes, half precision) is written once for each.
#pragma once

#include "numbers.hpp"
#include "registers.hpp"

#if SY_REGISTER > 16
#include "x86.hpp"
#elif defined(SY_NEON)
#include "neon.hpp"
#else
#include "portable.hpp"
#endif

namespace steelyard {
namespace {

constexpr int LANES = 16;

inline f32x16 load(const float* from) { return gathered<f32x16, REGISTER>(from, read_register<f32r>); }

inline void store(float* to, const f32x16& x) {
    scattered<REGISTER>(to, x, [](void* place, f32r part) { std::memcpy(place, &part, sizeof part); });
}

// The first `count` of sixteen numbers, zeros in the place of the others.
inline f32x16 load_some(const float* from, int count) {
    float numbers[LANES] = {};
    std::memcpy(numbers, from, sizeof(float) * count);
    return load(numbers);
}

inline u8x64 load_bytes(const void* from) { return gathered<u8x64, REGISTER>(from, read_register<u8r>); }

inline u8x64 load_some_bytes(const void* from, int count) {
    uint8_t bytes[4 * LANES] = {};
    std::memcpy(bytes, from, count);
    return load_bytes(bytes);
}

inline f32x16 all(float x) { return x - f32x16{}; }  // from it, not added to it: that would turn -0 into 0, so compilers would add

inline i32x16 lane_numbers() {
    static const int32_t numbers[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return gathered<i32x16, REGISTER>(numbers, read_register<i32r>);
}

inline f32x16 to_float(const i32x16& x) { return converted<f32x16>(x); }

// a * b + c, rounded once where the instruction set can.
template <class H>
inline Pair<H> multiply_add(const Pair<H>& a, const Pair<H>& b, const Pair<H>& c) {
    return {multiply_add(a.low, b.low, c.low), multiply_add(a.high, b.high, c.high)};
}

// Sixteen half-precision numbers.
inline f32x16 load_half(const uint16_t* from) { return gathered<f32x16, REGISTER / 2>(from, halves_at); }

template <bool Small, class S, class W>
inline Pair<S> dot_quads(const Pair<S>& sum, const Pair<W>& weights, int32_t four) {
    return {dot_quads<Small>(sum.low, weights.low, four), dot_quads<Small>(sum.high, weights.high, four)};
}

// For each of 16 lanes: sum + four unsigned bytes of `weights` times the four signed bytes at `x`. `Small`: no weight is above 63,
// so that pairs of products fit into 16 bits.
template <bool Small>
inline i32x16 dot4(const i32x16& sum, const u8x64& weights, const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, sizeof four);
    return dot_quads<Small>(sum, weights, four);
}

#if SY_REGISTER < 64  // x86.hpp has instructions for both
inline f32r dot_pairs(f32r sum, u8r weights, int32_t two) {
    const i32r pairs = (i32r)weights, x = i32r{} + two;
    sum = multiply_add((f32r)(pairs << 16), (f32r)(x << 16), sum);
    return multiply_add((f32r)(pairs & (int32_t)0xffff0000), (f32r)(x & (int32_t)0xffff0000), sum);
}

inline u16half narrowed(f32r x) {
    const u32r bits = (u32r)x, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector(x == x ? rounded : (bits >> 16 | 64), u16half);
}
#endif

template <class S, class W>
inline Pair<S> dot_pairs(const Pair<S>& sum, const Pair<W>& weights, int32_t two) {
    return {dot_pairs(sum.low, weights.low, two), dot_pairs(sum.high, weights.high, two)};
}

// For each of 16 lanes: sum + two bfloat16 weights times the two bfloat16 numbers at `x`.
inline f32x16 dot2_bfloat16(const f32x16& sum, const u8x64& weights, const uint16_t* x) {
    int32_t two;
    std::memcpy(&two, x, sizeof two);
    return dot_pairs(sum, weights, two);
}

template <class V>
inline V sum_of_two(V a, V b) { return a + b; }

template <class V>
inline V larger(const V& a, const V& b) { return choose(a > b, a, b); }

// The halves of a vector side by side, then the halves of those, ...: lane 0 ends with all of them joined in one fixed order.
#if SY_REGISTER == 64
#define SY_FOLD(x, join)                                                                                              \
    x = join(x, __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));                  \
    x = join(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3));                        \
    x = join(x, __builtin_shufflevector(x, x, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1));                        \
    x = join(x, __builtin_shufflevector(x, x, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0))
#elif SY_REGISTER == 32
#define SY_FOLD(x, join)                                                    \
    x = join(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3));      \
    x = join(x, __builtin_shufflevector(x, x, 2, 3, 0, 1, 2, 3, 0, 1));      \
    x = join(x, __builtin_shufflevector(x, x, 1, 0, 1, 0, 1, 0, 1, 0))
#else
#define SY_FOLD(x, join)                                        \
    x = join(x, __builtin_shufflevector(x, x, 2, 3, 0, 1));      \
    x = join(x, __builtin_shufflevector(x, x, 1, 0, 1, 0))
#endif

inline float sum_of(f32r x) {
    SY_FOLD(x, sum_of_two);
    return x[0];
}

inline int32_t sum_of(i32r x) {
    SY_FOLD(x, sum_of_two);
    return x[0];
}

inline float largest_of(f32r x) {
    SY_FOLD(x, larger);
    return x[0];
}

#undef SY_FOLD

template <class H>
inline auto sum_of(const Pair<H>& x) { return sum_of(x.low + x.high); }

template <class H>
inline auto largest_of(const Pair<H>& x) { return largest_of(larger(x.low, x.high)); }

inline f32x16 absolute(const f32x16& x) { return as<f32x16>(as<i32x16>(x) & 0x7fffffff); }

// Rounded to the nearest whole number, halves to even, for |x| below 2^22; not a number becomes 0.
inline i32x16 nearest(const f32x16& x) {
    const f32x16 rounded = (x + 12582912.0f) - 12582912.0f;
    return converted<i32x16>(choose(rounded == rounded, rounded, f32x16{}));
}

inline void store_bytes(int8_t* to, const i32x16& x) {
    typedef int8_t i8quarter __attribute__((vector_size(REGISTER / 4)));
    scattered<REGISTER / 4>(to, x, [](void* place, i32r part) {
        const i8quarter bytes = __builtin_convertvector(part, i8quarter);
        std::memcpy(place, &bytes, sizeof bytes);
    });
}

inline void store_bfloat16(uint16_t* to, const f32x16& x) {
    scattered<REGISTER / 2>(to, x, [](void* place, f32r part) {
        const u16half narrow = narrowed(part);
        std::memcpy(place, &narrow, sizeof narrow);
    });
}

// Sixteen bytes as whole numbers from 0 on.
inline i32x16 widened_bytes(const uint8_t* from) {
    return gathered<i32x16, REGISTER / 4>(from, bytes_at);
}

// Sixteen bfloat16 numbers.
inline f32x16 widened(const uint16_t* from) {
    return gathered<f32x16, REGISTER / 2>(from, [](const void* place) { return (f32r)(__builtin_convertvector(read_register<u16half>(place), i32r) << 16); });
}

// e^x within two units in the last place, 0 below -87, from 2^n and a polynomial of degree 6 on [-ln 2 / 2, ln 2 / 2].
inline f32x16 exponential(f32x16 x) {
    const f32x16 least = all(-87.0f), most = all(88.0f);
    const i32x16 gone = x < least;
    x = choose(gone, least, x);
    x = choose(x > most, most, x);
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
    const i32x16 scale = (converted<i32x16>(n) + 127) << 23;
    return choose(gone, f32x16{}, p * as<f32x16>(scale));
}

}  // namespace
}  // namespace steelyard
