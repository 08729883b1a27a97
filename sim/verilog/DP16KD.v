// Block RAM of an ECP5, for simulation; Yosys has none.
//
// Source: Lattice, ECP5 and ECP5-5G Memory Usage Guide (FPGA-TN-02204): 1024 words of 18 bits, which each port
// sees as 16384x1, 8192x2, 4096x4, 2048x9 or 1024x18. Of two bytes, the ninth bits are there for widths of 9 and 18
// only. Addresses count bits; at a width of 18, address bits 0 and 1 enable the bytes to be written. A port is
// selected where its CS are what CSDECODE says. A port of 512x36 is both at a time: A's address and clock write both
// ports' DI, with address bits 0 to 3 for enables, and B's read both ports' DO. What is read goes through a register (OUTREG) or not (NOREG), and
// while a port writes it keeps what it read before (NORMAL), takes what is written (WRITETHROUGH), or what is
// overwritten (READBEFOREWRITE). What is not modelled ends the simulation: inverted or constant pins. What one port reads where the other writes in the same cycle is
// what was there before; on the device it is not defined.
module DP16KD #(
  parameter DATA_WIDTH_A = 18,
  parameter REGMODE_A = "NOREG",
  parameter CSDECODE_A = "0b000",
  parameter WRITEMODE_A = "NORMAL",
  parameter DATA_WIDTH_B = 18,
  parameter REGMODE_B = "NOREG",
  parameter CSDECODE_B = "0b000",
  parameter WRITEMODE_B = "NORMAL",
  parameter RESETMODE = "SYNC",
  parameter ASYNC_RESET_RELEASE = "SYNC",
  parameter GSR = "ENABLED",
  parameter WID = 0,
  parameter INIT_DATA = "STATIC",
  parameter CLKAMUX = "CLKA",
  parameter WEAMUX = "WEA",
  parameter CEAMUX = "CEA",
  parameter RSTAMUX = "RSTA",
  parameter OCEAMUX = "OCEA",
  parameter CLKBMUX = "CLKB",
  parameter WEBMUX = "WEB",
  parameter CEBMUX = "CEB",
  parameter RSTBMUX = "RSTB",
  parameter OCEBMUX = "OCEB",
  parameter [319:0] INITVAL_00 = 320'h0,
  parameter [319:0] INITVAL_01 = 320'h0,
  parameter [319:0] INITVAL_02 = 320'h0,
  parameter [319:0] INITVAL_03 = 320'h0,
  parameter [319:0] INITVAL_04 = 320'h0,
  parameter [319:0] INITVAL_05 = 320'h0,
  parameter [319:0] INITVAL_06 = 320'h0,
  parameter [319:0] INITVAL_07 = 320'h0,
  parameter [319:0] INITVAL_08 = 320'h0,
  parameter [319:0] INITVAL_09 = 320'h0,
  parameter [319:0] INITVAL_0A = 320'h0,
  parameter [319:0] INITVAL_0B = 320'h0,
  parameter [319:0] INITVAL_0C = 320'h0,
  parameter [319:0] INITVAL_0D = 320'h0,
  parameter [319:0] INITVAL_0E = 320'h0,
  parameter [319:0] INITVAL_0F = 320'h0,
  parameter [319:0] INITVAL_10 = 320'h0,
  parameter [319:0] INITVAL_11 = 320'h0,
  parameter [319:0] INITVAL_12 = 320'h0,
  parameter [319:0] INITVAL_13 = 320'h0,
  parameter [319:0] INITVAL_14 = 320'h0,
  parameter [319:0] INITVAL_15 = 320'h0,
  parameter [319:0] INITVAL_16 = 320'h0,
  parameter [319:0] INITVAL_17 = 320'h0,
  parameter [319:0] INITVAL_18 = 320'h0,
  parameter [319:0] INITVAL_19 = 320'h0,
  parameter [319:0] INITVAL_1A = 320'h0,
  parameter [319:0] INITVAL_1B = 320'h0,
  parameter [319:0] INITVAL_1C = 320'h0,
  parameter [319:0] INITVAL_1D = 320'h0,
  parameter [319:0] INITVAL_1E = 320'h0,
  parameter [319:0] INITVAL_1F = 320'h0,
  parameter [319:0] INITVAL_20 = 320'h0,
  parameter [319:0] INITVAL_21 = 320'h0,
  parameter [319:0] INITVAL_22 = 320'h0,
  parameter [319:0] INITVAL_23 = 320'h0,
  parameter [319:0] INITVAL_24 = 320'h0,
  parameter [319:0] INITVAL_25 = 320'h0,
  parameter [319:0] INITVAL_26 = 320'h0,
  parameter [319:0] INITVAL_27 = 320'h0,
  parameter [319:0] INITVAL_28 = 320'h0,
  parameter [319:0] INITVAL_29 = 320'h0,
  parameter [319:0] INITVAL_2A = 320'h0,
  parameter [319:0] INITVAL_2B = 320'h0,
  parameter [319:0] INITVAL_2C = 320'h0,
  parameter [319:0] INITVAL_2D = 320'h0,
  parameter [319:0] INITVAL_2E = 320'h0,
  parameter [319:0] INITVAL_2F = 320'h0,
  parameter [319:0] INITVAL_30 = 320'h0,
  parameter [319:0] INITVAL_31 = 320'h0,
  parameter [319:0] INITVAL_32 = 320'h0,
  parameter [319:0] INITVAL_33 = 320'h0,
  parameter [319:0] INITVAL_34 = 320'h0,
  parameter [319:0] INITVAL_35 = 320'h0,
  parameter [319:0] INITVAL_36 = 320'h0,
  parameter [319:0] INITVAL_37 = 320'h0,
  parameter [319:0] INITVAL_38 = 320'h0,
  parameter [319:0] INITVAL_39 = 320'h0,
  parameter [319:0] INITVAL_3A = 320'h0,
  parameter [319:0] INITVAL_3B = 320'h0,
  parameter [319:0] INITVAL_3C = 320'h0,
  parameter [319:0] INITVAL_3D = 320'h0,
  parameter [319:0] INITVAL_3E = 320'h0,
  parameter [319:0] INITVAL_3F = 320'h0
) (
  input DIA0, DIA1, DIA2, DIA3, DIA4, DIA5, DIA6, DIA7, DIA8, DIA9, DIA10, DIA11, DIA12, DIA13, DIA14,
  DIA15, DIA16, DIA17,
  input ADA0, ADA1, ADA2, ADA3, ADA4, ADA5, ADA6, ADA7, ADA8, ADA9, ADA10, ADA11, ADA12, ADA13,
  input CEA, OCEA, CLKA, WEA, RSTA, CSA0, CSA1, CSA2,
  output DOA0, DOA1, DOA2, DOA3, DOA4, DOA5, DOA6, DOA7, DOA8, DOA9, DOA10, DOA11, DOA12, DOA13, DOA14,
  DOA15, DOA16, DOA17,
  input DIB0, DIB1, DIB2, DIB3, DIB4, DIB5, DIB6, DIB7, DIB8, DIB9, DIB10, DIB11, DIB12, DIB13, DIB14,
  DIB15, DIB16, DIB17,
  input ADB0, ADB1, ADB2, ADB3, ADB4, ADB5, ADB6, ADB7, ADB8, ADB9, ADB10, ADB11, ADB12, ADB13,
  input CEB, OCEB, CLKB, WEB, RSTB, CSB0, CSB1, CSB2,
  output DOB0, DOB1, DOB2, DOB3, DOB4, DOB5, DOB6, DOB7, DOB8, DOB9, DOB10, DOB11, DOB12, DOB13, DOB14,
  DOB15, DOB16, DOB17
);
  reg [17:0] words [0:1023];
  integer i;
  wire [20479:0] contents = {INITVAL_3F, INITVAL_3E, INITVAL_3D, INITVAL_3C, INITVAL_3B, INITVAL_3A,
  INITVAL_39, INITVAL_38, INITVAL_37, INITVAL_36, INITVAL_35, INITVAL_34, INITVAL_33, INITVAL_32,
  INITVAL_31, INITVAL_30, INITVAL_2F, INITVAL_2E, INITVAL_2D, INITVAL_2C, INITVAL_2B, INITVAL_2A,
  INITVAL_29, INITVAL_28, INITVAL_27, INITVAL_26, INITVAL_25, INITVAL_24, INITVAL_23, INITVAL_22,
  INITVAL_21, INITVAL_20, INITVAL_1F, INITVAL_1E, INITVAL_1D, INITVAL_1C, INITVAL_1B, INITVAL_1A,
  INITVAL_19, INITVAL_18, INITVAL_17, INITVAL_16, INITVAL_15, INITVAL_14, INITVAL_13, INITVAL_12,
  INITVAL_11, INITVAL_10, INITVAL_0F, INITVAL_0E, INITVAL_0D, INITVAL_0C, INITVAL_0B, INITVAL_0A,
  INITVAL_09, INITVAL_08, INITVAL_07, INITVAL_06, INITVAL_05, INITVAL_04, INITVAL_03, INITVAL_02,
  INITVAL_01, INITVAL_00};
  initial begin
    for (i = 0; i < 1024; i = i + 1) words[i] = contents[20*i +: 18];
    if (CLKAMUX != "CLKA" || WEAMUX != "WEA" || CEAMUX != "CEA" || RSTAMUX != "RSTA"
        || CLKBMUX != "CLKB" || WEBMUX != "WEB" || CEBMUX != "CEB" || RSTBMUX != "RSTB"
        || (OCEAMUX != "OCEA" && OCEAMUX != "1") || (OCEBMUX != "OCEB" && OCEBMUX != "1")) begin
      $display("DP16KD: a mode that the model does not have");
      $finish;
    end
  end

  // The word of 18 bits as seen through a port of some width, and with that replaced.
  function [17:0] seen(input [17:0] word, input [3:0] place, input integer width);
    case (width)
      1: seen = {17'd0, word[{1'b0, place} + {4'd0, place[3]}]};
      2: seen = {16'd0, word[{1'b0, place[3:1], 1'b0} + {4'd0, place[3]} +: 2]};
      4: seen = {14'd0, word[{1'b0, place[3:2], 2'b00} + {4'd0, place[3]} +: 4]};
      9: seen = {9'd0, place[3] ? word[17:9] : word[8:0]};
      default: seen = word;
    endcase
  endfunction

  function [17:0] replaced(input [17:0] word, input [17:0] value, input [3:0] place, input integer width);
    begin
      replaced = word;
      case (width)
        1: replaced[{1'b0, place} + {4'd0, place[3]}] = value[0];
        2: replaced[{1'b0, place[3:1], 1'b0} + {4'd0, place[3]} +: 2] = value[1:0];
        4: replaced[{1'b0, place[3:2], 2'b00} + {4'd0, place[3]} +: 4] = value[3:0];
        9: if (place[3]) replaced[17:9] = value[8:0]; else replaced[8:0] = value[8:0];
        default: begin
          if (place[0]) replaced[8:0] = value[8:0];
          if (place[1]) replaced[17:9] = value[17:9];
        end
      endcase
    end
  endfunction

  wire [17:0] di_a = {DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5,
  DIA4, DIA3, DIA2, DIA1, DIA0};
  wire [13:0] ad_a = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1,
  ADA0};
  wire [2:0] cs_a = {
    CSDECODE_A[16 +: 8] == "1" ? CSA2 : !CSA2,
    CSDECODE_A[8 +: 8] == "1" ? CSA1 : !CSA1,
    CSDECODE_A[0 +: 8] == "1" ? CSA0 : !CSA0
  };
  wire selected_a = CEA && (&cs_a);
  wire at_once_a = RESETMODE == "ASYNC" && RSTA;
  wire [17:0] old_a = words[ad_a[13:4]];
  reg [17:0] latch_a, output_a;
  initial latch_a = 0;
  initial output_a = 0;
  wire [17:0] di_b = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5,
  DIB4, DIB3, DIB2, DIB1, DIB0};
  wire [13:0] ad_b = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1,
  ADB0};
  wire [2:0] cs_b = {
    CSDECODE_B[16 +: 8] == "1" ? CSB2 : !CSB2,
    CSDECODE_B[8 +: 8] == "1" ? CSB1 : !CSB1,
    CSDECODE_B[0 +: 8] == "1" ? CSB0 : !CSB0
  };
  wire selected_b = CEB && (&cs_b);
  wire at_once_b = RESETMODE == "ASYNC" && RSTB;
  wire [17:0] old_b = words[ad_b[13:4]];
  reg [17:0] latch_b, output_b;
  initial latch_b = 0;
  initial output_b = 0;

  always @(posedge CLKA or posedge at_once_a)
    if (at_once_a || RSTA) latch_a <= 0;
    else if (selected_a) begin
      if (!WEA || WRITEMODE_A == "READBEFOREWRITE")
        latch_a <= seen(old_a, ad_a[3:0], DATA_WIDTH_A);
      else if (WRITEMODE_A == "WRITETHROUGH")
        latch_a <= di_a;
    end
  always @(posedge CLKA or posedge at_once_a)
    if (at_once_a || RSTA) output_a <= 0;
    else if (OCEA || OCEAMUX == "1") output_a <= latch_a;
  always @(posedge CLKA)
    if (selected_a && WEA) begin
      if (DATA_WIDTH_A == 36) begin
        words[{ad_a[13:5], 1'b0}] <= replaced(words[{ad_a[13:5], 1'b0}], di_a, {2'b00, ad_a[1:0]}, 18);
        words[{ad_a[13:5], 1'b1}] <= replaced(words[{ad_a[13:5], 1'b1}], di_b, {2'b00, ad_a[3:2]}, 18);
      end else
        words[ad_a[13:4]] <= replaced(old_a, di_a, ad_a[3:0], DATA_WIDTH_A);
    end

  always @(posedge CLKB or posedge at_once_b)
    if (at_once_b || RSTB) latch_b <= 0;
    else if (selected_b) begin
      if (!WEB || WRITEMODE_B == "READBEFOREWRITE")
        latch_b <= DATA_WIDTH_B == 36 ? words[{ad_b[13:5], 1'b1}] : seen(old_b, ad_b[3:0], DATA_WIDTH_B);
      else if (WRITEMODE_B == "WRITETHROUGH")
        latch_b <= di_b;
    end
  always @(posedge CLKB or posedge at_once_b)
    if (at_once_b || RSTB) output_b <= 0;
    else if (OCEB || OCEBMUX == "1") output_b <= latch_b;
  always @(posedge CLKB)
    if (selected_b && WEB)
      words[ad_b[13:4]] <= replaced(old_b, di_b, ad_b[3:0], DATA_WIDTH_B);

  // The lower half of what is read at 36 bits, which leaves by DOA.
  reg [17:0] latch_low, output_low;
  initial latch_low = 0;
  initial output_low = 0;
  always @(posedge CLKB or posedge at_once_b)
    if (at_once_b || RSTB) latch_low <= 0;
    else if (selected_b) latch_low <= words[{ad_b[13:5], 1'b0}];
  always @(posedge CLKB or posedge at_once_b)
    if (at_once_b || RSTB) output_low <= 0;
    else if (OCEB || OCEBMUX == "1") output_low <= latch_low;

  wire [17:0] do_b = REGMODE_B == "OUTREG" ? output_b : latch_b;
  wire [17:0] do_low = REGMODE_B == "OUTREG" ? output_low : latch_low;
  wire [17:0] do_a = DATA_WIDTH_B == 36 ? do_low : REGMODE_A == "OUTREG" ? output_a : latch_a;
  assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3,
  DOA2, DOA1, DOA0} = do_a;
  assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3,
  DOB2, DOB1, DOB0} = do_b;
endmodule
