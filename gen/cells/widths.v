// What Yosys puts in the place of its own cells before it writes engine.v: operands as wide as the operator, so
// that linters find no implied extension. Synthesis strips what is added here (Yosys: wreduce, opt_expr).

(* techmap_celltype = "$add $sub" *)
module bitwright_sum (A, B, Y);
  parameter A_SIGNED = 0;
  parameter B_SIGNED = 0;
  parameter A_WIDTH = 1;
  parameter B_WIDTH = 1;
  parameter Y_WIDTH = 1;
  parameter _TECHMAP_CELLTYPE_ = "";
  input [A_WIDTH-1:0] A;
  input [B_WIDTH-1:0] B;
  output [Y_WIDTH-1:0] Y;
  wire _TECHMAP_FAIL_ = A_WIDTH >= Y_WIDTH && B_WIDTH >= Y_WIDTH;
  localparam A_TO = A_WIDTH > Y_WIDTH ? A_WIDTH : Y_WIDTH;
  localparam B_TO = B_WIDTH > Y_WIDTH ? B_WIDTH : Y_WIDTH;
  wire [A_TO-1:0] a;
  generate
    if (A_WIDTH == 0) assign a = 0;  // Amaranth's constant 0 has no bits
    else assign a = {{(A_TO-A_WIDTH+1){A_SIGNED ? A[A_WIDTH-1] : 1'b0}}, A};
  endgenerate
  wire [B_TO-1:0] b;
  generate
    if (B_WIDTH == 0) assign b = 0;  // Amaranth's constant 0 has no bits
    else assign b = {{(B_TO-B_WIDTH+1){B_SIGNED ? B[B_WIDTH-1] : 1'b0}}, B};
  endgenerate
  generate
    if (_TECHMAP_CELLTYPE_ == "$add")
      \$add #(.A_SIGNED(A_SIGNED), .B_SIGNED(B_SIGNED), .A_WIDTH(A_TO), .B_WIDTH(B_TO), .Y_WIDTH(Y_WIDTH))
        _TECHMAP_REPLACE_ (.A(a), .B(b), .Y(Y));
    else
      \$sub #(.A_SIGNED(A_SIGNED), .B_SIGNED(B_SIGNED), .A_WIDTH(A_TO), .B_WIDTH(B_TO), .Y_WIDTH(Y_WIDTH))
        _TECHMAP_REPLACE_ (.A(a), .B(b), .Y(Y));
  endgenerate
endmodule

(* techmap_celltype = "$eq $ne $lt $le $gt $ge" *)
module bitwright_comparison (A, B, Y);
  parameter A_SIGNED = 0;
  parameter B_SIGNED = 0;
  parameter A_WIDTH = 1;
  parameter B_WIDTH = 1;
  parameter Y_WIDTH = 1;
  parameter _TECHMAP_CELLTYPE_ = "";
  input [A_WIDTH-1:0] A;
  input [B_WIDTH-1:0] B;
  output [Y_WIDTH-1:0] Y;
  wire _TECHMAP_FAIL_ = A_WIDTH == B_WIDTH;
  localparam WIDTH = A_WIDTH > B_WIDTH ? A_WIDTH : B_WIDTH;
  wire [WIDTH-1:0] a;
  generate
    if (A_WIDTH == 0) assign a = 0;  // Amaranth's constant 0 has no bits
    else assign a = {{(WIDTH-A_WIDTH+1){A_SIGNED ? A[A_WIDTH-1] : 1'b0}}, A};
  endgenerate
  wire [WIDTH-1:0] b;
  generate
    if (B_WIDTH == 0) assign b = 0;  // Amaranth's constant 0 has no bits
    else assign b = {{(WIDTH-B_WIDTH+1){B_SIGNED ? B[B_WIDTH-1] : 1'b0}}, B};
  endgenerate
  generate
    if (_TECHMAP_CELLTYPE_ == "$eq")
      \$eq #(.A_SIGNED(A_SIGNED), .B_SIGNED(B_SIGNED), .A_WIDTH(WIDTH), .B_WIDTH(WIDTH), .Y_WIDTH(Y_WIDTH))
        _TECHMAP_REPLACE_ (.A(a), .B(b), .Y(Y));
    else if (_TECHMAP_CELLTYPE_ == "$ne")
      \$ne #(.A_SIGNED(A_SIGNED), .B_SIGNED(B_SIGNED), .A_WIDTH(WIDTH), .B_WIDTH(WIDTH), .Y_WIDTH(Y_WIDTH))
        _TECHMAP_REPLACE_ (.A(a), .B(b), .Y(Y));
    else if (_TECHMAP_CELLTYPE_ == "$lt")
      \$lt #(.A_SIGNED(A_SIGNED), .B_SIGNED(B_SIGNED), .A_WIDTH(WIDTH), .B_WIDTH(WIDTH), .Y_WIDTH(Y_WIDTH))
        _TECHMAP_REPLACE_ (.A(a), .B(b), .Y(Y));
    else if (_TECHMAP_CELLTYPE_ == "$le")
      \$le #(.A_SIGNED(A_SIGNED), .B_SIGNED(B_SIGNED), .A_WIDTH(WIDTH), .B_WIDTH(WIDTH), .Y_WIDTH(Y_WIDTH))
        _TECHMAP_REPLACE_ (.A(a), .B(b), .Y(Y));
    else if (_TECHMAP_CELLTYPE_ == "$gt")
      \$gt #(.A_SIGNED(A_SIGNED), .B_SIGNED(B_SIGNED), .A_WIDTH(WIDTH), .B_WIDTH(WIDTH), .Y_WIDTH(Y_WIDTH))
        _TECHMAP_REPLACE_ (.A(a), .B(b), .Y(Y));
    else
      \$ge #(.A_SIGNED(A_SIGNED), .B_SIGNED(B_SIGNED), .A_WIDTH(WIDTH), .B_WIDTH(WIDTH), .Y_WIDTH(Y_WIDTH))
        _TECHMAP_REPLACE_ (.A(a), .B(b), .Y(Y));
  endgenerate
endmodule

(* techmap_celltype = "$logic_not" *)
module bitwright_none (A, Y);
  parameter A_SIGNED = 0;
  parameter A_WIDTH = 1;
  parameter Y_WIDTH = 1;
  input [A_WIDTH-1:0] A;
  output [Y_WIDTH-1:0] Y;
  wire _TECHMAP_FAIL_ = A_WIDTH <= 1;
  \$eq #(.A_SIGNED(0), .B_SIGNED(0), .A_WIDTH(A_WIDTH), .B_WIDTH(A_WIDTH), .Y_WIDTH(Y_WIDTH))
    _TECHMAP_REPLACE_ (.A(A), .B({A_WIDTH{1'b0}}), .Y(Y));
endmodule
