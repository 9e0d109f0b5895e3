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
        for (Bytes* each : {&f32, &bf16, &bytes, &scale, &sums, &first, &second, &row_scale, &row_sums}) std::memset(each->data, 0, each->size);
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
    void to_bf16(int r) {
        const float* x = row(r);
        uint16_t* out = (uint16_t*)bf16.data + (size_t)r * padded;
        for (int i = 0; i < width; i++) out[i] = to_bfloat16(x[i]);
    }

    // x = byte * scale, scale = max|x| / 127 over 32 numbers; the sums of each 16 bytes serve offsets and minima.
    void to_blocks(int r) {
        const float* x = row(r);
        int8_t* out = (int8_t*)bytes.data + (size_t)r * padded;
        for (int b = 0; b < blocks; b++) {
            float most = 0;
            for (int i = 0; i < BLOCK; i++) most = std::fmax(most, std::fabs(x[b * BLOCK + i]));
            const float scale = most / 127, inverse = most > 0 ? 127 / most : 0;
            int32_t sum[2] = {0, 0};
            for (int i = 0; i < BLOCK; i++) {
                const int8_t q = (int8_t)nearest(x[b * BLOCK + i] * inverse);
                out[b * BLOCK + i] = q;
                sum[i / 16] += q;
            }
            ((float*)this->scale.data)[(size_t)r * blocks + b] = scale;
            std::memcpy((int32_t*)sums.data + ((size_t)r * blocks + b) * 2, sum, sizeof sum);
        }
    }

    // x = first * scale + second * scale / 254, as in steelyard/model/linears/int8.py.
    void to_digits(int r, int digits) {
        const float* x = row(r);
        int8_t* out[2] = {(int8_t*)first.data + (size_t)r * padded, (int8_t*)second.data + (size_t)r * padded};
        float most = 0;
        for (int i = 0; i < width; i++) most = std::fmax(most, std::fabs(x[i]));
        constexpr float least = 1.17549435e-38f;
        const float coarse = std::fmax(most / 127, least), fine = std::fmax(coarse / 254, least);
        int32_t sum[2] = {0, 0};
        for (int i = 0; i < width; i++) {
            const float q = nearest(x[i] / coarse);
            out[0][i] = (int8_t)q;
            sum[0] += (int32_t)q;
            if (digits == 2) {
                const float rest = std::fmin(std::fmax(nearest((x[i] - q * coarse) / fine), -127.0f), 127.0f);
                out[1][i] = (int8_t)rest;
                sum[1] += (int32_t)rest;
            }
        }
        float* scales = (float*)row_scale.data + 2 * r;
        scales[0] = coarse, scales[1] = fine;
        std::memcpy((int32_t*)row_sums.data + 2 * r, sum, sizeof sum);
    }

    // Rounds halves to even, like PyTorch; not a number becomes 0, so that the conversion to a byte stays defined.
    static float nearest(float x) { return x == x ? std::nearbyint(x) : 0.0f; }
};

}  // namespace
}  // namespace steelyard
