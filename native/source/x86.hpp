// What the compiler's own vectors cannot say about one register, in AVX-512 or AVX2.
#pragma once

#include <immintrin.h>

#include "registers.hpp"

namespace steelyard {
namespace {

#if SY_REGISTER == 64

inline f32r multiply_add(f32r a, f32r b, f32r c) { return (f32r)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }

inline f32r halves_at(const void* from) { return (f32r)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from)); }

inline i32r bytes_at(const void* from) { return (i32r)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)from)); }

template <bool Small>
inline i32r dot_quads(i32r sum, u8r weights, int32_t four) {
    return (i32r)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, _mm512_set1_epi32(four));
}

inline f32r dot_pairs(f32r sum, u8r weights, int32_t two) {
    return (f32r)_mm512_dpbf16_ps((__m512)sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(two));
}

inline u16half narrowed(f32r x) {
    const __m256bh narrow = _mm512_cvtneps_pbh((__m512)x);
    return read_register<u16half>(&narrow);
}

#else

inline f32r multiply_add(f32r a, f32r b, f32r c) { return (f32r)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }

inline f32r halves_at(const void* from) { return (f32r)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from)); }

inline i32r bytes_at(const void* from) { return (i32r)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)from)); }

template <bool Small>
inline i32r dot_quads(i32r sum, u8r weights, int32_t four) {
    const __m256i w = (__m256i)weights, x = _mm256_set1_epi32(four);
    if (Small) return sum + (i32r)_mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1));
    // Even and odd bytes apart: products of 8 bits fit into 16, their pairs do not.
    const __m256i even = _mm256_and_si256(w, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(w, 8);
    const __m256i x_even = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), x_odd = _mm256_srai_epi16(x, 8);
    return sum + (i32r)_mm256_madd_epi16(even, x_even) + (i32r)_mm256_madd_epi16(odd, x_odd);
}

#endif

}  // namespace
}  // namespace steelyard
