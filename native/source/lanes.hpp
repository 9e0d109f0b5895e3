// Channels in vectors where their number is no multiple of sixteen, and work shared out in pieces.
#pragma once

#include "api.hpp"
#include "vectors.hpp"

namespace steelyard {
namespace {

inline int lanes_from(int d, int width) { return width - d < LANES ? width - d : LANES; }

inline f32x16 load_lanes(const float* from, int count) { return count == LANES ? load(from) : load_some(from, count); }

inline void store_lanes(float* to, f32x16 x, int count) {
    if (count == LANES) return store(to, x);
    std::memcpy(to, &x, sizeof(float) * count);
}

inline void add_lanes(float* to, f32x16 x, int count) { store_lanes(to, load_lanes(to, count) + x, count); }

constexpr int64_t WORTH_SHARING = 1 << 16;  // operations below which waking other threads costs more than they save

// Calls work(thread, item) for every item; each thread has a stretch of them.
template <class Work>
inline void share_out(Pool& pool, int items, int64_t operations, const Work& work) {
    const auto stretch = [&](int thread, int threads) {
        const Share mine(items, thread, threads);
        for (int item = mine.begin; item < mine.end; item++) work(thread, item);
    };
    if (operations < WORTH_SHARING || items == 1) return stretch(0, 1);
    pool.run([&](int thread) { stretch(thread, pool.threads()); });
}

}  // namespace
}  // namespace steelyard
