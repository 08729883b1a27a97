// Two slots of an ECP5's carry chain, for simulation. Each: P = LUT4(A, B, C, D), S = P ^ cin,
// cout = P ? cin : G, where G is the lowest quarter of the table. INJECT1 = "YES" takes cin and G for 0.
module CCU2C #(
  parameter [15:0] INIT0 = 16'h0000,
  parameter [15:0] INIT1 = 16'h0000,
  parameter INJECT1_0 = "YES",
  parameter INJECT1_1 = "YES"
) (
  input CIN,
  input A0, B0, C0, D0,
  input A1, B1, C1, D1,
  output S0, S1, COUT
);
  wire p0 = INIT0[{D0, C0, B0, A0}];
  wire g0 = INJECT1_0 == "NO" && INIT0[{2'b00, B0, A0}];
  assign S0 = p0 ^ (INJECT1_0 == "NO" && CIN);
  wire carry = p0 ? CIN : g0;
  wire p1 = INIT1[{D1, C1, B1, A1}];
  wire g1 = INJECT1_1 == "NO" && INIT1[{2'b00, B1, A1}];
  assign S1 = p1 ^ (INJECT1_1 == "NO" && carry);
  assign COUT = p1 ? carry : g1;
endmodule
