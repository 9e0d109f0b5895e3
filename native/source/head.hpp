// The head: logits of a few rows and, while a piece of them is still near the processor, what draws and confidence ask of it: the likeliest
// tokens, the logarithm of the sum of exponentials, the entropy, and the sum at another temperature.
//
// Pieces begin at fixed places and are joined in their order, and of equal logits the lower id counts as likelier: nothing depends on how
// many threads share the work or on which rows stand together. The readable twin is steelyard/generate/candidates.py.
#pragma once

#include <cmath>
#include <vector>

#include "api.hpp"
#include "linear.hpp"
#include "vectors.hpp"

namespace steelyard {
namespace {

constexpr int PIECE = 1024;  // logits, a multiple of a group of outputs

// What a piece of a row comes to, its largest logit m taken out of every exponent.
struct Measure {
    float largest;   // m; -infinity where everything is ruled out
    float odd;       // not a number where one of the logits is none, or is infinite
    float total;     // sum of e^(x - m)
    float weighted;  // sum of e^(x - m) (x - m)
    float mass;      // sum of e^((x - m) / temperature)
};

// The likeliest of what was offered, in order; ids are offered in ascending order.
struct Likeliest {
    int32_t* ids;
    float* values;
    int room, count = 0;

    float least() const { return count < room ? -INFINITY : values[room - 1]; }

    void offer(int32_t id, float value) {
        if (!(value > least())) return;
        int place = count < room ? count++ : room - 1;
        for (; place > 0 && values[place - 1] < value; place--) values[place] = values[place - 1], ids[place] = ids[place - 1];
        values[place] = value, ids[place] = id;
    }

    void offer_all(int first, const float* logits, int count) {
        int i = 0;
        for (; i + 4 * LANES <= count; i += 4 * LANES) {
            const float* x = logits + i;
            const f32x16 most = larger(larger(load(x), load(x + LANES)), larger(load(x + 2 * LANES), load(x + 3 * LANES)));
            if (largest_of(most) > least())
                for (int j = 0; j < 4 * LANES; j++) offer(first + i + j, x[j]);
        }
        for (; i < count; i++) offer(first + i, logits[i]);
    }
};

// Calls `use` with sixteen logits after the other, -infinity behind the last.
template <class Use>
inline void each_vector(const float* logits, int count, Use use) {
    const int whole = count / LANES * LANES;
    for (int i = 0; i < whole; i += LANES) use(load(logits + i));
    if (whole == count) return;
    float rest[LANES];
    for (int i = 0; i < LANES; i++) rest[i] = whole + i < count ? logits[whole + i] : -INFINITY;
    use(load(rest));
}

inline Measure measure(const float* logits, int count, bool sums, float inverse) {
    f32x16 most[4], odd[4] = {};  // four of each, so that none waits for the one before
    for (int i = 0; i < 4; i++) most[i] = all(-INFINITY);
    const auto look = [&](const f32x16& x, int i) {
        most[i] = larger(x, most[i]);
        odd[i] = odd[i] + larger(all(-1e30f), x) * 0.0f;  // what is no number is not less, so it stays; infinity times 0 is none either
    };
    const int whole = count / (4 * LANES) * (4 * LANES);
    for (int i = 0; i < whole; i += 4 * LANES)
        for (int j = 0; j < 4; j++) look(load(logits + i + j * LANES), j);
    each_vector(logits + whole, count - whole, [&](const f32x16& x) { look(x, 0); });
    Measure out = {largest_of(larger(larger(most[0], most[1]), larger(most[2], most[3]))), sum_of((odd[0] + odd[1]) + (odd[2] + odd[3])), 0, 0, 0};
    if (!(out.largest > -INFINITY) || out.odd != 0) return out;
    if (sums) {
        f32x16 total = {}, weighted = {};
        each_vector(logits, count, [&](const f32x16& logit) {
            const f32x16 x = larger(logit - out.largest, all(-88.0f));  // its exponential is 0, and 0 times it stays 0
            const f32x16 share = exponential(x);
            total = total + share;
            weighted = multiply_add(share, x, weighted);
        });
        out.total = sum_of(total), out.weighted = sum_of(weighted);
    }
    if (sums && inverse == 1) out.mass = out.total;
    else if (inverse != 0) {
        f32x16 mass = {};
        each_vector(logits, count, [&](const f32x16& logit) { mass = mass + exponential((logit - out.largest) * inverse); });
        out.mass = sum_of(mass);
    }
    return out;
}

class Reader {
  public:
    // `matrix` null: the logits are there already. Else `x` are the hidden states [rows, inputs].
    Reader(Pool& pool, const Head& head, const Matrix* matrix, const float* x)
        : pool_(pool), head_(head), matrix_(matrix), x_(x), pieces_((head.count + PIECE - 1) / PIECE),
          form_(matrix ? head.rows : 0, matrix ? matrix->inputs : 0), measures_(sizeof(Measure) * head.rows * pieces_),
          ids_(sizeof(int32_t) * pool.threads() * head.rows * head.room), values_(sizeof(float) * pool.threads() * head.rows * head.room),
          found_(sizeof(int32_t) * pool.threads() * head.rows) {}

    void operator()(int thread, int threads) {
        if (matrix_) {
            const Share mine(head_.rows, thread, threads);
            for (int r = mine.begin; r < mine.end; r++) {
                std::memcpy(form_.row(r), x_ + (size_t)r * matrix_->inputs, sizeof(float) * matrix_->inputs);
                form_.prepare(r, *matrix_);
            }
            pool_.barrier();
        }
        const Share share(pieces_, thread, threads);
        for (int r = 0; r < head_.rows; r++) found(thread, r) = 0;
        for (int piece = share.begin; piece < share.end; piece++) read(thread, piece);
        if (threads > 1) pool_.barrier();
        const Share mine(head_.rows, thread, threads);
        for (int r = mine.begin; r < mine.end; r++) join(r, threads);
    }

  private:
    Likeliest likeliest(int thread, int row) {
        const size_t place = ((size_t)thread * head_.rows + row) * head_.room;
        return {(int32_t*)ids_.data + place, (float*)values_.data + place, head_.best[row], found(thread, row)};
    }

    int32_t& found(int thread, int row) { return ((int32_t*)found_.data)[thread * head_.rows + row]; }
    Measure& measure_of(int row, int piece) { return ((Measure*)measures_.data)[(size_t)row * pieces_ + piece]; }

    void read(int thread, int piece) {
        const int begin = piece * PIECE, count = std::min(PIECE, head_.count - begin);
        if (matrix_) linear(*matrix_, form_, head_.rows, begin / GROUP, (begin + count + GROUP - 1) / GROUP, head_.logits, head_.count, false);
        for (int r = 0; r < head_.rows; r++) {
            const float* logits = head_.logits + (size_t)r * head_.count + begin;
            const Measure here = measure(logits, count, head_.sums[r] != 0, head_.inverse[r]);
            measure_of(r, piece) = here;
            Likeliest best = likeliest(thread, r);
            if (best.room == 0 || !(here.largest > best.least())) continue;
            best.offer_all(begin, logits, count);
            found(thread, r) = best.count;
        }
    }

    void join(int r, int threads) {
        Likeliest best = {head_.ids + (size_t)r * head_.room, head_.values + (size_t)r * head_.room, head_.best[r]};
        for (int thread = 0; thread < threads && best.room; thread++) {
            const Likeliest part = likeliest(thread, r);
            for (int i = 0; i < part.count && part.values[i] > best.least(); i++) best.offer(part.ids[i], part.values[i]);
        }
        head_.found[r] = best.count;
        float most = -INFINITY, odd = 0;
        for (int piece = 0; piece < pieces_; piece++) {
            const Measure& one = measure_of(r, piece);
            most = one.largest > most ? one.largest : most;
            odd += one.odd;
        }
        head_.largest[r] = odd == 0 ? most : NAN;
        double total = 0, weighted = 0, mass = 0;
        for (int piece = 0; piece < pieces_; piece++) {
            const Measure& one = measure_of(r, piece);
            if (!(one.largest > -INFINITY)) continue;
            const double behind = (double)one.largest - most, factor = std::exp(behind);
            total += factor * one.total;
            weighted += factor * (one.weighted + behind * one.total);
            mass += std::exp(behind * head_.inverse[r]) * one.mass;
        }
        head_.log_sums[r] = (float)(most + std::log(total));
        head_.entropies[r] = (float)(std::log(total) - weighted / total);
        head_.masses[r] = mass;
    }

    Pool& pool_;
    const Head& head_;
    const Matrix* matrix_;
    const float* x_;
    const int pieces_;
    Rows form_;
    Bytes measures_, ids_, values_, found_;
};

}  // namespace
}  // namespace steelyard
