// Mamba's selective scan, forward and backward, with the softplus before it and the gate after it.
//   d_t = softplus(step_t);  h_t = exp(d_t A) h_{t-1} + d_t B_t x_t;  y_t = (C_t . h_t + D x_t) silu(z_t)
// A channel has `state` numbers; sixteen channels stand in a vector, so nothing is summed across lanes on the way forward. Nothing of
// size time x state x width is ever written to memory: forward keeps the states once every SCAN_STRETCH tokens, backward computes the others again.
#pragma once

#include "lanes.hpp"
#include "parts.hpp"

namespace steelyard {
namespace {

constexpr int SCAN_STRETCH = 32;                 // tokens between two states that are kept
constexpr int SCANNED = 4;                  // vectors of channels in a piece of work
constexpr int BLOCK_LANES = SCANNED * LANES;

inline int scan_stretches(const Scan& s) { return (s.time + SCAN_STRETCH - 1) / SCAN_STRETCH; }
inline int scan_blocks(const Scan& s) { return (s.width + BLOCK_LANES - 1) / BLOCK_LANES; }

// log(1 + e^x) = max(x, 0) + log(1 + u) with u = e^-|x|, and log(1 + u) = 2 artanh(u / (2 + u)), whose series ends at 1/3^15.
inline f32x16 softplus(f32x16 x) {
    const f32x16 u = exponential(-absolute(x)), s = u / (u + 2.0f), q = s * s;
    f32x16 p = all(1.0f / 13);
    for (const float divisor : {11.0f, 9.0f, 7.0f, 5.0f, 3.0f, 1.0f}) p = multiply_add(p, q, all(1.0f / divisor));
    return larger(x, f32x16{}) + s * p * 2.0f;
}

inline f32x16 sigmoid(f32x16 x) { return 1.0f / (1.0f + exponential(-x)); }

// Addresses of a row's token.
struct At {
    size_t token, channel;
    At(const Scan& s, int row, int t, int d) : token(((size_t)row * s.time + t) * s.state), channel(((size_t)row * s.time + t) * s.width + d) {}
};

inline uint8_t mark_of(const Scan& s, int row, int t) { return s.marks ? s.marks[(size_t)row * s.time + t] : 0; }

// One row of up to SCANNED vectors of channels from d on, all tokens. `room`: 2 SCANNED state vectors.
inline void scan_block(const Scan& s, int row, int block, f32x16* room) {
    const int first = block * BLOCK_LANES, vectors = (s.width - first + LANES - 1) / LANES < SCANNED ? (s.width - first + LANES - 1) / LANES : SCANNED;
    f32x16 *h = room, *decay = room + SCANNED * s.state;
    for (int v = 0; v < vectors; v++) {
        const int d = first + v * LANES, count = lanes_from(d, s.width);
        for (int n = 0; n < s.state; n++) {
            h[v * s.state + n] = load_lanes(s.before + ((size_t)row * s.state + n) * s.width + d, count);
            decay[v * s.state + n] = load_lanes(s.decay + (size_t)n * s.width + d, count);
        }
    }
    const auto keep = [&](float* to) {  // [state, width]
        for (int v = 0; v < vectors; v++) {
            const int d = first + v * LANES, count = lanes_from(d, s.width);
            for (int n = 0; n < s.state; n++) store_lanes(to + (size_t)n * s.width + d, h[v * s.state + n], count);
        }
    };
    for (int t = 0; t < s.time; t++) {
        if (s.ends && t % SCAN_STRETCH == 0) keep(s.ends + ((size_t)row * scan_stretches(s) + t / SCAN_STRETCH) * s.state * s.width);
        const uint8_t mark = mark_of(s, row, t);
        if (mark & BEGINS)
            for (int i = 0; i < vectors * s.state; i++) h[i] = f32x16{};
        for (int v = 0; v < vectors; v++) {
            const int d = first + v * LANES, count = lanes_from(d, s.width);
            const At at(s, row, t, d);
            const float *write = s.write + at.token, *read = s.read + at.token;
            const f32x16 x = load_lanes(s.x + at.channel, count), gate = load_lanes(s.gate + at.channel, count);
            const f32x16 step = mark & PADDING ? f32x16{} : softplus(load_lanes(s.step + at.channel, count)), input = step * x;
            f32x16 y = load_lanes(s.skip + d, count) * x;
            f32x16 *state = h + v * s.state, *rates = decay + v * s.state;
            for (int n = 0; n < s.state; n++) {
                state[n] = multiply_add(exponential(step * rates[n]), state[n], input * write[n]);
                y = multiply_add(state[n], all(read[n]), y);
            }
            store_lanes(s.y + at.channel, y * activated(Activation::silu, gate), count);
        }
    }
    keep(s.after + (size_t)row * s.state * s.width);
}

// What the backward pass of one piece of work holds, for one vector of channels at a time.
struct ScanRoom {
    f32x16 *states, *decays, *writes, *reads, *steps, *carries, *rates, *rate_sums;

    static size_t vectors(const Scan& s) { return (size_t)(4 * SCAN_STRETCH + 1 + 3 * SCANNED) * s.state + SCAN_STRETCH; }

    ScanRoom(const Scan& s, f32x16* from) {
        const size_t stretch = (size_t)SCAN_STRETCH * s.state, block = (size_t)SCANNED * s.state;
        states = from, decays = states + stretch + s.state, writes = decays + stretch, reads = writes + stretch, steps = reads + stretch;
        carries = steps + SCAN_STRETCH, rates = carries + block, rate_sums = rates + block;
    }
};

// The states of a stretch again: `states[0]` is the one before it.
inline void scan_again(const Scan& s, int row, int from, int to, int d, int count, const f32x16* rates, ScanRoom& room) {
    const float* kept = s.ends + ((size_t)row * scan_stretches(s) + from / SCAN_STRETCH) * s.state * s.width;
    for (int n = 0; n < s.state; n++) room.states[n] = load_lanes(kept + (size_t)n * s.width + d, count);
    for (int t = from; t < to; t++) {
        const int i = t - from;
        const At at(s, row, t, d);
        const uint8_t mark = mark_of(s, row, t);
        const f32x16 step = mark & PADDING ? f32x16{} : softplus(load_lanes(s.step + at.channel, count));
        const f32x16 input = step * load_lanes(s.x + at.channel, count);
        f32x16 *state = room.states + (size_t)i * s.state, *decay = room.decays + (size_t)i * s.state;
        room.steps[i] = step;
        for (int n = 0; n < s.state; n++) {
            decay[n] = mark & BEGINS ? f32x16{} : exponential(step * rates[n]);
            state[s.state + n] = multiply_add(decay[n], state[n], input * s.write[at.token + n]);
        }
    }
}

// The gradients of a stretch for one vector of channels; `carry` comes from the tokens after it.
inline void scan_stretch_back(const Scan& s, const ScanGradients& g, int row, int from, int to, int d, int count, int v, ScanRoom& room) {
    const f32x16 skip = load_lanes(s.skip + d, count), *rates = room.rates + (size_t)v * s.state;
    f32x16 *carry = room.carries + (size_t)v * s.state, *rate_sums = room.rate_sums + (size_t)v * s.state;
    f32x16 skip_sum = {};
    for (int t = to - 1; t >= from; t--) {
        const int i = t - from;
        const At at(s, row, t, d);
        const f32x16 x = load_lanes(s.x + at.channel, count), gate = load_lanes(s.gate + at.channel, count), step = room.steps[i];
        const f32x16 open = sigmoid(gate), out = load_lanes(g.y + at.channel, count), dy = out * gate * open, input = step * x;
        const f32x16 *earlier = room.states + (size_t)i * s.state, *state = earlier + s.state, *decay = room.decays + (size_t)i * s.state;
        f32x16 *writes = room.writes + (size_t)i * s.state, *reads = room.reads + (size_t)i * s.state;
        const float *write = s.write + at.token, *read = s.read + at.token;
        f32x16 y = skip * x, d_input = {}, d_step = {};
        for (int n = 0; n < s.state; n++) {
            const f32x16 ds = multiply_add(dy, all(read[n]), carry[n]);
            y = multiply_add(state[n], all(read[n]), y);
            reads[n] = multiply_add(dy, state[n], reads[n]);
            writes[n] = multiply_add(ds, input, writes[n]);
            d_input = multiply_add(ds, all(write[n]), d_input);
            const f32x16 faded = ds * decay[n], rate = faded * earlier[n];
            d_step = multiply_add(rate, rates[n], d_step);
            rate_sums[n] = multiply_add(rate, step, rate_sums[n]);
            carry[n] = faded;
        }
        skip_sum = multiply_add(dy, x, skip_sum);
        d_step = multiply_add(d_input, x, d_step);
        const f32x16 slope = mark_of(s, row, t) & PADDING ? f32x16{} : sigmoid(load_lanes(s.step + at.channel, count));
        store_lanes(g.step + at.channel, d_step * slope, count);
        store_lanes(g.x + at.channel, multiply_add(d_input, step, dy * skip), count);
        store_lanes(g.gate + at.channel, out * y * open * (1.0f + gate * (1.0f - open)), count);
    }
    add_lanes(g.skip + (size_t)row * s.width + d, skip_sum, count);
}

// All gradients of one row and block of channels. Those of B and C are sums over channels: this block's share goes to its own place.
inline void scan_block_back(const Scan& s, const ScanGradients& g, int row, int block, ScanRoom& room) {
    const int first = block * BLOCK_LANES;
    for (int v = 0; v < SCANNED && first + v * LANES < s.width; v++) {
        const int d = first + v * LANES, count = lanes_from(d, s.width);
        for (int n = 0; n < s.state; n++) {
            const size_t at = ((size_t)row * s.state + n) * s.width + d;
            room.carries[v * s.state + n] = g.after ? load_lanes(g.after + at, count) : f32x16{};
            room.rates[v * s.state + n] = load_lanes(s.decay + (size_t)n * s.width + d, count);
            room.rate_sums[v * s.state + n] = f32x16{};
        }
        store_lanes(g.skip + (size_t)row * s.width + d, f32x16{}, count);
    }
    for (int stretch = scan_stretches(s) - 1; stretch >= 0; stretch--) {
        const int from = stretch * SCAN_STRETCH, to = from + SCAN_STRETCH < s.time ? from + SCAN_STRETCH : s.time;
        const size_t sums = (size_t)(to - from) * s.state;
        for (size_t i = 0; i < sums; i++) room.writes[i] = room.reads[i] = f32x16{};
        for (int v = 0; v < SCANNED && first + v * LANES < s.width; v++) {
            const int d = first + v * LANES, count = lanes_from(d, s.width);
            scan_again(s, row, from, to, d, count, room.rates + (size_t)v * s.state, room);
            scan_stretch_back(s, g, row, from, to, d, count, v, room);
        }
        const size_t place = (((size_t)block * s.rows + row) * s.time + from) * s.state;
        for (size_t i = 0; i < sums; i++) {
            g.write[place + i] = sum_of(room.writes[i]);
            g.read[place + i] = sum_of(room.reads[i]);
        }
    }
    for (int v = 0; v < SCANNED && first + v * LANES < s.width; v++) {
        const int d = first + v * LANES, count = lanes_from(d, s.width);
        for (int n = 0; n < s.state; n++) {
            const size_t at = ((size_t)row * s.state + n) * s.width + d;
            store_lanes(g.before + at, room.carries[v * s.state + n], count);
            store_lanes(g.decay + at, room.rate_sums[v * s.state + n], count);
        }
    }
}

inline int64_t scan_operations(const Scan& s) { return (int64_t)s.rows * s.time * s.width * s.state * 8; }

inline void scan(Pool& pool, const Scan& s) {
    const int blocks = scan_blocks(s);
    const size_t each = (size_t)2 * SCANNED * s.state;
    const Bytes room(sizeof(f32x16) * each * pool.threads());
    share_out(pool, s.rows * blocks, scan_operations(s), [&](int thread, int item) { scan_block(s, item / blocks, item % blocks, (f32x16*)room.data + each * thread); });
}

inline void scan_back(Pool& pool, const Scan& s, const ScanGradients& g) {
    const int blocks = scan_blocks(s);
    const size_t each = ScanRoom::vectors(s);
    const Bytes rooms(sizeof(f32x16) * each * pool.threads());
    share_out(pool, s.rows * blocks, scan_operations(s), [&](int thread, int item) {
        ScanRoom room(s, (f32x16*)rooms.data + each * thread);
        scan_block_back(s, g, item / blocks, item % blocks, room);
    });
}

}  // namespace
}  // namespace steelyard
