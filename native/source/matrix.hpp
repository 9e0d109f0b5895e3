// How weights lie in memory: sixteen outputs side by side (a group), inputs one after the other, so that one load serves sixteen
// outputs and every way of keeping weights is read from front to back.
//
//   float32     per input: 16 floats
//   bfloat16    per 2 inputs: 16 pairs
//   channel8    per 4 inputs: 16 times 4 bytes; one scale for each output                        w = (byte - 128) * scale
//   blocks      per 32 inputs: 4 bits: 256 bytes (byte j of a lane holds inputs 8k + j % 4 in its low half and four further on in its
//               high half); 8 bits: 512 bytes; then the 16 scales of each 16 or 32 inputs, then the 16 minima where there are any
//                                                                                                 w = (q - zero) * scale + minimum
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

#include "numbers.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace steelyard {

constexpr int GROUP = 16;  // outputs side by side
constexpr int BLOCK = 32;  // inputs of a block
constexpr int ALIGN = 64;

enum class Kind : int32_t { float32 = 0, bfloat16 = 1, channel8 = 2, blocks = 3 };

// Memory at a cache line's start, zeroed by whoever needs it so.
struct Bytes {
    uint8_t* data = nullptr;
    size_t size = 0;

    explicit Bytes(size_t wanted = 0) : size((wanted + ALIGN - 1) / ALIGN * ALIGN) {
        if (size == 0) return;
        void* place = nullptr;
        if (posix_memalign(&place, ALIGN, size) != 0) throw std::bad_alloc();
        data = (uint8_t*)place;
    }
    ~Bytes() { std::free(data); }
    Bytes(Bytes&& other) noexcept : data(other.data), size(other.size) { other.data = nullptr, other.size = 0; }
    Bytes& operator=(Bytes&& other) noexcept {
        std::swap(data, other.data);
        std::swap(size, other.size);
        return *this;
    }
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;
};

// Weights, which are read from front to back at every step: one after the other in large areas of huge pages where the system has
// them, since each small page would cost a look into its tables. An area goes when the last weights in it do.
struct Weights {
    uint8_t* data = nullptr;
    size_t size = 0;

    explicit Weights(size_t wanted = 0) : size((wanted + ALIGN - 1) / ALIGN * ALIGN) {
        if (size == 0) return;
        static std::mutex mutex;
        static std::weak_ptr<Area> open;
        std::lock_guard<std::mutex> lock(mutex);
        area_ = open.lock();
        if (area_ == nullptr || area_->used + size > area_->size) open = area_ = std::make_shared<Area>(size);
        data = area_->start + area_->used;
        area_->used += size;
    }

  private:
    struct Area {
        static constexpr size_t huge = 2u << 20, usual = 16 * huge;
        uint8_t* start;
        size_t size, used = 0;

        explicit Area(size_t least) : size(least > usual ? (least + huge - 1) / huge * huge : usual) {
            void* place = nullptr;
            if (posix_memalign(&place, huge, size) != 0) throw std::bad_alloc();
            start = (uint8_t*)place;
#if defined(__linux__)
            madvise(start, size, MADV_HUGEPAGE);
#endif
        }
        ~Area() { std::free(start); }
        Area(const Area&) = delete;
        Area& operator=(const Area&) = delete;
    };
    std::shared_ptr<Area> area_;
};

struct Matrix {
    Kind kind;
    int outputs, inputs;
    int groups, blocks;       // of 16 outputs; of 32 inputs
    int bits = 8;             // blocks: 4 or 8
    int zero = 0;             // blocks: the integer that stands for 0
    int per_scale = BLOCK;    // blocks: inputs that share a scale, 16 or 32
    bool wide = true;         // blocks: scales are float32, not half precision
    bool minima = false;      // blocks: whether there are any
    int digits = 1;           // channel8: activations in 8 bits, or twice 8
    size_t block_bytes = 0;   // blocks: of a group
    size_t group_bytes = 0;
    Weights data;
    Bytes scale;              // channel8: float32 [groups * 16]
    Bytes bias;               // float32 [groups * 16], or empty

    Matrix(Kind kind, int outputs, int inputs)
        : kind(kind), outputs(outputs), inputs(inputs), groups((outputs + GROUP - 1) / GROUP), blocks((inputs + BLOCK - 1) / BLOCK) {}

    int scales_per_block() const { return BLOCK / per_scale; }
    const uint8_t* group(int number) const { return data.data + group_bytes * number; }
    const float* bias_of(int group) const { return bias.size ? (const float*)bias.data + group * GROUP : nullptr; }
    size_t bytes() const { return data.size + scale.size + bias.size; }

    void set_bias(const float* from) {
        if (from == nullptr) return;
        bias = Bytes(sizeof(float) * groups * GROUP);
        std::memset(bias.data, 0, bias.size);
        std::memcpy(bias.data, from, sizeof(float) * outputs);
    }

    void allocate() {
        data = Weights(group_bytes * groups);
        std::memset(data.data, 0, data.size);
    }
};

// Goes over numbers [outputs, inputs] so that little memory is touched at a time: a line of a row after that of the row before, group by
// group. put(group, lane, first input, how many, where they begin)
template <class Number, class Put>
inline void by_lines(const Number* from, int outputs, int inputs, const Put& put) {
    constexpr int line = ALIGN / sizeof(Number);
    for (int first = 0; first < outputs; first += GROUP)
        for (int i = 0; i < inputs; i += line)
            for (int o = first; o < std::min(first + GROUP, outputs); o++)
                put(first / GROUP, o % GROUP, i, std::min(line, inputs - i), from + (size_t)o * inputs + i);
}

// From float32 [outputs, inputs].
inline Matrix* pack_float32(const float* from, int outputs, int inputs) {
    auto* m = new Matrix(Kind::float32, outputs, inputs);
    m->group_bytes = sizeof(float) * GROUP * (size_t)m->blocks * BLOCK;
    m->allocate();
    by_lines(from, outputs, inputs, [&](int group, int lane, int first, int count, const float* some) {
        float* to = (float*)(m->data.data + m->group_bytes * group) + (size_t)first * GROUP + lane;
        for (int i = 0; i < count; i++) to[i * GROUP] = some[i];
    });
    return m;
}

// From bfloat16 [outputs, inputs].
inline Matrix* pack_bfloat16(const uint16_t* from, int outputs, int inputs) {
    auto* m = new Matrix(Kind::bfloat16, outputs, inputs);
    m->group_bytes = sizeof(uint16_t) * GROUP * (size_t)m->blocks * BLOCK;
    m->allocate();
    by_lines(from, outputs, inputs, [&](int group, int lane, int first, int count, const uint16_t* some) {
        uint16_t* to = (uint16_t*)(m->data.data + m->group_bytes * group) + (size_t)first * GROUP + lane * 2;
        for (int i = 0; i + 1 < count; i += 2) std::memcpy(to + i * GROUP, some + i, sizeof(uint32_t));
        if (count % 2) to[(count - 1) * GROUP] = some[count - 1];
    });
    return m;
}

// From int8 [outputs, inputs] and float32 scales [outputs]. Padding stands for 0.
inline Matrix* pack_channel8(const int8_t* from, const float* scale, int outputs, int inputs, int digits) {
    auto* m = new Matrix(Kind::channel8, outputs, inputs);
    m->zero = 128;
    m->digits = digits;
    m->group_bytes = (size_t)GROUP * m->blocks * BLOCK;
    m->allocate();
    std::memset(m->data.data, 128, m->data.size);
    m->scale = Bytes(sizeof(float) * m->groups * GROUP);
    std::memset(m->scale.data, 0, m->scale.size);
    std::memcpy(m->scale.data, scale, sizeof(float) * outputs);
    for (int o = 0; o < outputs; o++) {
        uint8_t* group = m->data.data + m->group_bytes * (o / GROUP);
        for (int i = 0; i < inputs; i++) group[(size_t)(i / 4) * 4 * GROUP + o % GROUP * 4 + i % 4] = (uint8_t)(from[(size_t)o * inputs + i] + 128);
    }
    return m;
}

// From integers uint8 [outputs, inputs] (0..15 for 4 bits) and scales, minima [outputs, inputs / per_scale], either of 16-bit half
// precision or float32. `inputs` is a multiple of 32.
inline Matrix* pack_blocks(const uint8_t* from, const void* scales, const void* minima, int outputs, int inputs, int bits, int zero,
                           int per_scale, bool wide) {
    auto* m = new Matrix(Kind::blocks, outputs, inputs);
    m->bits = bits, m->zero = zero, m->per_scale = per_scale, m->wide = wide, m->minima = minima != nullptr;
    const size_t each = wide ? 4 : 2, integers = (size_t)GROUP * BLOCK * bits / 8, row = each * GROUP;
    const int shares = m->scales_per_block();
    m->block_bytes = integers + row * shares * (m->minima ? 2 : 1);
    m->group_bytes = m->block_bytes * m->blocks;
    m->allocate();
    for (int o = 0; o < outputs; o++) {
        const int lane = o % GROUP;
        for (int b = 0; b < m->blocks; b++) {
            uint8_t* block = m->data.data + m->group_bytes * (o / GROUP) + m->block_bytes * b;
            const uint8_t* q = from + (size_t)o * inputs + (size_t)b * BLOCK;
            for (int i = 0; bits == 4 && i < BLOCK; i += 8)
                for (int k = 0; k < 4; k++) block[i / 8 * 64 + lane * 4 + k] = (uint8_t)((q[i + k] & 15) | (q[i + 4 + k] & 15) << 4);
            for (int i = 0; bits == 8 && i < BLOCK; i += 4) std::memcpy(block + i / 4 * 64 + lane * 4, q + i, 4);
            for (int s = 0; s < shares; s++) {
                const size_t place = ((size_t)o * m->blocks + b) * shares + s;
                std::memcpy(block + integers + row * s + each * lane, (const uint8_t*)scales + each * place, each);
                if (minima) std::memcpy(block + integers + row * (shares + s) + each * lane, (const uint8_t*)minima + each * place, each);
            }
        }
    }
    return m;
}

// The weights of one output as floats [inputs], the inverse of packing.
inline void unpack_row(const Matrix& m, int output, float* to) {
    const uint8_t* group = m.group(output / GROUP);
    const int lane = output % GROUP;
    if (m.kind == Kind::float32) {
        for (int i = 0; i < m.inputs; i++) to[i] = ((const float*)group)[(size_t)i * GROUP + lane];
    } else if (m.kind == Kind::bfloat16) {
        for (int i = 0; i < m.inputs; i++) to[i] = from_bfloat16(((const uint16_t*)group)[(size_t)(i / 2) * 2 * GROUP + lane * 2 + i % 2]);
    } else if (m.kind == Kind::channel8) {
        const float scale = ((const float*)m.scale.data)[output];
        for (int i = 0; i < m.inputs; i++) to[i] = (float)((int)group[(size_t)(i / 4) * 4 * GROUP + lane * 4 + i % 4] - m.zero) * scale;
    } else {
        const int shares = m.scales_per_block(), each = m.wide ? 4 : 2;
        const size_t integers = (size_t)GROUP * BLOCK * m.bits / 8, row = (size_t)each * GROUP;
        for (int b = 0; b < m.blocks; b++) {
            const uint8_t* block = group + m.block_bytes * b;
            const auto number = [&](int place) {
                const uint8_t* from = block + integers + row * place + (size_t)each * lane;
                float wide;
                uint16_t half;
                if (m.wide) return std::memcpy(&wide, from, sizeof wide), wide;
                return std::memcpy(&half, from, sizeof half), half_to_float(half);
            };
            for (int i = 0; i < BLOCK; i++) {
                const int share = i / m.per_scale;
                const uint8_t byte = m.bits == 4 ? block[i / 8 * 64 + lane * 4 + i % 4] : block[i / 4 * 64 + lane * 4 + i % 4];
                const int q = m.bits == 4 ? (i % 8 < 4 ? byte & 15 : byte >> 4) : byte;
                to[b * BLOCK + i] = (float)(q - m.zero) * number(share) + (m.minima ? number(shares + share) : 0.0f);
            }
        }
    }
}

}  // namespace steelyard
