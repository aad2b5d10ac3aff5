// RUN: hamkaas-opt %s -p verify-dominance --split-input-file --verify-diagnostics | filecheck %s

// CHECK: error: 'hamkaas.relu' does not verify: expected operand 0 to be defined before its use, got %b
// CHECK-NEXT: %a = hamkaas.relu %b
// CHECK-NEXT: ^
func.func @use_before_definition(%x: tensor<4xf32>) {
  %a = hamkaas.relu %b : (tensor<4xf32>) -> tensor<4xf32>
  %b = hamkaas.relu %x : (tensor<4xf32>) -> tensor<4xf32>
  func.return
}

// -----

// A value of another region is not defined here at all.
// CHECK: error: values used but not defined: [%z]
// CHECK-NEXT: {{ +}}scf.yield %z : f32
// CHECK-NEXT: {{ +}}^
func.func @other_region(%c: i1, %x: f32) -> f32 {
  %y = scf.if %c -> (f32) {
    %z = arith.addf %x, %x : f32
    scf.yield %z : f32
  } else {
    scf.yield %z : f32
  }
  func.return %y : f32
}

// -----

// A use in a nested region of a value from around it is fine.
// CHECK-LABEL: func.func @nested
// CHECK-NOT: error
func.func @nested(%c: i1, %x: f32) -> f32 {
  %y = scf.if %c -> (f32) {
    %z = arith.addf %x, %x : f32
    scf.yield %z : f32
  } else {
    scf.yield %x : f32
  }
  func.return %y : f32
}
