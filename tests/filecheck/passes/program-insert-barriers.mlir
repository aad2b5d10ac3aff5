// RUN: hamkaas-opt %s -p program-insert-barriers | filecheck %s

kernel.func @k(%x: memref<4xf32>, %out: memref<4xf32>) attributes {grid = 1 : i64, block = 1 : i64, inputs = 1 : i64, results = array<i64: 1>} {
  kernel.return
}

// Two readers of one value run side by side; who reads what they wrote waits.
// CHECK-LABEL: program.func @fork
// CHECK: program.launch @k(%x, %a)
// CHECK-NEXT: program.launch @k(%x, %b)
// CHECK-NEXT: program.barrier
// CHECK-NEXT: program.launch @k(%a, %y)
program.func @fork {
  %x = program.input "x" : memref<4xf32>
  %a = program.temp at 0 : memref<4xf32>
  %b = program.temp at 256 : memref<4xf32>
  %y = program.output 0 : memref<4xf32>
  program.launch @k(%x, %a) : memref<4xf32>, memref<4xf32>
  program.launch @k(%x, %b) : memref<4xf32>, memref<4xf32>
  program.launch @k(%a, %y) : memref<4xf32>, memref<4xf32>
}

// %c is another value at the place of %a: writing it waits for the reader of %a.
// CHECK-LABEL: program.func @reused_place
// CHECK: program.launch @k(%a, %y)
// CHECK-NEXT: program.barrier
// CHECK-NEXT: program.launch @k(%x, %c)
program.func @reused_place {
  %x = program.input "x" : memref<4xf32>
  %a = program.temp at 0 : memref<4xf32>
  %c = program.temp at 0 : memref<4xf32>
  %y = program.output 0 : memref<4xf32>
  program.launch @k(%a, %y) : memref<4xf32>, memref<4xf32>
  program.launch @k(%x, %c) : memref<4xf32>, memref<4xf32>
}
