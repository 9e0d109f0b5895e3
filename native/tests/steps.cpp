// Whole steps of small random models, a long prompt and then single tokens, and readings of logits against those of the portable routines.
#include "checks.hpp"

#include <algorithm>

using namespace steelyard;

namespace {

constexpr int WIDTH = 52, HIDDEN = 75, SLOTS = 2, CAPACITY = 192, LAYERS = 2, AT_ONCE = 20;

struct Weights32 {
    std::vector<Floats> norms;
    std::vector<Matrix*> matrices;

    ~Weights32() {
        for (Matrix* each : matrices) sy_matrix_end(each);
    }
    const Matrix* matrix(Random& draw, int outputs, int inputs, bool bits) {
        const float spread = 1 / std::sqrt((float)inputs);
        if (bits) {
            std::vector<int8_t> w((size_t)outputs * inputs);
            for (int8_t& x : w) x = (int8_t)draw.whole(-127, 127);
            const Floats scale(outputs, spread / 64);
            matrices.push_back(sy_matrix_channel8(w.data(), scale.data(), outputs, inputs, 2));
        } else {
            matrices.push_back(sy_matrix_float32(draw.normal((size_t)outputs * inputs, spread).data(), outputs, inputs));
        }
        return matrices.back();
    }
    Norm norm(Random& draw, int width, NormKind kind) {
        if (kind == NormKind::none) return {nullptr, nullptr, 0, 0, kind};
        norms.push_back(draw.normal(2 * width));
        return {norms.back().data(), kind == NormKind::layer ? norms.back().data() + width : nullptr, 1e-5f, width, kind};
    }
};

// How a cache in few bits is kept.
struct Kept {
    int bits, window, group, groups, kept;
    bool by_token;  // keys; values always are
};

// Keys or values of one layer, of exactly the size they need.
struct FewBitsMemory {
    std::vector<uint8_t> codes;
    std::vector<uint16_t> low, scale;
    Floats recent;
    FewBits fields;

    FewBitsMemory(const Kept& kept, int heads, int width, bool by_token) {
        const int share = !by_token ? 0 : width % kept.group == 0 ? kept.group : width;
        const size_t groups = (size_t)SLOTS * heads * kept.groups, scales = groups * (share ? kept.group * (width / share) : width);
        codes.resize(groups * (kept.group * kept.bits / 8) * width), low.resize(scales), scale.resize(scales);
        recent.resize((size_t)SLOTS * kept.kept * heads * width);
        fields = {codes.data(), low.data(), scale.data(), recent.data(), kept.bits, kept.window, kept.group, kept.groups, kept.kept, share};
    }
};

// A model without its cache, which each set of routines gets its own of.
struct Setting {
    Weights32 weights;
    Kept kept;
    Model model;
    std::vector<Layer> layers;
    std::string name;

    explicit Setting(Random& draw) {
        const int key_value_heads = draw.whole(1, 2), heads = key_value_heads * draw.whole(1, 3), head_width = 2 * draw.whole(2, 40);
        const int inner = heads * head_width, outer = key_value_heads * head_width, rotary = 2 * draw.whole(1, head_width / 2);
        const NormKind kind = draw.coin() ? NormKind::rms : NormKind::layer;
        const Residual residual = draw.coin() ? Residual::sequential : Residual::parallel;
        const bool gated = draw.coin(), after = residual == Residual::sequential && draw.coin(), normed = draw.coin(), bits = draw.coin();
        const CacheKind cache = (CacheKind)draw.whole(0, 2);
        const int8_t groups[] = {8, 16, 32, 64}, bits_of_code[] = {2, 4, 8};
        kept.group = groups[draw.whole(0, 3)], kept.bits = bits_of_code[draw.whole(0, 2)], kept.groups = CAPACITY / kept.group;
        kept.window = draw.coin() ? 0 : draw.whole(1, 40), kept.by_token = draw.coin();
        kept.kept = (kept.window + kept.group + AT_ONCE + kept.group - 1) / kept.group * kept.group;
        weights.norms.reserve(64);
        for (int i = 0; i < LAYERS; i++) {
            Layer layer = {};
            layer.query = weights.matrix(draw, inner, WIDTH, bits), layer.key = weights.matrix(draw, outer, WIDTH, bits);
            layer.value = weights.matrix(draw, outer, WIDTH, bits), layer.output = weights.matrix(draw, WIDTH, inner, bits);
            layer.gate = gated ? weights.matrix(draw, HIDDEN, WIDTH, bits) : nullptr;
            layer.up = weights.matrix(draw, HIDDEN, WIDTH, bits), layer.down = weights.matrix(draw, WIDTH, HIDDEN, bits);
            layer.mixer_norm = weights.norm(draw, WIDTH, kind), layer.channel_norm = weights.norm(draw, WIDTH, kind);
            layer.mixer_after = weights.norm(draw, WIDTH, after ? kind : NormKind::none);
            layer.channel_after = weights.norm(draw, WIDTH, after ? kind : NormKind::none);
            layer.query_norm = weights.norm(draw, head_width, normed ? kind : NormKind::none);
            layer.key_norm = weights.norm(draw, head_width, normed ? kind : NormKind::none);
            layer.scale = 1 / std::sqrt((float)head_width), layer.softcap = draw.coin() ? 20.0f : 0.0f;
            layer.window = i == 1 && draw.coin() ? 30 : 0, layer.angles = 0, layer.residual = residual;
            layers.push_back(layer);
        }
        const auto activation = (Activation)draw.whole(0, 3);
        model = {LAYERS, WIDTH, heads, key_value_heads, head_width, HIDDEN, rotary, activation, cache, CAPACITY, weights.norm(draw, WIDTH, kind), nullptr};
        const std::string kinds[] = {"float32", "bfloat16", std::to_string(kept.bits) + "-bit (window " + std::to_string(kept.window) + ", groups of " + std::to_string(kept.group) + ")"};
        name = std::to_string(heads) + " heads of " + std::to_string(head_width) + ", " + kinds[(int)cache] + " cache";
    }

    // The hidden states of a prompt and two more tokens in slot 1, [tokens, WIDTH]. Few bits take a prompt in pieces.
    Floats through(const Routines* routines, Pool* pool, const Floats& stream) {
        const int tokens = (int)stream.size() / WIDTH, rotary = model.rotary;
        const size_t numbers = (size_t)SLOTS * model.key_value_heads * CAPACITY * model.head_width;
        const bool few_bits = model.cache == CacheKind::few_bits;
        std::vector<Floats> caches(2 * LAYERS, Floats(few_bits ? 0 : numbers));
        std::vector<FewBitsMemory> rounded;
        for (int i = 0; few_bits && i < 2 * LAYERS; i++) rounded.emplace_back(kept, model.key_value_heads, model.head_width, i % 2 == 1 || kept.by_token);
        std::vector<Layer> own = layers;
        for (int i = 0; i < LAYERS; i++) {
            own[i].keys = few_bits ? (void*)&rounded[2 * i].fields : caches[2 * i].data();
            own[i].values = few_bits ? (void*)&rounded[2 * i + 1].fields : caches[2 * i + 1].data();
        }
        Model mine = model;
        mine.layer = own.data();
        std::vector<int32_t> slot(tokens, 1), position(tokens);
        Floats cosines((size_t)tokens * rotary), sines(cosines.size());
        for (int t = 0; t < tokens; t++) {
            position[t] = t;
            for (int i = 0; i < rotary; i++) {
                const float angle = (float)t * std::pow(10000.0f, -2.0f * (float)(i % (rotary / 2)) / (float)rotary);
                cosines[(size_t)t * rotary + i] = std::cos(angle), sines[(size_t)t * rotary + i] = std::sin(angle);
            }
        }
        Floats out = stream;
        float bounds[2];
        for (int begin = 0; begin < tokens;) {
            const int prompt = tokens - 2 - begin, count = prompt > 0 ? (few_bits ? std::min(prompt, AT_ONCE + 1) : prompt) : 1;
            const float *cos = cosines.data() + (size_t)begin * rotary, *sin = sines.data() + (size_t)begin * rotary;
            const Tokens given = {count, slot.data() + begin, position.data() + begin, &cos, &sin, bounds};
            expect(sy_step(routines, pool, &mine, &given, out.data() + (size_t)begin * WIDTH) == 1, name + ": a step is computed");
            begin += count;
        }
        return out;
    }
};

// What routines find in some rows of logits: log sums and entropies, masses, and the likeliest with their logits.
struct Reading {
    Floats sums, masses, likeliest;
    std::vector<int32_t> ids;

    Reading(const Routines* routines, Pool* pool, Floats logits, int rows, int count, int room) : sums(2 * rows), masses(rows), likeliest(rows * room), ids(rows * room) {
        std::vector<int32_t> best(rows, room), wanted(rows, 1), found(rows);
        Floats inverse(rows, 0.7f), largest(rows);
        std::vector<double> mass(rows);
        const Head head = {rows, count, room, best.data(), wanted.data(), inverse.data(), logits.data(), found.data(), ids.data(), likeliest.data(),
                           largest.data(), sums.data(), sums.data() + rows, mass.data()};
        sy_head(routines, pool, &head, nullptr, nullptr);
        masses.assign(mass.begin(), mass.end());
    }
};

void readings(const Routines* routines, const Routines* portable, Pool* pool, Random& draw, const std::string& name) {
    const int rows = draw.whole(1, 9), count = draw.whole(1, 2400);
    Floats logits = draw.normal((size_t)rows * count, draw.coin() ? 1.0f : 30.0f);
    for (int i = 1; i < count; i += 2) logits[i] = -INFINITY;
    const int room = draw.whole(0, 40);
    const Reading ours(routines, pool, logits, rows, count, room), theirs(portable, pool, logits, rows, count, room);
    const std::string what = name + ", a reading of " + std::to_string(count) + " logits";
    expect(close(ours.sums, theirs.sums, 1e-5f) && close(ours.masses, theirs.masses, 1e-5f), what);
    expect(ours.ids == theirs.ids && ours.likeliest == theirs.likeliest, what + ": the likeliest");
}

}  // namespace

void check_steps(const Routines* routines, const Routines* portable, int count) {
    for (int number = 0; number < count; number++) {
        Random draw(1000 + number);
        Setting setting(draw);
        Pool* pool = sy_pool(draw.whole(1, 3));
        const Floats stream = draw.normal((size_t)draw.whole(3, 150) * WIDTH);
        const Floats ours = setting.through(routines, pool, stream), theirs = setting.through(portable, pool, stream);
        const std::string name = std::string(routines->name) + ", " + setting.name + ", number " + std::to_string(number);
        // Where numbers are rounded to bfloat16 (or 8 bits) on the way, a last bit before it can be 1/256 after it, and in few bits a whole
        // step from one code to the next: so of few numbers only.
        const bool few_bits = setting.model.cache == CacheKind::few_bits;
        const float most[] = {2e-3f, 3e-2f, 0.6f};
        expect(close(ours, theirs, most[(int)setting.model.cache]), name + ": a step");
        if (few_bits) expect(mean_off(ours, theirs) < 4e-3f, name + ": a step, in the mean");
        readings(routines, portable, pool, draw, name);
        sy_pool_end(pool);
    }
}
