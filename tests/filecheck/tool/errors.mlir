// RUN: not hamkaas-opt %s -p 'hamkaas-outline-group' 2>&1 | filecheck %s --check-prefix=PASS
// RUN: not hamkaas-opt %s -p 'hamkaas-to-kernel{taret=cuda}' 2>&1 | filecheck %s --check-prefix=OPTION
// RUN: not hamkaas-opt %s -p 'hamkaas-to-kernel{target=tpu}' 2>&1 | filecheck %s --check-prefix=VALUE
// RUN: not hamkaas-opt no-such-file.mlir 2>&1 | filecheck %s --check-prefix=FILE

// PASS: hamkaas-opt: error: unknown pass 'hamkaas-outline-group', did you mean 'hamkaas-outline-groups'?
// OPTION: hamkaas-opt: error: pass 'hamkaas-to-kernel': unknown option 'taret', did you mean 'target'?
// VALUE: hamkaas-opt: error: pass 'hamkaas-to-kernel': {{.*}}tpu
// FILE: hamkaas-opt: error: {{.*}}no-such-file.mlir
%0 = arith.constant 1.000000e+00 : f32
