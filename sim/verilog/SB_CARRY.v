// An iCE40's carry, for simulation.
module SB_CARRY (
  input I0, I1, CI,
  output CO
);
  assign CO = (I0 & I1) | (CI & (I0 | I1));
endmodule
