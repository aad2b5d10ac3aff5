// RUN: hamkaas-opt %s -p 'lower-to{stage=graph}' | filecheck %s --check-prefix=GRAPH
// RUN: hamkaas-opt %s -p 'lower-to{stage=partitioned}' | filecheck %s --check-prefix=PARTITIONED
// RUN: hamkaas-opt %s -p 'lower-to{stage=kernels target=cuda}' | filecheck %s --check-prefix=KERNELS
// RUN: hamkaas-opt %s -p 'lower-to{target=cuda}' | filecheck %s --check-prefix=PROGRAM
// RUN: hamkaas-opt %s -p 'lower-to{stage=kernels target=cuda}' | hamkaas-opt -p 'lower-to{target=cuda}' | filecheck %s --check-prefix=PROGRAM
// RUN: hamkaas-opt %s -p 'lower-to{stage=partitioned}' | hamkaas-opt -p 'lower-to{target=cuda}' | filecheck %s --check-prefix=PROGRAM
// RUN: hamkaas-opt %s -p 'lower-to{target=cuda arch=sm_80}' | filecheck %s --check-prefix=OLD
// RUN: hamkaas-opt %s -p 'lower-to{target=cuda schedule=persistent}' --remarks 2>&1 | filecheck %s --check-prefix=PERSISTENT
// RUN: hamkaas-opt %s -p 'lower-to{target=cuda arch=sm_80 schedule=persistent}' --remarks 2>&1 | filecheck %s --check-prefix=OLD
// RUN: not hamkaas-opt %s -p 'lower-to{stage=kernel}' 2>&1 | filecheck %s --check-prefix=UNKNOWN
// RUN: hamkaas-opt %s -t plan | filecheck %s --check-prefix=PLAN

// A run may start from a dump of any stage.
// GRAPH: hamkaas.relu
// PARTITIONED: hamkaas.group @g0
// PARTITIONED-NOT: hamkaas.group
// PARTITIONED-COUNT-2: hamkaas.execute @g0
// KERNELS: kernel.func @g0
// KERNELS: func.func @main
// PROGRAM: kernel.func @g0
// PROGRAM: program.func @main
// PROGRAM: program.launch @g0(%x, %a)
// PROGRAM-NEXT: program.barrier
// PROGRAM-NEXT: program.launch @g0(%a, %b)
// What came with sm_90 is left out for older architectures.
// OLD-NOT: kernel.wait_dependency
// OLD-NOT: program-to-persistent
// OLD: program.func @main
// PERSISTENT: remark: program-to-persistent: @main: program.launch @g0: expected a run of at least 8 launches, got 2
// UNKNOWN: error: unknown stage 'kernel', did you mean 'kernels'? (expected one of graph, partitioned, kernels, program)
// PLAN: program main: 2 launches of 1 kernels
// PLAN: input x: float32 [4, 4]
// PLAN: matmul relu {{ *}}(x, arena+0)
func.func @main(%x: tensor<4x4xf32> {hamkaas.name = "x"}) -> tensor<4x4xf32> {
  %0 = hamkaas.matmul %x, %x : (tensor<4x4xf32>, tensor<4x4xf32>) -> tensor<4x4xf32>
  %a = hamkaas.relu %0 : (tensor<4x4xf32>) -> tensor<4x4xf32>
  %1 = hamkaas.matmul %a, %a : (tensor<4x4xf32>, tensor<4x4xf32>) -> tensor<4x4xf32>
  %b = hamkaas.relu %1 : (tensor<4x4xf32>) -> tensor<4x4xf32>
  func.return %b : tensor<4x4xf32>
}
