// A stand-in engine: copies a block of memory, with the ports of the real one.
//
// Registers: 0x00 id, 0x04 control (bit 0 starts), 0x08 status (bit 0 busy, 1 done, 2 fault),
// 0x0c source address, 0x10 destination address, 0x14 words to copy, 0x18 misbehave: 1 never raises irq,
// 2 crosses 4 KiB, 3 reads back what it has just written without waiting for the response.
module bitwright #(
    parameter D = `BUS_BITS
) (
    input  wire           clk, rst,
    output wire           irq,
    input  wire           s_axil_awvalid,
    output wire           s_axil_awready,
    input  wire [7:0]     s_axil_awaddr,
    input  wire [2:0]     s_axil_awprot,
    input  wire           s_axil_wvalid,
    output wire           s_axil_wready,
    input  wire [31:0]    s_axil_wdata,
    input  wire [3:0]     s_axil_wstrb,
    output reg            s_axil_bvalid,
    input  wire           s_axil_bready,
    output reg  [1:0]     s_axil_bresp,
    input  wire           s_axil_arvalid,
    output wire           s_axil_arready,
    input  wire [7:0]     s_axil_araddr,
    input  wire [2:0]     s_axil_arprot,
    output reg            s_axil_rvalid,
    input  wire           s_axil_rready,
    output reg  [31:0]    s_axil_rdata,
    output wire [1:0]     s_axil_rresp,
    output reg            m_axi_awvalid,
    input  wire           m_axi_awready,
    output wire           m_axi_awid,
    output reg  [31:0]    m_axi_awaddr,
    output reg  [7:0]     m_axi_awlen,
    output wire [2:0]     m_axi_awsize,
    output wire [1:0]     m_axi_awburst,
    output wire [3:0]     m_axi_awcache,
    output wire [2:0]     m_axi_awprot,
    output wire           m_axi_wvalid,
    input  wire           m_axi_wready,
    output wire [D-1:0]   m_axi_wdata,
    output wire [D/8-1:0] m_axi_wstrb,
    output wire           m_axi_wlast,
    input  wire           m_axi_bvalid,
    output wire           m_axi_bready,
    input  wire           m_axi_bid,
    input  wire [1:0]     m_axi_bresp,
    output reg            m_axi_arvalid,
    input  wire           m_axi_arready,
    output wire           m_axi_arid,
    output reg  [31:0]    m_axi_araddr,
    output reg  [7:0]     m_axi_arlen,
    output wire [2:0]     m_axi_arsize,
    output wire [1:0]     m_axi_arburst,
    output wire [3:0]     m_axi_arcache,
    output wire [2:0]     m_axi_arprot,
    input  wire           m_axi_rvalid,
    output wire           m_axi_rready,
    input  wire           m_axi_rid,
    input  wire [D-1:0]   m_axi_rdata,
    input  wire [1:0]     m_axi_rresp,
    input  wire           m_axi_rlast
);
    localparam [31:0] BYTES = D / 8;
    localparam [2:0] SIZE = $clog2(D / 8);
    localparam [31:0] BURST = 16;
    localparam IDLE = 3'd0, PLAN = 3'd1, READ = 3'd2, WRITE = 3'd3, ANSWER = 3'd4;

    assign {m_axi_awid, m_axi_arid, s_axil_rresp} = 0;
    assign {m_axi_awcache, m_axi_arcache, m_axi_awprot, m_axi_arprot} = {4'd3, 4'd3, 3'd0, 3'd0};
    assign {m_axi_awsize, m_axi_arsize} = {SIZE, SIZE};
    assign {m_axi_awburst, m_axi_arburst} = {2'd1, 2'd1};

    reg [31:0] source, target, words, misbehave;
    reg        done, fault;
    reg [2:0]  state;
    reg [D-1:0] buffer [0:BURST-1];
    reg [4:0]  filled, emptied;

    // No burst crosses a multiple of its longest length, unless that is asked for
    wire [31:0] from_source = BURST - (source / BYTES) % BURST;
    wire [31:0] from_target = BURST - (target / BYTES) % BURST;
    wire [31:0] least = from_source < from_target ? from_source : from_target;
    wire [31:0] most = misbehave == 2 ? BURST : least;
    wire [31:0] chunk = words < most ? words : most;
    reg  [4:0]  beats;

    assign irq = state == IDLE && (done || fault);
    assign m_axi_rready = state == READ;
    assign m_axi_wvalid = state == WRITE && emptied != beats;
    assign m_axi_wdata = buffer[emptied[3:0]];
    assign m_axi_wstrb = {D/8{1'b1}};
    assign m_axi_wlast = emptied + 1 == beats;
    assign m_axi_bready = state == ANSWER;

    assign s_axil_awready = s_axil_awvalid && s_axil_wvalid && !s_axil_bvalid;
    assign s_axil_wready = s_axil_awready;
    assign s_axil_arready = !s_axil_rvalid;

    always @(posedge clk) begin
        case (state)
            PLAN: begin
                beats <= chunk[4:0];
                m_axi_araddr <= source;
                m_axi_awaddr <= target;
                m_axi_arlen <= chunk[7:0] - 1;
                m_axi_awlen <= chunk[7:0] - 1;
                m_axi_arvalid <= chunk != 0;
                filled <= 0;
                emptied <= 0;
                state <= chunk == 0 ? IDLE : READ;
                if (chunk == 0) done <= misbehave != 1;
            end
            READ: begin
                if (m_axi_arready) m_axi_arvalid <= 0;
                if (m_axi_rvalid) begin
                    buffer[filled[3:0]] <= m_axi_rdata;
                    filled <= filled + 1;
                    if (m_axi_rresp != 0) fault <= 1;
                    if (m_axi_rlast) begin
                        m_axi_awvalid <= 1;
                        state <= WRITE;
                    end
                end
            end
            WRITE: begin
                if (m_axi_awready) m_axi_awvalid <= 0;
                if (m_axi_wvalid && m_axi_wready) emptied <= emptied + 1;
                if (m_axi_arready) m_axi_arvalid <= 0;
                if (emptied == beats && !m_axi_awvalid) begin
                    state <= ANSWER;
                    if (misbehave == 3) begin
                        m_axi_arvalid <= 1;
                        m_axi_araddr <= target;
                    end
                end
            end
            ANSWER: begin
                if (m_axi_arready) m_axi_arvalid <= 0;
                if (m_axi_bvalid) begin
                    source <= source + beats * BYTES;
                    target <= target + beats * BYTES;
                    words <= words - beats;
                    if (m_axi_bresp != 0) fault <= 1;
                    state <= fault || m_axi_bresp != 0 ? IDLE : PLAN;
                end
            end
            default: ;
        endcase

        if (s_axil_bready) s_axil_bvalid <= 0;
        if (s_axil_awready) begin
            s_axil_bvalid <= 1;
            s_axil_bresp <= 0;
            case (s_axil_awaddr)
                8'h04: if (s_axil_wdata[0] && state == IDLE) begin
                    state <= PLAN;
                    done <= 0;
                    fault <= 0;
                end
                8'h0c: source <= s_axil_wdata;
                8'h10: target <= s_axil_wdata;
                8'h14: words <= s_axil_wdata;
                8'h18: misbehave <= s_axil_wdata;
                default: s_axil_bresp <= 2;
            endcase
        end
        if (s_axil_rready) s_axil_rvalid <= 0;
        if (s_axil_arvalid && s_axil_arready) begin
            s_axil_rvalid <= 1;
            case (s_axil_araddr)
                8'h00: s_axil_rdata <= 32'h434f5059;
                8'h08: s_axil_rdata <= {29'd0, fault, done, state != IDLE};
                8'h0c: s_axil_rdata <= source;
                8'h10: s_axil_rdata <= target;
                8'h14: s_axil_rdata <= words;
                default: s_axil_rdata <= 0;
            endcase
        end
        if (rst) begin
            state <= IDLE;
            {done, fault, s_axil_bvalid, s_axil_rvalid, m_axi_arvalid, m_axi_awvalid} <= 0;
            {source, target, words, misbehave} <= 0;
        end
    end
endmodule
