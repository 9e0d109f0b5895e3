// Activations in the forms products want: float32, bfloat16, 8 bits for each 32 numbers, or one or two digits of 8 bits for each row.
#pragma once

#include <cmath>

#include "matrix.hpp"
#include "vectors.hpp"

namespace steelyard {
namespace {

// Room for `count` rows of `width` numbers in every form; padding up to a multiple of 32 stays zero.
struct Rows {
    int count, width, padded, blocks;
    Bytes f32, bf16, bytes, scale, sums, first, second, row_scale, row_sums;

    Rows(int count, int width)
        : count(count), width(width), padded((width + BLOCK - 1) / BLOCK * BLOCK), blocks(padded / BLOCK),
          f32(sizeof(float) * count * padded), bf16(sizeof(uint16_t) * count * padded), bytes((size_t)count * padded),
          scale(sizeof(float) * count * blocks), sums(sizeof(int32_t) * 2 * count * blocks), first((size_t)count * padded),
          second((size_t)count * padded), row_scale(sizeof(float) * 2 * count), row_sums(sizeof(int32_t) * 2 * count) {
        for (Bytes* each : {&f32, &bf16, &bytes, &scale, &sums, &first, &second, &row_scale, &row_sums})
            if (each->size) std::memset(each->data, 0, each->size);
    }

    float* row(int r) { return (float*)f32.data + (size_t)r * padded; }
    const float* row(int r) const { return (const float*)f32.data + (size_t)r * padded; }
    const uint16_t* narrow(int r) const { return (const uint16_t*)bf16.data + (size_t)r * padded; }
    const int8_t* eight(int r) const { return (const int8_t*)bytes.data + (size_t)r * padded; }
    const float* scales(int r) const { return (const float*)scale.data + (size_t)r * blocks; }
    const int32_t* halves(int r) const { return (const int32_t*)sums.data + (size_t)r * blocks * 2; }
    const int8_t* digit(int r, int number) const { return (const int8_t*)(number ? second : first).data + (size_t)r * padded; }

    // Brings row r, whose floats are in place, into the form a matrix wants.
    void prepare(int r, const Matrix& matrix) {
        if (matrix.kind == Kind::bfloat16) to_bf16(r);
        if (matrix.kind == Kind::blocks) to_blocks(r);
        if (matrix.kind == Kind::channel8) to_digits(r, matrix.digits);
    }

  private:
    // A row's floats are padded with zeros, so whole vectors are read and written throughout.
    void to_bf16(int r) {
        const float* x = row(r);
        uint16_t* out = (uint16_t*)bf16.data + (size_t)r * padded;
        for (int i = 0; i < padded; i += LANES) store_bfloat16(out + i, load(x + i));
    }

    // x = byte * scale, scale = max|x| / 127 over 32 numbers; the sums of each 16 bytes serve offsets and minima.
    void to_blocks(int r) {
        const float* x = row(r);
        int8_t* out = (int8_t*)bytes.data + (size_t)r * padded;
        float* scales = (float*)scale.data + (size_t)r * blocks;
        int32_t* sum = (int32_t*)sums.data + (size_t)r * blocks * 2;
        for (int b = 0; b < blocks; b++) {
            const f32x16 first = load(x + b * BLOCK), second = load(x + b * BLOCK + LANES);
            const float most = largest_of(larger(absolute(first), absolute(second)));
            const float inverse = most > 0 ? 127 / most : 0;
            const i32x16 low = nearest(first * inverse), high = nearest(second * inverse);
            store_bytes(out + b * BLOCK, low);
            store_bytes(out + b * BLOCK + LANES, high);
            scales[b] = most / 127;
            sum[2 * b] = sum_of(low), sum[2 * b + 1] = sum_of(high);
        }
    }

    // x = first * scale + second * scale / 254, as in steelyard/model/linears/int8.py.
    void to_digits(int r, int digits) {
        const float* x = row(r);
        int8_t* out[2] = {(int8_t*)first.data + (size_t)r * padded, (int8_t*)second.data + (size_t)r * padded};
        f32x16 largest = {};
        for (int i = 0; i < padded; i += LANES) largest = larger(absolute(load(x + i)), largest);
        constexpr float least = 1.17549435e-38f;
        const float coarse = std::fmax(largest_of(largest) / 127, least), fine = std::fmax(coarse / 254, least);
        i32x16 sum[2] = {};
        for (int i = 0; i < padded; i += LANES) {
            const i32x16 q = nearest(load(x + i) / coarse);
            store_bytes(out[0] + i, q);
            sum[0] = sum[0] + q;
            if (digits == 2) {
                f32x16 rest = (load(x + i) - to_float(q) * coarse) / fine;
                rest = choose(rest < all(-127.0f), all(-127.0f), choose(rest > all(127.0f), all(127.0f), rest));
                const i32x16 finer = nearest(rest);
                store_bytes(out[1] + i, finer);
                sum[1] = sum[1] + finer;
            }
        }
        float* scales = (float*)row_scale.data + 2 * r;
        scales[0] = coarse, scales[1] = fine;
        int32_t* totals = (int32_t*)row_sums.data + 2 * r;
        totals[0] = sum_of(sum[0]), totals[1] = sum_of(sum[1]);
    }
};

}  // namespace
}  // namespace steelyard
