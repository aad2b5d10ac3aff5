// RUN: hamkaas-opt %s -p 'hamkaas-outline-groups,hamkaas-dedup-groups' --print-ir-after-change 2>&1 | filecheck %s --check-prefix=CHANGE
// RUN: hamkaas-opt %s -p 'hamkaas-outline-groups,hamkaas-dedup-groups' --print-ir-after-all 2>&1 | filecheck %s --check-prefix=ALL
// RUN: hamkaas-opt %s -p lower-to --print-ir-after-change 2>&1 | filecheck %s --check-prefix=LOWER
// RUN: hamkaas-opt --list-passes | filecheck %s --check-prefix=LIST

// One group has no equal: the second pass changes nothing.
// CHANGE: // IR after hamkaas-outline-groups
// CHANGE-NOT: // IR after hamkaas-dedup-groups
// ALL: // IR after hamkaas-outline-groups
// ALL: // IR after hamkaas-dedup-groups
// The passes inside of lower-to are shown as if they had been named; the graph is canonical already.
// LOWER-NOT: // IR after canonicalize
// LOWER: // IR after hamkaas-outline-groups
// LOWER: // IR after hamkaas-to-kernel
// LOWER: // IR after program-schedule
// LOWER-NOT: // IR after lower-to
// LIST: hamkaas-outline-groups {{ +}}Outline what is computed in one go
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %y = hamkaas.relu %x : (tensor<4xf32>) -> tensor<4xf32>
  func.return %y : tensor<4xf32>
}
