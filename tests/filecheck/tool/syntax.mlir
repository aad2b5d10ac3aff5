// RUN: hamkaas-opt %s --split-input-file --verify-diagnostics | filecheck %s

// CHECK: syntax.mlir:6:23: error:
// CHECK-NEXT: %y = hamkaas.add %x : (tensor<4xf32>) -> tensor<4xf32>
func.func @missing_operand(%x: tensor<4xf32>) {
  %y = hamkaas.add %x : (tensor<4xf32>) -> tensor<4xf32>
  func.return
}

// -----

// CHECK: syntax.mlir:[[LINE:[0-9]+]]:21: error: values used but not defined: [%typo]
// CHECK-NEXT: %y = hamkaas.relu %typo
// CHECK-NEXT: {{ +}}^
func.func @undefined(%x: tensor<4xf32>) {
  %y = hamkaas.relu %typo : (tensor<4xf32>) -> tensor<4xf32>
  func.return
}

// -----

// CHECK: syntax.mlir:{{[0-9]+}}:3: error: 'hamkaas.relu' does not verify: expected result tensor<4xf32>, got tensor<5xf32>
func.func @wrong_type(%x: tensor<4xf32>) {
  %y = hamkaas.relu %x : (tensor<4xf32>) -> tensor<5xf32>
  func.return
}
