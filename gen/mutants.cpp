// Tries mutants of a design on recorded stimuli: for each, the first cycle in which it can be told from the design.
//
// simulation STIMULI MUTANTS
// simulation STIMULI MUTANT show
//
// STIMULI, 32-bit words: words of an input, words of an output, number of segments; of each segment its cycles,
// and of each cycle input, expected output, and which bits of it are observed. A segment begins with a model of its
// own, as the power-on state. One line per mutant: number, segment and cycle, or number and "survived". With `show`
// a line of each cycle, of one mutant: the output, as hexadecimal words with the lowest first.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "Vtop.h"
#include "verilated.h"

struct Segment {
    const uint32_t *words;
    uint32_t cycles;
};

int main(int argc, char **argv) {
    if (argc != 3 && argc != 4) return 2;
    const bool show = argc == 4;
    const uint32_t last = uint32_t(std::atoi(argv[2]));
    std::FILE *file = std::fopen(argv[1], "rb");
    if (!file) return 2;
    std::vector<uint32_t> data;
    uint32_t buffer[4096];
    for (size_t count; (count = std::fread(buffer, 4, 4096, file));) data.insert(data.end(), buffer, buffer + count);
    std::fclose(file);
    const uint32_t inputs = data[0], outputs = data[1], count = data[2];
    const uint32_t *at = data.data() + 3;
    std::vector<Segment> segments;
    for (uint32_t index = 0; index < count; ++index) {
        const uint32_t cycles = *at++;
        segments.push_back({at, cycles});
        at += size_t(cycles) * (inputs + 2 * outputs);
    }
    for (uint32_t mutant = show ? last : 0; mutant <= last; ++mutant) {
        bool killed = false;
        for (uint32_t index = 0; index < count && !killed; ++index) {
            VerilatedContext context;
            auto model = std::make_unique<Vtop>(&context);
            model->mutsel = mutant;
            const uint32_t *words = segments[index].words;
            for (uint32_t cycle = 0; cycle < segments[index].cycles && !killed; ++cycle) {
                for (uint32_t word = 0; word < inputs; ++word) model->i[word] = *words++;
                model->clk = 0;
                model->eval();
                for (uint32_t word = 0; show && word < outputs; ++word)
                    std::printf("%08x%c", model->o[word], word + 1 < outputs ? ' ' : '\n');
                for (uint32_t word = 0; !show && word < outputs; ++word)
                    killed |= ((model->o[word] ^ words[word]) & words[outputs + word]) != 0;
                words += 2 * outputs;
                if (killed) std::printf("%u %u %u\n", mutant, index, cycle);
                model->clk = 1;
                model->eval();
            }
        }
        if (!killed && !show) std::printf("%u survived\n", mutant);
    }
}
