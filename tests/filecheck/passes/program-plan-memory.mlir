// RUN: hamkaas-opt %s -p program-plan-memory | filecheck %s

// %a is dead once %b is made, so %c takes its place; %b lives on beside it. Places are multiples of 256 bytes.
// CHECK-LABEL: program.func @reuse
// CHECK: %a = program.temp at 0 : memref<100xf32>
// CHECK-NEXT: %b = program.temp at 512 : memref<10xf32>
// CHECK-NEXT: %c = program.temp at 0 : memref<60xf32>
program.func @reuse {
  %x = program.input "x" : memref<100xf32>
  %a = program.temp : memref<100xf32>
  %b = program.temp : memref<10xf32>
  %c = program.temp : memref<60xf32>
  %y = program.output 0 : memref<10xf32>
  program.launch @k(%x, %a) : memref<100xf32>, memref<100xf32>
  program.launch @k(%a, %b) : memref<100xf32>, memref<10xf32>
  program.launch @k(%x, %c) : memref<100xf32>, memref<60xf32>
  program.launch @k(%b, %c, %y) : memref<10xf32>, memref<60xf32>, memref<10xf32>
}

// What a step reads and what it writes are alive together.
// CHECK-LABEL: program.func @no_overlap
// CHECK: program.temp at 0
// CHECK-NEXT: program.temp at 256
program.func @no_overlap {
  %x = program.input "x" : memref<4xf32>
  %a = program.temp : memref<4xf32>
  %b = program.temp : memref<4xf32>
  %y = program.output 0 : memref<4xf32>
  program.launch @k(%x, %a) : memref<4xf32>, memref<4xf32>
  program.launch @k(%a, %b) : memref<4xf32>, memref<4xf32>
  program.launch @k(%b, %y) : memref<4xf32>, memref<4xf32>
}
