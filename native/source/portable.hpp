// What the compiler's own vectors cannot say about one register, for machines without routines of their own.
#pragma once

#include "registers.hpp"

namespace steelyard {
namespace {

inline f32r multiply_add(f32r a, f32r b, f32r c) { return a * b + c; }

// Half-precision numbers, as many as a register holds floats.
inline f32r halves_at(const void* from) {
    const i32r halves = __builtin_convertvector(read_register<u16half>(from), i32r), magnitude = halves & 0x7fff;
    // In a float's place a half's exponent is 112 too small, which a product mends for numbers below the smallest normal one as well.
    const i32r bits = (i32r)((f32r)(magnitude << 13) * 5.192296858534828e33f);  // 2^112
    return (f32r)((halves & 0x8000) << 16 | (magnitude >= 0x7c00 ? 0x7f800000 | (magnitude & 0x3ff) << 13 : bits));
}

// Bytes as whole numbers from 0 on, as many as a register holds floats.
inline i32r bytes_at(const void* from) {
    uint8_t bytes[REGISTER_LANES];
    std::memcpy(bytes, from, sizeof bytes);
    return i32r{bytes[0], bytes[1], bytes[2], bytes[3]};
}

// Even and odd bytes apart: a product of 8 bits by 8 fits into 16, and of two such lanes, which share one of 32, the upper is a shift away.
template <bool Small>
inline i32r dot_quads(i32r sum, u8r weights, int32_t four) {
    const i16r both = (i16r)weights, x = (i16r)(i32r{} + four);
    const i32r even = (i32r)((both & 255) * (i16r)((x << 8) >> 8)), odd = (i32r)((i16r)((u16r)weights >> 8) * (i16r)(x >> 8));
    return sum + ((even << 16) >> 16) + (even >> 16) + ((odd << 16) >> 16) + (odd >> 16);
}

}  // namespace
}  // namespace steelyard
