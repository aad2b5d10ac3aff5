// RUN: hamkaas-opt %s -p hamkaas-raise-attention --split-input-file --remarks 2>&1 | filecheck %s
// RUN: hamkaas-opt %s -p 'hamkaas-raise-attention{masked=true}' --split-input-file --remarks 2>&1 | filecheck %s --check-prefix=MASKED

// The prefix is all of the axis: an equation. The cache lies as attention wants it, so that nothing is permuted.
// CHECK-LABEL: func.func @heads
// CHECK-NEXT: [[N:%.*]] = hamkaas.constant 9 : i64
// CHECK-NEXT: [[Q:%.*]] = hamkaas.reshape %q : (tensor<2x1x4xf32>) -> tensor<2x4xf32>
// CHECK-NEXT: [[Y:%.*]] = hamkaas.attention [[Q]], %k, %v length [[N]] scale 5.000000e-01
// CHECK-NEXT: [[R:%.*]] = hamkaas.reshape [[Y]] : (tensor<2x4xf32>) -> tensor<2x1x4xf32>
// CHECK-NEXT: func.return [[R]]
func.func @heads(%q: tensor<2x1x4xf32>, %k: tensor<9x2x4xf32>, %v: tensor<9x2x4xf32>) -> tensor<2x1x4xf32> {
  %n = hamkaas.constant 9 : i64 -> tensor<1xi64>
  %c = hamkaas.constant 5.000000e-01 : f32 -> tensor<1x1x1xf32>
  %kt = hamkaas.permute %k axes [1, 2, 0] : (tensor<9x2x4xf32>) -> tensor<2x4x9xf32>
  %vt = hamkaas.permute %v axes [1, 0, 2] : (tensor<9x2x4xf32>) -> tensor<2x9x4xf32>
  %0 = hamkaas.matmul %q, %kt : (tensor<2x1x4xf32>, tensor<2x4x9xf32>) -> tensor<2x1x9xf32>
  %1 = hamkaas.mul %0, %c : (tensor<2x1x9xf32>, tensor<1x1x1xf32>) -> tensor<2x1x9xf32>
  %2 = hamkaas.sliced_softmax %1 prefix %n : (tensor<2x1x9xf32>, tensor<1xi64>) -> tensor<2x1x9xf32>
  %3 = hamkaas.matmul %2, %vt : (tensor<2x1x9xf32>, tensor<2x9x4xf32>) -> tensor<2x1x4xf32>
  func.return %3 : tensor<2x1x4xf32>
}

// -----

// Three query heads share each of two key heads; keys that are stored by heads are permuted. There is no scale.
// CHECK-LABEL: func.func @grouped
// CHECK: [[Q:%.*]] = hamkaas.reshape %q : (tensor<2x3x4xf32>) -> tensor<6x4xf32>
// CHECK-NEXT: [[K:%.*]] = hamkaas.permute %k axes [1, 0, 2] : (tensor<2x9x4xf32>) -> tensor<9x2x4xf32>
// CHECK-NEXT: [[V:%.*]] = hamkaas.permute %v axes [1, 0, 2]
// CHECK-NEXT: [[Y:%.*]] = hamkaas.attention [[Q]], [[K]], [[V]] length %{{.*}} scale 1.000000e+00
// CHECK-NEXT: hamkaas.reshape [[Y]] : (tensor<6x4xf32>) -> tensor<2x3x4xf32>
func.func @grouped(%q: tensor<2x3x4xf32>, %k: tensor<2x9x4xf32>, %v: tensor<2x9x4xf32>) -> tensor<2x3x4xf32> {
  %n = hamkaas.constant 9 : i64 -> tensor<1xi64>
  %kt = hamkaas.permute %k axes [0, 2, 1] : (tensor<2x9x4xf32>) -> tensor<2x4x9xf32>
  %0 = hamkaas.matmul %q, %kt : (tensor<2x3x4xf32>, tensor<2x4x9xf32>) -> tensor<2x3x9xf32>
  %1 = hamkaas.reshape %0 : (tensor<2x3x9xf32>) -> tensor<6x9xf32>
  %2 = hamkaas.sliced_softmax %1 prefix %n : (tensor<6x9xf32>, tensor<1xi64>) -> tensor<6x9xf32>
  %3 = hamkaas.reshape %2 : (tensor<6x9xf32>) -> tensor<2x3x9xf32>
  %4 = hamkaas.matmul %3, %v : (tensor<2x3x9xf32>, tensor<2x9x4xf32>) -> tensor<2x3x4xf32>
  func.return %4 : tensor<2x3x4xf32>
}

// -----

// As the original project has it: keys times queries, a scale that is a weight, an indicator of the positions. Nothing
// tells what the indicator is, unless it is taken for granted; then the query takes the scale.
// CHECK: remark: hamkaas-raise-attention: @lab: hamkaas.sliced_softmax %w: the weights are multiplied by something else
// CHECK-LABEL: func.func @lab
// CHECK-NOT: hamkaas.attention
// MASKED-LABEL: func.func @lab
// MASKED-NEXT: [[K:%.*]] = hamkaas.reshape %k : (tensor<72xf32>) -> tensor<9x2x4xf32>
// MASKED-NEXT: [[V:%.*]] = hamkaas.reshape %v : (tensor<72xf32>) -> tensor<9x2x4xf32>
// MASKED-NEXT: [[Q:%.*]] = hamkaas.reshape %q : (tensor<8xf32>) -> tensor<2x4xf32>
// MASKED-NEXT: [[S:%.*]] = hamkaas.mul [[Q]], %c : (tensor<2x4xf32>, tensor<1x1xf32>)
// MASKED-NEXT: [[Y:%.*]] = hamkaas.attention [[S]], [[K]], [[V]] length %n scale 1.000000e+00
// MASKED-NEXT: [[P:%.*]] = hamkaas.reshape [[Y]] : (tensor<2x4xf32>) -> tensor<2x4x1xf32>
// MASKED-NEXT: hamkaas.reshape [[P]]
func.func @lab(%q: tensor<8xf32>, %k: tensor<72xf32>, %v: tensor<72xf32>, %c: tensor<1x1xf32>, %n: tensor<1xi64>, %here: tensor<1x9xf32>) -> tensor<8xf32> {
  %qm = hamkaas.reshape %q : (tensor<8xf32>) -> tensor<2x4x1xf32>
  %k0 = hamkaas.reshape %k : (tensor<72xf32>) -> tensor<9x2x4xf32>
  %km = hamkaas.permute %k0 axes [1, 0, 2] : (tensor<9x2x4xf32>) -> tensor<2x9x4xf32>
  %0 = hamkaas.matmul %km, %qm : (tensor<2x9x4xf32>, tensor<2x4x1xf32>) -> tensor<2x9x1xf32>
  %1 = hamkaas.reshape %0 : (tensor<2x9x1xf32>) -> tensor<2x9xf32>
  %2 = hamkaas.mul %1, %c : (tensor<2x9xf32>, tensor<1x1xf32>) -> tensor<2x9xf32>
  %w = hamkaas.sliced_softmax %2 prefix %n : (tensor<2x9xf32>, tensor<1xi64>) -> tensor<2x9xf32>
  %3 = hamkaas.mul %w, %here : (tensor<2x9xf32>, tensor<1x9xf32>) -> tensor<2x9xf32>
  %v0 = hamkaas.reshape %v : (tensor<72xf32>) -> tensor<9x2x4xf32>
  %vm = hamkaas.permute %v0 axes [1, 2, 0] : (tensor<9x2x4xf32>) -> tensor<2x4x9xf32>
  %4 = hamkaas.reshape %3 : (tensor<2x9xf32>) -> tensor<2x9x1xf32>
  %5 = hamkaas.matmul %vm, %4 : (tensor<2x4x9xf32>, tensor<2x9x1xf32>) -> tensor<2x4x1xf32>
  %6 = hamkaas.reshape %5 : (tensor<2x4x1xf32>) -> tensor<8xf32>
  func.return %6 : tensor<8xf32>
}

// -----

// Behind the prefix the softmax leaves scores, which the product counts: not attention, unless it is known that keys or
// values are zero there.
// CHECK: remark: hamkaas-raise-attention: @tail: hamkaas.sliced_softmax %w: what is behind the prefix counts in the product
// CHECK-LABEL: func.func @tail
// CHECK-NOT: hamkaas.attention
// MASKED-LABEL: func.func @tail
// MASKED: hamkaas.attention %{{.*}}, %{{.*}}, %{{.*}} length %n scale 1.000000e+00
func.func @tail(%q: tensor<4xf32>, %kt: tensor<4x9xf32>, %v: tensor<9x4xf32>, %n: tensor<1xi64>) -> tensor<4xf32> {
  %0 = hamkaas.matmul %q, %kt : (tensor<4xf32>, tensor<4x9xf32>) -> tensor<9xf32>
  %w = hamkaas.sliced_softmax %0 prefix %n : (tensor<9xf32>, tensor<1xi64>) -> tensor<9xf32>
  %1 = hamkaas.matmul %w, %v : (tensor<9xf32>, tensor<9x4xf32>) -> tensor<4xf32>
  func.return %1 : tensor<4xf32>
}

// -----

// A prefix for each row: the rows are queries with a length each.
// MASKED-LABEL: func.func @lengths
// MASKED: [[Q:%.*]] = hamkaas.permute %q axes [1, 0, 2] : (tensor<2x3x4xf32>) -> tensor<3x2x4xf32>
// MASKED: [[Y:%.*]] = hamkaas.attention [[Q]], %{{.*}} length %n scale 1.000000e+00
// MASKED-NEXT: hamkaas.permute [[Y]] axes [1, 0, 2]
func.func @lengths(%q: tensor<2x3x4xf32>, %kt: tensor<2x4x9xf32>, %v: tensor<2x9x4xf32>, %n: tensor<3xi64>) -> tensor<2x3x4xf32> {
  %0 = hamkaas.matmul %q, %kt : (tensor<2x3x4xf32>, tensor<2x4x9xf32>) -> tensor<2x3x9xf32>
  %w = hamkaas.sliced_softmax %0 prefix %n : (tensor<2x3x9xf32>, tensor<3xi64>) -> tensor<2x3x9xf32>
  %1 = hamkaas.matmul %w, %v : (tensor<2x3x9xf32>, tensor<2x9x4xf32>) -> tensor<2x3x4xf32>
  func.return %1 : tensor<2x3x4xf32>
}

// -----

// A prefix for each head is no length of a query.
// MASKED: remark: {{.*}} @by_head: hamkaas.sliced_softmax %w: it is no query that each prefix belongs to
// MASKED-LABEL: func.func @by_head
// MASKED-NOT: hamkaas.attention
func.func @by_head(%q: tensor<2x3x4xf32>, %kt: tensor<2x4x9xf32>, %v: tensor<2x9x4xf32>, %n: tensor<2xi64>) -> tensor<2x3x4xf32> {
  %0 = hamkaas.matmul %q, %kt : (tensor<2x3x4xf32>, tensor<2x4x9xf32>) -> tensor<2x3x9xf32>
  %t = hamkaas.permute %0 axes [1, 0, 2] : (tensor<2x3x9xf32>) -> tensor<3x2x9xf32>
  %w = hamkaas.sliced_softmax %t prefix %n : (tensor<3x2x9xf32>, tensor<2xi64>) -> tensor<3x2x9xf32>
  %u = hamkaas.permute %w axes [1, 0, 2] : (tensor<3x2x9xf32>) -> tensor<2x3x9xf32>
  %1 = hamkaas.matmul %u, %v : (tensor<2x3x9xf32>, tensor<2x9x4xf32>) -> tensor<2x3x4xf32>
  func.return %1 : tensor<2x3x4xf32>
}

// -----

// The weights are a result too: they would be computed twice.
// MASKED: remark: {{.*}} @shown: hamkaas.sliced_softmax %w: something else reads the weights
// MASKED-LABEL: func.func @shown
// MASKED-NOT: hamkaas.attention
func.func @shown(%q: tensor<4xf32>, %kt: tensor<4x9xf32>, %v: tensor<9x4xf32>, %n: tensor<1xi64>) -> (tensor<4xf32>, tensor<9xf32>) {
  %0 = hamkaas.matmul %q, %kt : (tensor<4xf32>, tensor<4x9xf32>) -> tensor<9xf32>
  %w = hamkaas.sliced_softmax %0 prefix %n : (tensor<9xf32>, tensor<1xi64>) -> tensor<9xf32>
  %1 = hamkaas.matmul %w, %v : (tensor<9xf32>, tensor<9x4xf32>) -> tensor<4xf32>
  func.return %1, %w : tensor<4xf32>, tensor<9xf32>
}

// -----

// So would the scores.
// MASKED: remark: {{.*}} @scored: hamkaas.sliced_softmax %w: something else reads the scores
func.func @scored(%q: tensor<4xf32>, %kt: tensor<4x9xf32>, %v: tensor<9x4xf32>, %n: tensor<1xi64>) -> (tensor<4xf32>, tensor<9xf32>) {
  %0 = hamkaas.matmul %q, %kt : (tensor<4xf32>, tensor<4x9xf32>) -> tensor<9xf32>
  %w = hamkaas.sliced_softmax %0 prefix %n : (tensor<9xf32>, tensor<1xi64>) -> tensor<9xf32>
  %1 = hamkaas.matmul %w, %v : (tensor<9xf32>, tensor<9x4xf32>) -> tensor<4xf32>
  func.return %1, %0 : tensor<4xf32>, tensor<9xf32>
}

// -----

// A bias is added to the scores, which attention cannot say.
// MASKED: remark: {{.*}} @biased: hamkaas.sliced_softmax %w: it is of no product of queries and keys
func.func @biased(%q: tensor<4xf32>, %kt: tensor<4x9xf32>, %v: tensor<9x4xf32>, %n: tensor<1xi64>, %b: tensor<9xf32>) -> tensor<4xf32> {
  %0 = hamkaas.matmul %q, %kt : (tensor<4xf32>, tensor<4x9xf32>) -> tensor<9xf32>
  %s = hamkaas.add %0, %b : (tensor<9xf32>, tensor<9xf32>) -> tensor<9xf32>
  %w = hamkaas.sliced_softmax %s prefix %n : (tensor<9xf32>, tensor<1xi64>) -> tensor<9xf32>
  %1 = hamkaas.matmul %w, %v : (tensor<9xf32>, tensor<9x4xf32>) -> tensor<4xf32>
  func.return %1 : tensor<4xf32>
}

// -----

// Each score has a scale of its own.
// MASKED: remark: {{.*}} @scales: hamkaas.sliced_softmax %w: the scores are multiplied by more than a number
func.func @scales(%q: tensor<4xf32>, %kt: tensor<4x9xf32>, %v: tensor<9x4xf32>, %n: tensor<1xi64>, %c: tensor<9xf32>) -> tensor<4xf32> {
  %0 = hamkaas.matmul %q, %kt : (tensor<4xf32>, tensor<4x9xf32>) -> tensor<9xf32>
  %s = hamkaas.mul %0, %c : (tensor<9xf32>, tensor<9xf32>) -> tensor<9xf32>
  %w = hamkaas.sliced_softmax %s prefix %n : (tensor<9xf32>, tensor<1xi64>) -> tensor<9xf32>
  %1 = hamkaas.matmul %w, %v : (tensor<9xf32>, tensor<9x4xf32>) -> tensor<4xf32>
  func.return %1 : tensor<4xf32>
}

// -----

// A factor of the weights that differs from row to row is no indicator of positions.
// MASKED: remark: {{.*}} @gated: hamkaas.sliced_softmax %w: the weights are multiplied by something else
func.func @gated(%q: tensor<3x4xf32>, %kt: tensor<4x9xf32>, %v: tensor<9x4xf32>, %n: tensor<1xi64>, %g: tensor<3x1xf32>) -> tensor<3x4xf32> {
  %0 = hamkaas.matmul %q, %kt : (tensor<3x4xf32>, tensor<4x9xf32>) -> tensor<3x9xf32>
  %w = hamkaas.sliced_softmax %0 prefix %n : (tensor<3x9xf32>, tensor<1xi64>) -> tensor<3x9xf32>
  %m = hamkaas.mul %w, %g : (tensor<3x9xf32>, tensor<3x1xf32>) -> tensor<3x9xf32>
  %1 = hamkaas.matmul %m, %v : (tensor<3x9xf32>, tensor<9x4xf32>) -> tensor<3x4xf32>
  func.return %1 : tensor<3x4xf32>
}

// -----

// The softmax is over the heads, not over the positions that the product adds up.
// MASKED: remark: {{.*}} @other_axis: hamkaas.sliced_softmax %w: the product does not add up over the axis of the softmax
func.func @other_axis(%q: tensor<3x4xf32>, %kt: tensor<4x9xf32>, %v: tensor<9x4xf32>, %n: tensor<1xi64>) -> tensor<3x4xf32> {
  %0 = hamkaas.matmul %q, %kt : (tensor<3x4xf32>, tensor<4x9xf32>) -> tensor<3x9xf32>
  %t = hamkaas.permute %0 axes [1, 0] : (tensor<3x9xf32>) -> tensor<9x3xf32>
  %w = hamkaas.sliced_softmax %t prefix %n : (tensor<9x3xf32>, tensor<1xi64>) -> tensor<9x3xf32>
  %u = hamkaas.permute %w axes [1, 0] : (tensor<9x3xf32>) -> tensor<3x9xf32>
  %1 = hamkaas.matmul %u, %v : (tensor<3x9xf32>, tensor<9x4xf32>) -> tensor<3x4xf32>
  func.return %1 : tensor<3x4xf32>
}

// -----

// The scores are of two key heads, the values of six.
// MASKED: remark: {{.*}} @repeated: hamkaas.sliced_softmax %w: the two products have other batches or rows
func.func @repeated(%q: tensor<2x3x4xf32>, %kt: tensor<2x4x9xf32>, %v: tensor<6x9x4xf32>, %n: tensor<1xi64>) -> tensor<6x1x4xf32> {
  %0 = hamkaas.matmul %q, %kt : (tensor<2x3x4xf32>, tensor<2x4x9xf32>) -> tensor<2x3x9xf32>
  %w = hamkaas.sliced_softmax %0 prefix %n : (tensor<2x3x9xf32>, tensor<1xi64>) -> tensor<2x3x9xf32>
  %u = hamkaas.reshape %w : (tensor<2x3x9xf32>) -> tensor<6x1x9xf32>
  %1 = hamkaas.matmul %u, %v : (tensor<6x1x9xf32>, tensor<6x9x4xf32>) -> tensor<6x1x4xf32>
  func.return %1 : tensor<6x1x4xf32>
}

// -----

// Values have heads of another size than keys.
// MASKED: remark: {{.*}} @sizes: hamkaas.sliced_softmax %w: keys [1, 9, 4] of f32 and values [1, 9, 5] of f32 are not alike
func.func @sizes(%q: tensor<4xf32>, %kt: tensor<4x9xf32>, %v: tensor<9x5xf32>, %n: tensor<1xi64>) -> tensor<5xf32> {
  %0 = hamkaas.matmul %q, %kt : (tensor<4xf32>, tensor<4x9xf32>) -> tensor<9xf32>
  %w = hamkaas.sliced_softmax %0 prefix %n : (tensor<9xf32>, tensor<1xi64>) -> tensor<9xf32>
  %1 = hamkaas.matmul %w, %v : (tensor<9xf32>, tensor<9x5xf32>) -> tensor<5xf32>
  func.return %1 : tensor<5xf32>
}

// -----

// Scores that are rounded to f16 would not be any more.
// MASKED: remark: {{.*}} @rounded: hamkaas.sliced_softmax %w: it is not computed in f32
func.func @rounded(%q: tensor<4xf16>, %kt: tensor<4x9xf16>, %v: tensor<9x4xf16>, %n: tensor<1xi64>) -> tensor<4xf16> {
  %0 = hamkaas.matmul %q, %kt : (tensor<4xf16>, tensor<4x9xf16>) -> tensor<9xf16>
  %w = hamkaas.sliced_softmax %0 prefix %n : (tensor<9xf16>, tensor<1xi64>) -> tensor<9xf16>
  %1 = hamkaas.matmul %w, %v : (tensor<9xf16>, tensor<9x4xf16>) -> tensor<4xf16>
  func.return %1 : tensor<4xf16>
}

// -----

// More positions than the schedule of the CPU takes.
// MASKED: remark: {{.*}} @long: hamkaas.sliced_softmax %w: 8193 positions or heads of 4 elements are more than the schedules take
func.func @long(%q: tensor<4xf32>, %kt: tensor<4x8193xf32>, %v: tensor<8193x4xf32>, %n: tensor<1xi64>) -> tensor<4xf32> {
  %0 = hamkaas.matmul %q, %kt : (tensor<4xf32>, tensor<4x8193xf32>) -> tensor<8193xf32>
  %w = hamkaas.sliced_softmax %0 prefix %n : (tensor<8193xf32>, tensor<1xi64>) -> tensor<8193xf32>
  %1 = hamkaas.matmul %w, %v : (tensor<8193xf32>, tensor<8193x4xf32>) -> tensor<4xf32>
  func.return %1 : tensor<4xf32>
}

// -----

// A product that no softmax feeds is none of our business, and no remark is made.
// MASKED-NOT: @plain{{.*}}:
// MASKED: func.func @plain
func.func @plain(%q: tensor<4xf32>, %w: tensor<4x4xf32>) -> tensor<4xf32> {
  %0 = hamkaas.matmul %q, %w : (tensor<4xf32>, tensor<4x4xf32>) -> tensor<4xf32>
  func.return %0 : tensor<4xf32>
}
