// RUN: hamkaas-opt %s -p 'hamkaas-assign-shapes{shapes="g0:128:32:2:64","g7:64:64:2:64"}' | filecheck %s
// RUN: hamkaas-opt %s -p 'hamkaas-assign-shapes{shapes="g0:128:32:2:64"},hamkaas-to-kernel{target=cuda}' | filecheck %s --check-prefix KERNEL
// RUN: hamkaas-opt %s -p 'hamkaas-to-kernel{target=cuda}' | filecheck %s --check-prefix RULE

// The shape of the group of this name; other groups keep what they have, and other names are of no account.
// CHECK: hamkaas.group @g0
// CHECK-SAME: vector_shape = "128:32:2:64"
// CHECK: hamkaas.group @g1
// CHECK-NOT: vector_shape

// A block of 4 warps, each for two of 1024 columns; by the rule it is a block of 256 threads for two columns.
// KERNEL: kernel.func @g0
// KERNEL-SAME: grid = 128 : i64, block = 128 : i64
// KERNEL: kernel.func @g1
// KERNEL-SAME: grid = 512 : i64, block = 256 : i64
// RULE: kernel.func @g0
// RULE-SAME: grid = 512 : i64, block = 256 : i64
hamkaas.group @g0(%x: tensor<1024xf32>, %w: tensor<1024x1024xf32>) -> tensor<1024xf32> {
  %t = hamkaas.permute %w axes [1, 0] : (tensor<1024x1024xf32>) -> tensor<1024x1024xf32>
  %y = hamkaas.matmul %x, %t : (tensor<1024xf32>, tensor<1024x1024xf32>) -> tensor<1024xf32>
  hamkaas.yield %y : tensor<1024xf32>
}
hamkaas.group @g1(%x: tensor<1024xf32>, %w: tensor<1024x1024xf32>) -> tensor<1024xf32> {
  %t = hamkaas.permute %w axes [1, 0] : (tensor<1024x1024xf32>) -> tensor<1024x1024xf32>
  %y = hamkaas.matmul %x, %t : (tensor<1024xf32>, tensor<1024x1024xf32>) -> tensor<1024xf32>
  %z = hamkaas.relu %y : (tensor<1024xf32>) -> tensor<1024xf32>
  hamkaas.yield %z : tensor<1024xf32>
}
