// An engine beside a memory and a host that do to it what a scenario says: errors, pauses, resets, a program that
// is not the one that was meant. After each scenario the host puts everything right and runs the program again.
//
// simulation JOB
//
// The preprocessor knows DATA_BYTES, the width of the memory port. JOB is text, a word and its arguments per line:
//   memory BYTES BASE SPARE   the granted window, and as many bytes that are not granted on either side
//   image FILE                contents of the window before each run
//   expected FILE MASK        contents after it, as far as bits of the mask are set
//   program ADDRESS COUNT
//   run KEY=VALUE ...         a scenario:
//     id=N  seed=N (of the memory's pauses; 0: none)  limit=CYCLES (for the run to end)
//     patch=OFFSET:HEX (bytes of the image)  program=, instructions=, size=, base=, watchdog= (registers)
//     read_error=BEAT:RESP  write_error=BURST:RESP (from 0)  stall=CHANNEL:CYCLE:LENGTH (ar r aw w b)
//     reset=CYCLE:LENGTH  poke=CYCLE:SEED:UNTIL (the host writes every register from then on,
//     beginning no write from UNTIL on)
// Of each run it prints: id, status (-1: no end), cycles to the end, cycles from the first pause, reset or error
// to the end, cycles that it stayed busy behind a fault, read beats, write bursts, beats outside the window, breaches
// of the protocol, bytes changed outside the window, bytes that are wrong, registers that a poke changed; then of the
// run behind it status, cycles, and the last five again.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "Vtop.h"
#include "verilated.h"

namespace {

using Bytes = std::vector<uint8_t>;

constexpr unsigned LATENCY = 12;
constexpr unsigned MEMORY_BASE = 0x0C, MEMORY_SIZE = 0x10, PROGRAM = 0x14, INSTRUCTIONS = 0x18, WATCHDOG = 0x1C;
constexpr unsigned IRQ_ENABLE = 0x20, CONTROL = 0x04, STATUS = 0x08, CYCLES = 0x40;
constexpr uint64_t PATIENCE = 40000;  // cycles that a fault may take to be over

struct Random {
    uint64_t state;
    uint32_t next() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return uint32_t(state >> 16);
    }
};

struct Stall {
    int channel;
    uint64_t from, length;
};

struct Scenario {
    long id = 0;
    uint64_t seed = 0, limit = 1000000, reset_at = UINT64_MAX, reset_length = 1, poke_at = UINT64_MAX, poke_seed = 0;
    uint64_t poke_until = 0;
    long read_error = -1, write_error = -1;
    unsigned read_response = 2, write_response = 2;
    std::vector<std::pair<size_t, Bytes>> patches;
    std::map<std::string, uint32_t> registers;
    std::vector<Stall> stalls;
};

struct Burst {
    uint32_t address;
    unsigned length, id;
    uint64_t due;
};

const char *CHANNELS[] = {"ar", "r", "aw", "w", "b"};
enum { AR, R, AW, W, B };

class Bench {
  public:
    size_t bytes = 0, spare = 0;
    uint32_t base = 0, program = 0, count = 0;
    Bytes image, expected, mask;

    // Counted since the last start
    uint64_t cycle = 0, read_beats = 0, write_bursts = 0, outside = 0, violations = 0, event_at = 0;
    bool evented = false;

    void prepare() {
        memory_.resize(bytes + 2 * spare);
        for (size_t index = 0; index < memory_.size(); ++index) memory_[index] = filler(index);
        fresh();
    }

    uint8_t filler(size_t index) const { return uint8_t(index * 167 + (index >> 8) * 59 + 0x5a); }

    void fresh() {
        model_ = std::make_unique<Vtop>(&context_);
        forget();
        reset(4);
    }

    void reset(uint64_t length) {
        model_->rst = 1;
        for (uint64_t index = 0; index < length; ++index) tick();
        model_->rst = 0;
        forget();
    }

    void restore(const std::vector<std::pair<size_t, Bytes>> &patches) {
        std::memcpy(&memory_[spare], image.data(), image.size());
        for (const auto &[offset, contents] : patches)
            std::memcpy(&memory_[spare + offset], contents.data(), contents.size());
    }

    uint32_t read(unsigned offset) {
        model_->s_axil_araddr = offset;
        model_->s_axil_arvalid = 1;
        model_->s_axil_rready = 1;
        bool asked = false;
        for (unsigned patience = 0; patience < 1000; ++patience) {
            settle();
            const bool taken = model_->s_axil_arvalid && model_->s_axil_arready;
            const bool answered = model_->s_axil_rvalid;
            const uint32_t data = model_->s_axil_rdata;
            tick();
            if (taken) {
                model_->s_axil_arvalid = 0;
                asked = true;
            }
            if (answered && asked) {
                model_->s_axil_rready = 0;
                return data;
            }
        }
        ++violations;
        model_->s_axil_arvalid = model_->s_axil_rready = 0;
        return 0xffffffff;
    }

    void write(unsigned offset, uint32_t value) {
        model_->s_axil_awaddr = offset;
        model_->s_axil_awvalid = 1;
        model_->s_axil_wdata = value;
        model_->s_axil_wstrb = 15;
        model_->s_axil_wvalid = 1;
        model_->s_axil_bready = 1;
        for (unsigned patience = 0; patience < 1000; ++patience) {
            settle();
            const bool address = model_->s_axil_awvalid && model_->s_axil_awready;
            const bool data = model_->s_axil_wvalid && model_->s_axil_wready;
            const bool answered = model_->s_axil_bvalid;
            tick();
            if (address) model_->s_axil_awvalid = 0;
            if (data) model_->s_axil_wvalid = 0;
            if (answered) {
                model_->s_axil_bready = 0;
                return;
            }
        }
        ++violations;
        model_->s_axil_awvalid = model_->s_axil_wvalid = model_->s_axil_bready = 0;
    }

    // Status, or -1 where there is no end; 0 after a reset.
    long run(const Scenario &scenario, uint64_t &cycles, uint64_t &busy, unsigned &changed) {
        auto value = [&](const char *name, uint32_t usual) {
            const auto found = scenario.registers.find(name);
            return found == scenario.registers.end() ? usual : found->second;
        };
        scenario_ = &scenario;
        random_.state = scenario.seed * 0x9E3779B97F4A7C15ull + 1;
        settings_ = {{MEMORY_BASE, value("base", base)},
                     {MEMORY_SIZE, value("size", uint32_t(bytes))},
                     {PROGRAM, value("program", program)},
                     {INSTRUCTIONS, value("instructions", count)},
                     {WATCHDOG, value("watchdog", 1000)},
                     {IRQ_ENABLE, 1}};
        granted_ = std::min<uint64_t>(value("size", uint32_t(bytes)), bytes);
        for (const auto &[offset, number] : settings_) write(offset, number);
        read_beats = write_bursts = outside = violations = 0;
        evented = false;
        busy = changed = 0;
        cycle = 0;
        write(CONTROL, 1);
        for (unsigned index = 0; index < 3; ++index) tick();
        bool poked = false;
        while (true) {
            settle();
            if (model_->irq) break;
            if (cycle >= scenario.limit) {
                cycles = cycle;
                scenario_ = nullptr;
                return -1;
            }
            if (cycle >= scenario.reset_at) {
                event();
                cycles = cycle;
                scenario_ = nullptr;
                reset(scenario.reset_length);
                return 0;
            }
            if (!poked && cycle >= scenario.poke_at) {
                poked = true;
                event();
                Random values{scenario.poke_seed * 77 + 1};
                const unsigned first = values.next();
                for (unsigned index = 0; index < 32 && cycle < scenario.poke_until; ++index)
                    write(4 * ((first + index) % 32), values.next() | 1);
                for (const auto &[offset, number] : settings_) {
                    const uint32_t kept = offset == MEMORY_BASE ? number & ~4095u : number;
                    changed += read(offset) != kept;
                }
                continue;
            }
            tick();
        }
        cycles = cycle;
        long status = read(STATUS);
        while ((status & 1) && busy < PATIENCE) {
            const uint64_t before = cycle;
            tick();
            status = read(STATUS);
            busy += cycle - before;
        }
        // What is still under way would write after the end.
        for (unsigned index = 0; index < 2 * LATENCY; ++index) tick();
        scenario_ = nullptr;
        return status;
    }

    size_t dirty() const {
        size_t found = 0;
        for (size_t index = 0; index < spare; ++index) {
            found += memory_[index] != filler(index);
            const size_t high = spare + bytes + index;
            found += memory_[high] != filler(high);
        }
        return found;
    }

    size_t wrong() const {
        size_t found = 0;
        for (size_t index = 0; index < expected.size(); ++index)
            found += ((memory_[spare + index] ^ expected[index]) & mask[index]) != 0;
        return found;
    }

  private:
    VerilatedContext context_;
    std::unique_ptr<Vtop> model_;
    Bytes memory_;
    std::deque<Burst> reads_, writes_, answers_;
    unsigned read_beat_ = 0, write_beat_ = 0;
    bool offering_r_ = false, offering_b_ = false;
    bool held_[5] = {};
    uint64_t offered_[5] = {};
    uint64_t now_ = 0, granted_ = 0;
    Random random_{1};
    const Scenario *scenario_ = nullptr;
    std::map<unsigned, uint32_t> settings_;

    void forget() {
        reads_.clear();
        writes_.clear();
        answers_.clear();
        read_beat_ = write_beat_ = 0;
        offering_r_ = offering_b_ = false;
        model_->m_axi_rvalid = model_->m_axi_bvalid = 0;
        for (bool &held : held_) held = false;
    }

    void event() {
        if (!evented) event_at = cycle;
        evented = true;
    }

    bool moves(int channel) {
        if (scenario_)
            for (const Stall &stall : scenario_->stalls)
                if (stall.channel == channel && cycle >= stall.from && cycle < stall.from + stall.length) {
                    event();
                    return false;
                }
        return !(scenario_ && scenario_->seed) || random_.next() % 4;
    }

    bool inside(uint32_t address, unsigned length) const {
        const uint64_t end = uint64_t(address) + uint64_t(length) * DATA_BYTES;
        return address >= base && end <= base + granted_;
    }

    void announce(std::deque<Burst> &queue, uint32_t address, unsigned len, unsigned size, unsigned type, unsigned id) {
        violations += (1u << size) != DATA_BYTES || type != 1 || address % DATA_BYTES != 0;
        violations += (address & 4095) + (len + 1) * DATA_BYTES > 4096;
        if (!inside(address, len + 1)) outside += len + 1;
        queue.push_back({address, len + 1, id, now_ + LATENCY});
    }

    // A payload that was on offer and not taken has to stay.
    void hold(int channel, bool valid, bool ready, uint64_t payload) {
        if (held_[channel]) violations += !valid || payload != offered_[channel];
        held_[channel] = valid && !ready;
        offered_[channel] = payload;
    }

    void settle() {
        model_->clk = 0;
        model_->eval();
    }

  public:
    void tick() {
        Vtop &m = *model_;
        if (!offering_r_ && !reads_.empty() && reads_.front().due <= now_ && moves(R)) {
            const Burst &burst = reads_.front();
            const uint32_t address = burst.address + read_beat_ * DATA_BYTES;
            uint64_t word = 0;
            if (address >= base - spare && address + DATA_BYTES <= base + bytes + spare)
                std::memcpy(&word, &memory_[address - base + spare], DATA_BYTES);
            m.m_axi_rresp = 0;
            if (scenario_ && long(read_beats) == scenario_->read_error) {
                event();
                m.m_axi_rresp = scenario_->read_response;
                word = 0xDEADBEEFDEADBEEFull;
            }
            m.m_axi_rdata = word;
            m.m_axi_rid = burst.id;
            m.m_axi_rlast = read_beat_ + 1 == burst.length;
            offering_r_ = true;
        }
        if (!offering_b_ && !answers_.empty() && answers_.front().due <= now_ && moves(B)) {
            m.m_axi_bresp = 0;
            if (scenario_ && long(write_bursts) == scenario_->write_error) {
                event();
                m.m_axi_bresp = scenario_->write_response;
            }
            m.m_axi_bid = answers_.front().id;
            offering_b_ = true;
        }
        m.m_axi_rvalid = offering_r_;
        m.m_axi_bvalid = offering_b_;
        m.m_axi_arready = reads_.size() < 32 && moves(AR);
        m.m_axi_awready = writes_.size() < 32 && moves(AW);
        m.m_axi_wready = !writes_.empty() && moves(W);
        settle();
        if (!m.rst) {
            hold(AR, m.m_axi_arvalid, m.m_axi_arready, m.m_axi_araddr | uint64_t(m.m_axi_arlen) << 32);
            hold(AW, m.m_axi_awvalid, m.m_axi_awready, m.m_axi_awaddr | uint64_t(m.m_axi_awlen) << 32);
            hold(W, m.m_axi_wvalid, m.m_axi_wready, m.m_axi_wdata ^ uint64_t(m.m_axi_wstrb) << 56);
            const bool ar = m.m_axi_arvalid && m.m_axi_arready, aw = m.m_axi_awvalid && m.m_axi_awready;
            const bool w = m.m_axi_wvalid && m.m_axi_wready;
            if (w) {
                Burst &burst = writes_.front();
                const uint32_t address = burst.address + write_beat_ * DATA_BYTES;
                for (unsigned byte = 0; byte < DATA_BYTES; ++byte)
                    if (m.m_axi_wstrb >> byte & 1) {
                        if (!inside(address, 1)) ++outside;
                        if (address + byte >= base - spare && address + byte < base + bytes + spare)
                            memory_[address + byte - base + spare] = uint8_t(uint64_t(m.m_axi_wdata) >> 8 * byte);
                    }
                ++write_beat_;
                violations += bool(m.m_axi_wlast) != (write_beat_ == burst.length);
                if (write_beat_ == burst.length) {
                    burst.due = now_ + LATENCY;
                    answers_.push_back(burst);
                    writes_.pop_front();
                    write_beat_ = 0;
                }
            }
            if (ar) announce(reads_, m.m_axi_araddr, m.m_axi_arlen, m.m_axi_arsize, m.m_axi_arburst, m.m_axi_arid);
            if (aw) announce(writes_, m.m_axi_awaddr, m.m_axi_awlen, m.m_axi_awsize, m.m_axi_awburst, m.m_axi_awid);
            if (offering_r_ && m.m_axi_rready) {
                offering_r_ = false;
                ++read_beats;
                if (++read_beat_ == reads_.front().length) {
                    reads_.pop_front();
                    read_beat_ = 0;
                }
            }
            if (offering_b_ && m.m_axi_bready) {
                offering_b_ = false;
                ++write_bursts;
                answers_.pop_front();
            }
        }
        m.clk = 1;
        m.eval();
        ++now_;
        ++cycle;
    }
};

Bytes file(const std::string &name) {
    std::ifstream in(name, std::ios::binary);
    return Bytes(std::istreambuf_iterator<char>(in), {});
}

Scenario parse(std::istringstream &words) {
    Scenario scenario;
    std::string word;
    while (words >> word) {
        const size_t equals = word.find('=');
        const std::string key = word.substr(0, equals), text = word.substr(equals + 1);
        std::vector<std::string> parts;
        std::istringstream fields(text);
        for (std::string part; std::getline(fields, part, ':');) parts.push_back(part);
        auto number = [&](size_t index) { return std::strtoull(parts.at(index).c_str(), nullptr, 10); };
        if (key == "id") {
            scenario.id = long(number(0));
        } else if (key == "seed") {
            scenario.seed = number(0);
        } else if (key == "limit") {
            scenario.limit = number(0);
        } else if (key == "read_error") {
            scenario.read_error = long(number(0));
            scenario.read_response = unsigned(number(1));
        } else if (key == "write_error") {
            scenario.write_error = long(number(0));
            scenario.write_response = unsigned(number(1));
        } else if (key == "reset") {
            scenario.reset_at = number(0);
            scenario.reset_length = number(1);
        } else if (key == "poke") {
            scenario.poke_at = number(0);
            scenario.poke_seed = number(1);
            scenario.poke_until = number(2);
        } else if (key == "stall") {
            int channel = 0;
            while (parts.at(0) != CHANNELS[channel]) ++channel;
            scenario.stalls.push_back({channel, number(1), number(2)});
        } else if (key == "patch") {
            Bytes contents;
            for (size_t at = 0; at + 1 < parts.at(1).size(); at += 2)
                contents.push_back(uint8_t(std::stoi(parts[1].substr(at, 2), nullptr, 16)));
            scenario.patches.push_back({number(0), contents});
        } else {
            scenario.registers[key] = uint32_t(number(0));
        }
    }
    return scenario;
}

}  // namespace

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    std::ifstream job(argv[1]);
    Bench bench;
    bool prepared = false;
    for (std::string line; std::getline(job, line);) {
        std::istringstream words(line);
        std::string what, name, other;
        words >> what;
        if (what == "memory") {
            words >> bench.bytes >> bench.base >> bench.spare;
        } else if (what == "image") {
            words >> name;
            bench.image = file(name);
        } else if (what == "expected") {
            words >> name >> other;
            bench.expected = file(name);
            bench.mask = file(other);
        } else if (what == "program") {
            words >> bench.program >> bench.count;
        } else if (what == "run") {
            if (!prepared) bench.prepare();
            prepared = true;
            const Scenario scenario = parse(words);
            uint64_t cycles, busy;
            unsigned changed;
            bench.restore(scenario.patches);
            long status = bench.run(scenario, cycles, busy, changed);
            std::printf("%ld %ld %llu %llu %llu %llu %llu %llu %llu %zu %zu %u", scenario.id, status,
                        (unsigned long long)cycles,
                        (unsigned long long)(bench.evented ? cycles - std::min(cycles, bench.event_at) : cycles),
                        (unsigned long long)busy, (unsigned long long)bench.read_beats,
                        (unsigned long long)bench.write_bursts, (unsigned long long)bench.outside,
                        (unsigned long long)bench.violations, bench.dirty(), bench.wrong(), changed);
            // An engine that has no end is no good for the scenarios that follow.
            if (status < 0) bench.fresh();
            Scenario clean;
            bench.restore({});
            status = bench.run(clean, cycles, busy, changed);
            cycles = bench.read(CYCLES);
            std::printf(" %ld %llu %llu %llu %zu %zu\n", status, (unsigned long long)cycles,
                        (unsigned long long)bench.outside, (unsigned long long)bench.violations, bench.dirty(),
                        bench.wrong());
            std::fflush(stdout);
            if (status < 0) bench.fresh();
        }
    }
}
