// Behavioural AXI4 memory that also checks its master. For simulation only.
//
// Read latency is pipelined: a burst's first beat may leave `latency` cycles after its address was taken,
// every later beat follows a cycle after the one before, and so do the bursts queued behind it. Answers come
// in the order of the addresses. An access outside the memory answers DECERR.
//
// Set when the simulation starts, so that one compiled simulation serves every timing:
//   +latency=N          cycles from address to first data, and from last data to write response, handshake to
//                       handshake (default 20, at least 2)
//   +write_latency=N    the latter alone
//   +extra=N            each burst takes up to N cycles more, at random
//   +stall=P            each channel pauses with probability P/256 in each cycle
//   +seed=N             seed of all that is random
//   +read_error_at=N    the Nth read beat since the start answers SLVERR (from 1)
//   +write_error_at=N   the Nth write burst since the start answers SLVERR (from 1)
//   +hang_after=N       no read beat follows the Nth
//   +base=HEX           address of the first byte, instead of BASE
//   +words=N            size, instead of DEPTH
//   +image=FILE         initial contents, for $readmemh; what it leaves out is zero
//
// The back door, for a test bench: in a cycle with `backdoor_load` high, the words backdoor_first to
// backdoor_last are read from "load.hex" in the working directory; with `backdoor_store` high they are written
// to "store.hex".
//
// Counters, since the start of the simulation (a reset does not clear them):
//   read_beats, write_beats   data beats taken by the master, given by the master
//   out_of_range              bursts that leave the memory
//   violations                breaches of the protocol; $display gives the reason of the first 100
//   hazards                   bursts that overlap one of the other direction in flight: AXI4 does not order
//                             the two, so the data read is undefined on real hardware
module axi_memory #(
    parameter        DATA_BITS = 64,
    parameter        DEPTH     = 65536,
    parameter [31:0] BASE      = 32'h4000_0000,
    parameter        ID_BITS   = 1,
    // Cycles that write data may wait for its address. AXI4 sets no limit, but data without any address
    // would otherwise be a silent deadlock.
    parameter        DATA_LEAD = 64
) (
    input  wire                   clk,
    input  wire                   rst,

    input  wire                   awvalid,
    output reg                    awready,
    input  wire [ID_BITS-1:0]     awid,
    input  wire [31:0]            awaddr,
    input  wire [7:0]             awlen,
    input  wire [2:0]             awsize,
    input  wire [1:0]             awburst,
    input  wire                   wvalid,
    output reg                    wready,
    input  wire [DATA_BITS-1:0]   wdata,
    input  wire [DATA_BITS/8-1:0] wstrb,
    input  wire                   wlast,
    output reg                    bvalid,
    input  wire                   bready,
    output reg  [ID_BITS-1:0]     bid,
    output reg  [1:0]             bresp,

    input  wire                   arvalid,
    output reg                    arready,
    input  wire [ID_BITS-1:0]     arid,
    input  wire [31:0]            araddr,
    input  wire [7:0]             arlen,
    input  wire [2:0]             arsize,
    input  wire [1:0]             arburst,
    output reg                    rvalid,
    input  wire                   rready,
    output reg  [ID_BITS-1:0]     rid,
    output reg  [DATA_BITS-1:0]   rdata,
    output reg  [1:0]             rresp,
    output reg                    rlast,

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
    localparam QUEUE = 64;  // bursts of each direction; a power of two

    localparam [1:0] OKAY = 2'd0, SLVERR = 2'd2, DECERR = 2'd3;
    localparam [31:0] POISON = 32'hDEADBEEF;  // what a failed read returns, so that nobody uses it unnoticed

    // Blocking assignments to `mem`, `random` and the counters are safe: they are used in one process only,
    // and the counters leave the module for nothing but observation. Every other output is nonblocking.
    // The checks compare with x because Icarus has it; Verilator drops these.
    /* verilator lint_off BLKSEQ */
    /* verilator lint_off WIDTHEXPAND */

    reg [DATA_BITS-1:0] mem [0:DEPTH-1];

    reg [31:0] latency, write_latency, extra, stall, seed, base, words;
    reg [31:0] read_error_at, write_error_at, hang_after;
    reg        hangs;
    reg [8191:0] image;
    integer i;

    // Time, and 64 random bits of every cycle (xorshift)
    reg [31:0] now;
    reg [63:0] random;
    wire stall_ar = random[7:0]   < stall;
    wire stall_r  = random[15:8]  < stall;
    wire stall_aw = random[23:16] < stall;
    wire stall_w  = random[31:24] < stall;
    wire stall_b  = random[39:32] < stall;
    wire [31:0] extra_r = {20'd0, random[51:40]} % (extra + 1);
    wire [31:0] extra_w = {20'd0, random[63:52]} % (extra + 1);

    initial begin
        if (!$value$plusargs("latency=%d", latency)) latency = 20;
        write_latency = latency;
        if (!$value$plusargs("write_latency=%d", write_latency)) write_latency = latency;
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
    end

    function reached(input [31:0] due);  // survives a wrap of `now`
        reached = now - due < 32'h8000_0000;
    endfunction

    function [31:0] word_of(input [31:0] address);
        word_of = (address - base) >> SIZE;
    endfunction

    // Whether any word of the burst is outside; an address below the base wraps to a large word number
    function outside(input [31:0] address, input [7:0] length);
        outside = word_of(address) >= words || word_of(address) + length >= words;
    endfunction

    function overlap(input [31:0] address, input [7:0] length, input [31:0] address2, input [7:0] length2);
        overlap = word_of(address) <= word_of(address2) + length2
               && word_of(address2) <= word_of(address) + length;
    endfunction

    task violation(input [8*64-1:0] reason);
        begin
            violations = violations + 1;
            if (violations <= 100) $display("axi_memory: %0t: %0s", $time, reason);
        end
    endtask

    task check_burst(input [31:0] address, input [7:0] length, input [2:0] size, input [1:0] burst);
        begin
            if (^{address, length, size, burst} === 1'bx) violation("undefined address");
            if (size != SIZE) violation("size of a beat is not the width of the bus");
            if (burst != 2'd1) violation("burst type is not INCR");
            if ((address[11:0] >> SIZE) + length >= (4096 >> SIZE)) violation("burst crosses 4 KiB");
        end
    endtask

    // Reads: a ring of bursts, rd_head the one being answered
    reg [31:0]        rd_address [0:QUEUE-1];
    reg [7:0]         rd_length  [0:QUEUE-1];
    reg [ID_BITS-1:0] rd_id      [0:QUEUE-1];
    reg [31:0]        rd_due     [0:QUEUE-1];
    reg [31:0] rd_head, rd_tail, rd_sent;
    reg [7:0]  rd_beat;

    wire [5:0]  rd_at   = rd_head[5:0];
    wire [31:0] rd_word = word_of(rd_address[rd_at]) + rd_beat;

    // Writes: a ring of bursts, in order of age: wr_done the one whose response is next to be taken, wr_head
    // the one to be answered, wr_data the one that receives data, wr_tail the next free place
    reg [31:0]        wr_address [0:QUEUE-1];
    reg [7:0]         wr_length  [0:QUEUE-1];
    reg [ID_BITS-1:0] wr_id      [0:QUEUE-1];
    reg [1:0]         wr_resp    [0:QUEUE-1];
    reg [31:0]        wr_due     [0:QUEUE-1];
    reg [31:0] wr_done, wr_head, wr_data, wr_tail, wr_promised, wr_alone, wr_bursts;
    reg [7:0]  wr_beat;
    reg [1:0]  wr_error;

    wire [5:0]  wr_at    = wr_data[5:0];
    wire [31:0] wr_word  = word_of(wr_address[wr_at]) + wr_beat;
    wire        wr_final = wr_beat == wr_length[wr_at];
    wire [1:0]  wr_now   = wr_word >= words ? DECERR : wr_error;

    wire ar_taken = arvalid && arready;
    wire aw_taken = awvalid && awready;
    wire w_taken  = wvalid && wready;

    // Data beats that addresses were taken for and that have not come yet, after this cycle
    wire [31:0] wr_awaited = wr_promised + (aw_taken ? awlen + 1 : 0) - (w_taken ? 1 : 0);

    // What was offered and not taken in the cycle before must still be there
    reg ar_held, aw_held, w_held;
    reg [ID_BITS+44:0]             ar_before, aw_before;
    reg [DATA_BITS+DATA_BITS/8:0]  w_before;
    wire [ID_BITS+44:0]            ar_offer = {arid, araddr, arlen, arsize, arburst};
    wire [ID_BITS+44:0]            aw_offer = {awid, awaddr, awlen, awsize, awburst};
    wire [DATA_BITS+DATA_BITS/8:0] w_offer  = {wdata, wstrb, wlast};

    reg [DATA_BITS-1:0] mask;
    reg [31:0] k;

    initial begin
        {read_beats, write_beats, out_of_range, violations, hazards} = 0;
        {awready, wready, bvalid, arready, rvalid, rlast} = 0;
        {bid, bresp, rid, rdata, rresp} = 0;
        {now, rd_head, rd_tail, rd_sent, rd_beat} = 0;
        {wr_done, wr_head, wr_data, wr_tail, wr_promised, wr_alone, wr_bursts, wr_beat, wr_error} = 0;
        {ar_held, aw_held, w_held, ar_before, aw_before, w_before} = 0;
    end

    always @(posedge clk) begin
        now <= now + 1;
        if (stall != 0 || extra != 0) begin
            random = random ^ (random << 13);
            random = random ^ (random >> 7);
            random = random ^ (random << 17);
        end

        if (backdoor_load) $readmemh("load.hex", mem, backdoor_first, backdoor_last);
        if (backdoor_store) $writememh("store.hex", mem, backdoor_first, backdoor_last);

        if (rst) begin
            {awready, wready, bvalid, arready, rvalid} <= 0;
            {rd_head, rd_tail, rd_beat} <= 0;
            {wr_done, wr_head, wr_data, wr_tail, wr_promised, wr_alone, wr_beat, wr_error} <= 0;
            {ar_held, aw_held, w_held} <= 0;
        end else begin
            // Read addresses
            arready <= rd_tail - rd_head < QUEUE - 2 && !stall_ar;
            if (ar_taken) begin
                rd_address[rd_tail[5:0]] <= araddr;
                rd_length[rd_tail[5:0]] <= arlen;
                rd_id[rd_tail[5:0]] <= arid;
                rd_due[rd_tail[5:0]] <= now + latency - 1 + extra_r;
                rd_tail <= rd_tail + 1;
                check_burst(araddr, arlen, arsize, arburst);
                if (outside(araddr, arlen)) out_of_range = out_of_range + 1;
                for (k = wr_done; k != wr_tail; k = k + 1)
                    if (overlap(araddr, arlen, wr_address[k[5:0]], wr_length[k[5:0]])) hazards = hazards + 1;
                if (aw_taken && overlap(araddr, arlen, awaddr, awlen)) hazards = hazards + 1;
            end

            // Read data
            if (rvalid && rready) read_beats = read_beats + 1;
            if (!rvalid || rready) begin
                rvalid <= 0;
                if (rd_head != rd_tail && reached(rd_due[rd_at]) && !stall_r && !(hangs && rd_sent >= hang_after))
                begin
                    rvalid <= 1;
                    rid <= rd_id[rd_at];
                    rlast <= rd_beat == rd_length[rd_at];
                    if (rd_word >= words) begin
                        rdata <= {DATA_BITS/32{POISON}};
                        rresp <= DECERR;
                    end else if (rd_sent + 1 == read_error_at) begin
                        rdata <= {DATA_BITS/32{POISON}};
                        rresp <= SLVERR;
                    end else begin
                        rdata <= mem[rd_word];
                        rresp <= OKAY;
                    end
                    rd_sent <= rd_sent + 1;
                    rd_beat <= rd_beat + 1;
                    if (rd_beat == rd_length[rd_at]) begin
                        rd_beat <= 0;
                        rd_head <= rd_head + 1;
                    end
                end
            end

            // Write addresses
            awready <= wr_tail - wr_done < QUEUE - 2 && !stall_aw;
            if (aw_taken) begin
                wr_address[wr_tail[5:0]] <= awaddr;
                wr_length[wr_tail[5:0]] <= awlen;
                wr_id[wr_tail[5:0]] <= awid;
                wr_tail <= wr_tail + 1;
                check_burst(awaddr, awlen, awsize, awburst);
                if (outside(awaddr, awlen)) out_of_range = out_of_range + 1;
                for (k = rd_head; k != rd_tail; k = k + 1)
                    if (overlap(awaddr, awlen, rd_address[k[5:0]], rd_length[k[5:0]])) hazards = hazards + 1;
            end

            // Write data
            wready <= wr_awaited != 0 && !stall_w;
            wr_promised <= wr_awaited;
            if (w_taken) begin
                write_beats = write_beats + 1;
                for (i = 0; i < BYTES; i = i + 1) mask[8*i +: 8] = {8{wstrb[i]}};
                if (^{wstrb, wlast, wdata & mask} === 1'bx) violation("undefined write data");
                if (wr_word < words) mem[wr_word] = (mem[wr_word] & ~mask) | (wdata & mask);
                if (wlast != wr_final) violation("WLAST is not at the last beat");
                if (wr_final) begin
                    wr_resp[wr_at] <= wr_bursts + 1 == write_error_at ? SLVERR : wr_now;
                    wr_due[wr_at] <= now + write_latency - 1 + extra_w;
                    wr_data <= wr_data + 1;
                    wr_bursts <= wr_bursts + 1;
                    wr_beat <= 0;
                    wr_error <= OKAY;
                end else begin
                    wr_beat <= wr_beat + 1;
                    wr_error <= wr_now;
                end
            end
            wr_alone <= wvalid && !awvalid && wr_promised == 0 ? wr_alone + 1 : 0;
            if (wr_alone == DATA_LEAD + 1) violation("more write data than addresses");

            // Write responses
            if (bvalid && bready) wr_done <= wr_done + 1;
            if (!bvalid || bready) begin
                bvalid <= 0;
                if (wr_head != wr_data && reached(wr_due[wr_head[5:0]]) && !stall_b) begin
                    bvalid <= 1;
                    bid <= wr_id[wr_head[5:0]];
                    bresp <= wr_resp[wr_head[5:0]];
                    wr_head <= wr_head + 1;
                end
            end

            // Handshakes
            if (^{arvalid, awvalid, wvalid, rready, bready} === 1'bx) violation("undefined VALID or READY");
            ar_held <= arvalid && !arready;
            aw_held <= awvalid && !awready;
            w_held <= wvalid && !wready;
            ar_before <= ar_offer;
            aw_before <= aw_offer;
            w_before <= w_offer;
            if (ar_held && !arvalid) violation("ARVALID was dropped");
            else if (ar_held && ar_offer != ar_before) violation("read address changed while waiting");
            if (aw_held && !awvalid) violation("AWVALID was dropped");
            else if (aw_held && aw_offer != aw_before) violation("write address changed while waiting");
            if (w_held && !wvalid) violation("WVALID was dropped");
            else if (w_held && w_offer != w_before) violation("write data changed while waiting");
        end
    end
endmodule
