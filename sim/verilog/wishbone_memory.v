// Behavioural Wishbone B4 memory that also checks its initiator. For simulation only.
//
// The first beat of a burst is answered `latency` - 1 cycles after it was asked for, the others at once, where
// CTI says that they belong to it (registered feedback, incrementing addresses). What is outside the memory
// is answered by ERR.
//
// Options of the simulation, back door and counters: as those of axi_memory.v, but that `write_latency` is not
// known, that bursts to be made to fail are counted by their beats (write_error_at), and that there are no
// hazards: one access is over when the next begins.
module wishbone_memory #(
    parameter        DATA_BITS = 64,
    parameter        DEPTH     = 65536,
    parameter [31:0] BASE      = 32'h4000_0000
) (
    input  wire                   clk,
    input  wire                   rst,

    input  wire                   cyc,
    input  wire                   stb,
    input  wire                   we,
    input  wire [31-$clog2(DATA_BITS/8):0] adr,
    input  wire [DATA_BITS/8-1:0] sel,
    input  wire [DATA_BITS-1:0]   dat_w,
    output wire [DATA_BITS-1:0]   dat_r,
    output wire                   ack,
    output wire                   err,
    input  wire [2:0]             cti,
    input  wire [1:0]             bte,

    input  wire                   backdoor_load,
    input  wire                   backdoor_store,
    input  wire [31:0]            backdoor_first,
    input  wire [31:0]            backdoor_last,

    output reg  [31:0]            read_beats,
    output reg  [31:0]            write_beats,
    output reg  [31:0]            out_of_range,
    output reg  [31:0]            violations,
    output reg  [31:0]            hazards
);
    localparam BYTES = DATA_BITS / 8;
    localparam SIZE  = $clog2(BYTES);
    localparam ADR   = 32 - SIZE;
    localparam [31:0] POISON = 32'hDEADBEEF;
    localparam [2:0] CLASSIC = 3'd0, INCREMENTING = 3'd2, END_OF_BURST = 3'd7;

    /* verilator lint_off BLKSEQ */
    /* verilator lint_off WIDTHEXPAND */
    /* verilator lint_off WIDTHTRUNC */

    reg [DATA_BITS-1:0] mem [0:DEPTH-1];
    reg [31:0] latency, extra, stall, seed, base, words, read_error_at, write_error_at, hang_after;
    reg        hangs;
    reg [8191:0] image;
    integer i;

    reg [63:0] random;

    initial begin
        if (!$value$plusargs("latency=%d", latency)) latency = 20;
        if (!$value$plusargs("extra=%d", extra)) extra = 0;
        if (!$value$plusargs("stall=%d", stall)) stall = 0;
        if (!$value$plusargs("seed=%d", seed)) seed = 1;
        if (!$value$plusargs("base=%h", base)) base = BASE;
        if (!$value$plusargs("words=%d", words)) words = DEPTH;
        if (!$value$plusargs("read_error_at=%d", read_error_at)) read_error_at = 0;
        if (!$value$plusargs("write_error_at=%d", write_error_at)) write_error_at = 0;
        hangs = $value$plusargs("hang_after=%d", hang_after) != 0;
        random = {seed, ~seed};
        for (i = 0; i < DEPTH; i = i + 1) mem[i] = {DATA_BITS{1'b0}};
        if ($value$plusargs("image=%s", image)) $readmemh(image, mem);
        {read_beats, write_beats, out_of_range, violations, hazards} = 0;
        {waiting, pause, in_burst, held, offered, awaited} = 0;
    end

    task violation(input [8*64-1:0] reason);
        begin
            violations = violations + 1;
            if (violations <= 100) $display("wishbone_memory: %0t: %0s", $time, reason);
        end
    endtask

    reg [31:0]    waiting;   // cycles that the answer has still to wait for
    reg           pause;     // this cycle is one in which nothing moves
    reg           in_burst;  // the beat before said that this one follows
    reg [ADR-1:0] awaited;   // its address then
    reg           held;      // what was asked for in the cycle before has not been answered
    reg [DATA_BITS+BYTES+ADR+3:0]  offered;
    wire [DATA_BITS+BYTES+ADR+3:0] offer = {cti, we, adr, sel, we ? dat_w : {DATA_BITS{1'b0}}};

    wire asked   = cyc && stb;
    wire [ADR-1:0] index = adr - base[31:SIZE];
    wire outside = {{SIZE{1'b0}}, index} >= words;
    wire hung    = hangs && !we && read_beats >= hang_after;
    wire answers = asked && waiting == 0 && !pause && !hung && !rst;
    wire fails   = outside || (we ? write_beats + 1 == write_error_at : read_beats + 1 == read_error_at);
    assign ack   = answers && !fails;
    assign err   = answers && fails;
    assign dat_r = ack && !we ? mem[index[$clog2(DEPTH)-1:0]] : {DATA_BITS/32{POISON}};

    always @(posedge clk) begin
        if (stall != 0 || extra != 0) begin
            random = random ^ (random << 13);
            random = random ^ (random >> 7);
            random = random ^ (random << 17);
        end
        pause <= random[7:0] < stall;

        if (backdoor_load) $readmemh("load.hex", mem, backdoor_first, backdoor_last);
        if (backdoor_store) $writememh("store.hex", mem, backdoor_first, backdoor_last);

        if (rst) begin
            waiting <= latency - 1;
            {in_burst, held} <= 0;
        end else begin
            if (^{cyc, stb} === 1'bx) violation("undefined CYC or STB");
            if (stb && !cyc) violation("STB without CYC");
            if (held && !(asked && offer == offered)) violation("a request changed before its answer");
            held <= asked && !answers;
            offered <= offer;
            if (in_burst && !cyc) violation("CYC left a burst before its end");
            if (asked) begin
                if (^{we, adr, sel, cti} === 1'bx) violation("undefined request");
                if (cti != CLASSIC && cti != INCREMENTING && cti != END_OF_BURST) violation("unknown cycle type");
                if (cti == INCREMENTING && bte != 0) violation("burst type is not linear");
                if (in_burst && adr != awaited) violation("the burst's address is not the next one");
                if (waiting != 0) waiting <= waiting - 1;
            end
            if (answers) begin
                if (outside && !in_burst) out_of_range = out_of_range + 1;
                if (we) begin
                    write_beats = write_beats + 1;
                    for (i = 0; i < BYTES; i = i + 1)
                        if (sel[i]) begin
                            if (^dat_w[8*i +: 8] === 1'bx) violation("undefined write data");
                            if (!fails) mem[index[$clog2(DEPTH)-1:0]][8*i +: 8] = dat_w[8*i +: 8];
                        end
                end else
                    read_beats = read_beats + 1;
                in_burst <= cti == INCREMENTING;
                awaited <= adr + 1;
                if (cti != INCREMENTING) waiting <= latency - 1 + {20'd0, random[51:40]} % (extra + 1);
            end
        end
    end
endmodule
