// Behavioural memory with two doors, AXI4 for the engine and Wishbone for the host link. For simulation only.
//
// AXI4: one burst of each direction at a time, INCR, whole words, a word per cycle, two cycles ahead of the
// first. Wishbone: 32 bits, classic; answers a cycle after the request, `err` beyond the memory. An AXI4 burst
// beyond the memory answers SLVERR.
module shared_memory #(
    parameter DATA_BITS = 64,
    parameter BYTES     = 65536
) (
    input  wire                       clk,

    input  wire                       awvalid,
    output wire                       awready,
    input  wire                       awid,
    input  wire [31:0]                awaddr,
    input  wire [7:0]                 awlen,
    input  wire                       wvalid,
    output wire                       wready,
    input  wire [DATA_BITS-1:0]       wdata,
    input  wire [DATA_BITS/8-1:0]     wstrb,
    input  wire                       wlast,
    output reg                        bvalid,
    input  wire                       bready,
    output reg                        bid,
    output reg  [1:0]                 bresp,

    input  wire                       arvalid,
    output wire                       arready,
    input  wire                       arid,
    input  wire [31:0]                araddr,
    input  wire [7:0]                 arlen,
    output reg                        rvalid,
    input  wire                       rready,
    output reg                        rid,
    output reg  [DATA_BITS-1:0]       rdata,
    output reg  [1:0]                 rresp,
    output reg                        rlast,

    input  wire                       wb_stb,
    input  wire                       wb_we,
    input  wire [$clog2(BYTES)-3:0]   wb_adr,
    input  wire [3:0]                 wb_sel,
    input  wire [31:0]                wb_dat_w,
    output reg  [31:0]                wb_dat_r,
    output reg                        wb_ack,
    output wire                       wb_err
);
    localparam LANES = DATA_BITS / 32;
    localparam WORDS = BYTES / 4;

    reg [31:0] mem [0:WORDS-1];
    integer i, b;

    reg        writing, reading, write_bad;
    reg [31:0] write_word, read_word;
    reg [8:0]  read_left;

    assign awready = !writing && !bvalid;
    assign wready  = writing;
    assign arready = !reading && !rvalid;
    assign wb_err  = 1'b0;  // as wide as its address, it has a word at each

    initial begin
        for (i = 0; i < WORDS; i = i + 1) mem[i] = 32'd0;
        {writing, reading, write_bad, bvalid, rvalid, wb_ack, rlast} = 0;
        {bid, rid, write_word, read_word, read_left, bresp, rresp, rdata, wb_dat_r} = 0;
    end

    always @(posedge clk) begin
        if (bready) bvalid <= 1'b0;
        if (awvalid && awready) begin
            writing    <= 1'b1;
            bid        <= awid;
            write_bad  <= awaddr + ({24'd0, awlen} + 1) * (DATA_BITS / 8) > BYTES;
            write_word <= awaddr >> 2;
        end
        if (wvalid && wready) begin
            if (!write_bad)
                for (i = 0; i < LANES; i = i + 1)
                    for (b = 0; b < 4; b = b + 1)
                        if (wstrb[4*i+b])
                            mem[write_word + i][8*b +: 8] <= wdata[32*i+8*b +: 8];
            write_word <= write_word + LANES;
            if (wlast) begin
                writing <= 1'b0;
                bvalid  <= 1'b1;
                bresp   <= write_bad ? 2'd2 : 2'd0;
            end
        end

        if (rready) rvalid <= 1'b0;
        if (arvalid && arready) begin
            reading   <= 1'b1;
            rid       <= arid;
            read_left <= arlen + 1;
            read_word <= araddr >> 2;
        end
        if (reading && (!rvalid || rready)) begin
            rvalid <= 1'b1;
            rresp  <= read_word + LANES > WORDS ? 2'd2 : 2'd0;
            rlast  <= read_left == 1;
            for (i = 0; i < LANES; i = i + 1)
                rdata[32*i +: 32] <= mem[(read_word + i) % WORDS];
            read_word <= read_word + LANES;
            read_left <= read_left - 1;
            if (read_left == 1) reading <= 1'b0;
        end

        wb_ack <= wb_stb && !wb_ack;
        if (wb_stb && !wb_ack) begin
            wb_dat_r <= mem[wb_adr];
            if (wb_we)
                for (b = 0; b < 4; b = b + 1)
                    if (wb_sel[b]) mem[wb_adr][8*b +: 8] <= wb_dat_w[8*b +: 8];
        end
    end
endmodule
