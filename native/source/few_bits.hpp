// Keys and values in few bits, as steelyard/generate/states/quantized.py keeps them: tokens behind a window as codes, later ones in floats.
//   x = code * scale + low
// Numbers that share a scale as the cache's settings have it (keys by channel, values by sixteen channels or more) are multiplied as
// codes, scales and lows being taken into the other factor, once for all numbers that share them:
//   q . k = sum_d (q_d scale_d) code_d + sum_d q_d low_d;     sum_t w_t v_t = sum_t (w_t scale_t) code_t + sum_t w_t low_t
// Those that do not are brought into floats in memory of the thread's own, which stays in the processor's caches, product and sum apart as
// PyTorch's path does it, and multiplied there like recent ones. What a query sees rounded depends on its position alone; queries that
// see the same go over a stretch side by side.
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

// Whether keys and values are multiplied as codes.
inline bool keys_as_codes(const FewBits& f) { return f.share == 0; }
inline bool values_as_codes(const FewBits& f, int width) { return f.share > 0 && (f.share % LANES == 0 || f.share == width); }

// Floats that scales and lows of one group take, and all the memory a thread needs: a stretch of keys and of values, scales and lows of a
// group and of a stretch, and queries or weights with scales taken into them.
inline size_t scale_room(int width) { return (size_t)STRETCH * std::max(1, width / 8) + 2 * LANES; }
inline size_t folded_room(int width) { return TOGETHER * std::max(scale_room(width), (size_t)padded_width(width)); }
inline size_t few_bits_room(int width) { return sizeof(float) * (2 * (size_t)STRETCH * width + 4 * scale_room(width) + folded_room(width)); }

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

constexpr int CODES_AHEAD = 4096;  // bytes: how far ahead of where they are needed codes are asked for
constexpr int LINE = 64;           // bytes that come from memory at once

// Sixteen channels of as many tokens as share bytes (`8 / Bits`), as codes.
template <int Bits>
inline void codes_at(const uint8_t* row, int count, f32x16* x) {
    constexpr int each = 8 / Bits, mask = (1 << Bits) - 1;
    uint8_t some[LANES] = {};
    if (count < LANES) std::memcpy(some, row, count);
    const i32x16 bytes = widened_bytes(count < LANES ? some : row);
    for (int place = 0; place < each; place++) x[place] = to_float(each == 1 ? bytes : (bytes >> (place * Bits)) & mask);
}

// A stretch at a time. Keys and values are kept by one scheme (groups, window, ring) and differ in what shares a scale.
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
            for (float* part : {value_scales(), value_lows()}) std::memset(part, 0, sizeof(float) * STRETCH * parts_of_token(*values, width));
            const int end = std::min(queries[left - 1].position + 1 - begin, STRETCH);
            for (int token = wanted; token < end; token++) {
                const size_t place = (size_t)token * width;
                std::memcpy(numbers(0) + place, recent_of(*keys, slot, head, heads, width, begin + token), sizeof(float) * width);
                std::memcpy(numbers(1) + place, recent_of(*values, slot, head, heads, width, begin + token), sizeof(float) * width);
            }
        }
        for (; sees < wanted; sees += keys->group) {
            const int group = (begin + sees) / keys->group;
            if (!keys_as_codes(*keys)) decode_group(kept(keys), group, numbers(0) + (size_t)sees * width, scales());
            if (values_as_codes(*values, width)) read_scales(group);
            else decode_group(kept(values), group, numbers(1) + (size_t)sees * width, scales());
        }
        return count;
    }

    template <int Count>
    void score(const Query* queries, int first, int end, float* weights) const {
        const int count = end - first, coded = keys_as_codes(*keys) ? std::min(sees, count) : 0;
        if (coded == 0) return floats().score<Count>(queries, 0, count, weights);
        by_bits(*keys, [&](auto bits) { score_codes<bits(), Count>(queries, coded, weights); });
        if (coded == count) return;
        float recent[Count * STRETCH + LANES];
        floats().score<Count>(queries, coded, count, recent);
        for (int i = 0; i < Count; i++) std::memcpy(weights + i * STRETCH + coded, recent + i * STRETCH, sizeof(float) * (count - coded));
    }

    static f32x16 keep(float* weights, f32x16 x) { return FloatCache::keep(weights, x); }

    template <int Count, int Vectors, bool Some>
    void mix(int first, int end, const float* weights, int d, f32x16 (*sum)[WIDE]) const {
        const int count = end - first, coded = values_as_codes(*values, width) ? std::min(sees, count) : 0;
        if (coded > 0) by_bits(*values, [&](auto bits) { mix_codes<bits(), Count, Vectors>(coded, weights, d, sum); });
        floats().mix<Count, Vectors, Some>(coded, count, weights + coded, d, sum);
    }

  private:
    float* numbers(int which) const { return room + which * (size_t)STRETCH * width; }
    float* scales() const { return numbers(2); }
    float* value_scales() const { return scales() + 2 * scale_room(width); }  // [parts, STRETCH]
    float* value_lows() const { return value_scales() + scale_room(width); }
    float* folded() const { return value_lows() + scale_room(width); }
    FloatCache floats() const { return {numbers(0), numbers(1), width}; }
    Groups kept(const FewBits* f) const { return groups_of(*f, slot, head, heads, width); }

    template <class Go>
    static void by_bits(const FewBits& f, const Go& go) {
        if (f.bits == 8) go(std::integral_constant<int, 8>());
        else if (f.bits == 4) go(std::integral_constant<int, 4>());
        else go(std::integral_constant<int, 2>());
    }

    // Scales and lows of one group's values, each part's tokens side by side.
    void read_scales(int group) {
        const int count = scales_of_group(*values, width), parts = parts_of_token(*values, width), at = group * values->group - begin;
        for (const bool low : {false, true}) {
            to_floats(low ? kept(values).low(group) : kept(values).scale(group), count, scales());
            float* to = (low ? value_lows() : value_scales()) + at;
            if (parts == 2) apart<2>(scales(), to, 2);
            else apart<0>(scales(), to, parts);
        }
    }

    // `Parts`: how many, where the compiler is to know it, else 0.
    template <int Parts>
    void apart(const float* from, float* to, int parts) const {
        const int each = Parts ? Parts : parts;
        for (int part = 0; part < each; part++)
            for (int token = 0; token < values->group; token++) to[(size_t)part * STRETCH + token] = from[token * each + part];
    }

    // Scores of the stretch's first `count` keys, which are whole groups.
    template <int Bits, int Count>
    void score_codes(const Query* queries, int count, float* weights) const {
        constexpr int at_once = std::max(8 / Bits, REGISTER == 64 ? 4 : 2);
        const int group = keys->group;
        for (int first = 0; first < count; first += group) {
            const Groups from = kept(keys);
            const int number = (begin + first) / group;
            float constants[Count];
            fold_queries<Count>(queries, from, number, constants);
            for (int token = 0; token < group; token += LANES) {
                const int here = std::min(LANES, group - token);
                f32x16 sums[Count][LANES];
                for (int i = 0; i < Count; i++)
                    for (int j = here; j < LANES; j++) sums[i][j] = f32x16{};
                for (int j = 0; j < here; j += at_once) {
                    const uint8_t* row = from.codes(number) + (size_t)(token + j) * Bits / 8 * width;
                    if (width == 64) dots<Bits, Count, at_once, 64>(row, sums, j);
                    else dots<Bits, Count, at_once, 0>(row, sums, j);
                }
                for (int i = 0; i < Count; i++) store_lanes(weights + i * STRETCH + first + token, sums_of(sums[i]) + constants[i], here);
            }
        }
    }

    // Queries with one group's scales taken in, and what its lows add to each of their scores.
    template <int Count>
    void fold_queries(const Query* queries, const Groups& from, int group, float* constants) const {
        float *scale = scales(), *low = scales() + scale_room(width);
        const int room_of_one = padded_width(width);
        to_floats(from.scale(group), width, scale);
        to_floats(from.low(group), width, low);
        f32x16 sums[Count] = {};
        for (int d = 0; d < width; d += LANES) {
            const f32x16 s = load(scale + d), l = load(low + d);
            for (int i = 0; i < Count; i++) {
                const f32x16 q = load(queries[i].q + d);
                store(folded() + i * room_of_one + d, q * s);
                sums[i] = multiply_add(q, l, sums[i]);
            }
        }
        for (int i = 0; i < Count; i++) constants[i] = sum_of(sums[i]);
    }

    // Sixteen partial sums of each query's product with `Tokens` keys. `Width`: a head's, where the compiler is to know it, else 0.
    template <int Bits, int Count, int Tokens, int Width>
    void dots(const uint8_t* codes, f32x16 (*sums)[LANES], int place) const {
        constexpr int each = 8 / Bits;
        const int width = Width ? Width : this->width, room_of_one = padded_width(width);
        const float* q = folded();
        f32x16 own[Count][Tokens];
        for (int i = 0; i < Count; i++)
            for (int j = 0; j < Tokens; j++) own[i][j] = f32x16{};
        for (int d = 0; d < width; d += LANES) {
            f32x16 x[Tokens];
            for (int j = 0; j < Tokens; j += each) {
                const uint8_t* row = codes + (size_t)(j / each) * width + d;
                if (d % LINE == 0) __builtin_prefetch(row + CODES_AHEAD);
                codes_at<Bits>(row, lanes_from(d, width), x + j);
            }
            for (int i = 0; i < Count; i++) {
                const f32x16 some = load(q + i * room_of_one + d);
                for (int j = 0; j < Tokens; j++) own[i][j] = multiply_add(x[j], some, own[i][j]);
            }
        }
        for (int i = 0; i < Count; i++)
            for (int j = 0; j < Tokens; j++) sums[i][place + j] = own[i][j];
    }

    // Adds what the stretch's first `count` values give in the channels from d on.
    template <int Bits, int Count, int Vectors>
    void mix_codes(int count, const float* weights, int d, f32x16 (*sum)[WIDE]) const {
        constexpr int each = 8 / Bits;
        const int share = values->share, first = d / share, parts = (d + (Vectors - 1) * LANES) / share - first + 1;
        const float* part_of[Vectors];  // of each vector, the first query's weights with the scales taken in
        for (int j = 0; j < Vectors; j++) part_of[j] = folded() + (size_t)((d + j * LANES) / share - first) * STRETCH;
        const size_t query = (size_t)parts * STRETCH;
        for (int i = 0; i < Count; i++) {
            float constants[Vectors];
            for (int part = 0; part < parts; part++) {
                const size_t at = (size_t)(first + part) * STRETCH;
                f32x16 total = {};
                for (int token = 0; token < count; token += LANES) {
                    const f32x16 weight = load(weights + i * STRETCH + token);
                    store(folded() + i * query + (size_t)part * STRETCH + token, weight * load(value_scales() + at + token));
                    total = multiply_add(weight, load(value_lows() + at + token), total);
                }
                constants[part] = sum_of(total);
            }
            for (int j = 0; j < Vectors; j++) sum[i][j] = sum[i][j] + constants[(d + j * LANES) / share - first];
        }
        const uint8_t* codes = kept(values).codes(begin / values->group) + d;
        for (int token = 0; token < count; token += each, codes += width) {
            f32x16 x[Vectors][each];
            __builtin_prefetch(codes + CODES_AHEAD);
            for (int j = 0; j < Vectors; j++) codes_at<Bits>(codes + j * LANES, Vectors > 1 ? LANES : lanes_from(d, width), x[j]);
            for (int i = 0; i < Count; i++)
                for (int j = 0; j < Vectors; j++)
                    for (int place = 0; place < each; place++)
                        sum[i][j] = multiply_add(x[j][place], all(part_of[j][i * query + token + place]), sum[i][j]);
        }
    }
};

}  // namespace
}  // namespace steelyard
