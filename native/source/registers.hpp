// Sixteen numbers as the machine's registers hold them: one register of 64 bytes, two of 32 or four of 16. Compilers know vectors that
// are wider than a register, but keep them in memory between operations (GCC 12: products took 3 to 60 times as long); a pair of halves they do not.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace steelyard {
namespace {  // every instruction set has its own copy of all this

#if defined(__AVX512F__)
#define SY_REGISTER 64
#elif defined(__AVX2__)
#define SY_REGISTER 32
#else
#define SY_REGISTER 16
#endif

constexpr int REGISTER = SY_REGISTER;  // bytes
constexpr int REGISTER_LANES = REGISTER / 4;

typedef float f32r __attribute__((vector_size(REGISTER)));
typedef int32_t i32r __attribute__((vector_size(REGISTER)));
typedef uint32_t u32r __attribute__((vector_size(REGISTER)));
typedef uint16_t u16r __attribute__((vector_size(REGISTER)));
typedef int16_t i16r __attribute__((vector_size(REGISTER)));
typedef uint8_t u8r __attribute__((vector_size(REGISTER)));
typedef uint16_t u16half __attribute__((vector_size(REGISTER / 2)));  // as many as a register holds floats

template <class Half>
struct Pair {
    Half low, high;

    auto operator[](int i) const {
        constexpr int half = sizeof(Half) / 4;  // only numbers of 32 bits are asked for one by one
        return i < half ? low[i] : high[i - half];
    }
    Pair operator-() const { return {-low, -high}; }
};

template <class Register>
using Sixteen = std::conditional_t<REGISTER == 64, Register, std::conditional_t<REGISTER == 32, Pair<Register>, Pair<Pair<Register>>>>;

typedef Sixteen<f32r> f32x16;
typedef Sixteen<i32r> i32x16;
typedef Sixteen<u8r> u8x64;
typedef Sixteen<u16r> u16x32;

template <class V>
struct IsPair : std::false_type {};
template <class Half>
struct IsPair<Pair<Half>> : std::true_type {};

template <class V>
using HalfOf = decltype(V::low);

template <class V>
struct NumberOf {
    typedef std::decay_t<decltype(V{}[0])> Type;
};
template <class Half>
struct NumberOf<Pair<Half>> : NumberOf<Half> {};

#define SY_OPERATOR(op)                                                                                         \
    template <class H>                                                                                          \
    inline auto operator op(const Pair<H>& a, const Pair<H>& b) -> Pair<decltype(a.low op b.low)> {             \
        return {a.low op b.low, a.high op b.high};                                                              \
    }                                                                                                           \
    template <class H, class Number, class = std::enable_if_t<std::is_arithmetic<Number>::value>>               \
    inline auto operator op(const Pair<H>& a, Number number) -> Pair<decltype(a.low op a.low)> {                \
        const auto b = (typename NumberOf<H>::Type)number;                                                      \
        return {a.low op b, a.high op b};                                                                       \
    }                                                                                                           \
    template <class H, class Number, class = std::enable_if_t<std::is_arithmetic<Number>::value>>               \
    inline auto operator op(Number number, const Pair<H>& b) -> Pair<decltype(b.low op b.low)> {                \
        const auto a = (typename NumberOf<H>::Type)number;                                                      \
        return {a op b.low, a op b.high};                                                                       \
    }
SY_OPERATOR(+)
SY_OPERATOR(-)
SY_OPERATOR(*)
SY_OPERATOR(/)
SY_OPERATOR(&)
SY_OPERATOR(|)
SY_OPERATOR(<<)
SY_OPERATOR(>>)
SY_OPERATOR(<)
SY_OPERATOR(>)
SY_OPERATOR(>=)
SY_OPERATOR(==)
#undef SY_OPERATOR

// Of each lane `a` where the mask's is set, else `b`.
template <class Mask, class V>
inline V choose(const Mask& mask, const V& a, const V& b) {
    if constexpr (IsPair<V>::value) return {choose(mask.low, a.low, b.low), choose(mask.high, a.high, b.high)};
    else return mask ? a : b;
}

// The same bits as lanes of another kind.
template <class To, class From>
inline To as(const From& x) {
    if constexpr (IsPair<To>::value) return {as<HalfOf<To>>(x.low), as<HalfOf<To>>(x.high)};
    else return (To)x;
}

// The same numbers as lanes of another kind.
template <class To, class From>
inline To converted(const From& x) {
    if constexpr (IsPair<To>::value) return {converted<HalfOf<To>>(x.low), converted<HalfOf<To>>(x.high)};
    else return __builtin_convertvector(x, To);
}

// `one(where)` for each register, `bytes` apart in what is read.
template <class V, int Bytes, class One>
inline V gathered(const void* from, const One& one) {
    if constexpr (IsPair<V>::value) {
        constexpr int half = sizeof(V) / 2 / REGISTER * Bytes;
        return {gathered<HalfOf<V>, Bytes>(from, one), gathered<HalfOf<V>, Bytes>((const uint8_t*)from + half, one)};
    } else {
        return one(from);
    }
}

// `one(where, register)` for each register, `bytes` apart in what is written.
template <int Bytes, class V, class One>
inline void scattered(void* to, const V& x, const One& one) {
    if constexpr (IsPair<V>::value) {
        constexpr int half = sizeof(V) / 2 / REGISTER * Bytes;
        scattered<Bytes>(to, x.low, one);
        scattered<Bytes>((uint8_t*)to + half, x.high, one);
    } else {
        one(to, x);
    }
}

template <class Register>
inline Register read_register(const void* from) {
    Register x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

}  // namespace
}  // namespace steelyard
