// The C interface as a program sees it, random numbers, and comparisons that say what differed.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../source/api.hpp"

extern "C" {
const steelyard::Routines* sy_routines(const char*);
steelyard::Pool* sy_pool(int32_t);
void sy_pool_end(steelyard::Pool*);
steelyard::Matrix* sy_matrix_float32(const float*, int32_t, int32_t);
steelyard::Matrix* sy_matrix_bfloat16(const uint16_t*, int32_t, int32_t);
steelyard::Matrix* sy_matrix_channel8(const int8_t*, const float*, int32_t, int32_t, int32_t);
steelyard::Matrix* sy_matrix_blocks(const uint8_t*, const void*, const void*, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t);
int32_t sy_matrix_bias(steelyard::Matrix*, const float*);
void sy_matrix_end(steelyard::Matrix*);
int32_t sy_linear(const steelyard::Routines*, steelyard::Pool*, const steelyard::Matrix*, const float*, int32_t, float*);
int32_t sy_step(const steelyard::Routines*, steelyard::Pool*, const steelyard::Model*, const steelyard::Tokens*, float*);
int32_t sy_head(const steelyard::Routines*, steelyard::Pool*, const steelyard::Head*, const steelyard::Matrix*, const float*);
int32_t sy_convolution(const steelyard::Routines*, steelyard::Pool*, const steelyard::Convolution*);
int32_t sy_convolution_back(const steelyard::Routines*, steelyard::Pool*, const steelyard::Convolution*, const steelyard::ConvolutionGradients*);
int32_t sy_scan(const steelyard::Routines*, steelyard::Pool*, const steelyard::Scan*);
int32_t sy_scan_back(const steelyard::Routines*, steelyard::Pool*, const steelyard::Scan*, const steelyard::ScanGradients*);
}

typedef std::vector<float> Floats;

inline int failures = 0, comparisons = 0;

inline void expect(bool holds, const std::string& what) {
    comparisons++;
    if (holds) return;
    if (++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}

struct Random {
    std::mt19937 source;
    explicit Random(unsigned seed) : source(seed) {}

    int whole(int least, int most) { return std::uniform_int_distribution<int>(least, most)(source); }
    bool coin() { return whole(0, 1) == 1; }
    Floats normal(size_t count, float spread = 1) {
        std::normal_distribution<float> draw(0, spread);
        Floats out(count);
        for (float& x : out) x = draw(source);
        return out;
    }
};

inline bool same_bits(const Floats& a, const Floats& b) { return std::memcmp(a.data(), b.data(), sizeof(float) * a.size()) == 0; }

// Whether each number of `a` is within `tolerance` times the largest of `b` from that of `b`.
inline bool close(const Floats& a, const Floats& b, float tolerance) {
    float most = 1e-3f;
    for (float x : b) most = std::fmax(most, std::fabs(x));
    for (size_t i = 0; i < a.size(); i++)
        if (!(std::fabs(a[i] - b[i]) <= tolerance * most)) return false;
    return true;
}

// How far the numbers of `a` are from those of `b` in the mean, as a share of the mean size of those.
inline float mean_off(const Floats& a, const Floats& b) {
    double off = 0, size = 1e-9;
    for (size_t i = 0; i < a.size(); i++) off += std::fabs(a[i] - b[i]), size += std::fabs(b[i]);
    return (float)(off / size);
}
