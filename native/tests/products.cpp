// Products of every kind of weights against those of the portable routines, on random shapes: to the bit where all sums are whole
// numbers (or powers of two times them) and so must not depend on the order or the fusing of anything, else within a few roundings.
#include "checks.hpp"

using namespace steelyard;

namespace {

// Whole powers of two as half precision, down to the smallest number below the normal ones.
uint16_t half_of_power(int power) { return power >= -14 ? (uint16_t)((power + 15) << 10) : (uint16_t)(1 << (power + 24)); }

uint16_t half_between_one_and_two(int thousandths) { return (uint16_t)(15 << 10 | thousandths); }

struct Case {
    Matrix* matrix = nullptr;
    int outputs = 0, inputs = 0, rows = 0;
    bool exact = false;
    Floats x, magnitude;  // [rows, inputs]; what the terms of an output's sum amount to for an activation of 1, [outputs, inputs]
    std::string name;
};

// Whole activations whose largest is 127 in every block, so that their 8 bits are they themselves; or any.
void draw_activations(Case& c, Random& draw) {
    c.x = draw.normal((size_t)c.rows * c.inputs, 3);
    if (!c.exact) return;
    for (size_t i = 0; i < c.x.size(); i++) c.x[i] = i % c.inputs % BLOCK == 0 ? (draw.coin() ? 127.0f : -127.0f) : (float)draw.whole(-127, 127);
}

void draw_floats(Case& c, Random& draw, bool narrow) {
    Floats w = draw.normal((size_t)c.outputs * c.inputs);
    if (c.exact)
        for (float& x : w) x = (float)draw.whole(-64, 64);
    std::vector<uint16_t> bits(w.size());
    for (size_t i = 0; i < w.size(); i++) {
        bits[i] = to_bfloat16(w[i]);
        c.magnitude.push_back(std::fabs(w[i]));
    }
    c.matrix = narrow ? sy_matrix_bfloat16(bits.data(), c.outputs, c.inputs) : sy_matrix_float32(w.data(), c.outputs, c.inputs);
    c.name = narrow ? "bfloat16" : "float32";
}

// Nothing is fused in these, so they are exact whatever their numbers are.
void draw_channel8(Case& c, Random& draw) {
    std::vector<int8_t> w((size_t)c.outputs * c.inputs);
    for (int8_t& x : w) x = (int8_t)draw.whole(-128, 127);
    const Floats scale = draw.normal(c.outputs);
    const int digits = draw.whole(1, 2);
    c.exact = true;
    c.matrix = sy_matrix_channel8(w.data(), scale.data(), c.outputs, c.inputs, digits);
    c.name = "channel8 in " + std::to_string(digits) + " digits";
}

void draw_blocks(Case& c, Random& draw) {
    const int bits = draw.coin() ? 4 : 8, per_scale = draw.coin() ? 16 : 32, scales = c.inputs / per_scale;
    const bool wide = draw.coin(), minima = draw.coin();
    const int zero = minima ? 0 : bits == 4 ? 8 : draw.coin() ? 128 : 32, most = bits == 4 ? 15 : zero == 128 ? 255 : 63;
    std::vector<uint8_t> q((size_t)c.outputs * c.inputs);
    for (uint8_t& each : q) each = (uint8_t)draw.whole(0, most);
    const size_t count = (size_t)c.outputs * scales;
    Floats scale(count), least(count);
    std::vector<uint16_t> half_scale(count), half_least(count);
    for (int o = 0; o < c.outputs; o++) {
        const int power = draw.whole(-24, 3);  // one for an output, so that its sums stay whole multiples of it
        for (int s = 0; s < scales; s++) {
            const size_t i = (size_t)o * scales + s;
            half_scale[i] = c.exact ? half_of_power(power) : half_between_one_and_two(draw.whole(0, 1023));
            half_least[i] = c.exact ? half_of_power(power) : half_between_one_and_two(draw.whole(0, 1023));
            if (draw.coin()) half_least[i] |= 0x8000;
            scale[i] = half_to_float(half_scale[i]), least[i] = half_to_float(half_least[i]);
        }
        for (int i = 0; i < c.inputs; i++) {
            const size_t s = (size_t)o * scales + i / per_scale;
            c.magnitude.push_back((float)(q[(size_t)o * c.inputs + i] + zero) * std::fabs(scale[s]) + (minima ? std::fabs(least[s]) : 0));
        }
    }
    const void *from = wide ? (const void*)scale.data() : half_scale.data(), *below = wide ? (const void*)least.data() : half_least.data();
    c.matrix = sy_matrix_blocks(q.data(), from, minima ? below : nullptr, c.outputs, c.inputs, bits, zero, per_scale, wide);
    c.name = std::to_string(bits) + " bits, zero " + std::to_string(zero) + ", a scale for " + std::to_string(per_scale) + (wide ? ", float32" : ", half") +
             (minima ? ", minima" : "");
}

Floats product(const Routines* routines, Pool* pool, const Case& c, int first, int rows) {
    Floats y((size_t)rows * c.outputs);
    sy_linear(routines, pool, c.matrix, c.x.data() + (size_t)first * c.inputs, rows, y.data());
    return y;
}

bool within_roundings(const Case& c, const Floats& ours, const Floats& theirs, const Floats& bias) {
    for (int r = 0; r < c.rows; r++)
        for (int o = 0; o < c.outputs; o++) {
            double terms = bias.empty() ? 0 : std::fabs(bias[o]);
            for (int i = 0; i < c.inputs; i++) terms += (double)c.magnitude[(size_t)o * c.inputs + i] * std::fabs(c.x[(size_t)r * c.inputs + i]);
            if (!(std::fabs((double)ours[(size_t)r * c.outputs + o] - theirs[(size_t)r * c.outputs + o]) <= 3e-6 * terms + 1e-30)) return false;
        }
    return true;
}

void one(const Routines* routines, const Routines* portable, int number) {
    Random draw(number);
    Case c;
    c.exact = draw.coin(), c.outputs = draw.whole(1, 70), c.rows = draw.whole(1, 64), c.inputs = draw.whole(1, 150);
    const int kind = number % 4;
    if (kind == 3) c.inputs = draw.whole(1, 5) * BLOCK;
    if (kind < 2) draw_floats(c, draw, kind == 1);
    else if (kind == 2) draw_channel8(c, draw);
    else draw_blocks(c, draw);
    const bool whole = c.exact;
    if (kind == 2) c.exact = false;  // its activations are any
    draw_activations(c, draw);
    c.exact = whole;
    Floats bias;
    if (draw.coin()) {
        bias = draw.normal(c.outputs);
        sy_matrix_bias(c.matrix, bias.data());
    }
    Pool *pool = sy_pool(draw.whole(1, 3)), *alone = sy_pool(1);
    const Floats ours = product(routines, pool, c, 0, c.rows), theirs = product(portable, alone, c, 0, c.rows);
    const std::string what = std::string(routines->name) + ", " + c.name + ": " + std::to_string(c.rows) + " rows of " + std::to_string(c.inputs) +
                             " inputs, " + std::to_string(c.outputs) + " outputs, number " + std::to_string(number);
    if (c.exact) expect(same_bits(ours, theirs), what + ", to the bit");
    else expect(within_roundings(c, ours, theirs, bias), what + ", within roundings");
    const int row = draw.whole(0, c.rows - 1);
    const Floats lone = product(routines, alone, c, row, 1);
    expect(std::memcmp(lone.data(), ours.data() + (size_t)row * c.outputs, sizeof(float) * c.outputs) == 0, what + ", a row alone");
    sy_pool_end(pool);
    sy_pool_end(alone);
    sy_matrix_end(c.matrix);
}

}  // namespace

void check_products(const Routines* routines, const Routines* portable, int count) {
    for (int number = 0; number < count; number++) one(routines, portable, number);
}
