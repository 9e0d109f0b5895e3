// Keys and values in few bits, as steelyard/generate/states/quantized.py keeps them: tokens behind a window as codes, later ones in floats.
//   x = code * scale + low: product and sum apart, so that every number is the one that PyTorch's path makes of the same code
// A stretch of keys is brought into floats in memory of the thread's own, which stays in the processor's caches, and multiplied there like
// any other. What a query sees rounded depends on its position alone; queries that see the same go over a stretch side by side.
#pragma once

#include "attention.hpp"
#include "lanes.hpp"

namespace steelyard {
namespace {

// How many of the first `length` tokens the last of them sees rounded.
inline int rounded_of(const FewBits& f, int length) { return std::max(0, length - f.window) / f.group * f.group; }

inline float* recent_of(const FewBits& f, int slot, int head, int heads, int width, int token) {
    return f.recent + (((size_t)slot * f.kept + token % f.kept) * heads + head) * width;
}

inline int parts_of_token(const FewBits& f, int width) { return f.share > 0 ? width / f.share : 0; }
inline int scales_of_group(const FewBits& f, int width) { return f.share > 0 ? f.group * parts_of_token(f, width) : width; }

// Keys or values of one slot and head.
struct Groups {
    const FewBits& f;
    size_t first;  // group 0 of it
    int width;

    uint8_t* codes(int group) const { return f.codes + (first + group) * (f.group * f.bits / 8) * width; }
    uint16_t* low(int group) const { return f.low + (first + group) * scales_of_group(f, width); }
    uint16_t* scale(int group) const { return f.scale + (first + group) * scales_of_group(f, width); }
};

inline Groups groups_of(const FewBits& f, int slot, int head, int heads, int width) {
    return {f, ((size_t)slot * heads + head) * f.groups, width};
}

inline void to_floats(const uint16_t* halves, int count, float* to) {
    for (int i = 0; i < count; i += LANES) {
        uint16_t some[LANES] = {};
        const int here = lanes_from(i, count);
        if (here < LANES) std::memcpy(some, halves + i, sizeof(uint16_t) * here);
        store(to + i, load_half(here < LANES ? some : halves + i));
    }
}

// Codes of `tokens` tokens -> floats [tokens, width]. `at(d)` gives what brings codes of sixteen channels from d on to their place, by token.
template <int Bits, class At>
inline void unpack(const uint8_t* codes, int tokens, int width, float* to, const At& at) {
    constexpr int each = 8 / Bits, mask = (1 << Bits) - 1;
    for (int d = 0; d < width; d += LANES) {
        const int count = lanes_from(d, width);
        const auto bring = at(d);
        for (int token = 0; token < tokens; token += each) {
            const uint8_t* from = codes + (size_t)token / each * width + d;
            uint8_t some[LANES] = {};
            if (count < LANES) std::memcpy(some, from, count);
            const i32x16 bytes = widened_bytes(count < LANES ? some : from);
            for (int place = 0; place < each; place++) {
                const f32x16 code = to_float((bytes >> (place * Bits)) & mask);
                store_lanes(to + (size_t)(token + place) * width + d, bring(code, token + place), count);
            }
        }
    }
}

template <class At>
inline void unpack(int bits, const uint8_t* codes, int tokens, int width, float* to, const At& at) {
    if (bits == 8) return unpack<8>(codes, tokens, width, to, at);
    bits == 4 ? unpack<4>(codes, tokens, width, to, at) : unpack<2>(codes, tokens, width, to, at);
}

// Floats that scales and lows of one group take, and all the memory a thread needs.
inline size_t scale_room(int width) { return (size_t)STRETCH * std::max(1, width / 8) + 2 * LANES; }
inline size_t few_bits_room(int width) { return sizeof(float) * (2 * (size_t)STRETCH * width + 2 * scale_room(width)); }

// One group as floats [group, width]; `room` is for its scales and lows.
inline void decode_group(const Groups& from, int group, float* to, float* room) {
    const FewBits& f = from.f;
    const int width = from.width, count = scales_of_group(f, width), share = f.share, parts = parts_of_token(f, width);
    float *scales = room, *lows = room + scale_room(width);
    to_floats(from.scale(group), count, scales);
    to_floats(from.low(group), count, lows);
    const auto go = [&](const auto& at) { unpack(f.bits, from.codes(group), f.group, width, to, at); };
    if (share == 0) {
        go([&](int d) { return [s = load(scales + d), l = load(lows + d)](const f32x16& x, int) { return x * s + l; }; });
    } else if (parts == 1 || share % LANES == 0) {  // sixteen channels have one scale
        go([&](int d) {
            return [s = scales + d / share, l = lows + d / share, parts](const f32x16& x, int token) { return x * s[token * parts] + l[token * parts]; };
        });
    } else {  // eight have: shares are whole multiples of that
        go([&](int d) {
            const int low = d / share, high = std::min((d + LANES / 2) / share, parts - 1);
            return [=](const f32x16& x, int token) {
                const float *s = scales + token * parts, *l = lows + token * parts;
                return choose(lane_numbers() < LANES / 2, x * s[low] + l[low], x * s[high] + l[high]);
            };
        });
    }
}

// Numbers that no half-precision scale can bound, if there were any.
struct Refused {
    bool any = false;
    float least = INFINITY, most = -INFINITY;

    void note(float low, float high) {
        any = true;
        if (low != low || high != high) least = most = NAN;
        least = low < least ? low : least, most = high > most ? high : most;
    }
};

// The bounds of numbers that share a scale: `low` and `scale` in half precision, and how to come from a number to its code.
struct Bounds {
    uint16_t low, scale;
    float base, inverse;

    // `wrong` is not 0 where one of the numbers is none or infinite.
    Bounds(float least, float most, float wrong, float codes, Refused& refused) {
        low = to_half(least), base = half_to_float(low);
        scale = to_half((most - base) / codes);
        const float step = half_to_float(scale);
        inverse = step > 0 ? 1 / step : 0;
        if (!(wrong == 0) || !std::isfinite(base) || !std::isfinite(step)) refused.note(wrong == 0 ? least : NAN, most);
    }
};

// Rounds the floats of one group; `room` holds [group, width].
inline void encode_group(const Groups& to, int slot, int head, int heads, int group, float* room, Refused& refused) {
    const FewBits& f = to.f;
    const int width = to.width, each = 8 / f.bits, parts = parts_of_token(f, width);
    const float codes = (float)((1 << f.bits) - 1);
    uint16_t *low = to.low(group), *scale = to.scale(group);
    const auto row = [&](int token) { return recent_of(f, slot, head, heads, width, group * f.group + token); };
    for (int d = 0; f.share == 0 && d < width; d += LANES) {
        const int count = lanes_from(d, width);
        f32x16 least = all(INFINITY), most = all(-INFINITY), wrong = {};
        for (int token = 0; token < f.group; token++) {
            const f32x16 x = load_lanes(row(token) + d, count);
            least = choose(x < least, x, least), most = choose(x > most, x, most), wrong = wrong + x * 0.0f;
        }
        float base[LANES] = {}, inverse[LANES] = {};
        for (int i = 0; i < count; i++) {
            const Bounds bounds(least[i], most[i], wrong[i], codes, refused);
            low[d + i] = bounds.low, scale[d + i] = bounds.scale, base[i] = bounds.base, inverse[i] = bounds.inverse;
        }
        for (int token = 0; token < f.group; token++)
            store_lanes(room + (size_t)token * width + d, (load_lanes(row(token) + d, count) - load(base)) * load(inverse), count);
    }
    for (int item = 0; item < f.group * parts; item++) {
        const int token = item / parts, first = item % parts * f.share;
        const float* x = row(token) + first;
        float least = INFINITY, most = -INFINITY, wrong = 0, *out = room + (size_t)token * width + first;
        for (int i = 0; i < f.share; i++) least = x[i] < least ? x[i] : least, most = x[i] > most ? x[i] : most, wrong += x[i] * 0.0f;
        const Bounds bounds(least, most, wrong, codes, refused);
        low[item] = bounds.low, scale[item] = bounds.scale;
        for (int i = 0; i < f.share; i++) out[i] = (x[i] - bounds.base) * bounds.inverse;
    }
    for (int d = 0; d < width; d += LANES) {
        const int count = lanes_from(d, width);
        for (int token = 0; token < f.group; token += each) {
            i32x16 bytes = {};
            for (int place = 0; place < each; place++) {
                f32x16 x = larger(load_lanes(room + (size_t)(token + place) * width + d, count), f32x16{});
                x = choose(x > codes, all(codes), x);
                bytes = bytes | (nearest(x) << (place * f.bits));
            }
            int8_t packed[LANES];
            store_bytes(packed, bytes);
            std::memcpy(to.codes(group) + (size_t)token / each * width + d, packed, count);
        }
    }
}

// A stretch in floats at a time. Keys and values are kept by one scheme (groups, window, ring) and differ in what shares a scale.
struct FewBitsCache {
    typedef float Weight;
    const FewBits *keys, *values;
    int slot, head, heads, width;
    float* room;             // `few_bits_room`
    int begin = -1, sees = 0;  // the stretch that is there, and how many of its tokens are there rounded

    // How many of the queries go over a stretch side by side; what they see of it is there afterwards. Queries come in order.
    int open(const Query* queries, int left, int stretch) {
        const auto rounded = [&](int i) { return std::min(std::max(rounded_of(*keys, queries[i].position + 1) - stretch, 0), STRETCH); };
        const int wanted = rounded(0);
        int count = 1;
        while (count < left && count < TOGETHER && rounded(count) == wanted) count++;
        if (stretch != begin) {
            begin = stretch, sees = 0;
            const int end = std::min(queries[left - 1].position + 1 - begin, STRETCH);
            for (int token = wanted; token < end; token++) {
                const size_t place = (size_t)token * width;
                std::memcpy(numbers(0) + place, recent_of(*keys, slot, head, heads, width, begin + token), sizeof(float) * width);
                std::memcpy(numbers(1) + place, recent_of(*values, slot, head, heads, width, begin + token), sizeof(float) * width);
            }
        }
        for (; sees < wanted; sees += keys->group) {
            decode_group(groups_of(*keys, slot, head, heads, width), (begin + sees) / keys->group, numbers(0) + (size_t)sees * width, scales());
            decode_group(groups_of(*values, slot, head, heads, width), (begin + sees) / keys->group, numbers(1) + (size_t)sees * width, scales());
        }
        return count;
    }

    template <int Count>
    void score(const Query* queries, int first, int end, float* weights) const {
        floats().score<Count>(queries, first - begin, end - begin, weights);
    }

    static f32x16 keep(float* weights, f32x16 x) { return FloatCache::keep(weights, x); }

    template <int Count, int Vectors, bool Some>
    void mix(int first, int end, const float* weights, int d, f32x16 (*sum)[WIDE]) const {
        floats().mix<Count, Vectors, Some>(first - begin, end - begin, weights, d, sum);
    }

  private:
    float* numbers(int which) const { return room + which * (size_t)STRETCH * width; }
    float* scales() const { return numbers(2); }
    FloatCache floats() const { return {numbers(0), numbers(1), width}; }
};

}  // namespace
}  // namespace steelyard
