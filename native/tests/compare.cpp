// Compares every instruction set that this machine and build have with the portable routines.
//
//   compare COUNT [SET ...]     COUNT random cases of each kind; with names, exactly those sets must be there besides `portable`
//
// Python's tests hold the routines to the equations; this program is for machines where Python is not at hand (native/cross.py).
#include "checks.hpp"

int main(int count, char** words) {
    if (count < 2 || std::atoi(words[1]) < 1) return std::fprintf(stderr, "compare COUNT [SET ...]\n"), 2;
    const int cases = std::atoi(words[1]);
    const steelyard::Routines* portable = sy_routines("portable");
    expect(sy_routines("none of them") == nullptr, "an unknown instruction set is refused");
    for (const char* name : {"avx512", "avx2", "i8mm", "dotprod", "neon"}) {
        const steelyard::Routines* routines = sy_routines(name);
        bool wanted = count == 2 && routines != nullptr;
        for (int i = 2; i < count; i++) wanted = wanted || std::strcmp(words[i], name) == 0;
        expect(wanted == (routines != nullptr), std::string(name) + (wanted ? " is not there" : " is there"));
        if (routines == nullptr) continue;
        const int before = comparisons;
        check_products(routines, portable, 4 * cases);
        check_steps(routines, portable, cases);
        check_recurrences(routines, portable, cases);
        std::printf("%s: %d comparisons with the portable routines\n", name, comparisons - before);
    }
    std::printf("%d comparisons, %d failures\n", comparisons, failures);
    return failures == 0 ? 0 : 1;
}
