// A design with a serial line, in a simulation, behind a TCP port on this machine.
//
//   simulation BIT_CYCLES
//
// prints "port N", takes one connection after the other, and carries their bytes to the design's `uart_rx` and
// those of `uart_tx` back. `clk` is the design's clock; there is no reset, as on a board after configuration.
// It ends when its standard input does. Then it prints "cycles N".

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <vector>

#include "Vtop.h"
#include "verilated.h"

namespace {

// Cycles between two looks at the connection: a look takes as long as some cycles.
constexpr unsigned LOOK_CYCLES = 256;
// Cycles without a byte in either direction after which the simulation only ticks over, so that one that nobody
// talks to does not take a processor. An engine that computes for longer is polled meanwhile.
constexpr unsigned IDLE_CYCLES = 2000000;

// Sends bytes, 8N1.
class Sender {
  public:
    explicit Sender(unsigned bit_cycles) : bit_cycles_(bit_cycles) {}
    std::deque<unsigned char> bytes;

    bool step() {
        if (left_ == 0) {
            if (bits_ == 0 && !bytes.empty()) {
                frame_ = 0x200u | bytes.front() << 1;
                bytes.pop_front();
                bits_ = 10;
            } else if (bits_ == 0) {
                return true;
            }
            level_ = frame_ & 1;
            frame_ >>= 1;
            --bits_;
            left_ = bit_cycles_;
        }
        --left_;
        return level_;
    }
    bool idle() const { return bits_ == 0 && left_ == 0 && bytes.empty(); }

  private:
    unsigned bit_cycles_, left_ = 0, bits_ = 0, frame_ = 0;
    bool level_ = true;
};

// Receives bytes, 8N1, sampled in the middle of a bit.
class Receiver {
  public:
    explicit Receiver(unsigned bit_cycles) : bit_cycles_(bit_cycles) {}
    std::vector<unsigned char> bytes;

    void step(bool level) {
        if (bit_ < 0) {
            if (waiting_ && level) waiting_ = false;
            if (waiting_ || level) return;
            bit_ = 0;
            left_ = bit_cycles_ / 2;
            return;
        }
        if (--left_ > 0) return;
        left_ = bit_cycles_;
        if (bit_ == 0) {
            if (level) bit_ = -2;
        } else if (bit_ <= 8) {
            byte_ = byte_ >> 1 | (level ? 0x80 : 0);
        } else {
            if (level) bytes.push_back(byte_);
            waiting_ = !level;
            bit_ = -2;
        }
        ++bit_;
    }

  private:
    int bit_cycles_, left_ = 0, bit_ = -1;
    bool waiting_ = true;  // for the line to be high before the first start bit
    unsigned char byte_ = 0;
};

bool ended() {
    pollfd input{0, POLLIN, 0};
    char byte;
    return poll(&input, 1, 0) > 0 && read(0, &byte, 1) <= 0;
}

}  // namespace

int main(int argc, char** argv) {
    int bit_cycles = argc > 1 ? std::atoi(argv[1]) : 0;
    if (bit_cycles < 2) {
        std::fprintf(stderr, "usage: simulation BIT_CYCLES\n");
        return 2;
    }
    std::signal(SIGPIPE, SIG_IGN);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (listener < 0 || bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) ||
        listen(listener, 1) || getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length)) {
        std::perror("simulation: no port");
        return 1;
    }
    fcntl(listener, F_SETFL, O_NONBLOCK);
    std::printf("port %d\n", ntohs(address.sin_port));
    std::fflush(stdout);

    auto context = std::make_unique<VerilatedContext>();
    auto top = std::make_unique<Vtop>(context.get());
    Sender sender(bit_cycles);
    Receiver receiver(bit_cycles);
    int connection = -1;
    unsigned long long cycles = 0, quiet = 0;
    top->clk = 0;
    top->uart_rx = 1;
    top->eval();
    while (true) {
        for (unsigned count = 0; count < LOOK_CYCLES; ++count) {
            top->uart_rx = sender.step();
            top->clk = 1;
            top->eval();
            receiver.step(top->uart_tx);
            top->clk = 0;
            top->eval();
        }
        cycles += LOOK_CYCLES;
        quiet += LOOK_CYCLES;
        if (connection < 0) {
            connection = accept(listener, nullptr, nullptr);
            if (connection >= 0) {
                int on = 1;
                fcntl(connection, F_SETFL, O_NONBLOCK);
                setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                sender.bytes.clear();
                receiver.bytes.clear();
            }
        }
        if (connection >= 0) {
            unsigned char block[4096];
            ssize_t got = sender.bytes.size() > sizeof block ? -1 : recv(connection, block, sizeof block, 0);
            if (got == 0) {
                close(connection);
                connection = -1;
            } else if (got > 0) {
                sender.bytes.insert(sender.bytes.end(), block, block + got);
            }
        }
        if (!receiver.bytes.empty()) {
            // The kernel's buffer is far larger than a reply; what would not fit is lost, as on a real line.
            if (connection >= 0) (void)!send(connection, receiver.bytes.data(), receiver.bytes.size(), 0);
            receiver.bytes.clear();
            quiet = 0;
        }
        if (!sender.idle()) quiet = 0;
        if (quiet > IDLE_CYCLES || connection < 0) {
            pollfd wait[] = {{connection < 0 ? listener : connection, POLLIN, 0}, {0, POLLIN, 0}};
            poll(wait, 2, 2);
        }
        // At most now and then, and always where the loop has slowed down
        if ((cycles & 0xFFFF) == 0 || quiet > IDLE_CYCLES || connection < 0) {
            if (ended()) break;
        }
    }
    std::printf("cycles %llu\n", cycles);
    top->final();
    return 0;
}
