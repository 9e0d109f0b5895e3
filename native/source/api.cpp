// The C interface: what Python calls through ctypes. Nothing throws across it; a null pointer or a non-zero status means "no memory".
#include "api.hpp"

#include <cstring>
#include <new>

#define EXPORT extern "C" __attribute__((visibility("default")))

#if defined(SY_HAS_avx2)
#include <cpuid.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace steelyard {
#if defined(SY_HAS_avx512)
extern const Routines routines_avx512;
#endif
#if defined(SY_HAS_avx2)
extern const Routines routines_avx2;
#endif
#if defined(SY_HAS_i8mm)
extern const Routines routines_i8mm;
#endif
#if defined(SY_HAS_dotprod)
extern const Routines routines_dotprod;
#endif
#if defined(SY_HAS_neon)
extern const Routines routines_neon;
#endif
extern const Routines routines_portable;

namespace {

#if defined(__aarch64__)
enum class Feature { dotprod, i8mm };

// Whether this processor has what not every one of its kind has. Where nobody can be asked, it does not.
bool has(Feature feature) {
#if defined(__linux__)  // bits of the kernel's interface (asm/hwcap.h), which never change
    return feature == Feature::dotprod ? getauxval(AT_HWCAP) >> 20 & 1 : getauxval(AT_HWCAP2) >> 13 & 1;
#elif defined(__APPLE__)
    int value = 0;
    size_t size = sizeof value;
    const char* name = feature == Feature::dotprod ? "hw.optional.arm.FEAT_DotProd" : "hw.optional.arm.FEAT_I8MM";
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
#else
    return false;
#endif
}
#endif

#if defined(SY_HAS_avx2)
// F16C. Not every compiler's __builtin_cpu_supports knows that name (Clang 14 does not).
bool converts_halves() {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

const Routines* usable(const char* name) {
#if defined(SY_HAS_avx512)
    if (std::strcmp(name, "avx512") == 0 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") &&
        __builtin_cpu_supports("avx512bf16"))
        return &routines_avx512;
#endif
#if defined(SY_HAS_avx2)
    if (std::strcmp(name, "avx2") == 0 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && converts_halves())
        return &routines_avx2;
#endif
#if defined(SY_HAS_i8mm)
    if (std::strcmp(name, "i8mm") == 0 && has(Feature::i8mm) && has(Feature::dotprod)) return &routines_i8mm;
#endif
#if defined(SY_HAS_dotprod)
    if (std::strcmp(name, "dotprod") == 0 && has(Feature::dotprod)) return &routines_dotprod;
#endif
#if defined(SY_HAS_neon)
    if (std::strcmp(name, "neon") == 0) return &routines_neon;
#endif
    return std::strcmp(name, "portable") == 0 ? &routines_portable : nullptr;
}

template <class Make>
auto guarded(Make make) -> decltype(make()) {
    try {
        return make();
    } catch (const std::bad_alloc&) {
        return {};
    }
}

}  // namespace
}  // namespace steelyard

using namespace steelyard;

EXPORT int32_t sy_version() { return 8; }

// The routines for an instruction set (avx512, avx2, i8mm, dotprod, neon, portable), or null where this machine or build lacks it.
EXPORT const Routines* sy_routines(const char* name) { return usable(name); }

EXPORT Pool* sy_pool(int32_t threads) {
    try {
        return new Pool(threads);
    } catch (const std::exception&) {  // no memory, or no more threads
        return nullptr;
    }
}

EXPORT void sy_pool_end(Pool* pool) { delete pool; }

EXPORT Matrix* sy_matrix_float32(const float* weights, int32_t outputs, int32_t inputs) {
    return guarded([&] { return pack_float32(weights, outputs, inputs); });
}

EXPORT Matrix* sy_matrix_bfloat16(const uint16_t* weights, int32_t outputs, int32_t inputs) {
    return guarded([&] { return pack_bfloat16(weights, outputs, inputs); });
}

EXPORT Matrix* sy_matrix_channel8(const int8_t* weights, const float* scale, int32_t outputs, int32_t inputs, int32_t digits) {
    return guarded([&] { return pack_channel8(weights, scale, outputs, inputs, digits); });
}

EXPORT Matrix* sy_matrix_blocks(const uint8_t* integers, const void* scales, const void* minima, int32_t outputs, int32_t inputs, int32_t bits,
                                int32_t zero, int32_t per_scale, int32_t wide) {
    return guarded([&] { return pack_blocks(integers, scales, minima, outputs, inputs, bits, zero, per_scale, wide != 0); });
}

EXPORT int32_t sy_matrix_bias(Matrix* matrix, const float* bias) {
    return guarded([&] { return matrix->set_bias(bias), 1; });
}

// Rows of weights as floats [count, inputs]; every id is an output.
EXPORT void sy_matrix_rows(const Matrix* matrix, const int32_t* ids, int32_t count, float* out) {
    for (int i = 0; i < count; i++) unpack_row(*matrix, ids[i], out + (size_t)i * matrix->inputs);
}

EXPORT int64_t sy_matrix_bytes(const Matrix* matrix) { return (int64_t)matrix->bytes(); }

EXPORT void sy_matrix_end(Matrix* matrix) { delete matrix; }

EXPORT int32_t sy_linear(const Routines* routines, Pool* pool, const Matrix* matrix, const float* x, int32_t rows, float* y) {
    return guarded([&] { return routines->linear(*pool, *matrix, x, rows, y), 1; });
}

// 1: done; 0: no memory; 2: keys or values that few bits cannot hold, whose bounds are then at `range` of the tokens.
EXPORT int32_t sy_step(const Routines* routines, Pool* pool, const Model* model, const Tokens* tokens, float* stream) {
    return guarded([&] { return routines->step(*pool, *model, *tokens, stream) ? 1 : 2; });
}

EXPORT int32_t sy_head(const Routines* routines, Pool* pool, const Head* head, const Matrix* matrix, const float* x) {
    return guarded([&] { return routines->head(*pool, *head, matrix, x), 1; });
}

EXPORT int32_t sy_convolution(const Routines* routines, Pool* pool, const Convolution* convolution) {
    return guarded([&] { return routines->convolution(*pool, *convolution), 1; });
}

EXPORT int32_t sy_convolution_back(const Routines* routines, Pool* pool, const Convolution* convolution, const ConvolutionGradients* gradients) {
    return guarded([&] { return routines->convolution_back(*pool, *convolution, *gradients), 1; });
}

EXPORT int32_t sy_scan(const Routines* routines, Pool* pool, const Scan* scan) {
    return guarded([&] { return routines->scan(*pool, *scan), 1; });
}

EXPORT int32_t sy_scan_back(const Routines* routines, Pool* pool, const Scan* scan, const ScanGradients* gradients) {
    return guarded([&] { return routines->scan_back(*pool, *scan, *gradients), 1; });
}
