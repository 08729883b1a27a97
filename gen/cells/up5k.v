// What synthesis for an iCE40 UltraPlus puts in the place of modules of engine.v.

// The multiplier with the registers of the multiplier block itself. Left to itself, Yosys uses a block's adder
// for a product and the one beside it, and makes that other product from LUTs.
module bitwright_multiply #(
  parameter A_BITS = 8,
  parameter B_BITS = 8,
  parameter SIGNED = 1
) (
  input clk,
  input [A_BITS-1:0] a_in,
  input [B_BITS-1:0] b_in,
  output [A_BITS+B_BITS-1:0] product
);
  wire [15:0] a;
  wire [15:0] b;
  wire [31:0] p;
  generate
    if (A_BITS == 16) assign a = a_in;
    else assign a = {{(16-A_BITS){SIGNED ? a_in[A_BITS-1] : 1'b0}}, a_in};
    if (B_BITS == 16) assign b = b_in;
    else assign b = {{(16-B_BITS){SIGNED ? b_in[B_BITS-1] : 1'b0}}, b_in};
  endgenerate
  bitwright_mac16 #(
    .A_REG(1'b1), .B_REG(1'b1), .C_REG(1'b0), .D_REG(1'b0),
    .TOP_8x8_MULT_REG(1'b0), .BOT_8x8_MULT_REG(1'b0),
    .PIPELINE_16x16_MULT_REG1(1'b0), .PIPELINE_16x16_MULT_REG2(1'b1),
    .TOPOUTPUT_SELECT(2'b11), .BOTOUTPUT_SELECT(2'b11),
    .A_SIGNED(SIGNED ? 1'b1 : 1'b0), .B_SIGNED(SIGNED ? 1'b1 : 1'b0)
  ) block (
    .CLK(clk), .CE(1'b1), .A(a), .B(b), .C(16'b0), .D(16'b0), .O(p),
    .AHOLD(1'b0), .BHOLD(1'b0), .CHOLD(1'b0), .DHOLD(1'b0),
    .IRSTTOP(1'b0), .IRSTBOT(1'b0), .ORSTTOP(1'b0), .ORSTBOT(1'b0),
    .OLOADTOP(1'b0), .OLOADBOT(1'b0), .ADDSUBTOP(1'b0), .ADDSUBBOT(1'b0),
    .OHOLDTOP(1'b0), .OHOLDBOT(1'b0), .CI(1'b0), .ACCUMCI(1'b0), .SIGNEXTIN(1'b0)
  );
  assign product = p[A_BITS+B_BITS-1:0];
endmodule

(* blackbox *)
module bitwright_mac16 #(
  parameter [0:0] A_REG = 0, B_REG = 0, C_REG = 0, D_REG = 0,
  parameter [0:0] TOP_8x8_MULT_REG = 0, BOT_8x8_MULT_REG = 0,
  parameter [0:0] PIPELINE_16x16_MULT_REG1 = 0, PIPELINE_16x16_MULT_REG2 = 0,
  parameter [1:0] TOPOUTPUT_SELECT = 0, BOTOUTPUT_SELECT = 0,
  parameter [0:0] A_SIGNED = 0, B_SIGNED = 0
) (
  input CLK, CE, AHOLD, BHOLD, CHOLD, DHOLD, IRSTTOP, IRSTBOT, ORSTTOP, ORSTBOT,
  input OLOADTOP, OLOADBOT, ADDSUBTOP, ADDSUBBOT, OHOLDTOP, OHOLDBOT, CI, ACCUMCI, SIGNEXTIN,
  input [15:0] A, B, C, D,
  output [31:0] O
);
endmodule
