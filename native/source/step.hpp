// A whole step of a model's blocks in one parallel region. Threads share out the outputs of every product and meet between phases.
//
//   norm -> query, key, value | turn, write the cache | attend | output, residual | norm -> gate, up | down, residual
//
// A few rows are normalised and rounded by every thread for itself, which is cheaper than meeting once more.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "api.hpp"
#include "attention.hpp"
#include "linear.hpp"
#include "parts.hpp"

namespace steelyard {
namespace {

constexpr int FEW = 4;            // rows that every thread prepares for itself
constexpr int QUERY_TOKENS = 16;  // tokens of a run that are one piece of attention

class Stepper {
  public:
    Stepper(Pool& pool, const Model& model, const Tokens& tokens, float* stream)
        : pool_(pool), m_(model), tokens_(tokens), n_(tokens.count), few_(n_ <= FEW), x_(stream), inner_(model.heads * model.head_width),
          outer_(model.key_value_heads * model.head_width), q_(sizeof(float) * n_ * inner_), k_(sizeof(float) * n_ * outer_),
          v_(sizeof(float) * n_ * outer_), mixed_(sizeof(float) * n_ * inner_), gated_(sizeof(float) * n_ * padded(model.hidden)),
          part_(sizeof(float) * n_ * model.width) {
        const int widest = std::max({model.width, inner_, model.hidden});
        for (int i = 0; i < (few_ ? pool.threads() : 1); i++) {
            narrow_.push_back(std::make_unique<Rows>(n_, model.width));
            rows_.push_back(std::make_unique<Rows>(n_, inner_));
            wide_.push_back(std::make_unique<Rows>(n_, model.hidden));
        }
        for (int i = 0; i < pool.threads(); i++) {
            scratch_.emplace_back(sizeof(float) * (TOGETHER * (STRETCH + model.head_width) + widest));
            queries_.emplace_back().reserve((size_t)QUERY_TOKENS * model.heads / model.key_value_heads);
        }
        for (int begin = 0; begin < n_;) {  // runs: tokens of one slot
            int end = begin + 1;
            while (end < n_ && tokens.slot[end] == tokens.slot[begin]) end++;
            for (int piece = begin; piece < end; piece += QUERY_TOKENS) pieces_.push_back({piece, std::min(piece + QUERY_TOKENS, end)});
            begin = end;
        }
    }

    void operator()(int thread) {
        for (int i = 0; i < m_.layers; i++) block(thread, m_.layer[i]);
        const Share share(n_, thread, pool_.threads());
        for (int r = share.begin; r < share.end; r++) {
            float* x = x_ + (size_t)r * m_.width;
            rms_norm(x, m_.final_norm, m_.epsilon, m_.width, x);
        }
    }

  private:
    struct Piece {
        int begin, end;
    };

    static int padded(int count) { return (count + GROUP - 1) / GROUP * GROUP; }

    void block(int thread, const Layer& layer) {
        Rows& normed = prepare_normed(thread, layer.mixer_norm, {layer.query, layer.key, layer.value});
        project(thread, layer, normed);
        pool_.barrier();
        remember(thread, layer);
        pool_.barrier();
        attention(thread, layer);
        pool_.barrier();
        Rows& mixed = prepare(thread, rows_, (const float*)mixed_.data, inner_, inner_, *layer.output);
        add(thread, *layer.output, mixed, layer.mixer_after);
        Rows& again = prepare_normed(thread, layer.channel_norm, {layer.gate, layer.up});
        gate(thread, layer, again);
        pool_.barrier();
        Rows& gated = prepare(thread, wide_, (const float*)gated_.data, m_.hidden, padded(m_.hidden), *layer.down);
        add(thread, *layer.down, gated, layer.channel_after);
    }

    // Rows of the stream, normalised, in the forms the matrices want.
    Rows& prepare_normed(int thread, const float* weight, std::initializer_list<const Matrix*> matrices) {
        Rows& rows = *narrow_[few_ ? thread : 0];
        const Share share(n_, few_ ? 0 : thread, few_ ? 1 : pool_.threads());
        for (int r = share.begin; r < share.end; r++) {
            rms_norm(x_ + (size_t)r * m_.width, weight, m_.epsilon, m_.width, rows.row(r));
            const Matrix* last = nullptr;
            for (const Matrix* matrix : matrices) {
                if (last == nullptr || matrix->kind != last->kind || matrix->digits != last->digits) rows.prepare(r, *matrix);
                last = matrix;
            }
        }
        if (!few_) pool_.barrier();
        return rows;
    }

    Rows& prepare(int thread, std::vector<std::unique_ptr<Rows>>& place, const float* from, int width, int stride, const Matrix& matrix) {
        Rows& rows = *place[few_ ? thread : 0];
        const Share share(n_, few_ ? 0 : thread, few_ ? 1 : pool_.threads());
        for (int r = share.begin; r < share.end; r++) {
            std::memcpy(rows.row(r), from + (size_t)r * stride, sizeof(float) * width);
            rows.prepare(r, matrix);
        }
        if (!few_) pool_.barrier();
        return rows;
    }

    void project(int thread, const Layer& layer, const Rows& rows) {
        const Matrix* parts[3] = {layer.query, layer.key, layer.value};
        float* to[3] = {(float*)q_.data, (float*)k_.data, (float*)v_.data};
        const int stride[3] = {inner_, outer_, outer_};
        const Share share(parts[0]->groups + parts[1]->groups + parts[2]->groups, thread, pool_.threads());
        for (int i = 0, before = 0; i < 3; before += parts[i]->groups, i++) {
            const int begin = std::clamp(share.begin - before, 0, parts[i]->groups), end = std::clamp(share.end - before, 0, parts[i]->groups);
            linear(*parts[i], rows, n_, begin, end, to[i], stride[i], false);
        }
    }

    // Norms and turns queries and keys, and writes keys and values to the cache.
    void remember(int thread, const Layer& layer) {
        const int d = m_.head_width, heads = m_.heads, kv = m_.key_value_heads;
        const Share share(n_ * (heads + kv), thread, pool_.threads());
        for (int item = share.begin; item < share.end; item++) {
            const int token = item / (heads + kv), head = item % (heads + kv);
            const bool query = head < heads;
            float* x = query ? (float*)q_.data + (size_t)token * inner_ + head * d : (float*)k_.data + (size_t)token * outer_ + (head - heads) * d;
            if (const float* norm = query ? layer.query_norm : layer.key_norm) rms_norm(x, norm, m_.query_key_epsilon, d, x);
            if (layer.angles >= 0) {
                const size_t row = (size_t)token * m_.rotary;
                turn(x, tokens_.cos[layer.angles] + row, tokens_.sin[layer.angles] + row, m_.rotary);
            }
            if (query) continue;
            const size_t place = offset(tokens_.slot[token], head - heads) + (size_t)tokens_.position[token] * d;
            std::memcpy(layer.keys + place, x, sizeof(float) * d);
            std::memcpy(layer.values + place, (const float*)v_.data + (size_t)token * outer_ + (head - heads) * d, sizeof(float) * d);
        }
    }

    size_t offset(int slot, int head) const { return ((size_t)slot * m_.key_value_heads + head) * m_.capacity * m_.head_width; }

    void attention(int thread, const Layer& layer) {
        const int d = m_.head_width, group = m_.heads / m_.key_value_heads;
        float* weights = (float*)scratch_[thread].data;
        std::vector<Query>& queries = queries_[thread];
        const int items = (int)pieces_.size() * m_.key_value_heads;
        for (int item = next(thread, items, -1); item < items; item = next(thread, items, item)) {
            const Piece piece = pieces_[item / m_.key_value_heads];
            const int head = item % m_.key_value_heads;
            queries.clear();
            for (int token = piece.begin; token < piece.end; token++) {
                for (int g = 0; g < group; g++) {
                    const size_t place = (size_t)token * inner_ + (size_t)(head * group + g) * d;
                    const int position = tokens_.position[token];
                    const int first = layer.window > 0 ? std::max(0, position - layer.window + 1) : 0;
                    queries.push_back({(const float*)q_.data + place, (float*)mixed_.data + place, position, first, 0, 0});
                }
            }
            const size_t place = offset(tokens_.slot[piece.begin], head);
            attend(queries.data(), (int)queries.size(), {layer.keys + place, layer.values + place, d}, layer.scale, layer.softcap, weights,
                   weights + TOGETHER * STRETCH);
        }
    }

    // Pieces of attention, dealt out in turns: later ones have more keys.
    int next(int thread, int items, int item) const {
        const int after = item < 0 ? thread : item + pool_.threads();
        return std::min(after, items);
    }

    void gate(int thread, const Layer& layer, const Rows& rows) {
        const Share share(layer.gate->groups, thread, pool_.threads());
        const auto kind = (Activation)m_.activation;
        const int stride = padded(m_.hidden);
        for (int g = share.begin; g < share.end; g++) {
            tiles_of(n_, [&](int r, auto size) {
                f32x16 gates[size], ups[size];
                tile<size>(*layer.gate, g, rows, r, gates);
                tile<size>(*layer.up, g, rows, r, ups);
                for (int t = 0; t < size; t++) store((float*)gated_.data + (size_t)(r + t) * stride + g * GROUP, activated(kind, gates[t]) * ups[t]);
            });
        }
    }

    // x += y, or x += norm(y).
    void add(int thread, const Matrix& matrix, const Rows& rows, const float* after) {
        const Share share(matrix.groups, thread, pool_.threads());
        if (after == nullptr) {
            linear(matrix, rows, n_, share.begin, share.end, x_, m_.width, true);
            pool_.barrier();
            return;
        }
        linear(matrix, rows, n_, share.begin, share.end, (float*)part_.data, m_.width, false);
        pool_.barrier();
        const Share mine(n_, thread, pool_.threads());
        float* normed = (float*)scratch_[thread].data + TOGETHER * (STRETCH + m_.head_width);
        for (int r = mine.begin; r < mine.end; r++) {
            rms_norm((const float*)part_.data + (size_t)r * m_.width, after, m_.epsilon, m_.width, normed);
            for (int i = 0; i < m_.width; i++) x_[(size_t)r * m_.width + i] += normed[i];
        }
        pool_.barrier();
    }

    Pool& pool_;
    const Model& m_;
    const Tokens& tokens_;
    const int n_;
    const bool few_;
    float* x_;
    const int inner_, outer_;
    Bytes q_, k_, v_, mixed_, gated_, part_;
    std::vector<std::unique_ptr<Rows>> narrow_, rows_, wide_;
    std::vector<Bytes> scratch_;
    std::vector<std::vector<Query>> queries_;
    std::vector<Piece> pieces_;
};

}  // namespace
}  // namespace steelyard
