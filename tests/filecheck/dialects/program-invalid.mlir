// RUN: hamkaas-opt %s --split-input-file --verify-diagnostics | filecheck %s

// CHECK: error: 'program.temp' does not verify: expected an offset that is a multiple of 256, got 4
program.func @main {
  %t = program.temp at 4 : memref<4xf32>
}

// -----

// CHECK: error: 'program.persistent' does not verify: expected launches and barriers only, got program.copy
program.func @main {
  %t = program.temp at 0 : memref<4xf32>
  %u = program.temp at 256 : memref<4xf32>
  program.persistent @persistent0 block 256 {
    program.launch @f(%t) : memref<4xf32>
    program.copy %t to %u : memref<4xf32>
  }
}

// -----

// CHECK: error: 'program.persistent' does not verify: expected at least one launch
program.func @main {
  program.persistent @persistent0 block 256 {
    program.barrier
  }
}

// -----

// CHECK: error: 'program.persistent' does not verify: expected a block that is a multiple of 32 up to 1024, got 48
program.func @main {
  %t = program.temp at 0 : memref<4xf32>
  program.persistent @persistent0 block 48 {
    program.launch @f(%t) : memref<4xf32>
  }
}
