// RUN: hamkaas-opt %s --split-input-file --verify-diagnostics | filecheck %s

// CHECK: error: 'kernel.func' does not verify: expected arguments of flat memrefs, got memref<2x2xf32>
kernel.func @f(%x: memref<2x2xf32>) attributes {grid = 1 : i64, block = 1 : i64, inputs = 1 : i64, results = array<i64>} {
  kernel.return
}

// -----

// CHECK: error: 'kernel.func' does not verify: expected a grid of at least 1 and a block of 1 to 1024, got 1 and 2048
kernel.func @f(%x: memref<2xf32>) attributes {grid = 1 : i64, block = 2048 : i64, inputs = 1 : i64, results = array<i64>} {
  kernel.return
}

// -----

// CHECK: error: 'kernel.func' does not verify: expected results to name arguments 0 to 0, got 1
kernel.func @f(%x: memref<2xf32>) attributes {grid = 1 : i64, block = 1 : i64, inputs = 1 : i64, results = array<i64: 1>} {
  kernel.return
}

// -----

// CHECK: error: 'kernel.load' does not verify: expected elements of f32, got vector<4xf16> for memref<8xf32>
func.func @f(%m: memref<8xf32>, %i: index) {
  %0 = kernel.load %m[%i] : memref<8xf32> -> vector<4xf16>
  func.return
}

// -----

// CHECK: error: 'kernel.convert' does not verify: expected float to float or i8 to float, got i64 to f32
func.func @f(%x: i64) {
  %0 = kernel.convert %x : i64 -> f32
  func.return
}

// -----

// CHECK: error: 'kernel.shuffle_xor' does not verify: expected a mask of 1 to 31, got 32
func.func @f(%x: f32) {
  %0 = kernel.shuffle_xor %x, 32 : f32
  func.return
}

// -----

// CHECK: error: 'program.temp' does not verify: expected an offset that is a multiple of 256, got 100
program.func @main {
  %t = program.temp at 100 : memref<4xf32>
}

// -----

// CHECK: error: 'kernel.func' does not verify: expected clusters of 1 to 8 blocks that divide the grid, got 4 of 6
kernel.func @f() attributes {grid = 6 : i64, block = 32 : i64, inputs = 0 : i64, results = array<i64>, cluster = 4 : i64} {
  kernel.return
}

// -----

// CHECK: error: 'kernel.func' does not verify: expected clusters of 1 to 8 blocks that divide the grid, got 16 of 16
kernel.func @f() attributes {grid = 16 : i64, block = 32 : i64, inputs = 0 : i64, results = array<i64>, cluster = 16 : i64} {
  kernel.return
}

// -----

// CHECK: error: 'kernel.cluster_wait' does not verify: expected a kernel with clusters of several blocks
kernel.func @f() attributes {grid = 2 : i64, block = 32 : i64, inputs = 0 : i64, results = array<i64>} {
  %true = arith.constant true
  scf.if %true {
    kernel.cluster_wait
  }
  kernel.return
}

// -----

// CHECK: error: 'kernel.cluster_store' does not verify: expected a buffer of the block's own memory, got memref<4xf32>
kernel.func @f(%m: memref<4xf32>) attributes {grid = 2 : i64, block = 32 : i64, inputs = 1 : i64, results = array<i64>, cluster = 2 : i64} {
  %zero = arith.constant 0 : index
  %x = arith.constant 0.0 : f32
  kernel.cluster_store %x, %m[%zero] of %zero : f32, memref<4xf32>
  kernel.return
}

// -----

// CHECK: error: 'kernel.cluster_store' does not verify: expected elements of f32, got f16
kernel.func @f() attributes {grid = 2 : i64, block = 32 : i64, inputs = 0 : i64, results = array<i64>, cluster = 2 : i64} {
  %zero = arith.constant 0 : index
  %x = arith.constant 0.0 : f16
  %m = kernel.alloc : memref<4xf32, #kernel<space shared>>
  kernel.cluster_store %x, %m[%zero] of %zero : f16, memref<4xf32, #kernel<space shared>>
  kernel.return
}
