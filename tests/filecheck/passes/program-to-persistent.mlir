// RUN: hamkaas-opt %s -p 'program-to-persistent{min-launches=2}' --split-input-file --remarks 2>&1 | filecheck %s
// RUN: hamkaas-opt %s -p 'program-to-persistent' --split-input-file --remarks 2>&1 | filecheck %s --check-prefix=SHORT

// Three launches with the barriers between them; inputs and outputs may be buffers of theirs. What the host checks stays
// outside, and so do the barrier before and the copy behind.
// CHECK: remark: program-to-persistent: @taken: program.launch @wide: expected a block that is a multiple of 32 up to 256, got 512 threads
// CHECK-NEXT: remark: program-to-persistent: @taken: program.copy: expected a launch: it ends the run before it
// CHECK-NOT: remark
// CHECK: program.func @taken
// CHECK: program.launch @wide
// CHECK-NEXT: program.barrier
// CHECK-NEXT: program.persistent @persistent0 block 256 {
// CHECK-NEXT: program.launch @add(%x, %t)
// CHECK-NEXT: program.barrier
// CHECK-NEXT: program.launch @add(%t, %u)
// CHECK-NEXT: program.launch @add(%x, %y)
// CHECK-NEXT: }
// CHECK-NEXT: program.check
// CHECK-NEXT: program.barrier
// CHECK-NEXT: program.copy

// With the default option the run is too short.
// SHORT: remark: program-to-persistent: @taken: program.launch @add: expected a run of at least 8 launches, got 3
// SHORT-NOT: program.persistent
kernel.func @add(%x: memref<4xi64>, %out: memref<4xi64>) attributes {grid = 1 : i64, block = 128 : i64, inputs = 1 : i64, results = array<i64: 1>, constants = array<i64>} {
  kernel.launch_dependents
  kernel.wait_dependency
  kernel.return
}
kernel.func @wide(%x: memref<4xi64>, %out: memref<4xi64>) attributes {grid = 1 : i64, block = 512 : i64, inputs = 1 : i64, results = array<i64: 1>, constants = array<i64>} {
  kernel.launch_dependents
  kernel.wait_dependency
  kernel.return
}
hamkaas.state @s : tensor<4xi64>
program.func @taken {
  %x = program.input "x" : memref<4xi64>
  %y = program.output 0 : memref<4xi64>
  %s = program.symbol @s : memref<4xi64>
  %t = program.temp at 0 : memref<4xi64>
  %u = program.temp at 256 : memref<4xi64>
  program.launch @wide(%x, %t) : memref<4xi64>, memref<4xi64>
  program.barrier
  program.launch @add(%x, %t) : memref<4xi64>, memref<4xi64>
  program.barrier
  program.launch @add(%t, %u) : memref<4xi64>, memref<4xi64>
  program.check %x from 0 to 511 for "index of hamkaas.gather" : memref<4xi64>
  program.launch @add(%x, %y) : memref<4xi64>, memref<4xi64>
  program.barrier
  program.copy %u to %s : memref<4xi64>
}

// -----

// A copy between two launches leaves two runs of one.
// CHECK: remark: program-to-persistent: @copy_between: program.copy: expected a launch: it ends the run before it
// CHECK-NEXT: remark: program-to-persistent: @copy_between: program.launch @add: expected a run of at least 2 launches, got 1
// CHECK-NOT: remark
// CHECK: program.func @copy_between
// CHECK-NOT: program.persistent
kernel.func @add(%x: memref<4xf32>, %out: memref<4xf32>) attributes {grid = 1 : i64, block = 128 : i64, inputs = 1 : i64, results = array<i64: 1>, constants = array<i64>} {
  kernel.launch_dependents
  kernel.wait_dependency
  kernel.return
}
program.func @copy_between {
  %x = program.input "x" : memref<4xf32>
  %t = program.temp at 0 : memref<4xf32>
  %y = program.output 0 : memref<4xf32>
  program.launch @add(%x, %t) : memref<4xf32>, memref<4xf32>
  program.copy %t to %y : memref<4xf32>
  program.launch @add(%x, %t) : memref<4xf32>, memref<4xf32>
}

// -----

// Kernels that do not fit, and why. A kernel that asks for two blocks on a multiprocessor gets them.
// CHECK: remark: program-to-persistent: @misfits: program.launch @cluster: expected no clusters, got clusters of 2 blocks
// CHECK-NEXT: remark: {{.*}} program.launch @odd: expected a block that is a multiple of 32 up to 256, got 48 threads
// CHECK-NEXT: remark: {{.*}} program.launch @alone: expected at most 128 registers a thread, got a kernel that may take all
// CHECK-NEXT: remark: {{.*}} program.launch @many: expected at most 524288 threads, got 4096 blocks of 256
// CHECK-NEXT: remark: {{.*}} program.launch @large: expected at most 24576 bytes of shared memory, got 32768
// CHECK-NEXT: remark: {{.*}} program.launch @eager: expected a kernel that waits for the launches before it
// CHECK-NOT: remark
// CHECK: program.func @misfits
// CHECK: program.launch @cluster
// CHECK-NEXT: program.launch @odd
// CHECK-NEXT: program.launch @alone
// CHECK-NEXT: program.launch @many
// CHECK-NEXT: program.launch @large
// CHECK-NEXT: program.launch @eager
// CHECK-NEXT: program.persistent @persistent0 block 256 {
// CHECK-NEXT: program.launch @two
// CHECK-NEXT: program.launch @two
// CHECK-NEXT: }
kernel.func @cluster(%x: memref<4xf32>) attributes {grid = 2 : i64, block = 128 : i64, inputs = 0 : i64, results = array<i64: 0>, constants = array<i64>, cluster = 2 : i64} {
  kernel.wait_dependency
  kernel.return
}
kernel.func @odd(%x: memref<4xf32>) attributes {grid = 1 : i64, block = 48 : i64, inputs = 0 : i64, results = array<i64: 0>, constants = array<i64>} {
  kernel.wait_dependency
  kernel.return
}
kernel.func @alone(%x: memref<4xf32>) attributes {grid = 1 : i64, block = 256 : i64, inputs = 0 : i64, results = array<i64: 0>, constants = array<i64>, min_blocks = 1 : i64} {
  kernel.wait_dependency
  kernel.return
}
kernel.func @many(%x: memref<4xf32>) attributes {grid = 4096 : i64, block = 256 : i64, inputs = 0 : i64, results = array<i64: 0>, constants = array<i64>} {
  kernel.wait_dependency
  kernel.return
}
kernel.func @large(%x: memref<4xf32>) attributes {grid = 1 : i64, block = 128 : i64, inputs = 0 : i64, results = array<i64: 0>, constants = array<i64>} {
  %s = kernel.alloc : memref<8192xf32, #kernel<space shared>>
  kernel.wait_dependency
  kernel.return
}
kernel.func @eager(%x: memref<4xf32>) attributes {grid = 1 : i64, block = 128 : i64, inputs = 0 : i64, results = array<i64: 0>} {
  kernel.return
}
kernel.func @two(%x: memref<4xf32>) attributes {grid = 1 : i64, block = 256 : i64, inputs = 0 : i64, results = array<i64: 0>, constants = array<i64>, min_blocks = 2 : i64} {
  kernel.wait_dependency
  kernel.return
}
program.func @misfits {
  %x = program.temp at 0 : memref<4xf32>
  program.launch @cluster(%x) : memref<4xf32>
  program.launch @odd(%x) : memref<4xf32>
  program.launch @alone(%x) : memref<4xf32>
  program.launch @many(%x) : memref<4xf32>
  program.launch @large(%x) : memref<4xf32>
  program.launch @eager(%x) : memref<4xf32>
  program.launch @two(%x) : memref<4xf32>
  program.launch @two(%x) : memref<4xf32>
}
