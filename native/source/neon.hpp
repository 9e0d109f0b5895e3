// What the compiler's own vectors cannot say about one register, in ARM's NEON; with its dot products (FEAT_DotProd) and those of
// unsigned by signed bytes (FEAT_I8MM) where the build has them. Activations are within -127..127 (rows.hpp).
#pragma once

#include <arm_neon.h>

#include "registers.hpp"

namespace steelyard {
namespace {

inline f32r multiply_add(f32r a, f32r b, f32r c) { return (f32r)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }

inline f32r halves_at(const void* from) { return (f32r)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t*)from))); }

inline i32r bytes_at(const void* from) {
    uint32_t four;
    std::memcpy(&four, from, sizeof four);
    return (i32r)vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)))));
}

// Four products of signed bytes in each lane.
inline int32x4_t dot_signed(int32x4_t sum, int8x16_t weights, int8x16_t x) {
#if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(sum, weights, x);
#else  // two products, at most 2 * 128 * 127, fit into 16 bits
    return vpadalq_s16(sum, vpaddq_s16(vmull_s8(vget_low_s8(weights), vget_low_s8(x)), vmull_high_s8(weights, x)));
#endif
}

template <bool Small>
inline i32r dot_quads(i32r sum, u8r weights, int32_t four) {
    const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
#if defined(__ARM_FEATURE_MATMUL_INT8)
    return (i32r)vusdotq_s32((int32x4_t)sum, (uint8x16_t)weights, x);
#else
    if (Small) return (i32r)dot_signed((int32x4_t)sum, (int8x16_t)weights, x);
    // Bytes less 128 are signed; what that takes away is the same for all lanes, so it is computed once for every four registers.
    const int32x4_t away = vshlq_n_s32(vpaddlq_s16(vpaddlq_s8(x)), 7);
    return (i32r)dot_signed(vaddq_s32((int32x4_t)sum, away), vreinterpretq_s8_u8(veorq_u8((uint8x16_t)weights, vdupq_n_u8(128))), x);
#endif
}

}  // namespace
}  // namespace steelyard
