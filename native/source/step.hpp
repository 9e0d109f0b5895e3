// A whole step of a model's blocks in one parallel region. Threads share out the outputs of every product and meet between phases.
//
//   norm -> query, key, value | turn, write the cache | attend | output, residual | norm -> gate, up | down, residual
//   where mixer and channel stand side by side:
//   norm -> query, key, value | turn, write the cache | attend; other norm -> gate, up | output, down, residual
//
// A few rows are normalised and rounded by every thread for itself, which is cheaper than meeting once more.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "api.hpp"
#include "attention.hpp"
#include "few_bits.hpp"
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
          outer_(model.key_value_heads * model.head_width), room_(padded_width(model.head_width)), q_(sizeof(float) * n_ * inner_),
          k_(sizeof(float) * n_ * outer_), v_(sizeof(float) * n_ * outer_), mixed_(sizeof(float) * n_ * model.heads * room_),
          opened_(sizeof(float) * n_ * padded_width(model.hidden)), part_(sizeof(float) * n_ * model.width) {
        const int widest = std::max({model.width, inner_, model.hidden});
        for (int i = 0; i < (few_ ? pool.threads() : 1); i++) {
            narrow_.push_back(std::make_unique<Rows>(n_, model.width));
            rows_.push_back(std::make_unique<Rows>(n_, inner_));
            wide_.push_back(std::make_unique<Rows>(n_, model.hidden));
        }
        for (int i = 0; i < pool.threads(); i++) {
            const size_t queries = (size_t)QUERY_TOKENS * model.heads / model.key_value_heads;
            scratch_.emplace_back(sizeof(float) * (TOGETHER * room_ + widest));
            queries_.emplace_back().reserve(queries);
            wide_queries_.emplace_back(sizeof(float) * queries * room_);
            narrow_queries_.emplace_back(sizeof(uint16_t) * queries * room_);
            sums_.emplace_back().reserve(queries);
            unpacked_.emplace_back(model.cache == CacheKind::few_bits ? few_bits_room(model.head_width) : 0);
        }
        for (int begin = 0; begin < n_;) {  // runs: tokens of one slot
            int end = begin + 1;
            while (end < n_ && tokens.slot[end] == tokens.slot[begin]) end++;
            for (int piece = begin; piece < end; piece += QUERY_TOKENS) pieces_.push_back({piece, std::min(piece + QUERY_TOKENS, end)});
            if (model.cache == CacheKind::few_bits && model.layers > 0) close_groups(begin, end);
            begin = end;
        }
        refused_.resize(pool.threads());
        if (!split_) return;
        for (int i = 0; i < n_; i++) stretches_ = std::max(stretches_, tokens.position[i] / STRETCH + 1);
        parts_.emplace_back(sizeof(float) * n_ * m_.heads * stretches_ * part_size());
    }

    void operator()(int thread) {
        for (int i = 0; i < m_.layers; i++) block(thread, m_.layer[i]);
        const Share share(n_, thread, pool_.threads());
        for (int r = share.begin; r < share.end; r++) {
            float* x = x_ + (size_t)r * m_.width;
            normalise(m_.final_norm, x, m_.width, x);
        }
    }

    // Whether all keys and values could be kept; else their bounds are told.
    bool told() const {
        Refused all;
        for (const Refused& each : refused_)
            if (each.any) all.note(each.least, each.most);
        if (all.any) tokens_.range[0] = all.least, tokens_.range[1] = all.most;
        return !all.any;
    }

  private:
    struct Piece {
        int begin, end;
    };

    struct Closed {
        int slot, group;
    };

    // The groups that a run's tokens leave behind the window: the same in every layer.
    void close_groups(int begin, int end) {
        const FewBits& f = *(const FewBits*)m_.layer[0].keys;
        const int before = tokens_.position[begin], after = tokens_.position[end - 1] + 1;
        for (int group = rounded_of(f, before) / f.group; group < rounded_of(f, after) / f.group; group++) closed_.push_back({tokens_.slot[begin], group});
    }

    void encode(int thread, const Layer& layer) {
        const int heads = m_.key_value_heads, width = m_.head_width;
        const Share share((int)closed_.size() * heads * 2, thread, pool_.threads());
        for (int item = share.begin; item < share.end; item++) {
            const Closed& closed = closed_[item / (2 * heads)];
            const int head = item / 2 % heads;
            const FewBits& f = *(const FewBits*)(item % 2 ? layer.values : layer.keys);
            encode_group(groups_of(f, closed.slot, head, heads, width), closed.slot, head, heads, closed.group, (float*)unpacked_[thread].data, refused_[thread]);
        }
    }

    void block(int thread, const Layer& layer) {
        project(thread, layer, prepare_normed(thread, layer.mixer_norm, {layer.query, layer.key, layer.value}));
        pool_.barrier();
        remember(thread, layer);
        pool_.barrier();
        if (!closed_.empty()) {
            encode(thread, layer);
            pool_.barrier();
        }
        attention(thread, layer);
        if (layer.residual == Residual::parallel) {  // the stream is left alone until both parts have read it
            open_channel(thread, layer);
            pool_.barrier();
            const Rows &mixed = prepare_mixed(thread, layer), &opened = prepare_opened(thread, layer);
            add_mine(thread, *layer.output, mixed);
            add_mine(thread, *layer.down, opened);
            pool_.barrier();
            return;
        }
        pool_.barrier();
        add(thread, *layer.output, prepare_mixed(thread, layer), layer.mixer_after);
        open_channel(thread, layer);
        pool_.barrier();
        add(thread, *layer.down, prepare_opened(thread, layer), layer.channel_after);
    }

    const Rows& prepare_mixed(int thread, const Layer& layer) {
        return prepare(thread, rows_, [&](int r, float* to) { split_ ? join_row(thread, layer, r, to) : copy_heads(r, to); }, *layer.output);
    }

    const Rows& prepare_opened(int thread, const Layer& layer) {
        const size_t stride = padded_width(m_.hidden);
        const auto fill = [&](int r, float* to) { std::memcpy(to, (const float*)opened_.data + r * stride, sizeof(float) * m_.hidden); };
        return prepare(thread, wide_, fill, *layer.down);
    }

    // Rows of the stream, normalised, in the forms the matrices (or null) want.
    const Rows& prepare_normed(int thread, const Norm& norm, std::initializer_list<const Matrix*> matrices) {
        Rows& rows = *narrow_[few_ ? thread : 0];
        const Share share(n_, few_ ? 0 : thread, few_ ? 1 : pool_.threads());
        for (int r = share.begin; r < share.end; r++) {
            normalise(norm, x_ + (size_t)r * m_.width, m_.width, rows.row(r));
            const Matrix* last = nullptr;
            for (const Matrix* matrix : matrices) {
                if (matrix == nullptr) continue;
                if (last == nullptr || matrix->kind != last->kind || matrix->digits != last->digits) rows.prepare(r, *matrix);
                last = matrix;
            }
        }
        if (!few_) pool_.barrier();
        return rows;
    }

    template <class Fill>
    const Rows& prepare(int thread, std::vector<std::unique_ptr<Rows>>& place, Fill fill, const Matrix& matrix) {
        Rows& rows = *place[few_ ? thread : 0];
        const Share share(n_, few_ ? 0 : thread, few_ ? 1 : pool_.threads());
        for (int r = share.begin; r < share.end; r++) {
            fill(r, rows.row(r));
            rows.prepare(r, matrix);
        }
        if (!few_) pool_.barrier();
        return rows;
    }

    // One row of attention's output, without the room behind each head.
    void copy_heads(int r, float* to) const {
        const int d = m_.head_width;
        const float* from = (const float*)mixed_.data + (size_t)r * m_.heads * room_;
        if (d == room_) std::memcpy(to, from, sizeof(float) * inner_);
        else for (int head = 0; head < m_.heads; head++) std::memcpy(to + head * d, from + (size_t)head * room_, sizeof(float) * d);
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

    float* query_of(int token, int head) const { return (float*)q_.data + (size_t)token * inner_ + head * m_.head_width; }
    float* key_of(int token, int head) const { return (float*)k_.data + (size_t)token * outer_ + head * m_.head_width; }

    // Norms and turns queries and keys, and writes keys and values to the cache. A norm over all heads is one thread's work.
    void remember(int thread, const Layer& layer) {
        const int heads = m_.heads + m_.key_value_heads;
        const bool across = layer.query_norm.width > m_.head_width;
        const Share share(across ? n_ : n_ * heads, thread, pool_.threads());
        for (int item = share.begin; item < share.end; item++) {
            if (!across) {
                remember_head(layer, item / heads, item % heads, layer.query_norm, layer.key_norm);
                continue;
            }
            normalise(layer.query_norm, query_of(item, 0), inner_, query_of(item, 0));
            normalise(layer.key_norm, key_of(item, 0), outer_, key_of(item, 0));
            for (int head = 0; head < heads; head++) remember_head(layer, item, head, {}, {});
        }
    }

    // One of a token's heads: those of queries first, then those of keys.
    void remember_head(const Layer& layer, int token, int head, const Norm& query_norm, const Norm& key_norm) {
        const int d = m_.head_width, key = head - m_.heads;
        float* x = key < 0 ? query_of(token, head) : key_of(token, key);
        const Norm& norm = key < 0 ? query_norm : key_norm;
        if (norm.kind != NormKind::none) normalise(norm, x, d, x);
        if (layer.angles >= 0) {
            const size_t row = (size_t)token * m_.rotary;
            turn(x, tokens_.cos[layer.angles] + row, tokens_.sin[layer.angles] + row, m_.rotary);
        }
        if (key < 0) return;
        const float* v = (const float*)v_.data + (size_t)token * outer_ + key * d;
        switch (m_.cache) {
            case CacheKind::float32: return write<FloatCache>(layer, token, key, x, v);
            case CacheKind::bfloat16: return write<NarrowCache>(layer, token, key, x, v);
            case CacheKind::few_bits: return write_recent(layer, token, key, x, v);
        }
    }

    void write_recent(const Layer& layer, int token, int head, const float* k, const float* v) {
        const int d = m_.head_width;
        const auto place = [&](const void* part) { return recent_of(*(const FewBits*)part, tokens_.slot[token], head, m_.key_value_heads, d, tokens_.position[token]); };
        std::memcpy(place(layer.keys), k, sizeof(float) * d);
        std::memcpy(place(layer.values), v, sizeof(float) * d);
    }

    template <class Cache>
    void write(const Layer& layer, int token, int head, const float* k, const float* v) {
        typedef typename Cache::Number Number;
        const size_t place = offset(tokens_.slot[token], head);
        Cache::write((Number*)layer.keys + place, (Number*)layer.values + place, tokens_.position[token], m_.head_width, k, v);
    }

    size_t offset(int slot, int head) const { return ((size_t)slot * m_.key_value_heads + head) * m_.capacity * m_.head_width; }

    void attention(int thread, const Layer& layer) {
        switch (m_.cache) {
            case CacheKind::float32: return attention_over<FloatCache>(thread, layer);
            case CacheKind::bfloat16: return attention_over<NarrowCache>(thread, layer);
            case CacheKind::few_bits: return attention_over<FewBitsCache>(thread, layer);
        }
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

    // The keys and values of one slot and head.
    template <class Cache>
    Cache cache_of(int thread, const Layer& layer, int slot, int head) {
        if constexpr (std::is_same<Cache, FewBitsCache>::value) {
            return {(const FewBits*)layer.keys, (const FewBits*)layer.values, slot, head, m_.key_value_heads, m_.head_width, (float*)unpacked_[thread].data};
        } else {
            typedef const typename Cache::Number* Numbers;
            return {(Numbers)layer.keys + offset(slot, head), (Numbers)layer.values + offset(slot, head), m_.head_width};
        }
    }

    // Stretches begin..end of one piece and key/value head: into the parts of each, or, where one thread has them all, joined.
    template <class Cache>
    void attend_piece(int thread, const Layer& layer, const Piece& piece, int head, int begin, int end) {
        const int d = m_.head_width, group = m_.heads / m_.key_value_heads;
        std::vector<Query>& queries = queries_[thread];
        queries.clear();
        for (int token = piece.begin; token < piece.end; token++) {
            for (int g = 0; g < group; g++) {
                const float* q = query_of(token, head * group + g);
                float* wide = (float*)wide_queries_[thread].data + queries.size() * room_;
                uint16_t* narrow = (uint16_t*)narrow_queries_[thread].data + queries.size() * room_;
                for (int i = 0; i < d; i += LANES) {
                    const f32x16 x = d - i < LANES ? load_some(q + i, d - i) : load(q + i);
                    store(wide + i, x);
                    store_bfloat16(narrow + i, x);
                }
                queries.push_back({wide, narrow, tokens_.position[token], first_key(layer, token)});
            }
        }
        Cache cache = cache_of<Cache>(thread, layer, tokens_.slot[piece.begin], head);
        float* fresh = (float*)scratch_[thread].data;
        std::vector<Part>& sums = sums_[thread];
        sums.clear();
        for (size_t i = 0; i < queries.size() && !split_; i++) {
            sums.push_back({0, 0, mixed(piece, head, i)});
            begin_part(sums[i], room_);
        }
        for (int stretch = begin; stretch < end; stretch++) {
            for (int first = 0, count; first < (int)queries.size(); first += count) {
                count = cache.open(&queries[first], (int)queries.size() - first, stretch * STRETCH);
                Part parts[TOGETHER];
                for (int i = 0; i < count; i++) {
                    const int token = piece.begin + (first + i) / group, query_head = head * group + (first + i) % group;
                    parts[i].mixed = split_ ? part_of(token, query_head, stretch) + LANES : fresh + i * room_;
                }
                attend_stretch(&queries[first], count, cache, stretch * STRETCH, layer.scale, layer.softcap, parts);
                for (int i = 0; i < count; i++) {
                    if (split_) parts[i].mixed[-LANES] = parts[i].most, parts[i].mixed[1 - LANES] = parts[i].total;
                    else join(sums[first + i], parts[i], room_);
                }
            }
        }
        for (Part& sum : sums) end_part(sum, room_);
    }

    float* mixed(const Piece& piece, int head, size_t query) const {
        const int group = m_.heads / m_.key_value_heads;
        return (float*)mixed_.data + ((piece.begin + query / group) * m_.heads + head * group + query % group) * room_;
    }

    // A part in memory: the largest score, the sum, and at the next whole vector the mixed values.
    int part_size() const { return LANES + room_; }
    float* part_of(int token, int head, int stretch) const {
        return (float*)parts_[0].data + (((size_t)token * m_.heads + head) * stretches_ + stretch) * part_size();
    }

    // One row of attention's output from the parts of its stretches, in their order.
    void join_row(int thread, const Layer& layer, int token, float* to) const {
        const int d = m_.head_width;
        for (int head = 0; head < m_.heads; head++) {
            Part sum = {0, 0, d == room_ ? to + head * d : (float*)scratch_[thread].data};
            begin_part(sum, room_);
            for (int stretch = first_stretch(layer, token); stretch <= tokens_.position[token] / STRETCH; stretch++) {
                float* part = part_of(token, head, stretch);
                join(sum, {part[0], part[1], part + LANES}, room_);
            }
            end_part(sum, room_);
            if (d != room_) std::memcpy(to + head * d, sum.mixed, sizeof(float) * d);
        }
    }

    // The channel up to its hidden numbers: activation(gate(x)) * up(x), or activation(up(x)).
    void open_channel(int thread, const Layer& layer) {
        const Rows& rows = prepare_normed(thread, layer.channel_norm, {layer.gate, layer.up});
        const Share share(layer.up->groups, thread, pool_.threads());
        const int stride = padded_width(m_.hidden);
        const auto open = [&](int g, int r, auto size) {
            f32x16 gates[size], ups[size];
            if (layer.gate) two_tiles<size>(*layer.gate, g, *layer.up, g, rows, r, gates, ups);
            else tile<size>(*layer.up, g, rows, r, ups);
            float* to = (float*)opened_.data + (size_t)r * stride + g * GROUP;
            for (int t = 0; t < size; t++, to += stride)
                store(to, layer.gate ? activated(m_.activation, gates[t]) * ups[t] : activated(m_.activation, ups[t]));
        };
        const bool pair = layer.gate && pays_to_pair(*layer.up, n_);
        for (int g = share.begin; g < share.end; g++) {
            if (pair) tiles_of<TALLEST_OF_TWO>(n_, [&](int r, auto size) { open(g, r, size); });
            else tiles_of<TALLEST>(n_, [&](int r, auto size) { open(g, r, size); });
        }
    }

    // x += y for this thread's outputs; the same ones whichever matrix of the stream's width it is.
    void add_mine(int thread, const Matrix& matrix, const Rows& rows) {
        const Share share(matrix.groups, thread, pool_.threads());
        linear(matrix, rows, n_, share.begin, share.end, x_, m_.width, true);
    }

    // x += y, or x += norm(y).
    void add(int thread, const Matrix& matrix, const Rows& rows, const Norm& after) {
        if (after.kind == NormKind::none) {
            add_mine(thread, matrix, rows);
            pool_.barrier();
            return;
        }
        const Share share(matrix.groups, thread, pool_.threads());
        linear(matrix, rows, n_, share.begin, share.end, (float*)part_.data, m_.width, false);
        pool_.barrier();
        const Share mine(n_, thread, pool_.threads());
        float* normed = (float*)scratch_[thread].data + TOGETHER * room_;
        for (int r = mine.begin; r < mine.end; r++) {
            normalise(after, (const float*)part_.data + (size_t)r * m_.width, m_.width, normed);
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
    const int inner_, outer_, room_;  // a query's width, a key's, and a head's in whole vectors
    Bytes q_, k_, v_, mixed_, opened_, part_;
    std::vector<std::unique_ptr<Rows>> narrow_, rows_, wide_;
    int stretches_ = 0;
    std::vector<Bytes> scratch_, wide_queries_, narrow_queries_, parts_, unpacked_;
    std::vector<std::vector<Query>> queries_;
    std::vector<std::vector<Part>> sums_;
    std::vector<Piece> pieces_;
    std::vector<Closed> closed_;
    std::vector<Refused> refused_;
};

}  // namespace
}  // namespace steelyard
