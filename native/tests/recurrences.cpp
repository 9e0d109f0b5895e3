// Mamba's convolution and scan, forward and backward, against the portable routines.
#include "checks.hpp"

using namespace steelyard;

namespace {

std::vector<uint8_t> marks_of(Random& draw, int rows, int time) {
    std::vector<uint8_t> marks((size_t)rows * time);
    for (uint8_t& mark : marks) mark = draw.whole(0, 9) == 0 ? BEGINS : draw.whole(0, 19) == 0 ? PADDING : 0;
    return marks;
}

// Every number a convolution gives, one after the other.
Floats convolution(const Routines* routines, Pool* pool, int seed) {
    Random draw(seed);
    const int rows = draw.whole(1, 4), time = draw.whole(1, 300), width = draw.whole(1, 90), taps = draw.whole(1, 6), pieces = (time + 127) / 128;
    const size_t all = (size_t)rows * time * width, shares = (size_t)rows * pieces * (taps + 1) * width;
    const Floats x = draw.normal(all), before = draw.normal((size_t)rows * (taps - 1) * width), weights = draw.normal((size_t)taps * width);
    const Floats bias = draw.normal(width), dy = draw.normal(all);
    const std::vector<uint8_t> marks = marks_of(draw, rows, time);
    Floats out(2 * all + shares);
    const Convolution given = {rows, time, width, taps, draw.coin(), x.data(), before.data(), weights.data(), draw.coin() ? bias.data() : nullptr,
                               draw.coin() ? marks.data() : nullptr, out.data()};
    const ConvolutionGradients gradients = {dy.data(), out.data() + all, out.data() + 2 * all};
    sy_convolution(routines, pool, &given);
    sy_convolution_back(routines, pool, &given, &gradients);
    return out;
}

Floats scan(const Routines* routines, Pool* pool, int seed) {
    Random draw(seed);
    const int rows = draw.whole(1, 4), time = draw.whole(1, 120), width = draw.whole(1, 150), state = draw.whole(1, 20);
    const int stretches = (time + 31) / 32, blocks = (width + 63) / 64;
    const size_t all = (size_t)rows * time * width, states = (size_t)rows * state * width, reads = (size_t)rows * time * state;
    const Floats x = draw.normal(all), step = draw.normal(all), gate = draw.normal(all), write = draw.normal(reads), read = draw.normal(reads);
    const Floats skip = draw.normal(width), before = draw.normal(states), dy = draw.normal(all), after = draw.normal(states);
    Floats decay = draw.normal((size_t)state * width), ends((size_t)stretches * states);
    for (float& rate : decay) rate = -std::exp(rate);
    const std::vector<uint8_t> marks = marks_of(draw, rows, time);
    Floats out(4 * all + 3 * states + (size_t)rows * width + 2 * blocks * reads);
    float* place = out.data();
    const auto room = [&](size_t count) { return place += count, place - count; };
    float *y = room(all), *last = room(states);
    const Scan given = {rows, time, width, state, x.data(), step.data(), gate.data(), decay.data(), write.data(), read.data(), skip.data(), before.data(),
                        draw.coin() ? marks.data() : nullptr, y, last, ends.data()};
    float *dx = room(all), *dstep = room(all), *dgate = room(all), *ddecay = room(states), *dskip = room((size_t)rows * width);
    float *dwrite = room(blocks * reads), *dread = room(blocks * reads), *dbefore = room(states);
    const ScanGradients gradients = {dy.data(), draw.coin() ? after.data() : nullptr, dx, dstep, dgate, ddecay, dskip, dwrite, dread, dbefore};
    sy_scan(routines, pool, &given);
    sy_scan_back(routines, pool, &given, &gradients);
    return out;
}

}  // namespace

void check_recurrences(const Routines* routines, const Routines* portable, int count) {
    for (int number = 0; number < count; number++) {
        Pool *pool = sy_pool(1 + number % 3), *alone = sy_pool(1);
        const std::string name = std::string(routines->name) + ", number " + std::to_string(number);
        expect(close(convolution(routines, pool, number), convolution(portable, alone, number), 2e-5f), name + ": a convolution and its gradients");
        expect(close(scan(routines, pool, number), scan(portable, alone, number), 2e-5f), name + ": a scan and its gradients");
        sy_pool_end(pool);
        sy_pool_end(alone);
    }
}
