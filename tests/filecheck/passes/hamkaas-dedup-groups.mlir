// RUN: hamkaas-opt %s -p hamkaas-dedup-groups | filecheck %s

// @a and @b are equal but for names; @c differs in a shape, @d in an operation, @e in the order of operands.
// CHECK-COUNT-4: hamkaas.group
// CHECK-NOT: hamkaas.group
hamkaas.group @a(%x: tensor<4xf32>, %y: tensor<4xf32>) -> tensor<4xf32> {
  %0 = hamkaas.relu %x : (tensor<4xf32>) -> tensor<4xf32>
  %1 = hamkaas.add %0, %y : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  hamkaas.yield %1 : tensor<4xf32>
}
hamkaas.group @b(%p: tensor<4xf32>, %q: tensor<4xf32>) -> tensor<4xf32> {
  %r = hamkaas.relu %p : (tensor<4xf32>) -> tensor<4xf32>
  %s = hamkaas.add %r, %q : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  hamkaas.yield %s : tensor<4xf32>
}
hamkaas.group @c(%x: tensor<5xf32>, %y: tensor<5xf32>) -> tensor<5xf32> {
  %0 = hamkaas.relu %x : (tensor<5xf32>) -> tensor<5xf32>
  %1 = hamkaas.add %0, %y : (tensor<5xf32>, tensor<5xf32>) -> tensor<5xf32>
  hamkaas.yield %1 : tensor<5xf32>
}
hamkaas.group @d(%x: tensor<4xf32>, %y: tensor<4xf32>) -> tensor<4xf32> {
  %0 = hamkaas.silu %x : (tensor<4xf32>) -> tensor<4xf32>
  %1 = hamkaas.add %0, %y : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  hamkaas.yield %1 : tensor<4xf32>
}
hamkaas.group @e(%x: tensor<4xf32>, %y: tensor<4xf32>) -> tensor<4xf32> {
  %0 = hamkaas.relu %x : (tensor<4xf32>) -> tensor<4xf32>
  %1 = hamkaas.add %y, %0 : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  hamkaas.yield %1 : tensor<4xf32>
}
// CHECK-LABEL: func.func @main
// CHECK-NEXT: hamkaas.execute @g0(
// CHECK-NEXT: hamkaas.execute @g0(
// CHECK-NEXT: hamkaas.execute @g1(
// CHECK-NEXT: hamkaas.execute @g2(
// CHECK-NEXT: hamkaas.execute @g3(
func.func @main(%x: tensor<4xf32>, %z: tensor<5xf32>) {
  %0 = hamkaas.execute @a(%x, %x) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %1 = hamkaas.execute @b(%0, %x) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %2 = hamkaas.execute @c(%z, %z) : (tensor<5xf32>, tensor<5xf32>) -> tensor<5xf32>
  %3 = hamkaas.execute @d(%1, %x) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %4 = hamkaas.execute @e(%3, %x) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  func.return
}
