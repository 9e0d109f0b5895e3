// Narrow floats one at a time. Static: what is compiled for one instruction set must not serve another.
#pragma once

#include <cstdint>
#include <cstring>

namespace steelyard {

static inline float half_to_float(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = half & 0x7fff;
    uint32_t bits;
    if (magnitude >= 0x7c00) {
        bits = sign | 0x7f800000 | (magnitude & 0x3ff) << 13;
    } else if (magnitude >= 0x400) {
        bits = sign | ((magnitude << 13) + 0x38000000);
    } else {  // below the smallest normal number: magnitude / 2^24
        const float small = (float)magnitude * (1.0f / 16777216.0f);
        std::memcpy(&bits, &small, sizeof bits);
        bits |= sign;
    }
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

// Rounded to the nearest half-precision number, halves to even.
static inline uint16_t to_half(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00);  // from 65,520 on
    if (magnitude >= 0x38800000) return (uint16_t)(sign | ((magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000) >> 13));
    float small;  // below the smallest normal number: multiples of 2^-24, the last place of numbers from 0.5 on
    std::memcpy(&small, &magnitude, sizeof small);
    small += 0.5f;
    std::memcpy(&bits, &small, sizeof bits);
    return (uint16_t)(sign | (bits - 0x3f000000));
}

static inline uint16_t to_bfloat16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 64);  // not a number stays none
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float from_bfloat16(uint16_t x) {
    const uint32_t bits = (uint32_t)x << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

}  // namespace steelyard
