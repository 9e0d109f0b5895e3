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
constexpr int SPLIT = 16;         // up to this many rows, threads share out the keys as well

class Stepper {
  public:
    Stepper(Pool& pool, const Model& model, const Tokens& tokens, float* stream)
        : pool_(pool), m_(model), tokens_(tokens), n_(tokens.count), few_(n_ <= FEW), split_(n_ <= SPLIT), x_(stream), inner_(model.heads * model.head_width),
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
            scratch_.emplace_back(sizeof(float) * (TOGETHER * model.head_width + widest));
            queries_.emplace_back().reserve((size_t)QUERY_TOKENS * model.heads / model.key_value_heads);
            narrow_queries_.emplace_back(sizeof(uint16_t) * QUERY_TOKENS * inner_);
        }
        for (int begin = 0; begin < n_;) {  // runs: tokens of one slot
            int end = begin + 1;
            while (end < n_ && tokens.slot[end] == tokens.slot[begin]) end++;
            for (int piece = begin; piece < end; piece += QUERY_TOKENS) pieces_.push_back({piece, std::min(piece + QUERY_TOKENS, end)});
            begin = end;
        }
        if (!split_) return;
        for (int i = 0; i < n_; i++) stretches_ = std::max(stretches_, tokens.position[i] / STRETCH + 1);
        parts_.emplace_back(sizeof(float) * n_ * m_.heads * stretches_ * part_size());
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
        const auto mixed_row = [&](int r, float* to) { split_ ? join_row(layer, r, to) : copy_row(mixed_, inner_, inner_, r, to); };
        Rows& mixed = prepare(thread, rows_, mixed_row, *layer.output);
        add(thread, *layer.output, mixed, layer.mixer_after);
        Rows& again = prepare_normed(thread, layer.channel_norm, {layer.gate, layer.up});
        gate(thread, layer, again);
        pool_.barrier();
        const auto gated_row = [&](int r, float* to) { copy_row(gated_, m_.hidden, padded(m_.hidden), r, to); };
        Rows& gated = prepare(thread, wide_, gated_row, *layer.down);
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

    template <class Fill>
    Rows& prepare(int thread, std::vector<std::unique_ptr<Rows>>& place, Fill fill, const Matrix& matrix) {
        Rows& rows = *place[few_ ? thread : 0];
        const Share share(n_, few_ ? 0 : thread, few_ ? 1 : pool_.threads());
        for (int r = share.begin; r < share.end; r++) {
            fill(r, rows.row(r));
            rows.prepare(r, matrix);
        }
        if (!few_) pool_.barrier();
        return rows;
    }

    static void copy_row(const Bytes& from, int width, int stride, int r, float* to) {
        std::memcpy(to, (const float*)from.data + (size_t)r * stride, sizeof(float) * width);
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
            const float* v = (const float*)v_.data + (size_t)token * outer_ + (head - heads) * d;
            if (m_.cache == CacheKind::float32) write<FloatCache>(layer, token, head - heads, x, v);
            else write<NarrowCache>(layer, token, head - heads, x, v);
        }
    }

    template <class Cache>
    void write(const Layer& layer, int token, int head, const float* k, const float* v) {
        typedef typename Cache::Number Number;
        const size_t place = offset(tokens_.slot[token], head);
        Cache::write((Number*)layer.keys + place, (Number*)layer.values + place, tokens_.position[token], m_.head_width, k, v);
    }

    size_t offset(int slot, int head) const { return ((size_t)slot * m_.key_value_heads + head) * m_.capacity * m_.head_width; }

    void attention(int thread, const Layer& layer) {
        m_.cache == CacheKind::float32 ? attention_over<FloatCache>(thread, layer) : attention_over<NarrowCache>(thread, layer);
    }

    // Pieces of few rows are shared out by stretches of keys, those of many by heads, later pieces (which have more keys) in turns.
    template <class Cache>
    void attention_over(int thread, const Layer& layer) {
        const int heads = m_.key_value_heads, threads = pool_.threads();
        if (!split_) {
            for (int item = thread; item < (int)pieces_.size() * heads; item += threads) {
                const Piece piece = pieces_[item / heads];
                attend_piece<Cache>(thread, layer, piece, item % heads, first_stretch(layer, piece.begin), last_stretch(piece));
            }
            return;
        }
        int items = 0;
        for (const Piece piece : pieces_) items += heads * (last_stretch(piece) - first_stretch(layer, piece.begin));
        const Share share(items, thread, threads);
        int before = 0;
        for (const Piece piece : pieces_) {
            const int first = first_stretch(layer, piece.begin), count = last_stretch(piece) - first;
            for (int head = 0; head < heads; head++, before += count) {
                const int begin = std::clamp(share.begin - before, 0, count), end = std::clamp(share.end - before, 0, count);
                if (begin < end) attend_piece<Cache>(thread, layer, piece, head, first + begin, first + end);
            }
        }
    }

    int first_key(const Layer& layer, int token) const { return layer.window > 0 ? std::max(0, tokens_.position[token] - layer.window + 1) : 0; }
    int first_stretch(const Layer& layer, int token) const { return first_key(layer, token) / STRETCH; }
    int last_stretch(const Piece& piece) const { return tokens_.position[piece.end - 1] / STRETCH + 1; }

    // Stretches begin..end of one piece and key/value head: into the parts of each, or, where one thread has them all, joined.
    template <class Cache>
    void attend_piece(int thread, const Layer& layer, const Piece& piece, int head, int begin, int end) {
        typedef const typename Cache::Number* Numbers;
        const int d = m_.head_width, group = m_.heads / m_.key_value_heads;
        std::vector<Query>& queries = queries_[thread];
        queries.clear();
        for (int token = piece.begin; token < piece.end; token++) {
            for (int g = 0; g < group; g++) {
                const float* q = (const float*)q_.data + (size_t)token * inner_ + (size_t)(head * group + g) * d;
                uint16_t* narrow = (uint16_t*)narrow_queries_[thread].data + queries.size() * d;
                for (int i = 0; i < d; i += LANES) store_bfloat16(narrow + i, load(q + i));
                queries.push_back({q, narrow, tokens_.position[token], first_key(layer, token)});
            }
        }
        const size_t place = offset(tokens_.slot[piece.begin], head);
        const Cache cache = {(Numbers)layer.keys + place, (Numbers)layer.values + place, d};
        float* fresh = (float*)scratch_[thread].data;
        for (size_t first = 0; first < queries.size(); first += TOGETHER) {
            const int count = (int)std::min(queries.size() - first, (size_t)TOGETHER);
            Part sums[TOGETHER];
            for (int i = 0; i < count && !split_; i++) begin_part(sums[i] = {0, 0, mixed(piece, head, first + i)}, d);
            for (int stretch = begin; stretch < end; stretch++) {
                Part parts[TOGETHER];
                for (int i = 0; i < count; i++) {
                    const int token = piece.begin + (int)(first + i) / group, query_head = head * group + (int)(first + i) % group;
                    parts[i].mixed = split_ ? part_of(token, query_head, stretch) + LANES : fresh + i * d;
                }
                attend_stretch(&queries[first], count, cache, stretch * STRETCH, layer.scale, layer.softcap, parts);
                for (int i = 0; i < count; i++) {
                    if (split_) parts[i].mixed[-LANES] = parts[i].most, parts[i].mixed[1 - LANES] = parts[i].total;
                    else join(sums[i], parts[i], d);
                }
            }
            for (int i = 0; i < count && !split_; i++) end_part(sums[i], d);
        }
    }

    float* mixed(const Piece& piece, int head, size_t query) const {
        const int group = m_.heads / m_.key_value_heads;
        return (float*)mixed_.data + (piece.begin + query / group) * inner_ + (head * group + query % group) * m_.head_width;
    }

    // A part in memory: the largest score, the sum, and at the next whole vector the mixed values.
    int part_size() const { return LANES + m_.head_width; }
    float* part_of(int token, int head, int stretch) const {
        return (float*)parts_[0].data + (((size_t)token * m_.heads + head) * stretches_ + stretch) * part_size();
    }

    // One row of attention's output from the parts of its stretches, in their order.
    void join_row(const Layer& layer, int token, float* to) const {
        const int d = m_.head_width;
        for (int head = 0; head < m_.heads; head++) {
            Part sum = {0, 0, to + head * d};
            begin_part(sum, d);
            for (int stretch = first_stretch(layer, token); stretch <= tokens_.position[token] / STRETCH; stretch++) {
                float* part = part_of(token, head, stretch);
                join(sum, {part[0], part[1], part + LANES}, d);
            }
            end_part(sum, d);
        }
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
        float* normed = (float*)scratch_[thread].data + TOGETHER * m_.head_width;
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
    const bool few_, split_;
    float* x_;
    const int inner_, outer_;
    Bytes q_, k_, v_, mixed_, gated_, part_;
    std::vector<std::unique_ptr<Rows>> narrow_, rows_, wide_;
    int stretches_ = 0;
    std::vector<Bytes> scratch_, narrow_queries_, parts_;
    std::vector<std::vector<Query>> queries_;
    std::vector<Piece> pieces_;
};

}  // namespace
}  // namespace steelyard
