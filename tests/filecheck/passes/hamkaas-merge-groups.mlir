// RUN: hamkaas-opt %s -p hamkaas-merge-groups --split-input-file | filecheck %s

// Two products of one vector become one group with two results; what they read in common is passed once.
// CHECK-LABEL: hamkaas.group @g0_0(
// CHECK-SAME: tensor<8xf32>, %w: tensor<8x4xf32>, %v: tensor<8x2xf32>) -> (tensor<4xf32>, tensor<2xf32>)
// CHECK-SAME: label = "matmul relu | matmul"
// CHECK-NEXT: [[A:%.*]] = hamkaas.matmul %x, %w
// CHECK-NEXT: [[B:%.*]] = hamkaas.relu [[A]]
// CHECK-NEXT: [[C:%.*]] = hamkaas.matmul %x, %v
// CHECK-NEXT: hamkaas.yield [[B]], [[C]]
// CHECK-NOT: hamkaas.group
// CHECK-LABEL: func.func @merged
// CHECK-NEXT: [[R:%.*]], [[S:%.*]] = hamkaas.execute @g0_0(%x, %w, %v)
// CHECK-NEXT: func.return [[R]], [[S]]
hamkaas.group @g0(%x: tensor<8xf32>, %w: tensor<8x4xf32>) -> tensor<4xf32> attributes {label = "matmul relu"} {
  %0 = hamkaas.matmul %x, %w : (tensor<8xf32>, tensor<8x4xf32>) -> tensor<4xf32>
  %1 = hamkaas.relu %0 : (tensor<4xf32>) -> tensor<4xf32>
  hamkaas.yield %1 : tensor<4xf32>
}
hamkaas.group @g1(%v: tensor<8x2xf32>, %x: tensor<8xf32>) -> tensor<2xf32> attributes {label = "matmul"} {
  %0 = hamkaas.matmul %x, %v : (tensor<8xf32>, tensor<8x2xf32>) -> tensor<2xf32>
  hamkaas.yield %0 : tensor<2xf32>
}
func.func @merged(%x: tensor<8xf32>, %w: tensor<8x4xf32>, %v: tensor<8x2xf32>) -> (tensor<4xf32>, tensor<2xf32>) {
  %0 = hamkaas.execute @g0(%x, %w) : (tensor<8xf32>, tensor<8x4xf32>) -> tensor<4xf32>
  %1 = hamkaas.execute @g1(%v, %x) : (tensor<8x2xf32>, tensor<8xf32>) -> tensor<2xf32>
  func.return %0, %1 : tensor<4xf32>, tensor<2xf32>
}

// -----

// The second one reads the result of the first: they cannot run side by side.
// CHECK-LABEL: func.func @dependent
// CHECK-NEXT: hamkaas.execute @g0(%x, %w, %b)
// CHECK-NEXT: hamkaas.execute @g0(%x, %w,
hamkaas.group @g0(%x: tensor<8xf32>, %w: tensor<8x8xf32>, %b: tensor<8xf32>) -> tensor<8xf32> {
  %0 = hamkaas.matmul %x, %w : (tensor<8xf32>, tensor<8x8xf32>) -> tensor<8xf32>
  %1 = hamkaas.add %0, %b : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  hamkaas.yield %1 : tensor<8xf32>
}
func.func @dependent(%x: tensor<8xf32>, %w: tensor<8x8xf32>, %b: tensor<8xf32>) -> tensor<8xf32> {
  %0 = hamkaas.execute @g0(%x, %w, %b) : (tensor<8xf32>, tensor<8x8xf32>, tensor<8xf32>) -> tensor<8xf32>
  %1 = hamkaas.execute @g0(%x, %w, %0) : (tensor<8xf32>, tensor<8x8xf32>, tensor<8xf32>) -> tensor<8xf32>
  func.return %1 : tensor<8xf32>
}

// -----

// Products of different vectors have nothing in common.
// CHECK-LABEL: func.func @different
// CHECK-COUNT-2: hamkaas.execute
hamkaas.group @g0(%x: tensor<8xf32>, %w: tensor<8x8xf32>) -> tensor<8xf32> {
  %0 = hamkaas.matmul %x, %w : (tensor<8xf32>, tensor<8x8xf32>) -> tensor<8xf32>
  hamkaas.yield %0 : tensor<8xf32>
}
func.func @different(%x: tensor<8xf32>, %y: tensor<8xf32>, %w: tensor<8x8xf32>) -> (tensor<8xf32>, tensor<8xf32>) {
  %0 = hamkaas.execute @g0(%x, %w) : (tensor<8xf32>, tensor<8x8xf32>) -> tensor<8xf32>
  %1 = hamkaas.execute @g0(%y, %w) : (tensor<8xf32>, tensor<8x8xf32>) -> tensor<8xf32>
  func.return %0, %1 : tensor<8xf32>, tensor<8xf32>
}

// -----

// One updates what the other reads: side by side, the reader might see old or new values.
// CHECK-LABEL: func.func @updated
// CHECK-COUNT-2: hamkaas.execute
hamkaas.group @g0(%x: tensor<8xf32>, %w: tensor<8x4xf32>, %s: tensor<16xf32>, %b: tensor<1xi64>, %e: tensor<1xi64>) -> tensor<16xf32> {
  %0 = hamkaas.matmul %x, %w : (tensor<8xf32>, tensor<8x4xf32>) -> tensor<4xf32>
  %1 = hamkaas.replace_slice %s, %0 from %b to %e : (tensor<16xf32>, tensor<4xf32>, tensor<1xi64>, tensor<1xi64>) -> tensor<16xf32>
  hamkaas.yield %1 : tensor<16xf32>
}
hamkaas.group @g1(%x: tensor<8xf32>, %w: tensor<8x16xf32>, %s: tensor<16xf32>) -> tensor<16xf32> {
  %0 = hamkaas.matmul %x, %w : (tensor<8xf32>, tensor<8x16xf32>) -> tensor<16xf32>
  %1 = hamkaas.add %0, %s : (tensor<16xf32>, tensor<16xf32>) -> tensor<16xf32>
  hamkaas.yield %1 : tensor<16xf32>
}
func.func @updated(%x: tensor<8xf32>, %w: tensor<8x4xf32>, %v: tensor<8x16xf32>, %s: tensor<16xf32>, %b: tensor<1xi64>, %e: tensor<1xi64>) -> (tensor<16xf32>, tensor<16xf32>) {
  %0 = hamkaas.execute @g0(%x, %w, %s, %b, %e) : (tensor<8xf32>, tensor<8x4xf32>, tensor<16xf32>, tensor<1xi64>, tensor<1xi64>) -> tensor<16xf32>
  %1 = hamkaas.execute @g1(%x, %v, %s) : (tensor<8xf32>, tensor<8x16xf32>, tensor<16xf32>) -> tensor<16xf32>
  func.return %0, %1 : tensor<16xf32>, tensor<16xf32>
}

// -----

// Groups without a reduction wait for the last of them, whatever stands between, as long as nobody reads a result...
// CHECK-LABEL: func.func @pointwise
// CHECK-NEXT: [[N:%.*]] = hamkaas.execute @norm(%x)
// CHECK-NEXT: [[A:%.*]], [[B:%.*]] = hamkaas.execute @relu_0(%x, %y)
// CHECK-NEXT: func.return [[A]], [[B]], [[N]]
hamkaas.group @relu(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %0 = hamkaas.relu %x : (tensor<4x8xf32>) -> tensor<4x8xf32>
  hamkaas.yield %0 : tensor<4x8xf32>
}
hamkaas.group @norm(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %w = hamkaas.constant 1.000000e+00 : f32 -> tensor<8xf32>
  %0 = hamkaas.rms_norm %x, %w eps 1.000000e-05 : (tensor<4x8xf32>, tensor<8xf32>) -> tensor<4x8xf32>
  hamkaas.yield %0 : tensor<4x8xf32>
}
func.func @pointwise(%x: tensor<4x8xf32>, %y: tensor<4x8xf32>) -> (tensor<4x8xf32>, tensor<4x8xf32>, tensor<4x8xf32>) {
  %a = hamkaas.execute @relu(%x) : (tensor<4x8xf32>) -> tensor<4x8xf32>
  %n = hamkaas.execute @norm(%x) : (tensor<4x8xf32>) -> tensor<4x8xf32>
  %b = hamkaas.execute @relu(%y) : (tensor<4x8xf32>) -> tensor<4x8xf32>
  func.return %a, %b, %n : tensor<4x8xf32>, tensor<4x8xf32>, tensor<4x8xf32>
}

// -----

// ... as somebody does here.
// CHECK-LABEL: func.func @read_in_between
// CHECK-NEXT: [[A:%.*]] = hamkaas.execute @relu(%x)
// CHECK-NEXT: hamkaas.execute @norm([[A]])
// CHECK-NEXT: hamkaas.execute @relu(%y)
hamkaas.group @relu(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %0 = hamkaas.relu %x : (tensor<4x8xf32>) -> tensor<4x8xf32>
  hamkaas.yield %0 : tensor<4x8xf32>
}
hamkaas.group @norm(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %w = hamkaas.constant 1.000000e+00 : f32 -> tensor<8xf32>
  %0 = hamkaas.rms_norm %x, %w eps 1.000000e-05 : (tensor<4x8xf32>, tensor<8xf32>) -> tensor<4x8xf32>
  hamkaas.yield %0 : tensor<4x8xf32>
}
func.func @read_in_between(%x: tensor<4x8xf32>, %y: tensor<4x8xf32>) -> (tensor<4x8xf32>, tensor<4x8xf32>) {
  %a = hamkaas.execute @relu(%x) : (tensor<4x8xf32>) -> tensor<4x8xf32>
  %n = hamkaas.execute @norm(%a) : (tensor<4x8xf32>) -> tensor<4x8xf32>
  %b = hamkaas.execute @relu(%y) : (tensor<4x8xf32>) -> tensor<4x8xf32>
  func.return %b, %n : tensor<4x8xf32>, tensor<4x8xf32>
}

// -----

// The second one reads what the first one updates in place: side by side it might read the new rows.
// CHECK-LABEL: func.func @update
// CHECK-NEXT: hamkaas.execute @put(
// CHECK-NEXT: hamkaas.execute @relu(
hamkaas.group @put(%y: tensor<1x8xf32>, %at: tensor<1xi64>, %to: tensor<1xi64>, %x: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %0 = hamkaas.replace_slice %x, %y from %at to %to : (tensor<4x8xf32>, tensor<1x8xf32>, tensor<1xi64>, tensor<1xi64>) -> tensor<4x8xf32>
  hamkaas.yield %0 : tensor<4x8xf32>
}
hamkaas.group @relu(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %0 = hamkaas.relu %x : (tensor<4x8xf32>) -> tensor<4x8xf32>
  hamkaas.yield %0 : tensor<4x8xf32>
}
func.func @update(%x: tensor<4x8xf32>, %y: tensor<1x8xf32>, %at: tensor<1xi64>, %to: tensor<1xi64>) -> (tensor<4x8xf32>, tensor<4x8xf32>) {
  %a = hamkaas.execute @put(%y, %at, %to, %x) : (tensor<1x8xf32>, tensor<1xi64>, tensor<1xi64>, tensor<4x8xf32>) -> tensor<4x8xf32>
  %b = hamkaas.execute @relu(%x) : (tensor<4x8xf32>) -> tensor<4x8xf32>
  func.return %a, %b : tensor<4x8xf32>, tensor<4x8xf32>
}
