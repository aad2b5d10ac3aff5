// RUN: hamkaas-opt %s -t llvm | filecheck %s

// exp is defined once for each width that is used, whatever the number of uses.
// CHECK-COUNT-1: define internal <8 x float> @hamkaas.exp.v8f32(
// CHECK-NOT:     @hamkaas.exp.v8f32(<8 x float> %x)

kernel.func @vectors(%x: memref<64xf32>, %h: memref<64xbf16>, %y: memref<64xf32>)
    attributes {grid = 1 : i64, block = 1 : i64, inputs = 2 : i64, results = array<i64: 2>} {
  %c0 = arith.constant 0 : index
  %half = arith.constant 0.5 : f32
  %v = kernel.load %x[%c0] : memref<64xf32> -> vector<8xf32>

  // A broadcast constant is a constant.
  %halves = vector.broadcast %half : f32 to vector<8xf32>

  // Contraction is always allowed, everything else only where it is asked for.
  %a = arith.mulf %v, %halves : vector<8xf32>
  %b = arith.addf %a, %v fastmath<reassoc> : vector<8xf32>
  %c = arith.divf %b, %v : vector<8xf32>
  %d = math.fma %c, %b, %a : vector<8xf32>
  %e = math.exp %d : vector<8xf32>
  %f = math.exp %e : vector<8xf32>

  // bf16 is kept as its bits.
  %g = kernel.load %h[%c0] : memref<64xbf16> -> vector<8xbf16>
  %w = kernel.convert %g : vector<8xbf16> -> vector<8xf32>
  %m = arith.maximumf %f, %w : vector<8xf32>
  %sum = kernel.reduce add %m : vector<8xf32> -> f32
  %top = kernel.reduce max %m : vector<8xf32> -> f32
  %all = arith.addf %sum, %top : f32
  kernel.store %all, %y[%c0] : f32, memref<64xf32>
  kernel.return
}

// CHECK-LABEL: @vectors.body
// CHECK:         [[V:%.*]] = load <8 x float>
// CHECK-NEXT:    [[A:%.*]] = fmul <8 x float> [[V]], splat (float 0x3FE0000000000000)
// CHECK-NEXT:    [[B:%.*]] = fadd reassoc <8 x float> [[A]], [[V]]
// CHECK-NEXT:    [[C:%.*]] = fdiv <8 x float> [[B]], [[V]]
// CHECK-NEXT:    [[D:%.*]] = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> [[C]], <8 x float> [[B]], <8 x float> [[A]])
// CHECK-NEXT:    [[E:%.*]] = call <8 x float> @hamkaas.exp.v8f32(<8 x float> [[D]])
// CHECK-NEXT:    [[F:%.*]] = call <8 x float> @hamkaas.exp.v8f32(<8 x float> [[E]])
// CHECK:         [[G:%.*]] = load <8 x i16>, ptr {{.*}}, align 2
// CHECK-NEXT:    [[WIDE:%.*]] = zext <8 x i16> [[G]] to <8 x i32>
// CHECK-NEXT:    [[BITS:%.*]] = shl <8 x i32> [[WIDE]], splat (i32 16)
// CHECK-NEXT:    [[W:%.*]] = bitcast <8 x i32> [[BITS]] to <8 x float>
// CHECK-NEXT:    [[M:%.*]] = call <8 x float> @llvm.maximum.v8f32(<8 x float> [[F]], <8 x float> [[W]])
// CHECK-NEXT:    call reassoc float @llvm.vector.reduce.fadd.v8f32(float 0x8000000000000000, <8 x float> [[M]])
// CHECK-NEXT:    call float @llvm.vector.reduce.fmax.v8f32(<8 x float> [[M]])
