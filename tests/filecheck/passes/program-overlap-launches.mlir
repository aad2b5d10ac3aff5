// RUN: hamkaas-opt %s -p program-overlap-launches --split-input-file | filecheck %s

// The weight is read before the wait, although the vector came first; what is computed from both comes after.
// CHECK-LABEL: kernel.func @scale
// CHECK-SAME: constants = array<i64: 1>
// CHECK-NEXT: kernel.launch_dependents
// CHECK-NEXT: [[I:%.*]] = kernel.thread_id
// CHECK-NEXT: [[W:%.*]] = kernel.load %w[[[I]]]
// CHECK-NEXT: kernel.wait_dependency
// CHECK-NEXT: [[X:%.*]] = kernel.load %x[[[I]]]
// CHECK-NEXT: [[Y:%.*]] = arith.mulf [[X]], [[W]]
// CHECK-NEXT: kernel.store [[Y]]
hamkaas.weight @w : tensor<32xf32>
kernel.func @scale(%x: memref<32xf32>, %w: memref<32xf32>, %out: memref<32xf32>) attributes {grid = 1 : i64, block = 32 : i64, inputs = 2 : i64, results = array<i64: 2>} {
  %i = kernel.thread_id
  %0 = kernel.load %x[%i] : memref<32xf32> -> f32
  %1 = kernel.load %w[%i] : memref<32xf32> -> f32
  %2 = arith.mulf %0, %1 : f32
  kernel.store %2, %out[%i] : f32, memref<32xf32>
  kernel.return
}
program.func @main {
  %x = program.input "x" : memref<32xf32>
  %w = program.symbol @w : memref<32xf32>
  %y = program.output 0 : memref<32xf32>
  program.launch @scale(%x, %w, %y) : memref<32xf32>, memref<32xf32>, memref<32xf32>
}

// -----

// One launch passes the input where the other passes the weight: it may still be written, so nothing is read early.
// CHECK-LABEL: kernel.func @scale
// CHECK-SAME: constants = array<i64>
// CHECK: kernel.thread_id
// CHECK-NEXT: kernel.wait_dependency
// CHECK-NEXT: kernel.load %x
hamkaas.weight @w : tensor<32xf32>
kernel.func @scale(%x: memref<32xf32>, %out: memref<32xf32>) attributes {grid = 1 : i64, block = 32 : i64, inputs = 1 : i64, results = array<i64: 1>} {
  %i = kernel.thread_id
  %0 = kernel.load %x[%i] : memref<32xf32> -> f32
  kernel.store %0, %out[%i] : f32, memref<32xf32>
  kernel.return
}
program.func @main {
  %x = program.input "x" : memref<32xf32>
  %w = program.symbol @w : memref<32xf32>
  %y = program.output 0 : memref<32xf32>
  %z = program.output 1 : memref<32xf32>
  program.launch @scale(%w, %y) : memref<32xf32>, memref<32xf32>
  program.launch @scale(%x, %z) : memref<32xf32>, memref<32xf32>
}

// -----

// Each side of a branch on the block's number waits for itself, after its own weight; what follows waits again.
// CHECK-LABEL: kernel.func @sides
// CHECK: scf.if
// CHECK-NEXT: kernel.load %w
// CHECK-NEXT: kernel.wait_dependency
// CHECK-NEXT: kernel.store
// CHECK-NEXT: } else {
// CHECK-NEXT: kernel.load %v
// CHECK-NEXT: kernel.wait_dependency
// CHECK-NEXT: kernel.store
// CHECK-NEXT: }
// CHECK-NEXT: kernel.wait_dependency
// CHECK-NEXT: kernel.load %x
hamkaas.weight @w : tensor<1xf32>
hamkaas.weight @v : tensor<1xf32>
kernel.func @sides(%x: memref<1xf32>, %w: memref<1xf32>, %v: memref<1xf32>, %out: memref<2xf32>) attributes {grid = 2 : i64, block = 1 : i64, inputs = 3 : i64, results = array<i64: 3>} {
  %zero = arith.constant 0 : index
  %block = kernel.block_id
  %first = arith.cmpi eq, %block, %zero : index
  scf.if %first {
    %0 = kernel.load %w[%zero] : memref<1xf32> -> f32
    kernel.store %0, %out[%zero] : f32, memref<2xf32>
  } else {
    %0 = kernel.load %v[%zero] : memref<1xf32> -> f32
    kernel.store %0, %out[%block] : f32, memref<2xf32>
  }
  %1 = kernel.load %x[%zero] : memref<1xf32> -> f32
  kernel.store %1, %out[%block] : f32, memref<2xf32>
  kernel.return
}
program.func @main {
  %x = program.input "x" : memref<1xf32>
  %w = program.symbol @w : memref<1xf32>
  %v = program.symbol @v : memref<1xf32>
  %y = program.output 0 : memref<2xf32>
  program.launch @sides(%x, %w, %v, %y) : memref<1xf32>, memref<1xf32>, memref<1xf32>, memref<2xf32>
}

// -----

// A barrier of a cluster is no early operation: nothing moves it ahead of the wait.
// CHECK-LABEL: kernel.func @meet
// CHECK: kernel.load %w
// CHECK-NEXT: kernel.wait_dependency
// CHECK-NEXT: kernel.cluster_arrive relaxed
// CHECK-NEXT: kernel.cluster_wait
// CHECK-NEXT: kernel.load %x
hamkaas.weight @w : tensor<32xf32>
kernel.func @meet(%x: memref<32xf32>, %w: memref<32xf32>, %out: memref<32xf32>) attributes {grid = 2 : i64, block = 32 : i64, inputs = 2 : i64, results = array<i64: 2>, cluster = 2 : i64} {
  kernel.cluster_arrive relaxed
  kernel.cluster_wait
  %i = kernel.thread_id
  %0 = kernel.load %x[%i] : memref<32xf32> -> f32
  %1 = kernel.load %w[%i] : memref<32xf32> -> f32
  %2 = arith.mulf %0, %1 : f32
  kernel.store %2, %out[%i] : f32, memref<32xf32>
  kernel.return
}
program.func @main {
  %x = program.input "x" : memref<32xf32>
  %w = program.symbol @w : memref<32xf32>
  %y = program.output 0 : memref<32xf32>
  program.launch @meet(%x, %w, %y) : memref<32xf32>, memref<32xf32>, memref<32xf32>
}

// -----

// The second weight stands behind a computation from the vector: it is meant to come later, and stays.
// CHECK-LABEL: kernel.func @later
// CHECK: kernel.load %w[[[I:%.*]]]
// CHECK-NEXT: kernel.wait_dependency
// CHECK-NEXT: kernel.load %x[[[I]]]
// CHECK-NEXT: arith.mulf
// CHECK-NEXT: kernel.load %v[[[I]]]
hamkaas.weight @w : tensor<32xf32>
hamkaas.weight @v : tensor<32xf32>
kernel.func @later(%x: memref<32xf32>, %w: memref<32xf32>, %v: memref<32xf32>, %out: memref<32xf32>) attributes {grid = 1 : i64, block = 32 : i64, inputs = 3 : i64, results = array<i64: 3>} {
  %i = kernel.thread_id
  %0 = kernel.load %x[%i] : memref<32xf32> -> f32
  %1 = kernel.load %w[%i] : memref<32xf32> -> f32
  %2 = arith.mulf %0, %1 : f32
  %3 = kernel.load %v[%i] : memref<32xf32> -> f32
  %4 = arith.addf %2, %3 : f32
  kernel.store %4, %out[%i] : f32, memref<32xf32>
  kernel.return
}
program.func @main {
  %x = program.input "x" : memref<32xf32>
  %w = program.symbol @w : memref<32xf32>
  %v = program.symbol @v : memref<32xf32>
  %y = program.output 0 : memref<32xf32>
  program.launch @later(%x, %w, %v, %y) : memref<32xf32>, memref<32xf32>, memref<32xf32>, memref<32xf32>
}
