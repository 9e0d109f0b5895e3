// The C interface's structures, shared with Python (steelyard/kernels/native.py mirrors them field by field).
#pragma once

#include <cstdint>

#include "matrix.hpp"
#include "pool.hpp"

namespace steelyard {

// How keys and values are kept, [slots, key_value_heads, capacity, head_width] in all: float32 in this order, or bfloat16 in blocks of
// tokens (attention.hpp), whose capacity is a multiple of 64; or in few bits, where each layer's keys and values are a `FewBits`.
enum class CacheKind : int32_t { float32 = 0, bfloat16 = 1, few_bits = 2 };

// One layer's keys or values in few bits (few_bits.hpp). A query sees those groups rounded that end at least `window` tokens before its own
// end. Groups are of 8 to 128 tokens, a divisor of 128; a call brings at most kept - window - group + 1 tokens of a slot.
struct FewBits {
    uint8_t* codes;         // [slots, key_value_heads, groups, group * bits / 8, head_width]: neighbours in time share a byte, the earlier lower
    uint16_t *low, *scale;  // half precision: [..., groups, head_width] of a channel, or [..., groups, group, head_width / share] of a token
    float* recent;          // [slots, kept, key_value_heads, head_width]: the latest tokens as they are, number t at t % kept
    int32_t bits;           // of a code: 2, 4 or 8
    int32_t window, group, groups, kept;  // tokens, but for `groups` of a slot
    int32_t share;          // channels of a token that have one scale: all, or a multiple of 8; 0: a channel of a group's tokens has
};

// How rows are normalised (parts.hpp); `none` leaves them as they are.
enum class NormKind : int32_t { none = 0, rms = 1, layer = 2 };

struct Norm {
    const float *weight, *bias;  // [width]; bias null: none
    float epsilon;
    int32_t width;
    NormKind kind;
};

enum class Activation : int32_t { silu = 0, gelu_tanh = 1, relu = 2, gelu = 3 };

// sequential: x += mixer(norm(x)), then x += channel(norm(x)). parallel: x += mixer(norm(x)) + channel(other norm(x)).
enum class Residual : int32_t { sequential = 0, parallel = 1 };

// One block of a model, and its part of the cache.
struct Layer {
    const Matrix *query, *key, *value, *output;
    const Matrix *gate, *up, *down;    // gate null: the channel is down(activation(up(x))) instead of down(activation(gate(x)) * up(x))
    Norm mixer_norm, channel_norm;     // of the stream, before each part
    Norm mixer_after, channel_after;   // of each part's output, before it joins the stream; only where parts follow each other
    Norm query_norm, key_norm;         // as wide as a head: of each head; wider: of all heads together
    void *keys, *values;               // numbers, or each a FewBits
    float scale, softcap;              // of scores; softcap 0: none
    int32_t window;                    // tokens a query looks back, itself included; 0: all
    int32_t angles;                    // which table of rotary angles; -1: none
    Residual residual;
};

struct Model {
    int32_t layers, width, heads, key_value_heads, head_width, hidden;
    int32_t rotary;  // numbers of each head that are turned, the first ones
    Activation activation;
    CacheKind cache;
    int64_t capacity;
    Norm final_norm;
    const Layer* layer;
};

// What a step reads: `count` tokens, those of one slot together and in order.
struct Tokens {
    int32_t count;
    const int32_t *slot, *position;
    const float* const *cos;  // a table for each kind of angles: [count, rotary]
    const float* const *sin;
    float* range;             // [2]: the least and the largest of numbers that few bits could not hold
};

// Marks of tokens, bits of a byte.
enum Mark : uint8_t { BEGINS = 1, PADDING = 2 };

// A short causal convolution along time (convolution.hpp). Channels stand side by side; taps are [taps, width], that of the token itself first.
struct Convolution {
    int32_t rows, time, width, taps;
    int32_t silu;             // not 0: the nonlinearity after it
    const float *x;           // [rows, time, width]
    const float *before;      // [rows, taps - 1, width]: the inputs before the first token
    const float *weights, *bias;  // [taps, width], [width]; bias null: none
    const uint8_t* marks;     // [rows, time]; null: none
    float* y;                 // [rows, time, width]
};

struct ConvolutionGradients {
    const float* y;  // given
    float* x;        // [rows, time, width]
    float* weights;  // [rows, pieces, taps + 1, width], pieces of 128 tokens: shares of the taps' gradients, the bias' last
};

// Mamba's selective scan (scan.hpp).
struct Scan {
    int32_t rows, time, width, state;
    const float *x, *step, *gate;  // [rows, time, width]; steps before their softplus
    const float *decay;            // A [state, width], negative
    const float *write, *read;     // B and C [rows, time, state]
    const float *skip;             // D [width]
    const float *before;           // [rows, state, width]
    const uint8_t* marks;          // [rows, time]; null: none
    float *y, *after;              // [rows, time, width], [rows, state, width]
    float* ends;                   // [rows, stretches of 32 tokens, state, width]: states kept for the way back; null: none are
};

struct ScanGradients {
    const float *y, *after;    // given; after null: zeros
    float *x, *step, *gate;    // [rows, time, width]
    float *decay, *skip;       // [rows, state, width], [rows, width]: each row's share
    float *write, *read;       // [blocks of 64 channels, rows, time, state]: each block's share
    float* before;             // [rows, state, width]
};

// What is to be found out about rows of logits, and where it goes (head.hpp).
struct Head {
    int32_t rows, count;   // rows, and logits of each
    int32_t room;          // candidates there is room for in each row
    const int32_t* best;   // [rows]: how many of the likeliest are wanted, at most `room`
    const int32_t* sums;   // [rows]: not 0: log sum and entropy are wanted
    const float* inverse;  // [rows]: 1 / temperature of the mass that is wanted; 0: none is
    float* logits;         // [rows, count]
    int32_t* found;        // [rows]: how many of the likeliest there are; logits of -infinity are none
    int32_t* ids;          // [rows, room]: the likeliest first, of equal ones the lower id
    float* values;         // [rows, room]: their logits
    float *largest, *log_sums, *entropies;  // [rows]; the largest logit is not a number where one of them is none or infinite
    double* masses;        // [rows]: sum of e^((logit - largest) / temperature)
};

struct Routines {
    const char* name;
    // The residual stream [count, width] before the first block -> hidden states after the final norm, in place; false: few bits cannot hold
    // what would have to be rounded, and neither states nor cache are of use.
    bool (*step)(Pool&, const Model&, const Tokens&, float* stream);
    // y [rows, outputs] = x [rows, inputs] W^T + b
    void (*linear)(Pool&, const Matrix&, const float* x, int rows, float* y);
    // Logits by a matrix from x [rows, inputs] (null: they are there already), and what is asked of them.
    void (*head)(Pool&, const Head&, const Matrix*, const float* x);
    void (*convolution)(Pool&, const Convolution&);
    void (*convolution_back)(Pool&, const Convolution&, const ConvolutionGradients&);
    void (*scan)(Pool&, const Scan&);
    void (*scan_back)(Pool&, const Scan&, const ScanGradients&);
};

}  // namespace steelyard
