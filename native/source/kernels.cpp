// Everything that depends on the instruction set, compiled once for each. SY_SET names the one of this object.
#include "convolution.hpp"
#include "head.hpp"
#include "scan.hpp"
#include "step.hpp"

namespace steelyard {
namespace {

bool step(Pool& pool, const Model& model, const Tokens& tokens, float* stream) {
    Stepper work(pool, model, tokens, stream);
    pool.run([&](int thread) { work(thread); });
    return work.told();
}

void product(Pool& pool, const Matrix& matrix, const float* x, int rows, float* y) {
    Rows form(rows, matrix.inputs);
    pool.run([&](int thread) {
        const Share mine(rows, thread, pool.threads());
        for (int r = mine.begin; r < mine.end; r++) {
            std::memcpy(form.row(r), x + (size_t)r * matrix.inputs, sizeof(float) * matrix.inputs);
            form.prepare(r, matrix);
        }
        pool.barrier();
        const Share share(matrix.groups, thread, pool.threads());
        linear(matrix, form, rows, share.begin, share.end, y, matrix.outputs, false);
    });
}

void head(Pool& pool, const Head& head, const Matrix* matrix, const float* x) {
    Reader work(pool, head, matrix, x);
    if (matrix == nullptr && head.rows == 1) return work(0, 1);  // not worth waking the others
    pool.run([&](int thread) { work(thread, pool.threads()); });
}

}  // namespace

#define SY_JOIN(a, b) a##b
#define SY_NAMED(a, b) SY_JOIN(a, b)
#define SY_TEXT(a) #a
#define SY_QUOTED(a) SY_TEXT(a)

extern const Routines SY_NAMED(routines_, SY_SET);
const Routines SY_NAMED(routines_, SY_SET) = {SY_QUOTED(SY_SET), step, product, head, convolution, convolution_back, scan, scan_back};

}  // namespace steelyard
